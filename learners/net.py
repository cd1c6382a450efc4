"""A network called with parameters that are computed, and the gradient of a loss with respect to them.

The module itself is never written to, so the gradient of what comes out reaches whatever the parameters were computed from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from learners import functional
from learners.backbones import make_backbone
from learners.norm import Pass, Statistics, is_written_out, norms, passing
from learners.taskwise import TaskLinear, takes_tasks, with_task_layers

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
        self.backbone = with_task_layers(make_backbone(backbone, shape, width))
        self.norms = norms(self.backbone)
        for norm in self.norms:
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
        features: int = self.backbone.features  # type: ignore[assignment]  # torch types attributes as modules
        self.head = TaskLinear(features + bias_values, outputs)
        self.bias_values = nn.Parameter(0.1 * torch.randn(bias_values)) if bias_values else None
        nn.init.zeros_(self.head.weight[:, features:])
        self._axes = len(shape) + 1
        self.row_bytes = self._widest(shape) if takes_tasks(self.backbone) else None
        """Of the largest tensor that a layer makes of a row; None where a layer takes no weights of several tasks."""

    def forward(self, rows: Tensor) -> Tensor:
        """[n, ...] float -> [n, outputs]."""
        features, values = self.backbone(rows), self.bias_values
        if values is not None:
            each = values.unsqueeze(0) if values.ndim == 1 else values
            features = torch.cat([features, each.repeat_interleave(len(features) // len(each), 0)], dim=1)
        outputs: Tensor = self.head(features)
        return outputs

    def weights(self, num: int | None = None) -> dict[str, Tensor]:
        """The parameters by name; with a leading axis of `num` tasks if given, all the same."""
        named: dict[str, Tensor] = dict(self.named_parameters())
        return named if num is None else {name: values.expand(num, *values.shape) for name, values in named.items()}

    def call(self, weights: Weights, rows: Tensor, now: Pass | None = None) -> Tensor:
        """Outputs [n, outputs] with these weights; batch norm as `now` says, by default with the rows' own statistics.

        With weights of B tasks, [B, ...], and rows [B, n, ...]: [B, n, outputs].
        """
        now = now or Pass(own=True)
        if weights["head.weight"].ndim == 2:
            return self._called(weights, rows, now)
        now.episodes = len(rows)
        return self._called(weights, rows.flatten(0, 1), now).view(*rows.shape[:2], -1)

    def _called(self, weights: Weights, rows: Tensor, now: Pass) -> Tensor:
        with passing(self.norms, now):
            outputs: Tensor = functional_call(self, dict(weights), (rows,))
        return outputs

    def features(self, rows: Tensor) -> Tensor:
        """What the backbone makes of rows [n, ...] or [B, n, ...], normalised with their own statistics."""
        one = rows.ndim == self._axes
        with passing(self.norms, Pass(own=True, episodes=1 if one else len(rows))):
            made: Tensor = self.backbone(rows if one else rows.flatten(0, 1))
        return made if one else made.view(*rows.shape[:2], -1)

    def predict(self, weights: Weights, support: Tensor, queries: Tensor, batch_norm: str) -> Tensor:
        """Outputs of queries, normalised with their own statistics (``transductive``) or with those of the support.

        For the latter the support passes once more, under these weights.
        """
        if batch_norm != "support" or not self.norms:
            return self.call(weights, queries)
        kept = Statistics()
        self.call(weights, support, Pass(own=True, keep=kept))
        return self.call(weights, queries, Pass(given=kept))

    @torch.no_grad()
    def _widest(self, shape: tuple[int, ...]) -> int:
        sizes, num, mode = [1], 2, self.training

        def note(layer: nn.Module, taken: Any, made: Tensor) -> None:
            sizes.append(made.nbytes // num)

        layers = [one for one in self.backbone.modules() if list(one.parameters(recurse=False))]
        hooks = [layer.register_forward_hook(note) for layer in layers]
        self.eval().features(torch.zeros(num, *shape))
        for hook in hooks:
            hook.remove()
        self.train(mode)
        return max(sizes)


def gradient(loss: Callable[[Weights], Tensor], at: Weights, *, attached: bool) -> tuple[dict[str, Tensor], Tensor]:
    """The gradient of a loss of weights, and the loss, summed over tasks if it is one of several.

    Args:
        loss: of weights by name; any shape.
        at: where.
        attached: let the gradient carry gradients to `at`, for second derivatives; else it is a constant.
    """
    if is_written_out():  # within vmap, where autograd cannot be called
        here = dict(at) if attached else {name: values.detach() for name, values in at.items()}
        found, (_, value) = grad_and_value(_summed(loss), has_aux=True)(here)
        return found, value
    with torch.enable_grad():
        here = {  # a view: what another of the weights was computed from is held, as in vmap and in blocks
            name: values.view_as(values) if attached and values.requires_grad else values.detach().requires_grad_()
            for name, values in at.items()
        }
        value = loss(here)
        slopes = torch.autograd.grad(
            value.sum(), list(here.values()), create_graph=attached, allow_unused=True, materialize_grads=True
        )
    return dict(zip(here, slopes, strict=True)), value if attached else value.detach()


def _summed(loss: Callable[[Weights], Tensor]) -> Callable[[Weights], tuple[Tensor, Tensor]]:
    def of(weights: Weights) -> tuple[Tensor, Tensor]:
        value = loss(weights)
        return value.sum(), value

    return of


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each task: logits [..., n, W], labels [..., n] -> [...]."""
    losses = nn.functional.cross_entropy(functional.full(logits).flatten(0, -2), labels.flatten(), reduction="none")
    return losses.view(labels.shape).mean(-1)
