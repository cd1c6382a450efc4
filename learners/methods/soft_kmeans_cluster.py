"""Soft k-means with a distractor cluster: unlabeled rows of no class of the episode go to a cluster of their own.

Ren et al. 2018: to the prototypes comes a cluster at the origin. A row belongs to clusters by the softmax of
``-|h - p|^2 / (2 r^2) - (log(2 pi) / 2 + log r)``, with r = 1 for classes and a learned r for distractors, at first 100.
The paper prints 1 / r^2; this is its released code, where gradients also pass through the shares.

Queries are scored by the same formula, as there: logits are [B, Q, W + 1], and a query whose largest is that of the
distractors is an error, in the loss as in the accuracy. Without unlabeled rows there is no such cluster: logits are
[B, Q, W], those of ProtoNet halved but for a constant. (The released code keeps it then with a radius of 1e5.) Features are
meant not to be negative, as after ReLU: classes are away from the origin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from episodes.errors import ConfigError
from learners import refine
from learners.methods import soft_kmeans
from learners.protocol import Inputs, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(soft_kmeans.Options):
    """What distinguishes one soft k-means with a distractor cluster from another."""

    stop_gradient: bool = field(default=False, metadata={"help": "take what unlabeled rows weigh for constants"})
    init_radius: float = field(default=100.0, metadata={"help": "radius of the distractor cluster at first"})

    def __post_init__(self) -> None:
        soft_kmeans.Options.__post_init__(self)
        if self.init_radius <= 0:
            raise ConfigError(f"init_radius: expected a number above 0, got {self.init_radius}")


class ClusterSoftKMeans(soft_kmeans.SoftKMeans):
    """See the module's docstring."""

    def __init__(self, options: Options, inputs: Inputs) -> None:
        super().__init__(options, inputs)
        self.init_log_radius = math.log(options.init_radius)
        # Of the logarithm, and relative: weight decay then pulls the radius to where it began, not to 1.
        self.growth = nn.Parameter(torch.zeros(1))

    @property
    def radius(self) -> float:
        """Of the distractor cluster."""
        return math.exp(self.init_log_radius + float(self.growth.detach()))

    def begun(self, means_BWD: Tensor) -> Tensor:
        """The means and, last, the origin."""
        return torch.cat([means_BWD, torch.zeros_like(means_BWD[:, :1])], dim=1)

    def logits(self, rows_BQD: Tensor, centres_BKD: Tensor, ways: int) -> Tensor:
        """Of rows, [B, Q, W + 1] with the distractor cluster last; [B, Q, W] where it is not among the centres."""
        log_radii_K = torch.cat([self.growth.new_zeros(ways), self.init_log_radius + self.growth])
        return refine.radius_logits(rows_BQD, centres_BKD, log_radii_K[: centres_BKD.shape[1]])

    def distractors(self, task: Task) -> Tensor:
        """Which unlabeled rows belong rather to the distractor cluster than to any class of the support, bool [B, U]."""
        return self.weights(*self.unrefined(task), task.ways).argmax(-1) == task.ways


def make(options: Options, inputs: Inputs) -> ClusterSoftKMeans:
    """A soft k-means with a distractor cluster for these inputs.

    Raises:
        ConfigError: the store has no such field, or the backbone does not take its rows.
    """
    return ClusterSoftKMeans(options, inputs)
