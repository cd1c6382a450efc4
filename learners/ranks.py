"""Ranks: equal processes that share a run. Each takes its own episodes; together they give the numbers of one process.

Processes are those of ``torch.distributed``, which `learners.fabric` starts under ``torchrun``. Without it there is rank 0
of 1, and everything here does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from episodes.errors import EpisodesError

T = TypeVar("T")


def running() -> bool:
    """Whether there are several ranks."""
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """Which of the ranks this is; rank 0 alone writes files."""
    return distributed.get_rank() if running() else 0


def world() -> int:
    """How many ranks there are."""
    return distributed.get_world_size() if running() else 1


def first(work: Callable[[], T]) -> T:
    """What `work` returns on rank 0, which does it after every rank has come here; a user's error is raised on all."""
    if not running():
        return work()
    distributed.barrier()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = work()
        except EpisodesError as error:
            outcome[1] = error
    distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


def gathered(value: T) -> list[T]:
    """The values of all ranks, in order."""
    if not running():
        return [value]
    values: list[Any] = [None] * world()
    distributed.all_gather_object(values, value)
    return values


def averaged(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Mean of each value over ranks, which must have the same names."""
    if not running():
        return dict(values)
    names = sorted(values)
    total = torch.tensor([values[name] for name in names], dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return dict(zip(names, (total / world()).tolist(), strict=True))


def same_parameters(module: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0."""
    if running():
        for tensor in (*module.parameters(), *module.buffers()):
            distributed.broadcast(tensor.detach(), src=0)


def average(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Mean of each tensor over ranks, in one message."""
    if not running():
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    parts = torch.split(flat / world(), [tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace each gradient by its mean over ranks, in one message; one that no rank has stays None."""
    if not running():
        return
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    used = torch.tensor([p.grad is not None for p in parameters], dtype=grads[0].dtype, device=grads[0].device)
    found, *means = average([used, *grads])
    for parameter, mean, anywhere in zip(parameters, means, found.tolist(), strict=True):
        parameter.grad = mean if anywhere else None


class RunningStatistics:
    """Running statistics of batch norm as one process would have them that met the episodes of all ranks in turn.

    An update is linear, ``r <- (1 - m) r + m s``. So each rank keeps a share: rank 0 what was there before the step, every
    rank what its own episodes add, faded by the episodes of the others; the sum of the shares is the sequential result.
    Layers that average over all batches (momentum None), and other buffers, get the values of rank 0.
    """

    def __init__(self, module: nn.Module) -> None:
        norms = [one for one in module.modules() if isinstance(one, _BatchNorm) and one.momentum is not None]
        self._norms = [one for one in norms if one.running_mean is not None] if running() else []
        own = {id(buffer) for one in self._norms for buffer in one.buffers()}
        self._others = [buffer for buffer in module.buffers() if id(buffer) not in own] if running() else []

    @property
    def kept(self) -> bool:
        """Whether there are any that several ranks share."""
        return bool(self._norms)

    @contextmanager
    def step(self) -> Iterator[None]:
        """An outer step of several episodes."""
        self._counts = [_count(one).clone() for one in self._norms]
        self._shares = [values.clone() if rank() == 0 else torch.zeros_like(values) for values in self._values()]
        yield
        self._join()

    @contextmanager
    def episode(self) -> Iterator[None]:
        """A forward pass of this rank, while the others make one of their own with as many updates."""
        before, counts = [values.clone() for values in self._values()], [_count(one).clone() for one in self._norms]
        yield
        for i, values in enumerate(self._values()):
            norm = self._norms[i // 2]
            assert norm.momentum is not None
            keep = (1 - norm.momentum) ** (_count(norm) - counts[i // 2])
            added = values - keep * before[i]
            self._shares[i] = keep ** world() * self._shares[i] + keep ** (world() - 1 - rank()) * added

    def _values(self) -> list[Tensor]:
        """Mean and variance of each layer, one after the other."""
        return [buffer for one in self._norms for buffer in (one.running_mean, one.running_var) if buffer is not None]

    def _join(self) -> None:
        for values, share in zip(self._values(), self._shares, strict=True):
            distributed.all_reduce(share)
            values.copy_(share)
        for norm, before in zip(self._norms, self._counts, strict=True):
            added = _count(norm) - before
            distributed.all_reduce(added)
            _count(norm).copy_(before + added)
        for buffer in self._others:
            distributed.broadcast(buffer, src=0)


def _count(norm: _BatchNorm) -> Tensor:
    assert norm.num_batches_tracked is not None
    return norm.num_batches_tracked


def close() -> None:
    """Leave the other ranks; the end of a command."""
    if running():
        distributed.destroy_process_group()
