"""SampledEpisodes: episodes by index. Random access, no position, nothing remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from episodes.classes import ClassIndex
from episodes.episode import Episode, EpisodeBlock, EpisodePlan
from episodes.errors import SpecError, near
from episodes.plans import FlatPlans
from episodes.protocols import EpisodeSampler, FieldSpec, SampleStore
from episodes.rng import check_word, stream_key
from episodes.spec import EpisodeSpec
from episodes.stream.assemble import assemble
from episodes.stream.buffers import Arena
from episodes.stream.mixed_block import MixedBlock
from episodes.stream.own import Own, apply, name_of
from episodes.transforms import Transform

Array = NDArray[Any]
_SAMPLE = 4  # episodes looked at to tell how large one is


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledEpisodes:
    """Episodes drawn from a store: ``series[i]`` is a pure function of (store, split, spec, sampler, seed, transforms, i).

    Raises:
        SpecError: at construction, if some episode could not be drawn, quarter turns are asked of fields that are not
            square images, or a transform of a field that has none; at access, if the index is negative or not below
            `length`; when values are first asked for, if the policy's queries are support rows again (as those of
            `episodes.sampling.self_supervised` are) and nothing would make them different. Plans need no transforms.
    """

    store: SampleStore
    classes: ClassIndex
    spec: EpisodeSpec
    sampler: EpisodeSampler
    seed: int = 0
    length: int | None = None
    """Number of episodes; None: endless."""
    transforms: tuple[Transform, ...] = ()
    """What happens to image fields on their way, one transform a field at most."""
    then: Own | None = None
    """A function of one's own, after the transforms (see `episodes.stream.own`)."""

    def __post_init__(self) -> None:
        check_word("seed", self.seed)
        if self.length is not None:
            check_word("length", self.length)
        if not len(self.classes):
            raise SpecError(f"split '{self.classes.split}' has no classes")
        self.sampler.require(self.classes, self.spec)
        most = getattr(self.sampler, "length", lambda classes, spec: None)(self.classes, self.spec)
        if most is not None:
            object.__setattr__(self, "length", most if self.length is None else min(most, self.length))
        for transform in self.transforms:
            if transform.field not in self.store.fields:
                raise SpecError(f"transform of field '{transform.field}': {near(transform.field, self.store.fields)}")
            transform.output(self.store.fields[transform.field])
        if len(self._transforms) < len(self.transforms):
            raise SpecError(f"transforms: give one a field, got {', '.join(t.field for t in self.transforms)}")
        if self.then is not None:
            name_of(self.then)
        if self.classes.turned:
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
        for transform in self.transforms:
            digest.update(f"{transform}\x1e".encode())
        if self.then is not None:
            digest.update(name_of(self.then).encode())
        return digest.hexdigest()

    def plan(self, index: int) -> EpisodePlan:
        """Row numbers of episode `index`; no sample is read."""
        return self.sampler.plan(self.classes, self.spec, self.seed, self._check_index(index))

    @cached_property
    def fields(self) -> Mapping[str, FieldSpec]:
        """Type and shape of each field as it is delivered by the transforms."""
        chosen = self._transforms
        return {name: chosen[name].output(f) if name in chosen else f for name, f in self.store.fields.items()}

    @cached_property
    def class_fields(self) -> Mapping[str, FieldSpec]:
        """Type and shape, of one class, of each class field."""
        return {name: FieldSpec(str(v.dtype), v.shape[1:]) for name, v in self.store.class_fields.items()}

    @cached_property
    def episode_bytes(self) -> int:
        """Bytes of a usual episode's values: how many are worth one call is decided by it."""
        self._check_views()
        plans = [self.plan(i) for i in range(_SAMPLE if self.length is None else min(_SAMPLE, self.length))]
        rows = sum(len(plan.support) + len(plan.query) + len(plan.unlabeled) for plan in plans)
        size = rows * sum(field.row_bytes for field in self.fields.values())
        size += sum(plan.ways for plan in plans) * sum(field.row_bytes for field in self.class_fields.values())
        return size // max(1, len(plans))

    def class_names(self, index: int) -> list[str]:
        """Names of the classes of episode `index`, in order of their labels; variants carry their turn."""
        plan = self.plan(index)
        return [self.name_of(c, turn) for c, turn in zip(plan.class_ids.tolist(), plan.variants.tolist(), strict=True)]

    def name_of(self, class_id: int, turn: int = 0) -> str:
        """Name of a class; a variant carries its turn."""
        return self.classes.name(self._place[class_id, turn])

    @cached_property
    def _transforms(self) -> dict[str, Transform]:
        return {transform.field: transform for transform in self.transforms}

    @cached_property
    def transform_key(self) -> tuple[int, int]:
        """Seed and stream of what transforms draw: those of the plans, under purposes of their own."""
        return self.seed, stream_key(self.classes.split, self.sampler.name, self.sampler.version)

    @cached_property
    def _place(self) -> dict[tuple[int, int], int]:
        """(class number, turn) -> position in the ClassIndex."""
        return {key: i for i, key in enumerate(zip(self.classes.ids.tolist(), self.classes.variants.tolist(), strict=True))}

    def __getitem__(self, index: int) -> Episode[Array]:
        """Episode `index`, in arrays of its own."""
        return self.block([index], Arena())[0]

    def block(self, indices: Sequence[int], arena: Arena) -> EpisodeBlock | MixedBlock:
        """The episodes `indices`, gathered together into arrays of `arena`; each is what ``self[index]`` is.

        A `MixedBlock` where a function of one's own made values of other types or shapes in some than in others.
        """
        together = self._made(indices, arena)
        if together is not None:
            return together
        apart = tuple(map(self.alone, indices))
        return MixedBlock(indices=tuple(indices), parts=apart, places=[(k, 0) for k in range(len(apart))])

    def alone(self, index: int) -> EpisodeBlock:
        """Episode `index` as a block of its own: each field of all its rows is one array."""
        block = self._made([index], Arena())
        assert block is not None, "one episode has one type and shape"
        return block

    def _made(self, indices: Sequence[int], arena: Arena) -> EpisodeBlock | None:
        """Episodes whose fields are one array each; None where those of some have other types or shapes."""
        flat = self.flat(indices)
        self._check_views()
        block = assemble(self.store, self._transforms, self.transform_key, indices, flat, arena)
        return block if self.then is None else apply(self.then, block, self.transform_key)

    def flat(self, indices: Sequence[int]) -> FlatPlans:
        """The plans of the episodes `indices`, their rows one after the other; no sample is read."""
        for index in (indices[0], indices[-1]) if isinstance(indices, range) else indices:
            self._check_index(index)
        draw = getattr(self.sampler, "block", None)
        if draw is None:
            return FlatPlans.of([self.sampler.plan(self.classes, self.spec, self.seed, index) for index in indices])
        flat: FlatPlans = draw(self.classes, self.spec, self.seed, np.fromiter(indices, np.uint64, len(indices))).flat()
        return flat

    def _check_views(self) -> None:
        if not getattr(self.sampler, "repeats_rows", False) or self.then is not None:
            return
        if not any(transform.draws for transform in self.transforms):
            raise SpecError(
                f"the queries of {self.sampler.name} are support rows again, and no transform draws anything: they would "
                "be the same images (give a transform that does, as flip, crop_padding, rotate or brightness)"
            )

    def _check_index(self, index: int) -> int:
        index = check_word("index", index)
        if self.length is not None and index >= self.length:
            raise SpecError(f"index {index} is beyond this series of {self.length} episodes")
        return index
