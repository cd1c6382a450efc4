"""Layers that take weights of several tasks: a leading axis B on every parameter, the rows of B tasks one after the other.

With parameters of the usual shapes they are torch's layers. Batch norm (`learners.norm`) does the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learners.convolution import Steps, convolved
from learners.norm import EpisodeNorm


class TaskConv2d(nn.Conv2d):
    """[B * n, C, H, W] with weights [B, K, C, h, w]."""

    def forward(self, rows: Tensor) -> Tensor:
        """As torch's, or with the weights of each task."""
        if self.weight.ndim == 4:
            return super().forward(rows)
        moves = (tuple(int(i) for i in move) for move in (self.stride, self.padding, self.dilation))
        return convolved(rows, self.weight, self.bias, Steps(*moves))


class TaskLinear(nn.Linear):
    """[B * n, ..., D] with weights [B, O, D]."""

    def forward(self, rows: Tensor) -> Tensor:
        """As torch's, or with the weights of each task."""
        if self.weight.ndim == 2:
            return super().forward(rows)
        grouped, weight = rows.reshape(len(self.weight), -1, rows.shape[-1]), self.weight.transpose(1, 2)
        made = grouped @ weight if self.bias is None else torch.baddbmm(self.bias.unsqueeze(1), grouped, weight)
        return made.view(*rows.shape[:-1], -1)


def with_task_layers(module: nn.Module) -> nn.Module:
    """`module` with layers of this file in place of torch's where there are such; parameters and their names stay."""
    for one in module.modules():
        if type(one) is nn.Linear:
            one.__class__ = TaskLinear  # nothing but `forward` is another: parameters, hooks and device stay
        elif type(one) is nn.Conv2d and one.groups == 1 and one.padding_mode == "zeros" and isinstance(one.padding, tuple):
            one.__class__ = TaskConv2d
    return module


def takes_tasks(module: nn.Module) -> bool:
    """Whether every parameter belongs to a layer that takes weights of several tasks."""
    layers = TaskConv2d, TaskLinear, EpisodeNorm
    return all(isinstance(one, layers) for one in module.modules() if list(one.parameters(recurse=False)))
