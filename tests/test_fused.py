"""The fused gather and its torch counterpart: bit by bit what the slow twin says, whatever the shards and the block."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from test_transforms import EVERYTHING, transforms
from transform_twin import Draws, delivered, transformed

from episodes.adapters._torch_transform import apply, normalise
from episodes.protocols import FieldSpec
from episodes.store._fused import gather_transformed
from episodes.store._gather import gather
from episodes.transforms import Transform

SEED, STREAM, GUARD = 3, 5, 16


def fused(images, transform, indices, rows, turns=None, per_shard=None):
    """`images` [num, *shape] cut into shards -> what the kernel delivers for `rows`; checks that it writes nothing else."""
    turns = np.empty(0, np.int64) if turns is None else turns
    field = FieldSpec("uint8", images.shape[1:])
    channels, height, width = transform.size(field)
    numbers = transform.draw(field, SEED, STREAM, indices, rows, turns)
    per_shard = per_shard or len(images)
    shards = [images[i : i + per_shard].copy() for i in range(0, len(images), per_shard)]
    addresses = np.array([shard.ctypes.data for shard in shards], np.uint64)
    spec = transform.output(field)
    memory = np.full(len(rows) * spec.row_bytes + 2 * GUARD, 171, np.uint8)
    wrong = gather_transformed(
        addresses, per_shard, len(images), channels, height, width, transform.stored == "hwc", transform.layout == "hwc",
        rows, numbers, transform.fill, *transform.normaliser(channels), np.uint64(memory.ctypes.data + GUARD),
    )  # fmt: skip
    assert (memory[:GUARD] == 171).all()
    assert (memory[len(memory) - GUARD :] == 171).all()
    if wrong != -1:
        assert (memory == 171).all(), "nothing is written when a row is out of range"
        return int(wrong)
    return memory[GUARD : len(memory) - GUARD].view(spec.dtype).reshape(len(rows), *spec.shape)


def torched(images, transform, indices, rows, turns=None):
    turns = np.empty(0, np.int64) if turns is None else turns
    numbers = transform.draw(FieldSpec("uint8", images.shape[1:]), SEED, STREAM, indices, rows, turns)
    whole = apply(torch.from_numpy(images), torch.from_numpy(numbers), transform, torch.from_numpy(rows))
    part = apply(torch.from_numpy(images[rows]), torch.from_numpy(numbers), transform)
    assert torch.equal(whole, part), "a whole store with row numbers is the same as the rows"
    assert whole.is_contiguous()
    return whole.numpy()


def noise(num, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, *shape), np.uint8)


@settings(deadline=None, max_examples=150)
@given(
    transforms(), st.sampled_from([1, 2, 3]), st.integers(1, 9), st.integers(1, 9), st.booleans(), st.integers(1, 7),
    st.integers(0, 2**32), st.data(),
)  # fmt: skip
def test_kernel_and_torch_equal_their_slow_twin(transform, channels, height, width, square, per_shard, seed, data):
    width = height if square else width
    shape = (channels, height, width) if transform.stored == "chw" else (height, width, channels)
    images, rng = noise(7, *shape, seed=seed), np.random.default_rng(seed + 1)
    n = data.draw(st.integers(0, 4))
    rows, indices = rng.integers(0, 7, n), rng.integers(0, 2**63, n).astype(np.uint64)
    turns = rng.integers(0, 4, n) if square else 2 * rng.integers(0, 2, n)
    turns = turns if data.draw(st.booleans()) else None
    ours = fused(images, transform, indices, rows, turns, per_shard)
    assert np.array_equal(ours, torched(images, transform, indices, rows, turns))
    for i in range(n):
        turn = 0 if turns is None else int(turns[i])
        draws = Draws(transform, height, width, SEED, STREAM, int(indices[i]), int(rows[i]), turn)
        assert np.array_equal(ours[i], transformed(images[rows[i]], draws))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 45), st.booleans(), st.sampled_from([0, 255]), st.booleans())
def test_whole_pixel_geometry_is_turn_pad_cut_flip(height, width, padding, flip, fill, last):
    transform = Transform(
        flip=flip, crop_padding=padding, fill=fill, stored="hwc" if last else "chw", layout="hwc" if last else "chw"
    )
    images = noise(3, *((height, width, 3) if last else (3, height, width)))
    rows, indices = np.arange(3), np.arange(3, dtype=np.uint64)
    turns = np.array([0, 1, 3]) if height == width else np.array([0, 2, 2])
    ours = fused(images, transform, indices, rows, turns)
    for i in range(3):
        draws = Draws(transform, height, width, SEED, STREAM, i, i)
        planes = images[i].transpose(2, 0, 1) if last else images[i]
        planes = np.rot90(planes, turns[i], axes=(1, 2))
        planes = np.pad(planes, ((0, 0), (padding, padding), (padding, padding)), constant_values=fill)
        top, left = padding + draws.down, padding + draws.right
        planes = planes[:, top : top + height, left : left + width]
        planes = planes[:, :, ::-1] if draws.flipped else planes
        assert np.array_equal(ours[i], planes.transpose(1, 2, 0) if last else planes)


def test_four_quarter_turns_are_none_and_two_flips_are_none():
    images, once = noise(6, 3, 9, 9), np.zeros(6, np.uint64)
    rows, turned = np.arange(6), images
    for _ in range(4):
        turned = fused(turned, Transform(), once, rows, np.array([1, 3, 1, 3, 1, 3]))
    assert np.array_equal(turned, images)
    half = fused(fused(images, Transform(), once, rows, np.full(6, 2)), Transform(), once, rows, np.full(6, 2))
    assert np.array_equal(half, images)
    flipped = fused(images, Transform(flip=True), once, rows)
    assert not np.array_equal(flipped, images)
    assert np.array_equal(fused(flipped, Transform(flip=True), once, rows), images)


def test_an_affine_of_no_angle_scale_or_shift_is_the_identity():
    images, rows = noise(4, 1, 8, 8), np.arange(4)
    nothing = Transform(translate=5e-324)  # drawn, and rounded to no shift
    assert nothing.resamples
    assert np.array_equal(fused(images, nothing, rows.astype(np.uint64), rows), images)


def test_affine_agrees_with_scipys_on_a_smooth_image():
    y, x = np.mgrid[:40, :40]
    image = np.clip(128 + 60 * np.sin(y / 6) + 60 * np.cos(x / 7 + y / 15), 0, 255).astype(np.uint8)[None, None]
    transform = Transform(rotate=35.0, translate=0.1, scale=(0.8, 1.3), fill=128)
    for index in range(8):
        ours = fused(image, transform, np.array([index], np.uint64), np.array([0]))[0, 0]
        d = Draws(transform, 40, 40, SEED, STREAM, index, 0)
        angle = np.arctan2(d.sin, d.cos)
        inverse = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / d.factor
        centre, shift = np.full(2, 19.5), np.array(d.shift) / 65536
        offset = centre - inverse @ (centre + shift)
        theirs = ndimage.affine_transform(
            image[0, 0].astype(float), inverse, offset, order=1, cval=128, mode="grid-constant"
        )
        assert np.abs(ours - theirs).max() < 2


def test_uint8_normalised_on_the_device_is_what_float32_delivery_gives():
    images, rows = noise(5, 3, 11, 13), np.array([4, 0, 2, 2])
    indices = np.arange(4, dtype=np.uint64)
    for layout in ("chw", "hwc"):
        transform = Transform(**EVERYTHING, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), layout=layout)
        pixels = fused(images, transform.pixels, indices, rows)
        assert pixels.dtype == np.uint8
        whole = fused(images, transform, indices, rows)
        assert whole.dtype == np.float32
        assert np.array_equal(normalise(torch.from_numpy(pixels), transform).numpy(), whole)


def test_normalising_is_within_two_roundings_of_the_formula():
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    transform = Transform(mean=(0.92,), std=(0.08,))
    ours = fused(ramp, transform, np.zeros(1, np.uint64), np.zeros(1, np.int64))
    assert np.allclose(ours, (ramp / 255 - 0.92) / 0.08, rtol=0, atol=2e-6)
    assert np.array_equal(ours[0], delivered(ramp[0], transform))
    plain = fused(ramp, Transform(dtype="float32"), np.zeros(1, np.uint64), np.zeros(1, np.int64))
    assert np.allclose(plain, ramp / 255, rtol=1.2e-7, atol=0)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 84, 84)])
@pytest.mark.parametrize("per_shard", [3, 1000])
def test_without_anything_to_do_it_is_the_plain_gather(shape, per_shard):
    images, rows = noise(10, *shape), np.array([9, 0, 0, 5, 7, 3, 1])
    ours = fused(images, Transform(), np.zeros(7, np.uint64), rows, per_shard=per_shard)
    plain = np.empty((7, *shape), np.uint8)
    address = np.array([images.ctypes.data], np.uint64)
    assert gather(address, 10, 10, images[0].nbytes, rows, np.uint64(plain.ctypes.data)) == -1
    assert np.array_equal(ours, plain)


@pytest.mark.parametrize("row", [-1, 10, 2**40])
def test_a_row_out_of_range_is_told_and_nothing_is_read_or_written(row):
    images, rows = noise(10, 1, 4, 4), np.array([1, 9, row, 2])
    transform = Transform()
    assert fused(images, transform, np.zeros(4, np.uint64), rows, per_shard=4) == 2


def test_large_images_keep_their_coordinates():
    image = noise(1, 1, 700, 900)
    transform = Transform(rotate=180.0, scale=(1 / 16, 1 / 16), translate=1.0, fill=9)
    for index in range(2):
        ours = fused(image, transform, np.array([index], np.uint64), np.array([0]))[0, 0]
        draws = Draws(transform, 700, 900, SEED, STREAM, index, 0)
        for y, x in np.random.default_rng(index).integers(0, 700, (50, 2)).tolist():
            v, u = draws.source(y, x)
            if not (-1 < v < 700 and -1 < u < 900):
                assert ours[y, x] == 9
