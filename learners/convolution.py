"""Convolution of the rows of B tasks, each task with weights of its own, and its derivatives of any order.

Rows are ``[B * n, C, H, W]``, those of one task after those of the other; weights ``[B, K, C, h, w]``, biases ``[B, K]``.
The gradient to the rows and that to the weights are bilinear, as the convolution is, and the derivative of each of the
three is made of the other two: so all orders come from three kernels. torch's own layer differentiates its gradient by
convolutions whose kernels are as large as the images, and tasks together by grouped ones; both are slower on a CPU.

Weights that are the same for all tasks, which is what `Tensor.expand` makes of one task's, pass all rows at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F  # noqa: N812 - torch's own convention

_backward: Any = torch.ops.aten.convolution_backward
CHANNELS_LAST = torch.channels_last


@dataclass(frozen=True, slots=True)
class Steps:
    """How the kernel moves, in rows and columns."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def forward(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The rows of one task."""
        return F.conv2d(rows, _channels_last(weight), bias, self.stride, self.padding, self.dilation)

    def backward(self, slope: Tensor, rows: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]) -> list[Tensor]:
        """The gradients to rows, weights and bias of one task that are wanted."""
        moves = self.stride, self.padding, self.dilation, False, (0, 0), 1
        found: list[Tensor] = _backward(slope, rows, _channels_last(weight), [len(weight)], *moves, wanted)
        return found


def convolved(rows: Tensor, weight: Tensor, bias: Tensor | None, steps: Steps) -> Tensor:
    """[B * n, C, ...], [B, K, C, ...], [B, K] -> [B * n, K, ...]."""
    made: Tensor = _convolved(rows, weight, bias, steps)
    return made


class _Convolved(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, steps: Steps) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.steps = steps
        if _shared(weight) and (bias is None or _shared(bias)):
            return steps.forward(rows, weight[0], None if bias is None else bias[0])
        biases = [None] * len(weight) if bias is None else bias
        return _joined(steps.forward, by_task(rows, len(weight)), weight, biases)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        rows, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        to_rows = _to_rows(slope, weight, rows.detach(), ctx.steps) if wanted[0] else None
        to_weight = to_bias = None
        if wanted[1] or wanted[2]:
            to_weight, to_bias = _to_weight(slope, rows, weight.detach(), ctx.steps)
        return to_rows, to_weight, to_bias if wanted[2] else None, None


class _ToRows(Function):
    """The gradient to the rows, linear in the slope and in the weights; of the rows only the shape matters."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, weight: Tensor, rows: Tensor, steps: Steps) -> Tensor:
        ctx.save_for_backward(slope, weight)
        ctx.steps = steps

        def one(slope: Tensor, weight: Tensor, rows: Tensor) -> Tensor:
            return steps.backward(slope, rows, weight, (True, False, False))[0]

        if _shared(weight):
            return one(slope, weight[0], rows)
        return _joined(one, by_task(slope, len(weight)), weight, by_task(rows, len(weight)))

    @staticmethod
    def backward(ctx: Any, turn: Tensor) -> Any:
        slope, weight = ctx.saved_tensors
        to_slope = _convolved(turn, weight, None, ctx.steps) if ctx.needs_input_grad[0] else None
        to_weight = _to_weight(slope, turn, weight.detach(), ctx.steps)[0] if ctx.needs_input_grad[1] else None
        return to_slope, to_weight, None, None


class _ToWeight(Function):
    """The gradients to weights and biases, linear in the slope and the first in the rows; of weights the shape matters."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, rows: Tensor, weight: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(slope, rows)
        ctx.steps = steps
        num, out, channels, *size = weight.shape
        if num == 1:
            _, to_weight, to_bias = steps.backward(slope, rows, weight[0], (False, True, True))
            return to_weight.unsqueeze(0), to_bias.unsqueeze(0)
        # Channels last within each task, as the weights are: adding one to the other then needs no reordering.
        to_weight = weight.new_empty(num, out, *size, channels).permute(0, 1, 4, 2, 3)
        to_bias = weight.new_empty(num, out)
        for b, part in enumerate(zip(by_task(slope, num), by_task(rows, num), weight, strict=True)):
            _, weights, biases = steps.backward(*part, (False, True, True))
            to_weight[b].copy_(weights)
            to_bias[b].copy_(biases)
        return to_weight, to_bias

    @staticmethod
    def backward(ctx: Any, turn: Tensor, turn_bias: Tensor) -> Any:
        slope, rows = ctx.saved_tensors
        to_slope = _convolved(rows, turn, turn_bias, ctx.steps) if ctx.needs_input_grad[0] else None
        to_rows = _to_rows(slope, turn, rows.detach(), ctx.steps) if ctx.needs_input_grad[1] else None
        return to_slope, to_rows, None, None


_convolved: Any = _Convolved.apply
_to_rows: Any = _ToRows.apply
_to_weight: Any = _ToWeight.apply


def by_task(rows: Tensor, num: int) -> tuple[Tensor, ...]:
    """The rows [B * n, ...] of each of B tasks, views."""
    return rows.view(num, len(rows) // num, *rows.shape[1:]).unbind(0)


def _joined(work: Callable[..., Tensor], *parts: Any) -> Tensor:
    """The results of each task one after the other; each is copied while it is in the cache, which `torch.cat` does not."""
    joined, num = torch.empty(0), len(parts[0])
    for b, part in enumerate(zip(*parts, strict=True)):
        made = work(*part)
        if num == 1:
            return made
        if b == 0:
            last = made.is_contiguous(memory_format=CHANNELS_LAST)
            layout = CHANNELS_LAST if last else torch.contiguous_format
            joined = torch.empty(
                (num * len(made), *made.shape[1:]), dtype=made.dtype, device=made.device, memory_format=layout
            )
        joined[b * len(made) : (b + 1) * len(made)].copy_(made)
    return joined


def _shared(weight: Tensor) -> bool:
    return len(weight) == 1 or weight.stride(0) == 0


def _channels_last(weight: Tensor) -> Tensor:
    """The same [K, C, h, w] in the layout in which convolutions are fast.

    Of one input channel torch cannot tell it from the other, and takes the slower one unless strides say so.
    """
    weight = weight.contiguous(memory_format=CHANNELS_LAST)
    _, channels, height, width = weight.shape
    return weight.as_strided(weight.shape, (channels * height * width, 1, width * channels, channels))
