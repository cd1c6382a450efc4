"""Samples of equal content in different classes: a label that is wrong, or a leak from one split into another."""

from __future__ import annotations

import warnings
from collections.abc import Callable
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
    owner = np.repeat(np.arange(len(table.counts)), table.counts)
    words = np.ascontiguousarray(digests).view(np.uint64)
    order = np.lexsort((owner, words[:, 1], words[:, 0]))
    equal = (words[order[1:]] == words[order[:-1]]).all(axis=1) & (owner[order[1:]] != owner[order[:-1]])
    pairs = [(int(order[i]), int(order[i + 1])) for i in np.flatnonzero(equal)]
    if not pairs:
        return

    def named(row: int) -> str:
        return f"'{key(row)}' of class '{table.names[owner[row]]}'"

    for listing, parts in table.splits.items():
        home = {c: split for split, members in parts.items() for c in members}
        for one, two in pairs:
            splits = home.get(int(owner[one])), home.get(int(owner[two]))
            if None not in splits and splits[0] != splits[1]:
                raise StoreError(
                    f"samples {named(one)} and {named(two)} are equal, in splits '{splits[0]}' and '{splits[1]}' of list "
                    f"'{listing}'; a model would be tested on what it was trained on (remove one)"
                )
    words_ = f"samples {named(pairs[0][0])} and {named(pairs[0][1])} are equal ({len(pairs)} such pairs of classes)"
    if on_duplicates == "error":
        raise StoreError(f"{words_}; remove one, or accept them with --duplicates warn")
    warnings.warn(words_, stacklevel=4)
