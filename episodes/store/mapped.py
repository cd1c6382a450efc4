"""MappedStore: a store on disk, read by memory-mapping every column at its offset in the file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from episodes.classes import ClassIndex, Int
from episodes.errors import SpecError, StoreCorrupt, StoreError, near
from episodes.protocols import FieldSpec, Places
from episodes.remote.place import Place, place
from episodes.store._cache import announce, available_bytes, read_through
from episodes.store._encoded import decode_rows
from episodes.store._gather import gather
from episodes.store._shards import MappedShards
from episodes.store._verify import verify_store
from episodes.store.manifest import CLASSES, DIGEST, KEY, MANIFEST, SPAN, Manifest
from episodes.store.table import ClassTable


class MappedStore:
    """A store folder, opened for reading. Opening takes milliseconds and reads no sample.

    At a url, its shards are fetched into the cache when rows of theirs are first read (`episodes.remote`).
    Reading through the HDF5 library costs 10 to 100 times a copy from the mapped file, so the
    library is not used: the manifest knows where each column begins. Safe for any number of threads.

    Raises:
        StoreError: there is no store at `path`.
        StoreVersion: it has another format version.
        StoreCorrupt: a file is missing, has another size than the manifest says, or the manifest was altered.
    """

    def __init__(self, path: Place | str) -> None:
        self.path = place(path)
        self.manifest = Manifest.from_json(_read(self.path, MANIFEST), f"{self.path / MANIFEST}")
        listing = _read(self.path, CLASSES)
        if hashlib.sha256(listing).hexdigest() != self.manifest.classes_sha256:
            raise StoreCorrupt(f"{self.path / CLASSES} was altered: its hash is not the one in {MANIFEST}")
        self.table = ClassTable.from_json(listing)
        room = available_bytes()
        # Where most reads will miss the page cache, rows are announced before they are read.
        self._misses = room is not None and self._bytes > room
        self._shards = MappedShards(self.path, self.manifest, random=self._misses)

    def __reduce__(self) -> tuple[Callable[..., MappedStore], tuple[Place, str]]:
        """A pickle is the path: another process on this machine maps the files anew."""
        return _opened_again, (self.path.absolute(), self.fingerprint)

    @property
    def fields(self) -> Mapping[str, FieldSpec]:
        """Type and shape of each field."""
        return self.manifest.fields

    @property
    def class_fields(self) -> Mapping[str, NDArray[Any]]:
        """Name -> [C, ...] by class number, read-only: what the store knows of each class beside its rows."""
        return self.table.class_fields

    @property
    def num_rows(self) -> int:
        """Rows in the store."""
        return self.manifest.num_rows

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything in the store that can change an episode."""
        return self.manifest.fingerprint

    def split(self, name: str) -> ClassIndex:
        """Classes of a split; see `ClassTable.split`."""
        return replace(self.table.split(name), column=self._integers, fingerprint=self.fingerprint)

    def _integers(self, name: str) -> Int:
        """Values of an integer field with one number a row, for all rows."""
        spec = self.fields.get(name)
        if spec is None or spec.shape or np.dtype(spec.dtype).kind not in "iu":
            raise SpecError(f"the store has no field '{name}' with one whole number a row; {near(name, self.fields)}")
        return self._column(name, np.arange(self.num_rows)).astype(np.int64)

    def read(self, rows: Int, out: Mapping[str, NDArray[Any]] | None = None) -> dict[str, NDArray[Any]]:
        """Values of `rows`: name -> ``[n, *shape]``; of all fields into fresh arrays, or of those in `out` into these.

        Encoded fields are decoded in the calling thread, without the interpreter lock.

        Raises:
            StoreError: a row is out of range, or an array of `out` is not contiguous or of another type or shape; the
                decoder of an encoded field is not installed.
            StoreCorrupt: an image is damaged; its row and sample key are named.
        """
        names = self.fields if out is None else out
        return {name: self._values(name, rows, None if out is None else out[name]) for name in names}

    def places(self, name: str) -> Places | None:
        """Where the values of a field lie in memory; None where they must be read: encoded, not all here, or too large."""
        if self._misses or self._shards.absent or name in self.manifest.encodings:
            return None
        return Places(self._shards.addresses[name], self.manifest.rows_per_shard)

    def _values(self, name: str, rows: Int, out: NDArray[Any] | None) -> NDArray[Any]:
        if name not in self.manifest.encodings:
            return self._column(name, rows, out)
        out = _array(name, self.fields[name], len(rows), out)

        def damaged(i: int, reason: str) -> StoreCorrupt:
            key = self.keys(rows[i : i + 1])[0]
            return StoreCorrupt(
                f"{self.path}: the image '{name}' of row {rows[i]}, sample '{key}', is damaged ({reason}); "
                "ingest the source again"
            )

        decode_rows(self._shards.images[name], *self._spans(name, rows), out, damaged)
        return out

    def encoded(self, name: str, rows: Int) -> list[bytes] | None:
        """The encoded images of `rows`, byte by byte as they are stored; None where the field is not encoded.

        Raises:
            StoreError: a row is out of range.
        """
        if name not in self.manifest.encodings:
            return None
        shards, spans = self._spans(name, rows)
        return [
            self._shards.images[name][shard][start : start + length].tobytes()
            for shard, (start, length) in zip(shards.tolist(), spans.tolist(), strict=True)
        ]

    def _spans(self, name: str, rows: Int) -> tuple[Int, Int]:
        """Shard of each row [n]; first byte and length of its image there [n, 2]."""
        spans = self._column(SPAN + name, rows)  # which also checks the rows
        shards = rows // self.manifest.rows_per_shard
        if self._misses:
            begin = np.array([shard.offsets[name] for shard in self.manifest.shards])
            announce(self._shards.maps, shards, begin[shards] + spans[:, 0], spans[:, 1])
        return shards, spans

    def keys(self, rows: Int) -> list[str]:
        """Sample keys of `rows`: where each came from in the raw data."""
        return [key.decode() for key in self._column(KEY, rows).tolist()]

    def digests(self, rows: Int) -> NDArray[np.uint8]:
        """[n, 16] BLAKE2b-128 of each row's values; equal digests are equal samples."""
        return self._column(DIGEST, rows)

    def _column(self, name: str, rows: Int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        spec = self.manifest.columns[name]
        out = _array(name, spec, len(rows), out)
        target = np.uint64(out.ctypes.data)
        rows = np.ascontiguousarray(rows, np.int64)
        self._shards.need(rows)
        if self._misses:
            self._announce(name, spec, rows)
        addresses = self._shards.addresses[name]
        wrong = gather(addresses, self.manifest.rows_per_shard, self.num_rows, spec.row_bytes, rows, target)
        if wrong != -1:
            raise StoreError(f"row {rows[wrong]} is not in 0..{self.num_rows - 1}")
        return out

    def _announce(self, name: str, spec: FieldSpec, rows: Int) -> None:
        rows = rows[(rows >= 0) & (rows < self.num_rows)]
        shards, places = np.divmod(rows, self.manifest.rows_per_shard)
        begin = np.array([shard.offsets[name] for shard in self.manifest.shards])
        announce(self._shards.maps, shards, begin[shards] + places * spec.row_bytes, np.full(len(rows), spec.row_bytes))

    @property
    def _bytes(self) -> int:
        return sum(shard.size for shard in self.manifest.shards)

    def warm(self, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Read the store into the page cache, front to back; returns how many bytes of it.

        Stops where the memory that is available ends: more would only push out what was read before. Called with
        ``progress(bytes done, bytes that will be read)``.

        Raises:
            StoreError: a shard cannot be read.
        """
        room = available_bytes()
        wanted = self._bytes if room is None else min(self._bytes, room)
        return read_through(self._shards.files(), wanted, lambda done: progress(done, wanted))

    def verify(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Read every byte and compare it with the hashes; ``progress(bytes done, bytes in all)`` is called on the way.

        Encoded images are decoded, too, and compared with the digests of the values that ingest saw.

        Raises:
            StoreCorrupt: the first damaged shard is named, or the first row that decodes to other values.
        """
        verify_store(self, progress)


def _opened_again(path: Place, fingerprint: str) -> MappedStore:
    """The store that was pickled, and no other that took its place."""
    store = MappedStore(path)
    if store.fingerprint != fingerprint:
        raise StoreError(
            f"{path} was replaced: its fingerprint is {store.fingerprint}, that of the pickled store {fingerprint}"
        )
    return store


def _array(name: str, spec: FieldSpec, rows: int, out: NDArray[Any] | None) -> NDArray[Any]:
    """`out` if it fits, a fresh array if it is None."""
    shape, dtype = (rows, *spec.shape), np.dtype(spec.dtype)
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous or not out.flags.writeable:
        raise StoreError(
            f"array for field '{name}' must be contiguous, writable {dtype} of shape {shape}; "
            f"it is {out.dtype} of shape {out.shape}"
        )
    return out


def _read(path: Place, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        unfinished = path.with_name(path.name + ".partial")
        mend = (
            "an unfinished ingest is beside it: finish it with --resume"
            if isinstance(unfinished, Path) and unfinished.exists()
            else "make one with `episodes ingest`"
        )
        raise StoreError(f"no store at {path} ({mend})") from None
    except OSError as error:
        raise StoreError(f"cannot read {path / name}: {error.strerror}") from error
