"""From arrays to a device in one copy: host memory that transfers start from, and who may write it when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGN = 64  # bytes: where each array begins, so that its bytes can be viewed as any type


def device_of(device: torch.device | str) -> torch.device:
    """`device`; of a GPU without a number, the current one."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


@lru_cache
def torch_dtype(dtype: np.dtype[Any] | str) -> torch.dtype:
    """The torch type of a NumPy type."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


class Bus:
    """A few pieces of host memory used in turns, pinned where the device is a GPU, so that copies go on by themselves.

    A piece is written anew only when the copy that read it last is done. Every other device copies at once, from ordinary
    memory. Transfers are on the stream that is current in the caller.

    Args:
        device: where to.
        slots: pieces of memory: transfers that may be on their way at a time.
    """

    def __init__(self, device: torch.device, slots: int) -> None:
        self.device, self._pinned = device, device.type == "cuda"
        self._memory = [torch.empty(0, dtype=torch.uint8, device="cpu")] * slots
        self._done: list[torch.cuda.Event | None] = [None] * slots
        self._slot = 0

    def room(self, size: int) -> NDArray[np.uint8]:
        """[size] bytes to write, of the next piece of memory; they stay as written until it is the piece's turn again."""
        self._slot = (self._slot + 1) % len(self._memory)
        done = self._done[self._slot]
        if done is not None:
            done.synchronize()
        if len(self._memory[self._slot]) < size:
            self._memory[self._slot] = torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=self._pinned)
        room: NDArray[np.uint8] = self._memory[self._slot].numpy()[:size]
        return room

    def send(self, to: Tensor) -> None:
        """Copy as many bytes as `to` has, a flat uint8 tensor on the device, from the front of the room last given."""
        to.copy_(self._memory[self._slot][: len(to)], non_blocking=self._pinned)
        if self._pinned:
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]  # as torch leaves it
            done.record(torch.cuda.current_stream(self.device))
            self._done[self._slot] = done

    def deliver(self, arrays: Sequence[NDArray[Any]]) -> list[Tensor]:
        """`arrays` as tensors on the device, of the same types and shapes, over one piece of memory filled by one copy."""
        ends = np.cumsum([0, *(-(-array.nbytes // _ALIGN) * _ALIGN for array in arrays)]).tolist()
        room = self.room(ends[-1])
        for array, start in zip(arrays, ends, strict=False):
            place: NDArray[Any] = np.ndarray(array.shape, array.dtype, room[start:])
            np.copyto(place, array)
        memory = torch.empty(ends[-1], dtype=torch.uint8, device=self.device)
        self.send(memory)
        return [
            memory[start : start + array.nbytes].view(torch_dtype(array.dtype)).view(array.shape)
            for array, start in zip(arrays, ends, strict=False)
        ]

    def empty(self, dtype: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Uninitialised memory on the device: as a tensor, and its bytes, flat, to send to."""
        memory = torch.empty(math.prod(shape) * np.dtype(dtype).itemsize, dtype=torch.uint8, device=self.device)
        return memory.view(torch_dtype(dtype)).view(shape), memory
