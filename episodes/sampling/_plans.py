"""What every sampler shares: room for a draw, and the EpisodePlan made of it."""

from __future__ import annotations

import numpy as np

from episodes.classes import ClassIndex, Int
from episodes.episode import EpisodePlan
from episodes.spec import EpisodeSpec


def room(spec: EpisodeSpec, episodes: int) -> tuple[Int, Int]:
    """Empty ``(positions [B, W], rows [B, W, rows per class])`` for a kernel to fill."""
    positions = np.empty((episodes, spec.ways), np.int64)
    return positions, np.empty((episodes, spec.ways, spec.rows_per_class), np.int64)


def to_plan(classes: ClassIndex, spec: EpisodeSpec, index: int, positions: Int, rows: Int) -> EpisodePlan:
    """The plan of one episode from its drawn ``positions`` [W] and ``rows`` [W, rows per class]."""
    labels = np.arange(spec.ways, dtype=np.int64)
    support, query, unlabeled = np.split(rows, [spec.shots, spec.shots + spec.queries], axis=1)
    return EpisodePlan(
        index=index,
        class_ids=classes.ids[positions],
        variants=classes.variants[positions],
        support=support.ravel(),
        support_labels=np.repeat(labels, spec.shots),
        query=query.ravel(),
        query_labels=np.repeat(labels, spec.queries),
        unlabeled=unlabeled.ravel(),
        unlabeled_labels=np.repeat(labels, spec.unlabeled),
    )
