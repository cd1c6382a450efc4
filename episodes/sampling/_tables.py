"""A spec's counts as arrays for the kernels, compiled once per spec."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from episodes.classes import Int
from episodes.count import Count
from episodes.sampling import _kernels as kernel
from episodes.spec import COUNTS, EpisodeSpec

_CODES = {
    "range": kernel.RANGE,
    "weights": kernel.WEIGHTS,
    "all": kernel.ALL,
    "total": kernel.TOTAL,
    "variable": kernel.VARIABLE,
}


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """``forms`` [7, 6]: kind, low, high, offset, length, flags of each count; the others are what they point into."""

    forms: Int
    values: Int
    thresholds: NDArray[np.uint64]
    """Of weights: the word below which a value is drawn, in order of the values."""


@lru_cache(maxsize=256)
def tables(spec: EpisodeSpec, most_ways: int) -> Tables:
    """The arrays of `spec` where an episode has `most_ways` classes at most."""
    forms = np.zeros((len(COUNTS), 6), np.int64)
    values: list[int] = []
    thresholds: list[int] = []
    least_ways = max(1, spec.ways.low)
    for row, name in enumerate(COUNTS):
        count: Count = getattr(spec, name)
        flags = kernel.PER_CLASS * count.per_class | kernel.PERMUTED * count.permuted
        code, offset, length = _CODES.get(count.kind, kernel.DEALT), len(values), 0
        if count.kind == "weights":
            length = len(count.values)
            values += count.values
            thresholds += _thresholds(count)
        elif count.kind == "total":
            values.append(int(count.weights[0]))
        elif count.dealt:
            length = least_ways  # of the first list
            for ways in range(least_ways, max(least_ways, most_ways) + 1):
                values += count.of_ways(ways)
        thresholds += [0] * (len(values) - len(thresholds))
        forms[row] = code, count.low, count.high, offset, length, flags
    return Tables(forms, np.array(values, np.int64), np.array(thresholds, np.uint64))


def _thresholds(count: Count) -> list[int]:
    """Exact cumulative shares of 2**64, so that no floating-point sum decides a draw."""
    weights = [Fraction(weight) for weight in count.weights]
    total, running, cuts = sum(weights), Fraction(0), []
    for weight in weights:
        running += weight
        cuts.append(min(2**64 - 1, int(running / total * 2**64)))
    return cuts
