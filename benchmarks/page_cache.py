"""Ways to bring a cold store into memory, and reads that miss it: MiB and rows a second.

    python benchmarks/page_cache.py STORE

Before each measurement the store's pages are dropped (fsync, then POSIX_FADV_DONTNEED while nothing maps them), which
mincore confirms. Linux only. What is below the system, as a host's cache of a virtual disk, stays warm.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import episodes
from episodes.store import mapped

ROUNDS, WAIT_S = 5, 2.0
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
POPULATE_READ = 22  # MADV_POPULATE_READ, Linux 5.14


def shards(store: Path) -> list[Path]:
    """Files of rows."""
    return sorted(store.glob("shard-*.h5"))


def drop(store: Path) -> None:
    """Put every page of the store out of the cache."""
    gc.collect()  # unmaps stores of before
    for path in shards(store):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert resident(store) < 0.02, "pages stay in the cache: something else maps the store"


def resident(store: Path) -> float:
    """Share of the store's pages in the cache."""
    flags = []
    for mapping in maps(store):
        state = np.zeros(-(-len(mapping) // mmap.PAGESIZE), np.uint8)
        assert not LIBC.mincore(np.frombuffer(mapping, np.uint8).ctypes.data, len(mapping), state.ctypes.data)
        flags.append(state & 1)
    return float(np.concatenate(flags).mean())


def maps(store: Path, flags: int = 0) -> list[mmap.mmap]:
    """Every shard, mapped."""
    out = []
    for path in shards(store):
        with path.open("rb") as file:
            out.append(mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED | flags, prot=mmap.PROT_READ))
    return out


def advise(advice: int) -> Callable[[Path], None]:
    """One call a shard; what is asked for in the background is waited for, but not for ever."""

    def run(store: Path) -> None:
        for mapping in maps(store):
            mapping.madvise(advice)
        end = time.perf_counter() + WAIT_S
        while resident(store) < 1 and time.perf_counter() < end:
            time.sleep(0.002)

    return run


def touch(advice: int | None, shuffled: bool) -> Callable[[Path], None]:
    """Read every row through the mapping."""

    def run(store: Path) -> None:
        opened = episodes.open(store)
        for one in opened._shards.maps if advice is not None else ():
            one.madvise(advice)
        rows = np.arange(opened.num_rows)
        rows = np.random.Generator(np.random.Philox(0)).permutation(rows) if shuffled else rows
        for start in range(0, len(rows), 100):
            opened.read(rows[start : start + 100])

    return run


WAYS: dict[str, Callable[[Path], object]] = {
    "MappedStore.warm": lambda store: episodes.open(store).warm(),
    "MAP_POPULATE": lambda store: maps(store, mmap.MAP_POPULATE),
    "madvise POPULATE_READ": lambda store: [one.madvise(POPULATE_READ) for one in maps(store)],
    "madvise WILLNEED, one call a shard": advise(mmap.MADV_WILLNEED),
    "rows in order": touch(None, False),
    "rows in order, madvise SEQUENTIAL": touch(mmap.MADV_SEQUENTIAL, False),
    "rows at random": touch(None, True),
    "rows at random, madvise RANDOM": touch(mmap.MADV_RANDOM, True),
}


def cold() -> None:
    """All of the store, from nothing."""
    size = sum(path.stat().st_size for path in shards(STORE)) / 2**20
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    left = {}
    for _ in range(ROUNDS):
        for name, way in WAYS.items():
            drop(STORE)
            begin = time.perf_counter()
            way(STORE)
            times[name].append(time.perf_counter() - begin)
            left[name] = resident(STORE)
    for name, seconds in times.items():
        print(f"{name:36} {size / statistics.median(seconds):8,.0f} MiB/s, {left[name]:4.0%} in the cache after it")


def misses() -> None:
    """Blocks of 80 rows at random, no row twice: what a store much larger than memory meets."""
    real, shape = mapped.available_bytes, episodes.open(STORE).fields["image"].shape
    blocks = np.random.Generator(np.random.Philox(1)).permutation(episodes.open(STORE).num_rows)[:1600].reshape(-1, 80)
    out = {"image": np.empty((80, *shape), np.uint8)}
    for name, room in (("nothing", real), ("rows announced", lambda: 0)):
        found = []
        for _ in range(ROUNDS):
            drop(STORE)
            mapped.available_bytes = room
            store = episodes.open(STORE)
            first, share, again = _through(store, blocks, out), resident(STORE), _through(store, blocks, out)
            found.append((blocks.size / first, share, blocks.size / again))
            del store
        first, share, again = (statistics.median(values) for values in zip(*found, strict=True))
        print(
            f"{name:36} {first:8,.0f} rows/s cold, {share:4.0%} in the cache after it, {again:,.0f} rows/s the second time"
        )
    mapped.available_bytes = real


def _through(store: mapped.MappedStore, blocks: np.ndarray, out: dict[str, np.ndarray]) -> float:
    begin = time.perf_counter()
    for rows in blocks:
        store.read(rows, out)
    return time.perf_counter() - begin


if __name__ == "__main__":
    STORE = Path(sys.argv[1])
    episodes.open(STORE).read(np.arange(4))  # compiles
    cold()
    misses()
