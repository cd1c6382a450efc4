"""Pre-training for regression: one network for the points of all functions, fine-tuned to each by gradient steps.

The baseline of Finn, Abbeel, Levine 2017, section 5.1: the network of `maml_regression` is trained to predict y from x
alone, over all functions together, which the mean function minimises. A task then takes --test-steps steps of gradient
descent on its support, ``w <- w - a * grad L(w)``, from there. The paper tunes the rate a; choose --tune-rate on validation
episodes: training does not depend on it, and ``episodes evaluate RUN --split val -L tune_rate=0.02`` tries one.

Training takes the episodes of `maml_regression` for batches: the rows of support and queries alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from episodes.episode import Episode
from episodes.errors import ConfigError
from episodes.spec import EpisodeSpec
from learners import functional
from learners.protocol import Inputs, MetaLoss, Predictor, Task
from learners.regression import RegressionOptions, Regressor, descended, require_one_function


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RegressionOptions):
    """What distinguishes one from another."""

    test_steps: int = field(default=10, metadata={"help": "gradient steps on the support in evaluation"})
    tune_rate: float = field(default=0.01, metadata={"help": "rate of these steps"})

    def __post_init__(self) -> None:
        RegressionOptions.__post_init__(self)
        for name in ("test_steps", "tune_rate"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: expected 0 or more, got {getattr(self, name)}")


class Pretrained(Regressor):
    """See the module's docstring."""

    def __init__(self, options: Options, inputs: Inputs) -> None:
        super().__init__(options, inputs)
        self.options = options

    def adapt(self, task: Task) -> Predictor:
        """Descend on the support; the predictor gives [B, Q, T + 1, O], after each step."""
        o, support = self.options, task.support.fields
        rows, targets = self.rows(support), self.targets(support)
        return self.predictor(descended(self.net, rows, targets, [o.tune_rate] * o.test_steps, first_order=True))

    def require_training(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless a task is one function; any of its points will do."""
        require_one_function(spec)

    def meta_loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Mean squared error of all rows under the weights that all functions share."""
        rows = functional.cat_fields([episode.support.fields, episode.query.fields])
        return MetaLoss(loss=(self.net.call(self.net.weights(), self.rows(rows)) - self.targets(rows)).square().mean())


def make(options: Options, inputs: Inputs) -> Pretrained:
    """A network for these inputs.

    Raises:
        ConfigError: the store has no such field.
    """
    return Pretrained(options, inputs)
