"""Transforms once more, slowly: Python integers, fractions and NumPy's Philox, one pixel at a time."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from test_rng import numpy_words

from episodes import rng

ONE = 65536


def unit(word):
    return (word >> 11) / 2**53


def fixed(x):
    return math.floor(x * ONE + 0.5)


def floored(x):
    """A place rounded down to a 65536th of a pixel."""
    return Fraction(math.floor(x * ONE), ONE)


class Draws:
    """What a transform draws for one row of one episode."""

    def __init__(self, transform, height, width, seed, stream, index, row, turn=0):
        t = self.transform = transform
        self.height, self.width, self.turn = height, width, turn
        words = numpy_words(seed, stream, rng.TRANSFORM, row, index, 12)
        places = 2 * t.crop_padding + 1
        self.flipped = t.flip and words[0] >= 2**63
        self.down, self.right = (math.floor(unit(w) * places) - t.crop_padding for w in words[1:3])
        angle = (2 * unit(words[4]) - 1) * math.radians(t.rotate)
        self.factor = t.scale[0] + unit(words[7]) * (t.scale[1] - t.scale[0])
        self.cos, self.sin = fixed(math.cos(angle) / self.factor), fixed(math.sin(angle) / self.factor)
        self.shift = [
            fixed((2 * unit(w) - 1) * t.translate * side) for w, side in zip(words[5:7], (height, width), strict=True)
        ]
        self.gain = ONE + fixed((2 * unit(words[9]) - 1) * t.contrast)
        self.bias = fixed(255.0 * ((2 * unit(words[8]) - 1) * t.brightness)) + 128 * (ONE - self.gain)

    def source(self, y, x):
        """Place (fractions) in the stored image that output pixel (y, x) shows: the steps backwards, last first."""
        if self.flipped:
            x = self.width - 1 - x
        y, x = Fraction(y + self.down), Fraction(x + self.right)
        if self.transform.resamples:
            middle = Fraction(self.height - 1, 2), Fraction(self.width - 1, 2)
            v, u = (at - c - Fraction(s, ONE) for at, c, s in zip((y, x), middle, self.shift, strict=True))
            cos, sin = Fraction(self.cos, ONE), Fraction(self.sin, ONE)
            y, x = floored(middle[0] + cos * v + sin * u), floored(middle[1] + cos * u - sin * v)
        if self.turn == 2:
            return self.height - 1 - y, self.width - 1 - x
        for _ in range(self.turn):  # a pixel of a turned square lay where
            y, x = x, self.width - 1 - y
        return y, x

    def numbers(self):
        """The row of `Transform.draw`."""
        rows = [[round(at * ONE) for at in self.source(*place)] for place in ((0, 0), (1, 0), (0, 1))]
        (y, x), (below_y, below_x), (beside_y, beside_x) = rows
        return [below_y - y, beside_y - y, y, below_x - x, beside_x - x, x, self.gain, self.bias]


def pixel(plane, y, x, fill):
    height, width = plane.shape
    return int(plane[y, x]) if 0 <= y < height and 0 <= x < width else fill


def bilinear(plane, y, x, fill):
    """Value at a fraction of a pixel: weights of 8 bits, halves rounded up."""
    v, u = math.floor(y), math.floor(x)
    p, q = math.floor((y - v) * 256), math.floor((x - u) * 256)
    corners = [(v, u, (256 - p) * (256 - q)), (v, u + 1, (256 - p) * q), (v + 1, u, p * (256 - q)), (v + 1, u + 1, p * q)]
    total = Fraction(sum(weight * pixel(plane, a, b, fill) for a, b, weight in corners), 65536)
    return math.floor(total + Fraction(1, 2))


def toned(value, draws):
    return min(max(math.floor(Fraction(value * draws.gain + draws.bias, ONE) + Fraction(1, 2)), 0), 255)


def transformed(image, draws):
    """What `transform` delivers for one stored image; in the order of the rules."""
    t = draws.transform
    planes = image if t.stored == "chw" else image.transpose(2, 0, 1)
    channels, height, width = planes.shape
    out = np.empty((channels, height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            place = draws.source(y, x)
            for c in range(channels):
                out[c, y, x] = toned(bilinear(planes[c], *place, t.fill), draws)
    return delivered(out, t)


def delivered(planes, t):
    """Normalised, in the delivered layout: float32 products and sums of NumPy."""
    values = planes
    if t.dtype == "float32":
        channels = len(planes)
        mean, std = np.array(t.mean or [0.0]), np.array(t.std or [1.0])
        scale = np.broadcast_to(np.float32(1 / (255 * std)), channels)[:, None, None]
        shift = np.broadcast_to(np.float32(-mean / std), channels)[:, None, None]
        values = planes.astype(np.float32) * scale + shift
    return values if t.layout == "chw" else values.transpose(1, 2, 0)
