"""Compiled: ways, shots and queries of Meta-Dataset's episodes. Arguments as in `episodes.sampling._kernels`."""

from __future__ import annotations

import math

import numpy as np

from episodes.rng import CLASSES, COUNTS, GROUPS, WAYS, below, choose, jit, philox, unit
from episodes.sampling._kernels import (
    ANY,
    F_DISTRACTORS,
    F_QUERIES,
    F_SHOTS,
    F_WAYS,
    HIGH,
    KIND,
    SLOT,
    VARIABLE,
    add_distractors,
    draw_ways,
    fill_counts,
)

FLAT, IN_GROUP, UNDER_NODE, EVERY = range(4)
_BETA, _ALPHA = np.uint64(16) * SLOT, np.uint64(17) * SLOT  # slots of COUNTS beside those of the spec's forms

# 1 / n! for n = 14 .. 0, for Horner's rule.
_TAYLOR = tuple(1.0 / math.factorial(n) for n in range(14, -1, -1))


@jit
def exp(x):
    """e ** x by halving and a Taylor sum: additions and products only, so the same double on every machine."""
    halvings = 0
    while abs(x) > 0.35:
        x *= 0.5
        halvings += 1
    total = 0.0
    for coefficient in _TAYLOR:
        total = total * x + coefficient
    for _ in range(halvings):
        total *= total
    return total


@jit
def exp_all(x, out):
    """`exp` of every number of `x` [n] into `out`; the usual weights, of at most one halving, without a branch."""
    usual = True
    for j in range(len(x)):
        usual &= abs(x[j]) <= 0.7
    if not usual:
        for j in range(len(x)):
            out[j] = exp(x[j])
        return
    for j in range(len(x)):
        halved = abs(x[j]) > 0.35
        y = x[j] * 0.5 if halved else x[j]
        total = 0.0
        for coefficient in _TAYLOR:
            total = total * y + coefficient
        out[j] = total * total if halved else total


@jit
def num_queries(forms, smallest, most):
    """Queries of every class when the smallest chosen class has `smallest` rows."""
    if forms[F_SHOTS, KIND] == VARIABLE:
        return min(most, smallest // 2)
    return min(most, smallest - forms[F_SHOTS, HIGH])


@jit
def support_bound(beta, rows, queries, contribution, most):
    """The bound S of the support's size, from one beta an episode and the rows of its classes."""
    total = 0
    for num in rows:
        total += int(np.floor(beta * min(contribution, num - queries))) + 1
    return min(most, total)


@jit
def split_shots(alphas, rows, queries, bound, out):
    """Shots of each class: proportions by all its rows and its weight, cut at the rows that are left after queries."""
    ways = len(rows)
    weights = np.empty(ways)
    exp_all(alphas, weights)
    total = 0.0
    for j in range(ways):
        weights[j] *= rows[j]
        total += weights[j]
    for j in range(ways):
        share = weights[j] / total
        out[j] = min(int(np.floor(share * (bound - ways))) + 1, rows[j] - queries)


@jit
def _choose(key0, key1, index, mode, ignore, limits, offsets, members, num, forms, values, thresholds, scratch, out):
    """Ways and classes of one episode."""
    min_ways, max_ways = limits[0], limits[1]
    if mode == EVERY:
        for j in range(num):
            out[j] = j
        return num
    pooled = mode != FLAT
    if pooled and ignore > 0:  # one coin an episode, before anything else
        pooled = unit(philox(key0, key1, 1, 1, GROUPS, index)[0]) >= ignore
    if not pooled:
        if mode == FLAT and forms[F_WAYS, KIND] != VARIABLE:
            ways = draw_ways(forms, values, thresholds, key0, key1, index, num)
        else:
            ways = min_ways + below(key0, key1, WAYS, 0, index, min(max_ways, num) - min_ways + 1)
        choose(key0, key1, CLASSES, 0, index, num, scratch, out[:ways])
        return ways
    pool = below(key0, key1, GROUPS, 0, index, len(offsets) - 1)
    start, size = offsets[pool], offsets[pool + 1] - offsets[pool]
    ways = min(max_ways, size)
    if mode == IN_GROUP:
        ways = min_ways + below(key0, key1, WAYS, 0, index, ways - min_ways + 1)
    choose(key0, key1, CLASSES, 0, index, size, scratch, out[:ways])
    for j in range(ways):
        out[j] = members[start + out[j]]
    return ways


@jit
def describe_meta_dataset(
    key0, key1, indices, hold, mode, ignore, limits, low_weight, high_weight, offsets, members, forms, values, thresholds,
    counts, front, groups, scratch, ways, distractors, positions, k, q, u,
):  # fmt: skip
    """As `episodes.sampling._kernels.describe`; ``limits``: min_ways, max_ways, max_queries, max_support, contribution."""
    marks = np.zeros(len(counts) if forms[F_DISTRACTORS, HIGH] else 0, np.uint8)
    rows, alphas = np.empty(positions.shape[1], np.int64), np.empty(positions.shape[1])
    for b in range(len(ways)):
        index = indices[b] // hold
        ways[b] = _choose(
            key0, key1, index, mode, ignore, limits, offsets, members, len(counts), forms, values, thresholds, scratch,
            positions[b],
        )  # fmt: skip
        num = ways[b]
        fill_counts(
            key0, key1, index, num, forms, values, thresholds, counts, front, positions[b], scratch, k[b], q[b], u[b]
        )
        smallest = np.int64(9223372036854775807)
        for j in range(num):
            # Unlabeled rows of the same pool are out of reach of support and query.
            c = positions[b, j]
            rows[j] = front[c] - (u[b, j] if front[c] == counts[c] else 0)
            smallest = min(smallest, rows[j])
        queries = q[b, 0]
        if forms[F_QUERIES, KIND] == VARIABLE:
            queries = num_queries(forms, smallest, limits[2])
            q[b, :num] = queries
        if forms[F_SHOTS, KIND] == VARIABLE:
            beta = unit(philox(key0, key1, 1, _BETA, COUNTS, index)[0])
            for j in range(num):
                word = philox(key0, key1, 1, _ALPHA + np.uint64(j), COUNTS, index)[0]
                alphas[j] = low_weight + unit(word) * (high_weight - low_weight)
            bound = support_bound(beta, rows[:num], queries, limits[4], limits[3])
            split_shots(alphas[:num], rows[:num], queries, bound, k[b])
        distractors[b] = 0
        if forms[F_DISTRACTORS, HIGH]:
            distractors[b] = add_distractors(
                key0, key1, index, num, ANY, groups, forms, values, thresholds, scratch, marks,
                positions[b], k[b], q[b], u[b],
            )  # fmt: skip
