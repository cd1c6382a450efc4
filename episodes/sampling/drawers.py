"""Within-alphabet one-shot classification: support by one drawer, queries by another (Lake et al. 2015).

A group uniform among those with enough classes, classes within it, and different drawers for every shot and query: row
(class, drawer) is support or query of that class. The generator form of the twenty published runs; those themselves are
made by `episodes freeze --runs`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from episodes.classes import ClassIndex, Int
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.plans import plan_of
from episodes.pools import require_one_pool
from episodes.rng import CLASSES, GROUPS, ROWS, check_word
from episodes.sampling._engine import key_of, numbers
from episodes.spec import EpisodeSpec

DEFAULT_COUNTS = {"ways": 20, "shots": 1, "queries": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Who drew what."""

    column: str = field(default="drawer", metadata={"help": "integer field of the store that says who drew a sample"})


@dataclass(frozen=True, slots=True)
class DrawersSampler:
    """See the module's docstring. Plans are pure functions of (classes, spec, seed, index)."""

    options: Options = Options()
    name: str = "drawers"
    version: int = 1

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every episode of `spec` can be drawn from `classes`."""
        if not spec.fixed or spec.unlabeled.high:
            raise SpecError(f"{spec}: episodes by drawer need fixed counts, no unlabeled rows and no distractors")
        require_one_pool(classes, "drawers")
        numbers_, offsets, _ = classes.groups_in_use
        sizes = np.diff(offsets)
        if not len(numbers_) or sizes.max() < spec.ways.low:
            raise SpecError(
                f"no group of split '{classes.split}' has ways={spec.ways} classes; the largest has {sizes.max(initial=0)}"
            )
        drawers = _table(classes, self.options.column).shape[1]
        if spec.rows_per_class > drawers:
            raise SpecError(f"shots + queries needs {spec.rows_per_class} drawers; every class has {drawers}")

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`; assumes that `require` passed."""
        index = check_word("index", index)
        key = key_of(classes, self.name, self.version, seed)
        _, offsets, members = classes.groups_in_use
        wide = np.flatnonzero(np.diff(offsets) >= spec.ways.low)
        group = int(wide[numbers(key, GROUPS, 0, index, len(wide), 1)[0]])
        inside = members[offsets[group] : offsets[group + 1]]
        positions = inside[numbers(key, CLASSES, 0, index, len(inside), spec.ways.low)]
        table = _table(classes, self.options.column)
        drawers = numbers(key, ROWS, 0, index, table.shape[1], spec.rows_per_class)
        support = [table[p, drawers[: spec.shots.low]] for p in positions]
        return plan_of(classes, index, positions, support, [table[p, drawers[spec.shots.low :]] for p in positions])


@lru_cache(maxsize=8)
def _table(classes: ClassIndex, column: str) -> Int:
    """[C, D] the row of each class by each drawer."""
    if classes.column is None:
        raise SpecError(f"these classes have no field '{column}' to tell drawers by")
    who = classes.column(column)
    rows = [classes.rows(p) for p in range(len(classes))]
    ordered = [own[np.argsort(who[own], kind="stable")] for own in rows]
    drawers = who[ordered[0]]
    for position, own in enumerate(ordered):
        if len(np.unique(who[own])) < len(own) or not np.array_equal(who[own], drawers):
            raise SpecError(f"class '{classes.name(position)}' is not drawn once by every drawer of '{column}'")
    return np.stack(ordered)


def make(options: Options) -> DrawersSampler:
    """The sampler."""
    return DrawersSampler(options)
