"""A store of features: every image of another store through an embedder, once, with the same classes and keys.

Features go to an unnamed file first, so that an embedding that ends early, however it ends, leaves none of it behind.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from episodes.classes import ClassIndex
from episodes.errors import ConfigError, StoreError
from episodes.ingest import ingest
from episodes.partial import Making
from episodes.protocols import FieldSpec, Listing, RawSample
from episodes.selection import Selection
from episodes.store.manifest import MANIFEST, Manifest
from episodes.store.mapped import MappedStore
from learners.embed import Embedder

FEATURES: Final = "features"  # the field of the store that is made, and the name of its reader
Dtype = Literal["float32", "float16"]
Progress = Callable[[int, int], None]
_TRIED: Final = 4  # rows that are embedded together and alone, to see that it makes no difference


def _silent(done: int, total: int) -> None:
    """No progress bar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What made the features; recorded in the manifest of their store."""

    backbone: str
    """Name of a backbone, or of the method of a run."""
    weights: str
    """SHA-256 of parameters and statistics, by name."""
    source: str
    """Fingerprint of the store that was embedded."""
    field: str
    split: str
    rotations: bool
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeaturesReader:
    """A reader of features that are computed already; every class of `classes` with its turn is a class."""

    store: MappedStore
    classes: ClassIndex
    features: NDArray[Any]
    """[sum of counts, D], class by class in order of `classes`."""
    name: str = FEATURES
    version: int = 1

    def listing(self) -> Listing:
        """Samples, and groups, splits, hierarchy and class fields of the store as far as they are of these classes."""
        classes, table = self.classes, self.store.table
        named: dict[str, list[str]] = {}  # class of the store -> its names here
        samples, place = [], 0
        for name, start, count, turn in zip(
            classes.names, classes.starts.tolist(), classes.counts.tolist(), classes.variants.tolist(), strict=True
        ):
            own = f"{name}/rot{90 * turn:03d}" if turn else name
            named.setdefault(name, []).append(own)
            for key in self.store.keys(np.arange(start, start + count)):
                samples.append(RawSample(own, key, _Row(self.features, place), self.features[0].nbytes))
                place += 1
        number = {name: c for c, name in enumerate(table.names)}
        groups = {
            own: table.group_names[g] for name in named if (g := table.groups[number[name]]) >= 0 for own in named[name]
        }
        splits = {one: _present(table.names, parts, named) for one, parts in table.splits.items()}
        known = {
            one: {own: values[number[name]] for name in named for own in named[name]}
            for one, values in self.store.class_fields.items()
        }
        return Listing(
            fields={FEATURES: FieldSpec(self.features.dtype.name, self.features.shape[1:])},
            samples=samples,
            groups=groups,
            splits={one: parts for one, parts in splits.items() if parts},
            is_a=[(parent, own) for parent, child in table.is_a for own in named.get(child, [child])],
            class_fields=known,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    features: NDArray[Any]
    place: int

    def __call__(self) -> Mapping[str, NDArray[Any]]:
        return {FEATURES: np.array(self.features[self.place])}


def _present(
    names: Sequence[str], parts: Mapping[str, Sequence[int]], named: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """The parts of a split list that have classes among `named`, by their names there."""
    found = {split: [own for c in members for own in named.get(names[c], ())] for split, members in parts.items()}
    return {split: members for split, members in found.items() if members}


def embed(
    embedder: Embedder,
    store: MappedStore,
    out: Path,
    *,
    split: str = "all",
    rotations: bool = False,
    dtype: Dtype = "float32",
    batch: int = 256,
    overwrite: bool = False,
    progress: Progress = _silent,
    written: Progress = _silent,
) -> Manifest:
    """Write the features of `store` as a store at `out`: field ``features``, [D] a row.

    Classes, rows, keys, groups, split lists, hierarchy and class fields are those of `store`, as far as they are of
    `split`. A quarter turn of a class is a class of its own, ``name/rot090``, in the groups and splits of the class. The
    bytes are a pure function of store, embedder and options on one machine and number of threads.

    Args:
        embedder: what makes the features.
        store: where the images are.
        out: folder to make; interrupted, nothing of it is left.
        split: which classes; ``all``.
        rotations: each class four times, turned by quarter turns.
        dtype: of the features.
        batch: rows of a pass.
        overwrite: replace the store at `out`.
        progress: called with (rows embedded, rows in all).
        written: called with (rows written, rows in all).

    Raises:
        ConfigError: a feature depends on the rows beside it, or is no number of `dtype`.
        StoreError: `out` exists, or cannot be written.
        SpecError: no such split; quarter turns of images that are not square.
    """
    making = Making(out, MANIFEST, b"", "ingest", "store")
    making.check_target(overwrite=overwrite, resume=False)
    if making.partial.exists() and not overwrite:
        raise StoreError(f"an unfinished store is at {making.partial}; start over with --overwrite")
    classes = Selection(split=split, rotations=rotations).classes(store)
    shape = store.fields[embedder.image].shape
    if rotations and (len(shape) != 3 or shape[-1] != shape[-2]):
        raise ConfigError(f"rotations: field '{embedder.image}' of shape {shape} is no square image")
    options = Options(
        backbone=embedder.name,
        weights=embedder.weights,
        source=store.fingerprint,
        field=embedder.image,
        split=classes.split,
        rotations=rotations,
        dtype=dtype,
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent) as file:
            features = compute(embedder, store, classes, file, dtype=dtype, batch=batch, progress=progress)
            reader = FeaturesReader(store=store, classes=classes, features=features)
            return ingest(reader, out, options=options, overwrite=overwrite, progress=written)
    except OSError as error:
        raise StoreError(f"cannot write {out}: {error.strerror}") from error
    finally:
        shutil.rmtree(making.partial, ignore_errors=True)  # a store that was made is no longer there


def compute(
    embedder: Embedder,
    store: MappedStore,
    classes: ClassIndex,
    file: IO[bytes],
    *,
    dtype: Dtype,
    batch: int,
    progress: Progress = _silent,
) -> NDArray[Any]:
    """Features of all rows of `classes`, [sum of counts, D] in their order, written to `file` and mapped from it.

    Raises:
        ConfigError: a feature depends on the rows beside it, or is no number of `dtype`.
    """
    rows = np.concatenate(
        [np.arange(start, start + count) for start, count in zip(classes.starts, classes.counts, strict=True)]
    )
    turns = np.repeat(classes.variants, classes.counts)
    spec, name = store.fields[embedder.image], embedder.image

    def images(chosen: NDArray[np.int64]) -> NDArray[Any]:
        return store.read(chosen, {name: np.empty((len(chosen), *spec.shape), spec.dtype)})[name]

    embedder.check(images(rows[:_TRIED]))
    width = 0
    for start in range(0, len(rows), batch):
        end = min(start + batch, len(rows))
        features = embedder(images(rows[start:end]), turns[start:end] if classes.turned else None)
        with np.errstate(over="ignore"):
            values = features.astype(dtype)
        if not np.isfinite(values).all():
            raise ConfigError(
                f"dtype: features up to {np.abs(features).max():g} are no finite {dtype}"
                f"{' (give --dtype float32)' if dtype == 'float16' else ''}"
            )
        file.write(values.tobytes())
        width = values.shape[1]
        progress(end, len(rows))
    file.flush()
    return np.memmap(file, dtype, "r", shape=(len(rows), width))
