"""Fast weights: a network called with parameters that are computed, for the tasks of a block together or one by one.

A method that adapts by gradients works on a mapping of names to tensors. The module itself is never written to, so the
gradient of what comes out reaches whatever the parameters were computed from.

Work on tasks is written once, for tensors with or without a leading axis of tasks (`FastLearner.over_tasks`): on a CPU it
is done for blocks of tasks by layers that take weights of each (`learners.taskwise`), on an accelerator by
`torch.func.vmap`, with a network of other layers for one task after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from episodes.episode import Fields
from episodes.errors import ConfigError, SpecError
from episodes.spec import EpisodeSpec
from learners import functional
from learners.backbones import make_backbone
from learners.embedding import EmbeddingOptions, field_of
from learners.norm import Pass, Policy, Statistics, is_written_out, norms, passing, written_out
from learners.protocol import Inputs, Predictor
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


# Of the largest tensor of some tasks. Smaller ones gain less; beyond 32 MiB glibc asks the system for fresh pages for every
# tensor, and 84x84x3 then takes 1.15 times as long as one task at a time.
BLOCK_BYTES = 16 * 2**20
Tasks = Literal["auto", "loop", "vmap", "block"]


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
        here = {
            name: values if attached and values.requires_grad else values.detach().requires_grad_()
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FastOptions(EmbeddingOptions):
    """The options of every method that adapts weights; a method's ``Options`` extend them."""

    batch_norm: Policy = field(
        default="support", metadata={"help": "statistics of queries: of the support, or their own (transductive)"}
    )
    max_ways: int = field(default=5, metadata={"help": "outputs of the head: the most ways of an episode"})
    tasks: Tasks = field(
        default="auto", metadata={"help": "tasks in a loop, together by vmap, or in blocks; auto: what is fastest"}
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
        if options.tasks == "block" and self.net.row_bytes is None:
            raise ConfigError(
                f"tasks: backbone '{options.backbone}' has layers that take weights of one task only; take loop or vmap"
            )

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

    def way(self, rows: Tensor) -> Tasks:
        """How tasks with these rows are computed; what is fastest was measured (docs, "Performance")."""
        if self._tasks in ("loop", "vmap"):
            return self._tasks
        if self._tasks == "auto" and rows.device.type != "cpu":
            return "vmap"
        mixed = torch.is_autocast_enabled(rows.device.type)  # what is written for blocks knows one precision
        return "loop" if self.net.row_bytes is None or mixed else "block"

    def over_tasks(self, work: Callable[..., Any], *inputs: Any) -> Any:
        """`work` on the tasks of a block, one by one, by vmap, or on some at a time. The results are equal to rounding.

        Args:
            work: takes the inputs of one task, or of several with an axis in front; gives a tensor, or tensors by name.
            *inputs: tensors [B, n, ...], or tensors by name [B, ...]; the last are rows or labels.
        """
        way, num = self.way(inputs[-1]), len(inputs[-1])
        if way == "vmap":
            with written_out():
                return vmap(work)(*inputs)
        if way == "loop":
            return _stacked([work(*(_of(value, b) for value in inputs)) for b in range(num)], torch.stack)
        rows = max(value.shape[1] for value in inputs if isinstance(value, Tensor))
        size = max(1, BLOCK_BYTES // max(1, rows * (self.net.row_bytes or 1)))
        size = -(-num // -(-num // size))  # blocks as equal as can be
        parts = [slice(begin, begin + size) for begin in range(0, num, size)]
        return _stacked([work(*(_of(value, part) for value in inputs)) for part in parts], torch.cat)

    def predictor(self, weights: Weights, support: Tensor, ways: int) -> Predictor:
        """Logits [B, Q, W] of queries under the weights of each task, [B, ...], that the support [B, n, ...] gave."""

        def some(weights: Weights, rows: Tensor, queries: Tensor) -> Tensor:
            return self.net.predict(weights, rows, queries, self.batch_norm)[..., :ways]

        def predict(fields: Fields[Tensor]) -> Tensor:
            logits: Tensor = self.over_tasks(some, weights, support, self.rows(fields))
            return functional.full(logits)

        return predict


def _of(values: Any, which: int | slice) -> Any:
    return values[which] if isinstance(values, Tensor) else {name: value[which] for name, value in values.items()}


def _stacked(results: list[Any], join: Callable[[list[Tensor]], Tensor]) -> Any:
    if len(results) == 1 and join is torch.cat:
        return results[0]
    if isinstance(results[0], Tensor):
        return _joined(results, join)
    return {name: _joined([result[name] for result in results], join) for name in results[0]}


def _joined(parts: list[Tensor], join: Callable[[list[Tensor]], Tensor]) -> Tensor:
    if parts[0].ndim < 4:
        return join(parts)
    # The weights of a convolution stay channels last, so that none is reordered when it is used.
    return join([part.movedim(-3, -1) for part in parts]).movedim(-1, -3)
