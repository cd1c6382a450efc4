"""Distances between classes in a hierarchy, and how far apart the classes of an episode or of two splits are.

All are symmetric, 0 for a class and itself and above 0 otherwise. Classes without a common ancestor (a graph may have
several roots) are one more than the largest distance apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from episodes.classes import ClassIndex, Int
from episodes.errors import SpecError, near
from episodes.graph import SamplingGraph

Distances = NDArray[np.float64]


def lca_span(graph: SamplingGraph, counts: Int) -> Distances:
    """log2 of the size of the smallest span that holds both classes: independent of how finely a hierarchy is cut."""
    del counts
    sizes = np.diff(graph.offsets)
    found = np.full((len(graph.leaves),) * 2, np.inf)
    for node in np.argsort(-sizes, kind="stable"):  # smaller spans overwrite larger ones
        span = graph.span(int(node))
        found[np.ix_(span, span)] = np.log2(sizes[node])
    return _finished(found)


def lca_height(graph: SamplingGraph, counts: Int) -> Distances:
    """Least over common ancestors v of the larger of the two shortest ways up to v, in edges of the sampling graph."""
    del counts
    found = np.full((len(graph.leaves),) * 2, np.inf)
    for up in _ways_up(graph):
        here = np.flatnonzero(np.isfinite(up))
        found[np.ix_(here, here)] = np.minimum(found[np.ix_(here, here)], np.maximum.outer(up[here], up[here]))
    return _finished(found)


def path(graph: SamplingGraph, counts: Int) -> Distances:
    """Edges of the shortest way from class to class in the sampling graph, up and down as it likes."""
    del counts
    num, leaves = len(graph.names), len(graph.leaves)
    beside: list[list[int]] = [[] for _ in range(num + leaves)]
    for node, children in enumerate(graph.children):
        for child in children:
            other = child if child >= 0 else num + ~child
            beside[node].append(other)
            beside[other].append(node)
    found = np.full((leaves, num + leaves), np.inf)
    for leaf in range(leaves):
        reach, steps = [num + leaf], 0
        while reach:
            found[leaf, reach] = steps
            steps += 1
            reach = sorted({b for at in reach for b in beside[at] if np.isinf(found[leaf, b])})
    return _finished(found[:, num:])


def jiang_conrath(graph: SamplingGraph, counts: Int) -> Distances:
    """ic(a) + ic(b) - 2 max ic(v) over common ancestors v, with ic(v) = -ln(rows below v / all rows) (1997)."""
    counts = np.asarray(counts, np.float64)
    least = np.full((len(graph.leaves),) * 2, np.inf)  # rows below the rarest common ancestor
    totals = np.array([counts[graph.span(n)].sum() for n in range(len(graph.names))])
    for node in np.argsort(-totals, kind="stable"):
        span = graph.span(int(node))
        least[np.ix_(span, span)] = totals[node]
    log = np.log(counts)
    return _finished(2 * np.log(least) - log[:, None] - log[None, :])


def of_groups(classes: ClassIndex) -> Distances:
    """1 within a group, 2 otherwise; a class without a group is alone."""
    same = (classes.groups[:, None] == classes.groups[None, :]) & (classes.groups >= 0)[:, None]
    found = np.where(same, 1.0, 2.0)
    np.fill_diagonal(found, 0.0)
    return found


_MEASURES: Final[dict[str, Callable[[SamplingGraph, Int], Distances]]] = {
    "lca_span": lca_span,
    "lca_height": lca_height,
    "path": path,
    "jiang_conrath": jiang_conrath,
}


def distances(name: str, classes: ClassIndex) -> Distances:
    """[C, C] distances between the classes: ``groups``, or one over the store's hierarchy.

    Raises:
        SpecError: an unknown name; no hierarchy, or no groups.
    """
    if name == "groups":
        if not (classes.groups >= 0).any():
            raise SpecError(f"no class of split '{classes.split}' has a group; ingest with groups, or use a hierarchy")
        return of_groups(classes)
    if name not in _MEASURES:
        raise SpecError(f"unknown distance '{name}'; {near(name, [*_MEASURES, 'groups'])}")
    return _MEASURES[name](classes.graph, classes.counts)


def coarsity(table: Distances, positions: Int) -> float:
    """Mean of the squared distance over the pairs of an episode's classes; 0 for one class."""
    ways = len(positions)
    if ways < 2:
        return 0.0
    return float((table[np.ix_(positions, positions)] ** 2).sum() / (ways * (ways - 1)))


def delta(table: Distances, train: Int, test: Int) -> float:
    """Mean over test classes of the distance to the nearest training class."""
    return float(table[np.ix_(test, train)].min(axis=1).mean())


def _ways_up(graph: SamplingGraph) -> list[Distances]:
    """For each node, [L] edges of the shortest way from each class up to it; infinite where there is none."""
    ways: dict[int, Distances] = {}

    def up(node: int) -> Distances:
        if node not in ways:
            found = np.full(len(graph.leaves), np.inf)
            for child in graph.children[node]:
                if child < 0:
                    found[~child] = 1.0
                else:
                    found = np.minimum(found, up(child) + 1)
            ways[node] = found
        return ways[node]

    return [up(node) for node in range(len(graph.names))]


def _finished(found: Distances) -> Distances:
    """Diagonal 0, and unconnected pairs one beyond the largest."""
    np.fill_diagonal(found, 0.0)
    finite = found[np.isfinite(found)]
    return np.where(np.isfinite(found), found, finite.max(initial=0.0) + 1.0)
