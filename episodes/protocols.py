"""The seams of the data pipeline on one page: Reader or Maker, SampleStore, EpisodeSampler, Series.

Raw data -> Reader -> SampleStore -> EpisodeSampler (row numbers) -> Series (values) -> Stream. A Maker stands where there
are no raw data: its store computes rows when they are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from episodes.classes import ClassIndex, Int, UInt
from episodes.episode import EpisodePlan
from episodes.spec import EpisodeSpec

Arrays = Mapping[str, NDArray[Any]]
Item_co = TypeVar("Item_co", covariant=True)


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """Type and shape of one named array of a sample."""

    dtype: str
    """NumPy name, little-endian where that matters: ``uint8``, ``float32``, ``int64``."""
    shape: tuple[int, ...]
    """Shape of one sample; images are channel first, ``(channels, height, width)``."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """A field in memory: row r begins at ``addresses[r // rows_per_shard] + (r % rows_per_shard) * row_bytes``."""

    addresses: UInt
    """[shards] place of the field's first byte in each shard; it stays there as long as the store is referred to."""
    rows_per_shard: int


@dataclass(frozen=True, slots=True)
class RawSample:
    """One sample of raw data, not yet decoded."""

    class_name: str
    key: str
    """Unique within its class; decides the sample's place among its class's rows."""
    load: Callable[[], Arrays]
    """Decode: field name -> array. Called once, from any thread. Raises `ReaderError` naming the file."""
    size: int = 0
    """Bytes of the raw sample where that is cheap to tell; a resumed ingest is refused if it has changed."""
    raw: Callable[[], Mapping[str, bytes]] | None = None
    """Field name -> the bytes it is decoded from, for fields that are one encoded image. An encoded store keeps them
    untouched where they decode to precisely what `load` gives; whether they do is found out by trying."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a source holds, before anything is decoded."""

    fields: Mapping[str, FieldSpec]
    samples: Sequence[RawSample]
    """In any order; `episodes.ingest` orders classes by name and rows by the hash of their key."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """class name -> group name, for the classes that have one."""
    splits: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    """split list -> split (``train``, ``val``, ``test``) -> class names. The first list is the store's default."""
    is_a: Sequence[tuple[str, str]] = ()
    """(parent, child) pairs of a hierarchy above the classes, for semantic sampling; empty where there is none."""
    class_fields: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    """class field -> class name -> array of one type and shape, for every class: what is known of a class beside its
    samples, as its attributes. Numbers only, and finite ones: they are kept with the classes, not with the rows."""


class Reader(Protocol):
    """One raw format or data set. Knows nothing of stores. One file in ``episodes/readers`` each.

    A reader module defines ``Options`` (a frozen dataclass whose fields become command-line options) and
    ``make(source, options) -> Reader``.
    """

    @property
    def name(self) -> str:
        """The plug-in's name."""
        ...

    @property
    def version(self) -> int:
        """Raised when the same raw data would give other bytes."""
        ...

    def listing(self) -> Listing:
        """Everything the source holds; lists files but decodes as little as it can."""
        ...


class Maker(Protocol):
    """A data set that is computed: classes without end to their number, none of whose rows is kept anywhere.

    Knows nothing of stores. One file in ``episodes/makers`` each: a module that defines ``Options`` (a frozen dataclass)
    and ``make(options) -> Maker``. Every value is a pure function of (maker, options, class, place), by keys of
    `episodes.rng`: nothing depends on what else is asked for with it.
    """

    @property
    def name(self) -> str:
        """The plug-in's name."""
        ...

    @property
    def version(self) -> int:
        """Raised when the same options would give other values."""
        ...

    @property
    def options(self) -> Any:
        """What decides the values; its ``repr`` is part of the store's fingerprint."""
        ...

    @property
    def fields(self) -> Mapping[str, FieldSpec]:
        """Type and shape of each field of a row."""
        ...

    @property
    def splits(self) -> Mapping[str, int]:
        """Split (``train``, ``val``, ``test``) -> classes, which are numbered split after split."""
        ...

    @property
    def rows(self) -> int:
        """Rows of every class."""
        ...

    def class_values(self, classes: Int) -> Arrays:
        """Name -> [n, ...] of what is known of `classes` beside their rows; empty where nothing is."""
        ...

    def values(self, classes: Int, places: Int) -> Arrays:
        """Field -> [n, ...] of the rows at ``places`` of ``classes``, both [n]."""
        ...


class SampleStore(Protocol):
    """Rows of named arrays, indexed by class."""

    @property
    def fields(self) -> Mapping[str, FieldSpec]:
        """Type and shape of each field."""
        ...

    @property
    def class_fields(self) -> Mapping[str, NDArray[Any]]:
        """Name -> [C, ...] by class number: what is known of each class beside its rows; empty for most stores."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of everything in the store that can change an episode."""
        ...

    @property
    def num_rows(self) -> int:
        """Rows in the store."""
        ...

    def split(self, name: str) -> ClassIndex:
        """Classes of a split: ``train`` of the default list, ``vinyals/test``, ``vinyals/train+val``, or ``all``."""
        ...

    def read(self, rows: Int, out: Mapping[str, NDArray[Any]] | None = None) -> dict[str, NDArray[Any]]:
        """Values of `rows`: name -> ``[n, *shape]``; of all fields into fresh arrays, or of those in `out` into these."""
        ...

    def places(self, name: str) -> Places | None:
        """Where the values of a field lie in memory, for kernels; None where they must be read (encoded images)."""
        ...


class EpisodeSampler(Protocol):
    """A policy choosing classes and rows. Stateless and picklable; ``plan`` is a pure function of its arguments."""

    @property
    def name(self) -> str:
        """The plug-in's name; part of every key."""
        ...

    @property
    def version(self) -> int:
        """Raised when the same key would give another plan; part of every key."""
        ...

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every episode of `spec` can be drawn from `classes`."""
        ...

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`."""
        ...


class Series(Protocol[Item_co]):
    """Items by index: random access and no position. A `Stream` has the position and nothing else."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the items."""
        ...

    @property
    def length(self) -> int | None:
        """How many items there are; None: endless."""
        ...

    def __getitem__(self, index: int) -> Item_co:
        """Item `index`, a pure function of the fingerprint and `index`."""
        ...
