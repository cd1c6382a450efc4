"""Fast weights: methods that adapt a network by gradients, for the tasks of a block together or one by one.

Such a method works on a mapping of names to tensors (`learners.net`). Work on tasks is written once, for tensors with or
without a leading axis of tasks (`FastLearner.over_tasks`): on a CPU it is done for blocks of tasks by layers that take
weights of each (`learners.taskwise`), on an accelerator by `torch.func.vmap`, with a network of other layers for one task
after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import vmap

from episodes.episode import Fields
from episodes.errors import ConfigError, SpecError
from episodes.spec import EpisodeSpec
from learners import functional
from learners.embedding import EmbeddingOptions, field_of
from learners.net import Net, Weights
from learners.norm import Policy, written_out
from learners.protocol import Inputs, Predictor, require_support

# Of the largest tensor of some tasks. Smaller ones gain less; beyond 32 MiB glibc asks the system for fresh pages for every
# tensor, and 84x84x3 then takes 1.15 times as long as one task at a time.
BLOCK_BYTES = 16 * 2**20
Tasks = Literal["auto", "loop", "vmap", "block"]


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
        """Raise `SpecError` unless the head has an output for every class, which has a shot, and there are queries."""
        self.require_outputs(spec.ways.high, f"ways={spec.ways}")
        require_support(type(self).__name__, spec)

    def require_outputs(self, ways: int, told: str = "") -> None:
        """Raise `SpecError` unless the head has an output for every class of an episode; `told`: what has so many."""
        if ways > self._max_ways:
            told = told or f"an episode of {ways} ways"
            raise SpecError(f"the head has {self._max_ways} outputs; {told} needs --max-ways as many")

    def rows(self, fields: Fields[Tensor]) -> Tensor:
        """The input of a part, [B, n, ...] float."""
        return functional.to_float(fields[self.field])

    def way(self, rows: Tensor) -> Tasks:
        """How tasks with these rows are computed; what is fastest was measured (docs, "Performance")."""
        if self._tasks in ("loop", "vmap"):
            return self._tasks
        if self.net.row_bytes is None:  # layers that nobody knows, as a GRU, which vmap cannot do
            return "loop"
        if self._tasks == "auto" and rows.device.type != "cpu":
            return "vmap"
        mixed = torch.is_autocast_enabled(rows.device.type)  # what is written for blocks knows one precision
        return "loop" if mixed else "block"

    def over_tasks(self, work: Callable[..., Any], *inputs: Any) -> Any:
        """`work` on the tasks of a block, one by one, by vmap, or on some at a time. The results are equal to rounding.

        Args:
            work: takes the inputs of one task, or of several with an axis in front; gives a tensor, or tensors by name.
            *inputs: tensors [B, n, ...], or tensors by name [B, ...]; the last are rows or labels.
        """
        way, num = self.way(inputs[-1]), len(inputs[-1])
        if way == "vmap":
            with written_out():
                return vmap(work, randomness="different")(*inputs)  # dropout draws anew for each task
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
            queries = self.rows(fields)
            if not queries.shape[1]:
                return queries.new_zeros(*queries.shape[:2], ways)
            logits: Tensor = self.over_tasks(some, weights, support, queries)
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
