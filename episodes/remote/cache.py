"""Cache: remote files on this machine, named by their hashes; several processes share it and keep to its limit.

A file is downloaded aside, hashed on the way, and renamed: what has a name has that hash. Whoever maps a file holds a
shared lock on it, which lives as long as the mapping and no longer than the process; so a file in use is never evicted.
Room is made and taken under one lock of the folder, before the first byte arrives.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Final

from episodes.errors import CacheFull, ConfigError, StoreError

if TYPE_CHECKING:
    from episodes.remote.place import Remote

GB: Final = 10**9
_USUAL_GB: Final = 50.0
_AT_ONCE: Final = 4  # downloads of one reader
_LOOK_S: Final = 0.05  # between looks at a file that another is downloading
_OURS: Final = re.compile(r"[0-9a-f]{64}(\.part)?")  # nothing else in the folder is counted or deleted


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of files fetched from elsewhere, of at most `limit_bytes`; what was not used for longest goes first."""

    folder: Path
    limit_bytes: int

    @classmethod
    def usual(cls) -> Cache:
        """That of EPISODES_CACHE (``~/.cache/episodes``) and EPISODES_CACHE_GB (50).

        Raises:
            ConfigError: EPISODES_CACHE_GB is no number above 0.
        """
        folder = os.environ.get("EPISODES_CACHE")
        limit = number_of("EPISODES_CACHE_GB", _USUAL_GB)
        return cls(Path(folder) if folder else Path.home() / ".cache" / "episodes", int(limit * GB))

    def path(self, sha256: str) -> Path:
        """Where a file of this hash lies while it is held."""
        return self.folder / sha256

    def fetch(self, source: Remote, sha256: str, size: int | None, corrupt: type[StoreError]) -> BinaryIO:
        """A file of this hash, open and kept from eviction as long as it or a mapping of it lives; downloaded if need be.

        Args:
            source: where it is.
            sha256: of its content.
            size: bytes; None: unknown, for small files.
            corrupt: what is raised where the source has other content.

        Raises:
            FileNotFoundError: the source has no such file.
            StoreError: the place does not answer, or refuses; the cache cannot be written.
            CacheFull: the files in use leave no room for it.
        """
        path = self.path(sha256)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while True:
                if (found := _held(path, size)) is not None:
                    return found
                with _own(path.with_name(f"{sha256}.part")) as part:
                    if part is not None and not path.exists():
                        self._download(source, part, sha256, size, corrupt)
                        part.flush()
                        os.fsync(part.fileno())
                        path.with_name(f"{sha256}.part").replace(path)
                    elif part is None:  # another is at it
                        time.sleep(_LOOK_S)
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise StoreError(
                    f"no space left on the disk of the cache {self.folder} for {source} (free some, or set EPISODES_CACHE)"
                ) from error
            raise StoreError(f"cannot write the cache {self.folder}: {error.strerror} (set EPISODES_CACHE)") from error

    def _download(self, source: Remote, part: BinaryIO, sha256: str, size: int | None, corrupt: type[StoreError]) -> None:
        digest, got = hashlib.sha256(), 0
        whole = [source.read_bytes()] if size is None else None
        expected = len(whole[0]) if whole is not None else size or 0
        self._reserve(part, expected, source)
        for chunk in whole if whole is not None else source.chunks(expected):
            digest.update(chunk)
            part.write(chunk)
            got += len(chunk)
        if got != expected:
            more = "or more " if got > expected else ""
            raise corrupt(f"{source} has {got} bytes {more}where the manifest says {expected}: it was cut short or altered")
        if digest.hexdigest() != sha256:
            raise corrupt(f"{source} was altered: its SHA-256 is {digest.hexdigest()}, the manifest says {sha256}")

    def _reserve(self, part: BinaryIO, size: int, source: Remote) -> None:
        """Make room, and take it: the file has its full length from now on."""
        with (self.folder / "lock").open("a+b") as lock:
            _lock(lock)
            ours = [path for path in self.folder.iterdir() if _OURS.fullmatch(path.name)]
            files = [(path, about) for path in ours if (about := _about(path)) is not None]
            over = sum(about.st_size for _, about in files) + size - self.limit_bytes
            for path, about in sorted(files, key=lambda one: one[1].st_mtime_ns):
                if over <= 0:
                    break
                if about.st_size and _evicted(path):
                    over -= about.st_size
            if over > 0:
                raise CacheFull(
                    f"the cache {self.folder} of {self.limit_bytes / GB:g} GB has no room for {source} ({size} bytes): "
                    "what is in use fills it; raise EPISODES_CACHE_GB"
                )
            part.truncate(size)


def fetch_all(files: Sequence[tuple[Remote, str, int]], corrupt: type[StoreError]) -> Iterator[BinaryIO]:
    """Files of (source, sha256, size), each as of `Cache.fetch`, in order; some are downloaded at a time."""
    if len(files) == 1:
        yield files[0][0].fetch(files[0][1], files[0][2], corrupt)
        return
    with ThreadPoolExecutor(_AT_ONCE, "fetch") as pool:
        futures = [pool.submit(source.fetch, sha256, size, corrupt) for source, sha256, size in files]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _held(path: Path, size: int | None) -> BinaryIO | None:
    """The file, locked against eviction; None: it is not there, or was just evicted."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    _lock(file, shared=True)
    if not _still_there(file, path):
        file.close()
        return None
    if size is not None and os.fstat(file.fileno()).st_size != size:  # by another hand
        path.unlink(missing_ok=True)
        file.close()
        return None
    os.utime(path)  # used now
    return file


@contextmanager
def _own(path: Path) -> Iterator[BinaryIO | None]:
    """A new file that this thread alone writes, deleted again unless it was renamed; None while another writes it."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        if not _lock(file, wait=False) or not _still_there(file, path):
            yield None
            return
        try:
            file.truncate(0)
            yield file
        finally:
            if _still_there(file, path):
                path.unlink()


def _evicted(path: Path) -> bool:
    """Delete a file that nobody uses; whether it is gone."""
    try:
        with path.open("r+b") as file:
            if not _lock(file, wait=False):
                return False
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return True
    except PermissionError:  # systems that do not delete what is mapped
        return False
    return True


def _lock(file: IO[bytes], *, shared: bool = False, wait: bool = True) -> bool:
    """Lock a file until it and what maps it is closed; False: others have it, and `wait` was not said."""
    try:
        import fcntl
    except ImportError:  # not on this system, where what is open is not deleted either
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _still_there(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def number_of(name: str, usual: float, parse: Callable[[str], float] = float) -> float:
    """A number above 0 of an environment variable.

    Raises:
        ConfigError: it is none.
    """
    text = os.environ.get(name)
    try:
        value = usual if not text else parse(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"{name}: expected a number above 0, got '{text}'")
    return value


def _about(path: Path) -> os.stat_result | None:
    """What the system says of a file; None if a download has just ended, and with it the file under this name."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None
