"""Prototypical Networks: a class is the mean of its support's features, a query goes to the nearest.

Snell, Swersky, Zemel 2017, "Prototypical networks for few-shot learning":
``p(y = k | x) ~ exp(-d(f(x), c_k))`` with ``c_k`` the mean of ``f`` over the support of class k and d the squared Euclidean
distance (summed over features, neither averaged nor rooted). The cosine variant multiplies cosines by a fixed scale: bare
cosines lie in [-1, 1] and cannot fit many ways. Support and query pass the backbone together in training, as in the
released code; in evaluation batch norm uses its running statistics, so the method is not transductive.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from episodes.episode import Episode
from episodes.errors import ConfigError
from episodes.spec import EpisodeSpec
from learners import functional
from learners.embedding import EmbeddingLearner, EmbeddingOptions
from learners.protocol import Inputs, MetaLoss, Predictor, Task, classified, require_support


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(EmbeddingOptions):
    """What distinguishes one ProtoNet from another."""

    distance: Literal["euclidean", "cosine"] = field(
        default="euclidean", metadata={"help": "squared Euclidean distance, or cosine similarity times --scale"}
    )
    scale: float = field(default=10.0, metadata={"help": "factor of the cosine"})

    def __post_init__(self) -> None:
        EmbeddingOptions.__post_init__(self)
        if self.scale <= 0:
            raise ConfigError(f"scale: expected a number above 0, got {self.scale}")


class ProtoNet(EmbeddingLearner):
    """See the module's docstring."""

    def __init__(self, options: Options, inputs: Inputs) -> None:
        super().__init__(options, inputs)
        self.options = options

    def require(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every class has a shot to make its prototype of, and there is a query to score."""
        require_support("protonet", spec)

    def adapt(self, task: Task) -> Predictor:
        """Prototypes of the support; the predictor gives logits [B, Q, W]."""
        features, statistics = self.embedding.support(task.support.fields)
        prototypes = functional.class_means(features, task.support.labels, task.ways)
        return lambda fields: self._logits(self.embedding.query(fields, statistics), prototypes)

    def meta_loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Mean cross-entropy of the queries."""
        support, queries, _ = self.embedding.parts(episode)
        prototypes = functional.class_means(support, episode.support.labels, episode.class_ids.shape[1])
        return classified(self._logits(queries, prototypes), episode.query.labels)

    def _logits(self, queries: Tensor, prototypes: Tensor) -> Tensor:
        if self.options.distance == "cosine":
            return self.options.scale * functional.cosine_similarities(queries, prototypes)
        return -functional.squared_distances(queries, prototypes)


def make(options: Options, inputs: Inputs) -> ProtoNet:
    """A ProtoNet for these inputs.

    Raises:
        ConfigError: the store has no such field, or the backbone does not take its rows.
    """
    return ProtoNet(options, inputs)
