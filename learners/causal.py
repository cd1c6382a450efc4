"""Causal blocks over sequences, [B, L, C]: no output depends on a later position. Mishra et al. 2018, figure 2.

Many sequences that differ in their last token only share all else: ``block.ends(shown, ends)`` takes the S tokens that they
begin with, [B, S, C], and their last ones, [B, E, C], and gives both as `forward` would of B E sequences of S + 1.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention


class CausalConv(nn.Module):
    """Convolution of two positions, L and L - `dilation`, with zeros before the first: [B, L, C] -> [B, L, filters]."""

    def __init__(self, channels: int, filters: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, filters, 2, dilation=dilation)
        self.dilation = dilation

    def forward(self, values: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, filters]."""
        # Two matrix products: of sequences this short they take a fraction of a convolution's time on a CPU.
        before, now = self.conv.weight.unbind(-1)
        made = F.linear(values, now, self.conv.bias)
        if values.shape[1] <= self.dilation:
            return made
        return made + F.pad(F.linear(values[:, : -self.dilation], before), (0, 0, self.dilation, 0))

    def ends(self, shown: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, C], [B, E, C] -> [B, S, filters], [B, E, filters]."""
        before, now = self.conv.weight.unbind(-1)
        made, at = F.linear(ends, now, self.conv.bias), shown.shape[1] - self.dilation
        return self(shown), made + F.linear(shown[:, at : at + 1], before) if at >= 0 else made


class DenseBlock(nn.Module):
    """The input, and a gated causal convolution of it: [B, L, C] -> [B, L, C + filters]."""

    def __init__(self, channels: int, filters: int, dilation: int) -> None:
        super().__init__()
        self.value, self.gate = (CausalConv(channels, filters, dilation) for _ in range(2))

    def forward(self, values: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, C + filters]."""
        return _gated(values, self.value(values), self.gate(values))

    def ends(self, shown: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, C], [B, E, C] -> [B, S, C + filters], [B, E, C + filters]."""
        both = zip((shown, ends), self.value.ends(shown, ends), self.gate.ends(shown, ends), strict=True)
        of_shown, of_ends = (_gated(*three) for three in both)
        return of_shown, of_ends


def _gated(values: Tensor, made: Tensor, gate: Tensor) -> Tensor:
    return torch.cat([values, torch.tanh(made) * torch.sigmoid(gate)], dim=-1)


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

    def ends(self, shown: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, C], [B, E, C] -> the same with C + blocks * filters."""
        for block in self.blocks:
            shown, ends = cast(DenseBlock, block).ends(shown, ends)
        return shown, ends


class AttentionBlock(nn.Module):
    """The input, and what each position reads from those up to it: [B, L, C] -> [B, L, C + values]."""

    def __init__(self, channels: int, keys: int, values: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(channels, keys), nn.Linear(channels, keys)
        self.value = nn.Linear(channels, values)
        self.channels = channels + values

    def forward(self, values: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, C + values]; the softmax is over keys, of which later ones are masked before it."""
        read = F.scaled_dot_product_attention(self.query(values), self.key(values), self.value(values), is_causal=True)
        return torch.cat([values, read], dim=-1)

    def ends(self, shown: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, C], [B, E, C] -> [B, S, C + values], [B, E, C + values]."""
        asked, values = self.query(ends), self.value(ends)
        scores = torch.cat(
            [asked @ self.key(shown).transpose(1, 2), (asked * self.key(ends)).sum(-1, keepdim=True)], dim=-1
        )
        weights = torch.softmax(scores / math.sqrt(asked.shape[-1]), dim=-1)
        read = weights[..., :-1] @ self.value(shown) + weights[..., -1:] * values
        return self(shown), torch.cat([ends, read], dim=-1)
