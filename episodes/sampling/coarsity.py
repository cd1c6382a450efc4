"""Episodes whose classes are so far apart: uniform classes, drawn again until the coarsity lies in a window.

Coarsity is the mean squared distance over the pairs of an episode's classes. At most 10,000 tries an episode, each from a
key of its own; a window that is never met is refused with what was seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from episodes.classes import ClassIndex
from episodes.distance import coarsity
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.rng import CLASSES, check_word
from episodes.sampling._engine import draw_given, draw_ways, key_of, numbers
from episodes.sampling._semantic import Measure, plain
from episodes.spec import EpisodeSpec

TRIES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The window, and the distance it is of."""

    low: float = field(default=0.0, metadata={"help": "least coarsity"})
    high: float = field(default=math.inf, metadata={"help": "largest coarsity"})
    distance: Measure = field(default="lca_span", metadata={"help": "distance between classes"})

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise SpecError(f"high: expected low={self.low} or more, got {self.high}")


@dataclass(frozen=True, slots=True)
class CoarsitySampler:
    """See the module's docstring. Plans are pure functions of (classes, spec, seed, index)."""

    options: Options = Options()
    name: str = "coarsity"
    version: int = 1

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless `spec` can be drawn and the window is met by one of the first episodes."""
        spec.require(classes)
        if spec.ways.high < 2:
            raise SpecError(f"ways={spec.ways}: coarsity is of pairs of classes; ways must be 2 or more")
        self.plan(classes, spec, 0, 0)

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`.

        Raises:
            SpecError: no try met the window.
        """
        index, o = check_word("index", index), self.options
        key = key_of(classes, self.name, self.version, seed)
        table, num = plain(classes, o.distance), len(classes)
        ways = draw_ways(key, classes, spec, index, num - spec.distractors.high)
        seen = []
        for attempt in range(TRIES):
            positions = numbers(key, CLASSES, attempt, index, num, ways)
            seen.append(coarsity(table, positions))
            if o.low <= seen[-1] <= o.high:
                return draw_given(key, classes, spec, index, positions)
        quantiles = ", ".join(f"{q:.3g}" for q in np.quantile(seen, [0, 0.05, 0.5, 0.95, 1]))
        raise SpecError(
            f"episode {index}: no coarsity in {o.low:g}..{o.high:g} in {TRIES} tries; seen were (0, 5, 50, 95 and 100 %) "
            f"{quantiles}"
        )


def make(options: Options) -> CoarsitySampler:
    """The sampler."""
    return CoarsitySampler(options)
