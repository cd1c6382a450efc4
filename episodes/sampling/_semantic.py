"""What the policies of semantic distance share: a hierarchy by name, and distances kept per split."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from episodes.classes import ClassIndex, Int
from episodes.distance import Distances, distances
from episodes.errors import SpecError
from episodes.graph import SamplingGraph, pairs_of_groups

Measure = Literal["lca_span", "lca_height", "path", "jiang_conrath", "groups"]


@lru_cache(maxsize=16)
def hierarchy(classes: ClassIndex, kind: str) -> SamplingGraph:
    """The store's ``graph``, or its ``groups`` as a hierarchy of two levels.

    Raises:
        SpecError: there is none.
    """
    if kind == "graph":
        return classes.graph
    grouped = {n: classes.group_names[g] for n, g in zip(classes.names, classes.groups.tolist(), strict=True) if g >= 0}
    if len(grouped) < len(classes):
        raise SpecError(f"split '{classes.split}' has classes without a group; ingest with groups, or give hierarchy=graph")
    if classes.variants.any():
        raise SpecError(f"split '{classes.split}' holds quarter turns, which have no place in a hierarchy")
    return SamplingGraph.build(pairs_of_groups(grouped), classes.names)


def notes_on(graph: SamplingGraph, nodes: Int) -> list[str]:
    """A sentence for each set of `nodes` with the same classes, which are drawn that much more often."""
    return [
        f"nodes {', '.join(map(repr, names))} span the same classes; each counts as a node of its own, so these classes "
        f"are drawn {len(names)} times as often"
        for names in graph.alike(nodes)
    ]


@lru_cache(maxsize=16)
def scaled(classes: ClassIndex, measure: str) -> Distances:
    """[C, C] distances in 0..1."""
    table = distances(measure, classes)
    return table / max(float(table.max()), 1e-300)


@lru_cache(maxsize=16)
def plain(classes: ClassIndex, measure: str) -> Distances:
    """[C, C] distances."""
    return distances(measure, classes)
