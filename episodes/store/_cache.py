"""The page cache: how much of a store it can hold, reading a store into it, hints for a store that it cannot hold.

The figures behind these choices are in docs/performance.md. In short: a cold store is best read through from front to back,
and where it does not fit, rows are best announced a block at a time, so that the disk fetches them side by side and
nothing but them.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from episodes.classes import Int
from episodes.errors import StoreError

_READ = 4 << 20
# Linux takes no more than the device's readahead of one call, 128 KiB by default, and says nothing of the rest.
_ANNOUNCE = 128 << 10


def available_bytes(memory: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Memory that files may fill, by Linux's estimate and the container's limit; None if unknown."""
    found = [_value(memory, "MemAvailable:") << 10]
    limit = _text(group / "memory.max").strip()
    if limit.isdecimal():
        found.append(int(limit) - _value(group / "memory.stat", "anon"))
    return max(0, min(found)) if found[0] else None


def _value(file: Path, name: str) -> int:
    return next((int(line.split()[1]) for line in _text(file).splitlines() if line.split()[:1] == [name]), 0)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def read_through(files: Sequence[Path], limit: int, progress: Callable[[int], None]) -> int:
    """Read `files` one after the other, up to `limit` bytes in all; returns how many.

    Raises:
        StoreError: one cannot be read.
    """
    done, buffer = 0, memoryview(bytearray(_READ))
    try:
        for path in files:
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(buffer[: min(_READ, limit - done)]):
                    done += count
                    progress(done)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    return done


def expect_random(mapped: mmap.mmap) -> None:
    """Tell the system not to read around what is touched in `mapped`: it will be announced."""
    if hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)


def announce(mapped: Sequence[mmap.mmap], shards: Int, starts: Int, lengths: Int) -> None:
    """Ask for bytes of mapped files that will be read soon; what is asked for together is fetched side by side.

    Args:
        mapped: by shard.
        shards: [n].
        starts: [n] first byte in the shard.
        lengths: [n] bytes; the spans of a shard do not overlap.
    """
    if not len(shards) or not hasattr(mmap, "MADV_WILLNEED"):
        return
    for shard, first, last in _runs(shards, starts // mmap.PAGESIZE, (starts + lengths - 1) // mmap.PAGESIZE):
        begin, end = first * mmap.PAGESIZE, min((last + 1) * mmap.PAGESIZE, len(mapped[shard]))
        for at in range(begin, end, _ANNOUNCE):
            mapped[shard].madvise(mmap.MADV_WILLNEED, at, min(_ANNOUNCE, end - at))


def _runs(shards: Int, first: Int, last: Int) -> list[tuple[int, int, int]]:
    """(shard, first page, last page) of pages that follow each other."""
    order = np.lexsort((last, first, shards))
    shards, first, last = shards[order], first[order], last[order]
    breaks: NDArray[Any] = (shards[1:] != shards[:-1]) | (first[1:] > last[:-1] + 1)
    begin = np.flatnonzero(np.concatenate([[True], breaks]))
    end = np.concatenate([begin[1:], [len(shards)]]) - 1
    return list(zip(shards[begin].tolist(), first[begin].tolist(), last[end].tolist(), strict=True))
