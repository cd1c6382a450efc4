"""MixedEpisodes: episodes of several series, each from one of them, by weight."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from episodes.episode import Episode, EpisodeBlock, EpisodePlan
from episodes.errors import SpecError
from episodes.protocols import FieldSpec
from episodes.rng import SOURCE, check_word, philox, stream_key
from episodes.stream.buffers import Arena, padded
from episodes.stream.mixed_block import MixedBlock
from episodes.stream.series import SampledEpisodes

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class MixedEpisodes:
    """Episode i comes from the source that the key (seed, SOURCE, i) draws, and is episode i of that source.

    Sources are alike unless `weights` say otherwise, whatever their sizes (Triantafillou et al. 2020). Adding a source
    changes which source an index has, never what episode i of a source is. Episodes have the fields and the class fields
    that every source has, of one type and shape.

    Raises:
        SpecError: no source; a weight that is no number of 0 or more, or all 0; weights of other names; sources whose
            fields or class fields differ in type or shape, or that share no field.
    """

    sources: Mapping[str, SampledEpisodes]
    """name -> series."""
    weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    length: int | None = None
    """Number of episodes; None: as many as the shortest source that is drawn from has, endless for most."""
    _largest: list[int] = field(default_factory=lambda: [0], init=False, repr=False)

    def __post_init__(self) -> None:
        check_word("seed", self.seed)
        if self.length is not None:
            check_word("length", self.length)
        if not self.sources:
            raise SpecError("a mixture needs one source or more")
        if unknown := set(self.weights) - set(self.sources):
            raise SpecError(f"weights name '{min(unknown)}', which is no source; sources are {', '.join(self.sources)}")
        numbers = _numbers([self.weights.get(name, 1.0 if not self.weights else 0.0) for name in self.sources])
        if not np.isfinite(numbers).all() or (numbers < 0).any() or not numbers.any():
            raise SpecError(f"weights={dict(self.weights)}: give numbers of 0 or more, one of them above 0")
        numbers = numbers / numbers.max()
        object.__setattr__(self, "_ends", np.cumsum(numbers) / numbers.sum())
        drawn = [series.length for series, number in zip(self.sources.values(), numbers, strict=True) if number > 0]
        lengths = [length for length in (*drawn, self.length) if length is not None]
        object.__setattr__(self, "length", min(lengths, default=None))
        shared_fields(self.sources)
        shared_class_fields(self.sources)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides the episodes."""
        ends: NDArray[np.float64] = self._ends  # type: ignore[attr-defined]  # set at construction
        parts = [(name, series.fingerprint) for name, series in self.sources.items()]
        return hashlib.sha256(f"mixture {parts} {ends.tolist()} {self.seed}".encode()).hexdigest()

    @cached_property
    def fields(self) -> Mapping[str, FieldSpec]:
        """Type and shape of each field that is delivered: those that every source has."""
        return shared_fields(self.sources)

    @cached_property
    def class_fields(self) -> Mapping[str, FieldSpec]:
        """Type and shape, of one class, of each class field that every source has."""
        return shared_class_fields(self.sources)

    @cached_property
    def episode_bytes(self) -> int:
        """Bytes of a usual episode's values, of the source with the largest."""
        return max(series.episode_bytes for series in self.sources.values())

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

    def plan(self, index: int) -> EpisodePlan:
        """Row numbers of episode `index`, in the store of its source; no sample is read."""
        return self.sources[self.source(index)].plan(index)

    def class_names(self, index: int) -> list[str]:
        """Names of the classes of episode `index`, in order of their labels."""
        return self.sources[self.source(index)].class_names(index)

    def __getitem__(self, index: int) -> Episode[Array]:
        """Episode `index`, in arrays of its own."""
        return self.block([index], Arena())[0]

    def block(self, indices: Sequence[int], arena: Arena) -> MixedBlock:
        """The episodes `indices`, those of a source gathered together, into arrays of `arena`."""
        places: dict[str, list[int]] = {}
        for b, index in enumerate(indices):
            places.setdefault(self.source(index), []).append(b)
        # All at once, or the memory of one source's values would be given up for that of the next.
        usual = sum(len(chosen) * self.sources[name].episode_bytes for name, chosen in places.items())
        arena.reserve([max(usual, self._largest[0])])
        parts: list[EpisodeBlock] = []
        where = [(0, 0)] * len(indices)
        for name, chosen in places.items():
            made = self.sources[name].block([indices[b] for b in chosen], arena)
            begin, its = len(parts), made.places if isinstance(made, MixedBlock) else [(0, k) for k in range(len(chosen))]
            for b, (part, place) in zip(chosen, its, strict=True):
                where[b] = begin + part, place
            parts += map(self._shared, made.parts if isinstance(made, MixedBlock) else (made,))
        values = [values for part in parts for values in (*part.fields.values(), *part.class_fields.values())]
        self._largest[0] = max(self._largest[0], sum(padded(one.nbytes) for one in values))
        return MixedBlock(indices=tuple(indices), parts=tuple(parts), places=where)

    def _shared(self, block: EpisodeBlock) -> EpisodeBlock:
        """`block` without the fields that other sources lack; what functions of one's own make is left as it is."""
        if len(block.class_fields) > len(self.class_fields):
            block = replace(block, class_fields={name: block.class_fields[name] for name in self.class_fields})
        if set(block.fields) == set(self.fields) or any(series.then is not None for series in self.sources.values()):
            return block
        return replace(block, fields={name: block.fields[name] for name in self.fields})


def _numbers(weights: Sequence[Any]) -> NDArray[np.float64]:
    try:
        return np.array([float(weight) for weight in weights])
    except (TypeError, ValueError):
        return np.array([np.nan])  # refused with the rest


def shared_fields(sources: Mapping[str, SampledEpisodes]) -> dict[str, FieldSpec]:
    """The fields that every source delivers, in the order of the first.

    Functions of one's own (`SampledEpisodes.then`) make fields that nobody knows before; where a source has one, the fields
    are those before it, and are not compared.

    Raises:
        SpecError: a field of one name with two types or shapes; no field that all have.
    """
    compared = all(series.then is None for series in sources.values())
    mend = "sources of a mixture need the same (ingest both with one --size)" if compared else None
    shared = _shared("field", {source: series.fields for source, series in sources.items()}, mend)
    if compared and not shared:
        fields = ", ".join(f"'{name}' has {', '.join(series.fields)}" for name, series in sources.items())
        raise SpecError(f"the sources of a mixture share no field: {fields}")
    return shared


def shared_class_fields(sources: Mapping[str, SampledEpisodes]) -> dict[str, FieldSpec]:
    """The class fields that every source has, in the order of the first; there may be none.

    Raises:
        SpecError: a class field of one name with two types or shapes.
    """
    mend = "sources of a mixture need the same"
    return _shared("class field", {source: series.class_fields for source, series in sources.items()}, mend)


def _shared(kind: str, fields: Mapping[str, Mapping[str, FieldSpec]], mend: str | None) -> dict[str, FieldSpec]:
    """Those of `fields` (source -> name -> type and shape) that all sources have; refused where they differ, if `mend`."""
    (first, one), *others = fields.items()
    shared = {name: spec for name, spec in one.items() if all(name in other for _, other in others)}
    for name, spec in shared.items() if mend else ():
        for second, other in others:
            if (found := other[name]) != spec:
                raise SpecError(
                    f"{kind} '{name}' is {spec.dtype} of shape {spec.shape} in source '{first}' and {found.dtype} of shape "
                    f"{found.shape} in source '{second}'; {mend}"
                )
    return shared
