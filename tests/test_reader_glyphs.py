"""Glyphs are reproducible to the byte, hard for pixels, and grow without moving."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from nearest import accuracy

from episodes.errors import ConfigError, ReaderError
from episodes.readers import glyphs
from episodes.testing import check_reader

OPTIONS = glyphs.Options(alphabets=4, drawings=3)


def images(options):
    listing = glyphs.make(None, options).listing()
    return {(s.class_name, s.key): s for s in listing.samples}


def test_the_reader_keeps_its_promises():
    check_reader(glyphs.make(None, OPTIONS))


def test_drawings_are_pinned():
    """The same bytes on every platform; a change here is a new version of the reader."""
    samples = images(OPTIONS)
    digest = hashlib.sha256()
    for name in [("Alphabet001/character01", "01"), ("Alphabet002/character05", "03"), ("Alphabet004/character14", "02")]:
        digest.update(samples[name].load()["image"].tobytes())
    assert digest.hexdigest() == "9a4a6ed51eaebfc14b1105f3a89aba50a8d1a537f6d59ddaae72d3a9dc1d55c6"


def test_more_alphabets_and_drawings_leave_the_others_as_they_were():
    few, many = images(OPTIONS), images(replace(OPTIONS, alphabets=5, drawings=5))
    assert few.keys() < many.keys()
    for name in list(few)[::17]:
        assert np.array_equal(few[name].load()["image"], many[name].load()["image"])
    assert not np.array_equal(
        few["Alphabet001/character01", "01"].load()["image"],
        images(replace(OPTIONS, seed=1))["Alphabet001/character01", "01"].load()["image"],
    )


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
    assert sum(map(len, splits.values())) == len(listing.groups) > 900
    sizes = [list(listing.groups.values()).count(a) for a in set(listing.groups.values())]
    assert min(sizes) >= glyphs.FEWEST
    assert max(sizes) <= glyphs.MOST


def test_ink_is_there_and_stays_inside():
    for sample in list(images(OPTIONS).values())[::5]:
        image = sample.load()["image"][0]
        assert 0.02 < (image > 127).mean() < 0.5
        edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert edge.max() < 128, "no stroke is cut off"


def test_pixel_nearest_neighbour_is_as_weak_as_on_omniglot(glyphs_store):
    assert 20 < accuracy(glyphs_store, 20, count=400) < 40


@pytest.mark.parametrize(("name", "value"), [("size", 7), ("alphabets", 2), ("drawings", 0), ("seed", -1), ("size", 257)])
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=rf"{name}: expected .*, got {value}"):
        glyphs.Options(**{name: value})


def test_a_source_is_refused(tmp_path):
    with pytest.raises(ReaderError, match="takes no source"):
        glyphs.make(tmp_path, OPTIONS)
