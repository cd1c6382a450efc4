"""Leave-one-out over a fixed set of classes: every row is the one query once; the support is the rest, or drawn from it.

With ``shots`` = ``variable`` the support is every other row of every class; with a number, that many rows by key.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from episodes.classes import ClassIndex
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.plans import plan_of
from episodes.pools import require_one_pool
from episodes.rng import CLASSES, ROWS, check_word
from episodes.sampling._engine import key_of, numbers
from episodes.spec import EpisodeSpec

DEFAULT_COUNTS = {"ways": 5, "shots": "variable", "queries": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which classes."""

    draw: int = field(default=0, metadata={"help": "number of the class set, which the seed and this draw"})


@dataclass(frozen=True, slots=True)
class LeaveOneOutSampler:
    """See the module's docstring. Plans are pure functions of (classes, spec, seed, index)."""

    options: Options = Options()
    name: str = "leave_one_out"
    version: int = 1

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless the list can be made."""
        if not spec.ways.fixed or spec.queries != 1 or spec.unlabeled.high or spec.distractors.high:
            raise SpecError(f"{spec}: leave-one-out has fixed ways, one query, no unlabeled rows and no distractors")
        if spec.shots.kind != "variable" and not spec.shots.fixed:
            raise SpecError(f"shots={spec.shots}: leave-one-out takes a number, or variable for every other row")
        require_one_pool(classes, "leave-one-out")
        spec.require_ways(len(classes), f"split '{classes.split}'", classes.dropped)
        needed = 2 if spec.shots.kind == "variable" else spec.shots.low + 1
        if (short := np.flatnonzero(classes.counts < needed)).size:
            first = int(short[0])
            raise SpecError(f"class '{classes.name(first)}' has {classes.counts[first]} rows; leave-one-out needs {needed}")
        if len(set(classes.counts.tolist())) > 1:
            raise SpecError("leave-one-out has as many episodes as rows of its classes, which must be equally many here")

    def length(self, classes: ClassIndex, spec: EpisodeSpec) -> int:
        """Rows of all classes of the set."""
        return spec.ways.low * int(classes.counts[0])

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`; assumes that `require` passed."""
        index = check_word("index", index)
        key = key_of(classes, self.name, self.version, seed)
        positions = numbers(key, CLASSES, 0, self.options.draw, len(classes), spec.ways.low)
        asked, left_out = divmod(index, int(classes.counts[0]))
        if asked >= len(positions):
            raise SpecError(f"index {index} is beyond the {self.length(classes, spec)} rows to leave out")
        support, query = [], []
        for label, position in enumerate(positions.tolist()):
            rows = classes.rows(position)
            query.append(rows[[left_out]] if label == asked else rows[:0])
            others = np.delete(rows, left_out) if label == asked else rows
            if spec.shots.kind != "variable":
                others = others[numbers(key, ROWS, label, index, len(others), spec.shots.low)]
            support.append(others)
        return plan_of(classes, index, positions, support, query)


def make(options: Options) -> LeaveOneOutSampler:
    """The sampler."""
    return LeaveOneOutSampler(options)
