"""Compiled: the numbers of `episodes.transforms.Transform`, keyed by (seed, stream, TRANSFORM, row, index).

The slot of the counter is the row, and above its 48 bits the view of it (`FlatPlans.slots`). Each part of a transform has
its words at fixed places, whatever else is asked for:

    block 1   flip, crop y, crop x
    block 2   rotation, translation y, translation x, scale
    block 3   brightness, contrast

Places are in 16.16 fixed point and composed by whole-number products; sine and cosine are sums of products. So the
numbers are the same on every machine.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from episodes.rng import TRANSFORM, jit, philox, unit

ONE: Final = 65536  # 1.0 in 16.16
MIDDLE: Final = 128  # of the tone: contrast leaves it where it is

# Coefficients of cos(x) and sin(x) / x in x², highest first: the error at 180 degrees is below 1e-11.
_COS: Final = tuple((-1) ** n / math.factorial(2 * n) for n in range(12, -1, -1))
_SIN: Final = tuple((-1) ** n / math.factorial(2 * n + 1) for n in range(12, -1, -1))


@jit
def _either(word, limit):
    """A real number in [-limit, limit)."""
    return (2.0 * unit(word) - 1.0) * limit


@jit
def _fixed(x):
    """`x` in 16.16, rounded to the nearest."""
    return np.int64(np.floor(x * ONE + 0.5))


@jit
def _horner(coefficients, x):
    total = 0.0
    for coefficient in coefficients:
        total = total * x + coefficient
    return total


@jit
def fill_numbers(key0, key1, indices, rows, turns, height, width, limits, out):
    """Fill ``out`` [n, 8]; see `Transform.draw`.

    Args:
        indices: [n] uint64 episode.
        rows: [n] int64.
        turns: [n] int64 quarter turns, or empty.
        limits: [8] float64: flip, crop padding, rotation in radians, translation, scale from, scale to, brightness,
            contrast.
    """
    flips, padding = limits[0] > 0, np.int64(limits[1])
    affine = limits[2] > 0 or limits[3] > 0 or limits[4] != 1 or limits[5] != 1
    for i in range(len(rows)):
        index, slot, to = np.uint64(indices[i]), np.uint64(rows[i]), out[i]
        to[0], to[1], to[2], to[3], to[4], to[5], to[6], to[7] = ONE, 0, 0, 0, ONE, 0, ONE, 0
        if flips or padding:
            word, second, third, _ = philox(key0, key1, 1, slot, TRANSFORM, index)
            if flips and word >> np.uint64(63):
                to[4], to[5] = -ONE, (width - 1) * ONE
            # 53 bits of a word times the number of places: off from uniform by 1e-12, without a word passed over.
            to[2] += (np.int64(np.floor(unit(second) * (2 * padding + 1))) - padding) * ONE
            to[5] += (np.int64(np.floor(unit(third) * (2 * padding + 1))) - padding) * ONE
        if affine:
            _affine(philox(key0, key1, 2, slot, TRANSFORM, index), height, width, limits, to)
        if len(turns):
            _turn(turns[i], height, width, to)
        if limits[6] > 0 or limits[7] > 0:
            word, second, _, _ = philox(key0, key1, 3, slot, TRANSFORM, index)
            to[6] = ONE + _fixed(_either(second, limits[7]))
            to[7] = _fixed(255.0 * _either(word, limits[6])) + MIDDLE * (ONE - to[6])


@jit
def _affine(words, height, width, limits, to):
    """Compose: rotate counter-clockwise and enlarge about the centre, then shift; of the map, its inverse."""
    angle = _either(words[0], limits[2])
    down, right = _fixed(_either(words[1], limits[3]) * height), _fixed(_either(words[2], limits[3]) * width)
    shrink = 1.0 / (limits[4] + unit(words[3]) * (limits[5] - limits[4]))
    cos = _fixed(_horner(_COS, angle * angle) * shrink)
    sin = _fixed(_horner(_SIN, angle * angle) * angle * shrink)
    y, x = (height - 1) * (ONE // 2), (width - 1) * (ONE // 2)  # the centre
    for j in range(3):
        a, b = to[j], to[3 + j]
        if j == 2:
            a, b = a - y - down, b - x - right
        to[j], to[3 + j] = (cos * a + sin * b) >> 16, (cos * b - sin * a) >> 16
    to[2] += y
    to[5] += x


@jit
def _turn(turns, height, width, to):
    """Compose: quarter turns counter-clockwise of the source."""
    bottom, right = (height - 1) * ONE, (width - 1) * ONE
    for j in range(3):
        y, x = to[j], to[3 + j]
        last = np.int64(j == 2)  # the offset belongs to the third column only
        if turns == 1:
            to[j], to[3 + j] = x, last * right - y
        elif turns == 2:
            to[j], to[3 + j] = last * bottom - y, last * right - x
        elif turns == 3:
            to[j], to[3 + j] = last * bottom - x, y
