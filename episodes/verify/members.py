"""The members of every episode, byte for byte where that can be known: headers, names, order, plan, labels, values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from episodes.errors import EpisodesError, ShardCorrupt
from episodes.protocols import FieldSpec, SampleStore
from episodes.shards.images import is_picture, read_picture
from episodes.shards.manifest import ShardManifest
from episodes.shards.record import class_member, key_of, npy_header
from episodes.shards.tar import Member, header, read_header
from episodes.stream.series import SampledEpisodes
from episodes.transforms import quarter_turn
from episodes.verify.plans import PARTS, WrittenPlan


class Members:
    """Holds the members of episodes against the index, and against the store or the series where they are given."""

    def __init__(self, manifest: ShardManifest, store: SampleStore | None, series: SampledEpisodes | None) -> None:
        self._manifest, self._store, self._series = manifest, store, series
        about = manifest.about
        self._turned = bool(about.get("rotations"))
        self._as_stored = not about.get("transforms") and "then" not in about
        self._names = set(about.get("class_names", ()))
        self._name_of: dict[tuple[int, int], str] = {}
        self._of_class: dict[tuple[str, int], bytes] = {}
        self._class_names = None if store is None else store.split("all").names

    def broken(self, data: memoryview, at: int, end: int, index: int, plan: WrittenPlan) -> str | None:
        """What is wrong with the members of an episode that begin at byte `at`; None: nothing.

        Args:
            data: the archive.
            at: byte of its first header.
            end: where the next episode begins.
            index: of the episode.
            plan: as the index of the shard has it.
        """
        try:
            return self._broken(_Cursor(data, at), end, index, plan)
        except (ShardCorrupt, ValueError, EpisodesError) as error:
            return str(error)

    def _broken(self, cursor: _Cursor, end: int, index: int, plan: WrittenPlan) -> str | None:
        key, num = key_of(index), len(plan.rows)
        if self._manifest.payload != "rows":
            wanted = self._values(index, plan)
            # Of rows of distractors, the turn is not written down; the series knows it.
            known = (plan.labels >= 0) | (self._series is not None) | (not self._turned)
            for name, spec in sorted(self._manifest.fields.items()):
                if self._manifest.payload == "images" and is_picture(spec):
                    values = _pictures(cursor, key, name, num, spec)
                else:
                    values = _array(cursor, f"{key}.{name}.npy", num, spec)
                if wanted is not None and (wrong := _first_difference(values, wanted[name], known)) is not None:
                    return f"field '{name}' of row {plan.rows[wrong]}, place {wrong}, is not what it was compiled from"
            labels = _array(cursor, f"{key}.labels.npy", num, FieldSpec("int64", ()))
            if not np.array_equal(labels, plan.labels):
                return "its labels are not those of the index"
            if wrong_class := self._class_fields(cursor, key, plan):
                return wrong_class
        if wrong_plan := self._plan(cursor.take(f"{key}.plan.json"), index, plan):
            return wrong_plan
        if cursor.at != end:
            return f"it ends at byte {cursor.at}, the index says {end}"
        return None

    def _values(self, index: int, plan: WrittenPlan) -> Mapping[str, NDArray[Any]] | None:
        """What the fields must be; None: not known."""
        if self._series is not None:
            return self._series.alone(index).fields
        if self._store is None or not self._as_stored:
            return None
        values = self._store.read(np.ascontiguousarray(plan.rows))
        if plan.variants.any():
            for one in values.values():
                if one.ndim > 2:
                    quarter_turn(one, np.where(plan.labels < 0, 0, plan.variants[plan.labels]))
        return values

    def _class_fields(self, cursor: _Cursor, key: str, plan: WrittenPlan) -> str | None:
        """What is wrong with the class fields; where there is no store, a class must have the same in all episodes."""
        known = {} if self._store is None else self._store.class_fields
        for name, spec in sorted(self._manifest.class_fields.items()):
            values = _array(cursor, f"{class_member(key, name)}.npy", len(plan.class_ids), spec)
            for class_id, value in zip(plan.class_ids.tolist(), values, strict=True):
                wanted = known[name][class_id] if name in known else value
                if value.tobytes() != self._of_class.setdefault((name, class_id), wanted.tobytes()):
                    return f"class field '{name}' of class {class_id} is not what it was compiled from"
        return None

    def _plan(self, raw: bytes, index: int, plan: WrittenPlan) -> str | None:
        """What is wrong with a .plan.json."""
        try:
            written = json.loads(raw)
        except ValueError as error:
            return f"its plan is no JSON ({error})"
        if not isinstance(written, dict):
            return "its plan is no object"
        wanted: dict[str, Any] = {
            "class_ids": plan.class_ids.tolist(),
            "index": index,
            "labels": plan.labels.tolist(),
            "parts": dict(zip(PARTS, plan.counts[:3].tolist(), strict=True)),
            "rows": plan.rows.tolist(),
            "seed": self._manifest.about.get("seed"),
            "turns": plan.variants.tolist(),
        }
        for name, value in wanted.items():
            if written.get(name) != value:
                return f"'{name}' of its plan is not that of the index"
        if unknown := sorted(written.keys() - wanted.keys() - {"class_names", "keys"}):
            return f"its plan has '{unknown[0]}', which no plan has"
        if json.dumps(written, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() != raw:
            return "its plan is not written in the canonical form"
        return self._words(written, plan)

    def _words(self, written: Mapping[str, Any], plan: WrittenPlan) -> str | None:
        """Class names and sample keys of a plan."""
        names, keys = written.get("class_names"), written.get("keys")
        pairs = list(zip(plan.class_ids.tolist(), plan.variants.tolist(), strict=True))
        if not isinstance(names, list) or len(names) != len(pairs):
            return f"its plan names {0 if names is None else len(names)} classes of {len(pairs)}"
        for pair, name in zip(pairs, names, strict=True):
            if name not in self._names or name != self._name_of.setdefault(pair, self._named(pair, name)):
                return f"class {pair[0]} is named '{name}' in its plan"
        if self._store is not None and hasattr(self._store, "keys") and keys != self._store.keys(plan.rows):
            return "the keys of its plan are not those of the store"
        if keys is not None and len(keys) != len(plan.rows):
            return f"its plan has {len(keys)} keys of {len(plan.rows)}"
        return None

    def _named(self, pair: tuple[int, int], name: str) -> str:
        """Name of a class by the store; without one, that of its first plan."""
        if self._class_names is None:
            return name
        return self._class_names[pair[0]] + (f"/rot{90 * pair[1]:03d}" if pair[1] else "")


class _Cursor:
    """A place in an archive that goes from member to member."""

    def __init__(self, data: memoryview, at: int) -> None:
        self.data, self.at = data, at

    def next(self) -> Member:
        """The member that begins here.

        Raises:
            ShardCorrupt: none does.
        """
        if not 0 <= self.at < len(self.data):
            raise ShardCorrupt(f"the index says byte {self.at} of {len(self.data)}")
        member = read_header(self.data, self.at, "the archive")
        if member is None or member.end > len(self.data):
            raise ShardCorrupt(f"the archive ends within a member at byte {self.at}")
        return member

    def take(self, *names: str) -> bytes:
        """The bytes of the member that begins here and has one of `names`.

        Raises:
            ShardCorrupt: another does, or one with another header than is written here.
        """
        member = self.next()
        if member.name not in names:
            raise ShardCorrupt(f"member '{member.name}' is at byte {self.at}, where '{names[0]}' has to be")
        if bytes(self.data[self.at : member.start]) != header(member.name, member.size):
            raise ShardCorrupt(f"the header of member '{member.name}' has another time, owner or kind")
        if any(self.data[member.start + member.size : member.end]):
            raise ShardCorrupt(f"member '{member.name}' is not followed by zeros")
        self.at = member.end
        return bytes(self.data[member.start : member.start + member.size])


def _array(cursor: _Cursor, name: str, num: int, spec: FieldSpec) -> NDArray[Any]:
    """The values of a .npy member of `num` rows.

    Raises:
        ShardCorrupt: it is something else.
    """
    raw, shape = cursor.take(name), (num, *spec.shape)
    head = npy_header(spec.dtype, shape)
    if raw[: len(head)] != head or len(raw) != len(head) + num * spec.row_bytes:
        raise ShardCorrupt(f"member '{name}' is no array of {spec.dtype} {shape}")
    return np.frombuffer(raw, spec.dtype, offset=len(head)).reshape(shape)


def _pictures(cursor: _Cursor, key: str, field: str, num: int, spec: FieldSpec) -> NDArray[np.uint8]:
    values = np.empty((num, *spec.shape), np.uint8)
    for i in range(num):
        name = f"{key}.{i:04d}.{field}"
        member = cursor.next()
        raw = cursor.take(f"{name}.png", f"{name}.jpg")
        try:
            read_picture(member.name, raw, values[i])
        except ValueError as error:
            raise ShardCorrupt(f"picture '{member.name}' is damaged ({error})") from error
    return values


def _first_difference(values: NDArray[Any], wanted: NDArray[Any], known: NDArray[np.bool_]) -> int | None:
    """Place of the first row whose bytes differ, among those that are known."""
    if values.tobytes() == wanted.tobytes():
        return None
    return next((int(i) for i in np.flatnonzero(known) if values[i].tobytes() != wanted[i].tobytes()), None)
