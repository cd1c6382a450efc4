"""``episodes inspect STORE``: what is in a store, and whether it is whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from cli._places import any_store
from cli._progress import bar
from cli.ingest import summary
from episodes.config import to_table
from episodes.errors import ConfigError

if TYPE_CHECKING:
    from episodes.made import StorePlace
    from episodes.store.made import MadeStore


@click.command("inspect")
@click.argument("store", type=any_store)
@click.option("--verify", is_flag=True, help="Read every byte and compare it with the hashes.")
@click.option("--warm", is_flag=True, help="Read the store into memory (the page cache), as far as it fits.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def command(store: StorePlace, verify: bool, warm: bool, as_json: bool) -> None:
    """Show what is in STORE: classes, groups, splits, fields, skipped samples, fingerprint."""
    import episodes
    from episodes.made import Made

    if isinstance(store, Made):
        if verify or warm:
            raise ConfigError(f"store: {store} is made on demand; it has no bytes to --verify or --warm, leave these out")
        about = _made(episodes.open(store))
        click.echo(json.dumps(about) if as_json else _text(str(store), about))
        return
    opened = episodes.open(store)
    if verify:
        with bar("verify", "MiB") as progress:
            opened.verify(_in_mib(progress))
    warmed = 0
    if warm:
        with bar("warm", "MiB") as progress:
            warmed = opened.warm(_in_mib(progress))
    manifest, table = opened.manifest, opened.table
    size = sum(shard.size for shard in manifest.shards)
    if not as_json:
        click.echo(summary(store))
        for one in manifest.skipped:
            click.echo(f"  skipped {one.class_name}/{one.key}: {one.reason}")
        if verify:
            click.echo("  verified: every shard has the hash it was written with")
        if warm:
            click.echo(_warmed(warmed, size))
        return
    about = {
        "classes": len(table.names),
        "samples": opened.num_rows,
        "groups": len(table.group_names),
        "fields": {name: {"dtype": f.dtype, "shape": list(f.shape)} for name, f in opened.fields.items()},
        "class_fields": {name: {"dtype": str(v.dtype), "shape": v.shape[1:]} for name, v in opened.class_fields.items()},
        "encodings": {name: {"codec": e.codec, "quality": e.quality} for name, e in manifest.encodings.items()},
        "splits": {name: {split: len(ids) for split, ids in parts.items()} for name, parts in table.splits.items()},
        "shards": len(manifest.shards),
        "bytes": size,
        "reader": dict(manifest.reader),
        "skipped": [{"class": s.class_name, "key": s.key, "reason": s.reason} for s in manifest.skipped],
        "fingerprint": manifest.fingerprint,
        "verified": verify,
        "warmed": warmed,
    }
    click.echo(json.dumps(about, ensure_ascii=False))


def _made(store: MadeStore) -> dict[str, Any]:
    """What there is to say of a data set made on demand."""
    return {
        "classes": store.num_classes,
        "samples": store.num_rows,
        "fields": {name: {"dtype": f.dtype, "shape": list(f.shape)} for name, f in store.fields.items()},
        "class_fields": {name: {"dtype": str(v.dtype), "shape": v.shape[1:]} for name, v in store.class_fields.items()},
        "splits": {store.maker.name: dict(store.maker.splits)},
        "options": to_table(store.maker.options),
        "fingerprint": store.fingerprint,
    }


def _text(name: str, about: dict[str, Any]) -> str:
    """The same in a few lines."""
    kinds = [(f"field {n}", f) for n, f in about["fields"].items()]
    kinds += [(f"class field {n}", f) for n, f in about["class_fields"].items()]
    return "\n".join(
        [
            f"{name}: {about['classes']:,} classes, {about['samples']:,} samples, made on demand",
            *(f"  {kind}: {f['dtype']} {'x'.join(map(str, f['shape']))}".rstrip() for kind, f in kinds),
            *(f"  splits {n}: {' / '.join(f'{s} {c}' for s, c in parts.items())}" for n, parts in about["splits"].items()),
            f"  options: {', '.join(f'{n}={value}' for n, value in about['options'].items())}",
            f"  fingerprint {about['fingerprint']}",
        ]
    )


def _in_mib(progress: Callable[..., None]) -> Callable[[int, int], None]:
    return lambda done, total: progress(done / 2**20, total / 2**20)


def _warmed(warmed: int, size: int) -> str:
    if warmed == size:
        return f"  warmed: all {size / 2**20:,.1f} MiB are in the page cache"
    return (
        f"  warmed: {warmed / 2**20:,.1f} of {size / 2**20:,.1f} MiB, all that memory has room for; the rest stays on disk"
    )
