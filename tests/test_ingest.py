"""Ingest: the same bytes for the same input, whole or absent, resumable after a kill at any moment."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from worlds import TellingReader

import episodes
from episodes.errors import ReaderError, SpecError, StoreCorrupt, StoreError, StoreVersion
from episodes.ingest import ingest

COUNTS = [5, 9, 7, 6, 8]
SMALL = 200  # bytes a shard: a few rows of 16 bytes, so that a store has many


def bytes_of(store: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(store.iterdir())}


@pytest.fixture
def store(tmp_path) -> Path:
    ingest(TellingReader(COUNTS), tmp_path / "a.store", shard_bytes=SMALL)
    return tmp_path / "a.store"


def test_every_row_is_read_back_in_its_class(store):
    opened = episodes.open(store)
    opened.verify()
    assert opened.num_rows == sum(COUNTS)
    assert len(opened.manifest.shards) > 5
    everything = opened.split("all")
    for c in range(len(COUNTS)):
        rows = np.arange(COUNTS[c]) + everything.starts[c]
        image = opened.read(rows)["image"]
        assert (image[:, 0, 0, 0] == c).all()
        assert sorted(image[:, 0, 0, 1].tolist()) == list(range(COUNTS[c]))
        assert opened.keys(rows) == [f"{place:03d}" for place in image[:, 0, 0, 1]]


def test_rows_of_a_class_are_ordered_by_the_hash_of_their_key(store):
    keys = episodes.open(store).keys(np.arange(COUNTS[0]))
    assert keys == sorted(keys, key=lambda k: hashlib.blake2b(k.encode(), digest_size=8).digest())
    assert keys != sorted(keys)


def test_a_second_reader_finds_the_same_values(store):
    opened, manifest = episodes.open(store), json.loads((store / "manifest.json").read_text())
    images = []
    for shard in manifest["shards"]:
        with h5py.File(store / shard["file"]) as file:
            assert file["image"].chunks is None
            assert file["image"].id.get_offset() == shard["offsets"]["image"]
            images.append(file["image"][:])
            digests = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in images[-1]]
            assert file["_digest"][:].tobytes() == b"".join(digests)
    assert np.array_equal(np.concatenate(images), opened.read(np.arange(opened.num_rows))["image"])


def test_the_same_input_gives_the_same_bytes_whatever_the_workers(tmp_path, store):
    ingest(TellingReader(COUNTS), tmp_path / "b.store", shard_bytes=SMALL, workers=5)
    assert bytes_of(store) == bytes_of(tmp_path / "b.store")


def test_the_fingerprint_ignores_how_rows_are_cut_into_shards(tmp_path, store):
    ingest(TellingReader(COUNTS), tmp_path / "b.store")
    assert episodes.open(store).fingerprint == episodes.open(tmp_path / "b.store").fingerprint
    ingest(TellingReader([5, 9, 7, 6, 7]), tmp_path / "c.store")
    assert episodes.open(store).fingerprint != episodes.open(tmp_path / "c.store").fingerprint


def test_an_existing_store_is_not_replaced_unless_told(tmp_path, store):
    before = bytes_of(store)
    with pytest.raises(StoreError, match="exists; give --overwrite"):
        ingest(TellingReader([3, 3]), store)
    assert bytes_of(store) == before
    ingest(TellingReader([3, 3]), store, overwrite=True)
    assert episodes.open(store).num_rows == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.store"]


def test_a_folder_that_is_no_store_is_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").write_text("years of work")
    with pytest.raises(StoreError, match="is not a store; it is not replaced"):
        ingest(TellingReader([3, 3]), tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter1").exists()


class Interrupted(TellingReader):
    """Stops after some samples, as Ctrl-C would."""

    def __init__(self, counts: list[int], after: int) -> None:
        super().__init__(counts)
        self.left = after

    def _load(self, c: int, place: int) -> dict[str, np.ndarray]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super()._load(c, place)


@pytest.mark.parametrize("after", [0, 1, 7, 20, 34])
def test_an_interrupted_ingest_is_no_store_and_goes_on(tmp_path, store, after):
    out = tmp_path / "b.store"
    with pytest.raises(KeyboardInterrupt):
        ingest(Interrupted(COUNTS, after), out, shard_bytes=SMALL, workers=1)
    assert not out.exists()
    for path in (out, out.with_name("b.store.partial")):
        with pytest.raises(StoreError, match="no store at"):
            episodes.open(path)
    with pytest.raises(StoreError, match=r"unfinished ingest .* --resume"):
        ingest(TellingReader(COUNTS), out, shard_bytes=SMALL)
    ingest(TellingReader(COUNTS), out, shard_bytes=SMALL, resume=True)
    assert bytes_of(out) == bytes_of(store)


def test_resume_uses_the_shards_that_are_whole(tmp_path):
    out, partial = tmp_path / "b.store", tmp_path / "b.store.partial"
    with pytest.raises(KeyboardInterrupt):
        ingest(Interrupted(COUNTS, 30), out, shard_bytes=SMALL, workers=1)
    written = len(list(partial.glob("shard-*.h5")))
    assert written > 2
    (partial / "shard-00001.h5").write_bytes(b"cut")  # a damaged shard is made again, and all after it
    reader = Interrupted(COUNTS, 10**6)
    ingest(reader, out, shard_bytes=SMALL, resume=True)
    per_shard = episodes.open(out).manifest.rows_per_shard
    assert 10**6 - reader.left == sum(COUNTS) - per_shard
    episodes.open(out).verify()


def test_resume_refuses_another_source(tmp_path, store):
    with pytest.raises(KeyboardInterrupt):
        ingest(Interrupted(COUNTS, 20), tmp_path / "b.store", shard_bytes=SMALL, workers=1)
    with pytest.raises(StoreError, match="begun from another source"):
        ingest(TellingReader([9, 9]), tmp_path / "b.store", shard_bytes=SMALL, resume=True)
    with pytest.raises(StoreError, match="made from another source"):
        ingest(TellingReader([9, 9]), store, shard_bytes=SMALL, resume=True)


def test_resume_refuses_split_lists_in_another_order(tmp_path):
    """The first list is the default, so their order decides what `train` means."""

    class Reordered(TellingReader):
        def listing(self):
            one = super().listing()
            lists = {**one.splits, "again": one.splits["halves"]}
            return replace(one, splits=dict(reversed(lists.items())) if self.broken else lists)

    ingest(Reordered([9, 9]), tmp_path / "c.store")
    with pytest.raises(StoreError, match="made from another source"):
        ingest(Reordered([9, 9], broken=((7, 7),)), tmp_path / "c.store", resume=True)


def test_resume_of_a_finished_store_changes_nothing(store):
    before = bytes_of(store)
    ingest(TellingReader(COUNTS), store, shard_bytes=SMALL, resume=True)
    assert bytes_of(store) == before


class Doubled(TellingReader):
    """The first sample of `one` is also in class `two`."""

    def __init__(self, one, two):
        super().__init__([9, 9, 9, 9])
        self.one, self.two = one, two

    def _load(self, c, place):
        return super()._load(self.one if (c, place) == (self.two, 0) else c, place)


def test_equal_samples_in_two_classes_are_a_warning_in_two_splits_an_error(tmp_path):
    with pytest.warns(UserWarning, match=r"'000' of class 'class00' and '000' of class 'class01' are equal \(1 such"):
        ingest(Doubled(0, 1), tmp_path / "a.store")
    with pytest.raises(StoreError, match="are equal .* accept them with --duplicates warn"):
        ingest(Doubled(0, 1), tmp_path / "b.store", duplicates="error")
    with pytest.raises(StoreError, match="are equal, in splits 'train' and 'test' of list 'halves'"):
        ingest(Doubled(0, 3), tmp_path / "c.store")
    assert sorted(p.name for p in tmp_path.glob("*.store")) == ["a.store"]


def test_a_broken_sample_stops_the_ingest_by_name(tmp_path):
    with pytest.raises(ReaderError, match=r"class01/003.*--skip-broken"):
        ingest(TellingReader(COUNTS, broken=((1, 3), (2, 2))), tmp_path / "b.store")
    assert not (tmp_path / "b.store").exists()


@pytest.mark.parametrize("shard_bytes", [SMALL, 1 << 20])
def test_skipped_samples_are_recorded(tmp_path, shard_bytes):
    broken = ((1, 3), (2, 2), *((4, place) for place in range(7)))
    manifest = ingest(TellingReader(COUNTS, broken), tmp_path / "b.store", shard_bytes=shard_bytes, skip_broken=True)
    assert {(s.class_name, s.key) for s in manifest.skipped} == {(f"class{c:02d}", f"{p:03d}") for c, p in broken}
    opened = episodes.open(tmp_path / "b.store")
    opened.verify()
    assert opened.table.counts == (5, 8, 6, 6, 1)
    images = opened.read(np.arange(opened.num_rows))["image"]
    assert {tuple(i[0, 0, :2].tolist()) for i in images}.isdisjoint(broken)


def test_a_class_of_broken_samples_is_named(tmp_path):
    with pytest.raises(ReaderError, match="no sample of class 'class01' could be read"):
        ingest(TellingReader([3, 2], broken=((1, 0), (1, 1))), tmp_path / "b.store", shard_bytes=SMALL, skip_broken=True)
    assert not (tmp_path / "b.store").exists()


def test_a_full_disk_is_one_clear_error_and_resumable(tmp_path, store):
    out, partial = tmp_path / "b.store", tmp_path / "b.store.partial"
    with pytest.raises(KeyboardInterrupt):
        ingest(Interrupted(COUNTS, 20), out, shard_bytes=SMALL, workers=1)
    done = len(list(partial.glob("shard-*.h5")))
    (partial / f"shard-{done:05d}.h5.tmp").symlink_to("/dev/full")  # every write there finds no space
    with pytest.raises(StoreError, match="no space left on the disk"):
        ingest(TellingReader(COUNTS), out, shard_bytes=SMALL, resume=True)
    assert not out.exists()
    ingest(TellingReader(COUNTS), out, shard_bytes=SMALL, resume=True)
    assert bytes_of(out) == bytes_of(store)


class Wrong(TellingReader):
    """A reader whose samples are not as it declares."""

    def __init__(self, value: object) -> None:
        super().__init__([2, 2])
        self.value = value

    def _load(self, c: int, place: int) -> dict[str, np.ndarray]:
        return {"image": self.value} if isinstance(self.value, np.ndarray) else {"other": np.zeros(1)}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros((1, 4, 5), np.uint8), r"is uint8 \(1, 4, 5\); the reader declared uint8 \(1, 4, 4\)"),
        (np.zeros((1, 4, 4), np.float32), "is float32"),
        (None, r"has fields \['other'\]; the reader declared \['image'\]"),
    ],
)
def test_samples_other_than_declared_are_refused(tmp_path, value, words):
    with pytest.raises(ReaderError, match=words):
        ingest(Wrong(value), tmp_path / "b.store")


def test_an_empty_source_is_refused(tmp_path):
    with pytest.raises(ReaderError, match="found no samples"):
        ingest(TellingReader([]), tmp_path / "b.store")


def test_a_truncated_shard_is_named(store):
    path = store / "shard-00002.h5"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreCorrupt, match=r"shard-00002.h5 has \d+ bytes; the manifest says"):
        episodes.open(store)
    path.unlink()
    with pytest.raises(StoreCorrupt, match=r"shard-00002.h5 is missing"):
        episodes.open(store)


def test_a_flipped_bit_is_found_and_its_shard_named(store):
    path = store / "shard-00003.h5"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt, match=r"shard-00003.h5 is damaged"):
        episodes.open(store).verify()


@pytest.mark.parametrize("name", ["manifest.json", "classes.json"])
def test_altered_descriptions_are_refused(store, name):
    text = (store / name).read_text()
    old, new = ("halves", "Halves") if name == "classes.json" else ('"num_rows": 35', '"num_rows": 34')
    assert old in text
    (store / name).write_text(text.replace(old, new))
    with pytest.raises(StoreCorrupt, match=f"{name} was altered"):
        episodes.open(store)
    (store / name).write_text("{")
    with pytest.raises(StoreCorrupt, match=name):
        episodes.open(store)


def test_another_format_version_is_refused(store):
    table = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps({**table, "format": 99}))
    with pytest.raises(StoreVersion, match="has store format 99; this program reads format 1"):
        episodes.open(store)


def test_reading_rows_out_of_range_is_refused(store):
    opened = episodes.open(store)
    for row in (-1, sum(COUNTS)):
        with pytest.raises(StoreError, match=f"row {row} is not in 0..34"):
            opened.read(np.array([0, row]))
    with pytest.raises(StoreError, match="must be contiguous"):
        opened.read(np.array([0]), out={"image": np.empty((1, 1, 4, 4), np.float32)})


def test_reading_into_given_arrays_is_the_same(store):
    opened, rows = episodes.open(store), np.array([3, 3, 34, 0])
    out = {"image": np.empty((4, 1, 4, 4), np.uint8)}
    assert opened.read(rows, out=out)["image"] is out["image"]
    assert np.array_equal(out["image"], opened.read(rows)["image"])


def test_unknown_splits_list_the_known_ones(store):
    with pytest.raises(SpecError, match=r"unknown split 'trian'; did you mean 'halves/train'"):
        episodes.open(store).split("trian")
    assert episodes.open(store).split("halves/test+train").split == "halves/train+test"
    assert len(episodes.open(store).split("train+test")) == len(COUNTS)


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from worlds import TellingReader
from episodes.ingest import ingest
class Slow(TellingReader):
    def _load(self, c, place):
        time.sleep(0.002)
        return super()._load(c, place)
print("go", flush=True)
ingest(Slow([30, 40, 50]), Path({out!r}), shard_bytes=200, resume=True)
"""


def test_killed_twenty_times_at_random_moments_it_gives_the_same_bytes(tmp_path):
    ingest(TellingReader([30, 40, 50]), tmp_path / "whole.store", shard_bytes=200)
    out = tmp_path / "killed.store"
    script = SCRIPT.format(tests=str(Path(__file__).parent), out=str(out))
    moments, kills = random.Random(1), 0
    while not out.exists():
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        if kills < 20:
            time.sleep(moments.uniform(0, 0.06))
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        process.stdout.close()
    ingest(TellingReader([30, 40, 50]), out, shard_bytes=200, resume=True)  # a kill just after the rename left notes
    assert bytes_of(out) == bytes_of(tmp_path / "whole.store")
