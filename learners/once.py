"""Every row is embedded once in an evaluation, however many of its episodes the row is in.

A thousand episodes of 80 rows are 80,000 rows, and the test classes of Omniglot have 8,460: where a feature depends on its
own row alone it need not be computed again. Rows are told apart by their values, so turned or transformed they are others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from torch import Tensor

_MOST_BYTES = 1 << 28  # of features


class Seen:
    """Features of the rows that were embedded before, [capacity, D]; when `most_bytes` of them are kept no more are."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most = most_bytes
        self._place: dict[bytes, int] = {}
        self._kept: Tensor | None = None

    def features(self, rows: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """[n, D] of rows [n, ...] on the CPU; `compute` gives those of rows that are not known, each once."""
        keys = _keys(rows)
        first = dict(zip(reversed(keys), reversed(range(len(keys))), strict=True))
        new = [key for key in first if key not in self._place]
        if new:
            made = compute(rows[[first[key] for key in new]])
            if (len(self._place) + len(new)) * made[0].nbytes > self._most:
                return made[[new.index(key) for key in keys]] if len(new) == len(first) else compute(rows)
            self._keep(new, made)
        assert self._kept is not None
        return self._kept[[self._place[key] for key in keys]]

    def _keep(self, keys: list[bytes], made: Tensor) -> None:
        used, needed = len(self._place), len(self._place) + len(keys)
        if self._kept is None or needed > len(self._kept):
            grown = made.new_empty(max(needed, 2 * used), made.shape[1])
            if self._kept is not None:
                grown[:used] = self._kept[:used]
            self._kept = grown
        self._kept[used:needed] = made
        self._place.update(zip(keys, range(used, needed), strict=True))


def _keys(rows: Tensor) -> list[bytes]:
    values = rows.contiguous().numpy().reshape(len(rows), -1)
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in values]
