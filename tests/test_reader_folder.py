"""Every kind of picture becomes the array it shows; every kind of tree is understood or refused by name."""

import collections
import io
import json
import shutil
import sys
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import real_data
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from episodes.errors import ConfigError, ReaderError, SpecError, StoreError
from episodes.ingest import ingest
from episodes.readers import _jpeg, folder
from episodes.readers._images import decode, image_size
from episodes.readers._jpeg import turbo
from episodes.readers._splits import drawn_splits
from episodes.testing import check_reader

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
QUARTERS = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8).repeat(8, axis=0).repeat(8, axis=1)  # [16, 16, 3]


def encoded(image, format_, **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format_, **options)
    return buffer.getvalue()


def rgb(data, **options):
    return decode(data, "picture", **{"mode": "rgb", "size": None, "fit": "crop", **options}).transpose(1, 2, 0)


@pytest.mark.parametrize(
    ("format_", "options", "tolerance"),
    [
        ("png", {}, 0),
        ("bmp", {}, 0),
        ("gif", {}, 0),
        ("webp", {"lossless": True}, 0),
        ("jpeg", {"quality": 95, "subsampling": 0}, 12),
    ],
)
def test_every_format_is_read(format_, options, tolerance):
    values = rgb(encoded(Image.fromarray(QUARTERS), format_, **options)).astype(int)
    assert np.abs(values - QUARTERS)[2:6, 2:6].max() <= tolerance
    assert np.abs(values - QUARTERS)[10:14, 10:14].max() <= tolerance


def test_sixteen_bits_are_scaled_not_clipped():
    ramp = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    values = decode(encoded(Image.fromarray(ramp), "png"), "p", mode="grey", size=None, fit="crop")
    assert values[0].tolist() == [np.floor(ramp[0] / 257 + 0.5).astype(int).tolist()]


def test_one_bit_pictures_are_black_and_white():
    bits = np.array([[True, False], [False, True]])
    values = decode(encoded(Image.fromarray(bits), "png"), "p", mode="grey", size=None, fit="crop")
    assert values.tolist() == [[[255, 0], [0, 255]]]


def test_transparency_is_laid_over_white():
    pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
    assert rgb(encoded(Image.fromarray(pixels), "png"))[0].tolist() == [[255, 0, 0], [255, 255, 255], [127, 127, 127]]
    grey = np.array([[[0, 255], [0, 0]]], np.uint8)
    data = encoded(Image.frombytes("LA", (2, 1), grey.tobytes()), "png")
    assert rgb(data)[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_a_palette_with_a_transparent_entry_is_laid_over_white():
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putdata([0, 1])
    assert rgb(encoded(image, "png", transparency=1))[0].tolist() == [list(RED), list(WHITE)]
    assert rgb(encoded(image, "png"))[0].tolist() == [list(RED), list(BLUE)]


def test_cmyk_jpeg_becomes_rgb():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow ink make red
    assert np.abs(rgb(encoded(image, "jpeg", quality=95)).astype(int) - RED).max() <= 8


# EXIF 2.3, section 4.6.4: which side of the picture the stored first row and first column are.
ORIENTATIONS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(
    ("format_", "options", "tolerance"), [("png", {}, 0), ("jpeg", {"quality": 98, "subsampling": 0}, 12)]
)
def test_exif_orientation_is_applied(orientation, format_, options, tolerance):
    stored = np.concatenate([QUARTERS, np.full((8, 16, 3), 0, np.uint8)])  # 24 x 16, no two orientations alike
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(stored), format_, exif=exif, **options)
    expected = ORIENTATIONS[orientation](stored)
    values = rgb(data)
    assert image_size(data, "p") == values.shape[:2] == expected.shape[:2]
    assert np.abs(values.astype(int) - expected).max() <= tolerance


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    data = encoded(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert (rgb(data) == RED).all()


def test_decoding_on_threads_leaves_the_filters_of_warnings_alone():
    data, before, interval = encoded(Image.fromarray(QUARTERS), "jpeg"), list(warnings.filters), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(10):
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda _: rgb(data, size=8), range(50)))
            assert warnings.filters == before
    finally:
        sys.setswitchinterval(interval)
        warnings.filters[:] = before


@pytest.mark.filterwarnings("ignore:Image size")
def test_pictures_too_large_to_decode_safely_are_named(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(ReaderError, match=r"cannot decode image big.png: 16 x 16 pixels are more than the 200"):
        decode(encoded(Image.fromarray(QUARTERS), "png"), "big.png", mode="rgb", size=8, fit="crop")


@pytest.mark.parametrize("format_", ["tiff", "eps", "ppm"])
def test_other_formats_are_refused_whatever_the_files_name(format_):
    data = encoded(Image.new("RGB", (4, 4)), format_)
    with pytest.raises(ReaderError, match=r"cannot decode image a.jpg: it is no image of a known format"):
        decode(data, "a.jpg", mode="rgb", size=None, fit="crop")


def test_sixteen_bit_transparency_is_laid_over_white():
    data = encoded(Image.fromarray(np.array([[0, 40000]], np.uint16)), "png", transparency=40000)
    assert decode(data, "p", mode="grey", size=None, fit="crop").tolist() == [[[0, 255]]]


# Blocks as cameras and old programs left them in ImageNet; Pillow warns of each but the third, and a warning fails a test.
@pytest.mark.parametrize(
    "block",
    [
        b"II*\0\x08\0\0\0\x05\0\x0e\x01\x02\0\x27\0\0\0\0\0\xff\xff",
        b"MM\0*\0\0\0\x08\0\x01\x01\x0f\0\x02\0\x27\0\0\0\0\xff\xff",
        b"garbage",
        b"II*\0\xff\xff\xff\x7f",
    ],
)
def test_damaged_exif_neither_warns_nor_loses_the_picture(block):
    data = encoded(Image.fromarray(QUARTERS), "jpeg", exif=b"Exif\0\0" + block)
    assert np.array_equal(rgb(data), rgb(encoded(Image.fromarray(QUARTERS), "jpeg")))
    assert image_size(data, "p") == (16, 16)


def test_metadata_does_not_change_the_pixels_of_a_jpeg():
    for image in (
        Image.fromarray(QUARTERS),
        Image.fromarray(QUARTERS).convert("CMYK"),
        Image.fromarray(QUARTERS).convert("L"),
    ):
        data = encoded(image, "jpeg", icc_profile=b"x" * 70_000, comment=b"about", exif=b"Exif\0\0MM")
        with Image.open(io.BytesIO(data)) as plain:
            assert np.array_equal(rgb(data), np.asarray(plain.convert("RGB")))


def test_warnings_turned_into_errors_are_named(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # Pillow warns from here, and refuses from twice as many
    for read in (image_size, lambda data, name: decode(data, name, mode="rgb", size=8, fit="crop")):
        with pytest.raises(ReaderError, match="cannot decode image big.png: Image size"):
            read(encoded(Image.fromarray(QUARTERS), "png"), "big.png")


def test_what_is_no_picture_is_said_without_inner_words():
    for read in (image_size, lambda data, name: decode(data, name, mode="rgb", size=None, fit="crop")):
        with pytest.raises(ReaderError, match=r"cannot decode image a.png: it is no image of a known format \(replace"):
            read(b"text", "a.png")


def test_grey_is_the_luma():
    values = decode(encoded(Image.new("RGB", (1, 1), (200, 100, 50)), "png"), "p", mode="grey", size=None, fit="crop")
    assert values.item() == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


@pytest.mark.parametrize(("fit", "columns"), [("crop", (BLUE, RED)), ("squash", (GREEN, GREEN)), ("pad", (WHITE, WHITE))])
def test_pictures_that_are_not_square_are_fitted(fit, columns):
    stripes = np.array([[GREEN, BLUE, RED, GREEN]], np.uint8).repeat(32, axis=0).repeat(16, axis=1)  # 32 x 64
    values = rgb(encoded(Image.fromarray(stripes), "png"), size=32, fit=fit)
    assert values.shape == (32, 32, 3)
    assert (tuple(values[0, 0].tolist()), tuple(values[0, -1].tolist())) == columns


@pytest.mark.parametrize("cut", [0, 3, 20, 400])
def test_truncated_jpegs_are_named(cut):
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    data = encoded(Image.fromarray(noise), "jpeg")
    with pytest.raises(ReaderError, match=r"cannot decode image cat.jpg: .*--skip-broken"):
        decode(data[:cut], "cat.jpg", mode="rgb", size=None, fit="crop")


JPEGS = st.tuples(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(["RGB", "L"]),
    st.fixed_dictionaries(
        {"quality": st.integers(5, 100), "subsampling": st.integers(0, 2), "progressive": st.booleans()},
        optional={"restart_marker_blocks": st.integers(1, 3)},
    ),
)


@given(JPEGS)
def test_a_jpeg_is_decoded_as_pillow_decodes_it_whoever_does(drawn):
    pytest.importorskip("simplejpeg")
    (height, width), mode, options = drawn
    noise = np.random.Generator(np.random.PCG64(height)).integers(0, 255, (height, width, 3)).astype(np.uint8)
    data = encoded(Image.fromarray(noise).convert(mode), "jpeg", **options)
    fast = turbo(data, None)
    assert fast is not None
    with Image.open(io.BytesIO(data)) as plain:
        assert plain.mode == fast.mode == mode
        assert np.array_equal(np.asarray(plain), np.asarray(fast))


def test_what_is_not_for_the_fast_decoder_is_left_to_pillow(monkeypatch):
    image = Image.fromarray(QUARTERS)
    data = encoded(image, "jpeg")
    assert turbo(data[:-40], None) is None
    assert turbo(data, 16 * 16 - 1) is None
    assert turbo(encoded(image.convert("CMYK"), "jpeg"), None) is None
    assert turbo(encoded(image, "jpeg", keep_rgb=True), None) is None
    monkeypatch.setattr(_jpeg, "_codec", lambda: None)  # as where it is not installed
    assert turbo(data, None) is None
    with Image.open(io.BytesIO(data)) as plain:
        assert np.array_equal(rgb(data), np.asarray(plain))


def test_a_corrupt_png_is_named():
    data = bytearray(encoded(Image.fromarray(QUARTERS), "png"))
    data[45] ^= 0xFF
    with pytest.raises(ReaderError, match="cannot decode image dog.png"):
        decode(bytes(data), "dog.png", mode="rgb", size=None, fit="crop")


@pytest.fixture
def tree(tmp_path) -> Path:
    """Two splits of two classes of three pictures, one nested, with files that are no pictures."""
    root = tmp_path / "pictures"
    for split, names in {"train": ("ant", "bee"), "Validation": ("cat", "dog")}.items():
        for c, name in enumerate(names):
            place = root / split / name / "images"
            place.mkdir(parents=True)
            for i in range(3):
                (place / f"{i}.png").write_bytes(encoded(Image.new("RGB", (8, 8), (c, i, 0)), "png"))
            (place / "notes.txt").write_text("not a picture")
            (place / ".hidden.png").write_text("hidden")
    return root


def listing(source, **options):
    return folder.make(source, folder.Options(**options)).listing()


def names(listed):
    return sorted((s.class_name, s.key) for s in listed.samples)


def test_a_tree_of_splits_is_understood(tree):
    listed = listing(tree)
    assert listed.splits == {"tree": {"train": ["ant", "bee"], "val": ["cat", "dog"]}}
    assert names(listed)[2:4] == [("ant", "images/2.png"), ("bee", "images/0.png")]
    check_reader(folder.make(tree, folder.Options()))


def test_a_zip_is_read_like_the_folder_also_with_a_wrapping_folder(tree, tmp_path):
    plain = shutil.make_archive(str(tmp_path / "plain"), "zip", tree)
    wrapped = shutil.make_archive(str(tmp_path / "wrapped"), "zip", tmp_path, "pictures")
    expected = listing(tree)
    for archive in (plain, wrapped):
        listed = listing(Path(archive))
        assert names(listed) == names(expected)
        assert listed.splits == expected.splits
        with ThreadPoolExecutor(4) as pool:
            arrays = list(pool.map(lambda s: s.load()["image"].tobytes(), listed.samples))
        assert sorted(arrays) == sorted(s.load()["image"].tobytes() for s in expected.samples)


def test_a_tree_of_classes_has_no_splits_until_given(tree, tmp_path):
    root = tree / "train"
    assert listing(root).splits == {}
    file = tmp_path / "s.json"
    file.write_text(json.dumps({"train": ["ant"], "test": ["bee"]}))
    assert listing(root, splits=file).splits == {"file": {"train": ["ant"], "test": ["bee"]}}
    file = tmp_path / "s.csv"
    file.write_text("class,split\nant,test\nbee,train\n")
    assert listing(root, splits=file).splits == {"file": {"train": ["bee"], "test": ["ant"]}}
    assert listing(root, draw_splits="0.5,0,0.5").splits["drawn"].keys() == {"train", "test"}
    file = tmp_path / "g.csv"
    file.write_text("class,group\nant,insect\nbee,insect\n")
    assert listing(root, groups=file).groups == {"ant": "insect", "bee": "insect"}


def test_what_cannot_be_understood_is_refused_by_name(tree, tmp_path):
    with pytest.raises(ReaderError, match="does not exist"):
        listing(tmp_path / "nowhere")
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 broken")
    with pytest.raises(ReaderError, match=r"broken.zip is neither a folder nor a readable zip"):
        listing(tmp_path / "broken.zip")
    with pytest.raises(ConfigError, match="are splits already"):
        listing(tree, draw_splits="0.5,0,0.5")
    (tree / "train" / "eel").mkdir()
    with pytest.raises(ReaderError, match=r"class folder train/eel .* has no pictures"):
        listing(tree)
    (tree / "train" / "eel").rmdir()
    shutil.copytree(tree / "train" / "ant", tree / "Validation" / "ant")
    with pytest.raises(ReaderError, match="class 'ant' is in split folder 'Validation' and in 'train'"):
        listing(tree)


@pytest.mark.parametrize(
    ("beside", "words"),
    [
        ("unlabeled", "folder Validation .* like a split, but unlabeled beside"),
        ("Test", "split folder Test .* has no class folders"),
    ],
)
def test_splits_beside_what_is_none_are_refused(tree, beside, words):
    (tree / beside).mkdir()
    if beside == "unlabeled":
        shutil.copy(tree / "train" / "ant" / "images" / "0.png", tree / beside)
    with pytest.raises(ReaderError, match=words):
        listing(tree)


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train", "ship"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(encoded(Image.new("RGB", (8, 8)), "png"))
    assert names(listing(tmp_path)) == [("ship", "0.png"), ("train", "0.png")]


def test_wrapping_folders_inside_each_other_are_looked_through(tree):
    outer = tree.parent / "outer" / "inner"
    outer.mkdir(parents=True)
    tree.rename(outer / "pictures")
    assert listing(tree.parent).splits == {"tree": {"train": ["ant", "bee"], "val": ["cat", "dog"]}}


def test_a_source_without_pictures_says_what_to_give(tmp_path):
    with pytest.raises(ReaderError, match=r"has no pictures in class folders; read are \.bmp"):
        listing(tmp_path)
    (tmp_path / "images.zip").write_bytes(b"")
    with pytest.raises(ReaderError, match="give the zip itself, .*images.zip"):
        listing(tmp_path)


def test_linked_folders_are_read_and_links_back_are_not(tree, tmp_path):
    expected = names(listing(tree))
    linked = tmp_path / "linked"
    (linked / "Validation").mkdir(parents=True)
    (linked / "train").symlink_to(tree / "train")
    for name in ("cat", "dog"):
        (linked / "Validation" / name).symlink_to(tree / "Validation" / name)
    assert names(listing(linked)) == expected
    for way in (linked / "Validation" / "back", tree / "train" / "ant" / "back", tree / "train" / "bee" / "up"):
        way.symlink_to(tmp_path if way.name == "up" else linked)
    assert names(listing(linked)) == expected


def test_links_to_each_other_end(tmp_path):
    for one, two in (("ant", "bee"), ("bee", "ant")):
        (tmp_path / one).mkdir()
        (tmp_path / one / "0.png").write_bytes(encoded(Image.new("RGB", (8, 8)), "png"))
        (tmp_path / one / "to").symlink_to(tmp_path / two)
    assert names(listing(tmp_path)) == [("ant", "0.png"), ("ant", "to/0.png"), ("bee", "0.png"), ("bee", "to/0.png")]


def zipped(path, *members):
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(member, encoded(Image.new("RGB", (8, 8)), "png"))
    return path


def test_zips_of_other_systems_are_read(tmp_path):
    for number, form in enumerate(("{}\\1.png", "/{}/1.png", "./{}/1.png")):
        path = zipped(tmp_path / f"{number}.zip", form.format("ant"), form.format("bee"), "__MACOSX/._ant")
        assert names(listing(path)) == [("ant", "1.png"), ("bee", "1.png")]
    with pytest.raises(ReaderError, match=r"has a member outside itself, \.\./ant/1.png"):
        listing(zipped(tmp_path / "out.zip", "../ant/1.png"))


def test_members_with_a_broken_header_are_named(tmp_path):
    path = zipped(tmp_path / "z.zip", "ant/é.png")
    raw = bytearray(path.read_bytes())
    raw[raw.index("é".encode())] = 0xFF  # in the member's own header, not in the list of members
    path.write_bytes(raw)
    with pytest.raises(ReaderError, match="cannot read ant/é.png in .*z.zip"):
        listing(path)


def test_a_broken_first_picture_leaves_the_size_to_the_next(tree):
    (tree / "Validation" / "cat" / "images" / "0.png").write_bytes(b"no picture")
    listed = listing(tree)
    assert listed.fields["image"].shape == (3, 8, 8)
    with pytest.raises(ReaderError, match="cannot decode image .*cat/images/0.png"):
        next(s for s in listed.samples if (s.class_name, s.key) == ("cat", "images/0.png")).load()


def test_a_reader_without_a_source_says_what_it_needs():
    with pytest.raises(ReaderError, match="reader 'folder' needs a source"):
        folder.make(None, folder.Options())


def test_a_file_beside_the_wrapping_folder_does_not_make_it_a_class(tree):
    (tree.parent / "README.txt").write_text("about the pictures")
    assert listing(tree.parent).splits == listing(tree).splits
    assert names(listing(tree.parent)) == names(listing(tree))


def test_other_files_are_left_alone_and_suffixes_may_be_upper_case(tmp_path):
    (tmp_path / "ant").mkdir()
    for name in ("1.PNG", "2.txt", "3.npy", ".4.png"):
        (tmp_path / "ant" / name).write_bytes(encoded(Image.new("RGB", (4, 6)), "png"))
    listed = listing(tmp_path)
    assert names(listed) == [("ant", "1.PNG")]
    assert listed.fields["image"].shape == (3, 6, 4), "height before width"


def test_listing_decodes_nothing(tree):
    for path in sorted(tree.rglob("[0-9].png"))[1:]:
        path.write_bytes(b"no picture")
    listed = listing(tree)
    assert len(listed.samples) == 12
    with pytest.raises(ReaderError, match="cannot decode image .*dog/images/2.png"):
        next(s for s in listed.samples if (s.class_name, s.key) == ("dog", "images/2.png")).load()


def test_splits_from_two_places_are_refused(tree, tmp_path):
    with pytest.raises(ConfigError, match="^splits: give either a file of splits or shares to draw"):
        folder.Options(splits=tmp_path / "s.json", draw_splits="0.5,0.2,0.3")
    with pytest.raises(ConfigError, match="^draw_splits: the folders of .* are splits already"):
        listing(tree, draw_splits="0.5,0,0.5")
    with pytest.raises(ConfigError, match="^splits: the folders of .* are splits already"):
        listing(tree, splits=tmp_path / "s.json")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 0}, r"^size: expected 1..4096, got 0"),
        ({"mode": "cmyk"}, "^mode: expected rgb or grey, got 'cmyk'"),
        ({"fit": "stretch"}, "^fit: expected crop or squash or pad, got 'stretch'"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        folder.Options(**options)


@pytest.mark.parametrize("kind", ["splits", "groups"])
def test_files_that_name_unknown_classes_are_refused_with_near_names(tree, tmp_path, kind):
    file = tmp_path / "f.json"
    file.write_text(json.dumps({"train": ["antt"]} if kind == "splits" else {"antt": "insect"}))
    options = folder.Options(**{kind: file})
    with pytest.raises(SpecError, match="'antt', which the source does not have; did you mean 'ant'"):
        ingest(folder.make(tree / "train", options), tmp_path / "s.store", options=options)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("g.json", '{"ant": 3}', "the group of class 'ant' is 3, not a name"),
        ("g.json", '{"ant": "a", "ant": "b"}', "has the name 'ant' twice"),
        ("g.csv", "class,group\nant,a\nant,b\n", "class 'ant' is in group 'a' and in 'b'"),
        ("g.csv", "class,group\nant,\n", "line 2 has an empty cell"),
    ],
)
def test_group_files_of_another_form_are_refused_with_their_place(tree, tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ReaderError, match=words):
        listing(tree / "train", groups=tmp_path / name)


def test_csv_files_may_quote_and_have_blank_lines_and_other_line_ends(tree, tmp_path):
    (tmp_path / "s.csv").write_bytes(b'\xef\xbb\xbfclass,split\r\n"ant",train\r\n\r\nbee , test\r\n\r\n')
    assert listing(tree / "train", splits=tmp_path / "s.csv").splits == {"file": {"train": ["ant"], "test": ["bee"]}}


def test_files_of_splits_and_folders_of_splits_share_their_names(tree, tmp_path):
    (tmp_path / "s.json").write_text('{"Train": ["ant"], "validation": ["bee"]}')
    assert listing(tree / "train", splits=tmp_path / "s.json").splits == {"file": {"train": ["ant"], "val": ["bee"]}}


def test_resume_notices_a_picture_of_another_length(tree, tmp_path):
    options = folder.Options()
    ingest(folder.make(tree / "train", options), tmp_path / "s.store", options=options)
    picture = tree / "train" / "ant" / "images" / "0.png"
    picture.write_bytes(picture.read_bytes() + b" ")
    with pytest.raises(StoreError, match="made from another source"):
        ingest(folder.make(tree / "train", options), tmp_path / "s.store", options=options, resume=True)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such file names")
def test_names_that_are_not_utf8_are_refused(tree):
    (tree / "train" / "b\udcff").mkdir()
    with pytest.raises(ReaderError, match=r"the name 'b.udcff' in .* is not UTF-8; rename it"):
        listing(tree)


def test_corrupt_members_of_every_compression_are_named(tmp_path):
    noise = np.random.Generator(np.random.PCG64(1)).bytes(4000)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = tmp_path / f"{method}.zip"
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("ant/1.png", noise)
        raw = bytearray(path.read_bytes())
        raw[60:3000] = bytes(2940)
        path.write_bytes(raw)
        with pytest.raises(ReaderError, match=r"cannot read ant/1.png in "):
            listing(path)


def test_a_picture_outside_any_class_is_named(tree):
    shutil.copy(tree / "train" / "ant" / "images" / "0.png", tree / "train" / "lost.png")
    with pytest.raises(ReaderError, match=r"picture lost.png .* is in no class folder"):
        listing(tree / "train")


def test_pictures_of_another_size_are_named(tree):
    (tree / "train" / "bee" / "images" / "1.png").write_bytes(encoded(Image.new("RGB", (9, 8)), "png"))
    sample = next(s for s in listing(tree).samples if (s.class_name, s.key) == ("bee", "images/1.png"))
    with pytest.raises(ReaderError, match=r"bee/images/1.png is 8x9, the first one 8x8 pixels .* give --size"):
        sample.load()
    sized = next(s for s in listing(tree, size=8).samples if (s.class_name, s.key) == ("bee", "images/1.png"))
    assert sized.load()["image"].shape == (3, 8, 8)


@pytest.mark.parametrize("text", ["0.5,0.5", "a,b,c", "0.5,0.2,0.2", "nan,0.5,0.5", "-0.1,0.6,0.5", ""])
def test_shares_that_are_none_are_refused(text):
    with pytest.raises(ConfigError, match="draw_splits: expected"):
        folder.Options(draw_splits=text)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("s.json", "{", "s.json is not JSON: .*line 1"),
        ("s.json", "[" * 100_000, "s.json is not JSON"),
        ("s.json", "{}", "s.json names no split"),
        ("s.json", '{"train": ["ant"], "train": ["bee"]}', "has the name 'train' twice"),
        ("s.json", '{"val": ["ant"], "Validation": ["bee"]}', "names split 'val' twice, once as 'Validation'"),
        ("s.json", '{"a+b": ["ant"]}', r"'a\+b' cannot be a split's name"),
        ("s.csv", "class,split\nant,\n", "line 2 has an empty cell; give class and split"),
        ("s.csv", 'class,split\n"' + "x" * 140_000 + '",train\n', "line 2: field larger than"),
        ("s.json", "[1]", "s.json is not a JSON object"),
        ("s.json", '{"train": "ant"}', "'train' is not a list of class names"),
        ("s.csv", "name,part\n", "line 1 must be the header class,split"),
        ("s.csv", "class,split\nant,train\nbee\n", "line 3 has 1 columns, not 2"),
    ],
)
def test_split_files_of_another_form_are_refused_with_their_place(tree, tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ReaderError, match=words):
        listing(tree / "train", splits=tmp_path / name)


@given(num=st.integers(3, 60), seed=st.integers(0, 100), cut=st.integers(10, 60))
def test_drawn_splits_are_disjoint_cover_all_and_do_not_depend_on_order(num, seed, cut):
    classes = [f"class{i}" for i in range(num)]
    parts = (cut / 100, 0.0, 1 - cut / 100)
    assume(num * cut >= 100)
    drawn = drawn_splits(classes, parts, seed)
    assert sorted(name for members in drawn.values() for name in members) == sorted(classes)
    assert drawn == drawn_splits(classes[::-1], parts, seed)
    assert len(drawn["train"]) == num * cut // 100


def test_a_share_of_zero_gets_no_class_although_the_sum_is_a_little_less_than_1():
    drawn = drawn_splits([f"class{i}" for i in range(50)], (0.5, 0.4999995, 0.0), 0)
    assert {split: len(members) for split, members in drawn.items()} == {"train": 25, "val": 25}


def test_the_seed_changes_the_draw():
    classes = [f"class{i}" for i in range(50)]
    assert drawn_splits(classes, (0.5, 0.0, 0.5), 0) != drawn_splits(classes, (0.5, 0.0, 0.5), 1)


def test_a_share_without_a_class_is_refused():
    with pytest.raises(ConfigError, match=r"a share of 0.1 of 3 classes leaves 'train' without any"):
        drawn_splits(["a", "b", "c"], (0.1, 0.4, 0.5), 0)


def test_tiny_imagenet_is_understood():
    listed = listing(real_data.tiny_imagenet())
    assert {split: len(c) for split, c in listed.splits["tree"].items()} == {"train": 64, "val": 16, "test": 20}
    counts = collections.Counter(s.class_name for s in listed.samples)
    assert (len(counts), set(counts.values())) == (100, {150})
    assert listed.fields["image"].shape == (3, 64, 64)
    assert listed.samples[-1].load()["image"].std() > 10


def test_encrypted_members_are_named(tmp_path):
    data = encoded(Image.new("RGB", (4, 4)), "png")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("ant/1.png", data)
    raw = bytearray((tmp_path / "z.zip").read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        raw[raw.index(signature) + offset] |= 1  # the flag of an encrypted member
    (tmp_path / "z.zip").write_bytes(raw)
    with pytest.raises(ReaderError, match=r"cannot read ant/1.png in .*z.zip"):
        listing(tmp_path / "z.zip")
