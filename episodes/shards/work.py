"""CompileWork: a compile as decided before anything is written, and what its manifest says of the episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from episodes.errors import SpecError
from episodes.partial import Making
from episodes.protocols import FieldSpec
from episodes.shards.images import is_picture
from episodes.shards.manifest import FORMAT, KIND, MANIFEST, Payload
from episodes.shards.record import CLASS
from episodes.store.manifest import canonical
from episodes.stream.own import name_of
from episodes.stream.series import SampledEpisodes
from episodes.transforms import delivery

SHARD_BYTES: Final = 64 << 20


@dataclass(frozen=True, kw_only=True)
class CompileWork:
    """A compile as decided before anything is written; picklable, so that any machine can make any shard.

    Raises:
        SpecError: nothing to compile; a payload that cannot hold these episodes.
    """

    series: SampledEpisodes
    count: int
    payload: Payload = "arrays"
    shard_bytes: int = SHARD_BYTES
    recipe: Mapping[str, Any] | None = None
    """What makes `series` of its store again, as plain values; kept in the manifest, so that a shard can be repaired."""

    def __post_init__(self) -> None:
        length = self.series.length
        if self.count < 1 or (length is not None and self.count > length):
            raise SpecError(f"count={self.count}: give 1 or more{'' if length is None else f', at most {length}'}")
        changed = bool(self.series.transforms) or self.series.then is not None
        if self.payload != "arrays" and changed:
            raise SpecError(f"payload={self.payload} holds what is stored; leave transforms out, or use payload=arrays")
        if self.payload == "rows" and self.series.classes.turned and self.series.spec.distractors.high:
            raise SpecError(
                "payload=rows: rows of distractor classes have no label, and so no quarter turn that a reader could know; "
                "use payload=arrays, or leave distractors or rotations out"
            )
        taken = {"labels"}  # in small letters: some readers know no others
        names = (*self.fields, *(f"{CLASS}{name}" for name in self.series.class_fields))
        for name in names if self.payload != "rows" else ():
            if name.lower() in taken or not name.isprintable() or "/" in name:
                raise SpecError(
                    f"field '{name}' cannot be named so in a tar file, beside {', '.join(sorted(taken))}; use payload=rows"
                )
            taken.add(name.lower())
        if self.payload == "images" and not any(map(is_picture, self.series.fields.values())):
            raise SpecError("payload=images: the store has no field of uint8 images; use payload=arrays")

    @cached_property
    def fields(self) -> Mapping[str, FieldSpec]:
        """Type and shape of each field as written: as in the first episode, where a function of one's own makes it."""
        if self.series.then is None:
            return self.series.fields
        values = self.series.alone(0).fields
        return {name: FieldSpec(str(array.dtype), array.shape[1:]) for name, array in values.items()}

    @property
    def per_shard(self) -> int:
        """Episodes of a shard."""
        return max(1, self.shard_bytes // (self.series.episode_bytes + 2048)) if self.payload != "rows" else 4096

    def with_per_shard(self, per_shard: int) -> CompileWork:
        """The same with this many episodes in a shard."""
        return replace(self, shard_bytes=per_shard * (self.series.episode_bytes + 2048))

    @property
    def num_shards(self) -> int:
        """How many shards there will be."""
        return -(-self.count // self.per_shard)

    def indices(self, shard: int) -> range:
        """Episodes of a shard."""
        return range(shard * self.per_shard, min(self.count, (shard + 1) * self.per_shard))

    def identity(self) -> bytes:
        """What decides the bytes."""
        return canonical({
            "format": FORMAT, "fingerprint": self.series.fingerprint, "count": self.count, "payload": self.payload,
            "per_shard": self.per_shard,
        })  # fmt: skip

    def making(self, out: Path) -> Making:
        """The folder in the making."""
        return Making(out, MANIFEST, self.identity(), "compile", "set of episode shards", KIND)


def describe(work: CompileWork) -> dict[str, Any]:
    """What the episodes are, in words and plain values."""
    series = work.series
    options = getattr(series.sampler, "options", None)
    return {
        "store": series.store.fingerprint,
        "split": series.classes.split,
        "rotations": series.classes.turned,
        "spec": series.spec.to_table(),
        "sampler": {"name": series.sampler.name, "version": series.sampler.version, "options": str(options)},
        "seed": series.seed,
        "transforms": [str(transform) for transform in series.transforms],
        "delivery": {name: asdict(transform) for name, transform in delivery(series.transforms).items()},
        "class_names": sorted({series.classes.name(i) for i in range(len(series.classes))}),
        **({} if series.then is None else {"then": name_of(series.then)}),
        **({} if work.recipe is None else {"recipe": dict(work.recipe)}),
    }
