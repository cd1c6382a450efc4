"""Coarse episodes: at most one class below each child of a node, so that classes are as far apart as the node allows.

A node with at least as many children as ways, uniform over such nodes (or the one named); that many of its children; one
class uniform below each. A class below two drawn children is drawn once: the later child takes another of its classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np

from episodes.classes import ClassIndex, Int
from episodes.episode import EpisodePlan
from episodes.errors import SpecError, near
from episodes.graph import SamplingGraph
from episodes.rng import CLASSES, GROUPS, check_word
from episodes.sampling._engine import draw_given, draw_ways, key_of, numbers
from episodes.sampling._semantic import hierarchy, notes_on
from episodes.spec import EpisodeSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which hierarchy, and which of its nodes."""

    hierarchy: Literal["graph", "groups"] = field(default="graph", metadata={"help": "the store's hierarchy or groups"})
    node: str | None = field(default=None, metadata={"help": "name of the node; without it any with enough children"})


@dataclass(frozen=True, slots=True)
class SpreadSampler:
    """See the module's docstring. Plans are pure functions of (classes, spec, seed, index)."""

    options: Options = Options()
    name: str = "spread"
    version: int = 1

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every episode of `spec` can be drawn from `classes`."""
        spec.require(classes)
        graph = hierarchy(classes, self.options.hierarchy)
        if self.options.node is not None and self.options.node not in graph.names:
            raise SpecError(f"node='{self.options.node}' is no node; {near(self.options.node, graph.names)[:200]}")
        needed = spec.least_ways
        nodes = _nodes(classes, self.options, needed)
        if not len(nodes):
            most = max((len(children) for children in graph.children), default=0)
            raise SpecError(f"no node has {needed} children to spread ways={spec.ways} over; the widest has {most}")
        for node in nodes.tolist():
            spans = [_below(graph, child) for child in graph.children[node]]
            if len(np.unique(np.concatenate(spans))) < len(spans) and not _distinct(spans):
                raise SpecError(f"node '{graph.names[node]}' has children that share too few classes to tell apart")

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`; assumes that `require` passed."""
        index = check_word("index", index)
        key = key_of(classes, self.name, self.version, seed)
        graph = hierarchy(classes, self.options.hierarchy)
        needed = spec.least_ways
        nodes = _nodes(classes, self.options, needed)
        children = graph.children[int(nodes[numbers(key, GROUPS, 0, index, len(nodes), 1)[0]])]
        ways = draw_ways(key, classes, spec, index, min(len(children), len(classes) - spec.distractors.high))
        taken: list[int] = []
        for label, child in enumerate(numbers(key, CLASSES, 0, index, len(children), ways).tolist()):
            span = _below(graph, children[child])
            free = span[~np.isin(span, taken)]
            if not len(free):
                raise SpecError(f"episode {index}: the classes below one child are all below others (lower ways)")
            taken.append(int(free[numbers(key, CLASSES, label + 1, index, len(free), 1)[0]]))
        return draw_given(key, classes, spec, index, np.array(taken, np.int64))

    def notes(self, classes: ClassIndex, spec: EpisodeSpec) -> list[str]:
        """What is no error but worth knowing: nodes with the same classes."""
        return notes_on(hierarchy(classes, self.options.hierarchy), _nodes(classes, self.options, spec.least_ways))


def _below(graph: SamplingGraph, child: int) -> Int:
    return graph.span(child) if child >= 0 else np.array([~child], np.int64)


def _distinct(spans: list[Int]) -> bool:
    """Whether every set can be given a class of its own (bipartite matching by augmenting paths)."""
    owner: dict[int, int] = {}

    def place(who: int, tried: set[int]) -> bool:
        for c in spans[who].tolist():
            if c not in tried:
                tried.add(c)
                if c not in owner or place(owner[c], tried):
                    owner[c] = who
                    return True
        return False

    return all(place(who, set()) for who in range(len(spans)))


@lru_cache(maxsize=32)
def _nodes(classes: ClassIndex, options: Options, needed: int) -> Int:
    graph = hierarchy(classes, options.hierarchy)
    wide = [n for n, children in enumerate(graph.children) if len(children) >= needed]
    return np.array([n for n in wide if options.node in (None, graph.names[n])], np.int64)


def make(options: Options) -> SpreadSampler:
    """The sampler."""
    return SpreadSampler(options)
