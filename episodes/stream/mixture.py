"""MixedEpisodes: episodes of several series, each from one of them, by weight."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from episodes.episode import Episode
from episodes.errors import SpecError
from episodes.rng import SOURCE, check_word, philox, stream_key
from episodes.stream.series import SampledEpisodes


@dataclass(frozen=True, kw_only=True, eq=False)
class MixedEpisodes:
    """Episode i comes from the source that the key (seed, SOURCE, i) draws, and is episode i of that source.

    Sources are alike unless `weights` say otherwise, whatever their sizes (Triantafillou et al. 2020). Adding a source
    changes which source an index has, never what episode i of a source is.

    Raises:
        SpecError: no source; a weight that is no number of 0 or more, or all 0; weights of other names.
    """

    sources: Mapping[str, SampledEpisodes]
    """name -> series."""
    weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    length: int | None = None

    def __post_init__(self) -> None:
        check_word("seed", self.seed)
        if not self.sources:
            raise SpecError("a mixture needs one source or more")
        if unknown := set(self.weights) - set(self.sources):
            raise SpecError(f"weights name '{min(unknown)}', which is no source; sources are {', '.join(self.sources)}")
        numbers = np.array([self.weights.get(name, 1.0 if not self.weights else 0.0) for name in self.sources])
        if not np.isfinite(numbers).all() or (numbers < 0).any() or not numbers.sum() > 0:
            raise SpecError(f"weights={dict(self.weights)}: give numbers of 0 or more, one of them above 0")
        object.__setattr__(self, "_ends", np.cumsum(numbers) / numbers.sum())

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides the episodes."""
        parts = [(name, series.fingerprint, self.weights.get(name)) for name, series in self.sources.items()]
        return hashlib.sha256(f"mixture {parts} {self.seed}".encode()).hexdigest()

    def source(self, index: int) -> str:
        """Name of the source of episode `index`."""
        index = check_word("index", index)
        if self.length is not None and index >= self.length:
            raise SpecError(f"index {index} is beyond this mixture of {self.length} episodes")
        key = np.uint64(self.seed), np.uint64(stream_key("source", 1))
        word = philox(*key, np.uint64(1), np.uint64(0), np.uint64(SOURCE), np.uint64(index))[0]
        ends: NDArray[np.float64] = self._ends  # type: ignore[attr-defined]  # set at construction
        place = int(np.searchsorted(ends, (int(word) >> 11) / 2**53, side="right"))
        return list(self.sources)[min(place, len(ends) - 1)]

    def __getitem__(self, index: int) -> Episode[NDArray[Any]]:
        """Episode `index`, in arrays of its own."""
        return self.sources[self.source(index)][index]
