"""Causal blocks over sequences, [B, L, C]: no output depends on a later position. Mishra et al. 2018, figure 2."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class CausalConv(nn.Module):
    """Convolution of two positions, L and L - `dilation`, with zeros before the first: [B, L, C] -> [B, L, filters]."""

    def __init__(self, channels: int, filters: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, filters, 2, dilation=dilation)
        self.dilation = dilation

    def forward(self, values: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, filters]."""
        padded = nn.functional.pad(values.transpose(1, 2), (self.dilation, 0))
        out: Tensor = self.conv(padded)
        return out.transpose(1, 2)


class DenseBlock(nn.Module):
    """The input, and a gated causal convolution of it: [B, L, C] -> [B, L, C + filters]."""

    def __init__(self, channels: int, filters: int, dilation: int) -> None:
        super().__init__()
        self.value, self.gate = (CausalConv(channels, filters, dilation) for _ in range(2))

    def forward(self, values: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, C + filters]."""
        return torch.cat([values, torch.tanh(self.value(values)) * torch.sigmoid(self.gate(values))], dim=-1)


class TemporalBlock(nn.Module):
    """Dense blocks of dilation 2, 4, 8, ..., as many as a sequence of `length` needs: log2 of it, rounded up.

    The paper prints these dilations, which reach even offsets only. With `first` = 1 they are 1, 2, 4, ..., and every
    offset is reached.
    """

    def __init__(self, channels: int, length: int, filters: int, first: int = 2) -> None:
        super().__init__()
        num = math.ceil(math.log2(length))
        self.blocks = nn.Sequential(
            *(DenseBlock(channels + i * filters, filters, first * 2**i) for i in range(num)),
        )
        self.channels = channels + num * filters

    def forward(self, values: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, C + blocks * filters]."""
        out: Tensor = self.blocks(values)
        return out


class AttentionBlock(nn.Module):
    """The input, and what each position reads from those up to it: [B, L, C] -> [B, L, C + values]."""

    def __init__(self, channels: int, keys: int, values: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(channels, keys), nn.Linear(channels, keys)
        self.value = nn.Linear(channels, values)
        self.channels = channels + values

    def forward(self, values: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, C + values]; the softmax is over keys, of which later ones are masked before it."""
        read = nn.functional.scaled_dot_product_attention(
            self.query(values), self.key(values), self.value(values), is_causal=True
        )
        return torch.cat([values, read], dim=-1)
