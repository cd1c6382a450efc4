"""What is too large for the caches is written past them, and is the same to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from episodes.store._fused import gather_transformed
from episodes.store._gather import gather
from episodes.store._past import PAST, copy_past, scale_past
from episodes.transforms import Transform

PIXELS = np.random.Generator(np.random.Philox(8)).integers(0, 256, 6000, np.uint8)
offsets = st.integers(0, 200)


def address(values, offset=0):
    return np.uint64(values.ctypes.data + offset * values.itemsize)


@settings(deadline=None)  # the first call compiles
@given(st.integers(0, 1000), offsets, offsets)
def test_any_bytes_are_copied_and_nothing_around_them(count, to, source):
    out = np.zeros(1500, np.uint8)
    copy_past(address(out, to), address(PIXELS, source), count)
    assert np.array_equal(out[to : to + count], PIXELS[source : source + count])
    assert not out[:to].any()
    assert not out[to + count :].any()


@settings(deadline=None)  # the first call compiles
@given(st.integers(0, 1000), offsets, offsets, st.floats(-3, 3, width=32), st.floats(-3, 3, width=32))
def test_any_pixels_become_floats_as_in_numpy(count, to, source, scale, shift):
    out = np.full(1500, 7, np.float32)
    scale, shift = np.float32(scale), np.float32(shift)
    scale_past(address(PIXELS, source), address(out, to), count, scale, shift)
    assert np.array_equal(out[to : to + count], PIXELS[source : source + count].astype(np.float32) * scale + shift)
    assert (out[:to] == 7).all()
    assert (out[to + count :] == 7).all()


@pytest.mark.parametrize("size", [784, 785, 21168])
@pytest.mark.parametrize("more", [0, 1])
def test_a_gather_about_the_bound_is_that_of_numpy(size, more):
    num = PAST // size + more  # below it; the least beyond
    images = np.resize(PIXELS, (50, size))
    images[:, 0] = np.arange(50)
    rows = np.random.Generator(np.random.Philox(9)).integers(0, 50, num)
    out = np.zeros(num * size + 128, np.uint8)
    assert gather(np.array([images.ctypes.data], np.uint64), 50, 50, size, rows, address(out, 5)) == -1
    assert np.array_equal(out[5 : 5 + num * size].reshape(num, size), images[rows])
    assert not out[:5].any()
    assert not out[5 + num * size :].any()


@pytest.mark.parametrize("layout", ["chw", "hwc"])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("side", [28, 33])
def test_a_large_delivery_is_that_of_numpy(layout, normalised, side):
    images = np.resize(PIXELS, (20, 3, side, side))
    num = PAST // images[0].nbytes + 1
    rows = np.random.Generator(np.random.Philox(10)).integers(0, 20, num)
    statistics = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)} if normalised else {}
    transform = Transform(layout=layout, **statistics)
    scale, shift = transform.normaliser(3)
    out = np.empty((num, 3, side, side), np.float32 if normalised else np.uint8)
    assert gather_transformed(
        np.array([images.ctypes.data], np.uint64), 20, 20, 3, side, side, False, layout == "hwc", rows,
        np.empty((0, 8), np.int64), 0, scale, shift, address(out),
    ) == -1  # fmt: skip
    wanted = images[rows]
    if normalised:
        wanted = wanted.astype(np.float32) * scale[:, None, None] + shift[:, None, None]
    if layout == "hwc":
        out, wanted = out.reshape(num, side, side, 3), wanted.transpose(0, 2, 3, 1)
    assert np.array_equal(out, wanted)
