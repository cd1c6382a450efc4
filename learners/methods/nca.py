"""Neighbourhood components, without episodes: every pair of rows of one class in an ordinary batch is a positive pair.

Laenen, Bertinetto 2021, "On episodes, prototypical networks, and few-shot learning", after Goldberger et al. 2005: the loss
is ``-mean_i log(sum_{j != i, y_j = y_i} exp(-d_ij / T) / sum_{j != i} exp(-d_ij / T))``, d squared Euclidean distances of
features. It is the control of episodic training: a batch of N (K + Q) rows that is divided into support and queries uses
N^2 K Q of its pairs, and this uses all. Training takes plain batches as episodes without support (--ways 60 --shots 0
--queries 6); rows of a support count as rows of the batch.

In evaluation a query goes to the nearest class mean of features that are centred and scaled to length 1 (--centre,
--no-normalise), as theirs after Wang et al. 2019 ("SimpleShot"). The centre is the mean of meta-training, or of the support
of the episode, and never of queries: the method is not transductive. --predict neighbours takes the probabilities of the
training loss instead, ``p(y = c) ~ sum_{i: y_i = c} exp(-d_i / T)`` over the support.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from episodes.episode import Episode, Fields
from episodes.errors import ConfigError, SpecError
from episodes.spec import EpisodeSpec
from learners import functional
from learners.embedding import EmbeddingLearner, EmbeddingOptions
from learners.protocol import Inputs, MetaLoss, Predictor, Task, require_support

MEMORY = 0.01  # weight of a batch in the mean of meta-training: of about the last hundred


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(EmbeddingOptions):
    """What distinguishes one from another."""

    temperature: float = field(default=1.0, metadata={"help": "distances are divided by it"})
    predict: Literal["means", "neighbours"] = field(
        default="means", metadata={"help": "by the nearest class mean, or by all support rows as in training"}
    )
    centre: Literal["training", "support", "none"] = field(
        default="training", metadata={"help": "mean that is subtracted from features at evaluation"}
    )
    normalise: bool = field(default=True, metadata={"help": "scale features to length 1 at evaluation"})

    def __post_init__(self) -> None:
        EmbeddingOptions.__post_init__(self)
        if self.temperature <= 0:
            raise ConfigError(f"temperature: expected a number above 0, got {self.temperature}")


class NCA(EmbeddingLearner):
    """See the module's docstring."""

    mean: Tensor
    batches: Tensor

    def __init__(self, options: Options, inputs: Inputs) -> None:
        super().__init__(options, inputs)
        self.options = options
        self.register_buffer("mean", torch.zeros(self.embedding.features))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def require(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every class has a shot, and there is a query to score."""
        require_support("nca", spec)

    def require_training(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless a class may have two rows, which make a positive pair."""
        if spec.shots.kind == spec.queries.kind == "range" and spec.shots.high + spec.queries.high < 2:
            raise SpecError(
                f"nca learns from pairs; queries={spec.queries} and shots={spec.shots} must be 2 together, or more"
            )

    def adapt(self, task: Task) -> Predictor:
        """Features of the support, or their class means; the predictor gives logits [B, Q, W]."""
        features, statistics = self.embedding.support(task.support.fields)
        centre = features.mean(1, keepdim=True) if self.options.centre == "support" else self.mean
        known, labels = self._placed(features, centre), task.support.labels
        if self.options.predict == "means":
            known = functional.class_means(known, labels, task.ways)
            labels = torch.arange(task.ways, device=labels.device).expand(len(labels), -1)

        def predict(fields: Fields[Tensor]) -> Tensor:
            queries = self._placed(self.embedding.query(fields, statistics), centre)
            return neighbours(-functional.squared_distances(queries, known) / self.options.temperature, labels, task.ways)

        return predict

    def meta_loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Mean loss of the rows that have another of their class in the batch; each of the B episodes is a batch."""
        labels = torch.cat([episode.support.labels, episode.query.labels], dim=1)
        rows = functional.cat_fields([episode.support.fields, episode.query.fields])
        features, _ = self.embedding.support(rows)
        if self.training:
            self._remember(features.detach().mean(1))
        logs, right = log_shares(features, labels, self.options.temperature)
        return MetaLoss(loss=-logs.mean(), values={"accuracy": float(right.float().mean())})

    def _placed(self, features: Tensor, centre: Tensor) -> Tensor:
        if self.options.centre != "none":
            features = features - centre
        return F.normalize(features, dim=-1) if self.options.normalise else features

    def _remember(self, means_BD: Tensor) -> None:
        """Let the mean of meta-training follow the batches; the first hundred weigh alike.

        Of several processes those of rank 0 count, as for every buffer that is no statistic of batch norm.
        """
        for mean in means_BD:
            self.batches += 1
            self.mean.lerp_(mean, max(MEMORY, 1 / int(self.batches)))


def log_shares(features_BnD: Tensor, labels_Bn: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """For each row that has another of its class: log of its positives' share, and whether its nearest row is one.

    Rows with label -1 are positive to none. The rows that have a positive, of all B batches, come one after the other.

    Raises:
        SpecError: no row of the batch has a positive.
    """
    closeness_Bnn = -functional.squared_distances(features_BnD, features_BnD) / temperature
    itself_nn = torch.eye(labels_Bn.shape[1], dtype=torch.bool, device=labels_Bn.device)
    closeness_Bnn = closeness_Bnn.masked_fill(itself_nn, -math.inf)
    alike_Bnn = (labels_Bn.unsqueeze(2) == labels_Bn.unsqueeze(1)) & (labels_Bn >= 0).unsqueeze(2) & ~itself_nn
    paired_Bn = alike_Bnn.any(-1)
    if not paired_Bn.any():
        raise SpecError("no two rows of the batch are of one class; nca needs shots + queries of 2 or more")
    closeness, alike = closeness_Bnn[paired_Bn], alike_Bnn[paired_Bn]  # or rows without a positive would make NaN
    logs = closeness.masked_fill(~alike, -math.inf).logsumexp(-1) - closeness.logsumexp(-1)
    return logs, alike.gather(1, closeness.argmax(-1, keepdim=True)).squeeze(1)


def neighbours(closeness_BQS: Tensor, labels_BS: Tensor, ways: int) -> Tensor:
    """Log of the summed exponentials of each class's rows, [B, Q, W]: softmax over classes gives their shares."""
    own_BSW = labels_BS.unsqueeze(-1) == torch.arange(ways, device=labels_BS.device)
    absent = torch.zeros_like(own_BSW, dtype=closeness_BQS.dtype).masked_fill(~own_BSW, -math.inf)
    return (closeness_BQS.unsqueeze(-1) + absent.unsqueeze(1)).logsumexp(2)


def make(options: Options, inputs: Inputs) -> NCA:
    """One for these inputs.

    Raises:
        ConfigError: the store has no such field, or the backbone does not take its rows.
    """
    return NCA(options, inputs)
