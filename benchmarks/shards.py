"""Episode shards against raw bytes, ``tarfile`` and webdataset, written and read in turns in one run.

    python benchmarks/shards.py [--quick] [--folder DIR] [--clock cpu] [--json]

Writing is of episodes that lie in memory, into one file, synchronised at its end whoever writes it. Ours has its SHA-256,
too, so beside webdataset's writer stands that writer followed by the SHA-256 of its file. A compile also draws and gathers;
beside it stands a loop over the series with webdataset's writer. Reading is of the same files, which lie in the page cache.
Figures are medians of rounds, ratios medians of the ratios within a round. Needs webdataset.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import io
import json
import math
import os
import shutil
import statistics
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import stores
import webdataset

import episodes
from episodes.bench import Case, Measured, measure
from episodes.bench.report import aligned, described, machine
from episodes.shards.compile import compile_shards
from episodes.shards.members import records
from episodes.shards.read import EpisodeShards
from episodes.shards.record import parts_of
from episodes.shards.tar import END
from episodes.shards.writing import HashedFile
from episodes.stream.buffers import Arena
from episodes.stream.series import SampledEpisodes

SHAPES = {"28x28": (1, 28, 28), "84x84x3": (3, 84, 84)}
BYTES = 64 << 20  # of a file
Sample = dict[str, Any]


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


def writing(world: World) -> dict[str, Callable[[], object]]:
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


def compiling(world: World) -> dict[str, Callable[[], object]]:
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


def reading(world: World) -> dict[str, Callable[[], object]]:
    """The same files; whoever reads gives arrays."""
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


TARGETS = {  # group -> (way, reference, least ratio)
    "write": [
        ("shard, with its SHA-256", "webdataset's writer", 1.5),
        ("shard, with its SHA-256", "webdataset's writer, then SHA-256", None),
        ("shard, with its SHA-256", "tarfile", None),
        ("shard, with its SHA-256", "raw values", None),
    ],
    "compile": [
        ("compile, 1 worker", "series and webdataset's writer", None),
        ("compile, 2 workers", "series and webdataset's writer", 1.5),
    ],
    "read": [
        ("views of the mapped file", "webdataset", 8),
        ("views, every byte then copied", "webdataset, every byte then copied", None),
        ("stream", "webdataset", None),
        ("stream, blocks of 16", "webdataset", None),
        ("by index, in random order", "webdataset", None),
        ("the store, stream", "stream", None),
    ],
}
GROUPS = {"write": writing, "compile": compiling, "read": reading}


def ratio(measured: dict[str, Measured], one: str, other: str) -> float:
    """Median over rounds of the ratio within a round."""
    pairs = zip(measured[one].rounds, measured[other].rounds, strict=True)
    return statistics.median(a / b for a, b in pairs)


def sizes(world: World) -> dict[str, float]:
    """Bytes of an episode: of its values, of a shard, of webdataset's file."""
    size = world.shards.manifest.shards[0].size / world.shards.manifest.shards[0].episodes
    by_webdataset(world, path := world.folder / "written", world.ready)
    return {"raw values": world.series.episode_bytes, "shard": size, "webdataset": path.stat().st_size / world.count}


def run(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All that was measured."""
    out: dict[str, Any] = {}
    rounds, seconds = (2, 0.02) if given.quick else (given.rounds, 1.0)
    for title, shape in SHAPES.items():
        store = episodes.open(stores.write(folder / title / "store", shape, 100, 20))
        series = episodes.sample(store, "train", episodes.EpisodeSpec(ways=5, shots=1, queries=15))
        count = max(2, BYTES // (20 if given.quick else 1) // (80 * math.prod(shape)))
        world = World(series, count, folder / title)
        out[title] = {"bytes": sizes(world)}
        for name, ways in GROUPS.items():
            print(f"{title}: {name} ...", file=sys.stderr, flush=True)
            cases = [Case(name=n, role="stream", run=_calls(call, count)) for n, call in ways(world).items()]
            measured = measure(cases, rounds, seconds, given.clock)
            out[title][name] = {n: one.images_per_s for n, one in measured.items()}
            out[title][f"{name} ratios"] = [[*t, ratio(measured, t[0], t[1])] for t in TARGETS[name]]
            gc.collect()
    return out


def _calls(call: Callable[[], object], count: int) -> Callable[[int], int]:
    def several(calls: int) -> int:
        for _ in range(calls):
            call()
        return calls * count

    return several


def table(found: dict[str, Any]) -> list[str]:
    """As lines."""
    lines: list[str] = []
    for title, one in found.items():
        held = one["bytes"]
        rows = [[f"{title}: bytes of an episode", "", "to raw values"]]
        rows += [[f"  {name}", f"{size:,.0f}", f"{size / held['raw values']:.4f}"] for name, size in held.items()]
        for name in GROUPS:
            rows += [["", "", ""], [f"{title}: {name}", "episodes/s", "MB/s"]]
            rows += [
                [f"  {way}", f"{rate:,.0f}", f"{rate * held['raw values'] / 1e6:,.0f}"] for way, rate in one[name].items()
            ]
            for way, other, least, value in one[f"{name} ratios"]:
                bound = "" if least is None else f">= {least:g}: {'met' if value >= least else 'not met'}"
                rows.append([f"  {way} / {other}", f"{value:.2f}", bound])
        lines += [*aligned(rows), ""]
    return lines


def main() -> int:
    """Measure and print; exit code 0 whatever was met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="hardly more than whether it runs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: by processor time of all threads")
    parser.add_argument("--folder", type=Path, help="where files are written; the system's temporary folder by default")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore", ResourceWarning)
    with tempfile.TemporaryDirectory(prefix="episodes-bench-", dir=given.folder) as folder:
        found = run(given, Path(folder))
    about = machine() | {"clock": given.clock, "webdataset": webdataset.__version__}
    if given.json:
        print(json.dumps({"about": about, "found": found}))
    else:
        print("\n".join([f"{described(about)}; webdataset {about['webdataset']}; clock {given.clock}", "", *table(found)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
