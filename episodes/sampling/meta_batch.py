"""Episodes whose classes are drawn together for a meta-batch: all different, partly shared, or all the same.

Episode e of batch b has index ``b * batch + e``; its classes come from the key of the batch, its labels, counts and rows
from its own. With ``share`` = s, s classes are in all episodes of a batch and the others are all different:
``share = 0`` is a batch of disjoint episodes, ``share`` = ways has one class set and fresh rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from episodes.classes import ClassIndex, Int
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.plans import cut_plan
from episodes.rng import CLASSES, META, ROWS, check_word
from episodes.sampling._engine import draw_given, key_of, numbers
from episodes.spec import EpisodeSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How episodes of a batch share."""

    batch: int = field(default=4, metadata={"help": "episodes of a meta-batch"})
    share: int = field(default=0, metadata={"help": "classes that all episodes of a batch share, 0 to the ways"})
    rows_disjoint: bool = field(default=False, metadata={"help": "shared classes give other rows to each episode"})
    fixed_labels: bool = field(default=False, metadata={"help": "a shared class keeps its label over the batch"})

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise SpecError(f"batch: expected 1 or more, got {self.batch}")
        if self.share < 0:
            raise SpecError(f"share: expected 0 or more, got {self.share}")


@dataclass(frozen=True, slots=True)
class MetaBatchSampler:
    """See the module's docstring. Plans are pure functions of (classes, spec, seed, index)."""

    options: Options = Options()
    name: str = "meta_batch"
    version: int = 1

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every batch can be drawn from `classes`."""
        o = self.options
        if not spec.ways.fixed:
            raise SpecError(f"ways={spec.ways}: a meta-batch needs a fixed number of ways")
        ways = spec.ways.low
        if o.share > ways:
            raise SpecError(f"share={o.share} is more than ways={ways}")
        spec.require(classes)
        needed = o.share + o.batch * (ways - o.share)
        if needed > len(classes):
            raise SpecError(
                f"batch={o.batch}, ways={ways} and share={o.share} need {needed} different classes; split "
                f"'{classes.split}' has {len(classes)} (lower batch or ways, or share more)"
            )
        if o.rows_disjoint:
            if not spec.fixed or len(classes.front):
                raise SpecError("rows_disjoint needs fixed counts, no distractors and no labeled share")
            rows = o.batch * spec.rows_per_class
            if (short := np.flatnonzero(classes.counts < rows)).size and o.share:
                first = int(short[0])
                raise SpecError(
                    f"class '{classes.name(first)}' has {classes.counts[first]} rows; rows_disjoint over batch={o.batch} "
                    f"needs {rows}"
                )

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`; assumes that `require` passed."""
        o, ways = self.options, spec.ways.low
        key = key_of(classes, self.name, self.version, seed)
        batch, episode = divmod(check_word("index", index), o.batch)
        own = ways - o.share
        drawn = numbers(key, META, 0, batch, len(classes), o.share + o.batch * own)
        mine = drawn[o.share + episode * own : o.share + (episode + 1) * own]
        positions = np.concatenate([drawn[: o.share], mine])
        order = np.arange(ways) if o.fixed_labels else numbers(key, CLASSES, 0, index, ways, ways)
        positions = positions[order]
        if not o.rows_disjoint:
            return draw_given(key, classes, spec, index, positions)
        rows = [
            self._rows(key, classes, spec, int(position), int(place), batch, episode, index, label)
            for label, (position, place) in enumerate(zip(positions, order, strict=True))
        ]
        return cut_plan(classes, spec, index, positions, rows)

    def _rows(
        self,
        key: tuple[np.uint64, np.uint64],
        classes: ClassIndex,
        spec: EpisodeSpec,
        position: int,
        place: int,
        batch: int,
        episode: int,
        index: int,
        label: int,
    ) -> Int:
        """Rows of one class: of a shared one this episode's piece of a choice that the whole batch cuts up."""
        size, num = spec.rows_per_class, int(classes.counts[position])
        if place >= self.options.share:
            return classes.rows(position)[numbers(key, ROWS, label, index, num, size)]
        pieces = numbers(key, META, place + 1, batch, num, self.options.batch * size)
        return classes.rows(position)[pieces[episode * size : (episode + 1) * size]]


def make(options: Options) -> MetaBatchSampler:
    """The sampler."""
    return MetaBatchSampler(options)
