"""Leakage audit: is a query predicted the same alone as with the others?

Predictions that improve because the other queries are seen (through batch statistics, say) are a leak: a published number
that rests on them does not hold for a single image. Every evaluation therefore predicts the queries of some episodes
twice, all together and one by one; unless the method is declared transductive the logits must agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from episodes.episode import Episode
from learners.protocol import MetaLearner, adapted

# Rounding differs with the number of rows in a matrix product; a leak through batch statistics is larger by thousands.
TOLERANCE = 1e-3
EPISODES = 5
QUERIES = 20  # checked per episode at most, evenly spaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What the audit found."""

    episodes: int
    queries: int
    """Queries predicted alone."""
    largest_difference: float
    """Largest difference of a logit, as a fraction of the spread of the episode's logits; inf where one is not finite."""
    transductive: bool
    """As the method declares it."""

    @property
    def passed(self) -> bool:
        """The method is declared transductive, or its predictions do not depend on the other queries."""
        return self.transductive or self.largest_difference <= TOLERANCE

    @property
    def finite(self) -> bool:
        """Whether every prediction was a finite number; of others nothing can be said."""
        return math.isfinite(self.largest_difference)

    @property
    def verdict(self) -> str:
        """What a line about the results says of it."""
        if self.passed:
            return "leakage audit passed"
        return "LEAKAGE AUDIT FAILED" if self.finite else "PREDICTIONS ARE NOT FINITE"


@torch.no_grad()
def audit(learner: MetaLearner, episodes: Iterable[Episode[Tensor]]) -> Audit:
    """Predict queries of each episode together and alone; the learner must be in evaluation mode."""
    largest, count, queries = 0.0, 0, 0
    for episode in episodes:
        difference, checked = _check(learner, episode)
        largest, count, queries = max(largest, difference), count + 1, queries + checked
    return Audit(episodes=count, queries=queries, largest_difference=largest, transductive=learner.transductive)


def merged(audits: Sequence[Audit]) -> Audit:
    """What several audits of one learner found together, each of episodes of its own."""
    return Audit(
        episodes=sum(one.episodes for one in audits),
        queries=sum(one.queries for one in audits),
        largest_difference=max(one.largest_difference for one in audits),
        transductive=audits[0].transductive,
    )


def _check(learner: MetaLearner, episode: Episode[Tensor]) -> tuple[float, int]:
    predict = adapted(learner, episode)
    together = predict(episode.query.fields)
    spread = float(together.max() - together.min()) or 1.0
    num = together.shape[1]
    chosen = range(0, num, -(-num // QUERIES))
    if not torch.isfinite(together).all():
        return math.inf, len(chosen)  # a comparison with NaN would pass
    largest = 0.0
    for q in chosen:
        alone = predict({name: values[:, q : q + 1] for name, values in episode.query.fields.items()})
        if not torch.isfinite(alone).all():
            return math.inf, len(chosen)
        largest = max(largest, float((alone[:, 0] - together[:, q]).abs().max()))
    return largest / spread, len(chosen)
