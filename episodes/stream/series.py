"""SampledEpisodes: episodes by index. Random access, no position, nothing remembered."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from episodes.classes import ClassIndex, Int
from episodes.episode import Episode, EpisodePlan, Part
from episodes.errors import SpecError
from episodes.protocols import EpisodeSampler, SampleStore
from episodes.rng import check_word
from episodes.spec import EpisodeSpec
from episodes.transforms import quarter_turn

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledEpisodes:
    """Episodes drawn from a store: ``series[i]`` is a pure function of (store, split, spec, sampler, seed, i).

    Raises:
        SpecError: at construction, if some episode could not be drawn, or quarter turns are asked of fields that are not
            square images; at access, if the index is negative or not below `length`.
    """

    store: SampleStore
    classes: ClassIndex
    spec: EpisodeSpec
    sampler: EpisodeSampler
    seed: int = 0
    length: int | None = None
    """Number of episodes; None: endless."""

    def __post_init__(self) -> None:
        check_word("seed", self.seed)
        if not len(self.classes):
            raise SpecError(f"split '{self.classes.split}' has no classes")
        self.sampler.require(self.classes, self.spec)
        most = getattr(self.sampler, "length", lambda classes, spec: None)(self.classes, self.spec)
        if most is not None:
            object.__setattr__(self, "length", most if self.length is None else min(most, self.length))
        if self.classes.variants.any():
            for name, field in self.store.fields.items():
                if field.shape and (len(field.shape) < 2 or field.shape[-1] != field.shape[-2]):
                    raise SpecError(f"field '{name}' of shape {field.shape} is no square image; it has no quarter turns")

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides the episodes."""
        digest = hashlib.sha256()
        sampler = (self.sampler.name, self.sampler.version, self.sampler)
        for part in (self.store.fingerprint, self.classes.split, str(self.spec), sampler, self.seed):
            digest.update(f"{part}\x1e".encode())
        c = self.classes
        for column in (c.ids, c.variants, c.starts, c.counts, c.order, c.front, c.seen):
            digest.update(column.tobytes())
        return digest.hexdigest()

    def plan(self, index: int) -> EpisodePlan:
        """Row numbers of episode `index`; no sample is read."""
        index = check_word("index", index)
        if self.length is not None and index >= self.length:
            raise SpecError(f"index {index} is beyond this series of {self.length} episodes")
        return self.sampler.plan(self.classes, self.spec, self.seed, index)

    def class_names(self, index: int) -> list[str]:
        """Names of the classes of episode `index`, in order of their labels; variants carry their turn."""
        plan = self.plan(index)
        places = (self._place[c, turn] for c, turn in zip(plan.class_ids.tolist(), plan.variants.tolist(), strict=True))
        return [self.classes.name(place) for place in places]

    @cached_property
    def _place(self) -> dict[tuple[int, int], int]:
        """(class number, turn) -> position in the ClassIndex."""
        return {key: i for i, key in enumerate(zip(self.classes.ids.tolist(), self.classes.variants.tolist(), strict=True))}

    def __getitem__(self, index: int) -> Episode[Array]:
        """Episode `index`, in arrays of its own."""
        plan = self.plan(index)
        return Episode(
            index=index,
            class_ids=plan.class_ids,
            variants=plan.variants,
            support=self._part(plan, plan.support, plan.support_labels, None),
            query=self._part(plan, plan.query, plan.query_labels, plan.query_turns),
            unlabeled=self._part(plan, plan.unlabeled, plan.unlabeled_labels, plan.unlabeled_turns)
            if len(plan.unlabeled)
            else None,
        )

    def _part(self, plan: EpisodePlan, rows: Int, labels: Int, turns: Int | None) -> Part[Array]:
        values = self.store.read(rows)
        if turns is None and plan.variants.any():
            turns = plan.variants[labels]
        if turns is not None:
            for images in values.values():
                if images.ndim > 2:
                    quarter_turn(images, turns)
        return Part(fields=values, labels=labels.copy(), rows=rows)
