"""MadeStore: rows that are computed when they are read, as a store. Nothing is kept but what is known of the classes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from episodes.classes import ClassIndex, Int
from episodes.errors import SpecError, StoreError, near
from episodes.protocols import FieldSpec, Maker, Places

DIGITS = 7  # of a class's number in its name, at least: names are then in order of the numbers


class MadeStore:
    """The classes and rows of a `Maker` as a `SampleStore`. The split list has the maker's name.

    A million classes take 0.15 GB, once a split of them is chosen: their columns and names.

    Args:
        maker: what is computed.
    """

    def __init__(self, maker: Maker) -> None:
        self.maker = maker
        self.fields: Mapping[str, FieldSpec] = dict(maker.fields)
        self.num_classes = sum(maker.splits.values())
        self.num_rows = self.num_classes * maker.rows
        self._chosen: dict[str, ClassIndex] = {}
        if self.num_rows >= 2**63:
            raise StoreError(f"{self.num_classes} classes of {maker.rows} rows are too many rows; there may be 2**63 - 1")

    @cached_property
    def class_fields(self) -> Mapping[str, NDArray[Any]]:
        """Name -> [C, ...] by class number, read-only."""
        found = {n: np.asarray(v) for n, v in self.maker.class_values(np.arange(self.num_classes)).items()}
        for values in found.values():
            values.flags.writeable = False
        return found

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the definition: the maker's name, version and options."""
        maker = self.maker
        return hashlib.sha256(f"made\x1e{maker.name}\x1e{maker.version}\x1e{maker.options!r}".encode()).hexdigest()

    def split(self, name: str) -> ClassIndex:
        """Classes of ``train``, ``sinusoids/test``, ``train+val``, or ``all``.

        Raises:
            SpecError: no such list or split; the known ones are listed.
        """
        full = self._full(name)
        if full not in self._chosen:
            self._chosen[full] = self._index(full, self._members(full))
        return self._chosen[full]

    def read(self, rows: Int, out: Mapping[str, NDArray[Any]] | None = None) -> dict[str, NDArray[Any]]:
        """Values of `rows`: name -> ``[n, *shape]``; of all fields into fresh arrays, or of those in `out` into these."""
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.num_rows:
            raise StoreError(f"rows {rows.min()}..{rows.max()} are not all in 0..{self.num_rows - 1}")
        made = self.maker.values(*np.divmod(np.asarray(rows, np.int64), self.maker.rows))
        if out is None:
            return {name: made[name] for name in self.fields}
        for name, values in out.items():
            values[...] = made[name]
        return dict(out)

    def places(self, name: str) -> Places | None:
        """None: no value lies in memory."""
        return None

    def keys(self, rows: Int) -> list[str]:
        """Place of each row in its class."""
        return [str(place) for place in (np.asarray(rows) % self.maker.rows).tolist()]

    def _full(self, name: str) -> str:
        """Full name of a split, its parts in order of the maker's."""
        if name == "all":
            return name
        listing, _, parts = name.rpartition("/")
        wanted, splits = parts.split("+"), list(self.maker.splits)
        if listing not in ("", self.maker.name) or not set(wanted) <= set(splits):
            known = {f"{self.maker.name}/{split}" for split in splits} | {"all"}
            raise SpecError(f"unknown split '{name}'; {near(name, known)}")
        return f"{self.maker.name}/{'+'.join(split for split in splits if split in wanted)}"

    def _members(self, full: str) -> Int:
        wanted = None if full == "all" else full.rpartition("/")[2].split("+")
        first, ranges = 0, []
        for split, count in self.maker.splits.items():
            if wanted is None or split in wanted:
                ranges.append(np.arange(first, first + count))
            first += count
        return np.concatenate(ranges)

    def _index(self, split: str, ids: Int) -> ClassIndex:
        width = max(DIGITS, len(str(self.num_classes - 1)))
        return ClassIndex(
            split=split,
            ids=ids,
            starts=ids * self.maker.rows,
            counts=np.full(len(ids), self.maker.rows),
            groups=np.full(len(ids), -1),
            variants=np.zeros(len(ids), np.int64),
            names=tuple(f"{self.maker.name}-{c:0{width}d}" for c in ids.tolist()),
            fingerprint=self.fingerprint,
        )
