"""``episodes inspect STORE``: what is in a store, and whether it is whole."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cli._progress import bar
from cli.ingest import summary


@click.command("inspect")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Read every byte and compare it with the hashes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def command(store: Path, verify: bool, as_json: bool) -> None:
    """Show what is in STORE: classes, groups, splits, fields, skipped samples, fingerprint."""
    import episodes

    opened = episodes.open(store)
    if verify:
        with bar("verify", "bytes") as progress:
            opened.verify(progress)
    manifest, table = opened.manifest, opened.table
    if not as_json:
        click.echo(summary(store))
        for one in manifest.skipped:
            click.echo(f"  skipped {one.class_name}/{one.key}: {one.reason}")
        if verify:
            click.echo("  verified: every shard has the hash it was written with")
        return
    about = {
        "classes": len(table.names),
        "samples": opened.num_rows,
        "groups": len(table.group_names),
        "fields": {name: {"dtype": f.dtype, "shape": list(f.shape)} for name, f in opened.fields.items()},
        "splits": {name: {split: len(ids) for split, ids in parts.items()} for name, parts in table.splits.items()},
        "shards": len(manifest.shards),
        "bytes": sum(shard.size for shard in manifest.shards),
        "reader": dict(manifest.reader),
        "skipped": [{"class": s.class_name, "key": s.key, "reason": s.reason} for s in manifest.skipped],
        "fingerprint": manifest.fingerprint,
        "verified": verify,
    }
    click.echo(json.dumps(about, ensure_ascii=False))
