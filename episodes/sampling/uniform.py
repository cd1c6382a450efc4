"""The standard policy: classes uniform over the split, rows uniform without replacement.

Source: Vinyals et al. 2016; every published N-way K-shot protocol on Omniglot and mini-ImageNet. With variable counts it
is the flat form of Meta-Dataset's class choice (Triantafillou et al. 2020).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from episodes.classes import ClassIndex, UInt
from episodes.episode import EpisodePlan
from episodes.errors import ConfigError, SpecError
from episodes.plans import PlanBlock
from episodes.sampling import _kernels as kernel
from episodes.sampling._engine import FLAT, Pools, draw_block, draw_plan, key_of
from episodes.spec import EpisodeSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What may be asked of this policy."""

    variants_exclusive: bool = field(default=False, metadata={"help": "never two quarter turns of one class in an episode"})
    hold: int = field(default=1, metadata={"help": "episodes that share classes and counts, with fresh rows"})

    def __post_init__(self) -> None:
        if self.hold < 1:
            raise ConfigError(f"hold: expected 1 or more, got {self.hold}")


@dataclass(frozen=True, slots=True)
class UniformSampler:
    """See the module's docstring. Plans are pure functions of (classes, spec, seed, index)."""

    options: Options = Options()
    name: str = "uniform"
    version: int = 1

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every episode of `spec` can be drawn from `classes`."""
        spec.require(classes)
        if self.options.variants_exclusive:
            if spec.distractors.high:
                raise SpecError("variants_exclusive does not go with distractors, which may be turns of an episode's class")
            spec.require_ways(len(classes.bases[0]) - 1, f"split '{classes.split}' without variants")

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`; assumes that `require` passed."""
        key = key_of(classes, self.name, self.version, seed)
        return draw_plan(key, classes, spec, index, self._pools(classes), self.options.hold)

    def block(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, indices: UInt) -> PlanBlock:
        """The plans of the episodes `indices` [B] (uint64), in one go."""
        key = key_of(classes, self.name, self.version, seed)
        return draw_block(key, classes, spec, indices, self._pools(classes), self.options.hold)

    def _pools(self, classes: ClassIndex) -> Pools:
        return Pools(kernel.VARIANTS, *classes.bases) if self.options.variants_exclusive else FLAT


def make(options: Options) -> UniformSampler:
    """The sampler."""
    return UniformSampler(options)
