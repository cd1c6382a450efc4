"""Matching Networks: a query's label is the support's labels, averaged with attention.

Vinyals et al. 2016, "Matching networks for one shot learning": ``p(y = c | x) = sum of a(x, x_i) over i of class c``, with
``a = softmax_i(s * cos(f(x), f(x_i)))`` over all rows of the support (--attention support). The code of Ravi and Larochelle
2017, which gave the mini-ImageNet numbers most quoted, instead sums cosines over a class and takes the softmax over classes
(--attention class). With one shot they are the same; with K it multiplies the scale by K, and with unequal shots it favours
classes of many.

The paper's scale s is 1. Cosines lie in [-1, 1], so that the right one of 5 classes then gets a probability of 0.65 at
most, of 20 classes 0.28, and training is slow and poor. Here s is 30, or learned from there (--learn-scale). Attention by
minus the squared distance (--similarity euclidean) has scale 1: with one shot this is ProtoNet. There is no fine-tuning on
the support.

Logits are logarithms of the probabilities, computed as such: nothing is clipped before the logarithm, as it is in the
released codes, and a large scale neither gives NaN nor ends the gradient. Support and query pass the backbone together in
training; in evaluation batch norm uses its running statistics, so the method is not transductive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from episodes.episode import Episode
from episodes.errors import ConfigError
from episodes.spec import EpisodeSpec
from learners import functional
from learners.embedding import EmbeddingLearner, EmbeddingOptions
from learners.protocol import Inputs, MetaLoss, Predictor, Task, classified, require_support

COSINE_SCALE, EUCLIDEAN_SCALE = 30.0, 1.0  # 250 steps of 20-way Omniglot: 83.8 % with 30, 81.2 % with 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(EmbeddingOptions):
    """What distinguishes one Matching Network from another."""

    attention: Literal["support", "class"] = field(
        default="support",
        metadata={"help": "softmax over the support, summed over classes; or similarities so summed, softmax over classes"},
    )
    similarity: Literal["cosine", "euclidean"] = field(
        default="cosine", metadata={"help": "cosine, or minus the squared Euclidean distance"}
    )
    scale: float | None = field(
        default=None, metadata={"help": "factor of similarities  [default: 30 of cosines, 1 of distances]"}
    )
    learn_scale: bool = field(default=False, metadata={"help": "learn the factor, beginning with --scale"})
    relu: bool = field(default=False, metadata={"help": "take negative cosines for 0"})

    def __post_init__(self) -> None:
        EmbeddingOptions.__post_init__(self)
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise ConfigError(f"scale: expected a number above 0, got {self.scale}")
        if self.relu and self.similarity == "euclidean":
            raise ConfigError("relu: distances are never below 0; leave it out, or take --similarity cosine")

    @property
    def first_scale(self) -> float:
        """The factor of similarities, or the one learning begins with."""
        return self.scale or (COSINE_SCALE if self.similarity == "cosine" else EUCLIDEAN_SCALE)


class Attention(nn.Module):
    """From features of queries and support to logits.

    B episodes, Q queries, S support rows, W ways, D features.
    """

    log_scale: Tensor

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options
        # Its logarithm is learned: the factor stays above 0.
        log_scale = torch.tensor(math.log(options.first_scale))
        if options.learn_scale:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    def logits(self, queries_BQD: Tensor, support_BSD: Tensor, labels_BS: Tensor, ways: int) -> Tensor:
        """[B, Q, W], logarithms of probabilities; every label must occur in the support."""
        scores_BQS = self.log_scale.exp() * self._similarities(queries_BQD, support_BSD)
        if self.options.attention == "class":
            return _class_sums(scores_BQS, labels_BS, ways).log_softmax(-1)
        return _class_log_sums(scores_BQS.log_softmax(-1), labels_BS, ways)

    def loss(self, queries_BQD: Tensor, support_BSD: Tensor, episode: Episode[Tensor]) -> MetaLoss:
        """Mean negative log-probability of the queries' classes; a scale that is learned is among the values."""
        logits_BQW = self.logits(queries_BQD, support_BSD, episode.support.labels, episode.class_ids.shape[1])
        found = classified(logits_BQW, episode.query.labels)
        if not self.options.learn_scale:
            return found
        return replace(found, values={**found.values, "scale": float(self.log_scale.detach().exp())})

    def _similarities(self, queries_BQD: Tensor, support_BSD: Tensor) -> Tensor:
        if self.options.similarity == "euclidean":
            return -functional.squared_distances(queries_BQD, support_BSD)
        cosines_BQS = functional.cosine_similarities(queries_BQD, support_BSD)
        return cosines_BQS.relu() if self.options.relu else cosines_BQS


def _class_sums(scores_BQS: Tensor, labels_BS: Tensor, ways: int) -> Tensor:
    """Sums over the support rows of each class, [B, Q, W]."""
    onehot_BSW = F.one_hot(labels_BS, ways).to(scores_BQS.dtype)
    with torch.autocast(scores_BQS.device.type, enabled=False):  # as in `functional.class_means`
        return torch.bmm(scores_BQS, onehot_BSW)


def _class_log_sums(scores_BQS: Tensor, labels_BS: Tensor, ways: int) -> Tensor:
    """``log sum exp`` over the support rows of each class, [B, Q, W]."""
    index_BQS = labels_BS.unsqueeze(1).expand_as(scores_BQS)
    # Less the class's own largest, which is then 1 in the sum: nothing overflows, and no class comes to log 0.
    lowest_BQW = scores_BQS.new_full((*scores_BQS.shape[:2], ways), -math.inf)
    largest_BQW = lowest_BQW.scatter_reduce(2, index_BQS, scores_BQS.detach(), "amax")
    shares_BQS = torch.exp(scores_BQS - largest_BQW.gather(2, index_BQS))
    return largest_BQW + torch.log(_class_sums(shares_BQS, labels_BS, ways))


class MatchingNet(EmbeddingLearner):
    """See the module's docstring."""

    def __init__(self, options: Options, inputs: Inputs) -> None:
        super().__init__(options, inputs)
        self.attention = Attention(options)

    def require(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every class has a shot to attend to, and there is a query to score."""
        require_support("matching", spec)

    def adapt(self, task: Task) -> Predictor:
        """Features of the support; the predictor gives log-probabilities [B, Q, W]."""
        support, statistics = self.embedding.support(task.support.fields)
        labels, ways = task.support.labels, task.ways
        return lambda fields: self.attention.logits(self.embedding.query(fields, statistics), support, labels, ways)

    def meta_loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Mean negative log-probability of the queries' classes."""
        support, queries, _ = self.embedding.parts(episode)
        return self.attention.loss(queries, support, episode)


def make(options: Options, inputs: Inputs) -> MatchingNet:
    """A Matching Network for these inputs.

    Raises:
        ConfigError: the store has no such field, or the backbone does not take its rows.
    """
    return MatchingNet(options, inputs)
