"""Class fields: exact in the store, with every episode however it is made, and refused where a class lacks them."""

import dataclasses
import gc
import hashlib
import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from test_adapters import DEVICES, flat
from test_adapters import assert_same as assert_same_tensors
from test_cli import refused, run
from test_shards import assert_same, hashes
from worlds import TellingReader, memory_store, telling_images

import episodes
from episodes.adapters.pytorch import EpisodeDataset, prefetch, resident, to_torch
from episodes.errors import ReaderError, SpecError, StoreCorrupt, StoreError
from episodes.ingest import ingest
from episodes.protocols import FieldSpec
from episodes.readers import _program, _strokes, folder, glyphs
from episodes.shards.compile import compile_shards, write_stream
from episodes.shards.manifest import MANIFEST, ShardManifest
from episodes.store._class_fields import DTYPES
from episodes.store.mapped import MappedStore
from episodes.store.memory import MemoryStore
from episodes.store.table import ClassTable
from episodes.stream.buffers import Arena
from episodes.stream.mixture import MixedEpisodes
from episodes.transforms import Transform
from episodes.verify import verify
from episodes.verify.repair import repair

COUNTS = [6, 7, 8, 9, 6, 7]
NAMES = [f"class{c:02d}" for c in range(len(COUNTS))]
SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=2)
UNEVEN = episodes.EpisodeSpec(ways="2..4", shots="0..3 per class", queries=2, unlabeled="0..1", distractors="0..1")
ZERO_SHOT = episodes.EpisodeSpec(ways=3, shots=0, queries=2)


def known(c):
    """What is known of class c: of several types and shapes."""
    rng = np.random.default_rng(c)
    return {
        "attributes": rng.normal(size=5).astype(np.float32),
        "codes": rng.integers(-(2**63), 2**63 - 1, (2, 3)),
        "flag": np.array(c % 2 == 0),
        "small": rng.integers(0, 256, 3).astype(np.uint8),
    }


GIVEN = {field: {name: known(c)[field] for c, name in enumerate(NAMES)} for field in known(0)}


def store(given=GIVEN, counts=COUNTS, size=4):
    names = [f"class{c:02d}" for c in range(len(counts))]
    splits = {"world": {"train": names}}
    images = {"image": telling_images(counts, size)}
    return MemoryStore(images, dict(zip(names, counts, strict=True)), splits=splits, class_fields=given)


def series(spec=SPEC, **options):
    return episodes.sample(store(), "train", spec, **options)


class Reader(TellingReader):
    """Telling images, of classes of which more is known."""

    def __init__(self, given=GIVEN, counts=COUNTS):
        super().__init__(counts)
        self.given = given

    def listing(self):
        return dataclasses.replace(super().listing(), class_fields=self.given)


def assert_known(episode):
    """The slow look-up: every class of an episode has what was given for its name."""
    assert episode.class_fields.keys() == GIVEN.keys()
    for field, values in episode.class_fields.items():
        assert len(values) == len(episode.class_ids)
        for class_id, value in zip(episode.class_ids.tolist(), values, strict=True):
            wanted = GIVEN[field][NAMES[class_id]]
            assert (value.dtype, value.shape, value.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())


# In the store.


def numbers(dtype):
    """Values of a type: all of them that are finite, and zeros of both signs."""
    kind = np.dtype(dtype)
    return arrays.from_dtype(kind, allow_nan=False, allow_infinity=False) if kind.kind == "f" else arrays.from_dtype(kind)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_table_gives_back_every_value_of_every_type_to_the_bit(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    shape = data.draw(arrays.array_shapes(min_dims=0, max_dims=2, max_side=3) | st.just(()))
    values = [data.draw(arrays.arrays(dtype, shape, elements=numbers(dtype))) for _ in range(3)]
    names = ["b", "a", "c"]
    table = ClassTable.build(dict.fromkeys(names, 1), class_fields={"x": dict(zip(names, values, strict=True))})
    again = ClassTable.from_json(table.to_json())
    assert again.to_json() == table.to_json()
    for one in (table, again):
        made = one.class_fields["x"]
        assert (made.dtype, made.shape) == (np.dtype(dtype), (3, *shape))
        assert made.tobytes() == np.stack([values[1], values[0], values[2]]).tobytes(), "by class number"
        assert not made.flags.writeable


def test_a_store_on_disk_gives_back_what_the_reader_gave(tmp_path):
    ingest(Reader(), tmp_path / "a.store")
    for opened in (episodes.open(tmp_path / "a.store"), store()):
        for c, name in enumerate(opened.table.names):
            for field, values in opened.class_fields.items():
                assert values[c].tobytes() == GIVEN[field][name].tobytes()
                assert values.dtype == GIVEN[field][name].dtype
        assert list(opened.class_fields) == sorted(GIVEN)


def test_stores_without_class_fields_are_what_they_were(tmp_path):
    """Taken before there were any."""
    ingest(TellingReader([5, 9, 7, 6, 8]), tmp_path / "a.store", shard_bytes=200)
    opened = episodes.open(tmp_path / "a.store")
    assert opened.class_fields == {}
    assert opened.fingerprint == "c850792f27c97ca02b42eef810c98879e333a4d38590e733fe17a9ed9dc6f64e"
    one = episodes.sample(opened, "train", episodes.EpisodeSpec(ways=2, shots=1, queries=1))
    for payload in ("arrays", "rows", "images"):
        compile_shards(one, tmp_path / payload, 5, payload=payload)
    digest = hashlib.sha256()
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(tmp_path).as_posix().encode() + path.read_bytes())
    assert digest.hexdigest() == "303c0ca0699d1598bdef7f897d99ca3a0aff37c18a5a35a6f17527d69ec5766f"


def test_the_fingerprint_tells_them(tmp_path):
    other = GIVEN | {"flag": GIVEN["flag"] | {"class01": np.array(True)}}
    for one, two in ((store(), store(other)), (store(), store({}))):
        assert one.fingerprint != two.fingerprint
        assert episodes.sample(one, "train", SPEC).fingerprint != episodes.sample(two, "train", SPEC).fingerprint
    ingest(Reader(), tmp_path / "a.store")
    with pytest.raises(StoreError, match="another source"):
        ingest(Reader(other), tmp_path / "a.store", resume=True)
    ingest(Reader(), tmp_path / "a.store", resume=True)


def changed(field, name, value):
    values = {one: kept for one, kept in GIVEN[field].items() if one != name}
    return GIVEN | {field: values if value is None else values | {name: value}}


REFUSED = {
    "missing": (changed("small", "class02", None), "'small' has no value for class 'class02' .1 of 6 classes"),
    "unknown": (changed("small", "class2", np.zeros(3, np.uint8)), "'small' names class 'class2', .* did you mean 'class0"),
    "shape": (
        changed("small", "class03", np.zeros(4, np.uint8)),
        "of class 'class03' is uint8 .4,., that of class 'class00' ",
    ),
    "type": (
        changed("attributes", "class03", np.zeros(5)),
        "of class 'class03' is float64 .5,., .* float32 .5,.; all need",
    ),
    "nan": (changed("attributes", "class05", np.full(5, np.nan, np.float32)), "'attributes' of class 'class05' holds NaN"),
    "infinite": (changed("attributes", "class00", np.full(5, -np.inf, np.float32)), "of class 'class00' holds NaN or inf"),
    "text": (
        {"name": dict.fromkeys(NAMES, np.array("x"))},
        "'name' of class 'class00' is <U1; a class field holds one of b",
    ),
    "complex": ({"z": dict.fromkeys(NAMES, np.array(1j))}, "'z' of class 'class00' is complex128"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_field_and_class(case, tmp_path):
    given, words = REFUSED[case]
    with pytest.raises(StoreError, match=words):
        store(given)
    with pytest.raises(StoreError, match=words):
        ingest(Reader(given), tmp_path / "a.store")
    assert not list(tmp_path.iterdir()), "refused before anything is decoded"


def tampered(path, change):
    """Write `change(table)` as the store's classes, with a manifest that vouches for it."""
    opened = episodes.open(path)
    table = json.loads((path / "classes.json").read_bytes())
    change(table["class_fields"]["small"])
    data = json.dumps(table).encode()
    (path / "classes.json").write_bytes(data)
    manifest = dataclasses.replace(opened.manifest, classes_sha256=hashlib.sha256(data).hexdigest())
    (path / "manifest.json").write_bytes(manifest.to_json())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda one: one.update(dtype="object"), "'small' is of type 'object'"),
        (lambda one: one.update(shape=[4]), "'small' is not uint8 .4. of 6 classes"),
        (lambda one: one["values"].pop(), "'small' is not uint8 .3. of 6 classes"),
        (lambda one: one["values"][0].__setitem__(0, 1.5), "'small' holds what is no uint8"),
        (lambda one: one["values"][0].__setitem__(0, 300), "'small' (holds what is no|is not) uint8"),
        (lambda one: one["values"][0].__setitem__(0, "x"), "'small' is not uint8"),
        (lambda one: (one.update(dtype="float32"), one["values"][0].__setitem__(0, float("nan"))), "'small' holds NaN"),
        (lambda one: one.pop("values"), "not a class table .'values'"),
    ],
)
def test_a_written_table_that_is_none_is_named(change, words, tmp_path):
    ingest(Reader(), tmp_path / "a.store")
    tampered(tmp_path / "a.store", change)
    with pytest.raises(StoreCorrupt, match=words):
        MappedStore(tmp_path / "a.store")
    (fault,) = verify(tmp_path / "a.store").faults
    assert fault.where == "classes.json"
    assert re.search(words, fault.what)


def test_inspect_shows_them(tmp_path):
    ingest(Reader(), tmp_path / "a.store")
    text = run("inspect", tmp_path / "a.store").output
    assert "class field attributes: float32 5\n" in text
    assert "class field codes: int64 2x3\n" in text
    about = json.loads(run("inspect", tmp_path / "a.store", "--json").output)
    assert about["class_fields"]["codes"] == {"dtype": "int64", "shape": [2, 3]}
    assert about["class_fields"]["flag"] == {"dtype": "bool", "shape": []}


# In episodes.


@settings(max_examples=40, deadline=None)
@given(
    spec=st.sampled_from([SPEC, UNEVEN, ZERO_SHOT]), rotations=st.booleans(), seed=st.integers(0, 2**64 - 1),
    indices=st.lists(st.integers(0, 10**6), min_size=1, max_size=8), transform=st.booleans(),
)  # fmt: skip
def test_each_episode_has_what_is_known_of_its_classes(spec, rotations, seed, indices, transform):
    transforms = (Transform(mean=(0.5,)),) if transform else ()
    one = episodes.sample(store(), "train", spec, rotations=rotations, seed=seed, transforms=transforms)
    block = one.block(indices, Arena())
    for index, episode in zip(indices, block, strict=True):
        assert_known(episode)
        assert_same(episode, one[index])
        assert np.array_equal(episode.class_ids, one.plan(index).class_ids)
    for part in (block[:1], block[1:]):
        assert [episode.index for episode in part] == list(part.indices)
        for episode in part:
            assert_known(episode)


def test_blocks_are_stacked_with_an_axis_of_episodes():
    one = series()
    block = one.block(range(4, 10), Arena())
    for cut, first in ((block, 4), (block[2:5], 6)):
        whole = cut.stacked
        assert whole.class_fields["codes"].shape == (len(cut), 3, 2, 3)
        assert np.shares_memory(whole.class_fields["codes"], block.class_fields["codes"])
        for b in range(len(cut)):
            assert_known(dataclasses.replace(one[first + b], class_fields={n: v[b] for n, v in whole.class_fields.items()}))


def test_series_say_what_they_deliver():
    wanted = {
        "attributes": FieldSpec("float32", (5,)),
        "codes": FieldSpec("int64", (2, 3)),
        "flag": FieldSpec("bool", ()),
        "small": FieldSpec("uint8", (3,)),
    }
    assert series().class_fields == wanted
    without = episodes.sample(memory_store(COUNTS), "train", SPEC)
    assert without.class_fields == {}
    assert without[0].class_fields == {}
    class_bytes = sum(field.row_bytes for field in wanted.values())
    assert series().episode_bytes == without.episode_bytes + 3 * class_bytes


@pytest.mark.parametrize("workers", [0, 2])
def test_streams_deliver_them_in_memory_that_stays(workers):
    with episodes.Stream(series(UNEVEN), workers=workers) as stream:
        kept = [next(stream) for _ in range(200)]
    for episode in kept:
        assert_known(episode)


def test_a_function_of_ones_own_leaves_them():
    assert_known(dataclasses.replace(series(), then=_doubled)[3])


def _doubled(fields, generator):
    return {name: np.concatenate([values, values], axis=1) for name, values in fields.items()}


# On devices and in other frameworks.


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("transforms", [(), (Transform(mean=(0.5,), std=(0.2,)),)])
def test_prefetched_and_resident_episodes_have_them(device, block, transforms):
    one = series(transforms=transforms)
    with prefetch(one, device, block=block) as ahead, resident(one, device, block=block) as held:
        for item in (next(s) for s in [episodes.Stream(one, block=block)] for _ in range(6)):
            wanted = to_torch(item)
            assert wanted.class_fields["codes"].shape == (block or 1, 3, 2, 3)
            for made in (next(ahead), next(held)):
                assert made.class_fields["attributes"].device.type == device
                assert_same_tensors(made, wanted)


def test_resident_episodes_of_different_sizes_have_them():
    one = series(UNEVEN, rotations=True)
    with resident(one, "cpu") as held:
        for index in range(10):
            assert_same_tensors(next(held), to_torch(one[index]))


def test_a_loaders_items_have_them():
    for index, episode in zip(range(3), EpisodeDataset(series()), strict=False):
        assert_same_tensors(episode, to_torch(series()[index]))


def test_jax_arrays_have_them():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    from episodes.adapters import jax as adapter

    one = series()
    made = adapter.to_jax(one.block(range(4), Arena()))
    with adapter.prefetch(episodes.Stream(one, block=4)) as stream:
        for episode in (made, next(stream)):
            for name, values in one.block(range(4), Arena()).stacked.class_fields.items():
                kept = values.astype(jax.numpy.asarray(values).dtype)  # int64 becomes int32 unless JAX is told otherwise
                assert np.array_equal(episode.class_fields[name], kept)


def test_tensorflow_tensors_have_them():
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    from episodes.adapters.tensorflow import dataset, to_tensorflow

    one = series()
    wanted = one.block(range(2), Arena()).stacked.class_fields
    made = to_tensorflow(one.block(range(2), Arena())).class_fields
    element = next(iter(dataset(one, block=2)))["class_fields"]
    for name, values in wanted.items():
        assert np.array_equal(made[name], values)
        assert np.array_equal(element[name], values)
    assert next(iter(dataset(episodes.sample(memory_store(COUNTS), "train", SPEC))))["class_fields"] == {}


# Of several stores.


def mixed(*stores, spec=SPEC):
    made = {f"s{i}": episodes.sample(one, "train", spec, seed=3) for i, one in enumerate(stores)}
    return MixedEpisodes(sources=made, seed=1)


def test_mixtures_deliver_the_class_fields_that_all_sources_have():
    few = {name: GIVEN[name] for name in ("small", "attributes")}
    one = mixed(store(), store(few))
    assert one.class_fields == {name: series().class_fields[name] for name in few}
    block = one.block(range(12), Arena())
    assert len({one.source(index) for index in range(12)}) == 2
    for index, episode in enumerate(block):
        assert episode.class_fields.keys() == few.keys()
        whole = one.sources[one.source(index)][index]
        assert all(np.array_equal(episode.class_fields[name], whole.class_fields[name]) for name in few)
        assert all(np.array_equal(block.stacked.class_fields[name][index], whole.class_fields[name]) for name in few)
    assert mixed(store(), store({})).block(range(6), Arena()).stacked.class_fields == {}


def test_mixtures_refuse_class_fields_that_differ():
    other = {"small": {name: np.zeros(4, np.uint8) for name in NAMES}}
    with pytest.raises(
        SpecError, match="class field 'small' is uint8 of shape .3,. in source 's0' and uint8 of shape .4,. in"
    ):
        mixed(store(), store(other))


# In episode shards.


def members_of(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


@pytest.mark.parametrize("payload", ["arrays", "images", "rows"])
@pytest.mark.parametrize("spec", [SPEC, UNEVEN, ZERO_SHOT])
def test_shards_give_them_back(payload, spec, tmp_path):
    one = series(spec, seed=5)
    compile_shards(one, tmp_path / "s", 20, payload=payload, shard_bytes=9_000)
    shards = episodes.open_shards(tmp_path / "s", one.store if payload == "rows" else None)
    assert shards.class_fields == one.class_fields
    assert ShardManifest.from_json((tmp_path / "s" / MANIFEST).read_bytes(), "").class_fields == one.class_fields
    for index in range(20):
        assert_same(shards[index], one[index])
        if payload == "arrays":
            assert_same(shards.view(index), one[index])
    for b, episode in enumerate(shards.block([3, 17, 0, 3], Arena())):
        assert_same(episode, one[[3, 17, 0, 3][b]])
    with episodes.Stream(shards) as ours, episodes.Stream(one) as theirs:
        assert_same(next(ours), next(theirs))
    assert not verify(tmp_path / "s", store=one.store, series=one).faults


def test_a_plain_tar_program_reads_them_and_the_other_members_are_as_without(tmp_path):
    bare = episodes.sample(store({}), "train", SPEC)
    for name, one in (("with", series()), ("without", bare)):
        compile_shards(one, tmp_path / name, 4)
    ours, theirs = (members_of(tmp_path / name / "shard-00000.tar") for name in ("with", "without"))
    assert {name: ours[name] for name in theirs} == theirs
    for index in range(4):
        for field, values in series()[index].class_fields.items():
            read = np.load(io.BytesIO(ours[f"{index:09d}.class.{field}.npy"]))
            assert (read.dtype, read.tobytes()) == (values.dtype, values.tobytes())
    order = [name.partition(".")[2] for name in ours if name.startswith("000000000.")]
    classes = [f"class.{field}.npy" for field in sorted(GIVEN)]
    assert order == ["image.npy", "labels.npy", *classes, "plan.json"]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves what it has read to be closed
def test_webdataset_reads_them_and_a_pipe_carries_them(tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    compile_shards(series(), tmp_path / "s", 3)
    with (tmp_path / "piped.tar").open("wb") as file:
        write_stream(series(), file, count=3)
    for path in (tmp_path / "s" / "shard-00000.tar", tmp_path / "piped.tar"):
        samples = list(webdataset.WebDataset(str(path), shardshuffle=False).decode())
        for index, sample in enumerate(samples):
            assert np.array_equal(sample["class.codes.npy"], series()[index].class_fields["codes"])
        assert len(samples) == 3
    gc.collect()


def test_names_that_cannot_be_members_are_refused(tmp_path):
    for odd, words in (
        ({"a/b": GIVEN["small"]}, "'class.a/b' cannot be named so"),
        ({"Small": GIVEN["small"], "small": GIVEN["small"]}, "'class.small' cannot be named so"),
    ):
        with pytest.raises(SpecError, match=words):
            compile_shards(episodes.sample(store(odd), "train", SPEC), tmp_path / "s", 2)
    compile_shards(episodes.sample(store({"a/b": GIVEN["small"]}), "train", SPEC), tmp_path / "s", 2, payload="rows")


def test_workers_and_repair_write_the_same_bytes(tmp_path):
    for workers in (1, 2):
        compile_shards(series(UNEVEN), tmp_path / f"w{workers}", 30, shard_bytes=9_000, workers=workers)
    first = hashes(tmp_path / "w1")
    assert hashes(tmp_path / "w2") == first
    (tmp_path / "w1" / "shard-00001.tar").write_bytes(b"no tar")
    repair(tmp_path / "w1", series(UNEVEN), [1])
    assert hashes(tmp_path / "w1") == first


@pytest.mark.parametrize("told", [True, False])
def test_verify_finds_a_class_field_that_was_changed(told, tmp_path):
    compile_shards(series(), tmp_path / "s", 6)
    path = tmp_path / "s" / "shard-00000.tar"
    data = bytearray(path.read_bytes())
    value = series()[4].class_fields["attributes"].tobytes()
    at = data.rindex(value, 0, data.index(b"000000005."))
    data[at] ^= 1
    path.write_bytes(data)
    manifest = ShardManifest.from_json((tmp_path / "s" / MANIFEST).read_bytes(), "")
    shard = dataclasses.replace(manifest.shards[0], sha256=hashlib.sha256(data).hexdigest())
    (tmp_path / "s" / MANIFEST).write_bytes(dataclasses.replace(manifest, shards=(shard,)).to_json())
    found = [fault.what for fault in verify(tmp_path / "s", store=store() if told else None).faults]
    changed_class = series()[4].class_ids[0]
    # Without a store the class shows two values, and the first of them is believed.
    assert any(f"class field 'attributes' of class {changed_class} is not" in what for what in found)
    if told:
        assert len(found) == 1
        assert found[0].startswith("episode 4: ")


# Readers.

OPTIONS = glyphs.Options(alphabets=3, drawings=1)


def strokes(**options):
    return glyphs.make(None, dataclasses.replace(OPTIONS, **options)).listing().class_fields["strokes"]


def test_strokes_are_a_pure_function_of_the_character():
    here, again, more = strokes(), strokes(), strokes(alphabets=4, drawings=3, size=40)
    glyphs._alphabet.cache_clear()
    anew = strokes()
    assert here.keys() < more.keys()
    for name, values in here.items():
        assert (values.dtype, values.shape) == (np.dtype("float32"), (64,))
        for other in (again, more, anew):
            assert other[name].tobytes() == values.tobytes()
        assert np.abs(values).max() <= 1
        assert np.array_equal(values * 256, np.round(values * 256))
    assert len({values.tobytes() for values in more.values()}) == len(more), "each character has its own"
    assert {values.tobytes() for values in here.values()}.isdisjoint(v.tobytes() for v in strokes(seed=1).values())


def test_strokes_are_pinned():
    """The same bytes on every platform."""
    digest = hashlib.sha256(b"".join(values.tobytes() for _, values in sorted(strokes().items())))
    assert digest.hexdigest() == "0a19b8142fa575a5b2d46328ed7169d655b166f93fde3f38a3ec3e49cf391b1b"


def test_strokes_say_where_the_lines_of_a_character_are():
    for a in range(2):
        for character in glyphs._alphabet(0, a):
            values = _program.vector(character).astype(np.float64)
            paths = _strokes.trace(character.controls, character.starts, character.anchors)
            # A stroke goes on where a part begins at the very end of the one before it.
            firsts = [p for p, anchor in enumerate(character.anchors) if anchor != (p - 1, 16) or character.miss[p] > 0]
            count = len(firsts)
            assert values[0] == count / 4
            assert values[1:3] == pytest.approx(np.ptp(paths.reshape(-1, 2), axis=0), abs=1 / 512)
            assert not values[4 + 15 * count :].any()
            for slot in values[4 : 4 + 15 * count].reshape(count, 15):
                assert slot[0] == 1
                points = slot[1:11].reshape(5, 2) / 2
                distance = np.sqrt(np.square(points[:, None] - paths.reshape(-1, 2)).sum(axis=2)).min(axis=1)
                assert distance.max() < 1 / 256, "every point lies on the character"
                assert points[0].sum() <= points[-1].sum() + 1 / 256
                assert round(slot[11] * 3) in (1, 2, 3)
                assert slot[12:].tolist() in ([0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1])
            assert sum(round(slot * 3) for slot in values[4 + 11 : 4 + 15 * count : 15]) == len(character.anchors)


def test_a_picture_tells_something_about_strokes(tmp_path):
    """Ridge regression from pixels finds the attributes of unseen characters among five well above chance."""
    options = glyphs.Options(alphabets=16, drawings=8)
    ingest(glyphs.make(None, options), tmp_path / "a.store", options=options)
    opened = episodes.open(tmp_path / "a.store")
    train, test = (opened.split(name).ids for name in ("train", "test"))
    mean, scale = (f(opened.class_fields["strokes"][train], axis=0) for f in (np.mean, np.std))
    wanted = (opened.class_fields["strokes"] - mean) / (scale + 0.1)  # [C, 64]
    images = opened.read(np.arange(opened.num_rows))["image"].reshape(-1, 8, 14, 2, 14, 2)  # 8 rows a class
    pixels = images.mean(axis=(3, 5)).reshape(-1, 8, 196) / 255
    pixels -= pixels[train].mean(axis=(0, 1))
    seen, target = pixels[train].reshape(-1, 196), np.repeat(wanted[train], 8, axis=0)
    found = pixels @ np.linalg.solve(seen.T @ seen + 50 * np.eye(196), seen.T @ target)  # [C, 8, 64]
    length = found[test, :, 3] - wanted[test, None, 3]
    assert np.square(length).mean() < 0.6 * wanted[test, 3].var(), "how long its lines are"
    rng, right = np.random.default_rng(0), []
    for _ in range(300):
        five = rng.choice(test, 5, replace=False)
        apart = np.square(found[five, None] - wanted[five][None, :, None]).sum(axis=3)  # [class, candidate, drawing]
        right.append((apart.argmin(axis=1) == np.arange(5)[:, None]).mean())
    assert np.mean(right) > 0.3


@pytest.fixture
def pictures(tmp_path) -> Path:
    from PIL import Image

    for name in ("ant", "bee", "fern"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (4, 4), ord(name[0]) + 20 * i).save(tmp_path / "tree" / name / f"{i}.png")
    return tmp_path / "tree"


def attributes(pictures, text):
    file = pictures.parent / "attributes.csv"
    file.write_text(text, encoding="utf-8")
    options = folder.Options(size=4, mode="grey", attributes=file)
    return folder.make(pictures, options), options


def test_a_folders_attributes_come_from_a_csv(pictures, tmp_path):
    text = "\ufeffclass,legs,size\nfern,0,1.5\n\nbee,6, 0.1\nant,6,-1e-3\n"
    reader, options = attributes(pictures, text)
    ingest(reader, tmp_path / "a.store", options=options)
    wanted = np.array([[6, -1e-3], [6, 0.1], [0, 1.5]], np.float32)
    opened = episodes.open(tmp_path / "a.store")
    assert opened.class_fields["attributes"].tobytes() == wanted.tobytes()
    assert opened.manifest.reader["options"]["attributes"] == "attributes.csv"
    words = ["ingest", "folder", pictures, tmp_path / "b.store", "--size", "4", "--mode", "grey"]
    done = run(*words, "--attributes", tmp_path / "attributes.csv")
    assert "class field attributes: float32 2" in done.output
    assert episodes.open(tmp_path / "b.store").fingerprint == opened.fingerprint
    assert folder.make(pictures, folder.Options(size=4)).listing().class_fields == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "attributes.csv: line 1 must be a header"),
        ("name,legs\nant,6\n", "line 1 must be a header"),
        ("class\nant\n", "line 1 must be a header"),
        ("class,legs\nant,6\nbee,6\nfern\n", "line 4 has 1 columns, the header 2"),
        ("class,legs\nant,6\nbee,six\nfern,0\n", "line 3: 'legs' is 'six', not a number"),
        ("class,legs\nant,6\nbee,\nfern,0\n", "line 3: 'legs' is '', not a number"),
        ("class,legs\nant,6\nbee,1_0\nfern,0\n", "line 3: 'legs' is '1_0', not a number"),
        ("class,legs\nant,nan\nbee,6\nfern,0\n", "line 2: 'legs' is 'nan'; attributes are finite"),
        ("class,legs\nant,6\nbee,6\nfern,-inf\n", "line 4: 'legs' is '-inf'; attributes are finite"),
        ("class,legs\nant,6\nbee,1e39\nfern,0\n", "line 3: 'legs' is '1e39'; attributes are finite and fit in float32"),
        ("class,legs\nant,6\nbee,6\nbee,5\nfern,0\n", "line 4 is a second one for class 'bee'"),
        (
            "class,legs\nant,6\nbea,6\nfern,0\n",
            "line 3 names class 'bea', which the source does not have; did you mean 'bee'",
        ),
        ("class,legs\nant,6\nfern,0\n", "has no line for class 'bee' .1 of 3 classes"),
        ('class,legs\nant,"6\n', "line"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused_by_line_and_value(text, words, pictures):
    reader, _ = attributes(pictures, text)
    with pytest.raises(ReaderError, match=words):
        reader.listing()


def test_a_missing_file_is_one_line(pictures, tmp_path):
    gone = tmp_path / "gone.csv"
    assert "cannot read" in refused("ingest", "folder", pictures, tmp_path / "a.store", "--attributes", gone)


def test_flat_looks_at_class_fields():
    """What other tests compare episodes by."""
    assert {f"class.{name}" for name in GIVEN} < {name for name, _ in flat(series()[0])}
    assert torch.equal(to_torch(series()[0]).class_fields["flag"][0], torch.from_numpy(series()[0].class_fields["flag"]))
