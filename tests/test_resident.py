"""Resident mode: the episodes of a stream, bit by bit, made on a device from rows that lie there."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_adapters import DEVICES, LOOK, assert_same, doubled, series, uneven
from test_transforms import transforms

import episodes
from episodes.adapters import _torch_resident
from episodes.adapters._torch_bus import Bus
from episodes.adapters._torch_resident import _rows_of, _turned
from episodes.adapters.pytorch import prefetch, resident, to_torch
from episodes.errors import SpecError, StateMismatch, StreamError, WorkerFailed
from episodes.selection import Selection
from episodes.store.memory import MemoryStore
from episodes.stream.mixture import MixedEpisodes
from episodes.transforms import Transform, quarter_turn

SPECS = {
    "plain": episodes.EpisodeSpec(ways=3, shots=2, queries=2),
    "hidden": episodes.EpisodeSpec(ways=2, shots=1, queries=2, unlabeled=1, distractors=1),
    "uneven": episodes.EpisodeSpec(ways="2..4", shots="1..3 per class", queries="1..2", unlabeled="0..1"),
    "no queries": episodes.EpisodeSpec(ways=3, shots=2, queries=0),
}


def rich_store(seed=0):
    """Fields of every kind: images in both layouts, a mask, a float image, numbers."""
    rng, num = np.random.default_rng(seed), 40
    fields = {
        "image": rng.integers(0, 256, (num, 2, 6, 6), np.uint8),
        "last": rng.integers(0, 256, (num, 6, 6, 6), np.uint8),
        "mask": rng.integers(0, 2, (num, 5, 5)).astype(bool),
        "depth": rng.normal(size=(num, 1, 4, 4)).astype(np.float32),
        "wide": rng.integers(0, 60_000, (num, 4, 4)).astype(np.uint16),
        "age": np.arange(num),
        "code": np.arange(num, dtype=np.uint16) + 60_000,
        "hash": np.arange(num, dtype=np.uint64) + 2**63,
    }
    names = [f"class{c}" for c in range(5)]
    return MemoryStore(fields, dict.fromkeys(names, 8), splits={"s": {"train": names[:4], "test": names[4:]}})


def assert_the_same_series(one, device, block=None, count=9, **options):
    whole = episodes.Stream(one, block=block, **options)
    with resident(one, device, block=block, **options) as ours:
        for _ in range(count):
            made = next(ours)
            assert_same(made, to_torch(next(whole)))
            assert made.support.rows.device.type == device
            assert ours.state_dict() == whole.state_dict()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("transform", [None, LOOK, replace(LOOK, layout="hwc"), Transform(crop_padding=1)])
def test_resident_episodes_are_those_of_the_stream(device, spec, turned, transform):
    one = episodes.sample(rich_store(), "train", SPECS[spec], rotations=turned, seed=5)
    last = Transform(field="last", stored="hwc", flip=True)
    one = replace(one, transforms=() if transform is None else (transform, last))
    assert_the_same_series(one, device)
    if spec in ("plain", "no queries"):
        assert_the_same_series(one, device, block=4)


@settings(max_examples=60, deadline=None)
@given(
    transform=transforms(), spec=st.sampled_from(list(SPECS)), turned=st.booleans(), seed=st.integers(0, 2**64 - 1),
    start=st.integers(0, 50), world=st.integers(1, 3),
)  # fmt: skip
def test_whatever_the_transform_and_the_ranks(transform, spec, turned, seed, start, world):
    few = {name: getattr(transform, name)[:1] for name in ("mean", "std")}
    fitting = replace(transform, field="last" if transform.stored == "hwc" else "image", **few)
    one = episodes.sample(rich_store(), "train", SPECS[spec], rotations=turned, seed=seed)
    assert_the_same_series(replace(one, transforms=(fitting,)), "cpu", count=3, start=start, rank=world - 1, world=world)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [("hierarchical", {}), ("meta_dataset", {"min_ways": 2, "max_ways": 4}), ("passes", {}), ("meta_batch", {"batch": 2})],
)
def test_other_policies(sampler, options):
    one = "variable" if sampler == "meta_dataset" else 2
    spec = episodes.EpisodeSpec(ways=one, shots=one, queries=one)
    assert_the_same_series(series(spec=spec, sampler=sampler, options=options), "cpu", count=5)


def test_only_rows_of_the_split_are_held():
    store = rich_store()
    for split, rows in (("test", range(32, 40)), ("train", range(32)), ("all", range(40))):
        assert _rows_of(store.split(split)).tolist() == list(rows)
        assert _rows_of(store.split(split).with_quarter_turns()).tolist() == list(rows)
    selection = Selection(split="train", labeled=0.5, rotations=True)
    one = episodes.sample(store, selection, episodes.EpisodeSpec(ways=2, shots=1, queries=1))
    assert set(_rows_of(one.classes).tolist()) == {row for p in range(len(one.classes)) for row in one.classes.rows(p)}
    assert_the_same_series(one, "cpu")


def test_rows_are_copied_in_pieces(monkeypatch):
    monkeypatch.setattr(_torch_resident, "_COPY_BYTES", 200)
    assert_the_same_series(episodes.sample(rich_store(), "train", SPECS["plain"]), "cpu")


def test_a_store_on_disk_raw_and_encoded(glyphs_store, tmp_path):
    from episodes.ingest import ingest
    from episodes.readers import glyphs

    options, spec = glyphs.Options(alphabets=4), episodes.EpisodeSpec(ways=3, shots=1, queries=2)
    ingest(glyphs.make(None, options), tmp_path / "jpeg", options=options, encoding="jpeg")
    for path in (glyphs_store, tmp_path / "jpeg"):
        one = replace(episodes.sample(episodes.open(path), "train", spec, rotations=True), transforms=(LOOK,))
        assert_the_same_series(one, "cpu", block=3, count=4)


def test_a_block_goes_to_the_device_in_one_copy(monkeypatch):
    one = replace(episodes.sample(rich_store(), "train", SPECS["hidden"], rotations=True), transforms=(LOOK,))
    sent, send = [], Bus.send
    with resident(one, "cpu", block=8) as ours:
        monkeypatch.setattr(Bus, "send", lambda bus, to: (sent.append(len(to)), send(bus, to))[1])
        next(ours)
    assert len(sent) == 1


@pytest.mark.parametrize("kind", ["bool", "uint8", "uint16", "float16", "int32", "float64", "complex64", "complex128"])
def test_turning_on_the_device_is_turning_in_place(kind):
    rng, turns = np.random.default_rng(1), np.array([0, 1, 2, 3, 1])
    for shape in ((5, 4, 4), (5, 3, 3, 3), (5, 2, 1, 1), (5, 2, 3, 5, 5)):
        values = rng.integers(0, 200, shape).astype(kind)
        ours = _turned(torch.from_numpy(values.copy()), torch.from_numpy(turns)).numpy()
        quarter_turn(values, turns)
        assert np.array_equal(ours, values)
        assert ours.dtype == values.dtype


def test_state_moves_between_resident_prefetched_and_plain():
    one, taken, state = series(transforms=(LOOK,), rotations=True), [], None
    for make in (
        lambda: resident(one, "cpu"),
        lambda: episodes.Stream(one, workers=2),
        lambda: resident(one, "cpu", block=1),
        lambda: prefetch(one, "cpu"),
        lambda: resident(one, "cpu"),
    ):
        with make() as stream:
            if state is not None:
                stream.load_state_dict(state)
            taken += [next(stream).index for _ in range(3)]
            state = stream.state_dict()
    assert taken == list(range(15))
    with resident(series(seed=1), "cpu") as other, pytest.raises(StateMismatch, match="drew other episodes"):
        other.load_state_dict(state)


def test_a_finite_series_ends_and_kept_episodes_stay():
    one = series(length=7, transforms=(LOOK,))
    with resident(one, "cpu", block=3) as ours:
        made = list(ours)
    assert [len(item.class_ids) for item in made] == [3, 3, 1]
    for item, block in zip(made, episodes.Stream(one, block=3), strict=True):
        assert_same(item, to_torch(block))


def test_different_sizes_are_stacked_only_one_by_one():
    with resident(uneven(), "cpu", block=8) as ours:
        for _ in range(2):
            with pytest.raises(SpecError, match="episodes 0 to 7 are of different sizes"):
                next(ours)
            assert ours.state_dict()["next_index"] == 0
    assert_the_same_series(uneven(), "cpu", block=1)


def test_a_row_outside_the_split_is_told():
    class Straying(type(series().sampler)):
        def block(self, classes, spec, seed, indices):
            made = super().block(classes, spec, seed, indices)
            if 2 in indices:
                made.rows[0] = 10_000
            return made

    one = series()
    strays = replace(one, sampler=Straying())
    with resident(strays, "cpu") as ours:
        assert [next(ours).index for _ in range(2)] == [0, 1]
        with pytest.raises(WorkerFailed, match="episode 2 could not be made: StoreError: row 10000 is not among those"):
            next(ours)


def test_what_does_not_fit_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(_torch_resident, "_free_bytes", lambda device: 687)
    with pytest.raises(StreamError, match=r"the 43 rows of split 'world/train' take 688 bytes; cpu has 687 free"):
        resident(series(), "cpu")
    monkeypatch.setattr(_torch_resident, "_free_bytes", lambda device: 688)
    resident(series(), "cpu").close()


def test_what_cannot_run_on_a_device_is_refused():
    with pytest.raises(StreamError, match="`then` is Python and cannot run on a device"):
        resident(series(then=doubled), "cpu")
    with pytest.raises(StreamError, match="a MixedEpisodes has no rows of one store"):
        resident(MixedEpisodes(sources={"a": series()}), "cpu")
    with pytest.raises(StreamError, match="block=0 is out of range"):
        resident(series(), "cpu", block=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_memory_is_not_filled_while_a_busy_gpu_still_reads_it():
    one = series(transforms=(LOOK,), length=300)
    whole = [to_torch(item).query.fields["image"].sum(dtype=torch.float64) for item in episodes.Stream(one, block=3)]
    for make in (lambda: prefetch(one, "cuda", block=3, workers=1, ahead=3), lambda: resident(one, "cuda", block=3)):
        sums, heavy = [], torch.randn(2048, 2048, device="cuda")
        with make() as ours:
            for item in ours:
                heavy = heavy @ heavy / heavy.norm()  # the GPU falls behind the host
                sums.append(item.query.fields["image"].sum(dtype=torch.float64))
        assert torch.allclose(torch.stack(sums).cpu(), torch.stack(whole), rtol=1e-6, atol=1e-5)
