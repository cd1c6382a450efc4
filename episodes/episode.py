"""EpisodePlan (row numbers), and the values they become: Part and Episode; EpisodeBlock: episodes made together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from episodes.classes import EMPTY, Int
from episodes.errors import SpecError

A = TypeVar("A")  # numpy.ndarray, torch.Tensor, jax.Array, ...

Fields = Mapping[str, A]

_NO_FIELDS: Fields[Any] = {}


def _no_fields() -> Fields[Any]:
    return _NO_FIELDS


def _none() -> Int:
    return EMPTY


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EpisodePlan:
    """Which rows make episode `index`: numbers only, no data. W ways.

    Rows of a label are different, within a part and between parts. Two labels share a row only where they are two turns
    of one class (`ClassIndex.with_quarter_turns`): the drawing is the same, its turn is not. Label k means the class at
    ``class_ids[k]``, turned by ``variants[k]`` quarter turns; label -1 means a distractor class. Use labels, never
    positions: support and query are class-major, unlabeled rows are shuffled.

    Where `query_views` is given (`episodes.sampling.self_supervised`) every support row is a class of its own: `class_ids`
    repeats the class that a row is of, and the queries are support rows once more, as transforms show them another time.
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
    query_views: Int | None = None
    """Which view of its row each query is: transforms draw anew for each. None: all are view 0, as all other rows are."""

    @property
    def ways(self) -> int:
        """Number of classes."""
        return len(self.class_ids)

    def counts(self, labels: Int) -> list[int]:
        """Rows of each label 0..W-1 among `labels`: ``plan.counts(plan.support_labels)`` are the shots."""
        return np.bincount(labels[labels >= 0], minlength=len(self.class_ids)).tolist()  # type: ignore[no-any-return]


@dataclass(slots=True, kw_only=True, eq=False)  # not frozen: that takes longer than gathering a small episode
class Part(Generic[A]):
    """Rows of an episode with their values. Labels travel with rows, so unequal shots need no second path."""

    fields: Fields[A]
    """name -> [n, ...]"""
    labels: A
    """[n] int64, 0..ways-1"""
    rows: A
    """[n] int64 store-wide rows: where each value came from."""


@dataclass(slots=True, kw_only=True, eq=False)  # as Part
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
    class_fields: Fields[A] = field(default_factory=_no_fields)
    """name -> [W, ...]: what the store knows of each class beside its rows, as its attributes."""


@dataclass(kw_only=True, eq=False)
class EpisodeBlock(Sequence[Episode[NDArray[Any]]]):
    """B episodes whose values were gathered together: a sequence of episodes that are views into shared arrays.

    Where all are of one size, `stacked` is the same memory as one episode with a leading axis.
    """

    indices: Sequence[int]
    """[B] index of each episode."""
    fields: Fields[NDArray[Any]]
    """name -> [N, ...]: all support rows, then all query rows, then all unlabeled rows."""
    labels: Int
    """[N]"""
    rows: Int
    """[N]"""
    class_ids: Int
    """[sum of ways]"""
    variants: Int
    """[sum of ways]"""
    offsets: Int
    """[4, B + 1] where each episode's support, query and unlabeled rows begin among the N, and its classes among all. A
    block that was cut out of another begins and ends somewhere within."""
    class_fields: Fields[NDArray[Any]] = field(default_factory=_no_fields)
    """name -> [sum of ways, ...]"""

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Episode[NDArray[Any]]]:
        ends = self.offsets.T.tolist()
        return (self._episode(i, one, two) for i, one, two in zip(self.indices, ends, ends[1:], strict=False))

    @overload
    def __getitem__(self, b: int) -> Episode[NDArray[Any]]: ...
    @overload
    def __getitem__(self, b: slice) -> EpisodeBlock: ...
    def __getitem__(self, b: int | slice) -> Episode[NDArray[Any]] | EpisodeBlock:
        """The b-th episode, or episodes next to each other as a block, in views of the block's arrays."""
        if isinstance(b, slice):
            start, stop, step = b.indices(len(self))
            if step != 1:
                raise IndexError(f"episodes of a block are cut out in order; got a step of {step}")
            offsets = self.offsets[:, start : max(start, stop) + 1]
            return replace(self, indices=self.indices[start:stop], offsets=offsets)
        if not -len(self) <= b < len(self):
            raise IndexError(f"a block of {len(self)} episodes has no place {b}")
        b %= len(self)
        return self._episode(self.indices[b], self.offsets[:, b].tolist(), self.offsets[:, b + 1].tolist())

    def _episode(self, index: int, begin: list[int], end: list[int]) -> Episode[NDArray[Any]]:
        classes, known = slice(begin[3], end[3]), self.class_fields
        return Episode(
            index=index,
            class_ids=self.class_ids[classes],
            variants=self.variants[classes],
            support=self._part(slice(begin[0], end[0])),
            query=self._part(slice(begin[1], end[1])),
            unlabeled=self._part(slice(begin[2], end[2])) if end[2] > begin[2] else None,
            class_fields={name: values[classes] for name, values in known.items()} if known else _NO_FIELDS,
        )

    def _part(self, place: slice) -> Part[NDArray[Any]]:
        fields = {name: values[place] for name, values in self.fields.items()}
        return Part(fields=fields, labels=self.labels[place], rows=self.rows[place])

    @property
    def even(self) -> bool:
        """Whether all episodes have as many classes and rows of each kind."""
        sizes = np.diff(self.offsets)
        return bool((sizes == sizes[:, :1]).all())

    @property
    def stacked(self) -> Episode[NDArray[Any]]:
        """All episodes as one, ``[B, n, ...]``, over the same memory; its index is the first one's.

        Raises:
            SpecError: they are of different sizes.
        """
        if not self.even:
            raise SpecError(
                f"episodes {self.indices[0]} to {self.indices[-1]} are of different sizes and cannot be stacked; take them "
                "one by one, or give fixed ways, shots and queries"
            )
        begin, end = self.offsets[:, 0].tolist(), self.offsets[:, -1].tolist()
        support, query, unlabeled, classes = (slice(one, two) for one, two in zip(begin, end, strict=True))
        return Episode(
            index=self.indices[0],
            class_ids=self._apart(self.class_ids[classes]),
            variants=self._apart(self.variants[classes]),
            support=self._stacked(support),
            query=self._stacked(query),
            unlabeled=self._stacked(unlabeled) if unlabeled.stop > unlabeled.start else None,
            class_fields={name: self._apart(values[classes]) for name, values in self.class_fields.items()},
        )

    def _apart(self, values: NDArray[Any]) -> NDArray[Any]:
        """[B * n, ...] as [B, n, ...]."""
        return values.reshape(len(self), len(values) // len(self), *values.shape[1:])

    def _stacked(self, place: slice) -> Part[NDArray[Any]]:
        return Part(
            fields={name: self._apart(values[place]) for name, values in self.fields.items()},
            labels=self._apart(self.labels[place]),
            rows=self._apart(self.rows[place]),
        )
