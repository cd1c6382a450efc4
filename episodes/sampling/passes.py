"""Passes without replacement: within a pass every row is used at most once.

Source: Laenen and Bertinetto 2021, "On episodes, prototypical networks, and few-shot learning". While enough classes
have an episode's worth of unused rows, that many of them are drawn uniformly, and unused rows of each. A pass is a pure
function of (seed, pass); an episode is found by its pass and its place there, so going on anywhere costs the plans of the
passes before it, not their rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock

import numpy as np

from episodes.classes import ClassIndex, Int
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.plans import cut_plan
from episodes.rng import PASS, check_word
from episodes.sampling._engine import key_of, numbers
from episodes.spec import EpisodeSpec

_SLOT = 1 << 32


@dataclass(frozen=True, slots=True)
class Options:
    """This policy has no options."""


@dataclass(frozen=True, slots=True)
class PassSampler:
    """See the module's docstring. Plans are pure functions of (classes, spec, seed, index)."""

    name: str = "passes"
    version: int = 1
    _lengths: dict[tuple[ClassIndex, EpisodeSpec, int], list[int]] = field(
        default_factory=dict, compare=False, repr=False, init=False
    )
    """Episodes of the passes seen so far; only to find an index faster."""

    def __reduce__(self) -> tuple[type[PassSampler], tuple[()]]:
        return PassSampler, ()

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless a pass over `classes` has an episode."""
        if not spec.fixed or len(classes.front):
            raise SpecError("a pass without replacement needs fixed counts, no distractors and no labeled share")
        spec.require(classes)

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`; assumes that `require` passed."""
        number, place = self.where(classes, spec, seed, check_word("index", index))
        positions, taken = self._pass(classes, spec, seed, number)[place]
        key, size = key_of(classes, self.name, self.version, seed), spec.rows_per_class
        rows = []
        for position, used in zip(positions.tolist(), taken.tolist(), strict=True):
            num = int(classes.counts[position])
            order = numbers(key, PASS, _SLOT + position, number, num, used + size)
            rows.append(classes.rows(position)[order[used:]])
        return cut_plan(classes, spec, index, positions, rows)

    def where(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> tuple[int, int]:
        """Pass of an episode, and its place there."""
        with _LOCK:
            lengths = self._lengths.setdefault((classes, spec, seed), [])
        number = 0
        while True:
            if number == len(lengths):
                length = len(self._pass(classes, spec, seed, number))
                with _LOCK:
                    if number == len(lengths):
                        lengths.append(length)
            if index < lengths[number]:
                return number, index
            index -= lengths[number]
            number += 1

    def _pass(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, number: int) -> list[tuple[Int, Int]]:
        return _planned(key_of(classes, self.name, self.version, seed), classes, spec, number)


_LOCK = Lock()


@lru_cache(maxsize=8)
def _planned(
    key: tuple[np.uint64, np.uint64], classes: ClassIndex, spec: EpisodeSpec, number: int
) -> list[tuple[Int, Int]]:
    """Classes of each episode of a pass, and how many rows of each were used before it."""
    ways, size = spec.ways.low, spec.rows_per_class
    left = classes.counts // size
    used = np.zeros(len(classes), np.int64)
    found: list[tuple[Int, Int]] = []
    while len(open_ := np.flatnonzero(left > 0)) >= ways:
        positions = open_[numbers(key, PASS, len(found), number, len(open_), ways)]
        found.append((positions, used[positions]))
        left[positions] -= 1
        used[positions] += size
    return found


def make(options: Options) -> PassSampler:
    """The sampler."""
    del options
    return PassSampler()
