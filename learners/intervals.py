"""Intervals: how far a mean may be from what more episodes, or more training runs, would give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Z: Final = 1.96
Float = NDArray[np.float64]


def mean_and_interval(values: Float) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval: 1.96 · sd / √n with ddof 1; infinite for a single value."""
    if len(values) < 2:
        return float(values.mean()), math.inf
    with np.errstate(invalid="ignore"):  # of an error that is infinite the interval is no number
        return float(values.mean()), float(Z * values.std(ddof=1) / np.sqrt(len(values)))


def mean_over_runs(means: Sequence[float]) -> tuple[float, float]:
    """As `mean_and_interval` of a few values: Student's t with n - 1 degrees of freedom in place of 1.96."""
    values = np.array(means, np.float64)
    if len(values) < 2:
        return float(values.mean()), math.inf
    return float(values.mean()), float(students_t(len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


@lru_cache
def students_t(df: int, level: float = 0.95) -> float:
    """The t that a Student variable of `df` degrees of freedom stays within, on either side, with probability `level`."""
    low, high = 0.0, 1.0
    while _within(high, df) < level:
        high *= 2
    for _ in range(100):  # halved to the last digit
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, df) < level else (low, middle)
    return high


def _within(t: float, df: int) -> float:
    """P(|T| <= t): Abramowitz and Stegun 1964, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(df))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    term, total = (math.cos(angle), 0.0) if df % 2 else (1.0, 0.0)
    for k in range(2 + df % 2, df + 1, 2):
        total += term
        term *= square * (k - 1) / k
    return 2 / math.pi * (angle + sine * total) if df % 2 else sine * total
