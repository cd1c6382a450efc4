"""PlanBlock: the plans of several episodes in flat arrays, and single plans cut out of it.

B episodes; episode b has ``ways[b]`` classes and ``distractors[b]`` distractor classes, which fill the first
``ways[b] + distractors[b]`` slots of its line in the ``[B, S]`` arrays. Its support rows are
``support[support_offsets[b] : support_offsets[b + 1]]``, class by class, and so are its queries; unlabeled rows are
shuffled, so ``unlabeled_slots`` tells the class of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from episodes.classes import ClassIndex, Int, UInt
from episodes.episode import EpisodePlan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlanBlock:
    """See the module's docstring. Slots beyond an episode's classes hold 0."""

    indices: UInt
    """[B] of the episodes."""
    classes: ClassIndex
    ways: Int
    """[B]"""
    distractors: Int
    """[B]"""
    positions: Int
    """[B, S] places in `classes`."""
    shots: Int
    """[B, S] support rows of each slot; 0 for distractors."""
    queries: Int
    """[B, S]"""
    unlabeled_counts: Int
    """[B, S]"""
    support: Int
    support_offsets: Int
    query: Int
    query_offsets: Int
    unlabeled: Int
    unlabeled_slots: Int
    unlabeled_offsets: Int

    def __len__(self) -> int:
        return len(self.ways)

    def __iter__(self) -> Iterator[EpisodePlan]:
        return (self.plan(b) for b in range(len(self)))

    def plan(self, b: int) -> EpisodePlan:
        """The plan of the b-th episode of the block, over the block's own memory."""
        ways, slots = int(self.ways[b]), int(self.ways[b] + self.distractors[b])
        positions = self.positions[b, :slots]
        turns = self.classes.variants[positions]
        query_slots = np.repeat(np.arange(slots), self.queries[b, :slots])
        unlabeled = slice(self.unlabeled_offsets[b], self.unlabeled_offsets[b + 1])
        unlabeled_slots = self.unlabeled_slots[unlabeled]
        turned = slots > ways and bool(turns.any())
        return EpisodePlan(
            index=int(self.indices[b]),
            class_ids=self.classes.ids[positions[:ways]],
            variants=turns[:ways],
            support=self.support[self.support_offsets[b] : self.support_offsets[b + 1]],
            support_labels=np.repeat(np.arange(ways), self.shots[b, :ways]),
            query=self.query[self.query_offsets[b] : self.query_offsets[b + 1]],
            query_labels=np.where(query_slots < ways, query_slots, -1),
            unlabeled=self.unlabeled[unlabeled],
            unlabeled_labels=np.where(unlabeled_slots < ways, unlabeled_slots, -1),
            distractor_ids=self.classes.ids[positions[ways:]],
            query_turns=turns[query_slots] if turned else None,
            unlabeled_turns=turns[unlabeled_slots] if turned else None,
        )


def plan_of(
    classes: ClassIndex,
    index: int,
    positions: Int,
    support: list[Int],
    query: list[Int],
    unlabeled: list[Int] | None = None,
) -> EpisodePlan:
    """A plan from the places of its classes in `classes` and the store rows of each; for policies written in Python.

    Args:
        classes: what the policy drew from.
        index: of the episode.
        positions: [W] places in `classes`, in order of labels.
        support: W arrays of store rows.
        query: W arrays of store rows.
        unlabeled: W arrays of store rows.
    """
    parts = (support, query, unlabeled or [np.empty(0, np.int64)] * len(positions))
    rows = [np.concatenate([np.asarray(one, np.int64) for one in part]) for part in parts]
    labels = [np.repeat(np.arange(len(positions)), [len(one) for one in part]) for part in parts]
    return EpisodePlan(
        index=index,
        class_ids=classes.ids[positions],
        variants=classes.variants[positions],
        support=rows[0],
        support_labels=labels[0],
        query=rows[1],
        query_labels=labels[1],
        unlabeled=rows[2],
        unlabeled_labels=labels[2],
    )
