"""``episodes stream STORE``: episodes to standard output, as a tar stream for any program that reads a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from cli._options import episode_options
from cli._places import any_store
from cli.compile import one_series
from episodes.errors import ConfigError

if TYPE_CHECKING:
    from episodes.made import StorePlace


@click.command("stream")
@click.argument("store", type=any_store)
@episode_options()
@click.option("--start", type=click.IntRange(0), default=0, show_default=True, help="Index of the first episode.")
@click.option("--count", type=click.IntRange(1), help="Number of episodes.  [default: without end]")
@click.option("--payload", type=click.Choice(["arrays", "images", "rows"]), default="arrays", show_default=True,
              help="As of `episodes compile`.")  # fmt: skip
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Threads that run ahead.")
def command(store: StorePlace, start: int, count: int | None, payload: Any, workers: int, **values: Any) -> None:
    """Write episodes of STORE to standard output, as the tar of `episodes compile`, without end or --count of them.

    A reader that closes the pipe ends it.

    \b
    episodes stream omniglot.store --count 3 | tar -t
    episodes stream omniglot.store | python train.py
    """
    from episodes.shards.compile import write_stream

    if sys.stdout.isatty():
        raise ConfigError("output: a terminal cannot show a tar stream; write it to a pipe or a file")
    _, series = one_series(store, values)
    try:
        write_stream(series, sys.stdout.buffer, start=start, count=count, payload=payload, workers=workers)
    except BrokenPipeError:
        sys.stdout = open("/dev/null", "w", encoding="utf-8")  # noqa: SIM115, PTH123 - so that its closing fails no more
