"""Oracle of regression: a network that is told which function it is, by the class fields of the store.

The upper bound of Finn, Abbeel, Levine 2017, section 5.1: the network of `maml_regression` with amplitude and phase beside
x. It learns nothing from the support and takes no steps; its error, and the room that the network leaves above it, is what
adaptation could reach at best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from episodes.episode import Fields
from episodes.errors import ConfigError
from learners import functional
from learners.protocol import Inputs, Predictor, Task
from learners.regression import RegressionOptions, Regressor


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RegressionOptions):
    """What distinguishes one from another."""

    test_steps: int = field(
        default=10, metadata={"help": "steps its error is reported over, beside methods that take some"}
    )

    def __post_init__(self) -> None:
        RegressionOptions.__post_init__(self)
        if self.test_steps < 0:
            raise ConfigError(f"test_steps: expected 0 or more, got {self.test_steps}")


class Oracle(Regressor):
    """See the module's docstring."""

    def __init__(self, options: Options, inputs: Inputs) -> None:
        if not inputs.class_fields:
            raise ConfigError("store: an oracle is told the class fields, and this store has none")
        super().__init__(options, inputs, sum(math.prod(known.shape) for known in inputs.class_fields.values()))
        self.options, self.told = options, tuple(sorted(inputs.class_fields))

    def adapt(self, task: Task) -> Predictor:
        """Take the class fields for inputs; the predictor gives [B, Q, T + 1, O], the same after every step."""
        told = torch.cat([functional.vectors(task.class_fields[name]) for name in self.told], dim=-1)  # [B, 1, D]
        repeated = 1 if self.training else self.options.test_steps + 1

        def predict(fields: Fields[Tensor]) -> Tensor:
            rows = self.rows(fields)
            told_too = torch.cat([rows, told.expand(-1, rows.shape[1], -1)], dim=-1)
            return self.net.call(self.net.weights(), told_too).unsqueeze(2).expand(-1, -1, repeated, -1)

        return predict


def make(options: Options, inputs: Inputs) -> Oracle:
    """An oracle for these inputs.

    Raises:
        ConfigError: the store has no such field, or no class fields.
    """
    return Oracle(options, inputs)
