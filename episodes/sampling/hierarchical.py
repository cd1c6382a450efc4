"""Fine-grained episodes: one group (alphabet, super-category) uniform over groups, then classes within it.

Groups are uniform whatever their size, as in Meta-Dataset's Omniglot episodes (Triantafillou et al. 2020). Classes
without a group never appear.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from episodes.classes import ClassIndex
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.rng import check_word, stream_key
from episodes.sampling._kernels import fill_hierarchical
from episodes.sampling._plans import room, to_plan
from episodes.spec import EpisodeSpec


@dataclass(frozen=True, slots=True)
class Options:
    """This policy has no options."""


@dataclass(frozen=True, slots=True)
class HierarchicalSampler:
    """See the module's docstring. Plans are pure functions of (classes, spec, seed, index)."""

    name: str = "hierarchical"
    version: int = 1

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every group of `classes` can fill an episode of `spec`."""
        spec.require(classes)
        numbers, offsets, _ = classes.groups_in_use
        if not len(numbers):
            raise SpecError(f"no class of split '{classes.split}' has a group; give groups at ingest, or use uniform")
        sizes = np.diff(offsets)
        short = np.flatnonzero(sizes < spec.ways)
        if len(short):
            first = int(short[0])
            raise SpecError(
                f"group '{classes.group_names[numbers[first]]}' has {sizes[first]} classes in split '{classes.split}'; "
                f"ways={spec.ways} within one group needs {spec.ways} ({len(short)} of {len(sizes)} groups are too "
                f"small; lower ways to {sizes.min()} or less)"
            )

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`; assumes that `require` passed."""
        seed, index = check_word("seed", seed), check_word("index", index)
        stream = np.uint64(stream_key(classes.split, self.name, self.version))
        positions, rows = room(spec, 1)
        _, offsets, members = classes.groups_in_use
        fill_hierarchical(
            np.uint64(seed),
            stream,
            np.uint64(index),
            classes.starts,
            classes.counts,
            offsets,
            members,
            positions,
            rows,
        )
        return to_plan(classes, spec, index, positions[0], rows[0])


def make(options: Options) -> HierarchicalSampler:
    """The sampler."""
    del options
    return HierarchicalSampler()
