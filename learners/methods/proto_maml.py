"""Proto-MAML: MAML whose head begins at the prototypes of the support.

Triantafillou et al. 2020, "Meta-Dataset": before the first gradient step the linear head is ``W_k = 2 c_k``,
``b_k = -|c_k|^2`` with ``c_k`` the mean feature of class k, so that its softmax is that of Prototypical Networks. Gradients
flow through the prototypes. Without inner steps it is a ProtoNet; the head of the initialisation is not used.
"""

from __future__ import annotations

from torch import Tensor, nn

from learners import functional
from learners.methods.maml import MAML, Options
from learners.net import Weights
from learners.protocol import Inputs

__all__ = ["Options", "ProtoMAML", "make"]


class ProtoMAML(MAML):
    """See the module's docstring."""

    def __init__(self, options: Options, inputs: Inputs) -> None:
        super().__init__(options, inputs)
        self.net.head.requires_grad_(False)  # prototypes take its place

    def initial(self, rows: Tensor, labels: Tensor, ways: int) -> Weights:
        """The parameters, with the head of the support's prototypes."""
        features = functional.full(self.net.features(rows))
        tasks = labels.view(-1, labels.shape[-1])
        prototypes = functional.class_means(features.view(*tasks.shape, -1), tasks, ways)
        prototypes = prototypes.view(*labels.shape[:-1], ways, -1)
        unused = self.options.max_ways - ways
        weight = nn.functional.pad(2 * prototypes, (0, self.options.bias_values, 0, unused))
        bias = nn.functional.pad(-prototypes.square().sum(-1), (0, unused))
        return {**super().initial(rows, labels, ways), "head.weight": weight, "head.bias": bias}


def make(options: Options, inputs: Inputs) -> ProtoMAML:
    """A Proto-MAML for these inputs.

    Raises:
        ConfigError: the store has no such field, or the backbone does not take its rows.
    """
    return ProtoMAML(options, inputs)
