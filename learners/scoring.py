"""Scoring: what a method's predictions are, if they are not logits, and how they are scored.

A learner that has no member ``scoring`` is a classifier: its predictions are logits and its score is the accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from episodes.episode import Part

Scores = Callable[[Tensor, Part[Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """A metric of queries; that of an episode is the mean over its queries, that of a report the mean over episodes."""

    metric: str
    """Name of the score that decides: which parameters are the best, what a comparison is of."""
    scores: Scores
    """(predictions as the method's predictor gives them, the queries they are of) -> name -> [B, Q] float.

    `metric` is one of the names; the others are reported beside it. The names are the same for every episode.
    """
    lower_is_better: bool = False


def scoring_of(learner: Any) -> Scoring | None:
    """How a learner is scored; None: as a classifier, by accuracy."""
    found: Scoring | None = getattr(learner, "scoring", None)
    return found
