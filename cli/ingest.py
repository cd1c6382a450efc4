"""``episodes ingest READER SOURCE STORE``: raw data -> store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli._engines import ADDRESS, ENGINE, LOCAL, engine_of
from cli._options import PluginGroup, build, from_dataclass, paragraphs
from cli._places import made, path_or_url
from cli._progress import bar
from episodes import plugins

if TYPE_CHECKING:
    from episodes.remote.place import Place
    from episodes.store.manifest import Manifest

COMMON = (
    click.Option(
        ["--encoding"],
        type=click.Choice(["raw", "jpeg"]),
        default="raw",
        show_default=True,
        help="How images are kept; jpeg keeps fitting JPEGs untouched and encodes the others again.",
    ),
    click.Option(
        ["--quality"],
        type=click.IntRange(1, 100),
        default=95,
        show_default=True,
        help="Of images that are encoded, with --encoding jpeg.",
    ),
    click.Option(["--shard-mb"], type=click.IntRange(1), default=16, show_default=True, help="Size of a shard, MiB."),
    click.Option(
        ["--workers"],
        type=click.IntRange(1),
        help="Decoding threads; on a cluster, shards made at a time.  [default: one a core]",
    ),
    ENGINE,
    ADDRESS,
    click.Option(["--hierarchy"], type=click.Path(path_type=Path), help="Is-a pairs: parent,child or data.noun."),
    click.Option(["--skip-broken"], is_flag=True, help="Leave out what cannot be decoded; the manifest records it."),
    click.Option(
        ["--duplicates"],
        type=click.Choice(["warn", "error"]),
        default="warn",
        show_default=True,
        help="Equal samples in two classes; in two splits they are always refused.",
    ),
    click.Option(["--overwrite"], is_flag=True, help="Replace STORE, or start an unfinished ingest over."),
    click.Option(["--resume"], is_flag=True, help="Go on with an unfinished ingest."),
)


def _command(name: str) -> click.Command:
    module = plugins.find(plugins.READERS, name)
    store = click.Argument(["store"], type=path_or_url)
    source = click.Argument(["source"], type=click.Path(path_type=Path))
    arguments = [store] if module.SOURCE is None else [source, store]
    about = module.__doc__ or ""
    source_help = "" if module.SOURCE is None else f"\n\nSOURCE: {module.SOURCE}."
    return click.Command(
        name,
        params=[*arguments, *from_dataclass(module.Options), *COMMON],
        callback=lambda **values: run(name, values),
        help=paragraphs(about) + source_help,
        short_help=about.partition("\n")[0],
    )


command = PluginGroup(
    "ingest",
    kind=plugins.READERS,
    command=_command,
    help="Make a store of raw data: class-indexed shards that are read by memory-mapping.\n\n"
    "`episodes ingest READER --help` tells what a reader takes.",
    subcommand_metavar="READER SOURCE STORE [OPTIONS]",
)


def run(name: str, values: dict[str, Any]) -> None:
    """Ingest with reader `name`; `values` are the command's parameters."""
    from episodes.graph import read_is_a
    from episodes.ingest import ingest

    module = plugins.find(plugins.READERS, name)
    options = build(module.Options, values)
    is_a = read_is_a(values["hierarchy"]) if values.get("hierarchy") else ()
    out, overwrite, resume = values["store"], values["overwrite"], values["resume"]
    with made(out, overwrite=overwrite, resume=resume) as folder, bar("ingest", "samples") as progress:
        manifest = ingest(
            module.make(values.get("source"), options),
            folder,
            options=options,
            is_a=is_a,
            encoding=values.get("encoding", "raw"),
            quality=values.get("quality", 95),
            shard_bytes=values["shard_mb"] << 20,
            workers=values["workers"],
            engine=engine_of(values.get("engine", LOCAL), values.get("address")),
            skip_broken=values["skip_broken"],
            duplicates=values.get("duplicates", "warn"),
            overwrite=overwrite,
            resume=resume,
            progress=progress,
        )
    click.echo(summary(out))
    if manifest.skipped:
        click.echo(f"skipped {len(manifest.skipped)} broken samples; `episodes inspect {out}` lists them", err=True)


def summary(store: Place) -> str:
    """What a store holds, in a few lines."""
    import episodes

    opened = episodes.open(store)
    table, manifest = opened.table, opened.manifest
    smallest = min(range(len(table.names)), key=lambda c: table.counts[c])
    lines = [
        f"{store}: {len(table.names):,} classes, {opened.num_rows:,} samples, {len(table.group_names)} groups",
        *(f"  field {n}: {f.dtype} {'x'.join(map(str, f.shape))}{_kept(manifest, n)}" for n, f in opened.fields.items()),
        *(f"  class field {n}: {v.dtype} {'x'.join(map(str, v.shape[1:]))}" for n, v in opened.class_fields.items()),
        *(f"  splits {name}: {_sizes(parts)}" for name, parts in table.splits.items()),
        f"  smallest class: {table.names[smallest]} ({table.counts[smallest]} rows)",
        f"  {len(manifest.shards)} shards, {sum(s.size for s in manifest.shards) / 2**20:,.1f} MiB",
        f"  fingerprint {manifest.fingerprint}",
    ]
    return "\n".join(lines)


def _kept(manifest: Manifest, name: str) -> str:
    encoding = manifest.encodings.get(name)
    return f", kept as {encoding.codec} (quality {encoding.quality} where encoded at ingest)" if encoding else ""


def _sizes(parts: Any) -> str:
    return " / ".join(f"{split} {len(ids)}" for split, ids in parts.items())
