"""Pre-training and nearest neighbour: the label of the one support row whose features are closest.

Ravi, Larochelle 2017, "Optimization as a model for few-shot learning", the baseline "nearest neighbor" of Table 1:
``y = y_i`` with ``i = argmax cos(f(x), f(x_i))``, f the features before the head of a classifier of all classes of
meta-training. One neighbour decides for any number of shots; of equally close ones the first in the support.

Training takes plain batches, which are episodes without support (--ways 64 --shots 0 --queries 1). Differs from the
released code: a batch holds different classes (theirs: any 64 of a pool of 5 images of each of 64 classes), and batch norm
has torch's epsilon.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from episodes.episode import Episode
from episodes.spec import EpisodeSpec
from learners import functional
from learners.pretraining import Classifier, PretrainingOptions
from learners.protocol import Inputs, MetaLoss, Predictor, Task, require_support


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(PretrainingOptions):
    """What distinguishes one from another."""

    distance: Literal["cosine", "euclidean"] = field(
        default="cosine", metadata={"help": "closest by cosine, or by Euclidean distance"}
    )


class NearestNeighbour(nn.Module):
    """See the module's docstring."""

    def __init__(self, options: Options, inputs: Inputs) -> None:
        super().__init__()
        self.classifier = Classifier(options, inputs)
        self.options = options

    @property
    def transductive(self) -> bool:
        """By its batch norm only."""
        return self.classifier.embedding.transductive

    @property
    def batch_norm(self) -> str:
        """As the options say."""
        return self.classifier.embedding.batch_norm

    def require(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every class has a shot, and there is a query to score."""
        require_support("baseline_nn", spec)

    def require_training(self, spec: EpisodeSpec) -> None:
        """Any episode is a batch."""

    def adapt(self, task: Task) -> Predictor:
        """Features of the support; the predictor gives the similarity to the closest row of each class, [B, Q, W]."""
        embedding = self.classifier.embedding
        known, statistics = embedding.support(task.support.fields)
        return lambda fields: nearest(
            self._similarities(embedding.query(fields, statistics), known), task.support.labels, task.ways
        )

    def meta_loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Loss of the classifier of all classes."""
        return self.classifier.loss(episode)

    def _similarities(self, queries: Tensor, known: Tensor) -> Tensor:
        if self.options.distance == "cosine":
            return functional.cosine_similarities(queries, known)
        return -functional.squared_distances(queries, known)


def nearest(similarities_BQS: Tensor, labels_BS: Tensor, ways: int) -> Tensor:
    """Largest similarity to a support row of each class, [B, Q, W].

    Where rows of several classes are equally close, the class of the first of them is ahead by one step of the type: so the
    largest logit is the label of the nearest row, ties by order.
    """
    B, Q, S = similarities_BQS.shape
    lowest = similarities_BQS.new_full((B, Q, ways), -math.inf)
    best_BQW = lowest.scatter_reduce(2, labels_BS.unsqueeze(1).expand(B, Q, S), similarities_BQS, "amax")
    first_BQ1 = labels_BS.gather(1, similarities_BQS.argmax(-1)).unsqueeze(-1)
    ahead_BQ1 = torch.nextafter(best_BQW.gather(2, first_BQ1), torch.full_like(first_BQ1, math.inf, dtype=best_BQW.dtype))
    return best_BQW.scatter(2, first_BQ1, ahead_BQ1)


def make(options: Options, inputs: Inputs) -> NearestNeighbour:
    """One for these inputs.

    Raises:
        ConfigError: the classes of meta-training are not known, the store has no such field, or the backbone does not take
            its rows.
    """
    return NearestNeighbour(options, inputs)
