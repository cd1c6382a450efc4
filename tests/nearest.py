"""Pixel nearest neighbour: the baseline that checks loading, inversion and resizing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import episodes


def accuracy(
    store: Path, ways: int, *, split: str = "all", count: int = 1000, cosine: bool = False, seed: int = 1
) -> float:
    """Mean accuracy, in percent, of random 1-shot episodes with one query a class; ink = 1."""
    spec = episodes.EpisodeSpec(ways=ways, shots=1, queries=1)
    series = episodes.sample(episodes.open(store), split, spec, seed=1, length=count)
    hits = []
    for episode in episodes.Stream(series):
        support, query = (
            part.fields["image"].reshape(ways, -1).astype(np.float64) / 255 for part in (episode.support, episode.query)
        )
        if cosine:
            support /= np.linalg.norm(support, axis=1, keepdims=True)
            query /= np.linalg.norm(query, axis=1, keepdims=True)
        distance = (support**2).sum(1) - 2 * query @ support.T
        hits.append((distance.argmin(1) == np.arange(ways)).mean())
    return 100 * float(np.mean(hits))
