"""Batch norm of the values of B tasks, each by its own statistics, and its derivatives to the second order.

Values are ``[B * n, C, ...]``, scale and shift ``[B, C]``; values may have half the precision of these. Written out in
torch's operations, each derivative would be a dozen passes over the values; here it is one kernel of torch's a task, and
the second one three sums and two values.

With ``z = (x - mean) r``, ``r = 1 / sqrt(variance + eps)``, ``y = w z + b``, a slope g of y, means ``< >`` over a task's
values of a channel, and ``P(u) = u - <u> - z <u z>``, the gradient to x is ``w r P(g)``. Its inner product with v has the
gradients ``w r P(v)`` to g, ``- w r^2 (k z + <g z> P(v) + <v z> P(g))`` to x, ``r m k`` to w, with m the number of values
and ``k = <v g> - <v><g> - <v z><g z>``; those of the gradients ``m <g z>`` to w and ``m <g>`` to b come on top.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from learners.convolution import by_task

_native: Any = torch.ops.aten.native_batch_norm
_backward: Any = torch.ops.aten.native_batch_norm_backward
AT_ONCE = 250_000  # values of the tasks whose second derivatives are computed together: what stays in a core's cache


def normalized(values: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Values [B * n, C, ...], normalised, and the mean and ``1 / sqrt(variance + eps)`` of each task, [B, C]."""
    made: tuple[Tensor, Tensor, Tensor] = _normalized(values, weight, bias, eps)
    return made


class _Normalized(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        num = len(weight)
        if num == 1:
            out, mean, scale = _native(values, weight[0], bias[0], None, None, True, 0.0, eps)
            mean, scale = mean.unsqueeze(0), scale.unsqueeze(0)
        else:
            out, mean, scale = torch.empty_like(values), torch.empty_like(weight), torch.empty_like(weight)
            parts = zip(*(by_task(x, num) for x in (values, out)), weight, bias, mean, scale, strict=True)
            for x, y, w, b, m, r in parts:
                _native.out(x, w, b, None, None, True, 0.0, eps, out=y, save_mean=m, save_invstd=r)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(values, weight, mean, scale)
        ctx.eps = eps
        return out, mean, scale

    @staticmethod
    def backward(ctx: Any, slope: Tensor | None, of_mean: Tensor | None, of_scale: Tensor | None) -> Any:
        values, weight, mean, scale = ctx.saved_tensors
        to_values = to_weight = to_bias = None
        if slope is not None:
            known = mean.detach(), scale.detach(), ctx.eps
            to_values, to_weight, to_bias = _to_values(slope, values, weight, *known)
        m = values.numel() // mean.numel()
        if of_mean is not None:
            more = spread(of_mean / m, values)
            to_values = more.expand_as(values) if to_values is None else to_values + more
        if of_scale is not None:
            more = (values - spread(mean, values)) * spread(-of_scale * scale**3 / m, values)
            to_values = more if to_values is None else to_values + more
        return to_values, to_weight, to_bias, None


class _ToValues(Function):
    """The gradients to values, scale and shift; mean and r are functions of the values, and counted as such."""

    @staticmethod
    def forward(
        ctx: Any, slope: Tensor, values: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        num = len(weight)
        if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
            slope = slope.contiguous(memory_format=torch.channels_last)  # kernels are slow where layouts differ
        if num == 1:
            known = weight[0], None, None, mean[0], scale[0]
            out, to_weight, to_bias = _backward(slope, values, *known, True, eps, (True, True, True))
            to_weight, to_bias = to_weight.unsqueeze(0), to_bias.unsqueeze(0)
        else:
            out, to_weight, to_bias = torch.empty_like(values), torch.empty_like(mean), torch.empty_like(mean)
            parts = zip(*(by_task(x, num) for x in (slope, values, out)), weight, mean, scale, strict=True)
            for b, (g, x, y, w, m, r) in enumerate(parts):
                made = _backward(g, x, w, None, None, m, r, True, eps, (True, True, True))
                for kept, new in zip((y, to_weight[b], to_bias[b]), made, strict=True):
                    kept.copy_(new)
        ctx.save_for_backward(slope, values, weight, mean, scale, to_weight, to_bias)
        return out, to_weight, to_bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, turn: Tensor, turn_weight: Tensor, turn_bias: Tensor) -> Any:
        slope, values, weight, mean, scale, to_weight, to_bias = ctx.saved_tensors
        num, channels = mean.shape
        m = values.numel() // mean.numel()
        g, x, v = (_flat(one.to(mean.dtype), num) for one in (slope, values, turn))  # [B, m, C]
        gz, g_mean, wr = to_weight / m, to_bias / m, weight * scale
        wrr, vw_r = wr * scale, turn_weight * scale
        to_slope, to_values, to_scale = torch.empty_like(x), torch.empty_like(x), torch.empty_like(mean)
        for begin in range(0, num, step := max(1, AT_ONCE // (m * channels))):
            b = slice(begin, begin + step)
            z = (x[b] - mean[b, None]).mul_(scale[b, None])
            product = v[b] * z
            v_mean, vz = v[b].mean(1), product.mean(1)
            k = torch.mul(v[b], g[b], out=product).mean(1) - v_mean * g_mean[b] - vz * gz[b]
            torch.addcmul((turn_bias[b] - wr[b] * v_mean)[:, None], v[b], wr[b, None], out=to_slope[b])
            to_slope[b].addcmul_(z, (turn_weight[b] - wr[b] * vz)[:, None])
            by_z = wrr[b] * (2 * gz[b] * vz - k) - vw_r[b] * gz[b]
            by_g, by_v = vw_r[b] - wrr[b] * vz, -wrr[b] * gz[b]
            torch.addcmul(-(by_g * g_mean[b] + by_v * v_mean)[:, None], v[b], by_v[:, None], out=to_values[b])
            to_values[b].addcmul_(g[b], by_g[:, None]).addcmul_(z, by_z[:, None])
            to_scale[b] = m * scale[b] * k
        return _back(to_slope, values), _back(to_values, values), to_scale, None, None, None


_normalized: Any = _Normalized.apply
_to_values: Any = _ToValues.apply


def spread(statistics: Tensor, values: Tensor) -> Tensor:
    """[B, C] -> [B * n, C, 1, ...], to go with values [B * n, C, ...]."""
    shape = (len(values), -1, *(1 for _ in range(values.ndim - 2)))
    each = len(values) // len(statistics)
    if len(statistics) == 1:
        return statistics.view(1, *shape[1:])
    return statistics.repeat_interleave(each, 0).view(shape)


def _flat(values: Tensor, num: int) -> Tensor:
    """[B * n, C, ...] -> [B, m, C]; of channels last a view."""
    return values.movedim(1, -1).reshape(num, -1, values.shape[1])


def _back(flat: Tensor, like: Tensor) -> Tensor:
    """[B, m, C] -> the shape of `like`, channels last."""
    return flat.view(len(like), *like.shape[2:], like.shape[1]).movedim(-1, 1)
