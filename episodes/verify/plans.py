"""The laws that every plan obeys (I1 to I4), for plans written down: classes that differ and are of the split, rows that
are in one part only and of the class that their label means.

I3, no more rows of a class than it has, follows: its rows differ and are rows of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from episodes.classes import ClassIndex, Int
from episodes.protocols import SampleStore
from episodes.shards.record import ShardIndex

PARTS = ("support", "query", "unlabeled")
_NEAR: Final = 1 << 27  # rows below it have a place in an array; those of a larger store, made on demand, are few of many


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class WrittenPlan:
    """A plan as an index of shards has it."""

    counts: Int
    """[4] support, query and unlabeled rows, and classes."""
    rows: Int
    labels: Int
    class_ids: Int
    variants: Int


def plans_of(index: ShardIndex) -> Iterator[WrittenPlan]:
    """The plans of a shard, in order."""
    row, clas = 0, 0
    for counts in index.counts:
        end, last = row + int(counts[:3].sum()), clas + int(counts[3])
        yield WrittenPlan(
            counts=counts,
            rows=index.rows[row:end],
            labels=index.labels[row:end],
            class_ids=index.class_ids[clas:last],
            variants=index.variants[clas:last],
        )
        row, clas = end, last


class Laws:
    """What plans of one set are held against; remembers which class a row was of, where there is no store to ask.

    Args:
        store: tells the class of each row; without it, a row must be of one class in all plans.
        classes: of the split, with their turns; None: not known.
        repeats_rows: queries may be support rows again, each support row a class of its own (self-supervised episodes).
        turned: classes are quarter turns, too; rows without label then have a turn that is not written down.
    """

    def __init__(self, store: SampleStore | None, classes: ClassIndex | None, *, repeats_rows: bool, turned: bool) -> None:
        self._repeats_rows, self._turned = repeats_rows, turned
        self._owners: _Told | _Remembered = _Remembered() if store is None else _Told(store.split("all"))
        self._split = None if classes is None else set(zip(classes.ids.tolist(), classes.variants.tolist(), strict=True))
        self._ids = None if classes is None else classes.ids

    def broken_by(self, plan: WrittenPlan) -> str | None:
        """What law a plan breaks, in words; None: none."""
        labels, ways = plan.labels, int(plan.counts[3])
        if ways < 1 or not len(plan.rows):
            return f"it has {ways} classes and {len(plan.rows)} rows"
        lowest = np.where(np.arange(len(labels)) < plan.counts[0], 0, -1)  # support rows are of no distractor
        if (wrong := labels[(labels < lowest) | (labels >= ways)]).size:
            return f"label {wrong[0]} is not in 0..{ways - 1} (I1)"
        if (plan.rows < 0).any():
            return f"row {plan.rows.min()} is no row"
        if self._repeats_rows and self._stands_alone(plan):
            return self._in_split(plan) or self._of_its_class(plan)
        return self._classes_differ(plan) or self._in_split(plan) or self._rows_differ(plan) or self._of_its_class(plan)

    @staticmethod
    def _stands_alone(plan: WrittenPlan) -> bool:
        """Whether each support row is a class of its own, and the queries are those rows again."""
        support, query = int(plan.counts[0]), slice(int(plan.counts[0]), int(plan.counts[:2].sum()))
        return (
            np.array_equal(plan.labels[:support], np.arange(plan.counts[3]))
            and bool((plan.labels[query] >= 0).all())
            and np.array_equal(plan.rows[query], plan.rows[plan.labels[query]])
            and len(np.unique(plan.rows[:support])) == support
        )

    def _classes_differ(self, plan: WrittenPlan) -> str | None:
        pairs = list(zip(plan.class_ids.tolist(), plan.variants.tolist(), strict=True))
        if len(set(pairs)) < len(pairs):
            twice = next(pair for pair in pairs if pairs.count(pair) > 1)
            return f"class {twice[0]} is in it twice (I1)"
        return None

    def _in_split(self, plan: WrittenPlan) -> str | None:
        pairs = zip(plan.class_ids.tolist(), plan.variants.tolist(), strict=True)
        if self._split is not None and (foreign := [pair for pair in pairs if pair not in self._split]):
            return f"class {foreign[0][0]} with {foreign[0][1]} quarter turns is not in the split (I4)"
        return None

    def _rows_differ(self, plan: WrittenPlan) -> str | None:
        """A drawing may be there twice as two turns of its class, and only so."""
        keys = plan.rows * 4 + np.where(plan.labels < 0, 0, plan.variants[plan.labels])
        compared = np.flatnonzero((plan.labels >= 0) | (not self._turned))
        order = compared[np.argsort(keys[compared], kind="stable")]
        (same,) = np.nonzero(keys[order[1:]] == keys[order[:-1]])
        if not len(same):
            return None
        ends = np.cumsum(plan.counts[:3])
        one, two = (PARTS[int(np.searchsorted(ends, order[k], side="right"))] for k in (same[0], same[0] + 1))
        return f"row {plan.rows[order[same[0]]]} is in it twice, in {one} and {two} (I2)"

    def _of_its_class(self, plan: WrittenPlan) -> str | None:
        if (beyond := plan.rows[plan.rows >= self._owners.num_rows]).size:
            return f"row {beyond[0]} is not in 0..{self._owners.num_rows - 1} (I4)"
        labelled = plan.labels >= 0
        rows, wanted = plan.rows[labelled], plan.class_ids[plan.labels[labelled]]
        owner = self._owners.of(rows)
        (wrong,) = np.nonzero((owner != wanted) & (owner >= 0))
        if len(wrong):
            i = wrong[0]
            return f"row {rows[i]} is of class {owner[i]}, its label means class {wanted[i]} (I4)"
        self._owners.learn(rows, wanted)
        return self._distractors(plan, plan.rows[~labelled])

    def _distractors(self, plan: WrittenPlan, rows: Int) -> str | None:
        """Rows of distractors are of other classes of the split."""
        owner = self._owners.of(rows)
        if not self._turned and (own := np.isin(owner, plan.class_ids)).any():
            return f"row {rows[own][0]} of a distractor is of class {owner[own][0]}, a class of the episode (I4)"
        if self._ids is not None and (foreign := ~np.isin(owner, self._ids)).any():
            return f"row {rows[foreign][0]} of a distractor is of class {owner[foreign][0]}, which is not in the split (I4)"
        return None


class _Told:
    """Class of each row, by the store. Nothing is kept for a row, for a store made on demand has more than memory holds."""

    def __init__(self, everything: ClassIndex) -> None:
        order = np.argsort(everything.starts)
        self._starts, self._ids = everything.starts[order], everything.ids[order]
        self._ends = self._starts + everything.counts[order]
        self.num_rows = int(self._ends.max())

    def of(self, rows: Int) -> Int:
        """[n] class numbers; -1 of a row that is of no class."""
        place = np.searchsorted(self._starts, rows, side="right") - 1
        owner: Int = np.where((place >= 0) & (rows < self._ends[place]), self._ids[place], -1)
        return owner

    def learn(self, rows: Int, classes: Int) -> None:
        """Nothing: all is known."""


class _Remembered:
    """The same without a store: as the plans before had it."""

    num_rows = sys.maxsize

    def __init__(self) -> None:
        self._owner = np.full(0, -1, np.int64)
        self._far: dict[int, int] = {}

    def of(self, rows: Int) -> Int:
        """[n] class numbers; -1 of a row that no plan had."""
        near = rows < len(self._owner)
        owner = np.full(len(rows), -1, np.int64)
        owner[near] = self._owner[rows[near]]
        if self._far:
            owner[~near] = [self._far.get(row, -1) for row in rows[~near].tolist()]
        return owner

    def learn(self, rows: Int, classes: Int) -> None:
        """Remember the class of each row, [n] each."""
        near = rows < _NEAR
        if (most := int(rows[near].max(initial=-1))) >= len(self._owner):
            self._owner = np.concatenate([self._owner, np.full(most + 1, -1, np.int64)])
        self._owner[rows[near]] = classes[near]
        self._far |= zip(rows[~near].tolist(), classes[~near].tolist(), strict=True)
