"""Compiled drawing of plans for a block of episodes: ways, classes, counts, distractors, rows.

Plain functions on arrays and integers; each has a slow twin in the tests that must agree exactly. Arguments named alike
mean the same everywhere:

- ``key0, key1``: seed and stream; ``indices [B]`` (uint64): of the episodes; ``index``: of one, or of its description
  where descriptions are held;
- ``forms [7, 6], values, thresholds``: the counts of a spec as `_tables` compiles them;
- ``offsets, members``: pools of classes; pool g holds the classes at ``members[offsets[g] : offsets[g + 1]]``;
- ``starts, counts, front [C]``: rows of each class and how many of them are its front pool (all, without a partition);
- ``ways, distractors [B]``, ``positions, k, q, u [B, S]``: what is filled (see `episodes.plans.PlanBlock`).
"""

from __future__ import annotations

import numpy as np

from episodes.rng import (
    CLASSES,
    COUNTS,
    DISTRACTORS,
    GROUPS,
    ROWS,
    SMALL,
    UNLABELED,
    WAYS,
    below,
    choose,
    choose_at,
    choose_sparse,
    jit,
    multiply,
    philox,
)

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

_SLOT = np.uint64(1) << np.uint64(32)  # counts of one form have slots of their own: form * _SLOT + class + 1
_SHUFFLE = np.uint64(0xFFFFFFFF)


@jit
def fill_offsets(ways, k, q, u, out):
    """Where the rows of each episode begin in one flat array, and its classes in another.

    ``out`` [4, B + 1]: all support rows lie before all query rows, these before all unlabeled ones; then the classes.
    """
    out[:, 0] = 0
    for b in range(len(k)):
        s, t, v = 0, 0, 0
        for j in range(k.shape[1]):  # slots beyond the classes hold 0
            s, t, v = s + k[b, j], t + q[b, j], v + u[b, j]
        out[0, b + 1], out[1, b + 1], out[2, b + 1] = out[0, b] + s, out[1, b] + t, out[2, b] + v
        out[3, b + 1] = out[3, b] + ways[b]
    out[1] += out[0, -1]
    out[2] += out[1, -1]


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
def fill_plain_rows(key0, key1, indices, ways, positions, k, q, extents, scratch, rows, offsets):
    """Support and query rows of classes without partition: what `fill_rows` draws, in two thirds of the time.

    One loop over flat arrays, for a call costs a kernel as much as several draws: first the words of a class, then its
    swaps, straight to their places. A permutation of few rows is made afresh, which beats undoing one. ``extents``
    [C, 2]: first row, rows. ``rows, offsets``: of `fill_offsets`.
    """
    largest = 0
    for b in range(len(ways)):
        for j in range(ways[b]):
            largest = max(largest, k[b, j] + q[b, j])
    words = np.empty(largest + 3, np.int64)
    s, t = offsets[0, 0], offsets[1, 0]
    for b in range(len(ways)):
        index = indices[b]
        for j in range(ways[b]):
            start, n = extents[positions[b, j]]
            shots, drawn = k[b, j], k[b, j] + q[b, j]
            small = n <= SMALL
            at = len(scratch) - SMALL if small else 0  # free memory for a permutation, or the one that is kept
            rare = n > len(scratch) - SMALL
            if not rare:
                for block in range((drawn + 3) >> 2):
                    first, second, third, fourth = philox(key0, key1, block + 1, j, ROWS, index)
                    words[4 * block] = np.int64(first)
                    words[4 * block + 1] = np.int64(second)
                    words[4 * block + 2] = np.int64(third)
                    words[4 * block + 3] = np.int64(fourth)
                if small:
                    for i in range(n):
                        scratch[at + i] = i
                for i in range(shots):  # this loop and the next are one, cut where the target changes
                    span = np.uint64(n - i)
                    upper, lower = multiply(np.uint64(words[i]), span)
                    place = at + i + np.int64(upper)
                    rows[s + i] = start + scratch[place]
                    scratch[place] = scratch[at + i]
                    rare |= lower < span
                for i in range(shots, drawn):
                    span = np.uint64(n - i)
                    upper, lower = multiply(np.uint64(words[i]), span)
                    place = at + i + np.int64(upper)
                    rows[t + i - shots] = start + scratch[place]
                    scratch[place] = scratch[at + i]
                    rare |= lower < span
                if not small:
                    for i in range(drawn):  # undo: see `choose_at`
                        number = rows[s + i if i < shots else t + i - shots] - start
                        scratch[i] = i
                        scratch[number] = number
            if rare:
                choose_sparse(key0, key1, ROWS, np.uint64(j), index, n, words[:drawn])
                for i in range(shots):
                    rows[s + i] = start + words[i]
                for i in range(shots, drawn):
                    rows[t + i - shots] = start + words[i]
            s, t = s + shots, t + drawn - shots


@jit
def fill_one(key0, key1, index, shots, queries, extents, scratch, out):
    """One episode over all classes into one array: positions [W], support [W * k], query [W * q].

    A call from Python costs a tenth of a microsecond for each array it passes: that is half of such an episode.
    """
    ways = len(out) // (1 + shots + queries)
    choose(key0, key1, CLASSES, 0, index, len(extents), scratch, out[:ways])
    k, q = np.full((1, ways), shots), np.full((1, ways), queries)
    positions, offsets = out[:ways].reshape(1, ways), np.empty((2, 1), np.int64)
    offsets[0, 0], offsets[1, 0] = ways, ways * (1 + shots)
    fill_plain_rows(key0, key1, np.full(1, index), np.full(1, ways), positions, k, q, extents, scratch, out, offsets)


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
        shots = draw_one(forms, F_SHOTS, values, thresholds, key0, key1, COUNTS, np.uint64(F_SHOTS) * _SLOT, index)
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
    base = np.uint64(row) * _SLOT
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
    slot = np.uint64(F_DISTRACTORS) * _SLOT
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


@jit
def fill_rows(
    key0, key1, indices, ways, distractors, positions, k, q, u, starts, counts, front, seen, order, scratch,
    rows, offsets, slots,
):  # fmt: skip
    """Rows of described episodes into ``rows`` at ``offsets`` (`fill_offsets`); ``slots``: class of each unlabeled row.

    Of a class without partition: support, then query, then unlabeled, of one prefix-stable choice. With one: support and
    query of the front pool, unlabeled of the back pool by a draw of its own. Of a class that meta-training sees (base
    classes): support of the front pool, query of the back pool. Unlabeled rows are shuffled over the classes.
    """
    largest = 1
    for b in range(len(ways)):
        largest = max(largest, offsets[2, b + 1] - offsets[2, b])
        for j in range(ways[b] + distractors[b]):
            largest = max(largest, k[b, j] + q[b, j] + u[b, j])
    drawn, order_of = np.empty(largest, np.int64), np.empty(largest, np.int64)
    hidden_rows = rows[offsets[2, 0] :]
    for b in range(len(ways)):
        index = indices[b]
        s, t, v = offsets[0, b], offsets[1, b], offsets[2, b] - offsets[2, 0]
        begin = v
        for j in range(ways[b] + distractors[b]):
            c = positions[b, j]
            distracts = j >= ways[b]
            purpose, slot = (DISTRACTORS, j - ways[b] + 1) if distracts else (ROWS, j)
            num, shots, queries, hidden = counts[c], k[b, j], q[b, j], u[b, j]
            cut = front[c]
            parted = cut < num
            base = parted and len(seen) > 0 and seen[c]
            near = cut if parted else num
            first_part = shots + (0 if base else queries) + (0 if parted else hidden)
            choose_at(key0, key1, purpose, np.uint64(slot), index, near, first_part, scratch, drawn, np.int64(0))
            if base:
                choose(key0, key1, purpose, np.uint64(slot) + _SLOT, index, num - cut, scratch,
                       drawn[first_part : first_part + queries])  # fmt: skip
                drawn[first_part : first_part + queries] += cut
            if parted:
                at = shots + queries
                choose(key0, key1, UNLABELED, np.uint64(slot) + (_SLOT if distracts else np.uint64(0)), index, num - cut,
                       scratch, drawn[at : at + hidden])  # fmt: skip
                drawn[at : at + hidden] += cut
            start, at = starts[c], shots + queries
            if len(order):
                for i in range(at + hidden):
                    drawn[i] = order[start + drawn[i]]
                start = 0
            for i in range(shots):
                rows[s + i] = start + drawn[i]
            for i in range(queries):
                rows[t + i] = start + drawn[shots + i]
            for i in range(hidden):
                hidden_rows[v + i] = start + drawn[at + i]
                slots[v + i] = j
            s, t, v = s + shots, t + queries, v + hidden
        size = v - begin
        if size:
            choose(key0, key1, UNLABELED, _SLOT * np.uint64(2), index, size, scratch, order_of[:size])
            in_order, owners = hidden_rows[begin:v].copy(), slots[begin:v].copy()
            for i in range(size):
                hidden_rows[begin + i] = in_order[order_of[i]]
                slots[begin + i] = owners[order_of[i]]


@jit
def fill_labels(ways, positions, k, q, slots, offsets, ids, variants, class_ids, class_variants, labels, turns):
    """Classes of planned episodes, and labels and quarter turns of all their rows, flat.

    ``offsets`` [4, B + 1] of `fill_offsets`; ``slots``: of the unlabeled rows;
    ``ids, variants`` [C]: of the classes; ``turns``: empty where nothing is turned.
    """
    c, hidden = 0, offsets[2, 0]
    for b in range(len(ways)):
        s, t = offsets[0, b], offsets[1, b]
        for j in range(positions.shape[1]):
            label = j if j < ways[b] else -1
            turn = variants[positions[b, j]]
            if label >= 0:
                class_ids[c], class_variants[c] = ids[positions[b, j]], turn
                c += 1
            for _ in range(k[b, j]):
                labels[s] = label
                if len(turns):
                    turns[s] = turn
                s += 1
            for _ in range(q[b, j]):
                labels[t] = label
                if len(turns):
                    turns[t] = turn
                t += 1
        for v in range(offsets[2, b], offsets[2, b + 1]):
            slot = slots[v - hidden]
            labels[v] = slot if slot < ways[b] else -1
            if len(turns):
                turns[v] = variants[positions[b, slot]]
