"""A folder in the making: it appears whole or not at all, can be interrupted and gone on with, and has one writer.

What is written lies in ``OUT.partial`` until it is complete, together with a note of the work it belongs to, and is then
renamed to ``OUT``. A kill at any moment leaves nothing that opens as the finished thing, and nothing that is lost.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from episodes.errors import StoreError
from episodes.store.writer import write_whole

NOTE: Final = "work.json"
_LOCK: Final = "lock"


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

    @property
    def partial(self) -> Path:
        """The folder while it is unfinished."""
        return self.out.with_name(self.out.name + ".partial")

    def check_target(self, *, overwrite: bool, resume: bool) -> None:
        """Refuse a target that must not be replaced.

        Raises:
            StoreError: it exists and neither was said, or is something else.
        """
        if self.out.exists() and not (overwrite or resume):
            raise StoreError(f"{self.out} exists; give --overwrite to replace it, or another path")
        if self.out.exists() and not (self.out / self.marker).is_file():
            raise StoreError(f"{self.out} exists and is not a {self.thing}; it is not replaced (choose another path)")

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
        try:
            partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make {partial}: {error.strerror}") from error
        with _locked(partial, together):
            self._begin(partial, overwrite)
            yield partial

    def _begin(self, partial: Path, overwrite: bool) -> None:
        if overwrite:
            for path in partial.iterdir():
                if path.name != _LOCK:
                    path.unlink() if path.is_file() else shutil.rmtree(path)
        note = partial / NOTE
        if note.exists() and note.read_bytes() != self.work:
            raise StoreError(f"{partial} was begun from another source or with other options; start over with --overwrite")
        if not note.exists():
            write_whole(note, self.work)
        (partial / self.marker).unlink(missing_ok=True)  # killed just before the rename: not finished until in its place

    def finish(self) -> None:
        """Put the folder in its place; what stood there is moved aside first, then deleted."""
        for name in (NOTE, _LOCK):
            (self.partial / name).unlink(missing_ok=True)
        old = self.out.with_name(self.out.name + ".old")
        if self.out.exists():
            shutil.rmtree(old, ignore_errors=True)
            self.out.rename(old)
        self.partial.rename(self.out)
        if old.exists():
            shutil.rmtree(old)


@contextmanager
def _locked(folder: Path, together: bool) -> Iterator[None]:
    """Hold the folder's lock; the system lets go of it however the process ends."""
    try:
        import fcntl
    except ImportError:  # not on this system: two writers are then the user's care
        yield
        return
    try:
        file = (folder / _LOCK).open("ab")
    except OSError as error:
        raise StoreError(f"cannot write {folder / _LOCK}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if together else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"another process is writing to {folder}; wait for it, or stop it") from None
        yield
