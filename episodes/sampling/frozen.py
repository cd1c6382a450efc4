"""The episodes of a frozen list, as `episodes freeze` writes it: the same for every model, machine and version.

The list is tied to its store by fingerprint and checked whole when it is opened.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from episodes.classes import ClassIndex
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.frozen import FrozenList, load
from episodes.rng import check_word
from episodes.spec import EpisodeSpec

DEFAULT_COUNTS = {"ways": "variable", "shots": "variable", "queries": "variable"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which list."""

    path: Path | None = field(default=None, metadata={"help": "the list"})
    hash: str | None = field(default=None, metadata={"help": "SHA-256 that it must have"})

    def __post_init__(self) -> None:
        if self.path is None:
            raise SpecError("path: the sampler frozen needs the list, as path=list.jsonl")


@dataclass(frozen=True, slots=True)
class FrozenSampler:
    """See the module's docstring. Counts and seed do not matter: they are in the list."""

    options: Options
    name: str = "frozen"
    version: int = 1

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` or `StateMismatch` unless the list is whole and over `classes`."""
        del spec
        self._list(classes)

    def length(self, classes: ClassIndex, spec: EpisodeSpec) -> int:
        """Episodes of the list."""
        del spec
        return len(self._list(classes))

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """Episode `index` of the list."""
        del spec, seed
        plans = self._list(classes).plans
        if check_word("index", index) >= len(plans):
            raise SpecError(f"index {index} is beyond the {len(plans)} episodes of {self.options.path}")
        return plans[index]

    def _list(self, classes: ClassIndex) -> FrozenList:
        assert self.options.path is not None
        return _load(self.options.path, classes, self.options.hash)


@lru_cache(maxsize=8)
def _load(path: Path, classes: ClassIndex, expected: str | None) -> FrozenList:
    return load(path, classes, classes.fingerprint, expected)


def make(options: Options) -> FrozenSampler:
    """The sampler."""
    return FrozenSampler(options)
