"""Compiled gathering with transforms: uint8 images of mapped shards -> images of an episode, without the interpreter lock.

An image passes from its mapped bytes through geometry, tone and delivery (`episodes.transforms`) into the episode's
memory. A stage that this image does not need is not run and costs nothing; between two stages it lies in a buffer of one
image, which stays in the nearest cache. Whole numbers but for the last product and sum, which are never contracted, so a
slow twin and a device give the same bits.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from episodes.rng import jit
from episodes.store._gather import _AHEAD, _prefetch
from episodes.store._geometry import ONE, move
from episodes.store._past import PAST, copy_past, scale_past, settle
from episodes.store._pointers import bytes_at, floats_at, memcpy

_FETCHED: Final = 1024  # bytes of a row that are fetched ahead


@jit
def gather_transformed(
    addresses, rows_per_shard, num_rows, channels, height, width, stored_last, last, rows, numbers, fill, scale, shift, out
):
    """Transform `rows` of a uint8 field into the memory at address `out`; returns the place of the first row out of range,
    or -1.

    Args:
        addresses: [shards] uint64, place of the field's first byte in each shard; all but the last hold
            `rows_per_shard` rows.
        num_rows: rows in the store; nothing is read beyond.
        stored_last: whether channels come last in the store.
        last: whether channels come last in `out`.
        rows: [n] int64.
        numbers: [n, 8] int64 of `Transform.draw`, or [0, 8]: nothing moves and the tone stays.
        fill: 0..255, what lies outside an image.
        scale, shift: [C] float32 of `Transform.normaliser`; empty: uint8 is delivered.
        out: uint64 address of n images, writable; aligned to 4 bytes for float32.
    """
    n = len(rows)
    for i in range(n):
        if rows[i] < 0 or rows[i] >= num_rows:
            return i
    size = channels * height * width
    buffers = np.empty(2 * size, np.uint8)
    framed = np.empty(channels * (height + 2) * (width + 2) if len(numbers) else 0, np.uint8)
    scales, shifts = _along_row(scale, width, last), _along_row(shift, width, last)
    stored_last = last if channels == 1 else stored_last  # of one channel the bytes are the same
    straight = len(scale) == 0 and stored_last == last
    value_bytes = 4 if len(scale) else 1
    past = n * size * value_bytes >= PAST
    for i in range(n):
        if i + _AHEAD < n:
            ahead = rows[i + _AHEAD]
            place = addresses[ahead // rows_per_shard] + np.uint64((ahead % rows_per_shard) * size)
            for line in range(0, min(size, _FETCHED), 64):
                _prefetch(place + np.uint64(line))
        image = addresses[rows[i] // rows_per_shard] + np.uint64((rows[i] % rows_per_shard) * size)
        to = np.uint64(out + np.uint64(i * size * value_bytes))
        if len(numbers):
            image = _change(
                image, to, channels, height, width, stored_last, straight, numbers[i], np.uint8(fill), buffers, framed
            )
        if image != to:
            _deliver(image, to, channels, height, width, stored_last, last, scales, shifts, past)
    if past:
        settle()
    return -1


@jit
def _change(image, to, channels, height, width, last, straight, m, fill, buffers, framed):
    """Geometry and tone of one image; returns where it is then: at `to` where it goes `straight` there.

    Args:
        m: [8] its numbers.
        buffers: [2 * size] uint8, one image after geometry and one after tone: in place would not be vectorised.
        framed: uint8, one image in a frame of one pixel.
    """
    size = channels * height * width
    near = np.uint64(buffers.ctypes.data)
    tones = m[6] != ONE or m[7] != 0
    if m[0] != ONE or m[1] != 0 or m[2] != 0 or m[3] != 0 or m[4] != ONE or m[5] != 0:
        moved = to if straight and not tones else near
        move(image, moved, channels, height, width, last, m, fill, framed)
        image = moved
    if tones:
        toned = to if straight else np.uint64(near + np.uint64(size))
        _tone(image, toned, size, m[6], m[7])
        image = toned
    return image


@jit
def _along_row(values, width, last):
    """[C] values as [C], or [W * C] where channels come last: one for each number of a row of pixels."""
    channels = len(values)
    if not last:
        return values
    out = np.empty(width * channels, np.float32)
    for i in range(len(out)):
        out[i] = values[i % channels]
    return out


@jit
def _deliver(image, to, channels, height, width, stored_last, last, scales, shifts, past):
    """Layout and type. What leaves as it lies in the store goes `past` the caches."""
    area, size = height * width, channels * height * width
    if len(scales) == 0:
        if stored_last == last:
            if past:
                copy_past(to, image, size)
            else:
                memcpy(to, image, size)
            return
        _relayout(bytes_at(image, size), bytes_at(to, size), channels, area, last)
        return
    if last and stored_last:
        step = width * channels
        for y in range(height):
            _scale_row(
                bytes_at(image + np.uint64(y * step), step), floats_at(to + np.uint64(4 * y * step), step), scales, shifts
            )
    elif last:
        pixels, values = bytes_at(image, size), floats_at(to, size)
        if channels == 3:
            _scale_three(pixels, values, area, scales, shifts)
            return
        for c in range(channels):
            a, b = scales[c], shifts[c]
            for i in range(area):
                values[i * channels + c] = np.float32(pixels[c * area + i]) * a + b
    elif stored_last:
        for c in range(channels):
            plane = floats_at(to + np.uint64(4 * c * area), area)
            _scale_strided(bytes_at(image + np.uint64(c), size - c), plane, channels, scales[c], shifts[c])
    else:
        for c in range(channels):
            source, plane = image + np.uint64(c * area), to + np.uint64(4 * c * area)
            if past:
                scale_past(source, plane, area, scales[c], shifts[c])
            else:
                _scale(bytes_at(source, area), floats_at(plane, area), scales[c], shifts[c])


@jit
def _relayout(pixels, out, channels, area, last):
    """Channels from first to last, or from last to first."""
    for c in range(channels):
        if last:
            for i in range(area):
                out[i * channels + c] = pixels[c * area + i]
        else:
            for i in range(area):
                out[c * area + i] = pixels[i * channels + c]


@jit
def _scale(pixels, out, a, b):
    for i in range(len(pixels)):
        out[i] = np.float32(pixels[i]) * a + b


@jit
def _scale_row(pixels, out, a, b):
    for i in range(len(pixels)):
        out[i] = np.float32(pixels[i]) * a[i] + b[i]


@jit
def _scale_three(pixels, out, area, a, b):
    a0, a1, a2, b0, b1, b2 = a[0], a[1], a[2], b[0], b[1], b[2]
    for i in range(np.uint64(area)):
        j = np.uint64(area)
        k = np.uint64(3) * i
        out[k] = np.float32(pixels[i]) * a0 + b0
        out[k + np.uint64(1)] = np.float32(pixels[j + i]) * a1 + b1
        out[k + np.uint64(2)] = np.float32(pixels[j + j + i]) * a2 + b2


@jit
def _scale_strided(pixels, out, step, a, b):
    if step == 3:
        for i in range(len(out)):  # a step that the compiler knows
            out[i] = np.float32(pixels[3 * i]) * a + b
    else:
        for i in range(len(out)):
            out[i] = np.float32(pixels[step * i]) * a + b


@jit
def _tone(image, to, count, gain, bias):
    """``x * gain + bias`` in 16.16, rounded and cut at 0 and 255."""
    pixels, out = bytes_at(image, count), bytes_at(to, count)
    a, b = np.int32(gain), np.int32(bias + ONE // 2)
    for i in range(count):
        value = np.int32(np.int32(np.int32(pixels[i]) * a) + b) >> 16
        out[i] = np.uint8(min(max(np.int32(value), np.int32(0)), np.int32(255)))
