"""The standard policy: classes uniform over the split, rows uniform without replacement.

Source: Vinyals et al. 2016; every published N-way K-shot protocol on Omniglot and mini-ImageNet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from episodes.classes import ClassIndex
from episodes.episode import EpisodePlan
from episodes.rng import check_word, stream_key
from episodes.sampling._kernels import fill_uniform
from episodes.sampling._plans import room, to_plan
from episodes.spec import EpisodeSpec


@dataclass(frozen=True, slots=True)
class Options:
    """This policy has no options."""


@dataclass(frozen=True, slots=True)
class UniformSampler:
    """See the module's docstring. Plans are pure functions of (classes, spec, seed, index)."""

    name: str = "uniform"
    version: int = 1

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every episode of `spec` can be drawn from `classes`."""
        spec.require(classes)

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`; assumes that `require` passed."""
        seed, index = check_word("seed", seed), check_word("index", index)
        stream = np.uint64(stream_key(classes.split, self.name, self.version))
        positions, rows = room(spec, 1)
        fill_uniform(np.uint64(seed), stream, np.uint64(index), classes.starts, classes.counts, positions, rows)
        return to_plan(classes, spec, index, positions[0], rows[0])


def make(options: Options) -> UniformSampler:
    """The sampler."""
    del options
    return UniformSampler()
