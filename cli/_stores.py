"""The stores behind a table of episodes: the one that the command names, and those it is mixed with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from episodes.errors import ConfigError

if TYPE_CHECKING:
    from cli.episode_table import EpisodeTable
    from episodes.made import StorePlace
    from episodes.protocols import SampleStore
    from episodes.stream.mixture import MixedEpisodes
    from episodes.stream.series import SampledEpisodes


def opened(store: StorePlace, *tables: EpisodeTable) -> dict[StorePlace, SampleStore]:
    """The store and every other that the tables name, each opened once."""
    import episodes

    paths = dict.fromkeys([store, *(source.place for table in tables for source in table.sources)])
    return {path: episodes.open(path) for path in paths}


def each_series(
    table: EpisodeTable, store: StorePlace, stores: Mapping[StorePlace, SampleStore]
) -> dict[str, SampledEpisodes]:
    """Name of a source -> its episodes; the store of the command first.

    Raises:
        ConfigError: two stores of one name.
        SpecError: fields of the sources differ.
    """
    paths = [store, *(source.place for source in table.sources)]
    if len({path.stem for path in paths}) < len(paths):
        raise ConfigError(f"mix: stores need different names; got {', '.join(map(str, paths))}")
    series = {store.stem: table.series(stores[store])}
    for source in table.sources:
        own = table if source.split is None else replace(table, split=source.split)
        series[source.place.stem] = own.series(stores[source.place])
    if table.sources:
        from episodes.stream.mixture import shared_fields

        shared_fields(series)
    return series


def joined(table: EpisodeTable, series: Mapping[str, SampledEpisodes]) -> SampledEpisodes | MixedEpisodes:
    """The series of `each_series` as one: itself, or the mixture of them."""
    from episodes.stream.mixture import MixedEpisodes

    if not table.sources:
        return next(iter(series.values()))
    weights = {source.place.stem: source.weight for source in table.sources}
    alike = set(weights.values()) == {1.0}
    own = {name: 1.0 for name in series if name not in weights}
    return MixedEpisodes(sources=series, weights={} if alike else own | weights, seed=table.seed, length=table.episodes)
