"""Every error a user can cause, in one tree.

    EpisodesError
    ├── ConfigError          a recipe or option is wrong; the message begins with its key path
    ├── SpecError            an episode of this shape cannot be drawn from these classes
    ├── PluginNotFound       no reader, sampler or method of that name; the near names are listed
    ├── ReaderError          raw data cannot be read; the message names the file
    ├── StoreError           a store cannot be written or opened
    │   ├── StoreCorrupt     a file of the store is not what its manifest says
    │   ├── ShardCorrupt     a file of episode shards is not what its manifest says
    │   ├── CacheFull        what is in use of remote files fills the cache of this machine
    │   └── StoreVersion     the store was written in another format version
    ├── StreamError          a stream cannot be positioned, or was closed
    │   ├── StateMismatch    saved state belongs to other data; both values are shown
    │   └── WorkerFailed     an episode could not be made; its index and the cause are shown
    ├── CheckpointError      a checkpoint cannot be read, or belongs to another run
    └── LeakageError         a prediction depended on other queries although the method says it may not

A message says what was wrong, with which thing, the value got and the rule, and the next step where there is one. The
command line prints it as one line and exits with code 2; anything outside this tree is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EpisodesError(Exception):
    """Base of every error a user can cause."""


class ConfigError(EpisodesError):
    """A recipe or an option is wrong; the message begins with its key path."""


class SpecError(EpisodesError):
    """An episode of this shape cannot be drawn from these classes."""


class PluginNotFound(EpisodesError):
    """No plug-in of that name exists; the message lists the near or known names."""


class ReaderError(EpisodesError):
    """Raw data cannot be read; the message names the file."""


class StoreError(EpisodesError):
    """A store cannot be written or opened."""


class StoreCorrupt(StoreError):
    """A file of the store is not what its manifest says."""


class ShardCorrupt(StoreError):
    """A file of episode shards is not what its manifest says."""


class CacheFull(StoreError):
    """What is in use of remote files fills the cache of this machine; the message says how to make it larger."""


class StoreVersion(StoreError):
    """The store was written in another format version."""


class StreamError(EpisodesError):
    """A stream cannot be positioned, or was closed."""


class StateMismatch(StreamError):
    """Saved state belongs to other data; the message shows both values."""


class WorkerFailed(StreamError):
    """Episode `index` could not be made. The error it met is the cause, with its traceback."""

    def __init__(self, index: int, error: BaseException) -> None:
        super().__init__(f"episode {index} could not be made: {type(error).__name__}: {error}")
        self.index = index

    def __reduce__(self) -> tuple[type, tuple[int, BaseException]]:
        return type(self), (self.index, self.__cause__ or RuntimeError(str(self)))


class CheckpointError(EpisodesError):
    """A checkpoint cannot be read, or belongs to another run."""


class LeakageError(EpisodesError):
    """A prediction depended on other queries although the method says it may not, or was no finite number."""


def near(name: str, known: Iterable[str]) -> str:
    """``"did you mean 'x'? known: x, y"``: the end of every "unknown name" message."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    guess = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    return f"{guess}known: {', '.join(names) or 'none'}"
