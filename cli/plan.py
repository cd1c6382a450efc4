"""``episodes plan STORE``: episode plans, one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli._options import episode_options
from cli._places import any_store
from cli._stores import each_series, joined, opened
from episodes.errors import ConfigError

if TYPE_CHECKING:
    from cli.episode_table import EpisodeTable
    from episodes.made import StorePlace
    from episodes.stream.series import SampledEpisodes


@click.command("plan")
@click.argument("store", type=any_store)
@episode_options(mix=True)
@click.option("--start", type=click.IntRange(0), default=0, show_default=True, help="Index of the first episode.")
@click.option("--count", type=click.IntRange(1), help="Number of episodes.  [default: 1; with --stats 1000]")
@click.option("--stats", is_flag=True, help="Print what the episodes look like instead of each of them.")
@click.option("--json", "as_json", is_flag=True, help="With --stats: one JSON object instead of text.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="With --stats: histograms as a picture, .png.")
@click.option("--overwrite", is_flag=True, help="Replace the picture if it exists.")
def command(
    store: StorePlace,
    start: int,
    count: int | None,
    stats: bool,
    as_json: bool,
    output: Path | None,
    overwrite: bool,
    **values: Any,
) -> None:
    """Print which rows make the episodes of STORE: index, classes, and the row numbers of every part.

    Plans read no sample. The same arguments print the same plans on every machine.
    """
    table, sources = sampled(store, values)
    if stats:
        if table.sources:
            raise ConfigError("stats: --stats describes one store; leave --mix out")
        describe(sources[store.stem], range(start, start + (count or 1000)), as_json, output, overwrite)
        return
    series = joined(table, sources)
    for index in range(start, start + (count or 1)):
        name = series.source(index) if table.sources else store.stem  # type: ignore[union-attr]  # a mixture then
        click.echo(json.dumps(described(sources[name], name, index), ensure_ascii=False))


def describe(series: SampledEpisodes, indices: range, as_json: bool, output: Path | None, overwrite: bool) -> None:
    """Print the statistics of these episodes, and draw them where asked."""
    from episodes import stats

    if output is not None and (output.suffix.lower() != ".png" or (output.exists() and not overwrite)):
        raise ConfigError(f"output: {output} must end with .png and not exist, or give --overwrite")
    if series.length is not None:
        indices = range(indices.start, min(indices.stop, series.length))
    values = stats.collect((series.plan(i) for i in indices), series.classes)
    notes = stats.notes(values, series)
    if as_json:
        click.echo(json.dumps({"episodes": len(indices), **stats.summary(values), "notes": notes}, ensure_ascii=False))
    else:
        click.echo("\n".join([stats.text(values), *(f"note: {note}" for note in notes)]))
    if output is not None:
        stats.picture(values).save(output)
        click.echo(output, err=True)


def sampled(store: StorePlace, values: dict[str, Any]) -> tuple[EpisodeTable, dict[str, SampledEpisodes]]:
    """What the episode options say, and the series of each source that they describe."""
    from cli.episode_flags import episode_table

    table = episode_table(values)
    return table, each_series(table, store, opened(store, table))


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
