"""ClassTable: the classes, groups and split lists of a store; the content of ``classes.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from episodes.classes import ClassIndex
from episodes.errors import SpecError, StoreCorrupt, near
from episodes.graph import restrict
from episodes.store._class_fields import ClassFields, from_table, stack, to_table

Splits = Mapping[str, Mapping[str, tuple[int, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTable:
    """Classes in order of their numbers. Rows are class-major: class c owns `counts[c]` rows, after those before it."""

    names: tuple[str, ...]
    counts: tuple[int, ...]
    groups: tuple[int, ...]
    """Group number of each class, -1 for none."""
    group_names: tuple[str, ...]
    splits: Splits
    """split list -> split -> class numbers, ascending. The first list is the default."""
    is_a: tuple[tuple[str, str], ...] = ()
    """(parent, child) pairs of the hierarchy above the classes; sorted."""
    class_fields: ClassFields = field(default_factory=dict, compare=False)  # arrays compare to arrays
    """Name -> [C, ...], read-only: what is known of each class beside its rows."""

    @classmethod
    def build(
        cls,
        counts: Mapping[str, int],
        groups: Mapping[str, str] | None = None,
        splits: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        is_a: Sequence[tuple[str, str]] = (),
        class_fields: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> ClassTable:
        """Number classes and groups by sorted name.

        Raises:
            SpecError: a class without rows; a split list or group that names an unknown class; a list with a class in
                two splits, or a split without classes; a class outside the hierarchy, or above another.
            StoreError: a class field (class field -> class name -> array) that a class lacks, or has in another type or
                shape, or an unknown class has; a value that is not finite.
        """
        names = sorted(counts)
        number = {name: c for c, name in enumerate(names)}
        groups, splits = groups or {}, splits or {}
        for name in names:
            if counts[name] < 1:
                raise SpecError(f"class '{name}' has no rows; remove it from the source")
        _known(number, groups, "the groups")
        for listing, parts in splits.items():
            _check_disjoint(listing, parts)
        group_names = sorted(set(groups.values()))
        group_number = {name: g for g, name in enumerate(group_names)}
        return cls(
            names=tuple(names),
            counts=tuple(int(counts[name]) for name in names),
            groups=tuple(group_number[groups[name]] if name in groups else -1 for name in names),
            group_names=tuple(group_names),
            splits={
                listing: {split: _numbers(number, members, listing, split) for split, members in parts.items()}
                for listing, parts in splits.items()
            },
            is_a=restrict(is_a, names) if is_a else (),
            class_fields=stack(class_fields or {}, names),
        )

    def split(self, name: str) -> ClassIndex:
        """Classes of ``train`` (of the default list), ``vinyals/test``, ``vinyals/train+val``, or ``all``.

        Raises:
            SpecError: no such list or split; the known ones are listed.
        """
        if name == "all":
            return self._index("all", range(len(self.names)))
        listing, _, parts = name.rpartition("/")
        listing = listing or next(iter(self.splits), "")
        known = {f"{one}/{split}" for one, parts_ in self.splits.items() for split in parts_} | {"all"}
        wanted = parts.split("+")
        for part in wanted:
            if part not in self.splits.get(listing, {}):
                raise SpecError(f"unknown split '{name}'; {near(f'{listing}/{part}', known)}")
        ordered = [split for split in self.splits[listing] if split in wanted]
        ids = sorted(c for split in ordered for c in self.splits[listing][split])
        return self._index(f"{listing}/{'+'.join(ordered)}", ids)

    def _index(self, split: str, members: Sequence[int]) -> ClassIndex:
        ids = np.array(members, dtype=np.int64)
        counts = np.array(self.counts, dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
        return ClassIndex(
            split=split,
            ids=ids,
            starts=starts[ids],
            counts=counts[ids],
            groups=np.array(self.groups, dtype=np.int64)[ids],
            variants=np.zeros(len(ids), np.int64),
            names=tuple(self.names[c] for c in ids),
            group_names=self.group_names,
            is_a=self.is_a,
        )

    def to_json(self) -> bytes:
        """Canonical bytes: the same table gives the same bytes."""
        table: dict[str, Any] = {
            "names": self.names,
            "counts": self.counts,
            "groups": self.groups,
            "group_names": self.group_names,
            # A list, for JSON objects have no order and the first list is the default.
            "splits": [
                {"name": listing, "parts": [{"name": split, "classes": ids} for split, ids in parts.items()]}
                for listing, parts in self.splits.items()
            ],
        }
        if self.is_a:
            table["is_a"] = self.is_a
        if self.class_fields:
            table["class_fields"] = to_table(self.class_fields)
        return json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> ClassTable:
        """The table that `to_json` wrote.

        Raises:
            StoreCorrupt: the bytes are not such a table.
        """
        try:
            table: dict[str, Any] = json.loads(data)
            return cls(
                names=tuple(table["names"]),
                counts=tuple(table["counts"]),
                groups=tuple(table["groups"]),
                group_names=tuple(table["group_names"]),
                splits={
                    one["name"]: {part["name"]: tuple(part["classes"]) for part in one["parts"]} for one in table["splits"]
                },
                is_a=tuple((parent, child) for parent, child in table.get("is_a", ())),
                class_fields=from_table(table.get("class_fields", {}), len(table["names"])),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreCorrupt(f"classes.json is not a class table ({error})") from error


def _known(number: Mapping[str, int], names: Mapping[str, str] | Sequence[str], where: str) -> None:
    for name in names:
        if name not in number:
            raise SpecError(f"{where} name class '{name}', which the source does not have; {near(name, number)[:300]}")


def _numbers(number: Mapping[str, int], members: Sequence[str], listing: str, split: str) -> tuple[int, ...]:
    if not members:
        raise SpecError(f"split '{listing}/{split}' has no classes; give it some or leave it out")
    _known(number, members, f"split '{listing}/{split}'")
    return tuple(sorted(number[name] for name in members))


def _check_disjoint(listing: str, parts: Mapping[str, Sequence[str]]) -> None:
    home: dict[str, str] = {}
    shared: list[tuple[str, str, str]] = []
    for split, names in parts.items():
        for name in names:
            if name in home:
                shared.append((name, home[name], split))
            home[name] = split
    if shared:
        name, one, two = shared[0]
        raise SpecError(
            f"class '{name}' is in split '{one}' and in '{two}' of list '{listing}' ({len(shared)} such classes); "
            "splits must not share classes"
        )
