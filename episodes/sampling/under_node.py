"""Classes below one node of the hierarchy: fine episodes of near classes, or coarse ones, by the bounds of the span.

As the ImageNet episodes of Meta-Dataset (Triantafillou et al. 2020) with a number of ways of one's own: a node that spans
min_span..max_span classes and at least the ways, uniform over nodes or by its number of classes; ways of its classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np

from episodes.classes import ClassIndex
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.rng import CLASSES, GROUPS, check_word
from episodes.sampling._engine import draw_given, draw_ways, key_of, numbers
from episodes.sampling._semantic import hierarchy, notes_on
from episodes.spec import EpisodeSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which nodes."""

    hierarchy: Literal["graph", "groups"] = field(default="graph", metadata={"help": "the store's hierarchy or groups"})
    min_span: int = field(default=2, metadata={"help": "fewest classes under a node"})
    max_span: int = field(default=10, metadata={"help": "most classes under a node; 5..10 is fine, all classes is coarse"})
    by: Literal["node", "leaf"] = field(default="node", metadata={"help": "nodes alike, or by their number of classes"})

    def __post_init__(self) -> None:
        if not 1 <= self.min_span <= self.max_span:
            raise SpecError(f"max_span: expected min_span={self.min_span} (1 or more) or more, got {self.max_span}")


@dataclass(frozen=True, slots=True)
class UnderNodeSampler:
    """See the module's docstring. Plans are pure functions of (classes, spec, seed, index)."""

    options: Options = Options()
    name: str = "under_node"
    version: int = 1

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every episode of `spec` can be drawn from `classes`."""
        spec.require(classes)
        o, needed = self.options, spec.least_ways
        if not len(_nodes(classes, o, needed)[0]):
            sizes = np.diff(hierarchy(classes, o.hierarchy).offsets)
            raise SpecError(
                f"no node of the hierarchy spans {max(o.min_span, needed)}..{o.max_span} classes of split "
                f"'{classes.split}'; its nodes span up to {sizes.max(initial=0)} (min_span, max_span, ways)"
            )

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`; assumes that `require` passed."""
        index, o = check_word("index", index), self.options
        key = key_of(classes, self.name, self.version, seed)
        needed = spec.least_ways
        nodes, ends = _nodes(classes, o, needed)
        if o.by == "leaf":
            place = int(np.searchsorted(ends, numbers(key, GROUPS, 0, index, int(ends[-1]), 1)[0], side="right"))
        else:
            place = int(numbers(key, GROUPS, 0, index, len(nodes), 1)[0])
        span = hierarchy(classes, o.hierarchy).span(int(nodes[place]))
        ways = draw_ways(key, classes, spec, index, min(len(span), len(classes) - spec.distractors.high))
        return draw_given(key, classes, spec, index, span[numbers(key, CLASSES, 0, index, len(span), ways)])

    def notes(self, classes: ClassIndex, spec: EpisodeSpec) -> list[str]:
        """What is no error but worth knowing: nodes with the same classes."""
        return notes_on(hierarchy(classes, self.options.hierarchy), _nodes(classes, self.options, spec.least_ways)[0])


@lru_cache(maxsize=32)
def _nodes(classes: ClassIndex, options: Options, needed: int) -> tuple[np.ndarray, np.ndarray]:
    """Eligible nodes, and the running sum of their spans."""
    graph = hierarchy(classes, options.hierarchy)
    nodes = graph.eligible(max(options.min_span, needed), options.max_span)
    return nodes, np.cumsum(np.diff(graph.offsets)[nodes])


def make(options: Options) -> UnderNodeSampler:
    """The sampler."""
    return UnderNodeSampler(options)
