"""``episodes compile STORE -o SHARDS``: episodes written down as WebDataset tar shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli._engines import engine_of, engine_options
from cli._options import episode_options
from cli._places import any_store, made, path_or_url
from cli._progress import bar
from episodes.config import to_table
from episodes.errors import ConfigError

if TYPE_CHECKING:
    from cli.episode_table import EpisodeTable
    from episodes.engines import Run
    from episodes.made import StorePlace
    from episodes.remote.place import Place
    from episodes.shards.manifest import ShardManifest
    from episodes.shards.work import CompileWork
    from episodes.stream.series import SampledEpisodes

EPISODES = 600  # of a set, where nothing else is said: the usual number of an evaluation


@click.command("compile")
@click.argument("store", type=any_store)
@episode_options()
@click.option("--count", type=click.IntRange(1), help="Number of episodes.  [default: 600, or all of a finite policy]")
@click.option(
    "--payload",
    type=click.Choice(["arrays", "images", "rows"]),
    default="arrays",
    show_default=True,
    help="Values as arrays; stored pictures as files; or row numbers, for readers that have the store.",
)
@click.option("--shard-mb", type=click.IntRange(1), default=64, show_default=True, help="About how large a shard is, MiB.")
@click.option("--workers", type=click.IntRange(1), help="Shards made at a time.  [default: 1; on a cluster, one a core]")
@engine_options()
@click.option(
    "--shards",
    metavar="A..B|I/N",
    help="Make these shards only: 3..7, or part I of N parts, counted from 0; `--finish` joins what was made apart.",
)
@click.option("--finish", is_flag=True, help="Join the shards that `--shards` made.")
@click.option("-o", "--output", type=path_or_url, required=True, help="Folder to make, or its url.")
@click.option("--overwrite", is_flag=True, help="Replace what is there, or start an unfinished compile over.")
@click.option("--resume", is_flag=True, help="Go on with an unfinished compile.")
def command(
    store: StorePlace,
    count: int | None,
    payload: Any,
    shard_mb: int,
    workers: int | None,
    engine: str,
    address: str | None,
    shards: str | None,
    finish: bool,
    output: Place,
    overwrite: bool,
    resume: bool,
    **values: Any,
) -> None:
    """Write episodes of STORE as tar shards that any program reads, and print the hash of the set.

    The same command writes the same bytes on every machine. `episodes.open_shards` reads them back.

    \b
    episodes compile omniglot.store --split vinyals/test --count 10000 -o test.shards --workers 2
    """
    from episodes.shards.compile import finish_shards
    from episodes.shards.work import CompileWork

    if finish and shards is not None:
        raise ConfigError("finish: --finish joins all shards; leave --shards out")
    table, series = one_series(store, values)
    recipe = to_table(table) | series.spec.to_table()  # counts as they are, not as a later version has them by default
    count = count or (EPISODES if series.length is None else series.length)
    size = shard_mb << 20
    if finish:
        manifest = finish_shards(series, _shared(output), count, payload=payload, shard_bytes=size, recipe=recipe)
    else:
        work = CompileWork(series=series, count=count, payload=payload, shard_bytes=size, recipe=recipe)
        run = engine_of(engine, address)
        compiled = _compiled(work, output, shards, run, workers, overwrite=overwrite, resume=resume)
        if compiled is None:
            click.echo(f"{output}.partial: shards {shards} made; join all of them with --finish", err=True)
            return
        manifest = compiled
    total = sum(shard.size for shard in manifest.shards)
    click.echo(f"{output}: {manifest.count} episodes, {len(manifest.shards)} shards, {total / 2**20:,.1f} MiB")
    click.echo(f"  content {manifest.content}")


def _compiled(
    work: CompileWork,
    output: Place,
    shards: str | None,
    run: Run | None,
    workers: int | None,
    *,
    overwrite: bool,
    resume: bool,
) -> ShardManifest | None:
    """All shards, or those that `shards` names: then there is no manifest yet."""
    from episodes.engines import local
    from episodes.shards.compile import compile_shards

    if shards is not None:
        _shared(output)
    only = None if shards is None else _numbers(shards, work.num_shards)
    with made(output, overwrite=overwrite, resume=resume) as folder, bar("compile", "episodes") as progress:
        return compile_shards(
            work.series,
            folder,
            work.count,
            payload=work.payload,
            shard_bytes=work.shard_bytes,
            recipe=work.recipe,
            workers=workers,
            engine=run or local.run,
            only=only,
            overwrite=overwrite,
            resume=resume,
            progress=progress,
        )


def one_series(store: StorePlace, values: dict[str, Any]) -> tuple[EpisodeTable, SampledEpisodes]:
    """What the episode options say, and the series of one store that they describe."""
    import episodes
    from cli.episode_flags import episode_table

    table = episode_table(values)
    if table.sources:
        raise ConfigError("sources: episodes of one store are written; leave further stores out, or compile each")
    return table, table.series(episodes.open(store))


def _shared(output: Place) -> Path:
    """A folder that several makers can see."""
    if not isinstance(output, Path):
        raise ConfigError("output: shards made apart are joined in a folder; give a path, and upload with `episodes copy`")
    return output


def _numbers(text: str, num_shards: int) -> range:
    """``3..7``, ``3``, or ``1/4``, the second quarter of all, as numbers."""
    try:
        if "/" in text:
            part, parts = map(int, text.split("/"))
            if not 0 <= part < parts:
                raise ConfigError(f"shards: the parts of {parts} are 0..{parts - 1}, got '{text}'")
            return range(part * num_shards // parts, (part + 1) * num_shards // parts)
        first, _, last = text.partition("..")
        return range(int(first), int(last or first) + 1)
    except ValueError:
        raise ConfigError(f"shards: expected numbers as 3..7 or 3, or a part as 0/8, got '{text}'") from None
