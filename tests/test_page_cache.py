"""Warming a store, and announcing rows of one that memory cannot hold: what is asked for, and that values stay the same."""

import json
import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import PictureReader
from test_cli import run

import episodes
from episodes.errors import StoreError
from episodes.ingest import ingest
from episodes.store import _cache, mapped

COUNTS = [5, 9, 7, 6, 8]
PAGE = mmap.PAGESIZE


@pytest.fixture(params=["raw", "jpeg"])
def store(tmp_path, request):
    ingest(PictureReader(COUNTS), tmp_path / "a.store", encoding=request.param, shard_bytes=500)
    return tmp_path / "a.store"


def test_warming_reads_every_byte_and_reports_it(store):
    opened, seen = episodes.open(store), []
    size = sum(shard.size for shard in opened.manifest.shards)
    assert opened.warm(lambda done, total: seen.append((done, total))) == size
    assert seen[-1] == (size, size)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_warming_stops_where_memory_ends(store, monkeypatch):
    opened = episodes.open(store)
    size = sum(shard.size for shard in opened.manifest.shards)
    for room, wanted in ((size // 3, size // 3), (0, 0), (size + 1, size), (None, size)):
        seen = []
        monkeypatch.setattr(mapped, "available_bytes", lambda room=room: room)
        assert opened.warm(lambda done, total, seen=seen: seen.append((done, total))) == wanted
        assert all(done <= total == wanted for done, total in seen)


def test_a_shard_that_is_gone_is_named(store):
    opened = episodes.open(store)
    (store / "shard-00001.h5").unlink()
    with pytest.raises(StoreError, match=r"cannot read .*shard-00001\.h5: No such file"):
        opened.warm()


def test_the_command_line_warms_and_says_what_does_not_fit(store, monkeypatch):
    size = sum(shard.size for shard in episodes.open(store).manifest.shards)
    assert f"warmed: all {size / 2**20:,.1f} MiB are in the page cache" in run("inspect", store, "--warm").stdout
    assert json.loads(run("inspect", store, "--warm", "--json").stdout)["warmed"] == size
    assert json.loads(run("inspect", store, "--json").stdout)["warmed"] == 0
    monkeypatch.setattr(mapped, "available_bytes", lambda: size // 2)
    text = run("inspect", store, "--warm").stdout
    part, whole = (f"{bytes_ / 2**20:,.1f}" for bytes_ in (size // 2, size))
    assert f"warmed: {part} of {whole} MiB, all that memory has room for; the rest stays on disk" in text


@pytest.mark.parametrize(
    ("memory", "limit", "anonymous", "available"),
    [
        ("MemTotal: 9 kB\nMemAvailable:    1000 kB\n", None, None, 1000 << 10),
        ("MemAvailable: 1000 kB\n", "max\n", 5, 1000 << 10),
        ("MemAvailable: 1000 kB\n", "600000\n", 100_000, 500_000),
        ("MemAvailable: 1000 kB\n", "600000\n", 700_000, 0),
        ("MemAvailable: 1000 kB\n", "9000000\n", 1, 1000 << 10),
        (None, None, None, None),
    ],
)
def test_available_memory_is_that_of_the_machine_or_of_the_container(tmp_path, memory, limit, anonymous, available):
    if memory:
        (tmp_path / "meminfo").write_text(memory)
    if limit:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.stat").write_text(f"file 77\nanon {anonymous}\nanon_thp 3\n")
    assert _cache.available_bytes(tmp_path / "meminfo", tmp_path) == available


def test_this_machine_is_understood():
    assert _cache.available_bytes() is None or _cache.available_bytes() > 1 << 20


@pytest.mark.parametrize("rows", [[3, 3, 34, 0], [], list(range(35))[::-1]])
def test_a_store_beyond_memory_gives_the_same_values(store, monkeypatch, rows):
    rows = np.array(rows, np.int64)
    plain = episodes.open(store)
    monkeypatch.setattr(mapped, "available_bytes", lambda: 1)
    other = episodes.open(store)
    assert np.array_equal(other.read(rows)["image"], plain.read(rows)["image"])
    assert other.keys(rows) == plain.keys(rows)
    assert other.places("image") is None
    other.verify()
    for row in (-1, 35):
        with pytest.raises(StoreError, match=rf"row {row} is not in 0\.\.34"):
            other.read(np.array([0, row]))
    spec = episodes.EpisodeSpec(ways=2, shots=1, queries=2)
    one, two = (episodes.sample(s, "all", spec)[3] for s in (plain, other))
    assert np.array_equal(one.query.fields["image"], two.query.fields["image"])


def test_a_store_is_beyond_memory_only_if_it_is_larger(store, monkeypatch):
    size = sum(shard.size for shard in episodes.open(store).manifest.shards)
    asked = []
    monkeypatch.setattr(mapped, "announce", lambda *args: asked.append(args))
    for room, beyond in ((None, False), (size, False), (size - 1, True)):
        monkeypatch.setattr(mapped, "available_bytes", lambda room=room: room)
        episodes.open(store).read(np.array([1, 2]))
        assert bool(asked) == beyond


class Recorder:
    """A mapped file that notes what was asked for."""

    def __init__(self, size):
        self.size, self.asked = size, []

    def __len__(self):
        return self.size

    def madvise(self, advice, start, length):
        assert advice == mmap.MADV_WILLNEED
        assert start % PAGE == 0
        assert 0 < length <= _cache._ANNOUNCE
        assert start + length <= self.size
        self.asked.append((start, length))


SIZE = 40 * PAGE + 17


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 80)), max_size=30),
    st.sampled_from([8, 700, PAGE // 2, PAGE // 2 - 1]),
)
def test_what_is_announced_is_every_page_of_the_rows_and_no_other(rows, row_bytes):
    files = [Recorder(SIZE) for _ in range(3)]
    rows = [(shard, place) for shard, place in rows if (place + 1) * row_bytes <= SIZE]
    shards, places = np.array(rows, np.int64).reshape(-1, 2).T
    _cache.announce(files, shards, places * row_bytes, np.full(len(rows), row_bytes))
    wanted = {
        (shard, page)
        for shard, place in rows
        for page in range(place * row_bytes // PAGE, ((place + 1) * row_bytes - 1) // PAGE + 1)
    }
    got = [
        (shard, page)
        for shard, file in enumerate(files)
        for start, length in file.asked
        for page in range(start // PAGE, (start + length - 1) // PAGE + 1)
    ]
    assert set(got) == wanted
    assert len(got) == len(set(got))


def test_long_spans_are_announced_in_pieces():
    file = Recorder(5 * _cache._ANNOUNCE)
    _cache.announce([file], np.array([0]), np.array([PAGE + 5]), np.array([3 * _cache._ANNOUNCE]))
    assert len(file.asked) == 4
    assert file.asked[0][0] == PAGE
