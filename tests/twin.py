"""The sampling engine once more, slowly: Python integers and NumPy's Philox, from the written rules."""

from __future__ import annotations

import math
from fractions import Fraction

from test_rng import numpy_words, slow_choose

from episodes import rng
from episodes.sampling._tables import COUNTS

ROW = {name: i for i, name in enumerate(COUNTS)}
SLOT = 2**32


class Draws:
    """Keyed draws of one episode."""

    def __init__(self, sampler, classes, seed, index, hold=1):
        self.seed, self.stream = seed, rng.stream_key(classes.split, sampler.name, sampler.version)
        self.index, self.description = index, index // hold

    def choose(self, purpose, slot, n, k, description=True):
        return slow_choose(self.seed, self.stream, purpose, slot, self.description if description else self.index, n, k)

    def word(self, purpose, slot):
        return numpy_words(self.seed, self.stream, purpose, slot, self.description, 1)[0]


def number(count, draws, purpose, slot):
    if count.kind == "range":
        return count.low + (draws.choose(purpose, slot, count.high - count.low + 1, 1)[0] if count.high > count.low else 0)
    word, running = draws.word(purpose, slot), Fraction(0)
    total = sum(Fraction(w) for w in count.weights)
    for value, weight in zip(count.values, count.weights, strict=True):
        running += Fraction(weight)
        if Fraction(word, 2**64) < running / total:
            return value
    return count.values[-1]


def numbers(name, count, ways, draws):
    base = ROW[name] * SLOT
    if count.dealt:
        dealt = list(count.of_ways(ways))
        return [dealt[i] for i in draws.choose(rng.COUNTS, base + SLOT - 1, ways, ways)] if count.permuted else dealt
    if count.per_class:
        return [number(count, draws, rng.COUNTS, base + j + 1) for j in range(ways)]
    return [number(count, draws, rng.COUNTS, base)] * ways


def ways_of(spec, draws, available):
    count = spec.ways
    if spec.queries.kind == "total":
        total = int(spec.queries.weights[0])
        shots = number(spec.shots, draws, rng.COUNTS, ROW["shots"] * SLOT)
        fits = [d for d in range(count.low, min(count.high, available, total // (shots + 1)) + 1) if total % d == 0]
        return fits[draws.choose(rng.WAYS, 0, len(fits), 1)[0]]
    if count.kind == "range":
        high = min(count.high, available)
        return count.low + (draws.choose(rng.WAYS, 0, high - count.low + 1, 1)[0] if high > count.low else 0)
    return number(count, draws, rng.WAYS, 0)


def classes_of(spec, classes, draws, pools):
    """Positions of the classes; `pools`: None, or lists of positions."""
    if pools is None:
        ways = ways_of(spec, draws, len(classes) - spec.distractors.high)
        return draws.choose(rng.CLASSES, 0, len(classes), ways)
    pool = pools[draws.choose(rng.GROUPS, 0, len(pools), 1)[0]]
    ways = ways_of(spec, draws, len(pool))
    return [pool[i] for i in draws.choose(rng.CLASSES, 0, len(pool), ways)]


def counts_of(spec, classes, positions, draws):
    ways = len(positions)
    k, u = numbers("shots", spec.shots, ways, draws), numbers("unlabeled", spec.unlabeled, ways, draws)
    parted = classes.labeled < classes.counts
    if spec.queries.kind == "all":
        q = [int(classes.labeled[c]) - k[j] - (0 if parted[c] else u[j]) for j, c in enumerate(positions)]
    elif spec.queries.kind == "total":
        q = [int(spec.queries.weights[0]) // ways - one for one in k]
    else:
        q = numbers("queries", spec.queries, ways, draws)
    return k, q, u


def distractors_of(spec, classes, positions, draws):
    wanted = number(spec.distractors, draws, rng.COUNTS, ROW["distractors"] * SLOT)
    if not wanted:
        return [], [], []
    groups = {int(classes.groups[c]) for c in positions}
    if spec.distractor_groups == "any":
        pool = draws.choose(rng.DISTRACTORS, 0, len(classes), min(len(classes), len(positions) + wanted))
    else:
        same = spec.distractor_groups == "same"
        rest = [c for c in range(len(classes)) if c not in positions and (int(classes.groups[c]) in groups) == same]
        pool = [rest[i] for i in draws.choose(rng.DISTRACTORS, 0, len(rest), min(len(rest), wanted))]
    found = [c for c in pool if c not in positions][:wanted]
    q = numbers("distractor_queries", spec.distractor_queries, len(found), draws)
    return found, q, numbers("distractor_rows", spec.distractor_rows, len(found), draws)


def plan(sampler, classes, spec, seed, index, pools=None, hold=1):
    """(positions, distractors, support, query, unlabeled): rows per class, but unlabeled as shuffled (row, label) pairs."""
    draws = Draws(sampler, classes, seed, index, hold)
    positions = classes_of(spec, classes, draws, pools)
    k, q, u = counts_of(spec, classes, positions, draws)
    extra, extra_q, extra_u = distractors_of(spec, classes, positions, draws)
    support, query, hidden = [], [], []
    slots = [*zip(positions, k, q, u, strict=True), *zip(extra, [0] * len(extra), extra_q, extra_u, strict=True)]
    for j, (c, shots, queries, rows) in enumerate(slots):
        out = j >= len(positions)
        purpose, slot = (rng.DISTRACTORS, j - len(positions) + 1) if out else (rng.ROWS, j)
        num, cut = int(classes.counts[c]), int(classes.labeled[c])
        order = classes.rows(c)
        parted = cut < num
        base = parted and len(classes.seen) > 0 and bool(classes.seen[c])
        size = shots + (0 if base else queries) + (0 if parted else rows)
        drawn = draws.choose(purpose, slot, cut if parted else num, size, description=False)
        if base:
            drawn += [cut + i for i in draws.choose(purpose, slot + SLOT, num - cut, queries, description=False)]
        if parted:
            drawn += [cut + i for i in draws.choose(rng.UNLABELED, slot + SLOT * out, num - cut, rows, description=False)]
        values = [int(order[i]) for i in drawn]
        support.append(values[:shots])
        query.append(values[shots : shots + queries])
        hidden += [(row, j if not out else -1) for row in values[shots + queries :]]
    shuffle = draws.choose(rng.UNLABELED, 2 * SLOT, len(hidden), len(hidden), description=False) if hidden else []
    return positions, extra, support, query, [hidden[i] for i in shuffle]


def exp(x):
    """e ** x by the same halving and Taylor sum."""
    halvings = 0
    while abs(x) > 0.35:
        x *= 0.5
        halvings += 1
    total = 0.0
    for n in range(14, -1, -1):
        total = total * x + 1.0 / math.factorial(n)
    for _ in range(halvings):
        total *= total
    return total


def meta_dataset(sampler, classes, spec, seed, index, pools=None):
    """(positions, shots, queries) of Meta-Dataset with every count variable, by section 3 of the rules."""
    o = sampler.options
    draws = Draws(sampler, classes, seed, index, o.hold)
    flat = pools is None
    if not flat and o.ignore_hierarchy > 0:
        flat = (draws.word(rng.GROUPS, 1) >> 11) / 2**53 < o.ignore_hierarchy
    if flat:
        ways = o.min_ways + draws.choose(rng.WAYS, 0, min(o.max_ways, len(classes)) - o.min_ways + 1, 1)[0]
        positions = draws.choose(rng.CLASSES, 0, len(classes), ways)
    else:
        pool = pools[draws.choose(rng.GROUPS, 0, len(pools), 1)[0]]
        ways = min(o.max_ways, len(pool))
        if o.hierarchy == "groups":
            ways = o.min_ways + draws.choose(rng.WAYS, 0, ways - o.min_ways + 1, 1)[0]
        positions = [pool[i] for i in draws.choose(rng.CLASSES, 0, len(pool), ways)]
    n = [int(classes.counts[c]) for c in positions]
    q = min(o.max_queries, min(n) // 2)
    beta = (draws.word(rng.COUNTS, 16 * SLOT) >> 11) / 2**53
    bound = min(o.max_support, sum(math.floor(beta * min(o.max_contribution, m - q)) + 1 for m in n))
    words = [draws.word(rng.COUNTS, 17 * SLOT + j) for j in range(ways)]
    alphas = [o.min_log_weight + (w >> 11) / 2**53 * (o.max_log_weight - o.min_log_weight) for w in words]
    total = 0.0
    for m, alpha in zip(n, alphas, strict=True):
        total += m * exp(alpha)
    k = [min(math.floor(m * exp(a) / total * (bound - ways)) + 1, m - q) for m, a in zip(n, alphas, strict=True)]
    return positions, k, [q] * ways
