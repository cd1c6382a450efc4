"""Samples of equal content in different classes: a label that is wrong, or a leak from one split into another."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from episodes.errors import StoreError
from episodes.store.table import ClassTable

OnDuplicates = Literal["warn", "error"]


def check_duplicates(
    digests: NDArray[np.uint8], table: ClassTable, key: Callable[[int], str], on_duplicates: OnDuplicates
) -> None:
    """Refuse equal samples in two splits of a list; warn of equal samples in two classes, or refuse those too.

    Args:
        digests: [rows, 16] hash of each row's values.
        table: classes and splits.
        key: row -> sample key.
        on_duplicates: ``warn`` or ``error``, of two classes of one split.

    Raises:
        StoreError: both samples are named.
    """
    pairs = equal_pairs(digests, table)
    for one, two, splits, listing in across_splits(pairs, table):
        raise StoreError(
            f"samples {named(one, table, key)} and {named(two, table, key)} are equal, in splits '{splits[0]}' and "
            f"'{splits[1]}' of list '{listing}'; a model would be tested on what it was trained on (remove one)"
        )
    if not pairs:
        return
    first = [named(row, table, key) for row in pairs[0]]
    words = f"samples {first[0]} and {first[1]} are equal ({len(pairs)} such pairs of classes)"
    if on_duplicates == "error":
        raise StoreError(f"{words}; remove one, or accept them with --duplicates warn")
    warnings.warn(words, stacklevel=4)


def equal_pairs(digests: NDArray[np.uint8], table: ClassTable) -> list[tuple[int, int]]:
    """Rows of equal content in different classes, in pairs of neighbours by content."""
    owner = np.repeat(np.arange(len(table.counts)), table.counts)
    words = np.ascontiguousarray(digests).view(np.uint64)
    order = np.lexsort((owner, words[:, 1], words[:, 0]))
    equal = (words[order[1:]] == words[order[:-1]]).all(axis=1) & (owner[order[1:]] != owner[order[:-1]])
    return [(int(order[i]), int(order[i + 1])) for i in np.flatnonzero(equal)]


def across_splits(pairs: Iterable[tuple[int, int]], table: ClassTable) -> Iterator[tuple[int, int, tuple[str, str], str]]:
    """Those pairs whose classes are in two splits of a list: (row, row, splits, list)."""
    pairs, last = list(pairs), np.cumsum(table.counts)
    for listing, parts in table.splits.items():
        home = {c: split for split, members in parts.items() for c in members}
        for one, two in pairs:
            first, second = (home.get(int(np.searchsorted(last, row, side="right"))) for row in (one, two))
            if first is not None and second is not None and first != second:
                yield one, two, (first, second), listing


def named(row: int, table: ClassTable, key: Callable[[int], str]) -> str:
    """A sample by its key and class."""
    owner = int(np.searchsorted(np.cumsum(table.counts), row, side="right"))
    return f"'{key(row)}' of class '{table.names[owner]}'"
