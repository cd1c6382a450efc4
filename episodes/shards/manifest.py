"""Manifest of episode shards: what is in them and the hash of each; the content of ``manifest.json``.

The written specification is docs/shard-format.md; a change here is a change there.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

from episodes.errors import ShardCorrupt, StoreVersion
from episodes.protocols import FieldSpec

FORMAT: Final = 1
KIND: Final = "episode shards"
MANIFEST: Final = "manifest.json"
Payload = Literal["arrays", "images", "rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeShard:
    """One tar file of consecutive episodes, and the index file beside it."""

    file: str
    first: int
    """Index of its first episode."""
    episodes: int
    size: int
    """Bytes."""
    sha256: str
    index_file: str
    index_sha256: str


@dataclass(frozen=True, kw_only=True)
class ShardManifest:
    """Everything about a set of episode shards."""

    payload: Payload
    count: int
    """Episodes 0 .. count - 1 of the series."""
    per_shard: int
    """Episodes of every shard but the last."""
    fields: Mapping[str, FieldSpec]
    """Type and shape of one row of each field, as delivered."""
    fingerprint: str
    """Of the series: store, split, spec, sampler, seed and transforms."""
    about: Mapping[str, Any]
    """Store, split, spec, sampler, seed and transforms in words."""
    shards: tuple[EpisodeShard, ...]
    class_fields: Mapping[str, FieldSpec] = field(default_factory=dict)
    """Type and shape, of one class, of each class field."""

    @cached_property
    def _firsts(self) -> list[int]:
        return [shard.first for shard in self.shards]

    def shard_of(self, index: int) -> int:
        """Number of the shard that holds episode `index`."""
        return bisect_right(self._firsts, index) - 1

    @property
    def content(self) -> str:
        """SHA-256 over the hashes of all shards: one hash for the whole set."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    def to_json(self) -> bytes:
        """Canonical bytes."""
        table = {"kind": KIND, "format": FORMAT, "content": self.content, **asdict(self)}
        if not self.class_fields:
            del table["class_fields"]
        table["checksum"] = _checksum(table)
        return json.dumps(table, ensure_ascii=False, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, where: str) -> ShardManifest:
        """The manifest that `to_json` wrote; `where` names the file in errors.

        Raises:
            StoreVersion: written in another format.
            ShardCorrupt: no manifest of episode shards, or not as it was written.
        """
        try:
            table: dict[str, Any] = json.loads(data)
            if table.get("kind") != KIND:
                raise ShardCorrupt(f"{where} is no manifest of episode shards (make some with `episodes compile`)")
            if table["format"] != FORMAT:
                raise StoreVersion(f"{where} has shard format {table['format']}; this program reads format {FORMAT}")
            if table.pop("checksum") != _checksum(table):
                raise ShardCorrupt(f"{where} was altered: its checksum is not that of its content")
            for name in ("kind", "format", "content"):
                del table[name]
            for name in ("fields", "class_fields"):
                table[name] = {n: FieldSpec(f["dtype"], tuple(f["shape"])) for n, f in table.get(name, {}).items()}
            table["shards"] = tuple(EpisodeShard(**shard) for shard in table["shards"])
            return cls(**table)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ShardCorrupt(f"{where} is no manifest of episode shards ({error})") from error


def _checksum(table: Mapping[str, Any]) -> str:
    canonical = json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return hashlib.sha256(canonical).hexdigest()
