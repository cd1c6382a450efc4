"""Every set of classes once: episode i has the i-th combination of classes, in lexicographic order.

The index is unranked by the combinatorial number system, so any of the ``binomial(C, W)`` episodes is made alone. Labels
are dealt by key; rows are drawn by key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from episodes.classes import ClassIndex
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.rng import CLASSES, check_word
from episodes.sampling._engine import draw_given, key_of, numbers
from episodes.spec import EpisodeSpec


@dataclass(frozen=True, slots=True)
class Options:
    """This policy has no options."""


@dataclass(frozen=True, slots=True)
class CombinationsSampler:
    """See the module's docstring. Plans are pure functions of (classes, spec, seed, index)."""

    name: str = "combinations"
    version: int = 1

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every episode of `spec` can be drawn from `classes`."""
        if not spec.ways.fixed:
            raise SpecError(f"ways={spec.ways}: sets of classes are counted for a fixed number of ways")
        spec.require(classes)

    def length(self, classes: ClassIndex, spec: EpisodeSpec) -> int:
        """binomial(C, W), and 2**64 at most: indices are words."""
        return min(2**64, math.comb(len(classes), spec.ways.low))

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`; assumes that `require` passed."""
        index, ways = check_word("index", index), spec.ways.low
        key = key_of(classes, self.name, self.version, seed)
        positions = np.array(combination(index, len(classes), ways), np.int64)
        return draw_given(key, classes, spec, index, positions[numbers(key, CLASSES, 0, index, ways, ways)])


def combination(index: int, n: int, k: int) -> list[int]:
    """The `index`-th k-subset of 0..n-1 in lexicographic order; exact for numbers of any size.

    Raises:
        SpecError: there are fewer.
    """
    if not 0 <= index < math.comb(n, k):
        raise SpecError(f"index {index} is beyond the {math.comb(n, k)} sets of {k} of {n}")
    found, first = [], 0
    while k:
        with_first = math.comb(n - first - 1, k - 1)
        if index < with_first:
            found.append(first)
            k -= 1
        else:
            index -= with_first
        first += 1
    return found


def make(options: Options) -> CombinationsSampler:
    """The sampler."""
    del options
    return CombinationsSampler()
