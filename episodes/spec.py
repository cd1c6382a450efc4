"""EpisodeSpec: how large an episode is, checked against the classes it will be drawn from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from episodes.classes import ClassIndex
from episodes.errors import SpecError


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeSpec:
    """Sizes of an episode: `ways` classes, and for each of them `shots`, `queries` and `unlabeled` rows.

    Raises:
        SpecError: a count is not an integer or is negative, ways is 0, or shots and queries are both 0.
    """

    ways: int
    """Classes of an episode."""
    shots: int
    """Support rows per class; 0 is zero-shot, for methods that learn from class fields."""
    queries: int
    """Query rows per class; 0 is a support-only episode."""
    unlabeled: int = 0
    """Rows per class whose label is hidden from the learner."""

    def __post_init__(self) -> None:
        for f in fields(self):
            _check_count(f.name, getattr(self, f.name), low=1 if f.name == "ways" else 0)
        if self.shots + self.queries == 0:
            raise SpecError("shots and queries are both 0; an episode needs rows of at least one kind")

    @property
    def rows_per_class(self) -> int:
        """Rows that one class gives to an episode."""
        return self.shots + self.queries + self.unlabeled

    def require(self, classes: ClassIndex) -> None:
        """Check that every episode of this spec can be drawn from `classes`, before the first one is.

        Raises:
            SpecError: too few classes, or a class with too few rows; the first such class is named.
        """
        if self.ways > len(classes):
            raise SpecError(
                f"ways={self.ways} needs {self.ways} classes; split '{classes.split}' has {len(classes)} (lower ways)"
            )
        short = np.flatnonzero(classes.counts < self.rows_per_class)
        if len(short):
            first, others = int(short[0]), len(short) - 1
            more = f", and {others} more class{'es' if others > 1 else ''}" if others else ""
            parts = "shots + queries" + (" + unlabeled" if self.unlabeled else "")
            raise SpecError(
                f"class '{classes.name(first)}' has {classes.counts[first]} rows{more}; {parts} needs "
                f"{self.rows_per_class} (lower queries or shots, or leave small classes out of the split)"
            )


def _check_count(name: str, value: Any, *, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise SpecError(f"{name}={value!r} is not a whole number; {name} counts classes or rows, {low} or more")
    if value < low:
        raise SpecError(f"{name}={value} is too small; it must be {low} or more")
