"""EpisodePlan (row numbers), and the values they become: Part and Episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from episodes.classes import EMPTY, Int

A = TypeVar("A")  # numpy.ndarray, torch.Tensor, jax.Array, ...

Fields = Mapping[str, A]


def _none() -> Int:
    return EMPTY


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EpisodePlan:
    """Which rows make episode `index`: numbers only, no data. W ways.

    Rows of a label are different, within a part and between parts. Two labels share a row only where they are two turns
    of one class (`ClassIndex.with_quarter_turns`): the drawing is the same, its turn is not. Label k means the class at
    ``class_ids[k]``, turned by ``variants[k]`` quarter turns; label -1 means a distractor class. Use labels, never
    positions: support and query are class-major, unlabeled rows are shuffled.
    """

    index: int
    class_ids: Int
    """[W] store-wide class numbers in drawn order."""
    variants: Int
    """[W] quarter turns of each class."""
    support: Int
    """[sum of shots] store-wide rows."""
    support_labels: Int
    query: Int
    """[sum of queries] store-wide rows."""
    query_labels: Int
    """-1: a query of a distractor class (open-set)."""
    unlabeled: Int
    """[sum of unlabeled] store-wide rows."""
    unlabeled_labels: Int
    """True labels of the unlabeled rows, for scoring only; -1: a distractor."""
    distractor_ids: Int = field(default_factory=_none)
    """[H] store-wide numbers of the classes that appear only as rows without label."""
    query_turns: Int | None = None
    """Quarter turns of each query; None: those of its label."""
    unlabeled_turns: Int | None = None
    """Quarter turns of each unlabeled row; None: those of its label."""

    @property
    def ways(self) -> int:
        """Number of classes."""
        return len(self.class_ids)

    def counts(self, labels: Int) -> list[int]:
        """Rows of each label 0..W-1 among `labels`: ``plan.counts(plan.support_labels)`` are the shots."""
        return np.bincount(labels[labels >= 0], minlength=len(self.class_ids)).tolist()  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part(Generic[A]):
    """Rows of an episode with their values. Labels travel with rows, so unequal shots need no second path."""

    fields: Fields[A]
    """name -> [n, ...]"""
    labels: A
    """[n] int64, 0..ways-1"""
    rows: A
    """[n] int64 store-wide rows: where each value came from."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Episode(Generic[A]):
    """One task: a labelled support, queries to predict, and unlabeled rows if the spec asks for any.

    From a series the arrays have shape ``[n, ...]``. A learner sees a leading episode axis, ``[B, n, ...]``
    (see `episodes.adapters.pytorch.to_torch`).
    """

    index: int
    class_ids: A
    """[W] store-wide class numbers; label k means ``class_ids[k]``."""
    variants: A
    """[W] quarter turns of each class."""
    support: Part[A]
    query: Part[A]
    unlabeled: Part[A] | None = None
