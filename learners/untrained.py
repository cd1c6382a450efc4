"""Which learners have nothing to train: those that take features as they are and learn from the support alone."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from episodes.errors import ConfigError
from learners.pretraining import Classifier


def parameters_at_test(learner: Any) -> int:
    """Parameters that a prediction depends on: not the head of a pre-trained classifier, which is left behind,
    nor what is not trained, which another takes the place of."""
    module = cast(nn.Module, learner)
    heads = {id(one) for part in module.modules() if isinstance(part, Classifier) for one in part.head.parameters()}
    return sum(one.numel() for one in module.parameters() if one.requires_grad and id(one) not in heads)


def require_nothing_to_train(learner: Any, method: str) -> None:
    """Raise `ConfigError` if `learner` has parameters that training would set."""
    if count := parameters_at_test(learner):
        raise ConfigError(
            f"method: '{method}' has {count:,} parameters here that are not trained; `episodes train {method}` first and "
            "evaluate the run, or take a store of features (`episodes embed`) with backbone none"
        )


def require_something_to_train(learner: Any, method: str) -> None:
    """Raise `ConfigError` if `learner` has no parameter that a loss reaches."""
    if not any(one.requires_grad for one in cast(nn.Module, learner).parameters()):
        raise ConfigError(
            f"method: '{method}' has nothing to train with this backbone and no parameters of its own; score it with "
            f"`episodes evaluate STORE --method {method}`"
        )
