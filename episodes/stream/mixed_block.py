"""MixedBlock: episodes that were made together and lie in several blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from episodes.episode import Episode, EpisodeBlock, Part
from episodes.errors import SpecError

Array = NDArray[Any]


@dataclass(kw_only=True, eq=False)
class MixedBlock(Sequence[Episode[Array]]):
    """Episodes whose values lie in several blocks, as those of several sources, in order; each is a view into its block."""

    indices: Sequence[int]
    """[B] index of each episode."""
    parts: tuple[EpisodeBlock, ...]
    """Those whose values lie together."""
    places: Sequence[tuple[int, int]]
    """[B] part of each episode, and its place in it."""

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, b: int) -> Episode[Array]: ...
    @overload
    def __getitem__(self, b: slice) -> MixedBlock: ...
    def __getitem__(self, b: int | slice) -> Episode[Array] | MixedBlock:
        """The b-th episode, or some of the episodes as a block."""
        if isinstance(b, slice):
            return replace(self, indices=self.indices[b], places=self.places[b])
        part, place = self.places[b]
        return self.parts[part][place]

    @property
    def even(self) -> bool:
        """Whether all episodes have as many classes and rows of each kind."""
        sizes = [np.diff(part.offsets) for part in self.parts]  # [4, episodes of the part]
        return len({tuple(sizes[part][:, place].tolist()) for part, place in self.places}) <= 1

    @property
    def stacked(self) -> Episode[Array]:
        """All episodes as one, ``[B, n, ...]``; its index is the first one's. Copies, unless all are of one source.

        Raises:
            SpecError: they are of different sizes.
        """
        first, begin = self.places[0]
        if all(one == (first, begin + b) for b, one in enumerate(self.places)):
            return self.parts[first][begin : begin + len(self)].stacked
        if not self.even:
            raise SpecError(
                f"episodes {self.indices[0]} to {self.indices[-1]} are of different sizes and cannot be stacked; take them "
                "one by one, or give fixed ways, shots and queries"
            )
        every = list(self)
        unlabeled = [one.unlabeled for one in every if one.unlabeled is not None]
        return Episode(
            index=self.indices[0],
            class_ids=np.stack([one.class_ids for one in every]),
            variants=np.stack([one.variants for one in every]),
            support=_stacked([one.support for one in every]),
            query=_stacked([one.query for one in every]),
            unlabeled=_stacked(unlabeled) if unlabeled else None,
            class_fields={name: np.stack([one.class_fields[name] for one in every]) for name in every[0].class_fields},
        )


def _stacked(parts: Sequence[Part[Array]]) -> Part[Array]:
    found = [{name: (values.dtype, values.shape[1:]) for name, values in part.fields.items()} for part in parts]
    if any(one != found[0] for one in found):
        raise SpecError("episodes whose fields differ in name, type or shape cannot be stacked; take them one by one")
    return Part(
        fields={name: np.stack([part.fields[name] for part in parts]) for name in parts[0].fields},
        labels=np.stack([part.labels for part in parts]),
        rows=np.stack([part.rows for part in parts]),
    )
