"""A folder in the making: it appears whole or not at all, can be interrupted and gone on with, and has one writer.

What is written lies in ``OUT.partial`` until it is complete, together with a note of the work it belongs to, and is then
renamed to ``OUT``. A kill at any moment leaves nothing that opens as the finished thing, and nothing that is lost.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from episodes.errors import StoreError
from episodes.store.writer import write_whole

NOTE: Final = "work.json"
PART_NOTES: Final = "shard-*.json"  # that a part is whole; of use until all are
ATTEMPT: Final = "task-"
"""How the folders begin in which processes of a cluster make parts; what a dead one left of its folder is removed."""
_LOCK: Final = "lock"
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # file systems that have none


@dataclass(frozen=True, slots=True)
class Making:
    """What is being made, in the words of its errors."""

    out: Path
    marker: str
    """The file that makes a folder the finished thing; it is written last."""
    work: bytes
    """What decides the bytes: an unfinished folder of other work is not gone on with."""
    noun: str
    """ingest, compile."""
    thing: str
    """store, set of episode shards."""
    kind: str | None = None
    """What the marker, a JSON object, has as ``kind``."""

    @property
    def partial(self) -> Path:
        """The folder while it is unfinished."""
        return self.out.with_name(self.out.name + ".partial")

    @property
    def _replaced(self) -> Path:
        return self.out.with_name(f".{self.out.name}.replaced")

    def check_target(self, *, overwrite: bool, resume: bool) -> None:
        """Refuse a target that must not be replaced.

        Raises:
            StoreError: it exists and neither was said, or is something else.
        """
        if self.out.name in ("", ".."):
            raise StoreError(f"{self.out} has no name that a {self.thing} could get; give a path that ends with one")
        if os.path.lexists(self.out) and not (overwrite or resume):
            raise StoreError(f"{self.out} exists; give --overwrite to replace it, or another path")
        if os.path.lexists(self.out) and not self._is_thing():
            raise StoreError(f"{self.out} exists and is not a {self.thing}; it is not replaced (choose another path)")

    def _is_thing(self) -> bool:
        """Whether what stands there is such a thing, damaged as it may be."""
        marker = self.out / self.marker
        if not marker.is_file():
            return False
        try:
            table = json.loads(marker.read_bytes())
        except (OSError, ValueError):
            return True
        return not isinstance(table, dict) or table.get("kind") == self.kind

    @contextmanager
    def open(self, *, overwrite: bool, resume: bool, together: bool = False) -> Iterator[Path]:
        """The unfinished folder, made or gone on with; one process at a time, or several that write parts `together`.

        Raises:
            StoreError: one is there and neither `overwrite` nor `resume` was said; it belongs to other work; another
                process is writing to it; the place cannot be written.
        """
        partial = self.partial
        if partial.exists() and not (overwrite or resume):
            raise StoreError(
                f"an unfinished {self.noun} is at {partial}; go on with --resume, or start over with --overwrite"
            )
        with self._refusals(partial):
            partial.mkdir(parents=True, exist_ok=True)
        with _locked(partial, together):
            # Another writer may have finished between the first look and the lock.
            self.check_target(overwrite=overwrite, resume=resume)
            with self._refusals(partial):
                if not together:
                    self._drop_attempts()
                self._begin(partial, overwrite and not resume)
            yield partial

    def _drop_attempts(self) -> None:
        for folder in self.partial.glob(f"{ATTEMPT}*"):
            # Renamed first: a process that lives on can from then on put nothing in place.
            try:
                gone = folder.rename(folder.with_name(f"{ATTEMPT}{uuid.uuid4().hex}"))
            except FileNotFoundError:  # that process has just ended, and taken it away itself
                continue
            shutil.rmtree(gone, ignore_errors=True)

    def _begin(self, partial: Path, over: bool) -> None:
        if over:
            for path in partial.iterdir():
                if path.name != _LOCK:
                    path.unlink() if path.is_file() or path.is_symlink() else shutil.rmtree(path)
        note = partial / NOTE
        if note.exists() and note.read_bytes() != self.work:
            raise StoreError(f"{partial} was begun from another source or with other options; start over with --overwrite")
        if not note.exists():
            write_whole(note, self.work, own_suffix())
        (partial / self.marker).unlink(missing_ok=True)  # killed just before the rename: not finished until in its place

    def finish(self) -> None:
        """Put the folder in its place; what stood there is moved aside first, and deleted last with the notes.

        Raises:
            StoreError: the place cannot be written.
        """
        with self._refusals(self.out):
            for path in self.partial.glob("*.tmp"):  # of writers that were killed
                path.unlink(missing_ok=True)
            self._drop_attempts()
            if self.out.exists():
                shutil.rmtree(self._replaced, ignore_errors=True)
                self.out.rename(self._replaced)
            self.partial.rename(self.out)
            self.tidy()

    def tidy(self) -> None:
        """Delete what a finished thing has no use for; a kill while finishing may have left it."""
        # The note of the work after those of the parts, the lock last: until then no other writer begins.
        for path in (*self.out.glob(PART_NOTES), self.out / NOTE, self.out / _LOCK):
            path.unlink(missing_ok=True)
        if self._replaced.exists():
            shutil.rmtree(self._replaced)

    @contextmanager
    def _refusals(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"cannot make {path}: {error.strerror}") from error


def own_suffix() -> str:
    """Of a file beside the one it will be renamed to, where another process may be writing the same."""
    return f".{uuid.uuid4().hex[:12]}.tmp"


@contextmanager
def _locked(folder: Path, together: bool) -> Iterator[None]:
    """Hold the folder's lock; the system lets go of it however the process ends."""
    try:
        import fcntl
    except ImportError:  # not on this system: two writers are then the user's care
        yield
        return
    try:
        file = (folder / _LOCK).open("a+b")  # NFS shares a lock among readers only
    except OSError as error:
        raise StoreError(f"cannot write {folder / _LOCK}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if together else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"another process is writing to {folder}; wait for it, or stop it") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise StoreError(f"cannot lock {folder / _LOCK}: {error.strerror}") from error
        if not _still_there(file, folder / _LOCK):  # its folder was renamed before the lock was ours
            raise StoreError(f"another process has just finished {folder}; look at what it made")
        yield


def _still_there(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
