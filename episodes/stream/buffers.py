"""Memory that a stream fills again and again: who owns it, and until when.

The rule: an episode owns its memory for as long as anything refers to it. When the last array, tensor or view of a block
is gone, and only then, the stream fills that memory anew. Nobody has to copy or count: a consumer that drops what it has
used runs in a few buffers for ever, one that keeps episodes gets fresh memory for the next.

CPython counts references, so "nothing refers to it" is a number to look at: every array cut out of a buffer refers to it,
and so does whatever shares that array's memory (``torch.from_numpy``, DLPack). Fresh memory instead would cost the page
faults of every block, several times the copying itself.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_ALIGN = 64  # bytes: a cache line
_LARGE = 4 << 20  # bytes


class Arena:
    """Memory for the arrays of one block, cut off one after the other."""

    def __init__(self) -> None:
        self._memory: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._first = self._used = 0

    def reset(self) -> None:
        """Begin anew; arrays of the last block must be gone (see `idle`)."""
        self._used = self._first

    def reserve(self, sizes: Sequence[int]) -> None:
        """Make room for arrays of so many bytes, all in one piece of memory."""
        size = sum(padded(size) for size in sizes)
        if self._used + size > len(self._memory):
            self._memory = _fresh(size + _ALIGN)  # arrays cut out of the old memory keep it alive
            self._first = self._used = -self._memory.ctypes.data % _ALIGN

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An uninitialised array, contiguous and aligned to 64 bytes."""
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        self.reserve([size])
        out: NDArray[Any] = np.ndarray(shape, kind, self._memory, self._used)
        self._used += padded(size)
        return out

    @property
    def idle(self) -> bool:
        """Whether no array cut out of this memory is alive."""
        return self._references() <= _IDLE

    def _references(self) -> int:
        """To the memory: those of the arena and of this look at it, and one more for each array."""
        memory = self._memory
        return sys.getrefcount(memory)


_IDLE = Arena()._references()  # to memory that nobody uses; how many a look takes differs between versions of Python


def _fresh(size: int) -> NDArray[np.uint8]:
    """[size] bytes. Much is asked of the system itself, which has it back as soon as it is free: an allocator keeps memory
    for each thread that ever was, gigabytes where streams are made and closed by the hundred."""
    if size < _LARGE:
        return np.empty(size, np.uint8)
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
        return np.empty(size, np.uint8)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def padded(size: int) -> int:
    """Bytes that an array of `size` bytes takes of an arena."""
    return -(-size // _ALIGN) * _ALIGN


class Arenas:
    """A few arenas to be used in turns.

    Args:
        keep: how many stay for the next blocks; what is needed beyond, because a consumer keeps episodes, is not kept.
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self._arenas: list[Arena] = []
        self._taken: set[int] = set()
        self._lock = threading.Lock()

    def take(self) -> Arena:
        """An arena that nothing refers to; the taker gives it back when its block is filled. From any thread."""
        with self._lock:
            for i, arena in enumerate(self._arenas):
                if i not in self._taken and arena.idle:
                    self._taken.add(i)
                    arena.reset()
                    return arena
            arena = Arena()
            if len(self._arenas) < self.keep:
                self._taken.add(len(self._arenas))
                self._arenas.append(arena)
            return arena

    def give_back(self, arena: Arena) -> None:
        """The block is filled: from now on its arrays alone keep the memory."""
        with self._lock:
            self._taken -= {i for i, one in enumerate(self._arenas) if one is arena}
