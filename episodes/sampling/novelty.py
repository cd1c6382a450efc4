"""Episodes with a stated share of classes that meta-training never saw; the others it did (class overlap).

Needs classes of which some are marked as seen: `Selection(overlap=..., overlap_with="train")`. Of W ways exactly
``floor(fraction * W + 1/2)`` are unseen; which labels they get is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from episodes.classes import ClassIndex
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.rng import CLASSES, OVERLAP, check_word
from episodes.sampling._engine import draw_given, draw_ways, key_of, most_ways, numbers
from episodes.spec import EpisodeSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much is new."""

    fraction: float = field(default=0.5, metadata={"help": "share of the ways that meta-training never saw"})

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise SpecError(f"fraction: expected 0 to 1, got {self.fraction}")


@dataclass(frozen=True, slots=True)
class NoveltySampler:
    """See the module's docstring. Plans are pure functions of (classes, spec, seed, index)."""

    options: Options = Options()
    name: str = "novelty"
    version: int = 1

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every episode of `spec` can be drawn from `classes`."""
        spec.require(classes)
        seen = int(classes.seen.sum()) if len(classes.seen) else 0
        for ways in range(spec.ways.low, min(most_ways(classes, spec), len(classes) - spec.distractors.high) + 1):
            novel = self._novel(ways)
            for kind, needed, there in (("unseen", novel, len(classes) - seen), ("seen", ways - novel, seen)):
                if needed > there:
                    raise SpecError(
                        f"fraction={self.options.fraction} of {ways} ways needs {needed} {kind} classes; split "
                        f"'{classes.split}' has {there} (overlap={seen}/{len(classes)})"
                    )

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`; assumes that `require` passed."""
        index = check_word("index", index)
        key = key_of(classes, self.name, self.version, seed)
        ways = draw_ways(key, classes, spec, index, len(classes) - spec.distractors.high)
        seen = classes.seen if len(classes.seen) else np.zeros(len(classes), np.bool_)
        new, known = np.flatnonzero(~seen), np.flatnonzero(seen)
        novel = self._novel(ways)
        positions = np.concatenate(
            [
                new[numbers(key, CLASSES, 0, index, len(new), novel)],
                known[numbers(key, CLASSES, 1, index, len(known), ways - novel)],
            ]
        )
        return draw_given(key, classes, spec, index, positions[numbers(key, OVERLAP, 0, index, ways, ways)])

    def _novel(self, ways: int) -> int:
        return math.floor(self.options.fraction * ways + 0.5)


def make(options: Options) -> NoveltySampler:
    """The sampler."""
    return NoveltySampler(options)
