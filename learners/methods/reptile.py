"""Reptile: move the initialisation towards what a few steps of ordinary training make of it on each task.

Nichol, Achiam, Schulman 2018, "On first-order meta-learning algorithms": ``w0 <- w0 + e * mean(w_task - w0)``. Here the
outer loss is half the squared distance from w0 to the tasks' solutions, taken as constants; its gradient is Reptile's step,
so that `--optimizer sgd --lr 1 --schedule linear` is the published outer loop. There are no queries in training and no
second derivatives. Training episodes have more shots than test episodes.

The inner steps are those of Adam with beta1 = 0 on mini-batches that go through the support without replacement, pass after
pass. Its second moments are kept from step to step of the outer loop, not reset with each task; the tasks of one outer step
start from the same and the mean of theirs is kept (the released code passes them from task to task). Evaluation starts from
those of training and changes nothing.

Batch norm normalises with the statistics of a batch; queries with those of the support by default (the released code, too,
has such a mode, in which each query shares a batch with the support), or with their own (--batch-norm transductive).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from episodes.episode import Episode
from episodes.errors import ConfigError
from episodes.spec import EpisodeSpec
from learners import ranks
from learners.fast import FastLearner, FastOptions
from learners.net import Weights, gradient, mean_loss
from learners.protocol import Inputs, MetaLoss, Predictor, Task, require_shots

BETA2, EPSILON = 0.999, 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(FastOptions):
    """What distinguishes one Reptile from another."""

    inner_steps: int = field(default=5, metadata={"help": "steps on the support in training"})
    inner_batch: int = field(default=10, metadata={"help": "rows of such a step"})
    test_steps: int = field(default=50, metadata={"help": "steps on the support in evaluation"})
    test_batch: int = field(default=5, metadata={"help": "rows of such a step"})
    inner_rate: float = field(default=1e-3, metadata={"help": "rate of these steps"})

    def __post_init__(self) -> None:
        FastOptions.__post_init__(self)
        for name in ("inner_steps", "inner_batch", "test_steps", "test_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.inner_rate <= 0:
            raise ConfigError(f"inner_rate: expected a number above 0, got {self.inner_rate}")


class Reptile(FastLearner):
    """See the module's docstring."""

    count: Tensor

    def __init__(self, options: Options, inputs: Inputs) -> None:
        super().__init__(options, inputs)
        self.options = options
        for key, values in self.net.weights().items():
            self.register_buffer(_buffer(key), torch.zeros_like(values))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self._moments: list[dict[str, Tensor]] = []  # of the tasks of this outer step, [B, ...] each

    def require_training(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless the head has an output for every class, and there is a support: queries are not used."""
        self.require_outputs(spec.ways.high, f"ways={spec.ways}")
        require_shots(type(self).__name__, spec)

    def adapt(self, task: Task) -> Predictor:
        """Train on the support; the predictor gives logits [B, Q, W]."""
        self.require_outputs(task.ways)
        o = self.options
        steps, batch = (o.inner_steps, o.inner_batch) if self.training else (o.test_steps, o.test_batch)
        support = self.rows(task.support.fields)
        trained = self._trained(support, task.support.labels, task.ways, steps, batch)
        return self.predictor({name: trained[name] for name in self.net.weights()}, support, task.ways)

    def meta_loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Half the squared distance to the weights that training on the support ends at, mean over episodes."""
        o, support = self.options, episode.support
        rows, ways = self.rows(support.fields), episode.class_ids.shape[1]
        self.require_outputs(ways)
        trained = self._trained(rows, support.labels, ways, o.inner_steps, o.inner_batch)
        loss = torch.zeros((), device=rows.device)
        for name, values in self.net.weights().items():
            loss = loss + (values - trained[name]).square().flatten(1).sum(1).mean() / 2
        self._moments.append({name: trained[name] for name in map(_buffer, self.net.weights())})
        return MetaLoss(loss=loss, values={"support_loss": float(trained["loss"].mean())})

    @torch.no_grad()
    def end_step(self) -> None:
        """Keep the mean of the moments that the tasks of an outer step ended with, on all ranks."""
        names = list(map(_buffer, self.net.weights()))
        means = ranks.average([torch.cat([one[name] for one in self._moments]).mean(0) for name in names])
        for name, mean in zip(names, means, strict=True):
            self.get_buffer(name).copy_(mean)
        self.count += self.options.inner_steps
        self._moments.clear()

    @torch.no_grad()
    def _trained(self, rows: Tensor, labels: Tensor, ways: int, steps: int, batch: int) -> dict[str, Tensor]:
        """Weights, moments and last loss of each task, [B, ...], after `steps` steps on rows [B, n, ...]."""
        order = _order(rows.shape[1], steps, batch, self.training).to(rows.device)

        def train(rows: Tensor, labels: Tensor) -> dict[str, Tensor]:
            num = None if labels.ndim == 1 else len(labels)
            weights: Weights = self.net.weights(num)
            moments = {name: self.get_buffer(_buffer(name)) for name in weights}
            last = torch.zeros(labels.shape[:-1])
            for t, chosen in enumerate(order, 1):
                some, theirs = rows.index_select(labels.ndim - 1, chosen), labels.index_select(-1, chosen)
                slopes, last = gradient(self._loss(some, theirs, ways), weights, attached=False)
                correct = 1 - BETA2 ** (self.count.to(rows.dtype) + t)
                moments = {name: BETA2 * v + (1 - BETA2) * slopes[name].square() for name, v in moments.items()}
                steps = {name: slopes[name] / ((v / correct).sqrt() + EPSILON) for name, v in moments.items()}
                weights = {name: values - self.options.inner_rate * steps[name] for name, values in weights.items()}
            return {**weights, **{_buffer(name): v for name, v in moments.items()}, "loss": last}

        result: dict[str, Any] = self.over_tasks(train, rows, labels)
        return result

    def _loss(self, rows: Tensor, labels: Tensor, ways: int) -> Callable[[Weights], Tensor]:
        return lambda weights: mean_loss(self.net.call(weights, rows)[..., :ways], labels)


def _buffer(name: str) -> str:
    """Of the second moments of a parameter."""
    return "moment-" + name.replace(".", "-")


def _order(rows: int, steps: int, batch: int, shuffled: bool) -> Tensor:
    """Rows of each step, [steps, batch]: permutations one after the other, cut into batches.

    In training they are of torch's generator, which a checkpoint keeps; in evaluation always the same.
    """
    batch = min(batch, rows)
    generator = None if shuffled else torch.Generator().manual_seed(0)
    passes = -(-steps * batch // rows)
    order = torch.cat([torch.randperm(rows, generator=generator) for _ in range(passes)])
    return order[: steps * batch].view(steps, batch)


def make(options: Options, inputs: Inputs) -> Reptile:
    """A Reptile for these inputs.

    Raises:
        ConfigError: the store has no such field, or the backbone does not take its rows.
    """
    return Reptile(options, inputs)
