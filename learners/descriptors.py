"""Descriptors: measurements of an episode, kept beside its accuracy so that later questions need no second evaluation.

=============== ===================================================================================================
ways            classes
support         support rows
shots           mean support rows of a class
imbalance       largest by smallest shots of a class, of the classes that have any
unlabeled       rows without label
distractor_rows those of them that are of no class of the episode
open_queries    queries that are of no class of the episode
distractors     distractor classes (not of shards, which do not keep them)
novel           share of classes that meta-training does not see, where the split marks those it does
coarsity        mean squared distance of its classes, by the store's hierarchy or else by its groups (`episodes.distance`)
distance        mean over its classes of the distance to the nearest class of meta-training, by the same distance
=============== ===================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from episodes.classes import TURNS, ClassIndex, Int
from episodes.distance import Distances, distances
from episodes.episode import Episode
from episodes.errors import SpecError
from episodes.stream.mixture import MixedEpisodes
from episodes.stream.series import SampledEpisodes
from learners.origin import Episodes

Described = Mapping[str, NDArray[np.float64]]
Describe = Callable[[Sequence[int], Episode[NDArray[Any]]], Described]
MOST_CLASSES: Final = 2000  # a table of their distances has 32 MB


def describer(series: Episodes, trained_on: Collection[str] = ()) -> Describe:
    """A function (indices [B], B episodes ``[B, n, ...]``) -> name -> [B].

    Args:
        series: where the episodes are from.
        trained_on: names of the classes of meta-training.
    """
    if isinstance(series, MixedEpisodes):
        each = {name: describer(source, trained_on) for name, source in series.sources.items()}
        return lambda indices, episode: each[series.source(indices[0])](indices, episode)
    if not isinstance(series, SampledEpisodes):
        return lambda indices, episode: sizes(episode)
    measures = _measures(series, frozenset(trained_on))

    def describe(indices: Sequence[int], episode: Episode[NDArray[Any]]) -> Described:
        found = dict(sizes(episode))
        if series.spec.distractors.high:
            found["distractors"] = np.array([len(series.plan(index).distractor_ids) for index in indices], np.float64)
        numbers = episode.class_ids * TURNS + episode.variants
        # Rounded, for the order of a sum must not make two values of one.
        return found | {name: measure(numbers).round(9) for name, measure in measures.items()}

    return describe


def shots_of(episode: Episode[NDArray[Any]]) -> Int:
    """[B, W] support rows of each class, of episodes ``[B, n, ...]``."""
    num, ways = episode.class_ids.shape
    places = episode.support.labels + ways * np.arange(num)[:, None]
    counts: Int = np.bincount(places.ravel(), minlength=num * ways).reshape(num, ways)
    return counts


def sizes(episode: Episode[NDArray[Any]]) -> Described:
    """What an episode says of itself, [B] each."""
    (num, ways), shots = episode.class_ids.shape, shots_of(episode)
    least = np.where(shots > 0, shots, np.iinfo(np.int64).max).min(1)
    hidden = np.zeros((num, 0), np.int64) if episode.unlabeled is None else episode.unlabeled.labels
    found = {
        "ways": np.full(num, ways),
        "support": shots.sum(1),
        "shots": shots.mean(1),
        "imbalance": np.where(shots.any(1), shots.max(1) / least, 1.0),
        "unlabeled": np.full(num, hidden.shape[1]),
        "distractor_rows": (hidden < 0).sum(1),
        "open_queries": (episode.query.labels < 0).sum(1),
    }
    return {name: values.astype(np.float64) for name, values in found.items()}


def _measures(series: SampledEpisodes, trained_on: frozenset[str]) -> dict[str, Callable[[Int], NDArray[np.float64]]]:
    """What relations between classes say: name -> function of numbers ``class * 4 + turn``, [B, W]."""
    classes, found = series.classes, {}
    place = np.full((int(classes.ids.max()) + 1) * TURNS, -1, np.int64)
    place[classes.ids * TURNS + classes.variants] = np.arange(len(classes))
    if len(classes.seen) and classes.seen.any():
        new = (~classes.seen).astype(np.float64)
        found["novel"] = lambda numbers: new[place[numbers]].mean(1)
    if not classes.turned and (table := _table(classes)) is not None:
        squares = table**2

        def coarsity(numbers: Int) -> NDArray[np.float64]:
            positions, ways = place[numbers], numbers.shape[1]
            pairs = squares[positions[:, :, None], positions[:, None, :]]
            found: NDArray[np.float64] = pairs.sum((1, 2)) / max(1, ways * (ways - 1))
            return found

        found["coarsity"] = coarsity
    if (nearest := _nearest(series, trained_on)) is not None:
        found["distance"] = lambda numbers: nearest[numbers // TURNS].mean(1)
    return found


def _nearest(series: SampledEpisodes, trained_on: frozenset[str]) -> NDArray[np.float64] | None:
    """[classes of the store] distance to the nearest class of meta-training; None: not known."""
    every = series.store.split("all")
    known = [position for position, name in enumerate(every.names) if name in trained_on]
    if not known or (table := _table(every)) is None:
        return None
    nearest = np.zeros(int(every.ids.max()) + 1)
    nearest[every.ids] = table[:, known].min(1)
    return nearest


def _table(classes: ClassIndex) -> Distances | None:
    """[C, C] distances by hierarchy, else by groups; None: there is neither, or no room."""
    if len(classes) > MOST_CLASSES:
        return None
    try:
        return distances("lca_span" if classes.is_a else "groups", classes)
    except SpecError:  # no groups, or classes that stand outside the hierarchy
        return None
