"""verify and repair: no byte changes and no plan breaks a law unseen, and damaged shards come back as they were."""

import hashlib
import json
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import PictureReader
from test_cli import refused, run
from worlds import TellingReader, memory_store

import episodes
from episodes.errors import ShardCorrupt, StateMismatch, StoreError, StoreVersion
from episodes.ingest import ingest
from episodes.shards.compile import compile_shards
from episodes.shards.manifest import MANIFEST, ShardManifest
from episodes.shards.record import ShardIndex
from episodes.shards.work import CompileWork
from episodes.store import manifest as store_manifest
from episodes.store.mapped import MappedStore
from episodes.transforms import Transform
from episodes.verify import kind_of, verify
from episodes.verify.plans import Laws, WrittenPlan
from episodes.verify.repair import repair

COUNTS = [6, 7, 8, 9, 6, 7, 5, 8]
SPEC = episodes.EpisodeSpec(ways=3, shots=1, queries=1, unlabeled=1, distractors=1, distractor_queries=1)
LOOK = Transform(flip=True, rotate=20, contrast=0.3)


def series(spec=SPEC, num_train=6, **options):
    return episodes.sample(memory_store(COUNTS, num_train), "train", spec, **options)


def compiled(out, one=None, count=12, **options):
    one = series() if one is None else one
    count = min(count, one.length or count)
    compile_shards(one, out, count, **{"shard_bytes": 9_000} | options)
    return one


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def found(path, **options):
    return [(fault.where, fault.what) for fault in verify(path, **options).faults]


# What is whole has no fault.

KINDS = {
    "plain": {"spec": SPEC},
    "turned": {"spec": SPEC, "rotations": True},
    "transformed": {"spec": SPEC, "transforms": [LOOK]},
    "self-supervised": {
        "spec": episodes.EpisodeSpec(ways=3, shots=2, queries=2), "sampler": "self_supervised",
        "options": {"probability": 0.5}, "transforms": [LOOK],
    },
    "hierarchical": {"spec": episodes.EpisodeSpec(ways=2, shots=1, queries=1), "sampler": "hierarchical", "num_train": 8},
    "no queries": {"spec": episodes.EpisodeSpec(ways="1..3", shots="1..3", queries=0)},
    "no shots": {"spec": episodes.EpisodeSpec(ways=2, shots=0, queries="all")},
    "every row once": {"spec": episodes.EpisodeSpec(ways=3, shots=1, queries=2), "sampler": "each_row_once"},
    "combinations": {"spec": episodes.EpisodeSpec(ways=3, shots=1, queries=2), "sampler": "combinations"},
    "passes": {"spec": episodes.EpisodeSpec(ways=2, shots=1, queries=1), "sampler": "passes"},
}  # fmt: skip


def held_by(payload, kind):
    """Whether a payload can hold these episodes."""
    return payload == "arrays" or ("transforms" not in KINDS[kind] and (payload, kind) != ("rows", "turned"))


@pytest.mark.parametrize(
    ("kind", "payload"), [(k, p) for k in KINDS for p in ("arrays", "images", "rows") if held_by(p, k)]
)
def test_what_was_compiled_has_no_fault(kind, payload, tmp_path):
    one = series(**KINDS[kind])
    compiled(tmp_path / "s", one, payload=payload)
    for given_ in ({}, {"store": one.store}, {"series": one}):
        result = verify(tmp_path / "s", **given_)
        assert result.faults == ()
        assert result.checked["episodes"] == min(12, one.length or 12)
        assert result.kind == "episode shards"


@settings(max_examples=25, deadline=None)
@given(
    ways=st.integers(1, 4), shots=st.integers(0, 2), queries=st.integers(0, 2), unlabeled=st.integers(0, 2),
    distractors=st.integers(0, 2), seed=st.integers(0, 2**64 - 1), rotations=st.booleans(), count=st.integers(1, 9),
)  # fmt: skip
def test_random_specs_have_no_fault(ways, shots, queries, unlabeled, distractors, seed, rotations, count):
    if shots + queries == 0:
        shots = 1
    distractors = distractors if unlabeled else 0
    spec = episodes.EpisodeSpec(ways=ways, shots=shots, queries=queries, unlabeled=unlabeled, distractors=distractors)
    one = series(spec, seed=seed, rotations=rotations)
    with tempfile.TemporaryDirectory() as folder:
        compiled(Path(folder) / "s", one, count, shard_bytes=3_000)
        for given_ in ({}, {"store": one.store}, {"series": one}):
            assert found(Path(folder) / "s", **given_) == []


def test_all_work_is_reported(tmp_path):
    one = compiled(tmp_path / "s")
    seen: list[tuple[int, int]] = []
    verify(tmp_path / "s", series=one, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] > 0


# Damage: any byte, any file.


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_byte_of_a_set_changes_unseen_and_repair_brings_it_back(data, damaged_set):
    path, one, whole = damaged_set
    name = data.draw(st.sampled_from(sorted(whole)))
    place = data.draw(st.integers(0, len(whole[name]) - 1))
    byte = data.draw(st.integers(1, 255))
    changed = bytearray(whole[name])
    changed[place] ^= byte
    (path / name).write_bytes(changed)
    try:
        result = verify(path)
        assert {fault.where for fault in result.faults} == {name}
        if name == MANIFEST:
            assert result.shards == ()
            (path / name).write_bytes(whole[name])
            return
        repair(path, one, result.shards)
        assert files(path) == whole
    except StoreVersion:  # of a manifest whose format number was hit
        assert name == MANIFEST
    finally:
        for each, content in whole.items():
            (path / each).write_bytes(content)


@pytest.fixture(scope="module")
def damaged_set(tmp_path_factory):
    path = tmp_path_factory.mktemp("verify") / "s"
    one = compiled(path)
    assert len(files(path)) == 7
    return path, one, files(path)


def test_every_fault_is_found_not_the_first_only(tmp_path):
    path = tmp_path / "s"
    one = compiled(path, count=40)
    whole = files(path)
    data = bytearray(whole["shard-00001.tar"])
    data[len(data) // 2] ^= 1
    (path / "shard-00001.tar").write_bytes(data)
    (path / "shard-00002.tar").write_bytes(whole["shard-00002.tar"][:700])
    (path / "shard-00003.tar").unlink()
    (path / "shard-00004.index.npy").write_bytes(b"")
    (path / "shard-00005.tar").write_bytes(b"")
    (path / "shard-00099.tar").write_bytes(b"x")
    (path / "notes.txt").write_text("mine")
    result = verify(path, series=one)
    where = [fault.where for fault in result.faults]
    assert where == [
        *(f"shard-0000{n}.tar" for n in (1, 2, 3)), "shard-00004.index.npy", "shard-00005.tar", "shard-00099.tar",
    ]  # fmt: skip
    what = [fault.what for fault in result.faults]
    assert "is damaged: its SHA-256 is" in what[0]
    assert "; first, episode " in what[0]
    assert "has 700 bytes, the manifest says" in what[1]
    assert "is missing" in what[2]
    assert "is no shard of this set" in what[5]
    assert result.faults[5].mend == f"rm {path}/shard-00099.tar"
    assert "notes.txt is no file of this set; nothing reads it" in result.notes
    assert result.shards == (1, 2, 3, 4, 5)
    repair(path, one, result.shards)
    (path / "shard-00099.tar").unlink()
    (path / "notes.txt").unlink()
    assert files(path) == whole
    assert list(tmp_path.iterdir()) == [path]


def test_a_changed_value_is_named_by_episode_field_and_row(tmp_path):
    path = tmp_path / "s"
    one = compiled(path)
    shard = open_manifest(path).shards[1]
    index = ShardIndex.from_npy((path / shard.index_file).read_bytes())
    data = bytearray((path / shard.file).read_bytes())
    rows, row_bytes = index.counts[0, :3].sum(), 16
    begin = int(index.begins[1]) + 512 + 128  # the second episode's first member is the field "image"
    data[begin + 2 * row_bytes + 5] ^= 64
    (path / shard.file).write_bytes(data)
    ((where, what),) = found(path, store=one.store)
    assert where == shard.file
    assert f"episode {shard.first + 1}: field 'image' of row {index.rows[rows + 2]}, place 2," in what


def test_a_distractor_may_be_a_turn_of_its_class(tmp_path):
    """Its turn is not written down: without the series its values are not known, but those of the classes are."""
    spec = episodes.EpisodeSpec(ways=1, shots=1, queries=0, unlabeled=1, distractors=1)
    one = compiled(tmp_path / "s", series(spec, rotations=True), 30, shard_bytes=1 << 20)
    assert found(tmp_path / "s", store=one.store) == found(tmp_path / "s", series=one) == []
    index = ShardIndex.from_npy((tmp_path / "s" / "shard-00000.index.npy").read_bytes())
    whole = (tmp_path / "s" / "shard-00000.tar").read_bytes()
    hidden = index.labels[:3].tolist().index(-1)
    for place, given_, seen in (
        (0, {"store": one.store}, True),
        (hidden, {"store": one.store}, False),
        (hidden, {"series": one}, True),
    ):
        changed = bytearray(whole)
        changed[512 + 128 + 16 * place + 9] ^= 1
        forged(tmp_path / "s", tar=bytes(changed))
        assert bool(found(tmp_path / "s", **given_)) is seen


# A set that is wrong and says that it is right.


def open_manifest(path):
    return ShardManifest.from_json((path / MANIFEST).read_bytes(), "x")


def forged(path, number=0, tar=None, index=None, **changes):
    """Write other content under a manifest that agrees with it."""
    manifest = open_manifest(path)
    shard = manifest.shards[number]
    if tar is not None:
        (path / shard.file).write_bytes(tar)
        shard = replace(shard, size=len(tar), sha256=hashlib.sha256(tar).hexdigest())
    if index is not None:
        (path / shard.index_file).write_bytes(index)
        shard = replace(shard, index_sha256=hashlib.sha256(index).hexdigest())
    shards = tuple(shard if n == number else one for n, one in enumerate(manifest.shards))
    (path / MANIFEST).write_bytes(replace(manifest, **{"shards": shards} | changes).to_json())


def with_index(path, change):
    """The first shard with an index whose columns were changed by a function."""
    index = ShardIndex.from_npy((path / "shard-00000.index.npy").read_bytes())
    columns = {
        name: getattr(index, name).copy() for name in ("begins", "counts", "rows", "labels", "class_ids", "variants")
    }
    change(columns)
    forged(path, index=ShardIndex(**columns).to_npy())


def put(name, place, value):
    def change(columns):
        columns[name][place] = value(columns) if callable(value) else value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("labels", 0, 3), r"episode 0: label 3 is not in 0\.\.2 \(I1\)"),
        (put("labels", 1, -1), r"episode 0: label -1 is not in 0\.\.2 \(I1\)"),
        (put("class_ids", 1, lambda c: c["class_ids"][0]), r"episode 0: class \d is in it twice \(I1\)"),
        (put("rows", 1, lambda c: c["rows"][0]), r"episode 0: row \d+ is in it twice, in support and support \(I2\)"),
        (put("rows", 3, lambda c: c["rows"][0]), r"row \d+ is in it twice, in support and query \(I2\)"),
        (put("rows", 8, lambda c: c["rows"][3]), r"row \d+ is in it twice, in query and unlabeled \(I2\)"),
        (put("rows", 0, 55), r"row 55 is of class 7, its label means class \d \(I4\)"),
        (put("rows", 0, 999), r"row 999 is not in 0\.\.55 \(I4\)"),
        (put("rows", 0, -1), "row -1 is no row"),
        (put("rows", 6, 55), r"row 55 of a distractor is of class 7, which is not in the split \(I4\)"),
        (put("class_ids", 0, 7), r"class 7 with 0 quarter turns is not in the split \(I4\)"),
        (put("variants", 0, 1), r"class \d with 1 quarter turns is not in the split \(I4\)"),
        (put("counts", (0, 3), 0), "."),
        (put("begins", 1, 100), "the archive has no header of a tar member at byte 100|it ends at byte"),
    ],
)  # fmt: skip
def test_a_plan_that_breaks_a_law_is_found_under_hashes_that_agree(change, words, tmp_path):
    one = compiled(tmp_path / "s")
    with_index(tmp_path / "s", change)
    faults = verify(tmp_path / "s", series=one).faults
    assert faults
    assert re.search(words, faults[0].what), faults[0]
    assert faults[0].where.startswith("shard-00000")


def test_another_plan_than_the_policy_draws_is_found(tmp_path):
    other = compiled(tmp_path / "s", series(seed=1))
    assert found(tmp_path / "s", series=other) == []
    forged(tmp_path / "s", fingerprint=series().fingerprint)
    faults = verify(tmp_path / "s", series=series()).faults
    assert len(faults) == 12  # each of its own
    assert "its rows are not those that its policy draws" in faults[0].what
    assert "compile" in faults[0].mend


def member_at(data, name):
    """Byte of the header of a member."""
    return bytes(data).index(name.encode() + b"\0")


def resized(data, at, old, new):
    """An archive whose member at `at` has other bytes of the same padded size."""
    start = at + 512
    assert -len(old) // 512 == -len(new) // 512
    size = b"%011o\0" % len(new)
    block = bytearray(data[at:start])
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    room = len(old) + -len(old) % 512
    return data[:at] + bytes(block) + new + bytes(room - len(new)) + data[start + room :]


def in_plan(**changes):
    def change(data):
        at = member_at(data, "000000001.plan.json")
        size = int(data[at + 124 : at + 135], 8)
        old = bytes(data[at + 512 : at + 512 + size])
        text = changes.get("text") or json.dumps(
            {key: value for key, value in (json.loads(old) | changes).items() if value is not None},
            sort_keys=True, separators=(",", ":"),
        )  # fmt: skip
        return resized(data, at, old, text.encode())

    return change


def at_byte(name, place, new, sign=False):
    def change(data):
        at = member_at(data, name)
        data[at + place : at + place + len(new)] = new
        if sign:
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
        return data

    return change


def swapped(data):
    """The first two episodes of one size, exchanged."""
    one, two = member_at(data, "000000000.image.npy"), member_at(data, "000000001.image.npy")
    third = member_at(data, "000000002.image.npy")
    return data[:one] + data[two:third] + data[one:two] + data[third:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (in_plan(seed=9), "episode 1: 'seed' of its plan is not that of the index"),
        (in_plan(index=2), "'index' of its plan"),
        (in_plan(rows=[1]), "'rows' of its plan"),
        (in_plan(parts={"query": 4, "support": 3, "unlabeled": 3}), "'parts' of its plan"),
        (in_plan(class_names=["class00", "class01", "nobody"]), "is named '.*' in its plan"),
        (in_plan(class_names=["class00"]), "names 1 classes of 3"),
        (in_plan(keys=["a"]), "keys"),
        (in_plan(text="[]"), "its plan is no object"),
        (in_plan(text="{"), "its plan is no JSON"),
        (in_plan(more=1), "its plan has 'more', which no plan has"),
        (at_byte("000000001.labels.npy", 512 + 128, b"\1"), "its labels are not those of the index"),
        (at_byte("000000001.labels.npy", 512 + 6, b"\2"), r"is no array of int64 \(11,\)"),
        (at_byte("000000001.image.npy", 136, b"00000000001", sign=True), "has another time, owner or kind"),
        (at_byte("000000001.image.npy", 100, b"0000777", sign=True), "has another time, owner or kind"),
        (at_byte("000000001.image.npy", 8, b"2", sign=True), "member '000000002.image.npy' is at byte"),
        (at_byte("000000001.labels.npy", 512 + 128 + 11 * 8, b"\1"), "is not followed by zeros"),
        (at_byte("000000001.image.npy", 512 + 128, b"\7"), "field 'image' of row"),
        (swapped, "member '000000001.image.npy' is at byte 0, where '000000000.image.npy' has to be"),
        (lambda data: data + bytes(512), "it does not end with two empty blocks"),
        (lambda data: data[:-512], "it does not end with two empty blocks"),
    ],
)  # fmt: skip
def test_members_that_are_not_as_they_have_to_be_are_found_under_hashes_that_agree(change, words, tmp_path):
    one = compiled(tmp_path / "s")
    forged(tmp_path / "s", tar=bytes(change(bytearray((tmp_path / "s" / "shard-00000.tar").read_bytes()))))
    faults = verify(tmp_path / "s", store=one.store).faults
    assert faults
    assert re.search(words, faults[0].what), faults[0]
    assert faults[0].shard is None  # made again it would be what it has to be, which the manifest denies
    assert "compile" in faults[0].mend


def test_damaged_pictures_are_named(tmp_path):
    compiled(tmp_path / "s", payload="images")
    tar = bytearray((tmp_path / "s" / "shard-00000.tar").read_bytes())
    at = member_at(tar, "000000001.0002.image.png")
    tar[at + 512 + 20] ^= 255
    forged(tmp_path / "s", tar=bytes(tar))
    ((_, what),) = found(tmp_path / "s")
    assert "episode 1: picture '000000001.0002.image.png' is damaged" in what


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"count": 13}, "says that there are 13"),
        ({"shards": ()}, "has 0 episodes in 0 shards"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_a_fault(changes, words, tmp_path):
    compiled(tmp_path / "s")
    manifest = replace(open_manifest(tmp_path / "s"), **changes)
    (tmp_path / "s" / MANIFEST).write_bytes(manifest.to_json())
    ((where, what),) = found(tmp_path / "s")
    assert where == MANIFEST
    assert words in what


def test_a_manifest_that_names_files_elsewhere_is_a_fault(tmp_path):
    compiled(tmp_path / "s")
    manifest = open_manifest(tmp_path / "s")
    shard = replace(manifest.shards[0], file="../other.tar")
    (tmp_path / "s" / MANIFEST).write_bytes(replace(manifest, shards=(shard, *manifest.shards[1:])).to_json())
    assert found(tmp_path / "s")[0][0] == MANIFEST


# The laws against a slow twin.


def twin(plan, owner, split):
    """Whether a plan obeys I1 to I4, by sets and loops."""
    parts, at = [], 0
    for size in plan.counts[:3].tolist():
        parts.append(list(zip(plan.rows[at : at + size].tolist(), plan.labels[at : at + size].tolist(), strict=True)))
        at += size
    ids = plan.class_ids.tolist()
    everything = [row for part in parts for row, _ in part]
    return (
        len(set(ids)) == len(ids) > 0
        and all(c in split for c in ids)
        and len(set(everything)) == len(everything) > 0
        and all(0 <= label < len(ids) for _, label in parts[0])
        and all(-1 <= label < len(ids) for part in parts[1:] for _, label in part)
        and all(0 <= row < len(owner) for row in everything)
        and all(owner[row] == ids[label] for part in parts for row, label in part if label >= 0)
        and all(owner[row] not in ids and owner[row] in split for part in parts for row, label in part if label < 0)
    )


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_laws_are_those_of_a_slow_twin(data):
    store = memory_store(COUNTS, 6)
    classes = store.split("train")
    one = episodes.sample(store, "train", SPEC, seed=data.draw(st.integers(0, 50)))
    drawn = one.plan(0)
    columns = {
        "counts": np.array([len(drawn.support), len(drawn.query), len(drawn.unlabeled), drawn.ways]),
        "rows": np.concatenate([drawn.support, drawn.query, drawn.unlabeled]),
        "labels": np.concatenate([drawn.support_labels, drawn.query_labels, drawn.unlabeled_labels]),
        "class_ids": drawn.class_ids.copy(),
        "variants": drawn.variants.copy(),
    }
    for _ in range(data.draw(st.integers(0, 2))):
        name = data.draw(st.sampled_from(["rows", "labels", "class_ids"]))
        place = data.draw(st.integers(0, len(columns[name]) - 1))
        columns[name][place] = data.draw(st.integers(-2, {"rows": 58, "labels": 4, "class_ids": 8}[name]))
    plan = WrittenPlan(**columns)
    owner = np.repeat(np.arange(len(COUNTS)), COUNTS).tolist()
    broken = Laws(store, classes, repeats_rows=False, turned=False).broken_by(plan)
    assert (broken is None) == twin(plan, owner, set(classes.ids.tolist())), broken


def test_without_a_store_a_row_is_of_one_class_in_all_plans():
    laws = Laws(None, None, repeats_rows=False, turned=False)

    def plan(rows, labels, ids):
        numbers = {"counts": [len(rows), 0, 0, len(ids)], "rows": rows, "labels": labels, "class_ids": ids}
        return WrittenPlan(**{k: np.array(v) for k, v in numbers.items()}, variants=np.zeros(len(ids), np.int64))

    assert laws.broken_by(plan([4, 9], [0, 1], [2, 3])) is None
    assert laws.broken_by(plan([9, 1000], [0, 1], [3, 2])) is None
    assert laws.broken_by(plan([4, 5], [0, 1], [3, 2])) == "row 4 is of class 2, its label means class 3 (I4)"


@pytest.mark.parametrize(
    ("place", "row"), [(2, 0), (0, 7)], ids=["a query of another row than its support's", "two equal support rows"]
)
def test_self_supervised_plans_have_laws_of_their_own(place, row):
    laws = Laws(memory_store(COUNTS), None, repeats_rows=True, turned=False)
    rows = np.array([6, 7, 6, 7])
    plan = WrittenPlan(
        counts=np.array([2, 2, 0, 2]), rows=rows, labels=np.array([0, 1, 0, 1]), class_ids=np.array([1, 1]),
        variants=np.zeros(2, np.int64),
    )  # fmt: skip
    assert laws.broken_by(plan) is None
    assert Laws(memory_store(COUNTS), None, repeats_rows=False, turned=False).broken_by(plan) is not None
    rows[place] = row
    assert laws.broken_by(plan) is not None


# Repair.


def test_repair_makes_a_payload_of_every_kind_again(tmp_path):
    for payload in ("arrays", "images", "rows"):
        path = tmp_path / payload
        one = compiled(path, payload=payload)
        whole = files(path)
        for name in whole:
            if name.startswith("shard-00000"):
                (path / name).write_bytes(b"gone")
        result = verify(path)
        assert result.shards == (0,)
        repair(path, one, result.shards)
        assert files(path) == whole


def test_repair_puts_nothing_in_place_that_is_other_bytes_than_the_manifest_says(tmp_path):
    path = tmp_path / "s"
    one = compiled(path)
    manifest = open_manifest(path)
    other = replace(manifest.shards[0], sha256="0" * 64)
    (path / MANIFEST).write_bytes(replace(manifest, shards=(other, *manifest.shards[1:])).to_json())
    before = files(path)
    assert verify(path).shards == (0,)
    with pytest.raises(ShardCorrupt, match="shard 0 made again has SHA-256 .*, the manifest says 0000.*software"):
        repair(path, one, [0])
    assert files(path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_repair_and_verify_refuse_other_episodes_and_other_stores(tmp_path):
    path = tmp_path / "s"
    one = compiled(path)
    with pytest.raises(StateMismatch, match="holds episodes"):
        repair(path, series(seed=7), [0])
    with pytest.raises(StateMismatch, match="holds episodes"):
        verify(path, series=series(seed=7))
    with pytest.raises(StateMismatch, match=f"was compiled from store {one.store.fingerprint}; this store is"):
        verify(path, store=memory_store([5, 5, 5]))


def test_repair_needs_no_more_shards_than_were_asked_for(tmp_path, monkeypatch):
    one = compiled(tmp_path / "s", count=40)
    (tmp_path / "s" / "shard-00002.tar").unlink()
    seen: list[int] = []
    plain = type(one).block
    monkeypatch.setattr(type(one), "block", lambda self, some, arena: seen.extend(some) or plain(self, some, arena))
    repair(tmp_path / "s", one, [2])
    assert seen == list(CompileWork(series=one, count=40, shard_bytes=9_000).indices(2))


# Stores.


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory):
    path = tmp_path_factory.mktemp("verify") / "w.store"
    ingest(TellingReader(COUNTS), path, shard_bytes=900)
    assert len(files(path)) > 4
    return path, files(path)


def test_a_whole_store_has_no_fault(whole_store):
    result = verify(whole_store[0])
    assert (result.kind, result.faults, result.notes) == ("store", (), ())
    assert result.checked["samples"] == sum(COUNTS)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_byte_of_a_store_changes_unseen(data, whole_store):
    path, whole = whole_store
    name = data.draw(st.sampled_from(sorted(whole)))
    place = data.draw(st.integers(0, len(whole[name]) - 1))
    changed = bytearray(whole[name])
    changed[place] ^= data.draw(st.integers(1, 255))
    (path / name).write_bytes(changed)
    try:
        result = verify(path)
        assert {fault.where for fault in result.faults} == {name}
        assert all("episodes ingest" in fault.mend for fault in result.faults)
    except StoreVersion:
        assert name == "manifest.json"
    finally:
        (path / name).write_bytes(whole[name])


def test_every_damaged_file_of_a_store_is_named(whole_store, tmp_path):
    path = tmp_path / "w.store"
    shutil.copytree(whole_store[0], path)
    (path / "shard-00000.h5").unlink()
    (path / "shard-00001.h5").write_bytes(b"cut")
    (path / "classes.json").write_bytes(b"{}")
    (path / "old.tmp").touch()
    result = verify(path)
    assert [fault.where for fault in result.faults] == ["classes.json", "shard-00000.h5", "shard-00001.h5"]
    assert {fault.mend for fault in result.faults} == {f"episodes ingest telling SOURCE {path} --overwrite"}
    assert "old.tmp is no file of this store; nothing reads it" in result.notes


def signed(path, **changes):
    """Change the table of classes, and the manifest so that it agrees."""
    listing = json.loads((path / "classes.json").read_bytes()) | changes
    data = json.dumps(listing, separators=(",", ":")).encode() + b"\n"
    (path / "classes.json").write_bytes(data)
    manifest = store_manifest.Manifest.from_json((path / "manifest.json").read_bytes(), "x")
    (path / "manifest.json").write_bytes(replace(manifest, classes_sha256=hashlib.sha256(data).hexdigest()).to_json())


def test_classes_that_do_not_fit_rows_or_each_other_are_found(whole_store, tmp_path):
    path = tmp_path / "w.store"
    shutil.copytree(whole_store[0], path)
    parts = [{"name": "train", "classes": [0, 1, 2]}, {"name": "test", "classes": [2, 3]}]
    signed(path, splits=[{"name": "halves", "parts": parts}], counts=[5, *COUNTS[1:]])
    assert found(path)[:2] == [
        ("classes.json", f"its classes have {sum(COUNTS) - 1} rows, the manifest says {sum(COUNTS)}"),
        ("classes.json", "class 'class02' is in splits 'train' and 'test' of list 'halves'"),
    ]


class Twins(TellingReader):
    """Two classes that hold one and the same sample."""

    def _load(self, c, place):
        return super()._load(0, 0) if (c, place) in ((1, 2), (3, 1)) else super()._load(c, place)


def test_equal_samples_are_a_note_in_one_split_and_a_fault_across_two(tmp_path):
    path = tmp_path / "w.store"
    with pytest.warns(UserWarning, match="are equal"):
        ingest(Twins([4, 4, 4, 4, 4, 4, 4, 4]), path)
    result = verify(path)
    assert result.faults == ()
    assert len(result.notes) == 1
    assert "are equal (2 such pairs of classes)" in result.notes[0]
    parts = [{"name": "train", "classes": [0, 1]}, {"name": "test", "classes": [2, 3]}]
    signed(path, splits=[{"name": "other", "parts": parts}])
    ((where, what),) = found(path)
    assert where.startswith("row ")
    assert (
        "'002' of class 'class01' and '001' of class 'class03' are equal, in splits 'train' and 'test' of list 'other'"
        in what
    )


def test_every_row_that_decodes_to_other_values_is_found(tmp_path, monkeypatch):
    pytest.importorskip("simplejpeg")
    path = tmp_path / "p.store"
    ingest(PictureReader([4, 4, 4]), path, encoding="jpeg")
    assert found(path) == []
    plain = MappedStore.read

    def other(self, rows, out=None):
        values = plain(self, rows, out)
        values["image"][(rows == 2) | (rows == 5)] ^= 1
        return values

    monkeypatch.setattr(MappedStore, "read", other)
    assert [where.partition(",")[0] for where, _ in found(path)] == ["row 2", "row 5"]


# What is verified.


def test_what_is_neither_is_refused(tmp_path):
    with pytest.raises(StoreError, match="no store and no episode shards at .*is the path right"):
        verify(tmp_path / "none")
    (tmp_path / "half.partial").mkdir()
    with pytest.raises(StoreError, match="an unfinished one is beside it: finish it with --resume"):
        verify(tmp_path / "half")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match=r"it has no manifest\.json of either"):
        verify(tmp_path / "empty")


def test_a_set_without_manifest_is_told_by_its_files(tmp_path):
    compiled(tmp_path / "s")
    (tmp_path / "s" / MANIFEST).unlink()
    assert kind_of(tmp_path / "s") == "episode shards"
    ((where, what),) = found(tmp_path / "s")
    assert (where, what) == (MANIFEST, "is missing")


# The command.


@pytest.fixture
def shards(glyphs_store, tmp_path):
    run("compile", glyphs_store, "-o", tmp_path / "s", "--count", 40, "--shard-mb", 1, "--ways", 3, "-T", "flip=true")
    return tmp_path / "s"


def test_the_command_names_faults_and_mends_them(shards, glyphs_store, tmp_path):
    whole = files(shards)
    assert "episode shards without fault" in run("verify", shards).stdout
    assert "note: rows and values were not compared with the store" in run("verify", shards).stderr
    assert "note" not in run("verify", shards, "--store", glyphs_store).stderr
    data = bytearray(whole["shard-00001.tar"])
    data[5000] ^= 1
    (shards / "shard-00001.tar").write_bytes(data)
    result = run("verify", shards, "--store", glyphs_store, code=2)
    (line,) = result.stdout.splitlines()
    assert line.startswith("shard-00001.tar: is damaged: its SHA-256 is ")
    mend = f"episodes verify {shards} --repair --store {glyphs_store}"
    assert line.endswith(f"(mend: {mend})")
    assert f"error: {shards} has 1 fault" in result.stderr
    about = json.loads(run("verify", shards, "--json", code=2).stdout)
    assert [fault["where"] for fault in about["faults"]] == ["shard-00001.tar"]
    assert about["mended"] == []
    assert "made again: shard 1" in run(*mend.split()[1:]).stdout
    assert files(shards) == whole
    assert json.loads(run("verify", shards, "--store", glyphs_store, "--json").stdout)["faults"] == []


def test_faults_that_repair_cannot_mend_keep_the_exit_code(shards, glyphs_store):
    (shards / "other.tar").touch()
    (shards / "shard-00000.index.npy").unlink()
    result = run("verify", shards, "--store", glyphs_store, "--repair", "--json", code=2)
    about = json.loads(result.stdout)
    assert about["mended"] == [0]
    assert "has 1 fault that repair cannot mend" in result.stderr
    assert json.loads(run("verify", shards, "--json", code=2).stdout)["faults"][0]["mend"] == f"rm {shards}/other.tar"


def test_the_command_refuses_what_cannot_be(shards, glyphs_store, tmp_path):
    assert "give it with --store" in refused("verify", shards, "--repair")
    assert "a store is verified by itself" in refused("verify", glyphs_store, "--store", glyphs_store)
    assert "no store and no episode shards" in refused("verify", tmp_path / "none")
    ingest(TellingReader(COUNTS), tmp_path / "other.store")
    assert "was compiled from store" in refused("verify", shards, "--store", tmp_path / "other.store")
    one = episodes.sample(episodes.open(glyphs_store), "train", SPEC)
    compile_shards(one, tmp_path / "python", 3)
    assert "compiled from Python" in refused("verify", tmp_path / "python", "--store", glyphs_store, "--repair")
    assert "plans were not drawn again" in run("verify", tmp_path / "python", "--store", glyphs_store).stderr


def test_the_command_on_a_store(glyphs_store, tmp_path):
    assert "store without fault" in run("verify", glyphs_store).stdout
    shutil.copytree(glyphs_store, tmp_path / "g")
    (tmp_path / "g" / "shard-00000.h5").write_bytes(b"cut")
    result = run("verify", tmp_path / "g", "--repair", code=2)
    assert f"episodes ingest glyphs {tmp_path}/g --alphabets 6 --overwrite" in result.stdout
