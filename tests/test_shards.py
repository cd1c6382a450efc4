"""Episode shards: the same bytes however they are made, read back bit by bit, under streams and beside the store."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest
from pictures import PictureReader
from test_adapters import flat
from test_cli import refused, run
from worlds import TellingReader, memory_store

import episodes
from episodes.errors import ShardCorrupt, SpecError, StateMismatch, StoreError, StreamError, WorkerFailed
from episodes.ingest import ingest
from episodes.shards.compile import compile_shards, finish_shards, make_shard, write_stream
from episodes.shards.manifest import MANIFEST, ShardManifest
from episodes.shards.record import ShardIndex, key_of
from episodes.shards.tar import END, header, read_header
from episodes.shards.work import CompileWork
from episodes.store.memory import MemoryStore
from episodes.transforms import Transform

COUNTS = [6, 7, 8, 9, 6, 7]
SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=2)
UNEVEN = episodes.EpisodeSpec(
    ways="2..4", shots="1..3", queries=2, unlabeled="0..1", distractors="0..1", distractor_queries=1
)
LOOK = Transform(flip=True, rotate=20, contrast=0.3, mean=(0.4,), std=(0.2,))
SMALL = 20_000  # bytes of a shard: a few episodes each
GOLDEN = {
    "arrays": "c3eb39aee7204bd7ba49914dbbe494db5b90e1a8055057c789c7523df804cd2e",
    "rows": "8dd77f358e35911c4e21f4557241616195c6160cbfe35c6f8be1758c0dd660b9",
}


def series(spec=SPEC, store=None, transforms=(), **options):
    one = memory_store(COUNTS) if store is None else store
    return episodes.sample(one, "train", spec, transforms=transforms, **options)


def two_fields():
    """A store of pictures, masks of another type, one number a row, and a vector."""
    num = sum(COUNTS)
    fields = {
        "image": np.arange(num * 48, dtype=np.uint8).reshape(num, 3, 4, 4),
        "mask": np.arange(num * 4, dtype=np.int32).reshape(num, 2, 2),
        "weight": np.linspace(0, 1, num),
        "vector": np.arange(num * 5, dtype=np.float16).reshape(num, 5),
    }
    names = [f"class{c:02d}" for c in range(len(COUNTS))]
    return MemoryStore(fields, dict(zip(names, COUNTS, strict=True)), splits={"w": {"train": names}})


def assert_same(one, two):
    """Two episodes, bit for bit."""
    assert one.index == two.index
    for (name, a), (other, b) in zip(*(sorted(flat(e), key=lambda pair: pair[0]) for e in (one, two)), strict=True):
        assert (name, a.dtype, a.shape) == (other, b.dtype, b.shape)
        assert a.tobytes() == b.tobytes(), name


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def compiled(one, out, count=20, **options):
    compile_shards(one, out, count, **{"shard_bytes": SMALL} | options)
    return episodes.open_shards(out, one.store if options.get("payload") == "rows" else None)


@pytest.mark.parametrize("payload", sorted(GOLDEN))
def test_the_bytes_of_a_set_are_pinned(payload, tmp_path):
    manifest = compile_shards(series(UNEVEN, seed=5), tmp_path / "s", 30, payload=payload, shard_bytes=SMALL)
    assert manifest.content == GOLDEN[payload]


@pytest.mark.parametrize("payload", ["arrays", "images", "rows"])
def test_workers_and_the_order_of_shards_change_no_byte(payload, tmp_path):
    one, wanted = series(UNEVEN), {"payload": payload, "shard_bytes": 6_000}
    count = 9000 if payload == "rows" else 40  # rows come 4096 to a shard
    for workers in (1, 2, 3):
        compile_shards(one, tmp_path / f"w{workers}", count, workers=workers, **wanted)
    work = CompileWork(series=one, count=count, **wanted)
    assert work.num_shards > 2
    for number in reversed(range(work.num_shards)):
        compile_shards(one, tmp_path / "apart", count, only=[number], **wanted)
    finish_shards(one, tmp_path / "apart", count, **wanted)
    first = hashes(tmp_path / "w1")
    assert len(first) == 2 * work.num_shards + 1
    for name in ("w2", "w3", "apart"):
        assert hashes(tmp_path / name) == first


def test_a_shard_made_again_is_the_same_and_a_shard_of_its_own_needs_no_other(tmp_path):
    work = CompileWork(series=series(), count=30, shard_bytes=6_000)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    make_shard(work, tmp_path / "a", 1)
    make_shard(work, tmp_path / "b", 1)
    first = hashes(tmp_path / "a")
    make_shard(work, tmp_path / "a", 1)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b") == first


def test_another_process_writes_the_same_bytes(glyphs_store, tmp_path):
    args = ("compile", glyphs_store, "--count", 12, "--seed", 4)
    run(*args, "-o", tmp_path / "a")
    code = "import sys; from cli.main import main; main()"
    subprocess.run(
        [sys.executable, "-c", code, *map(str, args), "-o", str(tmp_path / "b"), "--workers", "2"],
        check=True,
        capture_output=True,
    )
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


CASES = {
    "fixed": (SPEC, {}),
    "uneven": (UNEVEN, {}),
    "no queries": (episodes.EpisodeSpec(ways=2, shots=1, queries=0), {}),
    "no shots": (episodes.EpisodeSpec(ways=2, shots=0, queries=3), {}),
    "turned": (episodes.EpisodeSpec(ways=5, shots=1, queries=2, unlabeled=1), {"rotations": True}),
    "turned distractors": (UNEVEN, {"rotations": True}),
    "one class": (episodes.EpisodeSpec(ways=1, shots=1, queries=1), {"seed": 2**64 - 1}),
}


@pytest.mark.parametrize("payload", ["arrays", "images", "rows"])
@pytest.mark.parametrize("name", CASES)
def test_shards_are_the_series(name, payload, tmp_path):
    spec, options = CASES[name]
    one = series(spec, **options)
    if (name, payload) == ("turned distractors", "rows"):
        with pytest.raises(SpecError, match="no quarter turn that a reader could know"):
            compile_shards(one, tmp_path / "s", 5, payload=payload)
        return
    shards = compiled(one, tmp_path / "s", payload=payload)
    assert (shards.length, shards.fingerprint, shards.spec, shards.fields) == (20, one.fingerprint, spec, one.fields)
    for i in (*range(20), 3, 19, 0):
        assert_same(shards[i], one[i])
    if payload == "arrays":
        for i in range(20):
            assert_same(shards.view(i), one[i])


@pytest.mark.parametrize("payload", ["arrays", "images", "rows"])
def test_stores_of_several_fields(payload, tmp_path):
    one = series(UNEVEN, store=two_fields())
    shards = compiled(one, tmp_path / "s", payload=payload)
    for i in range(20):
        assert_same(shards[i], one[i])
    with tarfile.open(tmp_path / "s" / "shard-00000.tar") as archive:
        kinds = {name.split(".")[-2] for name in archive.getnames() if name.endswith(".npy")}
    assert kinds == {"arrays": {"vector", "image", "mask", "weight", "labels"}, "rows": set(),
                     "images": {"vector", "mask", "weight", "labels"}}[payload]  # fmt: skip


def test_transforms_are_in_the_values(tmp_path):
    one = series(UNEVEN, transforms=[LOOK])
    shards = compiled(one, tmp_path / "s")
    assert shards.fields["image"].dtype == "float32"
    for i in range(20):
        assert_same(shards[i], one[i])
        assert_same(shards.view(i), one[i])


def pooled(fields, generator):
    """A function of one's own: other type, other shape, another field."""
    image = fields["image"]
    return {
        "mean": image.reshape(len(image), -1).mean(axis=1) + generator.random(),
        "image": image[:, :, ::2].astype(np.int16),
    }


def wider(fields, generator):
    """Of a wider type where class 5 is seen."""
    image = fields["image"]
    return {"image": image.astype(np.int16) if (image[:, 0, 0, 0] == 5).any() else image}


def test_a_function_of_ones_own_decides_the_fields(tmp_path):
    one = series(UNEVEN, then=pooled)
    shards = compiled(one, tmp_path / "s")
    assert {n: (f.dtype, f.shape) for n, f in shards.fields.items()} == {
        "mean": ("float64", ()),
        "image": ("int16", (1, 2, 4)),
    }
    for i in range(20):
        assert_same(shards[i], one[i])
    seed = next(seed for seed in range(99) if 5 not in series(seed=seed)[0].class_ids)
    with pytest.raises(SpecError, match=r"episode \d+: its fields are .*int16.* shards hold fields of one type and shape"):
        compile_shards(series(then=wider, seed=seed), tmp_path / "t", 20)


def test_what_comes_of_it_when_a_payload_cannot_hold_the_episodes(tmp_path):
    out = tmp_path / "s"
    with pytest.raises(SpecError, match="payload=images holds what is stored; leave transforms out"):
        compile_shards(series(transforms=[LOOK]), out, 5, payload="images")
    with pytest.raises(SpecError, match="payload=rows holds what is stored"):
        compile_shards(series(then=pooled), out, 5, payload="rows")
    names, values = {"a": 4, "b": 4}, np.zeros((8, 3))
    plain = MemoryStore({"x": values}, names, splits={"w": {"train": ["a", "b"]}})
    spec = episodes.EpisodeSpec(ways=2, shots=1, queries=1)
    with pytest.raises(SpecError, match="no field of uint8 images"):
        compile_shards(series(spec, store=plain), out, 5, payload="images")
    for name, others in (("Labels", ()), ("a/b", ()), ("MASK", ("mask",))):
        fields = dict.fromkeys((*others, name), values)
        odd = MemoryStore(fields, names, splits={"w": {"train": ["a", "b"]}})
        with pytest.raises(SpecError, match=f"field '{name}' cannot be named so in a tar file"):
            compile_shards(series(spec, store=odd), out, 5)
    with pytest.raises(SpecError, match="count=0: give 1 or more"):
        compile_shards(series(), out, 0)
    with pytest.raises(SpecError, match="count=7: give 1 or more, at most 4"):
        compile_shards(series(length=4), out, 7)
    with pytest.raises(SpecError, match="shard 9 is not in 0..0"):
        compile_shards(series(), out, 5, only=[9])
    assert not out.exists()


@pytest.fixture(scope="module")
def pictured(tmp_path_factory):
    """(a store that keeps JPEGs, the same pictures decoded)."""
    folder, reader = tmp_path_factory.mktemp("pictured"), PictureReader([8, 8, 8, 8])
    pytest.importorskip("simplejpeg", reason="simplejpeg is not installed")
    for encoding in ("jpeg", "raw"):
        ingest(reader, folder / f"{encoding}.store", encoding=encoding, shard_bytes=2000)
    return [episodes.open(folder / f"{encoding}.store") for encoding in ("jpeg", "raw")]


def test_payload_images_keeps_stored_jpegs_untouched_and_writes_the_others_as_png(pictured, tmp_path):
    spec = episodes.EpisodeSpec(ways=2, shots=2, queries=2)
    for store, kind in zip(pictured, ("jpg", "png"), strict=True):
        one = series(spec, store=store)
        shards = compiled(one, tmp_path / kind, 10, payload="images")
        for i in range(10):
            assert_same(shards[i], one[i])
        with tarfile.open(tmp_path / kind / "shard-00000.tar") as archive:
            held = {name: archive.extractfile(name).read() for name in archive.getnames()}
        rows = np.concatenate([one[0].support.rows, one[0].query.rows])
        names = [f"000000000.{i:04d}.image.{kind}" for i in range(8)]
        assert [name for name in held if name.startswith("000000000") and name.endswith(kind)] == names
        stored = store.encoded("image", rows)
        assert (stored is None) == (kind == "png")
        for name, data in zip(names, stored or (), strict=bool(stored)):
            assert held[name] == data
            assert data.startswith(b"\xff\xd8")


def test_turned_classes_of_an_encoded_store_are_png(pictured, tmp_path):
    one = series(episodes.EpisodeSpec(ways=4, shots=1, queries=1), store=pictured[0], rotations=True)
    shards = compiled(one, tmp_path / "s", 10, payload="images")
    for i in range(10):
        assert_same(shards[i], one[i])


def test_encoded_bytes_are_given_for_encoded_fields_and_rows_that_there_are(pictured):
    encoded, raw = pictured
    data = encoded.encoded("image", np.array([3, 0, 3]))
    assert data[0] == data[2] != data[1]
    assert raw.encoded("image", np.array([0])) is None
    with pytest.raises(StoreError, match="row 99 is not in"):
        encoded.encoded("image", np.array([99]))


def items(one, **options):
    with episodes.Stream(one, **options) as stream:
        return list(stream)


@pytest.mark.parametrize("payload", ["arrays", "images", "rows"])
@pytest.mark.parametrize("workers", [0, 2])
def test_streams_of_shards_are_those_of_the_series(payload, workers, tmp_path):
    one = series(UNEVEN, length=23)
    shards = compiled(one, tmp_path / "s", 23, payload=payload, shard_bytes=6_000)
    for rank, world in ((0, 1), (1, 3)):
        for block in (None, 5):
            options = {"workers": workers, "rank": rank, "world": world, "block": block, "start": 2}
            for a, b in zip(items(shards, **options), items(one, **options), strict=True):
                for x, y in zip(a, b, strict=True) if block else [(a, b)]:
                    assert_same(x, y)


def test_blocks_of_equal_episodes_stack(tmp_path):
    one = series(length=12)
    shards = compiled(one, tmp_path / "s", 12, shard_bytes=3_000)
    for a, b in zip(items(shards, block=4), items(one, block=4), strict=True):
        assert a.even
        assert_same(a.stacked, b.stacked)
        assert_same(a[1:3].stacked, b[1:3].stacked)


def test_state_goes_from_the_store_to_the_shards_and_back(tmp_path):
    one = series(UNEVEN, length=20)
    shards = compiled(one, tmp_path / "s")
    source, other = one, shards
    with episodes.Stream(source) as stream:
        seen = [next(stream).index for _ in range(5)]
        state = stream.state_dict()
    for _ in range(3):
        source, other = other, source
        with episodes.Stream(source, workers=1) as stream:
            stream.load_state_dict(state)
            item = next(stream)
            assert_same(item, one[item.index])
            seen.append(item.index)
            state = stream.state_dict()
    assert seen == list(range(8))
    with pytest.raises(StateMismatch), episodes.Stream(compiled(series(seed=1), tmp_path / "t")) as stream:
        stream.load_state_dict(state)


def test_threads_may_read_shards_at_the_same_time(tmp_path):
    one = series(UNEVEN)
    shards, right = compiled(one, tmp_path / "s", shard_bytes=3_000), []
    wanted = [one[i] for i in range(20)]

    def read(seed):
        for i in np.random.Generator(np.random.Philox(seed)).integers(0, 20, 100).tolist():
            assert_same(shards[i], wanted[i])
        right.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(right) == [0, 1, 2, 3]


def test_an_episode_owns_its_memory_and_a_view_is_of_the_file(tmp_path):
    one = series()
    shards = compiled(one, tmp_path / "s")
    shards[3].query.fields["image"][:] = 9
    shards[3].query.labels[:] = 9
    assert_same(shards[3], one[3])
    view = shards.view(3)
    for array in (view.query.fields["image"], view.query.labels, view.class_ids):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 9
    assert np.shares_memory(view.support.fields["image"], shards.view(3).support.fields["image"])
    assert view.support.fields["image"].ctypes.data % 64 == 0
    del shards
    assert_same(view, one[3])
    with pytest.raises(SpecError, match="holds images, which are no arrays to look at"):
        compiled(one, tmp_path / "t", payload="images").view(0)


def test_indices_beyond_the_set_are_refused(tmp_path):
    shards = compiled(series(), tmp_path / "s")
    for index, words in (
        (20, "index 20 is beyond these 20 episodes"),
        (-1, "out of range"),
        ("1", "no whole number|not a"),
    ):
        with pytest.raises(SpecError, match=words):
            shards[index]
    assert [episode.index for episode in items(shards, start=18)] == [18, 19]
    with pytest.raises(StreamError):
        episodes.Stream(shards, block=0)


def test_payload_rows_asks_for_the_store_it_was_compiled_from(tmp_path):
    compiled(series(), tmp_path / "s", payload="rows")
    with pytest.raises(StoreError, match="holds row numbers only; open it with the store"):
        episodes.open_shards(tmp_path / "s")
    with pytest.raises(StateMismatch, match="was compiled from store"):
        episodes.open_shards(tmp_path / "s", memory_store([6] * 6))
    with pytest.raises(StoreError, match="no episode shards at"):
        episodes.open_shards(tmp_path / "none")


def test_damage_is_refused_where_it_is_met(tmp_path):
    one = series()
    compiled(one, tmp_path / "s", shard_bytes=6_000)
    tar, index, manifest = (tmp_path / "s" / name for name in ("shard-00001.tar", "shard-00001.index.npy", MANIFEST))
    whole = {path: path.read_bytes() for path in (tar, index, manifest)}
    shards = episodes.open_shards(tmp_path / "s")
    first = shards.manifest.shards[1].first
    for path, data, words in (
        (tar, whole[tar][:-1], "shard-00001.tar has .* bytes; the manifest says"),
        (tar, None, "shard-00001.tar or its index cannot be read"),
        (index, whole[index][:-8] + b"\1" * 8, "shard-00001.index.npy was altered"),
        (index, None, "or its index cannot be read"),
    ):
        path.unlink() if data is None else path.write_bytes(data)
        shards = episodes.open_shards(tmp_path / "s")
        assert_same(shards[0], one[0])
        with pytest.raises(ShardCorrupt, match=words):
            shards[first]
        with episodes.Stream(shards, start=first - 1) as stream:
            assert_same(next(stream), one[first - 1])
            with pytest.raises(WorkerFailed, match=f"{first}"):
                next(stream)
        path.write_bytes(whole[path])
    for data, words in ((whole[manifest].replace(b'"seed": 0', b'"seed": 1'), "was altered"), (b"{}", "no manifest"),
                        (whole[manifest].replace(b'"format": 1', b'"format": 7'), "shard format 7")):  # fmt: skip
        manifest.write_bytes(data)
        with pytest.raises(episodes.EpisodesError, match=words):
            episodes.open_shards(tmp_path / "s")


def test_a_damaged_picture_is_named(tmp_path):
    shards = compiled(series(), tmp_path / "s", payload="images")
    tar = tmp_path / "s" / "shard-00000.tar"
    data = bytearray(tar.read_bytes())
    begin = int(shards._shard(0).index.begins[1])
    data[begin + 512 : begin + 560] = bytes(48)
    tar.write_bytes(data)
    with pytest.raises(ShardCorrupt, match="picture '000000001.0000.image.png' is damaged"):
        episodes.open_shards(tmp_path / "s")[1]


def test_the_index_file_comes_back(tmp_path):
    shards = compiled(series(UNEVEN), tmp_path / "s")
    data = (tmp_path / "s" / "shard-00000.index.npy").read_bytes()
    index = ShardIndex.from_npy(data)
    assert index.to_npy() == data
    assert np.load(tmp_path / "s" / "shard-00000.index.npy")[0] == shards.manifest.shards[0].episodes
    tar = (tmp_path / "s" / "shard-00000.tar").read_bytes()
    for k, begin in enumerate(index.begins[:-1].tolist()):
        assert read_header(tar, begin, "x").name == f"{k:09d}.image.npy"
    assert tar[index.begins[-1] :] == END
    for wrong in (data[:-8], data[:60], b""):
        with pytest.raises((ValueError, EOFError)):
            ShardIndex.from_npy(wrong)


def test_the_manifest_comes_back_and_says_what_the_episodes_are(tmp_path):
    one = series(UNEVEN, transforms=[LOOK], seed=8)
    shards = compiled(one, tmp_path / "s")
    data = (tmp_path / "s" / MANIFEST).read_bytes()
    assert ShardManifest.from_json(data, "x").to_json() == data
    about = shards.manifest.about
    assert (about["split"], about["seed"], about["rotations"]) == ("world/train", 8, False)
    assert episodes.EpisodeSpec.from_table(about["spec"]) == one.spec
    assert about["transforms"] == [str(LOOK)]
    assert about["class_names"] == [f"class{c:02d}" for c in range(6)]
    sizes = [(tmp_path / "s" / s.file).stat().st_size for s in shards.manifest.shards]
    assert sizes == [s.size for s in shards.manifest.shards]
    assert [s.sha256 for s in shards.manifest.shards] == [
        hashlib.sha256((tmp_path / "s" / s.file).read_bytes()).hexdigest() for s in shards.manifest.shards
    ]


def test_headers_are_those_of_ustar_up_to_its_limits():
    for name, size in (("a.npy", 0), ("ä" * 50, 511), ("x" * 100, 8**11 - 1), (f"{key_of(2**64 - 1)}.plan.json", 5)):
        block = header(name, size)
        read = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        assert (read.name, read.size, read.mtime, read.uid, read.gid, read.mode, read.type) == (
            name, size, 0, 0, 0, 0o644, tarfile.REGTYPE,
        )  # fmt: skip
        member = read_header(block, 0, "x")
        assert (member.name, member.start, member.size) == (name, 512, size)
    for name, size in (("x" * 101, 0), ("ä" * 51, 0), ("a", 8**11)):
        with pytest.raises(StoreError, match="does not fit in a tar file"):
            header(name, size)
    with pytest.raises(ShardCorrupt, match="no header of a tar member at byte 0"):
        read_header(bytes(100) + b"1" + bytes(411), 0, "x")
    with pytest.raises(ShardCorrupt, match="ends at byte 100"):
        read_header(bytes(100), 0, "x")


@pytest.mark.parametrize("payload", ["arrays", "images", "rows"])
def test_a_stream_is_the_tar_of_a_compile(payload, tmp_path):
    one, file = series(UNEVEN), io.BytesIO()
    manifest = compile_shards(one, tmp_path / "s", 8, payload=payload)
    write_stream(one, file, count=8, payload=payload, workers=1)
    assert hashlib.sha256(file.getvalue()).hexdigest() == manifest.shards[0].sha256
    later = io.BytesIO()
    write_stream(one, later, start=6, count=2, payload=payload)
    assert file.getvalue().endswith(later.getvalue())


def test_a_plan_says_where_everything_comes_from(tmp_path):
    store_path = tmp_path / "t.store"
    ingest(TellingReader([6, 7, 8, 9]), store_path)
    store = episodes.open(store_path)
    one = episodes.sample(
        store, "all", episodes.EpisodeSpec(ways=2, shots=2, queries=1, unlabeled=1), rotations=True, seed=3
    )
    compiled(one, tmp_path / "s", 6)
    with tarfile.open(tmp_path / "s" / "shard-00000.tar") as archive:
        plans = [json.load(archive.extractfile(m)) for m in archive if m.name.endswith(".plan.json")]
    for i, plan in enumerate(plans):
        episode = one[i]
        parts = [part for part in (episode.support, episode.query, episode.unlabeled) if part is not None]
        rows = np.concatenate([part.rows for part in parts])
        assert plan == {
            "class_ids": episode.class_ids.tolist(),
            "class_names": one.class_names(i),
            "index": i,
            "keys": store.keys(rows),
            "labels": np.concatenate([part.labels for part in parts]).tolist(),
            "parts": {"support": 4, "query": 2, "unlabeled": 2},
            "rows": rows.tolist(),
            "seed": 3,
            "turns": episode.variants.tolist(),
        }


def test_the_commands_say_what_they_made(glyphs_store, tmp_path):
    args = ("compile", glyphs_store, "--count", 6, "--shard-mb", 1, "-o", tmp_path / "s")
    printed = run(*args).stdout
    shards = episodes.open_shards(tmp_path / "s")
    assert "6 episodes, 1 shards" in printed
    assert f"content {shards.manifest.content}" in printed
    assert "exists; give --overwrite" in refused(*args)
    assert run(*args, "--resume").stdout == printed
    streamed = run("stream", glyphs_store, "--count", 6).stdout_bytes
    assert hashlib.sha256(streamed).hexdigest() == shards.manifest.shards[0].sha256
