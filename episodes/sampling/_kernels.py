"""Compiled drawing of plans: positions of classes and store rows, for a block of episodes per call.

Plain functions on arrays and integers; each has a slow twin in the tests that must agree exactly.
"""

from __future__ import annotations

import numpy as np

from episodes.rng import CLASSES, GROUPS, ROWS, choose, jit


@jit
def _fill_rows(key0, key1, index, positions, starts, counts, scratch, rows):
    for label in range(len(positions)):
        position = positions[label]
        choose(key0, key1, ROWS, label, index, counts[position], scratch, rows[label])
        rows[label] += starts[position]


@jit
def fill_uniform(key0, key1, first, starts, counts, positions, rows):
    """Classes uniform over all, rows uniform without replacement, for episodes `first`, `first` + 1, ...

    Fills ``positions`` [B, W] (places in the ClassIndex) and ``rows`` [B, W, m] (store rows: support, then query, then
    unlabeled).
    """
    scratch = np.arange(max(len(counts), counts.max()))
    for b in range(len(positions)):
        index = first + np.uint64(b)
        choose(key0, key1, CLASSES, 0, index, len(counts), scratch, positions[b])
        _fill_rows(key0, key1, index, positions[b], starts, counts, scratch, rows[b])


@jit
def fill_hierarchical(key0, key1, first, starts, counts, offsets, members, positions, rows):
    """As `fill_uniform` within one group per episode, uniform over groups.

    Group g holds the classes at ``members[offsets[g] : offsets[g + 1]]``.
    """
    scratch = np.arange(max(len(counts), counts.max()))
    group = np.empty(1, np.int64)
    for b in range(len(positions)):
        index = first + np.uint64(b)
        choose(key0, key1, GROUPS, 0, index, len(offsets) - 1, scratch, group)
        start, stop = offsets[group[0]], offsets[group[0] + 1]
        choose(key0, key1, CLASSES, 0, index, stop - start, scratch, positions[b])
        for label in range(positions.shape[1]):
            positions[b, label] = members[start + positions[b, label]]
        _fill_rows(key0, key1, index, positions[b], starts, counts, scratch, rows[b])
