"""Ways to write episodes to a file and to read them again: ours, webdataset's, ``tarfile``, raw bytes.

Writing is of episodes that lie in memory, into one file, synchronised at its end whoever writes it. Ours has its SHA-256,
too, so beside webdataset's writer stands that writer followed by the SHA-256 of its file. A compile also draws and gathers;
beside it stands a loop over the series with webdataset's writer. Reading is of the same files, which lie in the page cache.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import episodes
from episodes.shards.compile import compile_shards
from episodes.shards.members import records
from episodes.shards.read import EpisodeShards
from episodes.shards.record import parts_of
from episodes.shards.tar import END
from episodes.shards.writing import HashedFile
from episodes.stream.buffers import Arena
from episodes.stream.series import SampledEpisodes

BYTES = 64 << 20  # of a file
Sample = dict[str, Any]
Ways = dict[str, Callable[[], object]]


@dataclass(frozen=True, eq=False)
class World:
    """Episodes 0 .. count - 1 of a series, in memory and as shards; and where files go."""

    series: SampledEpisodes
    count: int
    folder: Path

    @cached_property
    def block(self) -> Any:
        """All episodes."""
        return self.series.block(range(self.count), Arena())

    @cached_property
    def ready(self) -> list[Any]:
        """The same, one by one."""
        return list(self.block)

    @cached_property
    def shards(self) -> EpisodeShards:
        """Read by everyone."""
        compile_shards(self.series, self.folder / "read", self.count)
        return episodes.open_shards(self.folder / "read")

    def samples(self, some: Iterable[Any]) -> Iterator[Sample]:
        """Episodes as webdataset's writer takes them: the members that a shard has."""
        store: Any = self.series.store
        for episode in some:
            parts = parts_of(episode)
            rows = np.concatenate([part.rows for part in parts])
            labels = np.concatenate([part.labels for part in parts])
            classes = zip(episode.class_ids.tolist(), episode.variants.tolist(), strict=True)
            plan = {
                "class_ids": episode.class_ids.tolist(),
                "class_names": [self.series.name_of(*one) for one in classes],
                "index": episode.index,
                "keys": store.keys(rows),
                "labels": labels.tolist(),
                "parts": {"support": len(parts[0].rows), "query": len(parts[1].rows), "unlabeled": 0},
                "rows": rows.tolist(),
                "seed": self.series.seed,
                "turns": episode.variants.tolist(),
            }
            image = np.concatenate([part.fields["image"] for part in parts])
            key = f"{episode.index:09d}"
            yield {"__key__": key, "image.npy": image, "labels.npy": labels, "plan.json": plan}


def ours(world: World, path: Path) -> None:
    """What `make_shard` does with episodes."""
    with HashedFile(path) as file:
        for _, pieces in records(world.series, world.series.fields, "arrays", world.block):
            file.write(pieces)
        file.write([END])


def by_webdataset(world: World, path: Path, some: Iterable[Any]) -> None:
    """Its TarWriter, with fixed times."""
    import webdataset

    with path.open("wb") as file:
        with webdataset.TarWriter(file, mtime=0) as writer:
            for sample in world.samples(some):
                writer.write(sample)
        synchronise(file)


def by_tarfile(world: World, path: Path) -> None:
    """The standard library: np.save, json.dumps, addfile."""
    with path.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for sample in world.samples(world.ready):
                for name, value in sample.items():
                    if name == "__key__":
                        continue
                    member, held = tarfile.TarInfo(f"{sample['__key__']}.{name}"), io.BytesIO()
                    if isinstance(value, np.ndarray):
                        np.save(held, value)
                    else:
                        held.write(json.dumps(value).encode())
                    member.size = held.tell()
                    held.seek(0)
                    archive.addfile(member, held)
        synchronise(file)


def raw(world: World, path: Path) -> None:
    """The values alone."""
    with path.open("wb") as file:
        for episode in world.ready:
            for part in parts_of(episode):
                file.write(part.fields["image"].data)
        synchronise(file)


def synchronise(file: Any) -> None:
    """Until it is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def hashed(path: Path) -> str:
    """SHA-256 of a file that was written."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def writing(world: World) -> Ways:
    """Episodes in memory to one file."""
    path = world.folder / "written"

    def web_and_hash() -> None:
        by_webdataset(world, path, world.ready)
        hashed(path)

    return {
        "shard, with its SHA-256": lambda: ours(world, path),
        "webdataset's writer": lambda: by_webdataset(world, path, world.ready),
        "webdataset's writer, then SHA-256": web_and_hash,
        "tarfile": lambda: by_tarfile(world, path),
        "raw values": lambda: raw(world, path),
    }


def compiling(world: World) -> Ways:
    """From the store to files."""
    out = world.folder / "compiled"

    def compiled(workers: int) -> None:
        size = BYTES // 4 if workers > 1 else BYTES
        compile_shards(world.series, out, world.count, workers=workers, shard_bytes=size)
        shutil.rmtree(out)

    def web() -> None:
        made = (world.series[i] for i in range(world.count))
        by_webdataset(world, world.folder / "written", made)

    return {
        "compile, 1 worker": lambda: compiled(1),
        "compile, 2 workers": lambda: compiled(2),
        "series and webdataset's writer": web,
    }


def reading(world: World) -> Ways:
    """The same files; whoever reads gives arrays."""
    import webdataset

    shards, order = world.shards, np.random.Generator(np.random.Philox(1)).permutation(world.count).tolist()
    urls = [str(shards.path / shard.file) for shard in shards.manifest.shards]
    held = np.empty(world.series.episode_bytes, np.uint8)

    def drain(items: Iterable[Any]) -> None:
        for _ in items:
            pass

    def looked_at(parts: Iterable[Any]) -> None:
        at = 0
        for values in parts:
            flat = values.reshape(-1)
            held[at : at + len(flat)] = flat
            at += len(flat)

    def pipeline() -> Any:
        return webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)

    def views(look: bool) -> None:
        for i in range(world.count):
            episode = shards.view(i)
            if look:
                looked_at(part.fields["image"] for part in parts_of(episode))

    def web(look: bool) -> None:
        for sample in pipeline().decode():
            if look:
                looked_at([sample["image.npy"]])

    return {
        "views of the mapped file": lambda: views(False),
        "views, every byte then copied": lambda: views(True),
        "stream": lambda: drain(episodes.Stream(shards)),
        "stream, blocks of 16": lambda: drain(episodes.Stream(shards, block=16)),
        "by index, in random order": lambda: drain(map(shards.__getitem__, order)),
        "webdataset": lambda: web(False),
        "webdataset, every byte then copied": lambda: web(True),
        "webdataset, bytes not decoded": lambda: drain(pipeline()),
        "the store, stream": lambda: drain(_first(world)),
    }


def _first(world: World) -> Iterator[Any]:
    with episodes.Stream(world.series) as stream:
        for _ in range(world.count):
            yield next(stream)
