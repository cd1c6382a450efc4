"""``episodes plan STORE``: episode plans, one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli._options import episode_options, given

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
        click.echo(json.dumps(described(series, index), ensure_ascii=False))


def sampled(store: Path, values: dict[str, Any]) -> SampledEpisodes:
    """The series that the episode options describe."""
    import episodes

    chosen = {"split": "train", "ways": 5, "shots": 1, "queries": 15, "unlabeled": 0, **given(values)}
    spec = episodes.EpisodeSpec(**{name: chosen.pop(name) for name in ("ways", "shots", "queries", "unlabeled")})
    return episodes.sample(episodes.open(store), chosen.pop("split"), spec, **chosen)


def described(series: SampledEpisodes, index: int) -> dict[str, Any]:
    """A plan as plain values, with class names."""
    plan = series.plan(index)
    return {
        "index": index,
        "class_names": series.class_names(index),
        "class_ids": plan.class_ids.tolist(),
        "turns": plan.variants.tolist(),
        "support": plan.support.tolist(),
        "support_labels": plan.support_labels.tolist(),
        "query": plan.query.tolist(),
        "query_labels": plan.query_labels.tolist(),
        "unlabeled": plan.unlabeled.tolist(),
    }
