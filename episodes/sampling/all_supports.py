"""Every support of a fixed set of classes: each K-subset of each class's rows, with queries drawn from what is left.

At most 1,000,000 supports; more are refused with their number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from episodes.classes import ClassIndex, Int
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.plans import plan_of
from episodes.pools import require_one_pool
from episodes.rng import CLASSES, ROWS, check_word
from episodes.sampling._engine import key_of, numbers
from episodes.sampling.combinations import combination
from episodes.spec import EpisodeSpec

MOST = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which classes."""

    draw: int = field(default=0, metadata={"help": "number of the class set, which the seed and this draw"})


@dataclass(frozen=True, slots=True)
class AllSupportsSampler:
    """See the module's docstring. Plans are pure functions of (classes, spec, seed, index)."""

    options: Options = Options()
    name: str = "all_supports"
    version: int = 1

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless the list can be made and is not too long."""
        if not spec.fixed or spec.unlabeled.high:
            raise SpecError(f"{spec}: all supports need fixed counts, no unlabeled rows and no distractors")
        require_one_pool(classes, "all-supports")
        spec.require(classes)
        if len(set(classes.counts.tolist())) > 1:
            raise SpecError("all supports are counted over classes that have equally many rows; these have not")
        num = self.length(classes, spec)
        if num > MOST:
            raise SpecError(f"ways={spec.ways} and shots={spec.shots} have {num} supports; at most {MOST} are made")

    def length(self, classes: ClassIndex, spec: EpisodeSpec) -> int:
        """Product over the classes of binomial(n, K)."""
        num: int = math.comb(int(classes.counts[0]), spec.shots.low) ** spec.ways.low
        return num

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`; assumes that `require` passed."""
        rest = check_word("index", index)
        if rest >= (num := self.length(classes, spec)):
            raise SpecError(f"index {index} is beyond the {num} supports")
        key = key_of(classes, self.name, self.version, seed)
        positions = numbers(key, CLASSES, 0, self.options.draw, len(classes), spec.ways.low)
        each = math.comb(int(classes.counts[0]), spec.shots.low)
        support: list[Int] = []
        query: list[Int] = []
        for label, position in enumerate(positions.tolist()):
            rest, which = divmod(rest, each)
            rows = classes.rows(position)
            chosen = np.array(combination(which, len(rows), spec.shots.low), np.int64)
            others = np.delete(rows, chosen)
            support.append(rows[chosen])
            query.append(others[numbers(key, ROWS, label, index, len(others), spec.queries.low)])
        return plan_of(classes, index, positions, support, query)


def make(options: Options) -> AllSupportsSampler:
    """The sampler."""
    return AllSupportsSampler(options)
