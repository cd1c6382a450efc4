"""Glyphs are reproducible to the byte, hard for pixels, told apart by people, and grow without moving."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from nearest import accuracy

from episodes.errors import ConfigError, ReaderError
from episodes.readers import _strokes, glyphs
from episodes.testing import check_reader

OPTIONS = glyphs.Options(alphabets=4, drawings=3)


def images(options):
    listing = glyphs.make(None, options).listing()
    return {(s.class_name, s.key): s for s in listing.samples}


def stack(options, classes):
    """[classes, drawings, height * width] ink in 0..1 of the first classes."""
    samples = list(images(options).values())[: classes * options.drawings]
    ink = np.stack([s.load()["image"] for s in samples]).astype(np.float64) / 255
    return ink.reshape(classes, options.drawings, -1)


def test_the_reader_keeps_its_promises():
    check_reader(glyphs.make(None, OPTIONS))


def test_drawings_are_pinned():
    """The same bytes on every platform; a change here is a new version of the reader."""
    samples = images(OPTIONS)
    digest = hashlib.sha256()
    for name in [("Alphabet001/character01", "01"), ("Alphabet002/character05", "03"), ("Alphabet004/character14", "02")]:
        digest.update(samples[name].load()["image"].tobytes())
    assert digest.hexdigest() == "6951dd0537b8c5acabadf089f6778098a0c428d8f754a857718b727603ee8bc1"


def test_numbers_come_from_the_words_of_philox():
    key = int.from_bytes(hashlib.blake2b(b"7/x", digest_size=16, person=b"episodes.glyphs").digest(), "little")
    words = [int(word) for word in np.random.Philox(key=key).random_raw(3)]
    draws = _strokes.Draws(7, "x")
    assert draws.uniform() == (words[0] >> 11) / 2**53
    assert draws.below(10) == words[1] % 10
    quarters = [words[2] >> shift & 0xFFFF for shift in (0, 16, 32, 48)]
    assert draws.normal(1)[0] == pytest.approx((sum(quarters) / 65536 - 2) * 3**0.5, abs=1e-4)
    many = _strokes.Draws("many").normal(20_000)
    assert abs(many.mean()) < 0.03
    assert abs(many.var() - 1) < 0.03


def test_more_alphabets_and_drawings_leave_the_others_as_they_were():
    few, many = images(OPTIONS), images(replace(OPTIONS, alphabets=5, drawings=5))
    assert few.keys() < many.keys()
    for name in list(few)[::17]:
        assert np.array_equal(few[name].load()["image"], many[name].load()["image"])


def test_another_seed_invents_other_alphabets():
    first = "Alphabet001/character01", "01"
    here, there = (images(replace(OPTIONS, seed=seed))[first].load()["image"] for seed in (0, 1))
    assert not np.array_equal(here, there)


def test_threads_in_any_order_draw_the_same():
    samples = list(images(OPTIONS).values())[:40]
    glyphs._alphabet.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        backwards = list(pool.map(lambda s: s.load()["image"].tobytes(), samples[::-1]))
    assert [s.load()["image"].tobytes() for s in samples] == backwards[::-1]


def test_splits_are_by_alphabet_and_cover_all():
    listing = glyphs.make(None, glyphs.Options(drawings=1)).listing()
    splits = listing.splits["glyphs"]
    alphabets = {split: {listing.groups[c] for c in classes} for split, classes in splits.items()}
    assert {split: len(found) for split, found in alphabets.items()} == {"train": 30, "val": 8, "test": 12}
    assert len(set.union(*alphabets.values())) == 50
    assert sum(map(len, splits.values())) == len(listing.groups) == 1009
    sizes = [list(listing.groups.values()).count(a) for a in set(listing.groups.values())]
    assert min(sizes) >= glyphs.FEWEST
    assert max(sizes) <= glyphs.MOST


@pytest.mark.parametrize("alphabets", [3, 4, 5, 7, 100])
def test_no_split_is_empty(alphabets):
    parts = glyphs._split(0, alphabets)
    assert sorted(a for part in parts.values() for a in part) == list(range(alphabets))
    assert min(map(len, parts.values())) >= 1


@pytest.mark.parametrize("seed", range(3))
def test_characters_of_an_alphabet_are_told_apart(seed):
    style = _strokes.invent_style(_strokes.Draws(seed, "style", 0))
    looks = [_strokes._look(character, style.extent) for character in glyphs._alphabet(seed, 0)]
    assert all(map(_strokes._is_legible, looks))
    assert min(_strokes._novelty(a, b) for a, b in combinations(looks, 2)) > 10


def test_drawings_of_a_character_differ_but_less_than_characters():
    ink = stack(glyphs.Options(alphabets=3, drawings=6), 14)
    flat = ink.reshape(14 * 6, -1)
    apart = np.square(flat[:, None] - flat[None]).sum(axis=2)
    same = np.kron(np.eye(14), np.ones((6, 6))) > 0
    assert apart[~np.eye(len(flat), dtype=bool)].min() > 1, "no two drawings are alike"
    assert apart[same & ~np.eye(len(flat), dtype=bool)].mean() < 0.9 * apart[~same].mean()


def test_pixel_nearest_neighbour_is_as_weak_as_on_omniglot(glyphs_store):
    assert 20 < accuracy(glyphs_store, 20, count=400) < 40
    assert 40 < accuracy(glyphs_store, 5, count=400) < 60


def test_ink_is_there_and_stays_inside():
    for sample in list(images(OPTIONS).values())[::5]:
        image = sample.load()["image"][0]
        assert 0.02 < (image > 127).mean() < 0.5
        assert image.max() == 255, "the pen covers whole pixels"
        edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert edge.max() == 0, "no stroke is cut off"


def test_size_only_sets_the_resolution():
    small, large = stack(OPTIONS, 10), stack(replace(OPTIONS, size=112), 10)
    shrunk = large.reshape(10, 3, 28, 4, 28, 4).mean(axis=(3, 5)).reshape(small.shape)
    assert np.abs(small - shrunk).mean() < 0.02


@pytest.mark.parametrize("size", [8, 256])
def test_the_smallest_and_largest_images_have_ink(size):
    ink = stack(replace(OPTIONS, size=size), 4)
    assert ink.shape == (4, 3, size * size)
    assert ink.max(axis=2).min() > 0.5


def test_a_line_is_drawn_where_it_is():
    """A horizontal line 2 pixels wide, on the boundary of two rows of pixels, ends round."""
    image = glyphs.render(np.array([[[0.25, 0.5], [0.75, 0.5]]]), 0.125, 16)
    assert image[7:9, 4:12].min() == 255
    assert image[:6].max() == image[10:].max() == image[:, :2].max() == image[:, 14:].max() == 0
    assert np.array_equal(image, image[::-1])
    assert np.array_equal(image, image[:, ::-1])


@pytest.mark.parametrize(("name", "value"), [("size", 7), ("alphabets", 2), ("drawings", 0), ("seed", -1), ("size", 257)])
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=rf"^{name}: expected \d+\.\.\d+, got {value}$"):
        glyphs.Options(**{name: value})


def test_a_source_is_refused(tmp_path):
    with pytest.raises(ReaderError, match="takes no source"):
        glyphs.make(tmp_path, OPTIONS)
