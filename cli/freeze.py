"""``episodes freeze STORE -o list.jsonl``: episodes written down, for every model to be tested on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli._options import episode_options
from cli._places import any_store
from episodes.errors import ConfigError

if TYPE_CHECKING:
    from episodes.made import StorePlace
    from episodes.protocols import SampleStore
    from episodes.selection import Selection


@click.command("freeze")
@click.argument("store", type=any_store)
@episode_options()
@click.option("--count", type=click.IntRange(1), help="Number of episodes.  [default: 600, or all of a finite policy]")
@click.option("--runs", type=click.Path(path_type=Path), help="Omniglot's all_runs.zip: the 20 published one-shot runs.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="List to write, JSON lines.")
@click.option("--overwrite", is_flag=True, help="Replace the list if it exists.")
def command(store: StorePlace, count: int | None, runs: Path | None, output: Path, overwrite: bool, **values: Any) -> None:
    """Write episodes of STORE to a list and print its hash. The list says which classes it is over.

    \b
    episodes freeze omniglot.store --split vinyals/test --count 600 -o test.jsonl
    episodes evaluate run --sampler frozen -O path=test.jsonl
    """
    import episodes
    from cli.episode_flags import episode_table
    from episodes import frozen
    from episodes.made import Made
    from episodes.selection import Selection

    opened = episodes.open(store)
    if runs is not None:
        if isinstance(store, Made):
            raise ConfigError(f"runs: the published runs are of Omniglot, and {store} is made on demand; leave --runs out")
        from episodes.omniglot_runs import published_runs

        plans, seed, selection = published_runs(runs, episodes.open(store)), 0, Selection(split="lake/test")
    else:
        table = episode_table(values)
        series, selection = table.series(opened), table.selection()
        length = count or (600 if series.length is None else series.length)
        plans, seed = [series.plan(i) for i in range(length)], series.seed
    digest = frozen.write(
        output,
        plans,
        fingerprint=opened.fingerprint,
        seed=seed,
        source=store.stem,
        keys=opened.keys,
        selection=_in_full(selection, opened),
        overwrite=overwrite,
    )
    click.echo(f"{output}: {len(plans)} episodes, sha256 {digest}")


def _in_full(selection: Selection, store: SampleStore) -> Selection:
    """The selection with its splits by their full names: no reader needs to know the store's default list."""
    named = {name: split for name in ("split", "base", "overlap_with") if (split := getattr(selection, name)) is not None}
    in_full: dict[str, Any] = {name: store.split(split).split for name, split in named.items()}
    return replace(selection, **in_full)
