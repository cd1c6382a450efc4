"""Model-Agnostic Meta-Learning: an initialisation from which a few gradient steps on the support suffice.

Finn, Abbeel, Levine 2017, "Model-agnostic meta-learning for fast adaptation of deep networks": ``w <- w - a * grad L(w)``
on the support, --inner-steps times, from the initialisation w0. The loss of the queries under the last w is minimised over
w0, through all steps (second order) or as if the gradients were constants (--first-order). The loss L of the support is
summed over classes and averaged over shots, as in the released code: ways times the mean, so that its published rates hold.

Batch norm normalises with the statistics of a batch. By default queries are normalised with those of the support, which
passes once more under the adapted weights; then no prediction depends on another. The published numbers are transductive
(--batch-norm transductive): all queries of an episode share a batch.

Every parameter is adapted: weights, biases, and scale and shift of batch norm. --inner-rates tensor or value learns a rate
for each parameter tensor, or each of its values (Li et al. 2017, "Meta-SGD"). --bias-values adds the bias transformation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from episodes.episode import Episode
from episodes.errors import ConfigError
from learners.fast import FastLearner, FastOptions
from learners.net import Weights, gradient, mean_loss
from learners.protocol import Inputs, MetaLoss, Predictor, Task, classified, task_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(FastOptions):
    """What distinguishes one MAML from another."""

    inner_steps: int = field(default=1, metadata={"help": "gradient steps on the support in training"})
    test_steps: int = field(default=3, metadata={"help": "the same in evaluation"})
    inner_rate: float = field(default=0.4, metadata={"help": "rate of these steps"})
    inner_rates: Literal["fixed", "tensor", "value"] = field(
        default="fixed", metadata={"help": "one fixed rate, or learned ones: of each parameter tensor, or of each value"}
    )
    first_order: bool = field(default=False, metadata={"help": "take gradients of the steps for constants"})
    bias_values: int = field(default=0, metadata={"help": "values of the bias transformation's vector"})

    def __post_init__(self) -> None:
        FastOptions.__post_init__(self)
        for name, least in (("inner_steps", 0), ("test_steps", 0), ("bias_values", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: expected {least} or more, got {getattr(self, name)}")
        if self.inner_rate < 0:
            raise ConfigError(f"inner_rate: expected 0 or more, got {self.inner_rate}")


class MAML(FastLearner):
    """See the module's docstring."""

    def __init__(self, options: Options, inputs: Inputs) -> None:
        super().__init__(options, inputs, options.bias_values)
        self.options = options
        self.rates = nn.ParameterDict()
        if options.inner_rates != "fixed":
            for key, values in self.net.weights().items():
                like = torch.ones_like(values) if options.inner_rates == "value" else torch.ones((), dtype=values.dtype)
                self.rates[key.replace(".", "-")] = nn.Parameter(options.inner_rate * like)

    def adapt(self, task: Task) -> Predictor:
        """Descend on the support; the predictor gives logits [B, Q, W]."""
        self.require_outputs(task.ways)
        support, ways = self.rows(task.support.fields), task.ways
        steps = self.options.inner_steps if self.training else self.options.test_steps

        def descend(rows: Tensor, labels: Tensor) -> Weights:
            return self.descended(self.initial(rows, labels, ways), rows, labels, ways, steps)

        weights: Weights = self.over_tasks(descend, support, task.support.labels)
        return self.predictor(weights, support, ways)

    def meta_loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Mean cross-entropy of the queries under the adapted weights."""
        return classified(self.adapt(task_of(episode))(episode.query.fields), episode.query.labels)

    def initial(self, rows: Tensor, labels: Tensor, ways: int) -> Weights:
        """Where the descent on a support [n, ...], or on those of B tasks, begins: relatives of this method override it."""
        del rows, ways
        return self.net.weights(None if labels.ndim == 1 else len(labels))

    def descended(self, weights: Weights, rows: Tensor, labels: Tensor, ways: int, steps: int) -> Weights:
        """`weights` after `steps` steps on the support of one task, or of B tasks with an axis in front of all; the graph
        leads back to them and to the rates."""
        attached = torch.is_grad_enabled() and not self.options.first_order

        def loss(now: Weights) -> Tensor:
            return ways * mean_loss(self.net.call(now, rows)[..., :ways], labels)

        for _ in range(steps):
            slopes, _ = gradient(loss, weights, attached=attached)
            weights = {name: self._stepped(name, values, slopes[name]) for name, values in weights.items()}
        return weights

    def _stepped(self, name: str, values: Tensor, slope: Tensor) -> Tensor:
        if self.options.inner_rates == "fixed":
            return torch.add(values, slope, alpha=-self.options.inner_rate)
        rate: Tensor = self.rates[name.replace(".", "-")]  # a parameter's name may hold no dot
        return values - rate * slope


def make(options: Options, inputs: Inputs) -> MAML:
    """A MAML for these inputs.

    Raises:
        ConfigError: the store has no such field, or the backbone does not take its rows.
    """
    return MAML(options, inputs)
