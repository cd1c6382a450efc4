"""Targets of gathering and delivery: streams, kernels, copies, threads, sizes of episodes, files."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import stores

import episodes
from episodes.bench import Case, Clock, Measured, Settings, _cases, bench, measure
from episodes.protocols import Places
from episodes.store._gather import gather
from episodes.store.mapped import MappedStore
from episodes.store.memory import MemoryStore

FIXED = episodes.EpisodeSpec(ways=5, shots=1, queries=15)
LARGE = episodes.EpisodeSpec(ways=20, shots=5, queries=15)
VARIABLE = episodes.EpisodeSpec(ways="variable", shots="variable", queries="variable")
ONE, BLOCK = "stream, one at a time, 0 workers", "stream, blocks of 16, 0 workers"
ONE_AHEAD, BLOCK_AHEAD = "stream, one at a time, 1 worker", "stream, blocks of 16, 1 worker"
SMALL, PHOTO = (1, 28, 28), (3, 84, 84)
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, eq=False)
class Run:
    """Where stores are written, and how long to measure."""

    folder: Path
    quick: bool = False
    clock: Clock = "wall"
    notes: list[str] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        """For `bench`; quick: hardly more than whether it runs."""
        rounds, seconds = (2, 0.02) if self.quick else (7, 1.0)
        return Settings(rounds=rounds, seconds=seconds, clock=self.clock)

    @cache  # noqa: B019 - there is one run
    def store(self, shape: tuple[int, ...], classes: int, rows: int) -> MappedStore:
        """A synthetic store; written once, warm."""
        name = "x".join(map(str, shape))
        return episodes.open(stores.write(self.folder / f"{name}-{classes}.store", shape, classes, rows))

    def measure(self, cases: list[Case]) -> dict[str, Measured]:
        """By name."""
        one = self.settings
        return measure(cases, one.rounds, one.seconds, one.clock)


def gathers(run: Run) -> Rows:
    """The kernel against ``np.take`` and memcpy, all over arrays in memory."""
    out: Rows = []
    far = 100_000_000 if run.quick else 2_000_000_000  # beyond the cache, this host's included
    sizes = [
        ("28x28, in cache", SMALL, 1_000_000, 0, 0.9),
        ("28x28, beyond cache", SMALL, far, 1.3, 0),
        ("64x64x3", (3, 64, 64), 400_000_000, 0.95, 0.5),
        ("84x84x3", PHOTO, 400_000_000, 0.95, 0.55),
        ("224x224x3", (3, 224, 224), 400_000_000, 0.95, 0.95),
    ]
    for title, shape, size, least_take, least_memcpy in sizes:
        array = stores.pixels(shape, size // int(np.prod(shape)) // (10 if run.quick else 1) + 80)
        store = MemoryStore({"image": array}, {"all": len(array)})
        rng = np.random.Generator(np.random.Philox(3))
        # Of a store within the cache every row is one of few; else none comes again before the others pushed it out.
        drawn = [rng.integers(0, len(array), 80) for _ in range(max(256, min(20_000, len(array) // 80)))]
        cases = _cases.kernel_cases(store, "image", array, "one", title, drawn)
        kernel = run.measure(cases)[f"kernel, {title}"].ratios
        if least_take:
            out.append((f"gather {title}, to np.take(out=)", kernel["np.take"], least_take))
        if least_memcpy:
            out.append((f"gather {title}, to memcpy", kernel["memcpy"], least_memcpy))
    return out


def small(run: Run) -> Rows:
    """28 x 28: what is bound by Python and by latency."""
    series = episodes.sample(run.store(SMALL, 1623, 20), "train", FIXED)
    cases = bench(series, run.settings)["cases"]
    one, block = (cases[name]["ratios"] for name in (ONE, BLOCK))
    return [
        ("28x28, one at a time, to the NumPy loop", one["NumPy"], 4),
        ("28x28, one at a time, to the best DataLoader", one["DataLoader"], 20),
        ("28x28, one at a time, to the kernel", one["kernel"], 0.6),
        ("28x28, blocks of 16, to the NumPy loop", block["NumPy"], 6),
        ("28x28, blocks of 16, to the best DataLoader", block["DataLoader"], 50),
        ("28x28, blocks of 16, to the kernel", block["kernel"], 0.8),
        ("28x28, blocks of 16 by a thread, to the caller", _ratio(cases, BLOCK_AHEAD, BLOCK), 0.8),
        ("28x28, one at a time by a thread, more a message", _more(cases, ONE_AHEAD, ONE), 20, "us", False),
    ]


def large(run: Run) -> Rows:
    """84 x 84 x 3: what is bound by copying."""
    series = episodes.sample(run.store(PHOTO, 64, 150), "train", FIXED)
    cases = bench(series, run.settings)["cases"]
    return [
        ("84x84x3, one at a time, to the kernel", cases[ONE]["ratios"]["kernel"], 0.9),
        ("84x84x3, blocks of 16, to the kernel", cases[BLOCK]["ratios"]["kernel"], 0.9),
        ("84x84x3, one at a time by a thread, to the caller", _ratio(cases, ONE_AHEAD, ONE), 0.8),
        ("84x84x3, blocks of 16 by a thread, to the caller", _ratio(cases, BLOCK_AHEAD, BLOCK), 0.8),
    ]


def _ratio(cases: dict[str, Any], one: str, other: str) -> float:
    pairs = zip(cases[one]["rounds"], cases[other]["rounds"], strict=True)
    return float(np.median([a / b for a, b in pairs]))


def _more(cases: dict[str, Any], one: str, other: str) -> float:
    """Microseconds a message by which `one` takes longer."""
    return 1e6 * (1 / cases[one]["episodes_per_s"] - 1 / cases[other]["episodes_per_s"])


def sizes(run: Run) -> Rows:
    """Images a second of larger and of variable episodes, against those of 5-way 1-shot."""
    out: Rows = []
    for title, shape, classes, rows in (("28x28", SMALL, 1623, 20), ("84x84x3", PHOTO, 64, 150)):
        store = run.store(shape, classes, rows)
        made = {
            "5-way 1-shot": episodes.sample(store, "train", FIXED),
            "20-way 5-shot": episodes.sample(store, "train", LARGE),
            "Meta-Dataset": episodes.sample(store, "train", VARIABLE, sampler="meta-dataset"),
        }
        for block in (None, 16):
            how = "one at a time" if block is None else f"blocks of {block}"
            with ExitStack() as stack:
                cases = [
                    _named(name, _cases.stream_case(one, "image", block, 0, None, stack)) for name, one in made.items()
                ]
                rates = {name: one.rounds for name, one in run.measure(cases).items()}
            for name in ("20-way 5-shot", "Meta-Dataset"):
                ratio = np.median(np.array(rates[name]) / np.array(rates["5-way 1-shot"]))
                out.append((f"{title}, {how}, {name}, images to 5-way 1-shot", float(ratio), 0.8))
    return out


def _named(name: str, case: Case) -> Case:
    return Case(name=name, role=case.role, run=case.run, message=case.message)


def mapped(run: Run) -> Rows:
    """The kernel over mapped HDF5 shards, against the same rows in one mapped raw file."""
    out: Rows = []
    for title, shape, classes, rows in (("28x28", SMALL, 1623, 20), ("84x84x3", PHOTO, 64, 150)):
        store = run.store(shape, classes, rows)
        path, num = run.folder / f"{title}.raw", store.num_rows
        store.read(np.arange(num))["image"].tofile(path)
        raw = np.memmap(path, np.uint8, "r", shape=(num, *shape))
        raw.sum()  # in memory, as the shards are
        rng, places = np.random.Generator(np.random.Philox(4)), store.places("image")
        drawn = [rng.integers(0, num, 80) for _ in range(256)]
        target = np.zeros((80, *shape), np.uint8)
        one = Places(np.array([raw.ctypes.data], np.uint64), num)

        def case(name: str, where: Places, drawn: Any = drawn, target: Any = target, num: int = num) -> Case:
            size, to = target[0].nbytes, np.uint64(target.ctypes.data)

            def call(calls: int) -> int:
                for i in range(calls):
                    gather(where.addresses, where.rows_per_shard, num, size, drawn[i % len(drawn)], to)
                return 80 * calls

            return Case(name=name, role="kernel" if name == "raw" else "stream", run=call)

        assert places is not None
        ratio = run.measure([case("hdf5", places), case("raw", one)])["hdf5"].ratios["kernel"]
        out.append((f"{title}, mapped HDF5 to a mapped raw file", ratio, 0.97))
        path.unlink()
    return out
