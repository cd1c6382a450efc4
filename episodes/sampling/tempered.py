"""Near or far classes by a temperature: each next class with weight exp(-t * its mean distance to those chosen).

t > 0 prefers near classes (hard, fine episodes), t < 0 far ones, t = 0 is uniform. Distances are scaled to 0..1. The first
class is uniform. Classes are then not equally frequent: `episodes plan --stats` shows how much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from episodes.classes import ClassIndex
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.rng import CLASSES, check_word, philox
from episodes.sampling._engine import draw_given, draw_ways, key_of, numbers
from episodes.sampling._semantic import Measure, scaled
from episodes.spec import EpisodeSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How strongly, and by which distance."""

    t: float = field(default=10.0, metadata={"help": "temperature: above 0 near classes, below 0 far ones"})
    distance: Measure = field(default="lca_span", metadata={"help": "distance between classes"})

    def __post_init__(self) -> None:
        if not math.isfinite(self.t):
            raise SpecError(f"t: expected a finite number, got {self.t}")


@dataclass(frozen=True, slots=True)
class TemperedSampler:
    """See the module's docstring. Plans are pure functions of (classes, spec, seed, index)."""

    options: Options = Options()
    name: str = "tempered"
    version: int = 1

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every episode of `spec` can be drawn from `classes`."""
        spec.require(classes)
        scaled(classes, self.options.distance)

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`; assumes that `require` passed."""
        index = check_word("index", index)
        key = key_of(classes, self.name, self.version, seed)
        table, num = scaled(classes, self.options.distance), len(classes)
        ways = draw_ways(key, classes, spec, index, num - spec.distractors.high)
        chosen = [int(numbers(key, CLASSES, 0, index, num, 1)[0])]
        sums = table[chosen[0]].copy()
        for label in range(1, ways):
            with np.errstate(over="ignore", invalid="ignore"):  # of a t beyond reason; refused below
                exponents = -self.options.t * sums / label
                exponents[chosen] = -np.inf
                weights = np.exp(exponents - exponents.max())
            total = np.cumsum(weights)
            if not math.isfinite(total[-1]) or total[-1] <= 0:
                raise SpecError(f"episode {index}: t={self.options.t} leaves no class with a weight")
            word = philox(*key, np.uint64(1), np.uint64(label), np.uint64(CLASSES), np.uint64(index))[0]
            at = int(np.searchsorted(total, (int(word) >> 11) / 2**53 * total[-1], side="right"))
            chosen.append(min(at, int(np.flatnonzero(weights)[-1])))
            sums += table[chosen[-1]]
        return draw_given(key, classes, spec, index, np.array(chosen, np.int64))


def make(options: Options) -> TemperedSampler:
    """The sampler."""
    return TemperedSampler(options)
