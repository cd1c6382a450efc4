"""Compiled writes that go past the caches, for what is larger than they are.

An ordinary store to memory that no cache holds fetches the cache line first and writes it back later. A line written whole
by non-temporal stores goes to memory as it is, and pushes nothing out. In trials (2 MiB of second-level cache) a gather
took a quarter less time that way and conversion to float32 half, and who read the result afterwards still gained; what
fits in the cache is better found there, a third faster at 28x28.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from episodes.rng import jit
from episodes.store._pointers import bytes_at, floats_at, memcpy

PAST: Final = 4 << 20  # bytes that one call writes, from which it goes past the caches
_LINE: Final = 64  # bytes
_FLOATS: Final = _LINE // 4
_BYTE, _WORD, _FLOAT = ir.IntType(8), ir.IntType(64), ir.FloatType()


def _put(builder: Any, value: Any, address: Any) -> None:
    """A non-temporal store of a whole line to an address (i64) that a line begins at."""
    stored = builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=_LINE)
    stored.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))


@intrinsic
def _copy_lines(typingctx, destination, source, lines):
    """Copy `lines` cache lines between two addresses (uint64); a line begins at the first."""

    def codegen(context, builder, signature, args):
        line = ir.VectorType(_BYTE, _LINE).as_pointer()
        with cgutils.for_range(builder, args[2]) as loop:
            offset = builder.mul(loop.index, _WORD(_LINE))
            value = builder.load(builder.inttoptr(builder.add(args[1], offset), line), align=1)
            _put(builder, value, builder.add(args[0], offset))
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.int64), codegen


@intrinsic
def _scale_lines(typingctx, destination, source, lines, scale, shift):
    """``source * scale + shift`` (float32) of 16 bytes for each of `lines` cache lines; a line begins at the first address.

    A product and a sum that are never contracted: the bits are those of the same in a loop.
    """

    def codegen(context, builder, signature, args):
        some, ints = ir.VectorType(_BYTE, _FLOATS), ir.VectorType(ir.IntType(32), _FLOATS)
        floats = ir.VectorType(_FLOAT, _FLOATS)
        factor, term = (_repeated(builder, one, floats) for one in args[3:])
        with cgutils.for_range(builder, args[2]) as loop:
            place = builder.add(args[1], builder.mul(loop.index, _WORD(_FLOATS)))
            pixels = builder.load(builder.inttoptr(place, some.as_pointer()), align=1)
            values = builder.uitofp(builder.zext(pixels, ints), floats)
            values = builder.fadd(builder.fmul(values, factor), term)
            _put(builder, values, builder.add(args[0], builder.mul(loop.index, _WORD(_LINE))))
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.int64, types.float32, types.float32), codegen


def _repeated(builder: Any, value: Any, kind: Any) -> Any:
    """A vector of one number."""
    vector = ir.Constant(kind, ir.Undefined)
    for i in range(kind.count):
        vector = builder.insert_element(vector, value, ir.IntType(32)(i))
    return vector


@intrinsic
def settle(typingctx):
    """Wait until what went past the caches can be seen by all threads: such stores are not ordered with others."""

    def codegen(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@jit
def copy_past(to, source, count):
    """Copy `count` bytes between two addresses (uint64); call `settle` after the last of them."""
    head = min(count, np.int64(-np.int64(to) % _LINE))  # lines that are written in part are written as usual
    lines = (count - head) // _LINE
    body = head + lines * _LINE
    memcpy(to, source, head)
    _copy_lines(to + np.uint64(head), source + np.uint64(head), lines)
    memcpy(to + np.uint64(body), source + np.uint64(body), count - body)


@jit
def scale_past(source, to, count, scale, shift):
    """``source * scale + shift``, [count] float32 at `to`, of the bytes at `source`; then call `settle`.

    Both are addresses (uint64); `to` is aligned to 4 bytes.
    """
    head = min(count, np.int64(-np.int64(to) % _LINE) // 4)
    lines = (count - head) // _FLOATS
    pixels, out = bytes_at(source, count), floats_at(to, count)
    for i in range(head):
        out[i] = np.float32(pixels[i]) * scale + shift
    _scale_lines(to + np.uint64(4 * head), source + np.uint64(head), lines, scale, shift)
    for i in range(head + lines * _FLOATS, count):
        out[i] = np.float32(pixels[i]) * scale + shift


@jit
def copy_pieces(destinations, sources, counts):
    """Copy ``counts[i]`` bytes (int64) between addresses (uint64), one piece after the other: together they decide how."""
    past = counts.sum() >= PAST
    for i in range(len(counts)):
        if past:
            copy_past(destinations[i], sources[i], counts[i])
        else:
            memcpy(destinations[i], sources[i], counts[i])
    if past:
        settle()


def copy_arrays(pieces: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> None:
    """Copy arrays, each (to, from) contiguous and of one type and shape."""
    addresses = np.array([(to.ctypes.data, source.ctypes.data) for to, source in pieces], np.uint64).reshape(-1, 2)
    counts = np.array([source.nbytes for _, source in pieces], np.int64)
    copy_pieces(addresses[:, 0], addresses[:, 1], counts)
