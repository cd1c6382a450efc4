"""Base + novel episodes: classes known from meta-training beside new ones, with one label space for both.

After Hariharan and Girshick 2017, "Low-shot visual recognition by shrinking and hallucinating features". Needs classes
joined by `Selection(base=...)`: base classes have a training and a held-out pool of rows. Base classes are labels
0..B-1 in the order of the store, novel ones B.. in drawn order. Support of a base class comes from its training rows (0
shots: the learner knows the class already), its queries from rows that meta-training never used; novel support and
queries from the rows of the class. `learners.functional.generalized_scores` has the six scores.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from episodes.classes import ClassIndex
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.plans import plan_of
from episodes.rng import CLASSES, ROWS, check_word
from episodes.sampling._engine import key_of, numbers
from episodes.spec import EpisodeSpec

_SLOT = 1 << 32  # queries of base classes have slots of their own, as in the engine's kernels


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How many base classes, and what is shown of them."""

    base_ways: int | None = field(default=None, metadata={"help": "base classes of an episode; without it all"})
    base_shots: int = field(default=0, metadata={"help": "support rows of each base class"})

    def __post_init__(self) -> None:
        if self.base_ways is not None and self.base_ways < 1:
            raise SpecError(f"base_ways: expected 1 or more, got {self.base_ways}")
        if self.base_shots < 0:
            raise SpecError(f"base_shots: expected 0 or more, got {self.base_shots}")


@dataclass(frozen=True, slots=True)
class GeneralizedSampler:
    """See the module's docstring; `ways`, `shots` and `queries` of the spec are those of the novel classes."""

    options: Options = Options()
    name: str = "generalized"
    version: int = 1

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every episode of `spec` can be drawn from `classes`."""
        if not len(classes.seen) or not classes.seen.any():
            raise SpecError(f"split '{classes.split}' has no base classes; join some with base=train and labeled below 1")
        if not spec.fixed or spec.unlabeled.high:
            raise SpecError(f"{spec}: base + novel episodes need fixed counts, no unlabeled rows and no distractors")
        base, novel = (classes.select(np.flatnonzero(mask)) for mask in (classes.seen, ~classes.seen))
        spec.require(novel)
        if (self.options.base_ways or 0) > len(base):
            raise SpecError(f"base_ways={self.options.base_ways} needs that many base classes; there are {len(base)}")
        for kind, rows, needed in (
            ("training", base.front, self.options.base_shots),
            ("held-out", base.counts - base.front, spec.queries.low),
        ):
            if (short := np.flatnonzero(rows < needed)).size:
                first = int(short[0])
                raise SpecError(
                    f"base class '{base.name(first)}' has {rows[first]} {kind} rows ({len(short)} such classes); "
                    f"{needed} are needed"
                )

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`; assumes that `require` passed."""
        index = check_word("index", index)
        key = key_of(classes, self.name, self.version, seed)
        base, novel = np.flatnonzero(classes.seen), np.flatnonzero(~classes.seen)
        if self.options.base_ways is not None:
            base = np.sort(base[numbers(key, CLASSES, 1, index, len(base), self.options.base_ways)])
        novel = novel[numbers(key, CLASSES, 0, index, len(novel), spec.ways.low)]
        support, query = [], []
        for label, position in enumerate([*base.tolist(), *novel.tolist()]):
            rows = classes.rows(position)
            slot = int(classes.ids[position]) * 4 + int(classes.variants[position])  # the same whoever else is there
            if label < len(base):
                cut = int(classes.front[position])
                support.append(rows[:cut][numbers(key, ROWS, slot, index, cut, self.options.base_shots)])
                held = len(rows) - cut
                query.append(rows[cut:][numbers(key, ROWS, slot + _SLOT, index, held, spec.queries.low)])
            else:
                drawn = rows[numbers(key, ROWS, slot, index, len(rows), spec.shots.low + spec.queries.low)]
                support.append(drawn[: spec.shots.low])
                query.append(drawn[spec.shots.low :])
        return plan_of(classes, index, np.concatenate([base, novel]), support, query)


def make(options: Options) -> GeneralizedSampler:
    """The sampler."""
    return GeneralizedSampler(options)
