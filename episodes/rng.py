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
import logging
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numba
import numpy as np
from llvmlite import ir
from numba.core import event, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from episodes.errors import SpecError

Int = NDArray[np.int64]

# Purposes: the third word of the counter. Numbers are part of the data order and never reused. They have a type, for a
# kernel is compiled once for a type, but anew for each number written in Python.
CLASSES: Final = np.uint64(1)
ROWS: Final = np.uint64(2)
GROUPS: Final = np.uint64(3)
WAYS: Final = np.uint64(4)
COUNTS: Final = np.uint64(5)
DISTRACTORS: Final = np.uint64(6)
UNLABELED: Final = np.uint64(7)
FRONT: Final = np.uint64(8)  # which rows of a class are its front pool: labeled, or for training
TRANSFORM: Final = np.uint64(9)
SOURCE: Final = np.uint64(10)
META: Final = np.uint64(11)
PASS: Final = np.uint64(12)
OVERLAP: Final = np.uint64(13)
ORACLE: Final = np.uint64(14)
NEGATIVES: Final = np.uint64(15)
OWN: Final = np.uint64(16)  # numbers of a user's own function of an episode's values
SELF: Final = np.uint64(17)  # whether the support rows of an episode become its classes
MADE_CLASS: Final = np.uint64(18)  # what a class of a data set made on demand is
MADE_ROW: Final = np.uint64(19)  # what a row of it is

SCRATCH: Final = 1 << 16  # numbers below which a permutation is kept
SMALL: Final = 64  # numbers below which one is made afresh, which beats undoing one


def jit(function: Callable[..., Any]) -> Any:
    """Compile a kernel: machine code cached on disk, no interpreter lock while it runs, exact arithmetic."""
    return numba.njit(function, cache=True, nogil=True, fastmath=False)


class _Announcement(event.Listener):
    """Says, once in a process, why the first use after installation takes so long; the command line shows it."""

    said = False

    def on_start(self, event: Any) -> None:
        if not self.said and event.data["dispatcher"].py_func.__module__.startswith("episodes."):
            _Announcement.said = True
            logging.getLogger("episodes").info("compiling for this machine, once per installation: up to half a minute")

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Announcement())


@intrinsic
def multiply(typingctx, a, b):
    """Upper and lower 64 bits of a 64 × 64 bit product: one instruction gives both."""

    def codegen(context, builder, signature, args):
        wide, word = ir.IntType(128), ir.IntType(64)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        upper = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), word)
        return context.make_tuple(builder, signature.return_type, (upper, builder.trunc(product, word)))

    return types.UniTuple(types.uint64, 2)(types.uint64, types.uint64), codegen


_M0: Final = np.uint64(0xD2E7470EE14C6C93)
_M1: Final = np.uint64(0xCA5A826395121157)
_W0: Final = np.uint64(0x9E3779B97F4A7C15)
_W1: Final = np.uint64(0xBB67AE8584CAA73B)


@jit
def philox(key0, key1, block, slot, purpose, index):
    """Four random words of one counter value: uint64 × 4."""
    words = np.uint64(block), np.uint64(slot), np.uint64(purpose), np.uint64(index)
    return _philox(np.uint64(key0), np.uint64(key1), *words)


@jit
def _philox(k0, k1, x0, x1, x2, x3):
    for _ in range(10):
        upper0, lower0 = multiply(_M0, x0)
        upper1, lower1 = multiply(_M1, x2)
        x0, x1, x2, x3 = upper1 ^ x1 ^ k0, lower1, upper0 ^ x3 ^ k1, lower0
        k0, k1 = k0 + _W0, k1 + _W1
    return x0, x1, x2, x3


@jit
def unit(word):
    """A real number in [0, 1) of a word: its upper 53 bits."""
    return np.float64(word >> np.uint64(11)) * (1.0 / 9007199254740992.0)


def units(key0: int, key1: int, purpose: np.uint64, slots: Int, indices: Int, count: int) -> NDArray[np.float64]:
    """[n, count] real numbers in [0, 1), of the words of each (slot, index): `unit` of them, from block 1 on."""
    out = np.empty((len(slots), count))
    _units(np.uint64(key0), np.uint64(key1), purpose, np.ascontiguousarray(slots), np.ascontiguousarray(indices), out)
    return out


@jit
def _units(key0, key1, purpose, slots, indices, out):
    for i in range(len(out)):
        for j in range(0, out.shape[1], 4):
            words = philox(key0, key1, 1 + j // 4, slots[i], purpose, indices[i])
            for k in range(min(4, out.shape[1] - j)):
                out[i, j + k] = unit(words[k])


@jit
def below(key0, key1, purpose, slot, index, n):
    """One number below `n` (at least 1), without bias: the first that `choose` would give."""
    return _below(key0, key1, np.uint64(purpose), np.uint64(slot), np.uint64(index), np.uint64(n))


@jit
def _below(key0, key1, purpose, slot, index, span):
    block, lane = np.uint64(0), 4
    words = (np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0))
    while True:
        if lane == 4:
            block += np.uint64(1)
            words = philox(key0, key1, block, slot, purpose, index)
            lane = 0
        upper, lower = multiply(words[lane], span)
        lane += 1
        if lower >= span or lower >= (np.uint64(0) - span) % span:
            return np.int64(upper)


@jit
def choose(key0, key1, purpose, slot, index, n, scratch, out):
    """Fill `out` with ``len(out)`` different numbers below `n`, in random order; the first j do not depend on len(out).

    Partial Fisher-Yates on `scratch`, which must hold 0, 1, 2, ... and does so again on return (the swaps are undone, so
    the cost is that of the numbers drawn, not of n); its last `SMALL` places are free memory. Bounded numbers by Lemire's
    multiply and reject (2019), which has no bias. An `n` beyond the length of `scratch` draws the same without a
    permutation of n numbers.
    """
    zero = np.int64(0)
    choose_at(key0, key1, np.uint64(purpose), np.uint64(slot), np.uint64(index), np.int64(n), len(out), scratch, out, zero)


@jit
def choose_at(key0, key1, purpose, slot, index, n, k, scratch, out, at):
    """`choose` into ``out[at : at + k]``; a slice costs a kernel as much as drawing several numbers."""
    if n > len(scratch) - SMALL:
        choose_sparse(key0, key1, purpose, slot, index, n, out[at : at + k])
        return
    i = 0
    block, rare = np.uint64(0), False
    while i < k:  # unrolled by the four words of a block: a third of the time goes otherwise
        block += np.uint64(1)
        word, second, third, fourth = philox(key0, key1, block, slot, purpose, index)
        rare |= _swap(word, n, i, scratch, out, at)
        i += 1
        if i < k:
            rare |= _swap(second, n, i, scratch, out, at)
            i += 1
        if i < k:
            rare |= _swap(third, n, i, scratch, out, at)
            i += 1
        if i < k:
            rare |= _swap(fourth, n, i, scratch, out, at)
            i += 1
    for i in range(k):
        # A place that a swap touched is some i, or its own number was the one it held when first touched, and went out.
        scratch[i] = i
        scratch[out[at + i]] = out[at + i]
    if rare:  # a word may have to be passed over: once in 2**64 / n draws
        choose_sparse(key0, key1, purpose, slot, index, n, out[at : at + k])


@jit
def _swap(word, n, i, scratch, out, at):
    """Number i of a choice; True if the word may be one that bias-free drawing rejects."""
    span = np.uint64(n - i)
    upper, lower = multiply(word, span)
    j = i + np.int64(upper)
    out[at + i] = scratch[j]
    scratch[j] = scratch[i]  # place i is never looked at again
    return lower < span


@jit
def choose_sparse(key0, key1, purpose, slot, index, n, out):
    """`choose` with the swapped places in a hash table: a class of ten million rows costs what is drawn of it."""
    size = 4
    while size < 4 * len(out):
        size *= 2
    places, held = np.full(size, -1, np.int64), np.empty(size, np.int64)
    block, lane = np.uint64(0), 4
    words = (np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0))
    for i in range(len(out)):
        span = np.uint64(n - i)
        while True:
            if lane == 4:
                block += np.uint64(1)
                words = philox(key0, key1, block, slot, purpose, index)
                lane = 0
            upper, lower = multiply(words[lane], span)
            lane += 1
            # 2**64 mod span, by wrap-around; computed only in the rare case that it can matter
            if lower >= span or lower >= (np.uint64(0) - span) % span:
                break
        j = i + np.int64(upper)
        at_i = _find(places, i)
        here = held[at_i] if places[at_i] == i else i
        at_j = _find(places, j)
        out[i] = held[at_j] if places[at_j] == j else j
        places[at_j], held[at_j] = j, here  # place i is never looked at again


@jit
def _find(places, place):
    """Slot of `place` in an open-addressed table, or the free one where it belongs."""
    mask = np.int64(len(places) - 1)
    at = np.int64((np.uint64(place) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask
    while places[at] != -1 and places[at] != place:
        at = (at + 1) & mask
    return at


_LOCAL = threading.local()


def scratch() -> NDArray[np.int64]:
    """0, 1, 2, ... for `choose` and free memory after it: one array a thread, made once."""
    try:
        return _LOCAL.scratch  # type: ignore[no-any-return]
    except AttributeError:
        _LOCAL.scratch = np.arange(SCRATCH + SMALL)
        return _LOCAL.scratch  # type: ignore[no-any-return]


@cache
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
