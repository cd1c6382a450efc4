"""Units: how the mean of a metric is written. Accuracies are fractions and shown in per cent, anything else as it is."""

from __future__ import annotations

import math
from typing import Final

ACCURACY: Final = "accuracy"
_DIGITS: Final = 8  # after the point at most


def text(metric: str, mean: float | None, half: float | None = None) -> str:
    """A mean and half the width of its interval: ``98.54 % ± 0.17``; of another metric to two digits of the interval,
    ``0.0312 ± 0.0021``. Without an interval ``98.54 %``, or four digits. None, which JSON has for it: no number."""
    mean = math.nan if mean is None else mean
    if metric == ACCURACY:
        return f"{100 * mean:.2f} %" + ("" if half is None else f" ± {100 * half:.2f}")
    if half is None or not math.isfinite(half) or half <= 0:
        return f"{mean:.4g}" + ("" if half is None else f" ± {half:.2g}")
    digits = min(_DIGITS, max(0, 1 - math.floor(math.log10(half))))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def difference(metric: str, mean: float, half: float) -> str:
    """A difference of two means, with its sign; of accuracies in percentage points."""
    if metric == ACCURACY:
        return f"{100 * mean:+.2f} ± {100 * half:.2f}"
    written = text(metric, mean, half)
    return written if written.startswith("-") else f"+{written}"


def axis(metric: str) -> tuple[float, str]:
    """(factor, label) of an axis in a picture."""
    return (100.0, f"{metric}, %") if metric == ACCURACY else (1.0, metric)
