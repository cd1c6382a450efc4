"""Transforms: values that cannot be wrong, and draws that depend on the key alone and have the right distribution."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transform_twin import ONE, Draws

from episodes import config
from episodes.errors import ConfigError, SpecError
from episodes.protocols import FieldSpec
from episodes.transforms import Transform

words = st.integers(0, 2**64 - 1)
EVERYTHING = {
    "flip": True, "crop_padding": 3, "rotate": 20.0, "translate": 0.1, "scale": (0.8, 1.25), "brightness": 0.3,
    "contrast": 0.4,
}  # fmt: skip
IMAGE = FieldSpec("uint8", (1, 12, 12))
PINNED = [
    [62265, 16347, 127072, 16347, -62265, 647489, 65729, 2892770],
    [15241, -60535, 880264, 60535, 15241, -43718, 83788, -7213542],
]


def draw(transform, num=4, *, field=IMAGE, seed=7, stream=9, turns=None):
    """Numbers of rows 0, 1, ... of episodes 100, 101, ..."""
    turns = np.empty(0, np.int64) if turns is None else turns
    return transform.draw(field, seed, stream, np.arange(100, 100 + num, dtype=np.uint64), np.arange(num), turns)


def transforms(**fixed):
    """Any transform."""
    parts = {
        "flip": st.booleans(),
        "crop_padding": st.integers(0, 4),
        "rotate": st.sampled_from([0.0, 10.0, 180.0]),
        "translate": st.sampled_from([0.0, 0.2, 1.0]),
        "scale": st.sampled_from([(1.0, 1.0), (0.5, 0.5), (0.7, 1.5)]),
        "fill": st.sampled_from([0, 255, 77]),
        "brightness": st.sampled_from([0.0, 0.3, 1.0]),
        "contrast": st.sampled_from([0.0, 0.4, 1.0]),
        "stored": st.sampled_from(["chw", "hwc"]),
        "layout": st.sampled_from(["chw", "hwc"]),
        "dtype": st.sampled_from([None, "float32"]),
    }
    return st.builds(Transform, **parts, **fixed)


@settings(deadline=None, max_examples=200)
@given(
    transforms(), words, words, st.integers(1, 40), st.integers(1, 40),
    st.lists(st.tuples(words, st.integers(0, 2**40), st.integers(0, 3)), min_size=1, max_size=4),
)  # fmt: skip
def test_numbers_equal_their_slow_twin(transform, seed, stream, height, width, items):
    if height != width:
        items = [(index, row, turn // 2 * 2) for index, row, turn in items]
    field = FieldSpec("uint8", (1, height, width) if transform.stored == "chw" else (height, width, 1))
    indices, rows, turns = (np.array(column, kind) for column, kind in
                            zip(zip(*items, strict=True), (np.uint64, np.int64, np.int64), strict=True))  # fmt: skip
    drawn = transform.draw(field, seed, stream, indices, rows, turns)
    expected = [Draws(transform, height, width, seed, stream, *item).numbers() for item in items]
    if not transform.draws and not turns.any():
        assert drawn.shape == (0, 8)
        assert all(row == [ONE, 0, 0, 0, ONE, 0, ONE, 0] for row in expected), "nothing drawn is nothing done"
    else:
        assert drawn.tolist() == expected


def test_numbers_are_pinned():
    assert draw(Transform(**EVERYTHING), 2, turns=np.array([0, 3])).tolist() == PINNED


@settings(deadline=None)
@given(st.permutations(range(12)), st.integers(1, 12))
def test_a_row_draws_the_same_in_any_block(order, cut):
    transform, order = Transform(**EVERYTHING), np.array(order)
    indices, rows, turns = np.arange(12, dtype=np.uint64) // 3, np.arange(12) * 1000, np.arange(12) % 4
    whole = transform.draw(IMAGE, 1, 2, indices, rows, turns)
    parts = [transform.draw(IMAGE, 1, 2, indices[p], rows[p], turns[p]) for p in np.split(order, [cut]) if len(p)]
    assert np.array_equal(np.concatenate(parts), whole[order])


def test_seed_stream_index_and_row_each_change_the_draw():
    transform = Transform(**EVERYTHING)
    keys = [(1, 2, 3, 4), (9, 2, 3, 4), (1, 9, 3, 4), (1, 2, 9, 4), (1, 2, 3, 9), (2, 1, 3, 4), (1, 2, 4, 3)]
    drawn = {tuple(transform.draw(IMAGE, s, t, np.array([i], np.uint64), np.array([r]))[0].tolist()) for s, t, i, r in keys}
    assert len(drawn) == len(keys)


ALONE = [  # a part, and what of the twin's draws it decides
    ({"flip": True}, ["flipped"]),
    ({"crop_padding": 3}, ["down", "right"]),
    ({"rotate": 20.0}, ["cos", "sin"]),
    ({"translate": 0.1}, ["shift"]),
    ({"scale": (0.8, 1.25)}, ["factor"]),
    ({"brightness": 0.3}, ["bias"]),
    ({"contrast": 0.4}, ["gain"]),
]


@pytest.mark.parametrize(("part", "names"), ALONE)
def test_switching_other_parts_on_leaves_a_draw_alone(part, names):
    rest = {**EVERYTHING, "scale": (1.0, 1.0), "contrast": part.get("contrast", 0.0)}
    for row in range(20):
        alone, among = (Draws(Transform(**t), 12, 12, 7, 9, 100 + row, row) for t in (part, {**rest, **part}))
        assert all(getattr(alone, name) == getattr(among, name) for name in names)
    alone, among = draw(Transform(**part), 20), draw(Transform(**{**rest, **part}), 20)
    if "rotate" in part:
        flips = among[:, 3] * among[:, 1] > 0  # the sign of x is turned by a flip
        assert (np.abs(among[:, :2]) == np.abs(alone[:, :2])).all()
        assert flips.any()
        assert not flips.all()
    elif "contrast" in part:
        assert (among[:, 6] == alone[:, 6]).all()
    elif "brightness" in part:
        assert (among[:, 7] == alone[:, 7]).all()


def test_flips_are_half_the_rows_and_crop_places_are_uniform():
    drawn = draw(Transform(flip=True), 20_000)
    assert set(drawn[:, 4].tolist()) == {ONE, -ONE}
    assert stats.binomtest(int((drawn[:, 4] < 0).sum()), 20_000).pvalue > 1e-4
    drawn = draw(Transform(crop_padding=4), 20_000)
    places = [drawn[:, column] >> 16 for column in (2, 5)]
    table = np.zeros((9, 9), int)
    np.add.at(table, (places[0] + 4, places[1] + 4), 1)
    assert stats.chisquare(table.ravel()).pvalue > 1e-4, "both offsets, -4..4, independent"


def test_affine_and_tone_are_uniform_within_their_bounds():
    one = draw(Transform(rotate=30.0), 20_000)
    angles = np.degrees(np.arctan2(one[:, 1], one[:, 0]))
    assert stats.kstest(angles, stats.uniform(-30, 60).cdf).pvalue > 1e-4
    assert np.abs(np.hypot(one[:, 0], one[:, 1]) - ONE).max() < 1, "a rotation keeps lengths"
    one = draw(Transform(scale=(0.5, 2.0)), 20_000)
    assert stats.kstest(ONE / one[:, 0], stats.uniform(0.5, 1.5).cdf).pvalue > 1e-4
    one = draw(Transform(translate=0.25), 20_000)
    for column in (2, 5):
        assert stats.kstest(one[:, column] / ONE, stats.uniform(-3, 6).cdf).pvalue > 1e-4
    one = draw(Transform(contrast=0.5), 20_000)
    assert stats.kstest(one[:, 6] / ONE, stats.uniform(0.5, 1).cdf).pvalue > 1e-4
    assert (one[:, 6] * 128 + one[:, 7] == 128 * ONE).all(), "contrast leaves the middle where it is"
    one = draw(Transform(brightness=0.5), 20_000)
    assert stats.kstest(one[:, 7] / (255 * ONE), stats.uniform(-0.5, 1).cdf).pvalue > 1e-4


def test_the_sums_for_sine_and_cosine_are_right_over_the_half_circle():
    drawn = draw(Transform(rotate=180.0), 5000).astype(float)
    angles = [Draws(Transform(rotate=180.0), 12, 12, 7, 9, 100 + i, i) for i in range(200)]
    assert [[d.cos, d.sin] for d in angles] == drawn[:200, :2].tolist()
    assert np.abs(np.hypot(drawn[:, 0], drawn[:, 1]) - ONE).max() < 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stored": "nchw"}, "stored: expected 'chw' or 'hwc', got 'nchw'"),
        ({"layout": "HWC"}, "layout: expected 'chw' or 'hwc', got 'HWC'"),
        ({"dtype": "float16"}, "dtype: expected 'uint8' or 'float32', got 'float16'"),
        ({"dtype": "uint8", "mean": (0.5,)}, "dtype: expected 'float32' where mean or std is given, got 'uint8'"),
        ({"mean": 0.5}, "mean: expected a list of numbers, got 0.5"),
        ({"mean": ("a",)}, "mean: expected a number, got 'a'"),
        ({"mean": (math.nan,)}, "mean: expected a finite number, got nan"),
        ({"std": (0.0,)}, r"std: expected numbers above 0, got \(0.0,\)"),
        ({"std": (-1.0,)}, "std: expected a finite number of 0 or more, got -1.0"),
        ({"flip": 1}, "flip: expected true or false, got 1"),
        ({"crop_padding": -1}, "crop_padding: expected a whole number in 0..4096, got -1"),
        ({"crop_padding": 1.5}, "crop_padding: expected a whole number in 0..4096, got 1.5"),
        ({"fill": 256}, "fill: expected a whole number in 0..255, got 256"),
        ({"fill": True}, "fill: expected a whole number in 0..255, got True"),
        ({"rotate": 181}, "rotate: expected a number in 0..180, got 181"),
        ({"rotate": True}, "rotate: expected a number, got True"),
        ({"translate": -0.1}, "translate: expected a number in 0..1, got -0.1"),
        ({"scale": (1.2, 0.8)}, r"scale: expected a lower and an upper end, got \(1.2, 0.8\)"),
        ({"scale": (1.0,)}, r"scale: expected a lower and an upper end, got \(1.0,\)"),
        ({"scale": (0.0, 1.0)}, "scale: expected a number in 0.0625..16, got 0.0"),
        ({"brightness": math.inf}, "brightness: expected a number in 0..1, got inf"),
        ({"contrast": 1.5}, "contrast: expected a number in 0..1, got 1.5"),
    ],
)
def test_values_out_of_range_are_refused_by_name(values, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        Transform(**values)


@pytest.mark.parametrize(
    ("field", "transform", "message"),
    [
        (
            FieldSpec("float32", (1, 4, 4)),
            Transform(),
            r"field 'image' is float32 of shape \(1, 4, 4\); .* uint8 \(channels",
        ),
        (FieldSpec("uint8", (4, 4)), Transform(stored="hwc"), r"shape \(4, 4\); transforms need uint8 \(height"),
        (FieldSpec("uint8", (1, 0, 4)), Transform(), r"shape \(1, 0, 4\)"),
        (
            FieldSpec("uint8", (8, 8, 3)),
            Transform(mean=(0.1, 0.2, 0.3)),
            "mean has 3 numbers; .* 8 channels as stored='chw'",
        ),
        (FieldSpec("uint8", (3, 8, 8)), Transform(std=(0.1, 0.2)), "std has 2 numbers; .* 3 channels"),
    ],
)
def test_fields_that_are_no_such_images_are_refused(field, transform, message):
    for ask in (transform.output, lambda f: transform.draw(f, 0, 0, np.array([0], np.uint64), np.array([0]))):
        with pytest.raises(SpecError, match=message):
            ask(field)


def test_odd_turns_of_oblong_images_are_refused():
    field = FieldSpec("uint8", (1, 4, 6))
    assert len(draw(Transform(), 2, field=field, turns=np.array([0, 2]))) == 2
    with pytest.raises(SpecError, match=r"field 'image' of shape \(1, 4, 6\) is no square image"):
        draw(Transform(), 2, field=field, turns=np.array([0, 1]))


def test_output_tells_type_and_shape():
    field = FieldSpec("uint8", (3, 8, 6))
    assert Transform().output(field) == field
    assert Transform(layout="hwc").output(field) == FieldSpec("uint8", (8, 6, 3))
    assert Transform(std=(0.5,)).output(field) == FieldSpec("float32", (3, 8, 6))
    assert Transform(stored="hwc", dtype="float32").output(FieldSpec("uint8", (8, 6, 3))) == FieldSpec("float32", (3, 8, 6))


def test_the_canonical_form_tells_values_apart_and_nothing_else():
    assert str(Transform()) == "Transform(dtype='uint8')"
    one = Transform(mean=[0, 1, 0.5], rotate=10, flip=True)
    assert one == Transform(mean=(0.0, 1.0, 0.5), rotate=10.0, flip=True, dtype="float32")
    assert str(one) == "Transform(dtype='float32', mean=(0.0, 1.0, 0.5), flip=True, rotate=10.0)"
    assert len({one, Transform(mean=(0.0, 1.0, 0.5), rotate=10.0, flip=True)}) == 1
    assert one.pixels == Transform(rotate=10.0, flip=True)


@given(transforms())
def test_a_table_of_a_recipe_gives_the_transform_back(transform):
    assert config.from_table(Transform, config.to_table(transform), "transform") == transform


def test_errors_of_a_recipe_begin_with_the_key_path():
    with pytest.raises(ConfigError, match=r"^train.transform.rotate: expected a number in 0..180, got 200"):
        config.from_table(Transform, {"rotate": 200}, "train.transform")
