"""What torch users do for episodes, to compare with: an image dataset under a DataLoader with an episodic batch sampler."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from episodes.protocols import FieldSpec

_FEATURES = 256


def from_numpy(array: NDArray[Any]) -> Tensor:
    """The array as a tensor over the same memory."""
    return torch.from_numpy(array)


class Images(Dataset[tuple[Tensor, int]]):
    """Samples of an array in memory, one by one, each with its class."""

    def __init__(self, array: NDArray[Any], owners: list[int]) -> None:
        self._array, self._owners = array, owners

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        """One sample, over the array's memory, and its class."""
        image = self._array[row] if self._array.ndim > 1 else self._array[row : row + 1]
        return torch.from_numpy(image), self._owners[row]


@contextmanager
def loader(
    array: NDArray[Any], owners: list[int], episodes: Iterator[list[int]], workers: int
) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
    """Batches of one episode each, stacked by the default collation; worker processes stay and end with the context.

    Args:
        array: [rows, ...] samples.
        owners: class of each row.
        episodes: rows of each episode; the batch sampler.
        workers: processes.
    """
    batches: Any = DataLoader(
        Images(array, owners),
        batch_sampler=episodes,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    iterator = iter(batches)
    try:
        yield iterator
    finally:
        if workers:
            iterator._shutdown_workers()  # else they stay for as long as anything refers to the iterator


def run(batches: Iterator[tuple[Tensor, Tensor]], consume: Callable[[Any, int], None] | None) -> Callable[[int], int]:
    """So many batches as a case of `episodes.bench`."""

    def take(calls: int) -> int:
        rows = 0
        for _ in range(calls):
            images, _ = next(batches)
            rows += len(images)
            if consume is not None:
                consume(images, 1)
        return rows

    return take


def product(field: FieldSpec) -> Callable[[Any, int], None]:
    """A consumer that computes on all cores: samples as float32 times a matrix."""
    weights = torch.ones(math.prod(field.shape), _FEATURES)

    @torch.inference_mode()
    def consume(images: Any, episodes: int) -> None:
        values = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
        values.reshape(len(values), -1).float().matmul(weights)

    return consume
