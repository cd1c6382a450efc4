"""Calibration: are the queries that a method is 80 % sure of right in 80 % of the cases?

The confidence of a query is the probability of the predicted class, by a softmax over the logits as the method gives them.
The expected calibration error is that of Naeini et al. 2015 with the 15 equal-width bins of Guo et al. 2017 ("On
calibration of modern neural networks"), equation 3: ``sum_m n_m / N * |accuracy_m - confidence_m|``, bin m holding the
confidences in ((m - 1) / 15, m / 15]. All queries of all episodes are taken together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BINS: Final = 15
Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """The curve of a reliability diagram and its summaries; fractions, but for the likelihood."""

    ece: float
    """Expected calibration error."""
    nll: float
    """Mean negative log-likelihood of the queries' classes, in nats; ln(ways) for a guess without knowledge."""
    confidence: Float
    """[15] mean confidence of the queries in each bin; 0 of an empty one."""
    accuracy: Float
    """[15] fraction of them that is right."""
    queries: NDArray[np.int64]
    """[15]"""

    def to_table(self) -> dict[str, Any]:
        """Plain values; of the curve only bins that are not empty."""
        filled = zip(self.confidence.tolist(), self.accuracy.tolist(), self.queries.tolist(), strict=True)
        curve = [
            {"low": m / BINS, "high": (m + 1) / BINS, "confidence": confidence, "accuracy": accuracy, "queries": queries}
            for m, (confidence, accuracy, queries) in enumerate(filled)
            if queries
        ]
        return {"ece": self.ece, "bins": BINS, "nll": self.nll, "curve": curve}


def calibration(confidence: NDArray[Any], right: NDArray[np.bool_], nll: NDArray[Any]) -> Calibration:
    """Of N queries: their confidences in 0..1, whether they are right, and the negative log-likelihood of their classes."""
    sure = confidence.astype(np.float64)
    edges = np.arange(1, BINS) / BINS
    place = np.searchsorted(edges, sure, side="left")  # a confidence on an edge belongs to the bin below
    queries = np.bincount(place, minlength=BINS)
    some = np.maximum(queries, 1)
    confidences = np.bincount(place, sure, BINS) / some
    accuracies = np.bincount(place, right, BINS) / some
    gaps = queries * np.abs(accuracies - confidences)
    return Calibration(
        ece=float(gaps.sum() / len(sure)),
        nll=float(nll.astype(np.float64).mean()),
        confidence=confidences,
        accuracy=accuracies,
        queries=queries,
    )
