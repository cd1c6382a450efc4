"""Remote: a file or folder at a url, with as much of pathlib's interface as the readers of stores and shards use.

What a url's scheme means is fsspec's knowledge: ``s3://`` and ``gs://`` work where the user's fsspec packages (s3fs, gcsfs)
are installed, with the credentials and endpoints that these find for themselves. ``file://`` is a path of this machine:
it is mapped where it lies, and no copy of it goes into the cache.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias
from urllib.parse import urlsplit

from episodes.errors import ConfigError, StoreError
from episodes.remote.cache import Cache, number_of
from episodes.remote.calls import Calls

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_CHUNK: Final = 8 << 20  # bytes of a request: what is lost when one fails, and what must arrive within the timeout
_READ_ONLY: Final = ("http", "https")


def _timeout_s() -> float:
    return number_of("EPISODES_TIMEOUT_S", 60.0)


@dataclass(frozen=True, slots=True)
class Remote:
    """A file or folder at `url`. A value: nothing is opened or asked before a method is called.

    Raises:
        ConfigError: no url; one with a query, which the files below it could not have; a limit that is none.
    """

    url: str
    storage: Mapping[str, Any] = field(default_factory=dict, kw_only=True, hash=False, repr=False)
    """Options of the fsspec file system, as its documentation names them (``key``, ``endpoint_url``)."""
    timeout_s: float = field(default_factory=_timeout_s, kw_only=True)
    """For the answer to one request, of 8 MiB at most. By default that of EPISODES_TIMEOUT_S, or 60."""
    tries: int = field(default=4, kw_only=True)
    """Of one request, before it is given up."""
    pause_s: float = field(default=0.5, kw_only=True)
    """Before the second try; doubled before each further one."""
    cache: Cache = field(default_factory=Cache.usual, kw_only=True)
    """Where files are kept on this machine."""

    def __post_init__(self) -> None:
        if not _URL.match(self.url):
            raise ConfigError(f"url: expected scheme://..., got '{self.url}'")
        if self.scheme in _READ_ONLY and ("?" in self.url or "#" in self.url):
            raise ConfigError(f"url: a folder has no query and no fragment, got '{self.url}'")
        if self.tries < 1 or self.timeout_s <= 0 or self.pause_s < 0:
            raise ConfigError(f"url: {self.url} needs tries of at least 1, a timeout_s above 0 and no negative pause_s")
        object.__setattr__(self, "url", self.url.rstrip("/"))

    @property
    def scheme(self) -> str:
        """``s3``, ``http``, ..."""
        return self.url.partition("://")[0].lower()

    @property
    def name(self) -> str:
        """The last part of the url."""
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return Path(self.name).stem

    @property
    def parent(self) -> Remote:
        """The folder it is in."""
        return replace(self, url=self.url.rpartition("/")[0])

    def __truediv__(self, name: str) -> Remote:
        return replace(self, url=f"{self.url}/{name}")

    def __str__(self) -> str:
        return self.url

    def with_name(self, name: str) -> Remote:
        """Another name in the same folder."""
        return self.parent / name

    def absolute(self) -> Remote:
        """Itself: a url is the same everywhere."""
        return self

    resolve = absolute

    def size(self) -> int | None:
        """Bytes of the file; None: it is not there.

        Raises:
            StoreError: the place does not answer, or refuses.
        """
        try:
            known = self._calls.run("look at", "info").get("size")
        except FileNotFoundError:
            return None
        return None if known is None else int(known)

    def exists(self) -> bool:
        """Whether a file of this url is there."""
        return self.size() is not None

    def read_bytes(self) -> bytes:
        """The whole file, in one request.

        Raises:
            FileNotFoundError: it is not there.
            StoreError: the place does not answer, or refuses.
        """
        return bytes(self._calls.run("read", "cat_file"))

    def chunks(self, size: int) -> Iterator[bytes]:
        """A file of `size` bytes, request by request, each tried on its own; one byte more where the file is longer.

        Fewer bytes, where the file is shorter.

        Raises:
            FileNotFoundError: it is not there.
            StoreError: the place does not answer, or refuses.
        """
        done = 0
        while True:
            # The last request asks for one byte too many, for a longer file must not pass for a whole one.
            end = done + _CHUNK if size - done > _CHUNK else size + 1
            try:
                data = bytes(self._calls.run("read", "cat_file", start=done, end=end))
            except StoreError:
                if (there := self.size()) is not None and there <= done:
                    return  # cut short just where a request begins, which servers answer with an error
                raise
            if not done and len(data) > end:  # a server that knows no ranges sends all there is
                yield data[: size + 1]
                return
            yield data
            done += len(data)
            if done < end or end > size:
                return

    def open(self, mode: str = "rb") -> BinaryIO:
        """The file's bytes as they are at the url now, past the cache; in memory.

        Raises:
            StoreError: it is not there; the place does not answer, or refuses.
        """
        assert mode == "rb"
        size = self.size()
        if size is None:
            raise StoreError(f"{self.url} is missing")
        return io.BytesIO(b"".join(self.chunks(size)))

    def fetch(self, sha256: str, size: int | None, corrupt: type[StoreError]) -> BinaryIO:
        """The file from the cache, fetched if it is not there; see `Cache.fetch`."""
        return self.cache.fetch(self, sha256, size, corrupt)

    def names(self) -> list[str]:
        """Names of what is in this folder; empty if it is not there."""
        try:
            found = self._calls.run("list", "ls", detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(name for path in found if (name := str(path).rstrip("/").rpartition("/")[2]) != self.name)

    def check_writable(self) -> None:
        """Refuse a url that files cannot be put at.

        Raises:
            StoreError: its scheme is for reading only.
        """
        if self.scheme in _READ_ONLY:
            raise StoreError(f"{self.url}: {self.scheme} is for reading; write to s3://, gs:// or a path, and serve that")

    def put(self, source: Path | bytes) -> None:
        """Upload a file, or bytes as one.

        Raises:
            StoreError: the place does not answer, or refuses; what arrived has another size.
        """
        try:
            if isinstance(source, bytes):
                size = len(source)
                self._calls.run("write", "pipe_file", source, parents=True)
            else:
                size, path = source.stat().st_size, os.fspath(source)
                self._calls.run("write", "put_file", path, local=True, parents=True, chunks=1 + size // _CHUNK)
        except FileNotFoundError as error:  # of a bucket
            raise StoreError(f"cannot write {self.url}: {error}") from error
        if (arrived := self.size()) != size:
            raise StoreError(f"cannot write {self.url}: {arrived} of {size} bytes arrived")

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the file.

        Raises:
            FileNotFoundError: it is not there, unless `missing_ok`.
            StoreError: the place does not answer, or refuses.
        """
        if missing_ok and not self.exists():
            return
        self._calls.run("delete", "rm_file")

    @property
    def _calls(self) -> Calls:
        return Calls(self.url, self.scheme, self.storage, self.timeout_s, self.tries, self.pause_s)


Place: TypeAlias = Path | Remote


def place(where: str | Path | Remote) -> Place:
    """A path, or a url as `Remote`."""
    if not isinstance(where, str) or not _URL.match(where):
        return Path(where) if isinstance(where, str) else where
    if where.lower().startswith("file://"):
        from urllib.request import url2pathname  # slow to import, and a plain path does without

        return Path(url2pathname(urlsplit(where).path))
    return Remote(where)


def held(where: Place, sha256: str, size: int | None, corrupt: type[StoreError]) -> BinaryIO:
    """A file open for reading: of this machine as it is, a remote one from the cache, checked when it was fetched."""
    return where.open("rb") if isinstance(where, Path) else where.fetch(sha256, size, corrupt)
