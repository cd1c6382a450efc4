"""What a meta-learner is: adapt to a support, predict queries, and give a loss to the outer loop.

Tensors carry a leading episode axis B; n are the rows of a part, W the ways.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from episodes.episode import Episode, Fields, Part
from episodes.spec import EpisodeSpec

Predictor = Callable[[Fields[Tensor]], Tensor]
"""Query fields, ``[B, n, ...]`` -> logits ``[B, n, W]``."""


@dataclass(frozen=True, slots=True)
class MetaLoss:
    """Scalar loss with its graph, and the values worth logging, of the same names in every episode: ranks average them."""

    loss: Tensor
    values: Mapping[str, float] = field(default_factory=dict)


class MetaLearner(Protocol):
    """A method: an ``nn.Module`` in practice, found as one file of `learners.methods`.

    Such a file defines ``Options`` (a frozen dataclass) and ``make(options, fields) -> MetaLearner``, where `fields` are
    the store's. `adapt` is never given the queries, so a method cannot learn from them by accident; that its predictions do
    not depend on each other either is checked at every evaluation (`learners.audit`).
    """

    transductive: bool
    """May a prediction depend on the other queries?"""
    batch_norm: str
    """``running``: evaluation uses the statistics of meta-training."""

    def require(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` if the method cannot learn from episodes of this spec."""
        ...

    def adapt(self, support: Part[Tensor], ways: int, unlabeled: Fields[Tensor] | None = None) -> Predictor:
        """Learn the support; the predictor keeps the graph, so that an outer loss reaches every parameter."""
        ...

    def meta_loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Loss of one item of meta-training."""
        ...


def adapted(learner: MetaLearner, episode: Episode[Tensor]) -> Predictor:
    """The predictor of an episode: all of it but the queries goes to `MetaLearner.adapt`."""
    unlabeled = None if episode.unlabeled is None else episode.unlabeled.fields
    return learner.adapt(episode.support, episode.class_ids.shape[1], unlabeled)
