"""Compiled access to memory by address: as an array, or a byte at a time.

An array's loops are vectorised where places are plain; a place that is computed costs a look for wrapping around, which an
address does not: five times as fast for a column of an image.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray  # type: ignore[attr-defined]  # in a list of exports that numba computes
from numba.core import cgutils, types
from numba.extending import intrinsic

from episodes.rng import jit


@intrinsic
def _pointer(typingctx, address):
    """A pointer to `address` (uint64)."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.uint64), codegen


@intrinsic
def memcpy(typingctx, destination, source, count):
    """Copy `count` bytes between two addresses (uint64)."""

    def codegen(context, builder, signature, args):
        pointer = ir.IntType(8).as_pointer()
        to, fro = builder.inttoptr(args[0], pointer), builder.inttoptr(args[1], pointer)
        cgutils.raw_memcpy(builder, to, fro, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.int64), codegen


@intrinsic
def load(typingctx, address):
    """The byte at `address` (uint64), as int64."""

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        return builder.zext(builder.load(place, align=1), ir.IntType(64))

    return types.int64(types.uint64), codegen


@intrinsic
def load_pair(typingctx, address):
    """The bytes at `address` (uint64) and after it, as int64: first + 256 * second."""

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], ir.IntType(16).as_pointer())
        return builder.zext(builder.load(place, align=1), ir.IntType(64))

    return types.int64(types.uint64), codegen


@intrinsic
def store(typingctx, address, value):
    """Write a byte to `address` (uint64)."""

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        builder.store(builder.trunc(args[1], ir.IntType(8)), place, align=1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.int64), codegen


@jit
def bytes_at(address, count):
    """The memory at `address` as [count] uint8."""
    return carray(_pointer(np.uint64(address)), (count,), np.uint8)


@jit
def floats_at(address, count):
    """The memory at `address` as [count] float32."""
    return carray(_pointer(np.uint64(address)), (count,), np.float32)
