"""Matching Networks with full context embeddings: the whole support changes how each row and each query is embedded.

Vinyals et al. 2016, "Matching networks for one shot learning", as in the code of Ravi and Larochelle 2017. A bidirectional
LSTM of hidden size D reads the support, and ``g(x_i, S) = f(x_i) + forward_i + backward_i``. A query takes K = 3 steps of
an LSTM that attends to the support: from ``h = c = 0`` and ``r = mean_i g_i``,
``h, c = LSTM([f(x), r], (h, c)); h = h + f(x); r = sum_i softmax_i(h . g_i) g_i``, and ``f(x, S)`` is the last h. Then as
`learners.methods.matching`, whose options these are.

The paper writes the state as [h, r] and f(x) alone as the input; other codes differ in other ways, and numbers with them.
Queries do not see each other.

A support has no order, but the LSTM needs one, and must not be able to read labels from it. It is that of a hash of each
row's number and all the others': another in each episode, and yet a pure function of the support, so that an episode listed
in another order, resumed or evaluated again is the same. Only two turns of one drawing keep the order they come in.

The LSTMs have 72 million weights at D = 1600; train with --clip-norm 1 or so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from episodes.episode import Episode, Fields
from episodes.errors import ConfigError
from episodes.spec import EpisodeSpec
from learners import functional
from learners.embedding import EmbeddingLearner
from learners.methods import matching
from learners.protocol import Inputs, MetaLoss, Predictor, Task, require_support
from learners.sequences import support_order


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(matching.Options):
    """What distinguishes one such network from another."""

    attention_steps: int = field(default=3, metadata={"help": "steps in which a query attends to the support"})

    def __post_init__(self) -> None:
        matching.Options.__post_init__(self)
        if self.attention_steps < 1:
            raise ConfigError(f"attention_steps: expected 1 or more, got {self.attention_steps} (matching has none)")


class SupportContext(nn.Module):
    """Features of the support -> with the support as context, [B, S, D] both."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, features, batch_first=True, bidirectional=True)

    def forward(self, support_BSD: Tensor, rows_BS: Tensor) -> Tensor:
        """`rows_BS` are the rows' numbers, which decide the order in which they are read."""
        order_BS1 = support_order(rows_BS).unsqueeze(-1)
        read_BSE, _ = self.lstm(support_BSD.take_along_dim(order_BS1, 1))
        forward_BSD, backward_BSD = functional.full(read_BSE).take_along_dim(order_BS1.argsort(1), 1).chunk(2, -1)
        return support_BSD + forward_BSD + backward_BSD


class QueryContext(nn.Module):
    """Features of queries -> with the support as context, [B, Q, D] both."""

    def __init__(self, features: int, steps: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(2 * features, features)
        self.steps = steps

    def forward(self, queries_BQD: Tensor, support_BSD: Tensor) -> Tensor:
        """`support_BSD` has its own context already."""
        flat_ND = queries_BQD.flatten(0, 1)
        state_ND = cell_ND = torch.zeros_like(flat_ND)
        read_BQD = support_BSD.mean(1, keepdim=True).expand_as(queries_BQD)
        for _ in range(self.steps):
            state_ND, cell_ND = self.cell(torch.cat([flat_ND, read_BQD.flatten(0, 1)], -1), (state_ND, cell_ND))
            state_ND = state_ND + flat_ND
            read_BQD = _read(state_ND.view_as(queries_BQD), support_BSD)
        return state_ND.view_as(queries_BQD)


def _read(states_BQD: Tensor, support_BSD: Tensor) -> Tensor:
    """Mean of the support as each state attends to it, [B, Q, D]: softmax of plain dot products."""
    with torch.autocast(states_BQD.device.type, enabled=False):  # dot products are large, their differences small
        shares_BQS = torch.bmm(states_BQD, support_BSD.transpose(1, 2)).softmax(-1)
        return torch.bmm(shares_BQS, support_BSD)


class MatchingFce(EmbeddingLearner):
    """See the module's docstring."""

    def __init__(self, options: Options, inputs: Inputs) -> None:
        super().__init__(options, inputs)
        self.support_context = SupportContext(self.embedding.features)
        self.query_context = QueryContext(self.embedding.features, options.attention_steps)
        self.attention = matching.Attention(options)

    def require(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every class has a shot to attend to, and there is a query to score."""
        require_support("matching_fce", spec)

    def adapt(self, task: Task) -> Predictor:
        """Support in context; the predictor gives log-probabilities [B, Q, W]."""
        features, statistics = self.embedding.support(task.support.fields)
        support = self.support_context(features, task.support.rows)
        labels, ways = task.support.labels, task.ways

        def predict(fields: Fields[Tensor]) -> Tensor:
            queries = self.query_context(self.embedding.query(fields, statistics), support)
            return self.attention.logits(queries, support, labels, ways)

        return predict

    def meta_loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Mean negative log-probability of the queries' classes."""
        features, queries, _ = self.embedding.parts(episode)
        support = self.support_context(features, episode.support.rows)
        return self.attention.loss(self.query_context(queries, support), support, episode)


def make(options: Options, inputs: Inputs) -> MatchingFce:
    """A Matching Network with full context embeddings for these inputs.

    Raises:
        ConfigError: the store has no such field, or the backbone does not take its rows.
    """
    return MatchingFce(options, inputs)
