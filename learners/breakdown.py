"""Breakdown: a score by class, by shots, and against whatever the episodes differ in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from episodes.classes import TURNS
from episodes.stream.mixture import MixedEpisodes
from episodes.stream.series import SampledEpisodes
from learners.intervals import Float, mean_and_interval
from learners.origin import Episodes
from learners.records import Records

VALUES, QUANTILES = 12, 6  # up to so many values of a measurement stand by themselves, more are binned


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Queries of one kind together: a class, or a number of shots."""

    score: float
    """Mean of the report's metric."""
    queries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Episodes whose measurement lies in low..high, both included."""

    low: float
    high: float
    episodes: int
    mean: float
    interval95: float
    """Half width, as of the report; infinite for a single episode."""


def normalised(accuracy: Float, ways: Float) -> Float | None:
    """[E] accuracy above chance as a fraction of what is above chance, (a - 1/W) / (1 - 1/W); None where W is 1."""
    if (ways < 2).any():
        return None
    return (accuracy - 1 / ways) / (1 - 1 / ways)


def by_shots(records: Records) -> dict[int, Share]:
    """Shots of a query's class -> mean score of such queries."""
    values, place = np.unique(records.shots, return_inverse=True)
    return dict(zip(values.tolist(), _shares(place, records.score), strict=True))


def by_class(records: Records, series: Episodes) -> dict[str, Share]:
    """Name -> mean score of the class's queries, in order of the names; of a mixture names begin with the source's."""
    owner = [series.source(index) for index in records.index.tolist()] if isinstance(series, MixedEpisodes) else None
    sources = sorted(set(owner)) if owner is not None else [""]
    key = records.class_id.astype(np.int64) * TURNS + records.turn
    if owner is not None:
        key = key * len(sources) + np.array([sources.index(one) for one in owner])[records.episode]
    _, first, place = np.unique(key, return_index=True, return_inverse=True)
    episode = records.episode
    found = {}
    for query, share in zip(first.tolist(), _shares(place, records.score), strict=True):
        index = int(records.index[episode[query]])
        name = _name(series, index, records, query)
        found[f"{owner[episode[query]]}: {name}" if owner is not None else name] = share
    return dict(sorted(found.items()))


def _name(series: Episodes, index: int, records: Records, query: int) -> str:
    """Name of a query's class."""
    one = series.sources[series.source(index)] if isinstance(series, MixedEpisodes) else series
    if isinstance(one, SampledEpisodes):
        return one.name_of(int(records.class_id[query]), int(records.turn[query]))
    return one.class_names(index)[int(records.label[query])]


def _shares(place: NDArray[Any], scores: NDArray[Any]) -> list[Share]:
    """The queries at each place 0..n-1, of which each has some, together."""
    queries = np.bincount(place)
    means = np.bincount(place, scores) / queries
    return [Share(score=mean, queries=num) for mean, num in zip(means.tolist(), queries.tolist(), strict=True)]


def against(scores: Float, described: Mapping[str, Float]) -> dict[str, list[Slice]]:
    """For each measurement that differs between episodes: the mean score by its value, or by sixths of the episodes.

    Args:
        scores: [E].
        described: name -> [E].
    """
    return {name: slices(scores, values) for name, values in described.items() if len(np.unique(values)) > 1}


def slices(scores: Float, values: Float) -> list[Slice]:
    """Episodes by value; where there are more than 12, by quantile, equal values always together."""
    distinct = np.unique(values)
    if len(distinct) > VALUES:
        edges = np.unique(np.quantile(values, np.arange(1, QUANTILES) / QUANTILES, method="inverted_cdf"))
        place = np.searchsorted(edges, values, side="left")
    else:
        place = np.searchsorted(distinct, values)
    found = []
    for one in np.unique(place):
        chosen = place == one
        mean, interval = mean_and_interval(scores[chosen])
        low, high = float(values[chosen].min()), float(values[chosen].max())
        found.append(Slice(low=low, high=high, episodes=int(chosen.sum()), mean=mean, interval95=interval))
    return found
