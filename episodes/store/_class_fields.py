"""Class fields: what a store knows of each class beside its rows, as its attributes; kept in ``classes.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from episodes.errors import StoreError, near

ClassFields = Mapping[str, NDArray[Any]]
"""Name -> [C, ...], by class number."""

DTYPES: Final = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"
)  # fmt: skip


def stack(given: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> ClassFields:
    """`given` (class field -> class name -> array) as one read-only array a field, classes in the order of `names`.

    Raises:
        StoreError: a class that is not among `names`, or has no value; values of different types or shapes, of a type that
            is no number, or that are not finite. Field and class are named.
    """
    return {field: _stacked(field, values, names) for field, values in sorted(given.items())}


def _stacked(field: str, values: Mapping[str, Any], names: Sequence[str]) -> NDArray[Any]:
    if unknown := values.keys() - set(names):
        name = min(unknown)
        raise StoreError(
            f"class field '{field}' names class '{name}', which the source does not have; {near(name, names)[:300]}"
        )
    if missing := [name for name in names if name not in values]:
        raise StoreError(
            f"class field '{field}' has no value for class '{missing[0]}' ({len(missing)} of {len(names)} classes); "
            "give one to every class"
        )
    arrays = [np.asarray(values[name]) for name in names]
    for name, array in zip(names, arrays, strict=True):
        _check(f"class field '{field}' of class '{name}'", array)
        if (array.dtype.name, array.shape) != (arrays[0].dtype.name, arrays[0].shape):
            raise StoreError(
                f"class field '{field}' of class '{name}' is {array.dtype} {array.shape}, that of class '{names[0]}' "
                f"{arrays[0].dtype} {arrays[0].shape}; all need one type and shape"
            )
    stacked: NDArray[Any] = np.stack(arrays).astype(arrays[0].dtype.name)
    stacked.setflags(write=False)
    return stacked


def _check(what: str, values: NDArray[Any]) -> None:
    if values.dtype.name not in DTYPES:
        raise StoreError(f"{what} is {values.dtype}; a class field holds one of {', '.join(DTYPES)}")
    if not np.isfinite(values).all():
        raise StoreError(f"{what} holds NaN or infinity")


def to_table(fields: ClassFields) -> dict[str, Any]:
    """`fields` as JSON values: name -> type, shape, and the numbers of each class in C order.

    Floats are written as the float64 they are exactly equal to.
    """
    return {
        name: {"dtype": values.dtype.name, "shape": values.shape[1:], "values": values.reshape(len(values), -1).tolist()}
        for name, values in fields.items()
    }


def from_table(table: Mapping[str, Any], num: int) -> ClassFields:
    """The fields of `num` classes that `to_table` wrote.

    Raises:
        ValueError: it is no such table; the field is named.
    """
    return {name: _read(name, one, num) for name, one in table.items()}


def _read(name: str, one: Mapping[str, Any], num: int) -> NDArray[Any]:
    if one["dtype"] not in DTYPES:
        raise ValueError(f"class field '{name}' is of type {one['dtype']!r}")
    try:
        values: NDArray[Any] = np.array(one["values"], one["dtype"]).reshape(num, *one["shape"])
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"class field '{name}' is not {one['dtype']} {one['shape']} of {num} classes: {error}") from error
    if values.dtype.kind != "f" and values.reshape(num, -1).tolist() != one["values"]:
        raise ValueError(f"class field '{name}' holds what is no {one['dtype']}")
    if not np.isfinite(values).all():
        raise ValueError(f"class field '{name}' holds NaN or infinity")
    values.setflags(write=False)
    return values
