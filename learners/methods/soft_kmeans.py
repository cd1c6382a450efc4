"""Soft k-means: Prototypical Networks whose prototypes are refined with unlabeled rows.

Ren et al. 2018, "Meta-learning for semi-supervised few-shot classification": an unlabeled row h belongs to class c to the
share ``softmax_c(-|h - p_c|^2)``, with the support's prototypes p; a refined prototype is the mean of support and unlabeled
rows, which weigh 1 and their share. Queries go to the nearest refined prototype; refinement is part of training.

In the released code no gradient passes through the shares, which the paper does not mention (--no-stop-gradient lets it).
Without unlabeled rows, or with --refine-steps 0, this is ProtoNet; trained so, and tested with unlabeled rows, it is the
"semi-supervised inference" of the paper. A prediction depends on the task's unlabeled rows, never on other queries.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from episodes.episode import Episode
from episodes.errors import ConfigError, SpecError
from episodes.spec import EpisodeSpec
from learners import functional, refine
from learners.embedding import EmbeddingLearner, EmbeddingOptions
from learners.norm import Statistics
from learners.protocol import Inputs, MetaLoss, Predictor, Task, classified, require_support


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(EmbeddingOptions):
    """What distinguishes one soft k-means from another."""

    refine_steps: int = field(default=1, metadata={"help": "refinements with the unlabeled rows"})
    stop_gradient: bool = field(default=True, metadata={"help": "take what unlabeled rows weigh for constants"})

    def __post_init__(self) -> None:
        EmbeddingOptions.__post_init__(self)
        if self.refine_steps < 0:
            raise ConfigError(f"refine_steps: expected 0 or more, got {self.refine_steps}")


class SoftKMeans(EmbeddingLearner):
    """See the module's docstring. Its relatives begin with, weigh or score by other clusters.

    B episodes, S support rows, U unlabeled rows, Q queries, W ways, K clusters, D features.
    """

    def __init__(self, options: Options, inputs: Inputs) -> None:
        super().__init__(options, inputs)
        self.options = options

    def require(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every class has a shot to make its prototype of, and there is a query to score."""
        require_support("soft k-means", spec)

    def adapt(self, task: Task) -> Predictor:
        """Refine the prototypes of the support; the predictor gives `logits`."""
        support, unlabeled, statistics = self._embedded(task)
        centres = self.refined(support, task.support.labels, unlabeled, task.ways)
        return lambda fields: self.logits(self.embedding.query(fields, statistics), centres, task.ways)

    def meta_loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Mean cross-entropy of the queries under the refined prototypes."""
        ways = episode.class_ids.shape[1]
        support, queries, unlabeled = self.embedding.parts(episode)
        centres = self.refined(support, episode.support.labels, unlabeled, ways)
        return classified(self.logits(queries, centres, ways), episode.query.labels)

    def refined(self, support_BSD: Tensor, labels_BS: Tensor, unlabeled_BUD: Tensor | None, ways: int) -> Tensor:
        """Centres of the clusters, [B, K, D]; without unlabeled rows or steps the means of the support, [B, W, D]."""
        means_BWD = functional.class_means(support_BSD, labels_BS, ways)
        if unlabeled_BUD is None or not unlabeled_BUD.shape[1] or not self.options.refine_steps:
            return means_BWD
        centres_BKD = self.begun(means_BWD)
        for _ in range(self.options.refine_steps):
            weights_BUK = self.weights(unlabeled_BUD, centres_BKD, ways)
            if self.options.stop_gradient:
                weights_BUK = weights_BUK.detach()
            centres_BKD = refine.refined_means(support_BSD, labels_BS, unlabeled_BUD, weights_BUK)
        return centres_BKD

    def begun(self, means_BWD: Tensor) -> Tensor:
        """The clusters' first centres, [B, K, D]."""
        return means_BWD

    def weights(self, unlabeled_BUD: Tensor, centres_BKD: Tensor, ways: int) -> Tensor:
        """What each unlabeled row weighs in each cluster, [B, U, K]."""
        return self.logits(unlabeled_BUD, centres_BKD, ways).softmax(-1)

    def logits(self, rows_BQD: Tensor, centres_BKD: Tensor, ways: int) -> Tensor:
        """Of rows, [B, Q, K]: the nearer a centre, the larger."""
        del ways
        return -functional.squared_distances(rows_BQD, centres_BKD)

    def unrefined(self, task: Task) -> tuple[Tensor, Tensor]:
        """Features of the unlabeled rows, [B, U, D], and the clusters' first centres: what detects distractors.

        Raises:
            SpecError: the task has no unlabeled rows.
        """
        support, unlabeled, _ = self._embedded(task)
        if unlabeled is None or not unlabeled.shape[1]:
            raise SpecError("unlabeled: expected a task with unlabeled rows, to find distractors among them; it has none")
        return unlabeled, self.begun(functional.class_means(support, task.support.labels, task.ways))

    def _embedded(self, task: Task) -> tuple[Tensor, Tensor | None, Statistics]:
        support, statistics = self.embedding.support(task.support.fields)
        unlabeled = None if task.unlabeled is None else self.embedding.query(task.unlabeled, statistics)
        return support, unlabeled, statistics


def make(options: Options, inputs: Inputs) -> SoftKMeans:
    """A soft k-means for these inputs.

    Raises:
        ConfigError: the store has no such field, or the backbone does not take its rows.
    """
    return SoftKMeans(options, inputs)
