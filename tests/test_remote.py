"""Stores and episode shards at urls: what is read is what is local, whatever the place does on the way."""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from web import Web, serving
from worlds import TellingReader

import episodes
from cli.main import main
from episodes.errors import CacheFull, ConfigError, EpisodesError, ShardCorrupt, StoreCorrupt, StoreError
from episodes.ingest import ingest
from episodes.readers import glyphs
from episodes.remote import place as places
from episodes.remote.cache import Cache
from episodes.remote.place import Place, Remote, place
from episodes.remote.publish import MANIFEST, NOTE, made_here, publish
from episodes.shards.compile import compile_shards

COUNT = 24
SPEC = episodes.EpisodeSpec(ways=3, shots=1, queries=2)


def sampled(store: Any) -> Any:
    return episodes.sample(store, "all", SPEC, seed=5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with t.store of five shards and t.shards of four."""
    folder = tmp_path_factory.mktemp("made")
    ingest(TellingReader([20] * 12), folder / "t.store", shard_bytes=2500)
    series = sampled(episodes.open(folder / "t.store"))
    compile_shards(series, folder / "t.shards", COUNT, shard_bytes=6 * (series.episode_bytes + 2048))
    assert len(episodes.open_shards(folder / "t.shards").manifest.shards) == 4
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPISODES_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def web(made: Path, tmp_path: Path) -> Iterator[Web]:
    """A server of a copy of `made`, which a test may damage."""
    for file in made.rglob("*"):
        if file.is_file():
            copy = tmp_path / "served" / file.relative_to(made)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    with serving(tmp_path / "served") as server:
        yield server


def at(web: Web, name: str, **settings: Any) -> Remote:
    return Remote(f"{web.url}/{name}", **{"pause_s": 0.01, **settings})


def box() -> Remote:
    """A new folder in memory."""
    return Remote(f"memory://{uuid.uuid4().hex}/thing")


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, Any]]:
    """The options of an S3 server on this machine with the bucket ``box``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(600):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.1)
            storage = {"key": "any", "secret": "any", "endpoint_url": f"http://127.0.0.1:{port}"}
            fsspec.filesystem("s3", **storage).mkdir("box")
            yield storage
        finally:
            server.kill()


def same_stores(one: Any, two: Any) -> None:
    rows = np.arange(one.num_rows)
    assert one.fingerprint == two.fingerprint
    assert one.keys(rows) == two.keys(rows)
    for name, values in one.read(rows).items():
        np.testing.assert_array_equal(values, two.read(rows)[name])


def same_series(one: Any, two: Any, count: int = COUNT) -> None:
    for i in range(count):
        for part in ("support", "query"):
            left, right = getattr(one[i], part), getattr(two[i], part)
            np.testing.assert_array_equal(left.fields["image"], right.fields["image"])
            np.testing.assert_array_equal(left.rows, right.rows)
            np.testing.assert_array_equal(left.labels, right.labels)


# Reading


def test_a_url_is_remote_and_a_file_url_is_a_path():
    assert place("s3://box/a.store") == Remote("s3://box/a.store")
    assert place("file:///data/my%20a.store") == Path("/data/my a.store")
    assert place("a.store") == Path("a.store")
    assert place(Path("s3:/x")) == Path("s3:/x")
    remote = Remote("s3://box/a.store/", timeout_s=3)
    assert (remote.name, remote.stem, str(remote / "x")) == ("a.store", "a", "s3://box/a.store/x")
    assert remote.with_name("b") == Remote("s3://box/b", timeout_s=3)


def test_settings_that_are_none_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"url: expected scheme://..., got 'a.store'"):
        Remote("a.store")
    with pytest.raises(ConfigError, match="no query"):
        Remote("https://host/a.store?key=1")
    with pytest.raises(ConfigError, match="tries of at least 1"):
        Remote("s3://box/a", tries=0)
    monkeypatch.setenv("EPISODES_CACHE_GB", "much")
    with pytest.raises(ConfigError, match="EPISODES_CACHE_GB: expected a number above 0, got 'much'"):
        Remote("s3://box/a")
    monkeypatch.setenv("EPISODES_CACHE_GB", "2")
    assert Remote("s3://box/a").cache.limit_bytes == 2 * 10**9
    monkeypatch.setenv("EPISODES_TIMEOUT_S", "-1")
    with pytest.raises(ConfigError, match="EPISODES_TIMEOUT_S"):
        Remote("s3://box/a")


def test_what_fsspec_does_not_know_or_has_not_is_named():
    with pytest.raises(StoreError, match=r"cannot open nowhere://a/manifest.json: .*nowhere"):
        episodes.open("nowhere://a")
    with pytest.raises(StoreError, match=r"cannot open gs://a/manifest.json: .*gcsfs"):
        episodes.open("gs://a")


@pytest.mark.parametrize("kind", ["memory", "http", "s3"])
def test_what_is_read_from_afar_is_what_is_local(kind, made, request):
    store, shards = made / "t.store", made / "t.shards"
    if kind == "http":
        web = request.getfixturevalue("web")
        there, those = at(web, "t.store"), at(web, "t.shards")
    else:
        storage = request.getfixturevalue("s3") if kind == "s3" else {}
        there, those = (Remote(f"{kind}://box/{uuid.uuid4().hex}/{n}", storage=storage) for n in ("t.store", "t.shards"))
        publish(store, there)
        publish(shards, those)
    local, remote = episodes.open(store), episodes.open(there)
    same_series(sampled(local), sampled(remote), 3)
    same_stores(local, remote)
    remote.verify()
    assert remote.warm() == sum(shard.size for shard in remote.manifest.shards)
    same_series(episodes.open_shards(shards), episodes.open_shards(those))
    assert {p.name for p in shards.iterdir()} == set(those.names()) or kind == "http"


def test_a_file_url_is_mapped_in_place(made, tmp_path):
    same_stores(episodes.open(made / "t.store"), episodes.open(f"file://{made}/t.store"))
    same_series(episodes.open_shards(made / "t.shards"), episodes.open_shards(f"file://{made}/t.shards"))
    assert not (tmp_path / "cache").exists()


def test_encoded_stores_and_rows_only_shards_are_read_from_afar(made, tmp_path):
    options = glyphs.Options(alphabets=3)
    ingest(glyphs.make(None, options), tmp_path / "jpeg.store", options=options, encoding="jpeg", shard_bytes=50_000)
    there, those = box(), box()
    publish(tmp_path / "jpeg.store", there)
    local, remote = episodes.open(tmp_path / "jpeg.store"), episodes.open(there)
    rows = np.array([200, 3, 77])
    assert remote.encoded("image", rows) == local.encoded("image", rows)
    same_stores(local, remote)
    assert len(local.manifest.shards) > 2
    compile_shards(sampled(local), tmp_path / "rows.shards", COUNT, payload="rows")
    publish(tmp_path / "rows.shards", those)
    same_series(episodes.open_shards(those, episodes.open(there)), sampled(local))


def test_shards_are_fetched_when_first_needed_and_once(web):
    store = episodes.open(at(web, "t.store"))
    assert web.asked(".h5") == 0
    store.read(np.array([0, 1]))
    assert web.asked(".h5") == 1
    assert store.places("image") is None
    same_series(sampled(store), sampled(store), 5)
    store.read(np.arange(store.num_rows))
    assert web.asked(".h5") == len(store.manifest.shards)
    assert store.places("image") is not None
    again = episodes.open(at(web, "t.store"))
    again.read(np.arange(store.num_rows))
    series = episodes.open_shards(at(web, "t.shards"))
    assert series[0].index == 0
    assert (web.asked(".h5"), web.asked(".tar")) == (len(store.manifest.shards), 1)


def test_a_stream_of_remote_shards_is_that_of_local_ones(made, web):
    local, remote = episodes.open_shards(made / "t.shards"), episodes.open_shards(at(web, "t.shards"))
    with episodes.Stream(local) as one, episodes.Stream(remote, workers=3) as two:
        for left, right in zip(one, two, strict=True):
            np.testing.assert_array_equal(left.query.fields["image"], right.query.fields["image"])


def test_a_pickled_remote_store_opens_its_url(web):
    store = episodes.open(at(web, "t.store", timeout_s=7))
    again = pickle.loads(pickle.dumps(store))
    assert again.path == store.path
    same_stores(store, again)


def test_threads_that_need_the_same_shards_fetch_each_once(web):
    store, errors = episodes.open(at(web, "t.store")), []

    def read() -> None:
        try:
            same_series(sampled(store), sampled(store), 5)
            store.read(np.arange(store.num_rows))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert web.asked(".h5") == len(store.manifest.shards)


def test_nothing_there_is_said_as_for_paths(web):
    with pytest.raises(StoreError, match=r"no store at http://.*/none \(make one with `episodes ingest`\)"):
        episodes.open(at(web, "none"))
    with pytest.raises(StoreError, match="no episode shards at memory://none"):
        episodes.open_shards("memory://none")


# What a place may do


@pytest.mark.parametrize("faults", [[500, 500], [503], ["cut"], [429, "cut", 500], ["stall"]])
def test_what_fails_is_tried_again(faults, made, web):
    web.faults["shard-00001.tar"].extend(faults)
    web.faults[MANIFEST].extend(faults)
    series = episodes.open_shards(at(web, "t.shards", timeout_s=2 if "stall" in faults else 20))
    same_series(episodes.open_shards(made / "t.shards"), series)
    assert sum(name == "shard-00001.tar" for name, _ in web.gets) == len(faults) + 1


def test_a_place_that_keeps_failing_is_one_error_with_url_and_cause(web):
    series = episodes.open_shards(at(web, "t.shards", tries=3))
    web.faults["shard-00000.tar"].extend([500] * 9)
    with pytest.raises(StoreError, match=r"cannot read http://.*/t.shards/shard-00000.tar: .*500.* \(tries: 3\)"):
        series[0]
    web.faults["shard-00000.tar"].clear()
    assert series[0].index == 0


def test_a_place_that_does_not_answer_is_given_up(web):
    web.faults[MANIFEST].extend(["stall"] * 2)
    with pytest.raises(StoreError, match=r"cannot read http://.*: no answer in 0.2 s \(tries: 2\)"):
        episodes.open(at(web, "t.store", timeout_s=0.2, tries=2))


def test_a_refusal_is_not_asked_again(web):
    web.faults[MANIFEST].extend([403] * 9)
    with pytest.raises(StoreError, match=r"403.* \(tries: 1\)"):
        episodes.open(at(web, "t.store"))


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(StoreError, match=r"cannot read http://127.0.0.1:9/a/manifest.json: .*\(tries: 2\)"):
        episodes.open(Remote("http://127.0.0.1:9/a", tries=2, pause_s=0))


def damaged(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[:-100]
    elif how == "cut where a request begins":
        data = data[: len(data) // 8192 * 4096]
    elif how == "empty":
        data = bytearray()
    elif how == "longer":
        data += b"x"
    else:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["cut", "cut where a request begins", "empty", "longer", "altered"])
@pytest.mark.parametrize("name", ["t.shards/shard-00000.tar", "t.store/shard-00000.h5", "t.shards/shard-00000.index.npy"])
@pytest.mark.parametrize("ranges", [True, False])
def test_what_is_not_as_the_manifest_says_is_refused_by_name(how, name, ranges, web, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "_CHUNK", 4096)
    web.ranges = ranges
    file = web.folder / name
    whole, size = file.read_bytes(), file.stat().st_size
    remote = at(web, name.partition("/")[0], tries=1)
    opened: Any = episodes.open(remote) if "store" in name else episodes.open_shards(remote)
    damaged(file, how)
    kind = StoreCorrupt if "store" in name else ShardCorrupt
    said = "SHA-256" if how == "altered" or "index" in name else f"has .* bytes .*where the manifest says {size}"
    with pytest.raises(kind, match=f"http://.*/{name} .*{said}"):
        opened.read(np.array([0])) if "store" in name else opened[0]
    assert not [p for p in (tmp_path / "cache").iterdir() if p.name.endswith(".part")]
    file.write_bytes(whole)  # mended, the same reader goes on
    assert len(opened.read(np.array([0]))) if "store" in name else opened[0].index == 0


def test_a_shard_that_is_missing_is_refused_by_name(web):
    store, shards = episodes.open(at(web, "t.store")), episodes.open_shards(at(web, "t.shards"))
    (web.folder / "t.store" / "shard-00000.h5").unlink()
    (web.folder / "t.shards" / "shard-00000.tar").unlink()
    with pytest.raises(StoreCorrupt, match=r"missing: .*t.store/shard-00000.h5"):
        store.read(np.array([0]))
    with pytest.raises(ShardCorrupt, match=r"t.shards/shard-00000.tar"):
        shards[0]


def test_an_altered_manifest_is_refused_by_name(web):
    damaged(web.folder / "t.shards" / MANIFEST, "altered")
    with pytest.raises(ShardCorrupt, match=r"http://.*/t.shards/manifest.json"):
        episodes.open_shards(at(web, "t.shards"))


def test_a_request_that_fails_is_repeated_alone(web, monkeypatch):
    monkeypatch.setattr(places, "_CHUNK", 2048)
    name = "shard-00000.tar"
    web.faults[name].extend(["slow", 500, 500])
    series = episodes.open_shards(at(web, "t.shards"))
    assert series[0].index == 0
    asked = [range_ for file, range_ in web.gets if file == name]
    assert asked.count("bytes=0-2047") + asked.count("bytes=2048-4095") == 4
    assert len(asked) == -(-series.manifest.shards[0].size // 2048) + 2


@settings(deadline=None, max_examples=60)
@given(data=st.binary(max_size=60), chunk=st.integers(1, 20), size=st.integers(0, 60))
def test_requests_together_are_the_file_up_to_one_byte_too_many(data, chunk, size):
    file = Remote("memory://chunks/file")
    file.put(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "_CHUNK", chunk)
        got = b"".join(file.chunks(size))
    assert got == data[: size + 1]


# The cache


def put(folder: Remote, data: bytes) -> tuple[Remote, str, int]:
    digest = hashlib.sha256(data).hexdigest()
    (folder / digest[:8]).put(data)
    return folder / digest[:8], digest, len(data)


def test_the_least_recently_used_goes_first_and_what_is_in_use_never(tmp_path):
    cache = Cache(tmp_path / "c", 1000)
    folder = replace(box(), cache=cache)
    one, two, three, four = (put(folder, bytes([n]) * 300) for n in range(4))
    held = one[0].fetch(one[1], 300, StoreError)
    for file in (two, three):
        file[0].fetch(file[1], 300, StoreError).close()
    os.utime(cache.path(two[1]), ns=(1, 1))  # long ago
    two[0].fetch(two[1], 300, StoreError).close()  # and now
    os.utime(cache.path(three[1]), ns=(2, 2))
    os.utime(cache.path(one[1]), ns=(1, 1))
    four[0].fetch(four[1], 300, StoreError).close()
    assert {p.name for p in cache.folder.iterdir()} == {"lock", one[1], two[1], four[1]}
    assert held.read() == b"\0" * 300
    held.close()


def test_the_limit_holds_and_a_cache_full_of_what_is_in_use_says_so(tmp_path):
    cache = Cache(tmp_path / "c", 700)
    folder = replace(box(), cache=cache)
    files = [put(folder, bytes([n]) * 300) for n in range(3)]
    held = [source.fetch(digest, size, StoreError) for source, digest, size in files[:2]]
    with pytest.raises(CacheFull, match=r"has no room for memory://.* \(300 bytes\): .*raise EPISODES_CACHE_GB"):
        files[2][0].fetch(files[2][1], 300, StoreError)
    for one in held:
        one.close()
    files[2][0].fetch(files[2][1], 300, StoreError).close()
    assert sum(p.stat().st_size for p in cache.folder.iterdir()) <= 700


def test_shards_larger_than_the_cache_are_read_through_it(made, web, tmp_path):
    local = episodes.open_shards(made / "t.shards")
    largest = max(shard.size for shard in local.manifest.shards)
    cache = Cache(tmp_path / "small", int(1.9 * largest))
    remote = episodes.open_shards(at(web, "t.shards", cache=cache))
    for _ in range(2):
        same_series(local, remote)
        assert sum(p.stat().st_size for p in cache.folder.iterdir()) <= cache.limit_bytes
    assert web.asked(".tar") > len(local.manifest.shards)


def test_a_store_larger_than_the_cache_is_refused_with_the_mend(web, tmp_path):
    store = episodes.open(at(web, "t.store", cache=Cache(tmp_path / "small", 20_000)))
    with pytest.raises(CacheFull, match="raise EPISODES_CACHE_GB"):
        store.read(np.arange(store.num_rows))


def test_only_its_own_files_are_counted_and_deleted(tmp_path):
    cache = Cache(tmp_path, 500)
    (tmp_path / "thesis.txt").write_bytes(b"x" * 1000)
    folder = replace(box(), cache=cache)
    for n in range(3):
        source, digest, size = put(folder, bytes([n]) * 300)
        source.fetch(digest, size, StoreError).close()
    assert (tmp_path / "thesis.txt").stat().st_size == 1000
    assert cache.path(digest).exists()


def test_what_a_killed_download_left_is_no_hindrance(tmp_path):
    folder = replace(box(), cache=Cache(tmp_path, 700))
    source, digest, size = put(folder, b"a" * 300)
    (tmp_path / f"{digest}.part").write_bytes(b"rubbish")
    (tmp_path / ("0" * 64 + ".part")).write_bytes(b"r" * 600)
    with source.fetch(digest, size, StoreError) as file:
        assert file.read() == b"a" * 300
    assert not list(tmp_path.glob("*.part"))


def test_a_cached_file_of_another_size_is_fetched_again(tmp_path):
    folder = replace(box(), cache=Cache(tmp_path, 700))
    source, digest, size = put(folder, b"a" * 300)
    source.fetch(digest, size, StoreError).close()
    (tmp_path / digest).write_bytes(b"a")
    with source.fetch(digest, size, StoreError) as file:
        assert file.read() == b"a" * 300


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    source, digest, size = put(replace(box(), cache=Cache(tmp_path / "file", 700)), b"a")
    with pytest.raises(StoreError, match=r"cannot write the cache .*/file: .*\(set EPISODES_CACHE\)"):
        source.fetch(digest, size, StoreError)


def test_two_processes_fetch_a_shard_once(made, web):
    web.faults["shard-00000.tar"].append("slow")
    code = f"import episodes; print(episodes.open_shards('{web.url}/t.shards')[0].query.fields['image'].sum())"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [int(one.communicate()[0]) for one in running]
    expected = episodes.open_shards(made / "t.shards")[0].query.fields["image"].sum()
    assert printed == [expected, expected]
    assert web.asked("shard-00000.tar") == 1


# Writing


def contents(folder: Place) -> dict[str, bytes]:
    names = [p.name for p in folder.iterdir()] if isinstance(folder, Path) else folder.names()
    return {name: (folder / name).read_bytes() for name in names}


class Cut(Exception):
    """An upload that is interrupted."""


def cut_after(monkeypatch: pytest.MonkeyPatch, puts: int) -> list[str]:
    """Let `puts` files arrive and no more; returns the names that do."""
    arrived: list[str] = []
    real = Remote.put

    def put(self: Remote, source: Path | bytes) -> None:
        if len(arrived) == puts:
            raise Cut
        real(self, source)
        arrived.append(self.name)

    monkeypatch.setattr(Remote, "put", put)
    return arrived


@pytest.mark.parametrize("puts", range(10))
def test_an_upload_cut_off_anywhere_is_nothing_and_goes_on(puts, made, monkeypatch):
    target = box()
    with monkeypatch.context() as patch:
        arrived = cut_after(patch, puts)
        with pytest.raises(Cut):
            publish(made / "t.shards", target)
    with pytest.raises(StoreError, match="no episode shards"):
        episodes.open_shards(target)
    if puts:
        with pytest.raises(StoreError, match=r"unfinished upload is at memory://.*--resume"):
            publish(made / "t.shards", target)
        with pytest.raises(StoreError, match=r"of other content; start over with --overwrite"):
            publish(made / "t.store", target, resume=True)
    with monkeypatch.context() as patch:
        again = cut_after(patch, 99)
        publish(made / "t.shards", target, resume=True)
    assert not (set(arrived) & set(again))
    assert again[-1] == MANIFEST
    assert contents(target) == contents(made / "t.shards")


def test_a_part_that_arrived_with_another_size_is_sent_again(made, monkeypatch):
    target = box()
    with monkeypatch.context() as patch:
        cut_after(patch, 3)
        with pytest.raises(Cut):
            publish(made / "t.shards", target)
    (target / "shard-00000.tar").put(b"half")
    publish(made / "t.shards", target, resume=True)
    assert contents(target) == contents(made / "t.shards")


def test_what_is_there_is_replaced_on_request_only(made, tmp_path):
    target = box()
    publish(made / "t.shards", target)
    publish(made / "t.shards", target, resume=True)  # the same: nothing to do
    series = sampled(episodes.open(made / "t.store"))
    compile_shards(series, tmp_path / "other.shards", 3)
    with pytest.raises(StoreError, match=r"memory://.* exists; give --overwrite"):
        publish(tmp_path / "other.shards", target)
    with pytest.raises(StoreError, match=r"has other content; give --overwrite"):
        publish(tmp_path / "other.shards", target, resume=True)
    with pytest.raises(StoreError, match="another kind of thing"):
        publish(made / "t.store", target, overwrite=True)
    publish(tmp_path / "other.shards", target, overwrite=True)
    assert contents(target) == contents(tmp_path / "other.shards")
    (target / "shard-00000.tar").put(b"damaged")
    publish(tmp_path / "other.shards", target, overwrite=True)  # mends
    assert contents(target) == contents(tmp_path / "other.shards")


def test_what_is_something_else_is_not_touched(made):
    target = box()
    (target / "thesis.txt").put(b"precious")
    with pytest.raises(StoreError, match=r"holds other things \('thesis.txt'\)"):
        publish(made / "t.shards", target, overwrite=True)
    assert contents(target) == {"thesis.txt": b"precious"}


def test_what_cannot_be_uploaded_is_refused(made, web, tmp_path):
    with pytest.raises(StoreError, match=r"http://.*: http is for reading"):
        publish(made / "t.store", at(web, "new.store"))
    with pytest.raises(StoreError, match=r"is no finished store or set of episode shards"):
        publish(tmp_path, box())
    damaged(web.folder / "t.store" / "shard-00002.h5", "altered")
    target = box()
    with pytest.raises(StoreError, match=r"shard-00002.h5 is not what its manifest says and is not uploaded"):
        publish(web.folder / "t.store", target)
    assert MANIFEST not in target.names()
    assert NOTE in target.names()


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(main, [str(one) for one in arguments])


def fails(*arguments: Any) -> str:
    result = run(*arguments)
    said = str(result.output).splitlines()
    assert (result.exit_code, [line[:7] for line in said].count("error: ")) == (2, 1), result.output
    return said[-1]


def test_compile_and_ingest_write_to_urls(made, tmp_path, monkeypatch):
    glyphs, shards = str(box()), str(box())
    assert run("ingest", "glyphs", glyphs, "--alphabets", 3).exit_code == 0
    assert run("ingest", "glyphs", tmp_path / "g.store", "--alphabets", 3).exit_code == 0
    assert contents(Remote(glyphs)) == contents(tmp_path / "g.store")
    options = ("--split", "all", "--ways", 3, "--count", 5)
    result = run("compile", glyphs, *options, "-o", shards)
    assert result.exit_code == 0, result.output
    assert f"{shards}: 5 episodes" in result.output
    assert run("compile", tmp_path / "g.store", *options, "-o", tmp_path / "g.shards").exit_code == 0
    assert contents(Remote(shards)) == contents(tmp_path / "g.shards")
    assert not list((tmp_path / "cache" / "making").iterdir())

    assert f"{shards} exists; give --overwrite" in fails("compile", glyphs, *options, "-o", shards)
    assert run("compile", glyphs, *options, "-o", shards, "--resume").exit_code == 0
    other = fails("compile", glyphs, *options, "--seed", 1, "-o", shards, "--resume")
    assert f"error: {shards} was compiled from other episodes; give --overwrite" in other
    assert run("compile", glyphs, *options, "--seed", 1, "-o", shards, "--overwrite").exit_code == 0
    assert contents(Remote(shards)) != contents(tmp_path / "g.shards")
    assert "give a path" in fails("compile", glyphs, *options, "-o", str(box()), "--shards", "0")
    assert "http is for reading" in fails("compile", glyphs, *options, "-o", "http://127.0.0.1:9/x")


def test_a_compile_whose_upload_fails_goes_on_with_resume(made, tmp_path, monkeypatch):
    target, store = box(), made / "t.store"
    command = ("compile", store, "--ways", 3, "--queries", 2, "--count", 5, "-o", target)
    with monkeypatch.context() as patch:
        cut_after(patch, 2)
        assert isinstance(run(*command).exception, Cut)
    assert f"an unfinished upload to {target} is at" in fails(*command)
    assert run(*command, "--resume").exit_code == 0
    assert run("compile", *command[1:-1], tmp_path / "local.shards").exit_code == 0
    assert contents(target) == contents(tmp_path / "local.shards")
    assert not list((tmp_path / "cache" / "making").iterdir())


def test_commands_take_urls(made, web, tmp_path):
    url = f"{web.url}/t.store"
    for folder in (web.folder, tmp_path):
        ingest(TellingReader([20] * 12), folder / "u.store")
    for command in ("inspect", "plan"):
        one, two = run(command, url), run(command, made / "t.store")
        assert one.exit_code == 0, one.output
        assert one.output.replace(url, "X") == two.output.replace(str(made / "t.store"), "X")
    mixed = [
        run("plan", made / "t.store", "--count", 9, "--mix", other).output
        for other in (f"{web.url}/u.store=2", tmp_path / "u.store=2")
    ]
    assert '"u"' in mixed[0]
    assert mixed[0] == mixed[1]
    assert "no store at" in fails("plan", f"{web.url}/none")
    target = box()
    assert run("copy", made / "t.store", target).output.endswith(f"{target}\n")
    same_stores(episodes.open(target), episodes.open(made / "t.store"))
    assert "exists; give --overwrite" in fails("copy", made / "t.store", target)
    assert "folders of this machine are verified" in fails("verify", url)
    assert "expected one such as s3://" in fails("copy", made / "t.store", made / "u.store")


def test_s3_is_written_and_read_from_the_command_line(made, s3, monkeypatch):
    for name, value in (
        ("ACCESS_KEY_ID", s3["key"]),
        ("SECRET_ACCESS_KEY", s3["secret"]),
        ("ENDPOINT_URL", s3["endpoint_url"]),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    url = f"s3://box/{uuid.uuid4().hex}/five.shards"
    options = ("--split", "all", "--ways", 3, "--queries", 2, "--count", 5, "--seed", 5)
    result = run("compile", made / "t.store", *options, "-o", url)
    assert result.exit_code == 0, result.output
    same_series(episodes.open_shards(url), sampled(episodes.open(made / "t.store")), 5)
    assert "no store at s3://box/none" in fails("inspect", "s3://box/none")
    with pytest.raises(EpisodesError, match="s3://nobucket/a"):
        publish(made / "t.store", Remote("s3://nobucket/a", storage=s3, tries=1))


def test_what_was_made_here_without_a_manifest_is_refused():
    with pytest.raises(StoreError, match="no finished store"), made_here(box(), overwrite=False, resume=False):
        pass
