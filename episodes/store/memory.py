"""MemoryStore: arrays that are already in memory, as a store; for tests, notebooks and small data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from episodes.classes import ClassIndex, Int
from episodes.errors import SpecError, StoreError, near
from episodes.protocols import FieldSpec, Places
from episodes.store.table import ClassTable

KINDS = "biufcSU"  # of types whose values are their bytes


class MemoryStore:
    """Class-major arrays as a `SampleStore`.

    Args:
        fields: name -> [rows, ...]; rows of a class are adjacent, classes in order of their sorted names. Not copied.
        counts: class name -> rows.
        groups: class name -> group name.
        splits: split list -> split -> class names.
        is_a: (parent, child) pairs of a hierarchy above the classes.
        class_fields: class field -> class name -> array of one type and shape, for every class.

    Raises:
        StoreError: a field is of objects, dates or records; its length is not the sum of the counts; a class field that a
            class lacks or has otherwise.
        SpecError: groups or splits name unknown classes, or splits share one.
    """

    def __init__(
        self,
        fields: Mapping[str, NDArray[Any]],
        counts: Mapping[str, int],
        *,
        groups: Mapping[str, str] | None = None,
        splits: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        is_a: Sequence[tuple[str, str]] = (),
        class_fields: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.table = ClassTable.build(counts, groups, splits, is_a, class_fields)
        self.num_rows = sum(self.table.counts)
        for name, values in fields.items():
            if values.dtype.kind not in KINDS:
                raise StoreError(f"field '{name}' is of type {values.dtype}; a store holds numbers, truth values and text")
            if len(values) != self.num_rows:
                raise StoreError(f"field '{name}' has {len(values)} rows; the counts add up to {self.num_rows}")
        self._values = dict(fields)
        self.fields = {name: FieldSpec(str(v.dtype), v.shape[1:]) for name, v in fields.items()}

    @property
    def class_fields(self) -> Mapping[str, NDArray[Any]]:
        """Name -> [C, ...] by class number, read-only: what is known of each class beside its rows."""
        return self.table.class_fields

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of classes, fields and values."""
        digest = hashlib.sha256(self.table.to_json())
        for name, values in sorted(self._values.items()):
            digest.update(f"{name} {values.dtype} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()

    def split(self, name: str) -> ClassIndex:
        """Classes of a split; see `ClassTable.split`."""
        return replace(self.table.split(name), column=self._integers, fingerprint=self.fingerprint)

    def _integers(self, name: str) -> Int:
        """Values of an integer field with one number a row, for all rows."""
        values = self._values.get(name)
        if values is None or values.ndim != 1 or values.dtype.kind not in "iu":
            raise SpecError(f"the store has no field '{name}' with one whole number a row; {near(name, self._values)}")
        return values.astype(np.int64)

    def read(self, rows: Int, out: Mapping[str, NDArray[Any]] | None = None) -> dict[str, NDArray[Any]]:
        """Values of `rows`: name -> ``[n, *shape]``; of all fields into fresh arrays, or of those in `out` into these."""
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.num_rows:
            raise StoreError(f"rows {rows.min()}..{rows.max()} are not all in 0..{self.num_rows - 1}")
        names = self.fields if out is None else out
        return {
            name: np.take(self._values[name], rows, axis=0, out=None if out is None else out[name], mode="clip")
            for name in names
        }

    def places(self, name: str) -> Places | None:
        """Where the values of a field lie in memory; None where its array is no contiguous one."""
        values = self._values[name]
        if not values.flags.c_contiguous or not self.num_rows:
            return None
        return Places(np.array([values.ctypes.data], np.uint64), self.num_rows)
