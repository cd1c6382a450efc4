"""Compiled gathering with transforms: uint8 images of mapped shards -> images of an episode, without the interpreter lock.

An image passes from its mapped bytes through geometry, tone and delivery (`episodes.transforms`) into the episode's
memory. A stage that this image does not need is not run and costs nothing; between two stages it lies in a buffer of one
image, which stays in the nearest cache. Whole numbers but for the last product and sum, which are never contracted, so a
slow twin and a device give the same bits.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from llvmlite import ir
from numba import carray  # type: ignore[attr-defined]  # in a list of exports that numba computes
from numba.core import types
from numba.extending import intrinsic

from episodes.rng import jit
from episodes.store._gather import _AHEAD, _memcpy, _prefetch

ONE: Final = 65536  # 1.0 in 16.16
_FETCHED: Final = 1024  # bytes of a row that are fetched ahead


@intrinsic
def _pointer(typingctx, address):
    """A pointer to `address` (uint64)."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.uint64), codegen


@intrinsic
def _load(typingctx, address):
    """The byte at `address` (uint64), as int64."""

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        return builder.zext(builder.load(place, align=1), ir.IntType(64))

    return types.int64(types.uint64), codegen


@intrinsic
def _load_pair(typingctx, address):
    """The bytes at `address` (uint64) and after it, as int64: first + 256 * second."""

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], ir.IntType(16).as_pointer())
        return builder.zext(builder.load(place, align=1), ir.IntType(64))

    return types.int64(types.uint64), codegen


@intrinsic
def _store(typingctx, address, value):
    """Write a byte to `address` (uint64)."""

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        builder.store(builder.trunc(args[1], ir.IntType(8)), place, align=1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.int64), codegen


@jit
def _bytes(address, count):
    return carray(_pointer(np.uint64(address)), (count,), np.uint8)


@jit
def _floats(address, count):
    return carray(_pointer(np.uint64(address)), (count,), np.float32)


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
    for i in range(n):
        if i + _AHEAD < n:
            ahead = rows[i + _AHEAD]
            place = addresses[ahead // rows_per_shard] + np.uint64((ahead % rows_per_shard) * size)
            for line in range(0, min(size, _FETCHED), 64):
                _prefetch(place + np.uint64(line))
        image = addresses[rows[i] // rows_per_shard] + np.uint64((rows[i] % rows_per_shard) * size)
        to = np.uint64(out + np.uint64(i * size * (4 if len(scale) else 1)))
        _transform(
            image, to, channels, height, width, stored_last, last, numbers[i : i + 1], fill, scales, shifts, buffers, framed
        )
    return -1


@jit
def _transform(image, to, channels, height, width, stored_last, last, numbers, fill, scales, shifts, buffers, framed):
    """One image; ``numbers`` [1, 8] or [0, 8]. The buffers hold two images and one with a frame."""
    size = channels * height * width
    straight = len(scales) == 0 and stored_last == last
    near = np.uint64(buffers.ctypes.data)
    moves, tones = False, False
    if len(numbers):
        m = numbers[0]
        moves = m[0] != ONE or m[1] != 0 or m[2] != 0 or m[3] != 0 or m[4] != ONE or m[5] != 0
        tones = m[6] != ONE or m[7] != 0
    if moves:
        moved = to if straight and not tones else near
        _move(image, moved, channels, height, width, stored_last, numbers[0], np.uint8(fill), framed)
        image = moved
    if tones:
        toned = to if straight else np.uint64(near + np.uint64(size))  # not in place: that would not be vectorised
        _tone(image, toned, size, numbers[0, 6], numbers[0, 7])
        image = toned
    if image != to:
        _deliver(image, to, channels, height, width, stored_last, last, scales, shifts)


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
def _deliver(image, to, channels, height, width, stored_last, last, scales, shifts):
    """Layout and type."""
    area, size = height * width, channels * height * width
    if len(scales) == 0:
        if stored_last == last:
            _memcpy(to, image, size)
            return
        _relayout(_bytes(image, size), _bytes(to, size), channels, area, last)
        return
    if last and stored_last:
        step = width * channels
        for y in range(height):
            _scale_row(
                _bytes(image + np.uint64(y * step), step), _floats(to + np.uint64(4 * y * step), step), scales, shifts
            )
    elif last:
        pixels, values = _bytes(image, size), _floats(to, size)
        if channels == 3:
            _scale_three(pixels, values, area, scales, shifts)
            return
        for c in range(channels):
            a, b = scales[c], shifts[c]
            for i in range(area):
                values[i * channels + c] = np.float32(pixels[c * area + i]) * a + b
    elif stored_last:
        for c in range(channels):
            plane = _floats(to + np.uint64(4 * c * area), area)
            _scale_strided(_bytes(image + np.uint64(c), size - c), plane, channels, scales[c], shifts[c])
    else:
        for c in range(channels):
            plane = _floats(to + np.uint64(4 * c * area), area)
            _scale(_bytes(image + np.uint64(c * area), area), plane, scales[c], shifts[c])


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
    pixels, out = _bytes(image, count), _bytes(to, count)
    a, b = np.int32(gain), np.int32(bias + ONE // 2)
    for i in range(count):
        value = np.int32(np.int32(np.int32(pixels[i]) * a) + b) >> 16
        out[i] = np.uint8(min(max(np.int32(value), np.int32(0)), np.int32(255)))


@jit
def _move(image, to, channels, height, width, last, m, fill, framed):
    """Geometry, in the store's layout: exact where the map is one of whole pixels, else resampled."""
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
    out = _bytes(to, channels * height * width)
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
            out[row : row + min(low, width) * length] = fill
            out[row + high * length : row + width * length] = fill
            first = row + low * length
            source = (c * height * width + (sy + yx * low) * width + sx + xx * low) * length
            _copy_row(np.uint64(image + np.uint64(source)), np.uint64(to + np.uint64(first)), high - low, length, step)


@jit
def _copy_row(source, to, count, length, step):
    """`count` pixels of `length` bytes, read `step` bytes apart."""
    if step == length:
        _memcpy(to, source, count * length)
    elif step == -1 and count:
        end = np.uint64(count - 1)  # unsigned places are not looked at for wrapping around, so this becomes a shuffle
        pixels, out = _bytes(np.uint64(source - end), count), _bytes(to, count)
        for x in range(np.uint64(count)):
            out[x] = pixels[end - x]
    elif length == 1:
        for x in range(count):
            _store(np.uint64(to + np.uint64(x)), _load(np.uint64(source + np.uint64(x * step))))
    else:
        for x in range(count):
            for k in range(length):
                _store(np.uint64(to + np.uint64(x * length + k)), _load(np.uint64(source + np.uint64(x * step + k))))


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
        upper, lower = _load_pair(place), _load_pair(np.uint64(place + np.uint64(broad)))
        top = ((upper & 255) << 8) + ((upper >> 8) - (upper & 255)) * q[i]
        bottom = ((lower & 255) << 8) + ((lower >> 8) - (lower & 255)) * q[i]
        _store(np.uint64(to + np.uint64(i * step)), ((top << 8) + (bottom - top) * p[i] + ONE // 2) >> 16)
