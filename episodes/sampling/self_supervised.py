"""Episodes whose classes are single images: with a probability, every support row of another policy's episode is a class.

Labels are then 0..S-1, one for each support row, and the queries are those rows once more, in new views: the transforms
of the series draw anew for them. Of a class with k support rows and q queries the first min(q, k) support rows are asked
for. The other episodes are those of the policy, row by row.

Source: an option of the released sampler of Triantafillou et al. 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from episodes import config, plugins
from episodes.classes import ClassIndex
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.protocols import EpisodeSampler
from episodes.rng import SELF, check_word, philox
from episodes.sampling._engine import key_of
from episodes.spec import EpisodeSpec

_FOREIGN = ("frozen", "self_supervised")  # policies that draw no episode of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How often, and whose episodes."""

    probability: float = field(default=1.0, metadata={"help": "share of the episodes whose support rows become classes"})
    of: str = field(default="uniform", metadata={"help": "the policy that draws the episodes"})
    of_options: Mapping[str, Any] = field(default_factory=dict, metadata={"help": "its options, a table: {hold = 2}"})

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise SpecError(f"probability: expected 0 to 1, got {self.probability}")
        if self.of.replace("-", "_") in _FOREIGN:
            raise SpecError(f"of: expected a policy that draws episodes of its own, got '{self.of}'")


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfSupervisedSampler:
    """See the module's docstring. Plans are pure functions of (classes, spec, seed, index)."""

    probability: float
    inner: EpisodeSampler
    """Draws the episodes."""
    name: str = "self_supervised"
    version: int = 1

    @property
    def repeats_rows(self) -> bool:
        """Whether queries are support rows again, which transforms have to make different."""
        return self.probability > 0

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless the episodes can be drawn, and have support rows and no rows without label."""
        if spec.unlabeled.high or spec.distractors.high:
            raise SpecError(
                f"unlabeled={spec.unlabeled} and distractors={spec.distractors}: self-supervised episodes have neither; "
                "leave them out"
            )
        if spec.shots.kind != "variable" and spec.shots.low < 1:
            raise SpecError(f"shots={spec.shots}: support rows become the classes of an episode; give 1 or more")
        self.inner.require(classes, spec)

    def length(self, classes: ClassIndex, spec: EpisodeSpec) -> int | None:
        """Episodes of the policy; None: endless."""
        length = getattr(self.inner, "length", None)
        return None if length is None else length(classes, spec)

    def notes(self, classes: ClassIndex, spec: EpisodeSpec) -> list[str]:
        """Those of the policy."""
        notes = getattr(self.inner, "notes", None)
        return [] if notes is None else notes(classes, spec)

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`; assumes that `require` passed."""
        plan = self.inner.plan(classes, spec, seed, index)
        return alone(plan) if self._coin(classes, seed, index) else plan

    def _coin(self, classes: ClassIndex, seed: int, index: int) -> bool:
        key = key_of(classes, self.name, self.version, seed)
        words = philox(*key, np.uint64(1), np.uint64(0), np.uint64(SELF), np.uint64(check_word("index", index)))
        return (int(words[0]) >> 11) / 2**53 < self.probability


def alone(plan: EpisodePlan) -> EpisodePlan:
    """`plan` with every support row as a class of its own, and with the first rows of each class as queries."""
    labels = plan.support_labels
    asked = np.bincount(plan.query_labels, minlength=plan.ways)
    starts = np.searchsorted(labels, np.arange(plan.ways))  # support rows lie class by class
    (queries,) = np.nonzero(np.arange(len(labels)) - starts[labels] < asked[labels])
    return replace(
        plan,
        class_ids=plan.class_ids[labels],
        variants=plan.variants[labels],
        support_labels=np.arange(len(labels)),
        query=plan.support[queries],
        query_labels=queries,
        query_views=np.ones(len(queries), np.int64),
    )


def make(options: Options) -> SelfSupervisedSampler:
    """The sampler.

    Raises:
        PluginNotFound: no such policy.
        ConfigError: an option that it does not have.
    """
    module = plugins.find(plugins.SAMPLERS, options.of)
    inner = module.make(config.from_table(module.Options, options.of_options, "options.of_options"))
    return SelfSupervisedSampler(probability=options.probability, inner=inner)
