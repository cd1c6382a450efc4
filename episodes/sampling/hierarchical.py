"""Fine-grained episodes: one group (alphabet, super-category) uniform over groups, then classes within it.

Groups are uniform whatever their size, as in Meta-Dataset's Omniglot episodes (Triantafillou et al. 2020). Classes
without a group never appear.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from episodes.classes import ClassIndex, UInt
from episodes.episode import EpisodePlan
from episodes.errors import ConfigError, SpecError
from episodes.plans import PlanBlock
from episodes.sampling import _kernels as kernel
from episodes.sampling._engine import Pools, draw_block, draw_plan, key_of
from episodes.spec import EpisodeSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What may be asked of this policy."""

    hold: int = field(default=1, metadata={"help": "episodes that share classes and counts, with fresh rows"})

    def __post_init__(self) -> None:
        if self.hold < 1:
            raise ConfigError(f"hold: expected 1 or more, got {self.hold}")


@dataclass(frozen=True, slots=True)
class HierarchicalSampler:
    """See the module's docstring. Plans are pure functions of (classes, spec, seed, index)."""

    options: Options = Options()
    name: str = "hierarchical"
    version: int = 1

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every group of `classes` can fill an episode of `spec`."""
        spec.require(classes)
        numbers, offsets, _ = classes.groups_in_use
        if not len(numbers):
            raise SpecError(f"no class of split '{classes.split}' has a group; give groups at ingest, or use uniform")
        sizes = np.diff(offsets)
        needed = spec.least_ways
        if spec.distractor_groups == "same":
            needed += spec.distractors.high
        if spec.distractor_groups == "other" and len(classes) - sizes.max() < spec.distractors.high:
            raise SpecError(
                f"distractors={spec.distractors} of other groups: {len(classes) - sizes.max()} classes of split "
                f"'{classes.split}' are outside its largest group"
            )
        short = np.flatnonzero(sizes < needed)
        if len(short):
            first = int(short[0])
            raise SpecError(
                f"group '{classes.group_names[numbers[first]]}' has {sizes[first]} classes in split '{classes.split}'; "
                f"ways={spec.ways} within one group needs {needed} ({len(short)} of {len(sizes)} groups are too "
                f"small; lower ways to {sizes.min()} or less)"
            )

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`; assumes that `require` passed."""
        key = key_of(classes, self.name, self.version, seed)
        return draw_plan(key, classes, spec, index, _groups(classes), self.options.hold)

    def block(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, indices: UInt) -> PlanBlock:
        """The plans of the episodes `indices` [B] (uint64), in one go."""
        key = key_of(classes, self.name, self.version, seed)
        return draw_block(key, classes, spec, indices, _groups(classes), self.options.hold)


def _groups(classes: ClassIndex) -> Pools:
    return Pools(kernel.POOLS, *classes.groups_in_use[1:])


def make(options: Options) -> HierarchicalSampler:
    """The sampler."""
    return HierarchicalSampler(options)
