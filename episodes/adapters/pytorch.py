"""Episodes as torch tensors: sharing memory on the CPU, ahead of the consumer or made from resident rows on a device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from episodes.adapters._device_stream import DeviceStream
from episodes.adapters._torch_prefetch import prefetch
from episodes.adapters._torch_resident import resident
from episodes.adapters.each import Block, each_with_axis
from episodes.episode import Episode
from episodes.errors import StreamError, WorkerFailed
from episodes.protocols import Series
from episodes.stream.options import ranks_of
from episodes.stream.stream import Stream

__all__ = ["DeviceStream", "EpisodeDataset", "prefetch", "resident", "to_torch"]


def to_torch(item: Episode[NDArray[Any]] | Block, device: torch.device | str = "cpu") -> Episode[Tensor]:
    """`item` as tensors with a leading episode axis, ``[1, n, ...]``, or ``[B, n, ...]`` of a block; dtypes are kept.

    On the CPU the tensors share the arrays' memory, and keep it: a stream fills it again when the last of them is gone. On
    another device they are copies, and of read-only arrays, which torch does not know.

    Raises:
        SpecError: a block of episodes of different sizes, which cannot be stacked.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return each_with_axis(item, _tensor)
    return each_with_axis(item, lambda values: _tensor(values).to(device))


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values if values.flags.writeable else values.copy())


class EpisodeDataset(IterableDataset[Episode[Tensor]]):
    """A series under a ``DataLoader(dataset, batch_size=None, num_workers=n)`` of one's own; items are as of `to_torch`.

    The loader's workers split the series: worker w of n under rank r of world R makes every R*n-th episode, from r + R*w
    on. So each index comes once, and without `block` in the order of `Stream`; a block is of one worker's episodes.

    Slower than `Stream` with threads, whose gathers hold no interpreter lock: here each tensor is copied into a memory
    segment of its own to get from one process to another, which takes longer than making it. It is for what must run in
    processes: a ``then`` that is long Python, or a framework that asks for a ``DataLoader``.

    A loader reads ahead, so there is no state: to resume, give as `start` the first index that was not used.

    Args:
        series: where episodes come from; picklable where workers are spawned. Stores are opened anew by each worker.
        block: stack so many episodes into one item.
        start: first index over all ranks and workers.
        rank: as of `Stream`; None: as torch.distributed says when this object is made.
        world: as of `Stream`.

    Raises:
        StreamError: an option out of range; from a loader, an episode that could not be made.
    """

    def __init__(
        self,
        series: Series[Any],
        *,
        block: int | None = None,
        start: int = 0,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        self.series = series
        self._block, self._start = block, start
        self._rank, self._world = ranks_of(rank, world)  # what torch.distributed says is not known in a worker
        self._stream(0, 1)  # refuses here what it would refuse in a worker

    def _stream(self, worker: int, workers: int) -> Stream[Any]:
        options: Any = {"start": self._start, "block": self._block}
        return Stream(self.series, rank=self._rank + self._world * worker, world=self._world * workers, **options)

    def __iter__(self) -> Iterator[Episode[Tensor]]:
        """From `start` on, each time."""
        worker = get_worker_info()
        if worker is None:
            yield from map(to_torch, self._stream(0, 1))
            return
        try:
            yield from map(to_torch, self._stream(worker.id, worker.num_workers))
        except WorkerFailed as error:  # a loader makes errors anew of their text alone
            raise StreamError(str(error)) from error
