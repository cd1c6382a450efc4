"""Compiled descriptions of a block of episodes: ways, classes, counts, distractors; `_rows` draws their rows.

Plain functions on arrays and integers; each has a slow twin in the tests that must agree exactly. Arguments named alike
mean the same everywhere, there and in `_meta_dataset`, too:

- ``key0, key1``: seed and stream; ``indices [B]`` (uint64): of the episodes; ``index``: of one, or of its description
  where descriptions are held;
- ``forms [7, 6], values, thresholds``: the counts of a spec as `_tables` compiles them;
- ``offsets, members``: pools of classes; pool g holds the classes at ``members[offsets[g] : offsets[g + 1]]``;
- ``starts, counts, front [C]``: rows of each class and how many of them are its front pool (all, without a partition);
- ``ways, distractors [B]``, ``positions, k, q, u [B, S]``: what is filled (see `episodes.plans.PlanBlock`).
"""

from __future__ import annotations

import numpy as np

from episodes.rng import CLASSES, COUNTS, DISTRACTORS, GROUPS, WAYS, below, choose, jit, philox

# Kinds of a count, and the rows of `forms`.
RANGE, WEIGHTS, DEALT, ALL, TOTAL, VARIABLE = range(6)
F_WAYS, F_SHOTS, F_QUERIES, F_UNLABELED, F_DISTRACTORS, F_DISTRACTOR_ROWS, F_DISTRACTOR_QUERIES = map(np.int64, range(7))
# Columns of `forms`.
KIND, LOW, HIGH, OFFSET, LENGTH, FLAGS = range(6)
PER_CLASS, PERMUTED = 1, 2
# How the classes of an episode are chosen.
FLAT, POOLS, VARIANTS, GIVEN = range(4)
# Which classes may distract.
ANY, SAME, OTHER = range(3)

SLOT = np.uint64(1) << np.uint64(32)  # counts of one form have slots of their own: form * SLOT + class + 1
_SHUFFLE = np.uint64(0xFFFFFFFF)


@jit
def fill_classes(key0, key1, indices, mode, offsets, members, num, scratch, positions):
    """Classes of episodes of one size, without distractors: ``positions`` [B, W]. The same draws as `choose_classes`."""
    for b in range(len(positions)):
        index = indices[b]
        if mode == FLAT:
            choose(key0, key1, CLASSES, 0, index, num, scratch, positions[b])
        else:
            pool = below(key0, key1, GROUPS, 0, index, len(offsets) - 1)
            start, stop = offsets[pool], offsets[pool + 1]
            choose(key0, key1, CLASSES, 0, index, stop - start, scratch, positions[b])
            for label in range(positions.shape[1]):
                positions[b, label] = members[start + positions[b, label]]


@jit
def draw_one(forms, row, values, thresholds, key0, key1, purpose, slot, index):
    """A number of a range or of weights."""
    if forms[row, KIND] == RANGE:
        low, high = forms[row, LOW], forms[row, HIGH]
        return low if low == high else low + below(key0, key1, purpose, slot, index, high - low + 1)
    word = philox(key0, key1, 1, slot, purpose, index)[0]
    offset, length = forms[row, OFFSET], forms[row, LENGTH]
    for i in range(length - 1):
        if word < thresholds[offset + i]:
            return values[offset + i]
    return values[offset + length - 1]


@jit
def draw_ways(forms, values, thresholds, key0, key1, index, available):
    """Number of ways when `available` classes may be used; a range is cut there."""
    low, high = forms[F_WAYS, LOW], min(forms[F_WAYS, HIGH], available)
    if forms[F_QUERIES, KIND] == TOTAL:
        # Fixed-total episodes (Bertinetto et al. 2019): shots first, then ways among the divisors of the total.
        total = values[forms[F_QUERIES, OFFSET]]
        shots = draw_one(forms, F_SHOTS, values, thresholds, key0, key1, COUNTS, np.uint64(F_SHOTS) * SLOT, index)
        high = min(high, total // (shots + 1))
        divisors = 0
        for d in range(low, high + 1):
            divisors += total % d == 0
        chosen = below(key0, key1, WAYS, 0, index, divisors)
        for d in range(low, high + 1):
            if total % d == 0:
                if chosen == 0:
                    return d
                chosen -= 1
    if forms[F_WAYS, KIND] == RANGE:
        return low if low >= high else low + below(key0, key1, WAYS, 0, index, high - low + 1)
    return draw_one(forms, F_WAYS, values, thresholds, key0, key1, WAYS, np.uint64(0), index)


@jit
def choose_classes(key0, key1, index, mode, offsets, members, num, forms, values, thresholds, scratch, positions):
    """Draw the ways and the classes of one episode into ``positions`` [S]; returns the ways."""
    if mode == POOLS:
        pool = below(key0, key1, GROUPS, 0, index, len(offsets) - 1)
        start, size = offsets[pool], offsets[pool + 1] - offsets[pool]
        ways = draw_ways(forms, values, thresholds, key0, key1, index, size)
        choose(key0, key1, CLASSES, 0, index, size, scratch, positions[:ways])
        for label in range(ways):
            positions[label] = members[start + positions[label]]
        return ways
    if mode == VARIANTS:  # one variant of each base class at most
        ways = draw_ways(forms, values, thresholds, key0, key1, index, len(offsets) - 1)
        choose(key0, key1, CLASSES, 0, index, len(offsets) - 1, scratch, positions[:ways])
        for label in range(ways):
            start, stop = offsets[positions[label]], offsets[positions[label] + 1]
            positions[label] = members[start + below(key0, key1, CLASSES, label + 1, index, stop - start)]
        return ways
    ways = draw_ways(forms, values, thresholds, key0, key1, index, num - forms[F_DISTRACTORS, HIGH])
    choose(key0, key1, CLASSES, 0, index, num, scratch, positions[:ways])
    return ways


@jit
def fill_count(row, ways, forms, values, thresholds, key0, key1, index, scratch, out):
    """Numbers of one form for the classes of one episode into ``out`` [>= W]."""
    base = np.uint64(row) * SLOT
    flags = forms[row, FLAGS]
    if forms[row, KIND] == DEALT:
        # Lists for every number of ways lie one after the other, from the smallest on.
        smallest = forms[row, LENGTH]
        at = forms[row, OFFSET] + (ways * (ways - 1) - smallest * (smallest - 1)) // 2
        if flags & PERMUTED:
            choose(key0, key1, COUNTS, base + _SHUFFLE, index, ways, scratch, out[:ways])
            for j in range(ways):
                out[j] = values[at + out[j]]
        else:
            for j in range(ways):
                out[j] = values[at + j]
    elif flags & PER_CLASS:
        for j in range(ways):
            out[j] = draw_one(forms, row, values, thresholds, key0, key1, COUNTS, base + np.uint64(j + 1), index)
    else:
        out[:ways] = draw_one(forms, row, values, thresholds, key0, key1, COUNTS, base, index)


@jit
def fill_counts(key0, key1, index, ways, forms, values, thresholds, counts, front, positions, scratch, k, q, u):
    """Shots, queries and unlabeled rows of the classes of one episode; what is variable is left as it is."""
    if forms[F_SHOTS, KIND] != VARIABLE:
        fill_count(F_SHOTS, ways, forms, values, thresholds, key0, key1, index, scratch, k)
    fill_count(F_UNLABELED, ways, forms, values, thresholds, key0, key1, index, scratch, u)
    kind = forms[F_QUERIES, KIND]
    if kind == ALL:
        for j in range(ways):
            c = positions[j]
            q[j] = front[c] - k[j] - (u[j] if front[c] == counts[c] else 0)
    elif kind == TOTAL:
        for j in range(ways):
            q[j] = values[forms[F_QUERIES, OFFSET]] // ways - k[j]
    elif kind != VARIABLE:
        fill_count(F_QUERIES, ways, forms, values, thresholds, key0, key1, index, scratch, q)


@jit
def add_distractors(
    key0, key1, index, ways, relation, groups, forms, values, thresholds, scratch, marks, positions, k, q, u
):
    """Draw distractor classes into the slots after the classes of an episode; returns how many,
    or -1 - how many there are where they are too few.

    Any: the first ones of a prefix-stable choice over all classes that are not the episode's, so that neither the number
    of distractors nor their presence moves anything else. ``marks`` [C] is all zero, before and after.
    """
    slot = np.uint64(F_DISTRACTORS) * SLOT
    number = draw_one(forms, F_DISTRACTORS, values, thresholds, key0, key1, COUNTS, slot, index)
    if number == 0:
        return 0
    for j in range(ways):
        marks[positions[j]] = 1
    if relation == ANY:
        drawn = np.empty(ways + number, np.int64)
        choose(key0, key1, DISTRACTORS, 0, index, len(groups), scratch, drawn)
        pool = drawn
    else:
        pool = np.empty(len(groups), np.int64)
        size = 0
        for c in range(len(groups)):
            same = False
            for j in range(ways):
                same = same or groups[c] == groups[positions[j]]
            if marks[c] == 0 and same == (relation == SAME):
                pool[size] = c
                size += 1
        drawn = np.empty(min(number, size), np.int64)
        choose(key0, key1, DISTRACTORS, 0, index, size, scratch, drawn)
        pool = pool[drawn]
    found = 0
    for c in pool:
        if marks[c] == 0 and found < number:
            positions[ways + found] = c
            found += 1
    for j in range(ways):
        marks[positions[j]] = 0
    k[ways : ways + found] = 0
    fill_count(F_DISTRACTOR_QUERIES, found, forms, values, thresholds, key0, key1, index, scratch, q[ways:])
    fill_count(F_DISTRACTOR_ROWS, found, forms, values, thresholds, key0, key1, index, scratch, u[ways:])
    return found if found == number else -1 - found


@jit
def describe(
    key0, key1, indices, hold, mode, offsets, members, relation, forms, values, thresholds, counts, front, groups, scratch,
    ways, distractors, positions, k, q, u,
):  # fmt: skip
    """Ways, classes, counts and distractors of episodes; each held for `hold` episodes."""
    marks = np.zeros(len(counts) if forms[F_DISTRACTORS, HIGH] else 0, np.uint8)
    for b in range(len(ways)):
        index = indices[b] // hold
        if mode != GIVEN:
            ways[b] = choose_classes(
                key0, key1, index, mode, offsets, members, len(counts), forms, values, thresholds, scratch, positions[b]
            )
        fill_counts(
            key0, key1, index, ways[b], forms, values, thresholds, counts, front, positions[b], scratch, k[b], q[b], u[b]
        )
        distractors[b] = 0
        if forms[F_DISTRACTORS, HIGH]:
            distractors[b] = add_distractors(
                key0, key1, index, ways[b], relation, groups, forms, values, thresholds, scratch, marks,
                positions[b], k[b], q[b], u[b],
            )  # fmt: skip
