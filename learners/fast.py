"""Fast weights: a network called with parameters that are computed, for the tasks of a block together or one by one.

A method that adapts by gradients works on a mapping of names to tensors. The module itself is never written to, so the
gradient of what comes out reaches whatever the parameters were computed from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from learners.backbones import make_backbone
from learners.norm import Pass, Statistics, norms, passing

Weights = Mapping[str, Tensor]


class Net(nn.Module):
    """Backbone and linear head; batch norm always takes the statistics of a batch, and keeps no running ones.

    Args:
        backbone: a name for `make_backbone`.
        shape: of a row.
        width: of the backbone.
        outputs: of the head.
        bias_values: length of a learned vector, the same for every row, that is concatenated to the head's input: the
            bias transformation of Finn et al. 2017 ("One-shot visual imitation learning via meta-learning"). 0: none.
    """

    def __init__(self, backbone: str, shape: tuple[int, ...], width: int, outputs: int, bias_values: int = 0) -> None:
        super().__init__()
        self.backbone = make_backbone(backbone, shape, width)
        self.norms = norms(self.backbone)
        for norm in self.norms:
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
        features: int = self.backbone.features  # type: ignore[assignment]  # torch types attributes as modules
        self.head = nn.Linear(features + bias_values, outputs)
        self.bias_values = nn.Parameter(0.1 * torch.randn(bias_values)) if bias_values else None
        nn.init.zeros_(self.head.weight[:, features:])

    def forward(self, rows: Tensor) -> Tensor:
        """[n, ...] float -> [n, outputs]."""
        features = self.backbone(rows)
        if self.bias_values is not None:
            features = torch.cat([features, self.bias_values.expand(len(features), -1)], dim=1)
        outputs: Tensor = self.head(features)
        return outputs

    def weights(self) -> dict[str, Tensor]:
        """The parameters by name."""
        return dict(self.named_parameters())

    def call(self, weights: Weights, rows: Tensor, now: Pass | None = None) -> Tensor:
        """Outputs [n, outputs] with these weights; batch norm as `now` says, by default with the rows' own statistics."""
        with passing(self.norms, now or Pass(own=True)):
            outputs: Tensor = functional_call(self, dict(weights), (rows,))
        return outputs

    def predict(self, weights: Weights, support: Tensor, queries: Tensor, batch_norm: str) -> Tensor:
        """Outputs of queries, normalised with their own statistics (``transductive``) or with those of the support.

        For the latter the support passes once more, under these weights.
        """
        if batch_norm != "support" or not self.norms:
            return self.call(weights, queries)
        kept = Statistics()
        self.call(weights, support, Pass(own=True, keep=kept))
        return self.call(weights, queries, Pass(given=kept))


Tasks = Literal["auto", "loop", "vmap"]


def over_tasks(work: Callable[..., Any], *inputs: Any, together: bool) -> Any:
    """`work` on each task: by `torch.func.vmap`, or one after the other. The results are equal to rounding.

    Args:
        work: what is done with one task; gives a tensor, or tensors by name.
        *inputs: tensors, or tensors by name, with the episode axis first.
        together: by vmap.
    """
    if together:
        return vmap(work)(*inputs)
    num = len(inputs[-1])
    results = [work(*(_at(value, b) for value in inputs)) for b in range(num)]
    if isinstance(results[0], Tensor):
        return torch.stack(results)
    return {name: torch.stack([result[name] for result in results]) for name in results[0]}


def _at(values: Any, b: int) -> Any:
    return values[b] if isinstance(values, Tensor) else {name: value[b] for name, value in values.items()}
