"""MAML for regression: an initialisation from which a few gradient steps on some points of a function fit all of it.

Finn, Abbeel, Levine 2017, "Model-agnostic meta-learning for fast adaptation of deep networks", section 5.1: as `maml`,
``w <- w - a * grad L(w)`` on the support from the initialisation w0, with the mean squared error for L; the error of the
queries under the last w is minimised over w0, through all steps (second order) or as if the gradients were constants
(--first-order). A perceptron with two hidden layers of 40 units and ReLU, without batch norm, rate 0.01.

Steps beyond those of training were not trained for, and now and then a function of large amplitude flies apart in them, of
5 points one in thousands. --later-rate gives these steps a rate of their own, to be chosen on validation episodes.

An episode is one function (--ways 1). Evaluation gives the error after 0, 1 and --test-steps steps, and its report the
error by steps and the curves of one function.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from episodes.errors import ConfigError
from learners.protocol import Inputs, Predictor, Task
from learners.regression import RegressionOptions, Regressor, descended


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RegressionOptions):
    """What distinguishes one from another."""

    inner_steps: int = field(default=1, metadata={"help": "gradient steps on the support in training"})
    test_steps: int = field(default=10, metadata={"help": "the same in evaluation"})
    inner_rate: float = field(default=0.01, metadata={"help": "rate of these steps"})
    later_rate: float | None = field(
        default=None, metadata={"help": "rate of steps beyond those of training  [default: --inner-rate]"}
    )
    first_order: bool = field(default=False, metadata={"help": "take gradients of the steps for constants"})

    def __post_init__(self) -> None:
        RegressionOptions.__post_init__(self)
        for name in ("inner_steps", "test_steps", "inner_rate", "later_rate"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise ConfigError(f"{name}: expected 0 or more, got {value}")


class RegressionMAML(Regressor):
    """See the module's docstring."""

    def __init__(self, options: Options, inputs: Inputs) -> None:
        super().__init__(options, inputs)
        self.options = options

    def adapt(self, task: Task) -> Predictor:
        """Descend on the support; the predictor gives [B, Q, T + 1, O], after each step."""
        o, support = self.options, task.support.fields
        rates = [o.inner_rate] * o.inner_steps
        if not self.training:
            rates += [o.inner_rate if o.later_rate is None else o.later_rate] * o.test_steps
            rates = rates[: o.test_steps]
        after = descended(self.net, self.rows(support), self.targets(support), rates, first_order=o.first_order)
        return self.predictor(after[-1:] if self.training else after)


def make(options: Options, inputs: Inputs) -> RegressionMAML:
    """A MAML for these inputs.

    Raises:
        ConfigError: the store has no such field.
    """
    return RegressionMAML(options, inputs)
