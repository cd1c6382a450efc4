"""Masked soft k-means: a small network decides from how far to a prototype an unlabeled row still counts.

Ren et al. 2018: with ``d_jc`` the squared distance of unlabeled row j to prototype c divided by its mean over j, a network
(5 -> 20 -> 3, tanh, one for all classes) sees smallest, largest, variance, skewness and kurtosis of ``d_c`` and gives
threshold and slope, ``exp`` of its outputs 0 and 2. ``m_jc = sigmoid(-slope_c * (d_jc - threshold_c))``, and the row weighs
``m_jc`` times its share of soft k-means in class c: a row far from all prototypes weighs little everywhere.

The released code multiplies by the mask twice (--mask-power 2), the paper once. Output 1, which that code uses only in
several steps, is left out here. No gradient passes through the five statistics; all else is differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from episodes.errors import ConfigError
from learners import functional, refine
from learners.methods import soft_kmeans
from learners.protocol import Inputs, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(soft_kmeans.Options):
    """What distinguishes one masked soft k-means from another."""

    stop_gradient: bool = field(default=False, metadata={"help": "take what unlabeled rows weigh for constants"})
    mask_power: float = field(default=1.0, metadata={"help": "power of the mask: 1 as published, 2 as released"})

    def __post_init__(self) -> None:
        soft_kmeans.Options.__post_init__(self)
        if self.mask_power < 0:
            raise ConfigError(f"mask_power: expected 0 or more, got {self.mask_power}")


class MaskedSoftKMeans(soft_kmeans.SoftKMeans):
    """See the module's docstring."""

    def __init__(self, options: Options, inputs: Inputs) -> None:
        super().__init__(options, inputs)
        self.mask_power = options.mask_power
        # Small weights: threshold and slope begin at 1, so that a row at the mean distance has half a mask. Large ones
        # would saturate masks.
        self.network = nn.Sequential(_small(5, 20), nn.Tanh(), _small(20, 3))

    def weights(self, unlabeled_BUD: Tensor, centres_BKD: Tensor, ways: int) -> Tensor:
        """What each unlabeled row weighs in each class, [B, U, W]."""
        shares_BUW = super().weights(unlabeled_BUD, centres_BKD, ways)
        return shares_BUW * self.masks(unlabeled_BUD, centres_BKD) ** self.mask_power

    def masks(self, unlabeled_BUD: Tensor, centres_BWD: Tensor) -> Tensor:
        """Mask of each unlabeled row in each class, in 0..1, [B, U, W]."""
        relative_BUW = refine.relative_distances(functional.squared_distances(unlabeled_BUD, centres_BWD))
        with torch.autocast(relative_BUW.device.type, enabled=False):  # the statistics need more than half precision
            outputs_BW3 = self.network(refine.spread(relative_BUW.detach()))
        threshold_BW, _, slope_BW = outputs_BW3.exp().unbind(-1)
        return refine.masks(relative_BUW, threshold_BW, slope_BW)

    def distractors(self, task: Task) -> Tensor:
        """Which unlabeled rows have a largest mask below the mean of the episode's largest masks, bool [B, U]."""
        largest_BU = self.masks(*self.unrefined(task)).amax(-1)
        return largest_BU < largest_BU.mean(dim=1, keepdim=True)


def _small(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer of weights N(0, 0.01^2) and biases 0."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


def make(options: Options, inputs: Inputs) -> MaskedSoftKMeans:
    """A masked soft k-means for these inputs.

    Raises:
        ConfigError: the store has no such field, or the backbone does not take its rows.
    """
    return MaskedSoftKMeans(options, inputs)
