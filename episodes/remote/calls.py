"""Calls of an fsspec file system: with a timeout, tried again, and with one error of ours when that does not help."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from episodes.errors import StoreError

_LONGEST_PAUSE_S: Final = 30.0
_AGAIN: Final = (408, 425, 429)  # of 400..499, what a later try may find answered: timeout, too early, too many
_systems: dict[tuple[int, str, str], Any] = {}


@dataclass(frozen=True, slots=True)
class Calls:
    """How a url's file system is called; see `episodes.remote.place.Remote` for the fields."""

    url: str
    scheme: str
    storage: Mapping[str, Any]
    timeout_s: float
    tries: int
    pause_s: float

    def run(
        self,
        verb: str,
        method: str,
        *before: Any,
        local: bool = False,
        parents: bool = False,
        chunks: int = 1,
        **options: Any,
    ) -> Any:
        """The result of a method of the file system.

        Args:
            verb: what it does, for the error.
            method: its name in fsspec.
            before: further arguments; with `local` they come before the path, as fsspec has it for uploads.
            local: see there.
            parents: make the folder first, where the file system has folders.
            chunks: requests it may take: as many timeouts.
            options: keyword arguments.

        Raises:
            FileNotFoundError: nothing is there.
            StoreError: the place refuses, or all tries failed; the last cause is named.
        """
        for attempt in range(self.tries):
            if attempt:
                time.sleep(min(self.pause_s * 2 ** (attempt - 1), _LONGEST_PAUSE_S))
            try:
                system = self._system()
                path = system._strip_protocol(self.url)
                if parents and not system.async_impl:
                    system.makedirs(system._parent(path), exist_ok=True)
                arguments = (*before, path) if local else (path, *before)
                return _called(system, method, self.timeout_s * chunks, arguments, options)
            except (FileNotFoundError, StoreError):
                raise
            except Exception as error:  # each file system's package has errors of its own
                failure: Exception = error
                if _final(error):
                    break
        raise StoreError(f"cannot {verb} {self.url}: {self._cause(failure, chunks)} (tries: {attempt + 1})") from failure

    def _system(self) -> Any:
        """The file system: one for each process, for the connections of an older one are not a forked one's."""
        key = os.getpid(), self.scheme, repr(sorted(self.storage.items()))
        if key not in _systems:
            import fsspec

            try:
                _systems[key] = fsspec.filesystem(self.scheme, skip_instance_cache=True, **self.storage)
            except (ImportError, ValueError) as error:  # not installed; unknown to fsspec
                raise StoreError(
                    f"cannot open {self.url}: {error} (pip install the fsspec package of {self.scheme}://)"
                ) from error
        return _systems[key]

    def _cause(self, error: Exception, chunks: int) -> str:
        import asyncio  # slow to import, and a store of this machine does without

        if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
            return f"no answer in {self.timeout_s * chunks:g} s"
        return f"{type(error).__name__}: {error}"


def _called(system: Any, method: str, timeout_s: float, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
    if not system.async_impl:  # this machine's, or one whose package has a timeout of its own
        known = {name: value for name, value in options.items() if name != "refresh"}
        return getattr(system, method)(*arguments, **known)
    from fsspec.asyn import sync

    if options.get("refresh"):
        system.invalidate_cache()
    known = {name: value for name, value in options.items() if name != "refresh"}
    return sync(system.loop, getattr(system, f"_{method}"), *arguments, timeout=timeout_s, **known)


def _final(error: Exception) -> bool:
    """Whether another try would end alike."""
    status = getattr(error, "status", None)  # of http
    if isinstance(status, int):
        return 400 <= status < 500 and status not in _AGAIN
    if isinstance(error, OSError) and error.errno == errno.EINVAL:  # of S3: a request that is none, a range beyond the end
        return True
    return isinstance(error, (PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError, TypeError))
