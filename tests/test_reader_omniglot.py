"""Omniglot is read whole, inverted and resized as the reference figures expect, and split as published."""

import collections
import io
import itertools
import zipfile

import numpy as np
import pytest
import real_data
from nearest import accuracy
from PIL import Image

import episodes
from episodes.errors import ConfigError, ReaderError
from episodes.ingest import ingest
from episodes.readers import omniglot
from episodes.readers._tree import open_tree
from episodes.testing import check_reader


def test_everything_is_there(omniglot_store):
    store = episodes.open(omniglot_store)
    assert (len(store.table.names), store.num_rows, len(store.table.group_names)) == (1623, 32460, 50)
    assert set(store.table.counts) == {20}
    store.verify()


def test_the_reader_keeps_its_promises():
    check_reader(omniglot.make(real_data.omniglot(), omniglot.Options()))


@pytest.mark.parametrize(
    ("listing", "sizes", "alphabets"),
    [
        ("vinyals", (1028, 172, 423), (33, 5, 13)),
        ("lake", (883, 81, 659), (25, 5, 20)),
        ("meta-dataset", (883, 81, 659), (25, 5, 20)),
    ],
)
def test_splits_are_the_published_ones(omniglot_store, listing, sizes, alphabets):
    splits = [episodes.open(omniglot_store).split(f"{listing}/{part}") for part in ("train", "val", "test")]
    assert tuple(map(len, splits)) == sizes
    assert tuple(len(split.groups_in_use[0]) for split in splits) == alphabets
    assert len({c for split in splits for c in split.ids.tolist()}) == 1623
    assert tuple(len(split.with_quarter_turns()) for split in splits) == tuple(4 * size for size in sizes)


def test_only_gurmukhi_is_cut_by_the_vinyals_lists(omniglot_store):
    store = episodes.open(omniglot_store)
    groups = [set(store.split(f"vinyals/{part}").groups.tolist()) for part in ("train", "val", "test")]
    shared = (groups[0] & groups[2]) | (groups[0] & groups[1]) | (groups[1] & groups[2])
    assert [store.table.group_names[g] for g in shared] == ["Gurmukhi"]


def test_the_validation_alphabets_of_meta_dataset_are_the_five_smallest(omniglot_store):
    val = episodes.open(omniglot_store).split("meta-dataset/val")
    names = {val.group_names[g].partition("_(")[0] for g in val.groups_in_use[0]}
    assert names == {"Blackfoot", "Ojibwe", "Inuktitut", "Tagalog", "Alphabet_of_the_Magi"}


def test_a_pixel_is_pillows_bilinear_of_the_inverted_drawing(omniglot_store):
    store = episodes.open(omniglot_store)
    place = store.table.names.index("Greek/character03")
    rows = np.arange(20 * place, 20 * place + 20)
    row = rows[store.keys(rows).index("0396_07")] if "0396_07" in store.keys(rows) else rows[0]
    key = store.keys(np.array([row]))[0]
    with zipfile.ZipFile(real_data.omniglot() / "images_background.zip") as archive:
        image = Image.open(io.BytesIO(archive.read(f"images_background/Greek/character03/{key}.png"))).convert("L")
    expected = 255 - np.asarray(image.resize((28, 28), Image.Resampling.BILINEAR))
    assert np.array_equal(store.read(np.array([row]))["image"][0, 0], expected)
    assert 0.02 < (expected > 127).mean() < 0.4, "ink is bright and rare"


# Measured independently on the official files: 28 x 28 bilinear, ink = 1, all 1,623 classes, one query a class.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("ways", "cosine", "expected", "count"),
    [(5, False, 46.8, 4000), (20, False, 27.1, 1000), (5, True, 51.8, 4000), (20, True, 32.2, 1000)],
)
def test_pixel_nearest_neighbour_scores_the_reference(omniglot_store, ways, cosine, expected, count):
    assert accuracy(omniglot_store, ways, cosine=cosine, count=count) == pytest.approx(expected, abs=1.5)


def miniature(folder, name, alphabets):
    """A zip in the official layout with 2 drawings a character."""
    folder.mkdir(exist_ok=True)
    image = io.BytesIO()
    Image.new("1", (105, 105), 1).save(image, format="png")
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
        for alphabet in alphabets:
            for drawer in (1, 2):
                archive.writestr(f"{name}/{alphabet}/character01/0001_{drawer:02d}.png", image.getvalue())


def test_a_missing_set_is_named(tmp_path):
    with pytest.raises(ReaderError, match="is not a folder; give the one that holds images_background.zip"):
        omniglot.make(tmp_path / "nowhere", omniglot.Options()).listing()
    with pytest.raises(ReaderError, match=r"holds neither images_background.zip nor a folder"):
        omniglot.make(tmp_path, omniglot.Options()).listing()
    with pytest.raises(ReaderError, match="reader 'omniglot' needs a source"):
        omniglot.make(None, omniglot.Options())


def test_a_missing_second_set_is_named(tmp_path, monkeypatch):
    miniature(tmp_path, "images_background", ["Greek"])
    monkeypatch.setattr(omniglot, "CHARACTERS", {"images_background": 1, "images_evaluation": 1})
    monkeypatch.setattr(omniglot, "DRAWINGS", 2)
    with pytest.raises(ReaderError, match=r"holds neither images_evaluation.zip nor a folder"):
        omniglot.make(tmp_path, omniglot.Options()).listing()


def test_an_incomplete_set_is_refused(tmp_path):
    miniature(tmp_path, "images_background", ["Greek", "Latin"])
    with pytest.raises(ReaderError, match="images_background .* has 2 characters; the official set has 964"):
        omniglot.make(tmp_path, omniglot.Options()).listing()
    found = {f"Greek/character{c:02d}": [1, 2] for c in range(1, 965)}
    with pytest.raises(ReaderError, match="character 'Greek/character01' .* has 2 drawings; the official set has 20"):
        omniglot.check_complete(found, "images_background", tmp_path)


def test_a_missing_character_is_named(tmp_path):
    found = {f"Greek/character{c:02d}": range(20) for c in range(1, 25) if c != 7}
    with pytest.raises(ReaderError, match="has 23 characters; the official set has 964, Greek/character07 among them"):
        omniglot.check_complete(found, "images_background", tmp_path)


def whole(path, sizes):
    """A zip in the official layout with every character of `sizes`, alphabet -> characters, 2 drawings each."""
    image = io.BytesIO()
    Image.new("1", (105, 105), 1).save(image, format="png")
    with zipfile.ZipFile(path, "w") as archive:
        for alphabet, count in sizes.items():
            for c, drawer in itertools.product(range(1, count + 1), (1, 2)):
                archive.writestr(f"{path.stem}/{alphabet}/character{c:02d}/0001_{drawer:02d}.png", image.getvalue())


def test_splits_of_the_official_layout_are_the_published_ones_also_without_the_official_data(tmp_path, monkeypatch):
    # Lake's background alphabets, and the rest by the list of all characters that is shipped.
    background = {
        *("Alphabet_of_the_Magi", "Anglo-Saxon_Futhorc", "Arcadian", "Armenian", "Asomtavruli_(Georgian)", "Balinese"),
        *("Bengali", "Blackfoot_(Canadian_Aboriginal_Syllabics)", "Braille", "Burmese_(Myanmar)", "Cyrillic"),
        *("Early_Aramaic", "Futurama", "Grantha", "Greek", "Gujarati", "Hebrew", "Japanese_(hiragana)"),
        *("Inuktitut_(Canadian_Aboriginal_Syllabics)", "Japanese_(katakana)", "Korean", "Latin", "Malay_(Jawi_-_Arabic)"),
        *("Mkhedruli_(Georgian)", "N_Ko", "Ojibwe_(Canadian_Aboriginal_Syllabics)", "Sanskrit", "Syriac_(Estrangelo)"),
        *("Tagalog", "Tifinagh"),
    }
    sizes = collections.Counter(map(omniglot.alphabet, set().union(*omniglot._vinyals().values())))
    whole(tmp_path / "images_background.zip", {a: n for a, n in sizes.items() if a in background})
    whole(tmp_path / "images_evaluation.zip", {a: n for a, n in sizes.items() if a not in background})
    monkeypatch.setattr(omniglot, "DRAWINGS", 2)
    splits = omniglot.make(tmp_path, omniglot.Options()).listing().splits
    assert [[len(names) for names in parts.values()] for parts in splits.values()] == [
        [1028, 172, 423],
        [883, 81, 659],
        [883, 81, 659],
        [1100, 100, 423],
        [1597],
    ]
    assert list(splits) == ["vinyals", "lake", "meta-dataset", "random", "no-latin"]
    other = omniglot.make(tmp_path, omniglot.Options(split_seed=1)).listing().splits
    assert other["random"] != splits["random"]
    assert len(set().union(*other["random"].values())) == 1623


def test_a_zip_unpacked_into_a_folder_of_its_own_name_is_understood(tmp_path):
    miniature(tmp_path, "images_background", ["Greek"])
    expected = omniglot.characters(omniglot._open_set(tmp_path, "images_background"))
    with zipfile.ZipFile(tmp_path / "images_background.zip") as archive:
        archive.extractall(tmp_path / "images_background")
    nested = omniglot.characters(omniglot._open_set(tmp_path, "images_background"))
    assert [path for _, path in nested["Greek/character01"]] == [path for _, path in expected["Greek/character01"]]


def test_the_extracted_tree_is_read_like_the_zip(tmp_path):
    miniature(tmp_path, "images_background", ["Greek", "Latin"])
    with zipfile.ZipFile(tmp_path / "images_background.zip") as archive:
        archive.extractall(tmp_path / "out")
    in_zip = omniglot.characters(open_tree(tmp_path / "images_background.zip").below("images_background"))
    extracted = omniglot.characters(open_tree(tmp_path / "out" / "images_background"))
    assert {c: [p for _, p in d] for c, d in in_zip.items()} == {c: [p for _, p in d] for c, d in extracted.items()}
    (tree, path), *_ = extracted["Greek/character01"]
    assert tree.read(path) == in_zip["Greek/character01"][0][0].read(path)


def test_some_alphabets_extracted_are_read_like_the_official_zip(tmp_path):
    source = real_data.omniglot() / "images_background.zip"
    some = ("images_background/Greek/", "images_background/Tagalog/")
    with zipfile.ZipFile(source) as archive:
        archive.extractall(tmp_path, [name for name in archive.namelist() if name.startswith(some)])
    extracted = omniglot.characters(open_tree(tmp_path / "images_background"))
    in_zip = omniglot.characters(open_tree(source).below("images_background"))
    in_zip = {name: drawings for name, drawings in in_zip.items() if name.startswith(("Greek/", "Tagalog/"))}
    assert len(extracted) == 24 + 17
    for name, drawings in in_zip.items():
        assert [path for _, path in drawings] == [path for _, path in extracted[name]]
        (one, path), (two, _) = drawings[0], extracted[name][0]
        assert one.read(path) == two.read(path)


def test_sizes_beyond_the_drawings_are_refused():
    with pytest.raises(ConfigError, match=r"size: expected 1..105, got 0"):
        omniglot.Options(size=0)


@pytest.mark.slow
def test_two_ingests_give_identical_bytes(omniglot_store, tmp_path):
    options = omniglot.Options()
    ingest(omniglot.make(real_data.omniglot(), options), tmp_path / "again.store", options=options, workers=3)
    for path in omniglot_store.iterdir():
        assert path.read_bytes() == (tmp_path / "again.store" / path.name).read_bytes()
