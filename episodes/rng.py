"""Keyed random numbers: every draw is a pure function of (seed, stream, purpose, slot, index). There is no state.

Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), bit-identical to
``numpy.random.Philox``, so that every draw can be checked in plain NumPy:

    words(key, purpose, slot, index)  ==
    numpy.random.Philox(key=[seed, stream], counter=[0, slot, purpose, index]).random_raw(n)

Key = (seed, stream), where the stream is the hash of the split and of the sampler's name and version. Counter =
(block, slot, purpose, index): blocks count from 1 and hold four words each, a slot is a class of the episode, purposes
are the constants below, the index is the episode's. There is no generator object to share, seed, fork or save.

Rules: seeds are never added to anything; separate purposes have separate counters, so asking for more queries cannot
move the support; a change of what a key yields is a new version of its sampler.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from episodes.errors import SpecError

# Purposes: the third word of the counter. Numbers are part of the data order and never reused.
CLASSES: Final = 1
ROWS: Final = 2
GROUPS: Final = 3

UInt = NDArray[np.uint64]


def jit(function: Callable[..., Any]) -> Any:
    """Compile a kernel: machine code cached on disk, no interpreter lock while it runs, exact arithmetic."""
    return numba.njit(function, cache=True, nogil=True, fastmath=False)


@intrinsic
def _mul_high(typingctx, a, b):
    """Upper 64 bits of a 64 × 64 bit product; one instruction, where Python-level limbs take a dozen."""

    def codegen(context, builder, signature, args):
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), codegen


_M0: Final = np.uint64(0xD2E7470EE14C6C93)
_M1: Final = np.uint64(0xCA5A826395121157)
_W0: Final = np.uint64(0x9E3779B97F4A7C15)
_W1: Final = np.uint64(0xBB67AE8584CAA73B)


@jit
def philox(key0, key1, block, slot, purpose, index):
    """Four random words of one counter value: uint64 × 4."""
    x0, x1, x2, x3 = np.uint64(block), np.uint64(slot), np.uint64(purpose), np.uint64(index)
    k0, k1 = np.uint64(key0), np.uint64(key1)
    for _ in range(10):
        x0, x1, x2, x3 = _mul_high(_M1, x2) ^ x1 ^ k0, _M1 * x2, _mul_high(_M0, x0) ^ x3 ^ k1, _M0 * x0
        k0, k1 = k0 + _W0, k1 + _W1
    return x0, x1, x2, x3


@jit
def choose(key0, key1, purpose, slot, index, n, scratch, out):
    """Fill `out` with ``len(out)`` different numbers below `n`, in random order; the first j do not depend on len(out).

    Partial Fisher-Yates on `scratch`, which must hold 0, 1, 2, ... in its first n places and does so again on return
    (the swaps are undone, so the cost is that of the numbers drawn, not of n). Bounded numbers by Lemire's multiply
    and reject (2019), which has no bias.
    """
    k = len(out)
    block, lane = np.uint64(0), 4
    words = (np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0))
    for i in range(k):
        span = np.uint64(n - i)
        while True:
            if lane == 4:
                block += np.uint64(1)
                words = philox(key0, key1, block, slot, purpose, index)
                lane = 0
            word = words[lane]
            lane += 1
            low = word * span
            # 2**64 mod span, by wrap-around; computed only in the rare case that it can matter
            if low >= span or low >= (np.uint64(0) - span) % span:
                break
        j = i + np.int64(_mul_high(word, span))
        scratch[i], scratch[j] = scratch[j], scratch[i]
        out[i] = scratch[i]
    for i in range(k):
        # A place that a swap touched is some i, or its own number was the one it held when first touched, and went out.
        scratch[i] = i
        scratch[out[i]] = out[i]


def stream_key(*parts: str | int) -> int:
    """Hash of structured names into a 64-bit key word; parts are separated, so ("ab", "c") is not ("a", "bc")."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def check_word(name: str, value: Any) -> int:
    """`value` as a whole number in 0..2**64-1, the range of seeds and episode indices.

    Raises:
        SpecError: it is not one.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise SpecError(f"{name}={value!r} is not a whole number")
    if not 0 <= value < 2**64:
        raise SpecError(f"{name}={value} is out of range; it must be 0 to 2**64 - 1")
    return int(value)
