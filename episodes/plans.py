"""PlanBlock: the plans of several episodes in flat arrays, and single plans cut out of it; FlatPlans: what to gather.

B episodes; episode b has ``ways[b]`` classes and ``distractors[b]`` distractor classes, which fill the first
``ways[b] + distractors[b]`` slots of its line in the ``[B, S]`` arrays. All N rows lie in one array: the support rows of
every episode, then the query rows, then the unlabeled rows; support and query class by class, unlabeled rows shuffled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from episodes.classes import EMPTY, ClassIndex, Int, UInt
from episodes.episode import EpisodePlan
from episodes.spec import EpisodeSpec


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
    rows: Int
    """[N]"""
    offsets: Int
    """[4, B + 1] where each episode's support, query and unlabeled rows begin among the N; and its classes among all."""
    unlabeled_slots: Int
    """[unlabeled rows] slot of each."""

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
        support, query, unlabeled = (self.rows[line[b] : line[b + 1]] for line in self.offsets[:3])
        hidden = int(self.offsets[2, b] - self.offsets[2, 0])
        unlabeled_slots = self.unlabeled_slots[hidden : hidden + len(unlabeled)]
        turned = slots > ways and bool(turns.any())
        return EpisodePlan(
            index=int(self.indices[b]),
            class_ids=self.classes.ids[positions[:ways]],
            variants=turns[:ways],
            support=support,
            support_labels=np.repeat(np.arange(ways), self.shots[b, :ways]),
            query=query,
            query_labels=np.where(query_slots < ways, query_slots, -1),
            unlabeled=unlabeled,
            unlabeled_labels=np.where(unlabeled_slots < ways, unlabeled_slots, -1),
            distractor_ids=self.classes.ids[positions[ways:]],
            query_turns=turns[query_slots] if turned else None,
            unlabeled_turns=turns[unlabeled_slots] if turned else None,
        )

    def flat(self) -> FlatPlans:
        """All rows of the block one after the other, with labels and turns."""
        from episodes.sampling._rows import fill_labels

        labels, turns = np.empty(len(self.rows), np.int64), EMPTY
        if self.classes.turned:
            turns = np.empty(len(self.rows), np.int64)
        class_ids, variants = np.empty((2, self.offsets[3, -1]), np.int64)
        fill_labels(
            self.ways,
            self.positions,
            self.shots,
            self.queries,
            self.unlabeled_slots,
            self.offsets,
            self.classes.ids,
            self.classes.variants,
            class_ids,
            variants,
            labels,
            turns,
        )
        return FlatPlans(
            indices=self.indices,
            class_ids=class_ids,
            variants=variants,
            rows=self.rows,
            labels=labels,
            turns=turns,
            views=EMPTY,
            offsets=self.offsets,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FlatPlans:
    """What to gather for B episodes: all support rows, then all query rows, then all unlabeled rows; N in all."""

    indices: UInt
    """[B] of the episodes."""
    class_ids: Int
    """[sum of ways]"""
    variants: Int
    """[sum of ways] quarter turns of the classes."""
    rows: Int
    """[N] rows of the store."""
    labels: Int
    """[N]"""
    turns: Int
    """[N] quarter turns of each row; empty: none is turned."""
    views: Int
    """[N] which view of its row each is (`EpisodePlan.query_views`); empty: all are view 0."""
    offsets: Int
    """[4, B + 1] where each episode's support, query and unlabeled rows begin among the N; and its classes among all."""

    @property
    def per_row(self) -> UInt:
        """[N] index of each row's episode."""
        return np.concatenate([np.repeat(self.indices, np.diff(line)) for line in self.offsets[:3]])

    @property
    def slots(self) -> Int:
        """[N] what transforms draw by: the row, and above its 48 bits the view; of view 0 the row itself."""
        return self.rows + (self.views << 48) if len(self.views) else self.rows

    @classmethod
    def of(cls, plans: Sequence[EpisodePlan]) -> FlatPlans:
        """From single plans, of policies that draw no blocks."""
        parts: list[list[tuple[Int, Int, Int | None]]] = [
            [(p.support, p.support_labels, None) for p in plans],
            [(p.query, p.query_labels, p.query_turns) for p in plans],
            [(p.unlabeled, p.unlabeled_labels, p.unlabeled_turns) for p in plans],
        ]
        flat = [one for part in parts for one in part]
        turned = any(plan.variants.any() for plan in plans) or any(turns is not None for _, _, turns in flat)
        owners = list(plans) * 3
        turns = [
            np.where(labels < 0, 0, plan.variants[labels]) if own is None else own
            for plan, (_, labels, own) in zip(owners, flat, strict=True)
            if turned
        ]
        ends = np.cumsum([0] + [len(rows) for rows, _, _ in flat])
        num, views = len(plans), EMPTY
        if any(plan.query_views is not None for plan in plans):
            views = np.zeros(ends[-1], np.int64)
            seen = [np.zeros(len(p.query), np.int64) if p.query_views is None else p.query_views for p in plans]
            views[ends[num] : ends[2 * num]] = np.concatenate(seen)
        return cls(
            indices=np.array([plan.index for plan in plans], np.uint64),
            class_ids=np.concatenate([plan.class_ids for plan in plans]),
            variants=np.concatenate([plan.variants for plan in plans]),
            rows=np.concatenate([rows for rows, _, _ in flat]),
            labels=np.concatenate([labels for _, labels, _ in flat]),
            turns=np.concatenate(turns) if turned else EMPTY,
            views=views,
            offsets=np.stack(
                [ends[part * num : (part + 1) * num + 1] for part in range(3)] + [np.cumsum([0] + [p.ways for p in plans])]
            ),
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


def cut_plan(classes: ClassIndex, spec: EpisodeSpec, index: int, positions: Int, rows: list[Int]) -> EpisodePlan:
    """As `plan_of`, for a spec of fixed counts: of the rows of each class the first are support, then come queries."""
    shots, both = spec.shots.low, spec.shots.low + spec.queries.low
    parts = [one[:shots] for one in rows], [one[shots:both] for one in rows], [one[both:] for one in rows]
    return plan_of(classes, index, positions, *parts)
