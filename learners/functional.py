"""Pure tensor functions. B episodes, S support rows, Q queries, W ways, D features."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from episodes.episode import Fields


def to_float(images: Tensor) -> Tensor:
    """uint8 in 0..255 -> float32 in 0..1, on the images' own device; others become float32 unchanged, float64 stays."""
    return images.float() / 255 if images.dtype == torch.uint8 else full(images)


def full(values: Tensor) -> Tensor:
    """float32 of anything less precise."""
    return values if values.dtype == torch.float64 else values.float()


def vectors(values: Tensor) -> Tensor:
    """Rows of any shape as vectors of real numbers, [B, n, ...] -> [B, n, D]."""
    return to_float(values).reshape(*values.shape[:2], math.prod(values.shape[2:]))


def cat_fields(parts: Sequence[Fields[Tensor]]) -> dict[str, Tensor]:
    """The rows of several parts of an episode, [B, n, ...], one part after the other."""
    return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}


def class_means(features_BSD: Tensor, labels_BS: Tensor, ways: int) -> Tensor:
    """Mean feature of each label, [B, W, D]; every label must occur. Snell et al. 2017, equation 1."""
    onehot_BSW = F.one_hot(labels_BS, ways).to(features_BSD.dtype)
    counts_BW = onehot_BSW.sum(dim=1)
    with _exact(features_BSD):
        return torch.bmm(onehot_BSW.transpose(1, 2), features_BSD) / counts_BW.unsqueeze(-1)


def squared_distances(a_BQD: Tensor, b_BWD: Tensor) -> Tensor:
    """Squared Euclidean distances, [B, Q, W]: summed over D, neither averaged nor rooted."""
    # As |a|² - 2ab + |b|²: one matrix product instead of a [B, Q, W, D] difference. Rounding may leave -1e-6.
    with _exact(a_BQD):
        cross_BQW = torch.bmm(a_BQD, b_BWD.transpose(1, 2))
    return a_BQD.square().sum(-1, keepdim=True) - 2 * cross_BQW + b_BWD.square().sum(-1).unsqueeze(1)


def cosine_similarities(a_BQD: Tensor, b_BWD: Tensor) -> Tensor:
    """Cosines, [B, Q, W]."""
    with _exact(a_BQD):
        return torch.bmm(F.normalize(a_BQD, dim=-1), F.normalize(b_BWD, dim=-1).transpose(1, 2))


def _exact(values: Tensor) -> torch.autocast:
    """No automatic half precision: a distance is a small difference of large numbers."""
    return torch.autocast(values.device.type, enabled=False)


def generalized_scores(logits_QW: Tensor, labels_Q: Tensor, num_base: int) -> dict[str, float]:
    """The six scores of a base + novel episode whose first `num_base` labels are base classes (sampling rules, 5.2).

    ``all``, ``novel`` and ``base`` predict over the joint label space and average over rows; ``all_class_mean`` averages
    over classes; ``novel/novel`` and ``base/base`` predict among their own kind only: the other kind's logits are set to
    minus infinity before the arg-max. ``harmonic`` is the harmonic mean of ``base`` and ``novel``, 0 if both are.

    Source: Hariharan and Girshick 2017; the restricted spaces and the harmonic mean as in generalised zero-shot learning.
    """
    ways, base_Q = logits_QW.shape[1], labels_Q < num_base
    is_base_W = torch.arange(ways, device=logits_QW.device) < num_base
    right_Q = logits_QW.argmax(-1) == labels_Q
    own_QW = logits_QW.masked_fill(is_base_W[None, :] != base_Q[:, None], -torch.inf)
    own_Q = own_QW.argmax(-1) == labels_Q

    def mean(values: Tensor) -> float:
        return float(values.float().mean()) if len(values) else 0.0

    per_class = [mean(right_Q[labels_Q == c]) for c in sorted(set(labels_Q.tolist()))]
    base, novel = mean(right_Q[base_Q]), mean(right_Q[~base_Q])
    return {
        "all": mean(right_Q),
        "all_class_mean": sum(per_class) / len(per_class),
        "novel": novel,
        "base": base,
        "novel/novel": mean(own_Q[~base_Q]),
        "base/base": mean(own_Q[base_Q]),
        "harmonic": 2 * base * novel / (base + novel) if base + novel else 0.0,
    }


def accuracy(logits_BQW: Tensor, labels_BQ: Tensor) -> Tensor:
    """Fraction of queries whose largest logit is their label's, [B]; label -1 (a distractor's query) is left out."""
    known_BQ = labels_BQ >= 0
    return ((logits_BQW.argmax(-1) == labels_BQ) & known_BQ).sum(-1) / known_BQ.sum(-1)
