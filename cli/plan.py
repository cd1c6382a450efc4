"""``episodes plan STORE``: episode plans, one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli._options import episode_options

if TYPE_CHECKING:
    from episodes.stream.series import SampledEpisodes


@click.command("plan")
@click.argument("store", type=click.Path(path_type=Path))
@episode_options()
@click.option("--start", type=click.IntRange(0), default=0, show_default=True, help="Index of the first episode.")
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="Number of episodes.")
def command(store: Path, start: int, count: int, **values: Any) -> None:
    """Print which rows make the episodes of STORE: index, classes, and the row numbers of every part.

    Plans read no sample. The same arguments print the same plans on every machine.
    """
    series = sampled(store, values)
    for index in range(start, start + count):
        click.echo(json.dumps(described(series, store.stem, index), ensure_ascii=False))


def sampled(store: Path, values: dict[str, Any]) -> SampledEpisodes:
    """The series that the episode options describe."""
    import episodes
    from cli.recipe import episode_table

    return episode_table(values).series(episodes.open(store))


def described(series: SampledEpisodes, source: str, index: int) -> dict[str, Any]:
    """A plan as plain values, with class names."""
    plan = series.plan(index)
    return {
        "source": source,
        "index": index,
        "class_names": series.class_names(index),
        "class_ids": plan.class_ids.tolist(),
        "turns": plan.variants.tolist(),
        "shots": plan.counts(plan.support_labels),
        "queries": plan.counts(plan.query_labels),
        "support": plan.support.tolist(),
        "support_labels": plan.support_labels.tolist(),
        "query": plan.query.tolist(),
        "query_labels": plan.query_labels.tolist(),
        "unlabeled": plan.unlabeled.tolist(),
        "unlabeled_labels": plan.unlabeled_labels.tolist(),
        "distractor_ids": plan.distractor_ids.tolist(),
    }
