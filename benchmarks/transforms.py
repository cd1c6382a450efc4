"""Fused transforms on one core, against the plain gather and against torch doing the same, in one run.

    python benchmarks/transforms.py

Rows are gathered at random from 200 MB of images into memory that is used again, as a stream does. For each size of image
and of message, one line a case:

- nanoseconds an image;
- share of the plain uint8 gather's rate, in images: what the work costs;
- times the rate of torch doing the same: the device's code (`episodes.adapters._torch_transform`) on the CPU.

For plain float32 two more: torch after the plain gather, with ``copy_ / mul_ / add_`` into a tensor that is used again, and
with ``float().div(255).sub(mean).div(std)``. float32 writes four bytes for each that it reads: how long writing alone takes
bounds it. Each figure is the median of several rounds of processor time, all cases in turns, so that a busy machine
disturbs little and all alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from episodes.adapters._torch_transform import apply
from episodes.protocols import FieldSpec
from episodes.store._fused import gather_transformed
from episodes.store._gather import gather
from episodes.transforms import Transform

Shape = tuple[int, int, int]
Batch = np.ndarray

ROUNDS = 7
STORE_BYTES, ROUND_BYTES = 200_000_000, 10_000_000
IMAGES: dict[Shape, tuple[int, ...]] = {(1, 28, 28): (80, 1280), (3, 64, 64): (80, 320), (3, 84, 84): (8, 80, 320)}
NORMALISE = {"mean": (0.5,), "std": (0.25,)}
AFFINE = {"rotate": 10.0, "translate": 0.1, "scale": (0.9, 1.1)}
PLAIN, FLOAT = "uint8, nothing to do", "float32"
CASES = {
    PLAIN: Transform(),
    "uint8, flip": Transform(flip=True),
    "uint8, flip, crop": Transform(flip=True, crop_padding=4),
    "uint8, brightness, contrast": Transform(brightness=0.2, contrast=0.2),
    "uint8, rotate, translate, scale": Transform(**AFFINE),
    FLOAT: Transform(**NORMALISE),
    "float32, to HWC": Transform(layout="hwc", **NORMALISE),
    "float32, flip, crop": Transform(flip=True, crop_padding=4, **NORMALISE),
    "float32, flip, crop, tone": Transform(flip=True, crop_padding=4, brightness=0.2, contrast=0.2, **NORMALISE),
    "float32, rotate, translate, scale": Transform(**AFFINE, **NORMALISE),
}
EVERYTHING = Transform(flip=True, crop_padding=4, brightness=0.2, contrast=0.2, **AFFINE)


class Case:
    """A store of one size of image, and what is done to messages of `num` rows of it."""

    def __init__(self, shape: Shape, num: int) -> None:
        rng, self.shape, self.num = np.random.default_rng(0), shape, num
        size = int(np.prod(shape))
        self.store = rng.integers(0, 256, (STORE_BYTES // size, *shape), np.uint8)
        self.places = np.array([self.store.ctypes.data], np.uint64)
        self.batches = [rng.integers(0, len(self.store), num) for _ in range(2 + ROUND_BYTES // (num * size))]
        self.pixels, self.values = np.zeros((num, *shape), np.uint8), np.zeros((num, *shape), np.float32)

    def gather(self, batch: Batch) -> None:
        """The plain gather."""
        size, num = self.store[0].nbytes, len(self.store)
        gather(self.places, num, num, size, batch, np.uint64(self.pixels.ctypes.data))

    def fused(self, transform: Transform) -> Callable[[Batch], Any]:
        """The compiled gather with a transform; its numbers are drawn beforehand."""
        drawn, normaliser = self.numbers(transform), transform.normaliser(self.shape[0])
        out = np.uint64((self.values if transform.dtype == "float32" else self.pixels).ctypes.data)
        num, last = len(self.store), transform.layout == "hwc"
        return lambda batch: gather_transformed(
            self.places, num, num, *self.shape, False, last, batch, drawn, transform.fill, *normaliser, out
        )

    def device(self, transform: Transform) -> Callable[[Batch], Any]:
        """The same in torch."""
        store, drawn = torch.from_numpy(self.store), torch.from_numpy(self.numbers(transform))
        return lambda batch: apply(store, drawn, transform, torch.from_numpy(batch))

    def numbers(self, transform: Transform) -> np.ndarray:
        """Numbers for one message."""
        rows = np.arange(self.num)
        return transform.draw(FieldSpec("uint8", self.shape), 0, 1, rows.astype(np.uint64), rows)

    def reused(self, batch: Batch) -> None:
        """float32 by torch, in memory that is used again."""
        self.gather(batch)
        factor, term = (torch.from_numpy(a)[:, None, None] for a in CASES[FLOAT].normaliser(self.shape[0]))
        torch.from_numpy(self.values).copy_(torch.from_numpy(self.pixels)).mul_(factor).add_(term)

    def fresh(self, batch: Batch) -> None:
        """float32 by torch, as it is usually written."""
        self.gather(batch)
        mean, std = (torch.tensor(NORMALISE[name])[:, None, None] for name in ("mean", "std"))
        torch.from_numpy(self.pixels).float().div(255).sub(mean).div(std)


def medians(calls: dict[str, Callable[[Batch], Any]], batches: list[Batch]) -> dict[str, float]:
    """Name -> median seconds a message, the calls in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            call(batches[0])  # compiles, and finds its output in the cache, as in a stream
            begin = time.thread_time()
            for batch in batches[1:]:
                call(batch)
            times[name].append((time.thread_time() - begin) / len(batches[1:]))
    return {name: float(np.median(values)) for name, values in times.items()}


def report(shape: Shape, num: int) -> None:
    """Time and print one size of message."""
    case = Case(shape, num)
    calls: dict[str, Callable[[Batch], Any]] = {"gather": case.gather, "reused": case.reused}
    calls |= {name: case.fused(transform) for name, transform in CASES.items()}
    calls |= {"numbers": lambda batch: case.numbers(EVERYTHING), "fill": lambda batch: case.values.fill(1.0)}
    calls["fresh"] = case.fresh
    times = medians(calls, case.batches)
    # Apart from the others: torch's temporaries would push their store and output out of the cache.
    torches = medians({name: case.device(transform) for name, transform in CASES.items()}, case.batches[:3])
    title = f"{' x '.join(map(str, shape))}, {num} images a message"
    print(f"\n{title}: the plain gather takes {1e9 * times['gather'] / num:.0f} ns an image")
    print(f"{'':<36}{'ns':>8}{'of gather':>11}{'x torch':>9}")
    for name in CASES:
        taken = times[name]
        print(f"{name:<36}{1e9 * taken / num:>8.0f}{times['gather'] / taken:>11.2f}{torches[name] / taken:>9.1f}")
    for name, text in (("reused", "torch, memory used again"), ("fresh", "torch, fresh memory")):
        print(f"{text:<36}{1e9 * times[name] / num:>8.0f}{times['gather'] / times[name]:>11.2f}  float32 fused: ", end="")
        print(f"{times[name] / times[FLOAT]:.2f}x")
    for name, text in (("numbers", "numbers alone, of every part"), ("fill", "writing alone, float32")):
        print(f"{text:<36}{1e9 * times[name] / num:>8.0f}{times['gather'] / times[name]:>11.2f}")


def main() -> None:
    """All sizes."""
    torch.set_num_threads(1)
    for shape, messages in IMAGES.items():
        for num in messages:
            report(shape, num)


if __name__ == "__main__":
    main()
