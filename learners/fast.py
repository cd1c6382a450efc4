"""Fast weights: a network called with parameters that are computed, for the tasks of a block together or one by one.

A method that adapts by gradients works on a mapping of names to tensors. The module itself is never written to, so the
gradient of what comes out reaches whatever the parameters were computed from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from episodes.episode import Fields
from episodes.errors import ConfigError, SpecError
from episodes.spec import EpisodeSpec
from learners import functional
from learners.backbones import make_backbone
from learners.embedding import EmbeddingOptions, field_of
from learners.norm import Pass, Policy, Statistics, norms, passing
from learners.protocol import Inputs, Predictor

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


@dataclass(frozen=True, slots=True, kw_only=True)
class FastOptions(EmbeddingOptions):
    """The options of every method that adapts weights; a method's ``Options`` extend them."""

    batch_norm: Policy = field(
        default="support", metadata={"help": "statistics of queries: of the support, or their own (transductive)"}
    )
    max_ways: int = field(default=5, metadata={"help": "outputs of the head: the most ways of an episode"})
    tasks: Tasks = field(
        default="auto", metadata={"help": "tasks in a loop, or together by vmap; auto: together on an accelerator"}
    )

    def __post_init__(self) -> None:
        EmbeddingOptions.__post_init__(self)
        if self.max_ways < 2:
            raise ConfigError(f"max_ways: expected 2 or more, got {self.max_ways}")
        if self.batch_norm == "running":
            raise ConfigError("batch_norm: 'running' statistics do not fit adapted weights; take support or transductive")


class FastLearner(nn.Module):
    """What methods that adapt weights share: the network, and prediction with weights of each task.

    Args:
        options: network and batch norm.
        inputs: what the learner is made for.
        bias_values: as of `Net`.

    Raises:
        ConfigError: the store has no such field, or the backbone does not take its rows.
    """

    def __init__(self, options: FastOptions, inputs: Inputs, bias_values: int = 0) -> None:
        super().__init__()
        self.field, shape = field_of(options, inputs)
        self.net = Net(options.backbone, shape, options.width, options.max_ways, bias_values)
        self._policy, self._max_ways, self._tasks = options.batch_norm, options.max_ways, options.tasks

    @property
    def transductive(self) -> bool:
        """By its batch norm only."""
        return self.batch_norm == "transductive"

    @property
    def batch_norm(self) -> str:
        """As the options say, or ``none`` of a backbone without batch norm."""
        return self._policy if self.net.norms else "none"

    def require(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless the head has an output for every class, and there is a support to learn from."""
        if spec.ways.high > self._max_ways:
            raise SpecError(f"the head has {self._max_ways} outputs; ways={spec.ways} needs --max-ways as many")
        if spec.shots.low < 1 and spec.shots.kind != "variable":
            raise SpecError(f"weights are adapted to the support; shots={spec.shots} must be 1 or more")

    def rows(self, fields: Fields[Tensor]) -> Tensor:
        """The input of a part, [B, n, ...] float."""
        return functional.to_float(fields[self.field])

    def together(self, rows: Tensor) -> bool:
        """Whether tasks on the device of `rows` are computed by vmap."""
        return self._tasks == "vmap" or (self._tasks == "auto" and rows.device.type != "cpu")

    def predictor(self, weights: Weights, support: Tensor, ways: int) -> Predictor:
        """Logits [B, Q, W] of queries under the weights of each task, [B, ...], that the support [B, n, ...] gave."""
        together = self.together(support)

        def one(weights: Weights, rows: Tensor, queries: Tensor) -> Tensor:
            return self.net.predict(weights, rows, queries, self.batch_norm)[:, :ways]

        def predict(fields: Fields[Tensor]) -> Tensor:
            logits: Tensor = over_tasks(one, weights, support, self.rows(fields), together=together)
            return functional.full(logits)

        return predict
