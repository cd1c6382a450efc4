"""Encoded stores: fitting JPEGs are kept to the byte, others encoded again, and what is read is what was hashed."""

import hashlib
import io
import json
import random
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
import real_data
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pictures import PictureReader, picture, saved
from PIL import Image
from test_cli import refused, run
from worlds import TellingReader

import episodes
from episodes.errors import ConfigError, StoreCorrupt, StoreError, StoreVersion
from episodes.ingest import ingest
from episodes.protocols import FieldSpec, Listing, RawSample
from episodes.readers import folder
from episodes.store import _encoded, _verify
from episodes.store._planes import split_planes
from episodes.store.manifest import row_digest

COUNTS = [5, 9, 7, 6, 8]
SMALL = 200  # bytes a shard: a few rows, so that a store has many
ORIENTATION = 0x0112


def pil(data, mode="RGB"):
    """[channels, height, width], by Pillow."""
    values = np.asarray(Image.open(io.BytesIO(data)).convert(mode))
    return np.ascontiguousarray(values.reshape(*values.shape[:2], -1).transpose(2, 0, 1))


def folder_of(path, pictures):
    """A tree of two classes whose first class has `pictures`: name -> bytes."""
    for name, data in {**{f"one/{n}": d for n, d in pictures.items()}, "two/x.jpg": saved(picture(99))}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def ingested(source, out, *, encoding="jpeg", quality=95, shard_bytes=4000, **options):
    chosen = folder.Options(**options)
    ingest(
        folder.make(source, chosen), out, options=chosen, encoding=encoding, quality=quality, shard_bytes=shard_bytes
    )  # fmt: skip
    return episodes.open(out)


def kept_bytes(store, row):
    """A row's encoded bytes, found by the manifest and the spans alone."""
    shard, place = divmod(row, store.manifest.rows_per_shard)
    with h5py.File(store.path / store.manifest.shards[shard].file) as file:
        start, length = file["_span.image"][place]
        return file["image"][start : start + length].tobytes()


def bytes_of(store):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(store.iterdir())}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """(zip of five real classes of twelve, its store as JPEG, its store raw)."""
    path = tmp_path_factory.mktemp("real")
    with zipfile.ZipFile(real_data.tiny_imagenet()) as whole, zipfile.ZipFile(path / "few.zip", "w") as few:
        names: dict[str, list[str]] = {}
        for name in whole.namelist():
            if name.endswith(".JPEG"):
                names.setdefault(name.split("/")[1], []).append(name)
        for one in (*sorted(names)[:4], "n03544143"):  # the last has the most grey ones
            grey = [n for n in names[one] if Image.open(io.BytesIO(whole.read(n))).mode == "L"]
            for name in sorted({*grey[:3], *names[one][:12]}):
                few.writestr("/".join(name.split("/")[1:]), whole.read(name))
    source = path / "few.zip"
    few_shards = {"shard_bytes": 20_000}
    return (
        source,
        ingested(source, path / "j.store", **few_shards),
        ingested(source, path / "r.store", encoding="raw", **few_shards),
    )


def test_real_jpegs_are_kept_untouched_and_decode_as_pillow_does(real):
    source, store, _ = real
    with zipfile.ZipFile(source) as archive:
        members = {Path(name).name: archive.read(name) for name in archive.namelist()}
    rows = np.arange(store.num_rows)
    assert len(store.manifest.shards) > 3
    assert len(members) == store.num_rows
    assert {Image.open(io.BytesIO(data)).mode for data in members.values()} == {"RGB", "L"}
    for row, key, image in zip(rows, store.keys(rows), store.read(rows)["image"], strict=True):
        assert hashlib.sha256(kept_bytes(store, row)).digest() == hashlib.sha256(members[key]).digest()
        assert np.array_equal(image, pil(members[key]))


def test_untouched_images_give_the_fingerprint_and_the_episodes_of_the_raw_store(real):
    _, encoded, raw = real
    assert encoded.fingerprint == raw.fingerprint
    assert encoded.manifest.content == raw.manifest.content
    sizes = [sum(shard.size for shard in store.manifest.shards) for store in (encoded, raw)]
    assert sizes[0] < sizes[1] / 2
    spec = episodes.EpisodeSpec(ways=3, shots=2, queries=4)
    one, two = (episodes.sample(store, "all", spec)[7] for store in (encoded, raw))
    assert np.array_equal(one.query.fields["image"], two.query.fields["image"])
    encoded.verify()


def test_threads_decode_what_one_thread_decodes(real):
    _, store, _ = real
    blocks = np.random.Generator(np.random.Philox(0)).integers(0, store.num_rows, (24, 40))
    with ThreadPoolExecutor(4) as pool:
        for rows, values in zip(blocks, pool.map(lambda rows: store.read(rows)["image"], blocks), strict=True):
            assert np.array_equal(values, store.read(rows)["image"])


def exif(orientation):
    table = Image.Exif()
    table[ORIENTATION] = orientation
    return table


@pytest.mark.parametrize(
    ("name", "data", "kept"),
    [
        ("plain.jpg", saved(picture(1)), True),
        ("subsampled.jpg", saved(picture(1), subsampling=2, quality=60), True),
        ("progressive.jpg", saved(picture(1), progressive=True), True),
        ("grey.jpg", saved(picture(1, channels=1)), True),
        ("upright.jpg", saved(picture(1), exif=exif(1)), True),
        ("called.png", saved(picture(1)), True),
        ("turned.jpg", saved(picture(1), exif=exif(3)), False),
        ("on-its-side.jpg", saved(picture(1, size=(16, 24)), exif=exif(6)), False),
        ("cmyk.jpg", saved(picture(1).convert("CMYK")), False),
        ("drawn.png", saved(picture(1), "PNG"), False),
        ("called.jpg", saved(picture(1), "PNG"), False),
    ],
)
def test_a_jpeg_is_kept_only_if_it_holds_precisely_the_readers_pixels(tmp_path, name, data, kept):
    source = folder_of(tmp_path / "tree", {name: data})
    store, raw = ingested(source, tmp_path / "a.store"), ingested(source, tmp_path / "b.store", encoding="raw")
    bytes_, value, wanted = kept_bytes(store, 0), store.read(np.array([0]))["image"][0], raw.read(np.array([0]))["image"][0]
    assert np.array_equal(value, pil(bytes_))
    assert (bytes_ == data) == kept
    if kept:
        assert np.array_equal(value, wanted)
    else:
        assert np.abs(value.astype(int) - wanted).mean() < 2
        assert Image.open(io.BytesIO(bytes_)).layer == [(i, 1, 1, int(i > 1)) for i in (1, 2, 3)]  # 4:4:4


def test_resized_and_grey_pictures_are_encoded_in_the_stated_quality(tmp_path):
    source = folder_of(tmp_path / "tree", {f"{i}.jpg": saved(picture(i)) for i in range(6)})
    fine = ingested(source, tmp_path / "a.store", size=20)
    coarse = ingested(source, tmp_path / "b.store", size=20, quality=30)
    raw = ingested(source, tmp_path / "r.store", size=20, encoding="raw")
    rows = np.arange(raw.num_rows)
    errors = [np.abs(store.read(rows)["image"].astype(int) - raw.read(rows)["image"]).mean() for store in (fine, coarse)]
    assert errors[0] < 2 < errors[1]
    assert len({fine.fingerprint, coarse.fingerprint, raw.fingerprint}) == 3
    assert fine.manifest.encodings["image"].quality == 95
    grey = ingested(source, tmp_path / "g.store", mode="grey")
    assert grey.fields["image"].shape == (1, 16, 24)
    assert Image.open(io.BytesIO(kept_bytes(grey, 0))).mode == "L"
    assert np.array_equal(grey.read(rows)["image"][2], pil(kept_bytes(grey, 2), "L"))


def test_digests_are_of_the_decoded_values(tmp_path):
    store = ingested(folder_of(tmp_path / "tree", {"1.png": saved(picture(1), "PNG")}), tmp_path / "a.store")
    rows = np.arange(store.num_rows)
    values, digests = store.read(rows)["image"], store.digests(rows)
    for value, digest in zip(values, digests, strict=True):
        assert hashlib.blake2b(value.tobytes(), digest_size=16).digest() == digest.tobytes() == row_digest({"image": value})


class Numbered(PictureReader):
    """Pictures, an integer and floats."""

    def listing(self):
        one = super().listing()
        fields = {**one.fields, "after": FieldSpec("int64", ()), "words": FieldSpec("float32", (3,))}
        return Listing(fields=fields, samples=one.samples, groups=one.groups, splits=one.splits)

    def _load(self, c, place):
        number = np.int64(100 * c + place)
        return {**super()._load(c, place), "after": np.array(number), "words": np.full(3, number, np.float32)}


def test_other_fields_stay_raw(tmp_path):
    for name, encoding in (("a", "jpeg"), ("b", "raw")):
        ingest(Numbered(COUNTS), tmp_path / f"{name}.store", encoding=encoding, shard_bytes=SMALL)
    store, raw = episodes.open(tmp_path / "a.store"), episodes.open(tmp_path / "b.store")
    store.verify()
    rows = np.arange(store.num_rows)[::-3]
    got, wanted = store.read(rows), raw.read(rows)
    assert list(got) == ["after", "image", "words"]
    assert np.array_equal(got["after"], wanted["after"])
    assert np.array_equal(got["words"], wanted["words"])
    assert store.places("image") is None
    assert store.places("after") is not None
    assert set(store.manifest.columns) == {"after", "words", "_key", "_digest", "_span.image"}
    assert store.keys(rows) == raw.keys(rows)
    assert len(store.manifest.shards) > 5


def test_raw_stores_are_of_format_1_and_encoded_ones_of_format_2(tmp_path):
    for encoding in ("raw", "jpeg"):
        ingest(PictureReader(COUNTS), tmp_path / encoding, encoding=encoding)
    tables = {kind: json.loads((tmp_path / kind / "manifest.json").read_text()) for kind in ("raw", "jpeg")}
    assert (tables["raw"]["format"], tables["jpeg"]["format"]) == (1, 2)
    assert "encodings" not in tables["raw"]
    assert tables["jpeg"]["encodings"] == {"image": {"codec": "jpeg", "quality": 95}}


def altered(store, **changes):
    table = json.loads((store / "manifest.json").read_text())
    table = {key: value for key, value in {**table, **changes}.items() if key != "checksum"}
    text = json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    table["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    (store / "manifest.json").write_text(json.dumps(table))


def test_another_codec_or_no_encodings_in_format_2_are_refused(tmp_path):
    ingest(PictureReader(COUNTS), tmp_path / "a.store", encoding="jpeg")
    altered(tmp_path / "a.store", encodings={"image": {"codec": "webp", "quality": 1}})
    with pytest.raises(StoreVersion, match="field 'image' is encoded as 'webp'; this program reads jpeg"):
        episodes.open(tmp_path / "a.store")
    altered(tmp_path / "a.store", format=1)
    with pytest.raises(StoreCorrupt, match="only a store of format 2 has encoded fields"):
        episodes.open(tmp_path / "a.store")


def test_the_same_input_gives_the_same_bytes_whatever_the_workers(tmp_path):
    for name, workers in (("a", 1), ("b", 5)):
        ingest(PictureReader(COUNTS), tmp_path / name, encoding="jpeg", shard_bytes=SMALL, workers=workers)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_how_rows_are_cut_into_shards_changes_no_value(tmp_path):
    for name, size in (("a", SMALL), ("b", 1 << 20)):
        ingest(PictureReader(COUNTS), tmp_path / name, encoding="jpeg", shard_bytes=size)
    one, two = episodes.open(tmp_path / "a"), episodes.open(tmp_path / "b")
    assert len(one.manifest.shards) > len(two.manifest.shards) == 1
    assert one.fingerprint == two.fingerprint
    rows = np.array([34, 0, 7, 7])
    assert np.array_equal(one.read(rows)["image"], two.read(rows)["image"])


def test_broken_samples_are_skipped(tmp_path):
    broken = ((1, 3), (2, 2), *((4, place) for place in range(7)))
    ingest(PictureReader(COUNTS, broken), tmp_path / "a", encoding="jpeg", shard_bytes=SMALL, skip_broken=True)
    store = episodes.open(tmp_path / "a")
    store.verify()
    assert store.table.counts == (5, 8, 6, 6, 1)
    assert len(store.manifest.skipped) == len(broken)


class Interrupted(PictureReader):
    """Stops after some samples, as Ctrl-C would."""

    left = 20

    def _load(self, c, place):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super()._load(c, place)


def test_an_interrupted_ingest_goes_on_but_not_with_another_encoding(tmp_path):
    settings = {"shard_bytes": SMALL, "encoding": "jpeg"}
    ingest(PictureReader(COUNTS), tmp_path / "a", **settings)
    with pytest.raises(KeyboardInterrupt):
        ingest(Interrupted(COUNTS), tmp_path / "b", workers=1, **settings)
    for other in ({"quality": 94}, {"encoding": "raw"}):
        with pytest.raises(StoreError, match="begun from another source or with other options"):
            ingest(PictureReader(COUNTS), tmp_path / "b", resume=True, **{**settings, **other})
    assert len(list((tmp_path / "b.partial").glob("shard-*.h5"))) > 1
    ingest(PictureReader(COUNTS), tmp_path / "b", resume=True, **settings)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from pictures import PictureReader
from episodes.ingest import ingest
class Slow(PictureReader):
    def _load(self, c, place):
        time.sleep(0.002)
        return super()._load(c, place)
print("go", flush=True)
ingest(Slow([30, 40, 50]), Path({out!r}), encoding="jpeg", shard_bytes=200, resume=True)
"""


def test_killed_at_random_moments_it_gives_the_same_bytes(tmp_path):
    ingest(PictureReader([30, 40, 50]), tmp_path / "whole", encoding="jpeg", shard_bytes=200)
    out = tmp_path / "killed"
    script = SCRIPT.format(tests=str(Path(__file__).parent), out=str(out))
    moments, kills = random.Random(1), 0
    while not out.exists():
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        if kills < 6:
            time.sleep(moments.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        process.stdout.close()
    ingest(PictureReader([30, 40, 50]), out, encoding="jpeg", shard_bytes=200, resume=True)  # a kill left notes
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


@pytest.fixture
def small(tmp_path):
    pictures = {f"{i}.jpg": saved(picture(i)) for i in range(9)}
    return ingested(folder_of(tmp_path / "tree", pictures), tmp_path / "a.store", shard_bytes=900)


def test_reading_into_given_arrays_is_the_same(small):
    rows = np.array([3, 3, 9, 0])
    out = {"image": np.empty((4, 3, 16, 24), np.uint8)}
    assert small.read(rows, out=out)["image"] is out["image"]
    assert np.array_equal(out["image"], small.read(rows)["image"])
    assert small.read(rows[:0])["image"].shape == (0, 3, 16, 24)
    with pytest.raises(StoreError, match=r"must be contiguous, writable uint8 of shape \(4, 3, 16, 24\)"):
        small.read(rows, out={"image": np.empty((4, 3, 16, 24), np.float32)})
    for row in (-1, 10):
        with pytest.raises(StoreError, match=f"row {row} is not in 0..9"):
            small.read(np.array([0, row]))


def damage(store, row, change):
    """Apply `change` to the bytes of a row's image in its file, and open the store again."""
    shard, place = divmod(row, store.manifest.rows_per_shard)
    about = store.manifest.shards[shard]
    with h5py.File(store.path / about.file, "r+") as file:
        change(file, place, *file["_span.image"][place])
    return episodes.open(store.path)


def zero_middle(file, place, start, length):
    file["image"][start + length // 2 : start + length] = np.zeros(length - length // 2, np.uint8)


def zero_head(file, place, start, length):
    file["image"][start : start + 4] = np.zeros(4, np.uint8)


def short_span(file, place, start, length):
    file["_span.image"][place] = start, length // 2


def beyond_the_file(file, place, start, length):
    file["_span.image"][place] = 1 << 40, length


def before_the_file(file, place, start, length):
    file["_span.image"][place] = -start - 5000, length


def another_size(file, place, start, length):
    data = np.frombuffer(saved(picture(1, size=(8, 8)), quality=20), np.uint8)[:length]
    file["image"][start : start + len(data)] = data
    file["_span.image"][place] = start, len(data)


@pytest.mark.parametrize("change", [zero_middle, zero_head, short_span, beyond_the_file, before_the_file, another_size])
def test_a_damaged_image_is_named_by_store_row_and_key(small, change):
    store = damage(small, 4, change)
    key = store.keys(np.array([4]))[0]
    assert store.read(np.array([3, 5, 6]))["image"].any()
    with pytest.raises(
        StoreCorrupt, match=rf"a\.store: the image 'image' of row 4, sample '{key}', is damaged \(.+\); ingest"
    ):
        store.read(np.array([3, 4]))
    with pytest.raises(StoreCorrupt, match=r"shard-0000\d\.h5 is damaged"):
        store.verify()


def test_verify_finds_a_decoder_that_gives_other_values(small, monkeypatch):
    small.verify()
    plain = type(small).read

    def other(self, rows, out=None):
        values = plain(self, rows, out)
        values["image"][rows == 5] ^= 1
        return values

    monkeypatch.setattr(type(small), "read", other)
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(_verify, "_BLOCK", 4)
    with pytest.raises(StoreCorrupt, match=r"row 5, sample '\d\.jpg', decodes to other values than at ingest"):
        small.verify(lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert all(done < total for done, total in seen)


def test_verify_reports_all_of_its_work(small):
    seen: list[tuple[int, int]] = []
    small.verify(lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]


class Words(TellingReader):
    """No field is an image of one or three channels."""

    def listing(self):
        fields = {"mask": FieldSpec("uint8", (2, 4, 4)), "words": FieldSpec("float32", (1, 3, 3))}
        return Listing(fields=fields, samples=[RawSample("a", "b", dict)])


def test_what_cannot_be_encoded_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"reader 'telling' gives no images, .* it gives mask uint8 \(2, 4, 4\), words"):
        ingest(Words([1]), tmp_path / "a", encoding="jpeg")
    with pytest.raises(ConfigError, match="encoding: expected raw or jpeg, got 'png'"):
        ingest(TellingReader([1]), tmp_path / "a", encoding="png")
    for quality in (0, 101):
        with pytest.raises(ConfigError, match=rf"quality: expected 1\.\.100, got {quality}"):
            ingest(TellingReader([1]), tmp_path / "a", encoding="jpeg", quality=quality)
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_does_not_survive_encoding_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("episodes.ingest._encode.encode", lambda image, quality: b"\xff\xd8\xff nothing")
    with pytest.raises(
        StoreError, match=r"sample '\d+' of class 'class00': field 'image' does not survive encoding \(.+raw"
    ):
        ingest(TellingReader([3]), tmp_path / "a", encoding="jpeg", workers=1)


def test_without_the_decoder_an_encoded_store_says_what_to_install(tmp_path, small, monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    _encoded.codec.cache_clear()
    try:
        for act in (
            lambda: small.read(np.array([0])),
            lambda: ingest(TellingReader([3]), tmp_path / "b", encoding="jpeg"),
        ):
            with pytest.raises(
                StoreError, match=r"need simplejpeg, which is not installed; `pip install episodes\[jpeg\]`"
            ):
                act()
        ingest(TellingReader([3]), tmp_path / "b")
        assert episodes.open(small.path).num_rows == 10
    finally:
        _encoded.codec.cache_clear()


images = st.tuples(st.sampled_from([1, 3]), st.integers(1, 40), st.integers(1, 40)).flatmap(
    lambda shape: hnp.arrays(np.uint8, shape)
)


@given(images, st.integers(1, 100))
def test_what_is_encoded_decodes_as_pillow_decodes_it(image, quality):
    data, out = _encoded.encode(image, quality), np.empty(image.shape, np.uint8)
    assert data == _encoded.encode(image, quality)
    _encoded.decode(data, out)
    assert np.array_equal(out, pil(data, "L" if len(image) == 1 else "RGB"))
    assert _encoded.decodes_to(data, out)
    assert not _encoded.decodes_to(data, out ^ 1)
    assert not _encoded.decodes_to(data[:-4], out)


@given(images, st.sampled_from([0, 1, 2]), st.booleans())
def test_every_subsampling_decodes_as_pillow_decodes_it(image, subsampling, progressive):
    flat = Image.fromarray(image.transpose(1, 2, 0).squeeze(2) if len(image) == 1 else image.transpose(1, 2, 0))
    data = saved(flat, subsampling=subsampling, progressive=progressive)
    for mode, channels in (("RGB", 3), ("L", 1)):
        if flat.mode == "L" or mode == "RGB":
            out = np.empty((channels, *image.shape[1:]), np.uint8)
            _encoded.decode(data, out)
            assert np.array_equal(out, pil(data, mode))


@given(hnp.arrays(np.uint8, st.tuples(st.integers(0, 9), st.integers(0, 9), st.just(3))))
def test_planes_are_split_as_numpy_transposes(pixels):
    out = np.empty((3, pixels.shape[0] * pixels.shape[1]), np.uint8)
    split_planes(pixels.reshape(-1), out)
    assert np.array_equal(out.reshape(3, *pixels.shape[:2]), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("spec", "can"),
    [
        (FieldSpec("uint8", (1, 28, 28)), True),
        (FieldSpec("uint8", (3, 1, 65500)), True),
        (FieldSpec("uint8", (3, 1, 65501)), False),
        (FieldSpec("uint8", (4, 8, 8)), False),
        (FieldSpec("uint8", (28, 28)), False),
        (FieldSpec("int8", (1, 28, 28)), False),
    ],
)
def test_only_pictures_can_be_encoded(spec, can):
    assert _encoded.can_encode(spec) == can


def test_the_command_line_makes_and_describes_encoded_stores(tmp_path):
    source = folder_of(tmp_path / "tree", {f"{i}.jpg": saved(picture(i)) for i in range(4)})
    text = run("ingest", "folder", source, tmp_path / "a", "--encoding", "jpeg", "--quality", 80, "--size", 8).stdout
    assert "field image: uint8 3x8x8, kept as jpeg (quality 80 where encoded at ingest)" in text
    about = json.loads(run("inspect", tmp_path / "a", "--verify", "--json").stdout)
    assert about["fields"] == {"image": {"dtype": "uint8", "shape": [3, 8, 8]}}
    assert about["encodings"] == {"image": {"codec": "jpeg", "quality": 80}}
    assert about["verified"]
    assert "'png' is not one of 'raw', 'jpeg'" in refused("ingest", "folder", source, tmp_path / "b", "--encoding", "png")
    run("ingest", "folder", source, tmp_path / "c")
    assert json.loads(run("inspect", tmp_path / "c", "--json").stdout)["encodings"] == {}
