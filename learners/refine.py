"""Prototypes refined with unlabeled rows, as pure tensor functions. Ren et al. 2018, "Meta-learning for semi-supervised
few-shot classification".

B episodes, S support rows, U unlabeled rows, Q queries, W ways, K clusters (the W classes, then distractors), D features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from learners import functional

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_TINY = 1e-12  # mass below which a cluster has no members: it stays at 0, and no gradient becomes NaN


def refined_means(support_BSD: Tensor, labels_BS: Tensor, unlabeled_BUD: Tensor, weights_BUK: Tensor) -> Tensor:
    """Weighted mean of each cluster's rows, [B, K, D]: support rows weigh 1 in their class, unlabeled ones `weights`.

    A cluster beyond the classes has no support; without any mass its mean is 0.
    """
    onehot_BSK = F.one_hot(labels_BS, weights_BUK.shape[-1]).to(support_BSD.dtype)
    rows_BND, mass_BNK = torch.cat([support_BSD, unlabeled_BUD], 1), torch.cat([onehot_BSK, weights_BUK], 1)
    with torch.autocast(rows_BND.device.type, enabled=False):  # as in `functional.class_means`
        sums_BKD = torch.bmm(mass_BNK.transpose(1, 2), rows_BND)
    return sums_BKD / mass_BNK.sum(dim=1).clamp_min(_TINY).unsqueeze(-1)


def radius_logits(rows_BQD: Tensor, centres_BKD: Tensor, log_radii_K: Tensor) -> Tensor:
    """``-|h - p|^2 / (2 r^2) - (log(2 pi) / 2 + log r)``, [B, Q, K]: clusters of radius r.

    The normaliser is that of one dimension in D, as in the released code. The paper prints 1 / r^2 without the 1/2.
    """
    scaled_BQK = functional.squared_distances(rows_BQD, centres_BKD) / (2 * torch.exp(2 * log_radii_K))
    return -scaled_BQK - (HALF_LOG_2PI + log_radii_K)


def relative_distances(distances_BUW: Tensor) -> Tensor:
    """Distances divided by their mean over the unlabeled rows, class by class; all 0 where that mean is 0."""
    distances_BUW = distances_BUW.clamp_min(0)  # rounding may have left -1e-6
    mean_B1W = distances_BUW.mean(dim=1, keepdim=True)
    return distances_BUW / torch.where(mean_B1W == 0, 1.0, mean_B1W)


def spread(relative_BUW: Tensor) -> Tensor:
    """Smallest, largest, variance, skewness and excess kurtosis over the unlabeled rows of each class, [B, W, 5].

    Moments are biased (of the population). Of rows that are all alike skewness is 0 and kurtosis -3.
    """
    smallest_BW, largest_BW = relative_BUW.aminmax(dim=1)
    centred_BUW = relative_BUW - relative_BUW.mean(dim=1, keepdim=True)
    variance_BW = centred_BUW.square().mean(dim=1)
    scale_BW = torch.where(variance_BW < _TINY, 1.0, variance_BW)
    skewness_BW = centred_BUW.pow(3).mean(dim=1) / scale_BW**1.5
    kurtosis_BW = centred_BUW.pow(4).mean(dim=1) / scale_BW**2 - 3
    return torch.stack([smallest_BW, largest_BW, variance_BW, skewness_BW, kurtosis_BW], dim=-1)


def masks(relative_BUW: Tensor, threshold_BW: Tensor, slope_BW: Tensor) -> Tensor:
    """``sigmoid(-slope * (distance - threshold))``, [B, U, W]: about 1 of rows nearer than a class's threshold."""
    return torch.sigmoid(-slope_BW.unsqueeze(1) * (relative_BUW - threshold_BW.unsqueeze(1)))


def detection(found_BU: Tensor, labels_BU: Tensor) -> dict[str, float]:
    """Accuracy, recall and precision of distractors found among unlabeled rows; label -1 marks a distractor.

    Recall is 0 without distractors, precision 0 where none is found.
    """
    distractors_BU = labels_BU < 0
    hits = int((found_BU & distractors_BU).sum())
    return {
        "accuracy": float((found_BU == distractors_BU).double().mean()),
        "recall": hits / max(1, int(distractors_BU.sum())),
        "precision": hits / max(1, int(found_BU.sum())),
    }
