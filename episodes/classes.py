"""ClassIndex: which rows belong to which class, and which classes a sampler may use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from episodes.errors import SpecError

if TYPE_CHECKING:
    from episodes.graph import SamplingGraph

Int = NDArray[np.int64]
UInt = NDArray[np.uint64]

EMPTY: Int = np.empty(0, np.int64)
NONE_SEEN: NDArray[np.bool_] = np.empty(0, np.bool_)


def _empty() -> Int:
    return EMPTY


TURNS = 4  # quarter turns of a full circle: a class and its three rotated variants


@dataclass(frozen=True, slots=False, kw_only=True, eq=False)
class ClassIndex:
    """The classes of one split of a store, as columns of equal length C. Frozen and never written to.

    A class is whatever rows are grouped by: a character, a species, a user, a program. A split is a smaller ClassIndex
    over the same rows; nothing is copied or renumbered.
    """

    split: str
    """Full name of the split (``vinyals/train``); part of every sampling key, so splits never share draws."""
    ids: Int
    """[C] store-wide class numbers."""
    starts: Int
    """[C] class c owns rows ``starts[c] : starts[c] + counts[c]`` of the store."""
    counts: Int
    """[C] rows of each class."""
    groups: Int
    """[C] group (alphabet, super-category) of each class, -1 for none."""
    variants: Int
    """[C] class variant: 0 as stored, 1..3 that many quarter turns counter-clockwise, each a class of its own."""
    names: tuple[str, ...]
    """[C] names as stored; see `name` for one that tells variants apart."""
    group_names: tuple[str, ...] = ()
    """Name of group g at position g (store-wide)."""
    order: Int = field(default_factory=_empty)
    """Store row at each place that `starts` counts; empty: the places are the rows."""
    front: Int = field(default_factory=_empty)
    """[C] how many of a class's places, from its first, are its front pool: the labeled rows of a semi-supervised split,
    the training rows of a base class. Empty: every row is."""
    seen: NDArray[np.bool_] = field(default_factory=lambda: NONE_SEEN)
    """[C] whether meta-training sees the class too (base + novel episodes, overlap). Empty: none."""
    fingerprint: str = ""
    """Of the store."""
    min_rows: int = 0
    """Classes with fewer rows were left out ..."""
    dropped: int = 0
    """... so many."""
    is_a: tuple[tuple[str, str], ...] = ()
    """(parent, child) pairs of the store's hierarchy."""
    column: Callable[[str], Int] | None = None
    """Values of an integer field of the store, one a row (the drawer of a drawing), for policies that need it."""

    def __post_init__(self) -> None:
        columns = (self.ids, self.starts, self.counts, self.groups, self.variants, self.names, self.front, self.seen)
        sizes = {len(column) for column in columns[:6]} | {len(column) for column in columns[6:] if len(column)}
        assert len(sizes) == 1, f"columns of a ClassIndex differ in length: {sizes}"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_rows(self) -> int:
        """Rows of all classes together; a row counts once for each variant of its class."""
        return int(self.counts.sum())

    def name(self, position: int) -> str:
        """Name of the class at `position`; variants carry their turn: ``Greek/character01/rot090``."""
        turn = int(self.variants[position])
        return self.names[position] + (f"/rot{90 * turn:03d}" if turn else "")

    def select(self, positions: Int) -> ClassIndex:
        """The classes at `positions` of this index, in that order."""
        return replace(
            self,
            ids=self.ids[positions],
            starts=self.starts[positions],
            counts=self.counts[positions],
            groups=self.groups[positions],
            variants=self.variants[positions],
            names=tuple(self.names[p] for p in positions),
            front=self.front[positions] if len(self.front) else EMPTY,
            seen=self.seen[positions] if len(self.seen) else NONE_SEEN,
        )

    def with_quarter_turns(self) -> ClassIndex:
        """Each class four times, as stored and turned by 90, 180 and 270 degrees; variants of a class are adjacent.

        Source: the "rotations as new classes" of Vinyals et al. 2016 and Snell et al. 2017 on Omniglot.

        Raises:
            SpecError: the classes are turned already.
        """
        if self.variants.any():
            raise SpecError(f"split '{self.split}' holds quarter turns already; turn its classes once")
        turned = self.select(np.repeat(np.arange(len(self), dtype=np.int64), TURNS))
        return replace(turned, variants=np.tile(np.arange(TURNS, dtype=np.int64), len(self)))

    @property
    def labeled(self) -> Int:
        """[C] rows of the front pool; all rows where there is no partition."""
        return self.front if len(self.front) else self.counts

    @cached_property
    def turned(self) -> bool:
        """Whether some class is a quarter turn of another."""
        return bool(self.variants.any())

    @cached_property
    def extents(self) -> Int:
        """[C, 2] first row and number of rows of each class, side by side for the kernels."""
        return np.stack([self.starts, self.counts], axis=1)

    def rows(self, position: int) -> Int:
        """Store rows of the class at `position`, front pool first."""
        places = np.arange(self.starts[position], self.starts[position] + self.counts[position])
        return self.order[places] if len(self.order) else places

    @cached_property
    def graph(self) -> SamplingGraph:
        """The sampling graph over these classes, of the store's is-a pairs (sampling 3.4).

        Raises:
            SpecError: the store has no hierarchy; the classes are turned; a class stands outside or above another.
        """
        from episodes.graph import SamplingGraph

        if not self.is_a:
            raise SpecError("the store has no hierarchy; ingest it with --hierarchy FILE, or sample without")
        if self.variants.any():
            raise SpecError(f"split '{self.split}' holds quarter turns, which have no place in a hierarchy")
        return SamplingGraph.build(self.is_a, self.names)

    @cached_property
    def bases(self) -> tuple[Int, Int]:
        """Classes that are variants of one class, together: ``(offsets [G + 1], positions [C])``."""
        order = np.argsort(self.ids, kind="stable").astype(np.int64)
        first = np.unique(self.ids[order], return_index=True)[1]
        return np.append(first, len(order)).astype(np.int64), order

    @cached_property
    def groups_in_use(self) -> tuple[Int, Int, Int]:
        """Groups present here: ``(group numbers [G], offsets [G + 1], positions [sum])``.

        Classes of the g-th group stand at ``positions[offsets[g] : offsets[g + 1]]``, in order of this index.
        Classes without a group are left out.
        """
        order = np.argsort(self.groups, kind="stable").astype(np.int64)
        order = order[self.groups[order] >= 0]
        numbers, first = np.unique(self.groups[order], return_index=True)
        offsets = np.append(first, len(order)).astype(np.int64)
        return numbers.astype(np.int64), offsets, order
