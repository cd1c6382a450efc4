"""EpisodeSpec: how large an episode is, checked against the classes it will be drawn from."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from episodes.classes import ClassIndex, Int
from episodes.count import Count, CountLike
from episodes.errors import SpecError

Relation = Literal["any", "same", "other"]


@dataclass(frozen=True, slots=True, init=False)
class EpisodeSpec:
    """Sizes of an episode; every count may be a number, a range, a distribution or a list (see `episodes.count.Count`).

    Raises:
        SpecError: a count that is none, ways that may be 0, no row in support and query, a list whose length is not the
            ways, distractors without rows of theirs.
    """

    ways: Count
    """Classes of an episode."""
    shots: Count
    """Support rows per class; 0 is zero-shot, for methods that learn from class fields."""
    queries: Count
    """Query rows per class; 0 is a support-only episode."""
    unlabeled: Count
    """Rows per class whose label is hidden from the learner."""
    distractors: Count
    """Classes that appear only as rows without label."""
    distractor_rows: Count
    """Unlabeled rows of each distractor class; as `unlabeled` unless given (of a list its largest)."""
    distractor_queries: Count
    """Query rows of each distractor class, with label -1: open-set episodes."""
    distractor_groups: Relation
    """Which classes may distract: any; those of the episode's groups (hard); those of other groups (easy)."""
    fixed: bool = field(init=False, compare=False, repr=False)
    """Every episode has the same size, with the same counts for each class, and no distractors."""
    _hash: int = field(init=False, compare=False, repr=False)

    def __init__(
        self,
        *,
        ways: CountLike,
        shots: CountLike,
        queries: CountLike,
        unlabeled: CountLike = 0,
        distractors: CountLike = 0,
        distractor_rows: CountLike | None = None,
        distractor_queries: CountLike = 0,
        distractor_groups: Relation = "any",
    ) -> None:
        given: dict[str, CountLike] = {
            "ways": ways,
            "shots": shots,
            "queries": queries,
            "unlabeled": unlabeled,
            "distractors": distractors,
            "distractor_rows": _as_unlabeled(unlabeled) if distractor_rows is None else distractor_rows,
            "distractor_queries": distractor_queries,
        }
        for name, value in given.items():
            object.__setattr__(self, name, Count.of(value, name))
        object.__setattr__(self, "distractor_groups", distractor_groups)
        self._check()
        # Kept, for specs are keys of what is compiled for them, and looked at for every single plan.
        object.__setattr__(self, "fixed", self._is_fixed())
        object.__setattr__(self, "_hash", hash((*(getattr(self, name) for name in COUNTS), distractor_groups)))

    def __hash__(self) -> int:
        return self._hash

    def _check(self) -> None:
        for name in COUNTS:
            _check_kind(name, getattr(self, name))
        if self.ways.kind in ("range", "weights") and self.ways.low < 1:
            raise SpecError(f"ways={self.ways} is too small; it must be 1 or more")
        if self.distractor_groups not in ("any", "same", "other"):
            raise SpecError(f"distractor_groups='{self.distractor_groups}' is unknown; known: any, same, other")
        if self.shots.kind == "range" and self.queries.kind == "range" and self.shots.high + self.queries.high == 0:
            raise SpecError("shots and queries are both 0; an episode needs rows of at least one kind")
        for name in ("shots", "queries", "unlabeled"):
            count = getattr(self, name)
            if count.kind == "list" and not (self.ways.fixed and len(count.values) == self.ways.low):
                raise SpecError(
                    f"{name}={count} has {len(count.values)} numbers, ways={self.ways}: a list needs fixed ways and one "
                    "number for each class"
                )
        if self.queries.kind == "total":
            self._check_total()
        if self.distractors.high and not (self.distractor_rows.high or self.distractor_queries.high):
            raise SpecError(
                f"distractors={self.distractors} with unlabeled={self.unlabeled}: they could not appear (raise unlabeled, "
                "or give distractor_rows or distractor_queries)"
            )

    def _check_total(self) -> None:
        if self.ways.kind != "range" or self.shots.kind not in ("range", "weights") or self.shots.per_class:
            raise SpecError(
                f"queries={self.queries} needs ways that are a number or a range, and shots that are the same for every "
                f"class; got ways={self.ways}, shots={self.shots}"
            )
        if self._fewest_dividing() is None:
            raise SpecError(
                f"queries={self.queries}: none of ways={self.ways} divides the total and leaves a query beside "
                f"shots={self.shots}"
            )

    def _fewest_dividing(self) -> int | None:
        """Fewest ways that divide a fixed total and leave a query, whatever the shots."""
        total = int(self.queries.weights[0])
        most = min(self.ways.high, total // (self.shots.high + 1))
        return next((ways for ways in range(self.ways.low, most + 1) if total % ways == 0), None)

    def _is_fixed(self) -> bool:
        counts = (self.ways, self.shots, self.queries, self.unlabeled)
        return all(count.fixed for count in counts) and not self.distractors.high

    @property
    def least_ways(self) -> int:
        """Classes that have to be there: the fewest ways, for a range is cut at its upper end, but the most of weights."""
        if self.queries.kind == "total":
            return self._fewest_dividing() or self.ways.low
        return self.ways.high if self.ways.kind == "weights" else self.ways.low

    @property
    def rows_per_class(self) -> int:
        """Most rows that one class gives to an episode."""
        if self.queries.kind == "total":
            both = int(self.queries.weights[0]) // self.least_ways
        elif self.shots.kind == self.queries.kind == "list" and not (self.shots.permuted or self.queries.permuted):
            both = max(k + q for k, q in zip(self.shots.values, self.queries.values, strict=True))
        else:
            both = self.shots.high + max(self.queries.high, self.queries.kind == "all")
        return both + self.unlabeled.high

    def require(self, classes: ClassIndex) -> None:
        """Check that every episode of this spec can be drawn from `classes`, before the first one is.

        Warns when a range of ways ends beyond the number of classes: it is cut there.

        Raises:
            SpecError: too few classes, or a class with too few rows; the first such class is named.
        """
        for name in COUNTS:
            if getattr(self, name).kind == "variable":
                raise SpecError(f"{name}=variable: only the sampler meta-dataset decides it; give a count")
        self.require_ways(len(classes), f"split '{classes.split}'", classes.dropped)
        self.require_rows(classes)

    def require_ways(self, available: int, where: str, dropped: int = 0) -> None:
        """Check that `available` classes are enough for the ways and the distractors."""
        needed, what = self.least_ways, f"ways={self.ways}"
        if self.distractors.high:
            needed, what = needed + self.distractors.high, f"{what} and distractors={self.distractors}"
        if needed > available:
            without = f", {dropped} more were left out by min_rows" if dropped else ""
            raise SpecError(f"{what} needs {needed} classes; {where} has {available}{without} (lower ways)")
        if self.ways.kind == "range" and self.ways.high + self.distractors.high > available:
            end = available - self.distractors.high
            warnings.warn(f"ways={self.ways} ends at {end}: {where} has {available} classes", stacklevel=3)

    def require_rows(self, classes: ClassIndex) -> None:
        """Check that every class has rows enough for the largest counts, in each of its pools."""
        whole = classes.labeled == classes.counts
        if len(classes.seen) and (base := classes.seen & ~whole).any():
            self._require_held_out(classes, np.where(base, classes.counts - classes.labeled, np.iinfo(np.int64).max))
        unlabeled = max(self.unlabeled.high, self.distractor_rows.high if self.distractors.high else 0)
        parts = "shots + queries" + (" + unlabeled" if self.unlabeled.high else "")
        self._refuse(classes, np.where(whole, classes.counts, np.iinfo(np.int64).max), self.rows_per_class, parts, "")
        front = np.where(whole, np.iinfo(np.int64).max, classes.labeled)
        self._refuse(classes, front, self.rows_per_class - self.unlabeled.high, "shots + queries", " labeled")
        back = np.where(whole, np.iinfo(np.int64).max, classes.counts - classes.labeled)
        self._refuse(classes, back, unlabeled, "unlabeled", " unlabeled")
        if self.distractors.high:
            rows = self.distractor_rows.high + self.distractor_queries.high
            self._refuse(classes, classes.counts, rows, "distractor_rows + distractor_queries", "")

    def _require_held_out(self, classes: ClassIndex, rows: Int) -> None:
        """Queries of base classes are rows held out from meta-training, which no other part draws from."""
        if self.unlabeled.high or self.distractors.high or self.queries.kind in ("all", "variable"):
            raise SpecError(
                f"split '{classes.split}' has base classes, whose queries are held-out rows: unlabeled rows, distractors "
                f"and queries that are all or variable do not go with them; got {self}"
            )
        total = self.queries.kind == "total"
        needed = int(self.queries.weights[0]) // self.least_ways if total else self.queries.high
        self._refuse(classes, rows, needed, "queries", " held-out")

    def _refuse(self, classes: ClassIndex, available: Int, needed: int, parts: str, kind: str) -> None:
        short = np.flatnonzero(available < needed)
        if len(short):
            first, others = int(short[0]), len(short) - 1
            more = f", and {others} more class{'es' if others > 1 else ''}" if others else ""
            raise SpecError(
                f"class '{classes.name(first)}' has {available[first]}{kind} rows{more}; {parts} needs "
                f"{needed} (lower queries or shots, or leave small classes out with min_rows={needed})"
            )

    def to_table(self) -> dict[str, Any]:
        """Plain values that build the same spec; what is as by default is left out."""
        table = {name: getattr(self, name).plain() for name in COUNTS}
        if self.distractor_rows == _as_unlabeled(self.unlabeled):
            del table["distractor_rows"]
        for name in ("unlabeled", "distractors", "distractor_queries"):
            if table[name] == 0:
                del table[name]
        return table | ({"distractor_groups": self.distractor_groups} if self.distractor_groups != "any" else {})

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> EpisodeSpec:
        """The spec that `to_table` wrote."""
        return cls(**table)

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.to_table().items())


COUNTS = ("ways", "shots", "queries", "unlabeled", "distractors", "distractor_rows", "distractor_queries")


def _as_unlabeled(unlabeled: CountLike) -> Count:
    count = Count.of(unlabeled, "unlabeled")
    return Count("range", count.high, count.high) if count.dealt else count


def _check_kind(name: str, count: Count) -> None:
    allowed = {
        "ways": ("range", "weights", "variable"),
        "distractors": ("range", "weights"),
        "queries": ("range", "weights", "list", "linear", "long-tail", "step", "all", "total", "variable"),
        "shots": ("range", "weights", "list", "linear", "long-tail", "step", "variable"),
    }.get(name, ("range", "weights", "list", "linear", "long-tail", "step"))
    if name.startswith("distractor_"):
        allowed = ("range", "weights")
    if count.kind not in allowed or (count.per_class and name in ("ways", "distractors")):
        raise SpecError(f"{name}={count} is not allowed; {name} may be: {', '.join(allowed)}")
