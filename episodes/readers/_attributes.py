"""Attributes of classes from a CSV file: a class and its numbers in each line."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from episodes.errors import ReaderError, near
from episodes.readers._splits import csv_rows


def read_attributes(path: Path, names: Collection[str]) -> dict[str, NDArray[np.float32]]:
    """class -> [A] float32 of a CSV whose header is ``class`` and the names of A attributes, one line for each of `names`.

    Raises:
        ReaderError: unreadable, or of another form; a cell that is no number or does not fit in float32; a class that comes
            twice, is not among `names`, or is missing. File, line and value are named.
    """
    rows = csv_rows(path)
    if not rows or rows[0][1][0] != "class" or len(rows[0][1]) < 2:
        raise ReaderError(f"{path}: line 1 must be a header: class, then the name of each attribute, with commas between")
    header, found = rows[0][1], dict[str, NDArray[np.float32]]()
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise ReaderError(f"{path}: line {line} has {len(row)} columns, the header {len(header)}")
        name = row[0]
        if name not in names:
            raise ReaderError(
                f"{path}: line {line} names class '{name}', which the source does not have; {near(name, names)[:300]}"
            )
        if name in found:
            raise ReaderError(f"{path}: line {line} is a second one for class '{name}'; write it once")
        found[name] = np.array([_number(path, line, *pair) for pair in zip(header[1:], row[1:], strict=True)], np.float32)
    if missing := [name for name in names if name not in found]:
        raise ReaderError(f"{path} has no line for class '{missing[0]}' ({len(missing)} of {len(names)} classes have none)")
    return found


def _number(path: Path, line: int, column: str, cell: str) -> float:
    try:
        value = float(cell.replace("_", "?"))  # which Python would let stand between digits
    except ValueError:
        raise ReaderError(f"{path}: line {line}: '{column}' is '{cell}', not a number") from None
    if not abs(value) <= float(np.finfo(np.float32).max):
        raise ReaderError(f"{path}: line {line}: '{column}' is '{cell}'; attributes are finite and fit in float32")
    return value
