"""SNAIL: few-shot learning as one pass over a sequence, by causal convolutions and attention.

Mishra, Rohaninejad, Chen, Abbeel 2018, "A simple neural attentive meta-learner". The rows of the support with their labels,
then a query without one, are a sequence of N K + 1 tokens ``[f(x), onehot(y)]``; the prediction is read at its end. Blocks:
attention (64 keys, 32 values), temporal convolutions (128 filters), attention (256, 128), temporal, attention (512, 256),
then a linear layer. Each query has a sequence of its own, so predictions do not depend on each other; what the sequences
share is computed once.

The support is read in an order that is a hash of its rows: another in each episode, and nothing of the labels can be told
from it. The depth of the temporal blocks is that of the longest support, --max-support rows; a shorter one may come.
--first-dilation 2 is as printed in the paper and reaches even offsets only; 1, the default, reaches every one.

Rows are normalised with the statistics of the support: trained by episodes of few rows the network does not bear running
ones, which cost five points on Omniglot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from episodes.episode import Episode, Fields
from episodes.errors import ConfigError, SpecError
from episodes.spec import EpisodeSpec
from learners import functional
from learners.causal import AttentionBlock, TemporalBlock
from learners.embedding import EmbeddingLearner, EmbeddingOptions
from learners.norm import Policy
from learners.protocol import Inputs, MetaLoss, Predictor, Task, classified, require_queries
from learners.sequences import longest_support, support_order


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(EmbeddingOptions):
    """What distinguishes one SNAIL from another."""

    batch_norm: Policy = field(
        default="support",
        metadata={"help": "statistics at evaluation: of the support, of meta-training (running), or transductive"},
    )
    max_ways: int = field(default=5, metadata={"help": "outputs: the most ways of an episode"})
    max_support: int = field(default=5, metadata={"help": "rows of the largest support: ways times shots"})
    filters: int = field(default=128, metadata={"help": "of a temporal convolution"})
    first_dilation: Literal["1", "2"] = field(
        default="1", metadata={"help": "of the temporal blocks: 1, 2, 4, ..., or 2, 4, 8, ... as printed in the paper"}
    )

    def __post_init__(self) -> None:
        EmbeddingOptions.__post_init__(self)
        for name, least in (("max_ways", 2), ("max_support", 1), ("filters", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: expected {least} or more, got {getattr(self, name)}")


class Snail(EmbeddingLearner):
    """See the module's docstring."""

    def __init__(self, options: Options, inputs: Inputs) -> None:
        super().__init__(options, inputs)
        self.options = options
        length, first = options.max_support + 1, int(options.first_dilation)
        blocks: list[AttentionBlock | TemporalBlock] = []
        channels = self.embedding.features + options.max_ways
        for keys, values in ((64, 32), (256, 128), (512, 256)):
            blocks.append(AttentionBlock(channels, keys, values))
            channels = blocks[-1].channels
            if keys < 512:
                blocks.append(TemporalBlock(channels, length, options.filters, first))
                channels = blocks[-1].channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, options.max_ways)

    def require(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless the network is large enough for every episode, as far as the spec says how large."""
        o, rows = self.options, longest_support(spec)
        require_queries("snail", spec)
        if spec.ways.high > o.max_ways:
            raise SpecError(f"the head has {o.max_ways} outputs; ways={spec.ways} needs --max-ways as many")
        if "variable" not in (spec.ways.kind, spec.shots.kind) and not 1 <= rows <= o.max_support:
            mend = "give --max-support as many" if rows else "give a shot or more"
            raise SpecError(
                f"the network reads supports of 1 to {o.max_support} rows; ways={spec.ways}, shots={spec.shots} are up to "
                f"{rows} ({mend})"
            )

    def adapt(self, task: Task) -> Predictor:
        """Keep the support's tokens; the predictor reads each query after them and gives logits [B, Q, W].

        Raises:
            SpecError: an episode is larger than the network, whose spec did not say so.
        """
        self._check(task.support.labels.shape[1], task.ways)
        features, statistics = self.embedding.support(task.support.fields)
        tokens = self.tokens(features, task.support.labels, task.support.rows)

        def predict(fields: Fields[Tensor]) -> Tensor:
            return self.read(tokens, self.embedding.query(fields, statistics))[..., : task.ways]

        return predict

    def meta_loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Mean cross-entropy of the queries."""
        self._check(episode.support.labels.shape[1], episode.class_ids.shape[1])
        features, queries, _ = self.embedding.parts(episode)
        tokens = self.tokens(features, episode.support.labels, episode.support.rows)
        logits = self.read(tokens, queries)[..., : episode.class_ids.shape[1]]
        return classified(logits, episode.query.labels)

    def _check(self, rows: int, ways: int) -> None:
        o = self.options
        if ways > o.max_ways or rows > o.max_support:
            raise SpecError(
                f"an episode has {ways} classes and {rows} support rows; the network takes up to {o.max_ways} and "
                f"{o.max_support} (give --max-ways and --max-support as many)"
            )

    def tokens(self, features: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        """Features and labels of the support in their order, [B, S, D + max_ways]."""
        onehot = F.one_hot(labels, self.options.max_ways).to(features.dtype)
        return torch.cat([features, onehot], dim=-1).take_along_dim(support_order(rows).unsqueeze(-1), 1)

    def read(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """Logits [B, Q, max_ways] of queries [B, Q, D], each read after the support's tokens."""
        asked = F.pad(queries, (0, self.options.max_ways))  # no label
        for block in self.blocks:
            tokens, asked = cast(AttentionBlock | TemporalBlock, block).ends(tokens, asked)
        logits: Tensor = self.head(asked)
        return functional.full(logits)


def make(options: Options, inputs: Inputs) -> Snail:
    """A SNAIL for these inputs.

    Raises:
        ConfigError: the store has no such field, or the backbone does not take its rows.
    """
    return Snail(options, inputs)
