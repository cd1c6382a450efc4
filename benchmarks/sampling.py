"""Plans a second on one core, against NumPy doing the same task in the same run.

    python benchmarks/sampling.py

Prints one line a case: microseconds an episode, the same for NumPy, and their ratio. Each figure is the best of several
rounds, ours and NumPy's in turns, so that a busy machine disturbs both.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from worlds import class_index

from episodes.rng import scratch
from episodes.sampling import _engine, _rows, meta_dataset, uniform
from episodes.spec import EpisodeSpec

ROUNDS = 9
CLASSES, ROWS, BLOCK = 1623, 20, 128
FIXED = EpisodeSpec(ways=5, shots=1, queries=15)
VARIABLE = EpisodeSpec(ways="variable", shots="variable", queries="variable")


def block_of(i: int) -> np.ndarray:
    """Indices of the i-th block."""
    return np.arange(BLOCK * i, BLOCK * (i + 1), dtype=np.uint64)


def seconds(call: Callable[[int], Any], calls: int) -> float:
    """Seconds a call."""
    begin = time.perf_counter()
    for i in range(calls):
        call(i)
    return (time.perf_counter() - begin) / calls


def compare(
    ours: Callable[[int], Any], episodes: int, calls: int, reference: Callable[[int], Any], name: str
) -> tuple[float, float]:
    """Print a case; returns seconds an episode, ours and NumPy's."""
    ours(0)
    pairs = [(seconds(ours, calls) / episodes, seconds(reference, max(20, calls // 4))) for _ in range(ROUNDS)]
    mine, numpy = (min(column) for column in zip(*pairs, strict=True))
    print(f"{name:<44} {1e6 * mine:8.3f} us  NumPy {1e6 * numpy:8.2f} us  {numpy / mine:6.1f}x")
    return mine, numpy


def numpy_fixed(rng: np.random.Generator, starts: np.ndarray) -> Callable[[int], Any]:
    """5-way 1-shot 15-query: classes, rows of each, and the two parts as arrays."""

    def draw(_: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        classes = rng.choice(CLASSES, 5, replace=False)
        rows = np.stack([starts[c] + rng.choice(ROWS, 16, replace=False) for c in classes])
        return classes, rows[:, :1].reshape(-1), rows[:, 1:].reshape(-1)

    return draw


def numpy_meta_dataset(rng: np.random.Generator, starts: np.ndarray, num: int) -> Callable[[int], Any]:
    """Meta-Dataset's flat procedure with rows, for classes of 20."""

    def draw(_: int) -> tuple[np.ndarray, np.ndarray]:
        ways = int(rng.integers(5, 51))
        classes = rng.choice(num, ways, replace=False)
        queries, room = 10, 10
        bound = min(500, ways * (math.floor(rng.random() * room) + 1))
        weights = np.exp(rng.uniform(math.log(0.5), math.log(2), ways))
        shots = np.minimum(np.floor(weights / weights.sum() * (bound - ways)).astype(int) + 1, room)
        rows = [starts[c] + rng.choice(20, k + queries, replace=False) for c, k in zip(classes, shots, strict=True)]
        support = np.concatenate([r[:k] for r, k in zip(rows, shots, strict=True)])
        return support, np.concatenate([r[k:] for r, k in zip(rows, shots, strict=True)])

    return draw


def main() -> dict[str, tuple[float, float, float]]:
    """All cases; returns by name seconds an episode, ours and NumPy's, and the row and class numbers drawn for one."""
    classes, rng = class_index([ROWS] * CLASSES), np.random.default_rng(0)
    reference = numpy_fixed(rng, classes.starts)
    sampler = uniform.make(uniform.Options())
    found, drawn = {}, 5 * 17
    found["block"] = (
        *compare(
            lambda i: sampler.block(classes, FIXED, 0, block_of(i)),
            BLOCK,
            20,
            reference,
            "5-way 1-shot, block of 128 plans",
        ),
        drawn,
    )
    one = compare(lambda i: sampler.plan(classes, FIXED, 0, i), 1, 2000, reference, "5-way 1-shot, one EpisodePlan a call")
    found["plan"] = *one, drawn
    key = _engine.key_of(classes, "uniform", 1, 0)
    numbers = scratch()

    def kernel_call(i: int) -> None:
        _rows.fill_one(*key, i, 1, 15, classes.extents, numbers, np.empty(5 * 17, np.int64))

    compare(kernel_call, 1, 2000, reference, "5-way 1-shot, one kernel call, fresh output")
    out, extents = np.empty(5 * 17, np.int64), classes.extents
    found["single"] = *compare(
        lambda i: _rows.fill_one(*key, i, 1, 15, extents, numbers, out), 1, 2000, reference,
        "5-way 1-shot, one kernel call, output reused",
    ), drawn  # fmt: skip

    omniglot = class_index([20] * 883)
    meta = meta_dataset.make(meta_dataset.Options())
    block = meta.block(omniglot, VARIABLE, 0, block_of(0))
    indices = (len(block.rows) + int(block.ways.sum())) / BLOCK
    mine, numpy = compare(
        lambda i: meta.block(omniglot, VARIABLE, 0, block_of(i)), BLOCK, 4,
        numpy_meta_dataset(rng, omniglot.starts, 883), "Meta-Dataset flat with rows, block of 128",
    )  # fmt: skip
    found["meta-dataset"] = mine, numpy, indices
    print(f"{'':<44} {1e9 * mine / indices:8.2f} ns a drawn index ({indices:.0f} an episode)")

    begin = time.perf_counter()
    large = class_index([10_000_000, *[20] * 99_999])
    spec = EpisodeSpec(ways=1000, shots=1, queries=2)
    sampler.plan(large, spec, 0, 0)
    first, again = time.perf_counter() - begin, seconds(lambda i: sampler.plan(large, spec, 0, i), 50)
    columns = (large.ids, large.starts, large.counts, large.groups, large.variants, large.extents)
    print(
        f"100,000 classes, one of 10 million rows: 1,000-way plan {1e6 * again:.0f} us (first {first:.2f} s); ",
        end="",
    )
    print(f"index {sum(column.nbytes for column in columns) / 2**20:.1f} MiB and the names")
    return found


if __name__ == "__main__":
    main()
