"""Compiled rows of described episodes, where they lie in one flat array, and their labels.

Arguments as in `episodes.sampling._kernels`; each function has a slow twin in the tests that must agree exactly.
"""

from __future__ import annotations

import numpy as np

from episodes.rng import (
    CLASSES,
    DISTRACTORS,
    ROWS,
    SMALL,
    UNLABELED,
    choose,
    choose_at,
    choose_sparse,
    jit,
    multiply,
    philox,
)
from episodes.sampling._kernels import SLOT


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
            num, cut, shots, queries, hidden = counts[c], front[c], k[b, j], q[b, j], u[b, j]
            parted = cut < num
            base = parted and len(seen) > 0 and seen[c]
            first_part = shots + (0 if base else queries) + (0 if parted else hidden)
            choose_at(key0, key1, purpose, np.uint64(slot), index, cut, first_part, scratch, drawn, np.int64(0))
            if base:
                choose(key0, key1, purpose, np.uint64(slot) + SLOT, index, num - cut, scratch,
                       drawn[first_part : first_part + queries])  # fmt: skip
                drawn[first_part : first_part + queries] += cut
            if parted:
                at = shots + queries
                choose(key0, key1, UNLABELED, np.uint64(slot) + (SLOT if distracts else np.uint64(0)), index, num - cut,
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
            choose(key0, key1, UNLABELED, SLOT * np.uint64(2), index, size, scratch, order_of[:size])
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
