"""Every row of the split is a query exactly once, in as few episodes as that takes.

Rows of each class are put in a keyed order and cut into blocks of Q; a class has ceil(n / Q) blocks, the last of them
perhaps shorter. Each episode takes one block of each of W classes; support rows are other rows of the class, drawn by key.
Queries of a class that only fills the ways are none.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from episodes.classes import ClassIndex
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.plans import plan_of
from episodes.pools import require_one_pool
from episodes.rng import CLASSES, PASS, ROWS, check_word
from episodes.sampling._engine import key_of, numbers
from episodes.spec import EpisodeSpec


@dataclass(frozen=True, slots=True)
class Options:
    """This policy has no options."""


@dataclass(frozen=True, slots=True)
class EachRowOnceSampler:
    """See the module's docstring. Plans are pure functions of (classes, spec, seed, index)."""

    name: str = "each_row_once"
    version: int = 1

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless the list can be made."""
        if not spec.fixed or spec.unlabeled.high or spec.queries.low < 1:
            raise SpecError(f"{spec}: each row once needs fixed counts, a query or more, no unlabeled rows")
        require_one_pool(classes, "each-row-once")
        spec.require(classes)

    def length(self, classes: ClassIndex, spec: EpisodeSpec) -> int:
        """Episodes of the list."""
        return len(_schedule(classes, spec))

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`; assumes that `require` passed."""
        index = check_word("index", index)
        schedule = _schedule(classes, spec)
        if index >= len(schedule):
            raise SpecError(f"index {index} is beyond the {len(schedule)} episodes that show each row once")
        key, size = key_of(classes, self.name, self.version, seed), spec.queries.low
        chosen = [schedule[index][i] for i in numbers(key, CLASSES, 0, index, spec.ways.low, spec.ways.low)]
        support, query = [], []
        for label, (position, block) in enumerate(chosen):
            num = int(classes.counts[position])
            rows = classes.rows(position)[numbers(key, PASS, position, 0, num, num)]
            asked = rows[block * size : (block + 1) * size] if block >= 0 else rows[:0]
            others = rows[~np.isin(rows, asked)]
            support.append(others[numbers(key, ROWS, label, index, len(others), spec.shots.low)])
            query.append(asked)
        return plan_of(classes, index, np.array([p for p, _ in chosen]), support, query)


@lru_cache(maxsize=8)
def _schedule(classes: ClassIndex, spec: EpisodeSpec) -> tuple[tuple[tuple[int, int], ...], ...]:
    """(class, block) of each label of each episode; block -1: a class that only fills the ways, without queries.

    The classes with most blocks left go first, which needs the fewest episodes: max(most blocks, ceil(blocks / W)).
    """
    heap = [(-n // spec.queries.low, p) for p, n in enumerate(classes.counts.tolist())]
    heapq.heapify(heap)
    blocks = {p: 0 for _, p in heap}
    found = []
    while heap:
        taken = [heapq.heappop(heap) for _ in range(min(spec.ways.low, len(heap)))]
        episode = []
        for left, position in taken:
            episode.append((position, blocks[position]))
            blocks[position] += 1
            if left + 1 < 0:
                heapq.heappush(heap, (left + 1, position))
        used = {position for position, _ in episode}
        fill = (p for p in range(len(classes)) if p not in used)
        episode += [(next(fill), -1) for _ in range(spec.ways.low - len(episode))]
        found.append(tuple(episode))
    return tuple(found)


def make(options: Options) -> EachRowOnceSampler:
    """The sampler."""
    del options
    return EachRowOnceSampler()
