"""Episodes as torch tensors, sharing memory with the arrays on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from episodes.episode import Episode, Part


def to_torch(episode: Episode[NDArray[Any]], device: torch.device | str = "cpu") -> Episode[Tensor]:
    """`episode` as tensors with a leading episode axis, ``[1, n, ...]``; dtypes are kept.

    On the CPU the tensors share the arrays' memory; on another device they are copies.
    """
    device = torch.device(device)
    return Episode(
        index=episode.index,
        class_ids=_tensor(episode.class_ids, device),
        variants=_tensor(episode.variants, device),
        support=_part(episode.support, device),
        query=_part(episode.query, device),
        unlabeled=None if episode.unlabeled is None else _part(episode.unlabeled, device),
    )


def _part(part: Part[NDArray[Any]], device: torch.device) -> Part[Tensor]:
    return Part(
        fields={name: _tensor(values, device) for name, values in part.fields.items()},
        labels=_tensor(part.labels, device),
        rows=_tensor(part.rows, device),
    )


def _tensor(values: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(values).unsqueeze(0).to(device)
