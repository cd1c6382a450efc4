"""MixedEpisodes: episodes of several series, each from one of them, by weight."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from episodes.episode import Episode, EpisodeBlock, EpisodePlan, Part
from episodes.errors import SpecError
from episodes.protocols import FieldSpec
from episodes.rng import SOURCE, check_word, philox, stream_key
from episodes.stream.buffers import Arena, padded
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
        if not self.sources:
            raise SpecError("a mixture needs one source or more")
        if unknown := set(self.weights) - set(self.sources):
            raise SpecError(f"weights name '{min(unknown)}', which is no source; sources are {', '.join(self.sources)}")
        numbers = np.array([self.weights.get(name, 1.0 if not self.weights else 0.0) for name in self.sources])
        if not np.isfinite(numbers).all() or (numbers < 0).any() or not numbers.sum() > 0:
            raise SpecError(f"weights={dict(self.weights)}: give numbers of 0 or more, one of them above 0")
        object.__setattr__(self, "_ends", np.cumsum(numbers) / numbers.sum())
        drawn = [series.length for series, number in zip(self.sources.values(), numbers, strict=True) if number > 0]
        lengths = [length for length in (*drawn, self.length) if length is not None]
        object.__setattr__(self, "length", min(lengths, default=None))
        shared_fields(self.sources)
        shared_class_fields(self.sources)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides the episodes."""
        parts = [(name, series.fingerprint, self.weights.get(name)) for name, series in self.sources.items()]
        return hashlib.sha256(f"mixture {parts} {self.seed}".encode()).hexdigest()

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
            for place, b in enumerate(chosen):
                where[b] = len(parts), place
            parts.append(self._shared(self.sources[name].block([indices[b] for b in chosen], arena)))
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


@dataclass(kw_only=True, eq=False)
class MixedBlock(Sequence[Episode[Array]]):
    """Episodes of several sources that were made together, in order; each is a view into the block of its source."""

    indices: Sequence[int]
    """[B] index of each episode."""
    parts: tuple[EpisodeBlock, ...]
    """One a source."""
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
    return Part(
        fields={name: np.stack([part.fields[name] for part in parts]) for name in parts[0].fields},
        labels=np.stack([part.labels for part in parts]),
        rows=np.stack([part.rows for part in parts]),
    )


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
