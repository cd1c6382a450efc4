"""The shards of a store, mapped: those of this machine at once, remote ones when a row of theirs is first needed."""

from __future__ import annotations

import mmap
import threading
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from episodes.classes import Int
from episodes.errors import StoreCorrupt
from episodes.remote.cache import fetch_all
from episodes.remote.place import Place, Remote
from episodes.store._cache import expect_random
from episodes.store.manifest import Manifest, Shard

_MEND: Final = "ingest the source again"


class MappedShards:
    """Where the values of a store lie in memory. Safe for any number of threads.

    Args:
        path: folder of the store.
        manifest: of the store.
        random: tell the system that reads will be announced, and not to read around them.

    Raises:
        StoreCorrupt: a file is missing, or has another size than the manifest says.
    """

    def __init__(self, path: Place, manifest: Manifest, *, random: bool) -> None:
        self.path, self._manifest, self._random = path, manifest, random
        nothing = mmap.mmap(-1, 1)  # stands for a shard that is not there yet
        self.maps = [nothing] * len(manifest.shards)
        self.addresses: dict[str, NDArray[np.uint64]] = {
            name: np.zeros(len(manifest.shards), np.uint64) for name in manifest.columns
        }
        """column -> [shards] place of its first byte in memory."""
        none = np.frombuffer(nothing, np.uint8)
        self.images: dict[str, list[NDArray[np.uint8]]] = {
            name: [none] * len(manifest.shards) for name in manifest.encodings
        }
        """Encoded field -> by shard, the memory in which its images lie."""
        self.absent = set(range(len(manifest.shards)))
        """Numbers of the shards that are not mapped yet."""
        self._lock = threading.Lock()
        if isinstance(path, Path):
            for number, shard in enumerate(manifest.shards):
                self._put(number, _mapped(path / shard.file, shard))

    def need(self, rows: Int) -> None:
        """Have the shards of `rows` mapped, fetching what is not; rows that the store has not are passed over.

        Raises:
            StoreCorrupt: a remote shard is missing, or not what the manifest says.
            StoreError: the place does not answer, or refuses; the cache cannot hold it.
        """
        if not self.absent:
            return
        rows = rows[(rows >= 0) & (rows < self._manifest.num_rows)]
        numbers = np.unique(rows // self._manifest.rows_per_shard).tolist()
        if self.absent.isdisjoint(numbers):
            return
        assert isinstance(self.path, Remote)
        with self._lock:
            wanted = sorted(self.absent.intersection(numbers))
            shards = [self._manifest.shards[number] for number in wanted]
            jobs = [(self.path / shard.file, shard.sha256, shard.size) for shard in shards]
            try:
                for number, file in zip(wanted, fetch_all(jobs, StoreCorrupt), strict=True):
                    with file:  # whose mapping keeps it in the cache
                        self._put(number, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            except FileNotFoundError as error:
                raise StoreCorrupt(f"a shard of {self.path} is missing: {error}") from error

    def _put(self, number: int, mapped: mmap.mmap) -> None:
        if self._random:
            expect_random(mapped)
        values = np.frombuffer(mapped, np.uint8)  # keeps the mapping alive
        offsets = self._manifest.shards[number].offsets
        self.maps[number] = mapped
        for name, addresses in self.addresses.items():
            addresses[number] = values.ctypes.data + offsets[name]
        for name, images in self.images.items():
            images[number] = values[offsets[name] :]
        self.absent.discard(number)  # last, for other threads look here

    def files(self) -> list[Path]:
        """Where all shards lie on this machine, fetched if need be."""
        manifest, path = self._manifest, self.path
        self.need(np.arange(0, manifest.num_rows, manifest.rows_per_shard))
        if isinstance(path, Path):
            return [path / shard.file for shard in manifest.shards]
        return [path.cache.path(shard.sha256) for shard in manifest.shards]


def _mapped(file: Path, shard: Shard) -> mmap.mmap:
    try:
        with file.open("rb") as handle:
            mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise StoreCorrupt(f"{file} is missing; {_MEND}") from None
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise StoreCorrupt(f"{file} cannot be mapped ({error})") from error
    if len(mapped) != shard.size:
        raise StoreCorrupt(f"{file} has {len(mapped)} bytes; the manifest says {shard.size} ({_MEND})")
    return mapped
