"""Batch norm whose statistics are chosen: which images a prediction may be normalised with is part of a method.

`EpisodeNorm` takes the place of a module's batch-norm layers and keeps their parameters and names. In training each episode
of a block is normalised by itself, so that B episodes together give what they give one after the other. In evaluation one
of three policies holds (Bronskill et al. 2020, "TaskNorm", compares them):

- ``running``: the statistics of meta-training. A prediction depends on nothing but the support.
- ``support``: those of the episode's support, for queries too. The same holds.
- ``transductive``: those of whatever is passed together, so queries have their own. Numbers with it cannot be compared with
  the others', for a prediction depends on which other queries it is made with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from learners import functional
from learners.normalization import normalized, spread

Policy = Literal["running", "support", "transductive"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

_written: ContextVar[bool] = ContextVar("written", default=False)


@dataclass(slots=True, eq=False)
class Statistics:
    """Mean and ``1 / sqrt(biased variance + eps)`` of each layer, ``[B, C]``, as the support gave them."""

    of: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Pass:
    """How the rows of a forward pass are normalised."""

    episodes: int = 1
    """B: the rows are those of B episodes, one after the other."""
    own: bool = False
    """Normalise with the statistics of the rows themselves, in evaluation too."""
    keep: Statistics | None = None
    """Where to put these statistics."""
    given: Statistics | None = None
    """Normalise with these."""


class EpisodeNorm(_BatchNorm):
    """Batch norm over the rows of each episode, of any number of axes; see the module's docstring.

    Scale and shift are [C], or [B, C] where each episode has its own.
    """

    now: Pass = Pass()

    def _check_input_dim(self, values: Tensor) -> None:
        """Any."""

    def forward(self, values: Tensor) -> Tensor:
        """[B * n, C, ...] -> the same shape."""
        now = self.now
        if now.given is not None:
            return self._normalised(values, *now.given.of[self])
        if not (self.training or now.own):
            return self._torch(values, 0.0)
        if self.training and self.running_mean is not None and now.episodes == 1 and now.keep is None:
            return self._torch(values, self._momentum())
        if values.device.type == "cpu" and values.dtype != torch.float16 and not _written.get():
            weight, bias = (self._each(one, fill, values) for one, fill in ((self.weight, 1.0), (self.bias, 0.0)))
            made, mean, scale = normalized(values, weight, bias, self.eps)
        else:
            grouped = functional.full(values.reshape(now.episodes, -1, *values.shape[1:]))
            variance, mean = torch.var_mean(grouped, (1, *range(3, grouped.ndim)), correction=0)
            scale = torch.rsqrt(variance + self.eps)
            made = self._normalised(values, mean, scale)
        if self.training:
            self._run(mean.detach(), scale.detach(), values.numel() // mean.numel())
        if now.keep is not None:
            now.keep.of[self] = mean, scale
        return made

    def _torch(self, values: Tensor, momentum: float) -> Tensor:
        """The layer of torch, which is faster."""
        running = self.running_mean, self.running_var
        return nn.functional.batch_norm(values, *running, self.weight, self.bias, self.training, momentum, self.eps)

    def _each(self, parameter: Tensor | None, fill: float, values: Tensor) -> Tensor:
        """Scale or shift of each episode, [B, C]."""
        if parameter is None:
            kind = torch.promote_types(values.dtype, torch.float32)
            return values.new_full((self.now.episodes, values.shape[1]), fill, dtype=kind)
        return parameter if parameter.ndim == 2 else parameter.expand(self.now.episodes, -1)

    def _normalised(self, values: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        """`values` by the statistics [B, C] of their episodes."""
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale
        if self.bias is not None:
            shift = shift + self.bias
        shift, scale = (spread(one.to(values.dtype), values) for one in (shift, scale))
        return torch.addcmul(shift, values, scale)

    def _momentum(self) -> float:
        """Weight of the next batch in the running statistics; counts it."""
        if self.num_batches_tracked is None:
            return 0.0
        self.num_batches_tracked += 1
        return 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum

    def _run(self, mean: Tensor, scale: Tensor, rows: int) -> None:
        """Running statistics as if the episodes [B, C], of so many values a channel, had come one after the other."""
        if self.running_mean is None or self.running_var is None:
            return
        unbiased = (scale**-2 - self.eps) * (rows / max(1, rows - 1))
        for b in range(len(mean)):
            momentum = self._momentum()
            self.running_mean.lerp_(mean[b], momentum)
            self.running_var.lerp_(unbiased[b], momentum)


def with_episode_norms(module: nn.Module) -> nn.Module:
    """`module` with an `EpisodeNorm` in place of each batch-norm layer; parameters, buffers and their names stay."""
    if isinstance(module, _BatchNorm) and not isinstance(module, EpisodeNorm):
        affine, tracked = module.weight is not None, module.running_mean is not None
        norm = EpisodeNorm(module.num_features, module.eps, module.momentum, affine, tracked)
        norm.load_state_dict(module.state_dict())
        return norm.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, with_episode_norms(child))
    return module


def norms(module: nn.Module) -> list[EpisodeNorm]:
    """The batch-norm layers of a module, none of them twice."""
    return [one for one in module.modules() if isinstance(one, EpisodeNorm)]


@contextmanager
def passing(layers: list[EpisodeNorm], now: Pass) -> Iterator[None]:
    """Forward passes within are normalised as `now` says."""
    before = [layer.now for layer in layers]
    for layer in layers:
        layer.now = now
    try:
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.now = old


@contextmanager
def written_out() -> Iterator[None]:
    """Batch norm within consists of operations whose derivatives `torch.func.vmap` knows; its own layer's are wrong there
    in second order, and ours are for one block."""
    token = _written.set(True)
    try:
        yield
    finally:
        _written.reset(token)


def is_written_out() -> bool:
    """Whether within `written_out`."""
    return _written.get()
