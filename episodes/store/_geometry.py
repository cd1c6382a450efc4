"""Compiled: an image moved by the map of `Transform.draw`, in the layout of its store.

``m`` [>= 6] int64 is the map in 16.16 fixed point: output pixel (y, x) shows the source at ``m0*y + m1*x + m2`` down and
``m3*y + m4*x + m5`` to the right. ``last`` tells whether channels come last.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from episodes.rng import jit
from episodes.store._pointers import bytes_at, load, load_pair, memcpy, store

ONE: Final = 65536  # 1.0 in 16.16


@jit
def move(image, to, channels, height, width, last, m, fill, framed):
    """Move the image at `image` to `to`: exactly where the map is one of whole pixels, else resampled.

    Args:
        fill: uint8, what lies outside the image.
        framed: [channels * (height + 2) * (width + 2)] uint8 to work in.
    """
    whole = ((m[0] | m[1] | m[2] | m[3] | m[4] | m[5]) & (ONE - 1)) == 0
    if whole and abs(m[0]) + abs(m[1]) == ONE and abs(m[3]) + abs(m[4]) == ONE:
        _move_whole(image, to, channels, height, width, last, m, fill)
    else:
        _resample(image, to, channels, height, width, last, m, fill, framed)


@jit
def _inside(start, slope, size, low, high):
    """The part of ``low : high`` where 0 <= start + slope * x < size; slope is -1, 0 or 1."""
    if slope == 0:
        return (low, high) if 0 <= start < size else (low, low)
    if slope > 0:
        return max(low, -start), min(high, size - start)
    return max(low, start - size + 1), min(high, start + 1)


@jit
def _move_whole(image, to, channels, height, width, last, m, fill):
    """Turns, flips and shifts by whole pixels: each row of the output is a row or a column of the source."""
    runs, length = (1, channels) if last else (channels, 1)  # planes; bytes of a pixel in one
    yx, xx = m[1] >> 16, m[4] >> 16
    step = (yx * width + xx) * length
    for y in range(height):
        sy, sx = (m[0] * y + m[2]) >> 16, (m[3] * y + m[5]) >> 16  # source of x = 0
        low, high = _inside(sy, yx, height, 0, width)
        low, high = _inside(sx, xx, width, low, high)
        high = max(low, high)
        for c in range(runs):
            row = (c * height + y) * width * length
            first = row + low * length
            _fill(np.uint64(to + np.uint64(row)), min(low, width) * length, fill)
            _fill(np.uint64(to + np.uint64(row + high * length)), (width - high) * length, fill)
            source = (c * height * width + (sy + yx * low) * width + sx + xx * low) * length
            _copy_row(np.uint64(image + np.uint64(source)), np.uint64(to + np.uint64(first)), high - low, length, step)


@jit
def _fill(to, count, value):
    for i in range(count):
        store(np.uint64(to + np.uint64(i)), np.int64(value))


@jit
def _copy_row(source, to, count, length, step):
    """`count` pixels of `length` bytes, read `step` bytes apart."""
    if step == length:
        memcpy(to, source, count * length)
    elif step == -1 and count:
        end = np.uint64(count - 1)  # unsigned places are not looked at for wrapping around, so this becomes a shuffle
        pixels, out = bytes_at(np.uint64(source - end), count), bytes_at(to, count)
        for x in range(np.uint64(count)):
            out[x] = pixels[end - x]
    elif length == 1:
        for x in range(count):
            store(np.uint64(to + np.uint64(x)), load(np.uint64(source + np.uint64(x * step))))
    else:
        for x in range(count):
            for k in range(length):
                store(np.uint64(to + np.uint64(x * length + k)), load(np.uint64(source + np.uint64(x * step + k))))


@jit
def _resample(image, to, channels, height, width, last, m, fill, framed):
    """Any affine map: bilinear with weights of 8 bits; neighbours outside the image are `fill`.

    The planes are copied into a frame of `fill`, one pixel wide, where every neighbour exists.
    """
    dy, dx, dc = (width * channels, channels, 1) if last else (width, 1, height * width)
    broad = width + 2
    plane = (height + 2) * broad
    frame = np.uint64(framed.ctypes.data)
    framed[:] = fill
    for c in range(channels):
        for y in range(height):
            row = np.uint64(frame + np.uint64(c * plane + (y + 1) * broad + 1))
            _copy_row(np.uint64(image + np.uint64(y * dy + c * dc)), row, width, 1, dx)
    near, p, q = np.empty(width, np.int64), np.empty(width, np.int64), np.empty(width, np.int64)
    for y in range(height):
        _places(m[0] * y + m[2], m[3] * y + m[5], m[1], m[4], height, width, near, p, q)
        for c in range(channels):
            row = np.uint64(to + np.uint64(y * dy + c * dc))
            _blend(np.uint64(frame + np.uint64(c * plane)), broad, near, p, q, row, dx)


@jit
def _places(y, x, down, right, height, width, near, p, q):
    """Of each pixel of a row: the upper left of its four neighbours, counted in the frame, and the weights of the others.

    Outside the image it is the frame's corner, with no weight to the others: `fill`.
    """
    for i in range(len(near)):
        b, a = y + down * i, x + right * i
        v, u = (b >> 16) + 1, (a >> 16) + 1
        inside = np.int64((v >= 0) & (v <= height) & (u >= 0) & (u <= width))  # no branch, so that it is vectorised
        near[i] = (v * (width + 2) + u) * inside
        p[i] = ((b >> 8) & 255) * inside
        q[i] = ((a >> 8) & 255) * inside


@jit
def _blend(frame, broad, near, p, q, to, step):
    for i in range(len(near)):
        place = np.uint64(frame + np.uint64(near[i]))
        upper, lower = load_pair(place), load_pair(np.uint64(place + np.uint64(broad)))
        top = ((upper & 255) << 8) + ((upper >> 8) - (upper & 255)) * q[i]
        bottom = ((lower & 255) << 8) + ((lower >> 8) - (lower & 255)) * q[i]
        store(np.uint64(to + np.uint64(i * step)), ((top << 8) + (bottom - top) * p[i] + ONE // 2) >> 16)
