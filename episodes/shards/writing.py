"""Writing a shard file piece by piece, hashed on the way; and the notes that tell which shards are whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Final

from episodes.errors import StoreError
from episodes.partial import own_suffix
from episodes.shards.manifest import EpisodeShard
from episodes.shards.record import Buffer
from episodes.store.manifest import canonical
from episodes.store.writer import write_whole

_LARGE: Final = 64 << 10  # bytes of a piece that is written, and hashed, on its own
_JOINED: Final = 1 << 20  # bytes of smaller ones that are joined for that


class HashedFile:
    """A file written aside and renamed when it is complete; its size and SHA-256 are known then.

    A thread hashes what has been written while more is made; what is given must not change until then.

    Raises:
        StoreError: the disk is full or the place cannot be written; nothing is left behind.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._aside = path, path.with_name(path.name + own_suffix())
        self._hash, self.size = hashlib.sha256(), 0
        self._small: list[Buffer] = []
        self._small_bytes = 0
        self._thread = ThreadPoolExecutor(1, "hash")
        self._hashing: Future[None] | None = None

    @property
    def sha256(self) -> str:
        """Of all, when the file is complete."""
        return self._hash.hexdigest()

    def write(self, pieces: Iterable[Buffer]) -> None:
        """Add `pieces`."""
        try:
            for piece in pieces:
                size = len(piece) if isinstance(piece, bytes) else piece.nbytes
                self.size += size
                if size >= _LARGE:
                    self._put_small()
                    self._put(piece)
                    continue
                self._small.append(piece)
                self._small_bytes += size
                if self._small_bytes >= _JOINED:
                    self._put_small()
        except OSError as error:
            raise _refused(self._path, error) from error

    def _put_small(self) -> None:
        if self._small:
            self._put(b"".join(self._small))
        self._small, self._small_bytes = [], 0

    def _put(self, piece: Buffer) -> None:
        if self._hashing is not None:
            self._hashing.result()
        self._hashing = self._thread.submit(self._hash.update, piece)
        self._file.write(piece)

    def __enter__(self) -> HashedFile:
        try:
            self._file = self._aside.open("wb")
        except OSError as error:
            raise _refused(self._path, error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._put_small()
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.close()
            if kind is None:
                self._aside.replace(self._path)
        except OSError as failure:
            self._aside.unlink(missing_ok=True)
            raise _refused(self._path, failure) from failure
        finally:
            self._thread.shutdown()
        if kind is not None:
            self._aside.unlink(missing_ok=True)


def _refused(path: Path, error: OSError) -> StoreError:
    if error.errno == errno.ENOSPC:
        return StoreError(f"no space left on the disk of {path}; free some and go on with --resume")
    return StoreError(f"cannot write {path}: {error.strerror}")


def write_note(folder: Path, number: int, shard: EpisodeShard) -> None:
    """Note that a shard is whole."""
    write_whole(folder / f"shard-{number:05d}.json", canonical(asdict(shard)), own_suffix())


def note_of(folder: Path, number: int, *, read: bool = True) -> EpisodeShard | None:
    """The shard, if it was noted and its files are what the note says; without `read`, by their presence and size only."""
    name = f"shard-{number:05d}"
    try:
        shard = EpisodeShard(**json.loads((folder / f"{name}.json").read_bytes()))
        size = (folder / shard.file).stat().st_size
    except (FileNotFoundError, ValueError, TypeError):  # not made yet; or a note that is none: made again
        return None
    if (shard.file, shard.index_file, shard.size) != (f"{name}.tar", f"{name}.index.npy", size):
        return None
    for file, expected in ((shard.file, shard.sha256), (shard.index_file, shard.index_sha256)):
        if not (folder / file).exists() or (read and hash_file(folder / file) != expected):
            return None
    return shard


def hash_file(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()
