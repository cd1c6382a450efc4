"""Episodes of several stores: blocks of them, their fields, and training and evaluation on them."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import memory_store, telling_images

import episodes
from episodes.errors import SpecError
from episodes.protocols import FieldSpec
from episodes.store.memory import MemoryStore
from episodes.stream.buffers import Arena
from episodes.stream.mixture import MixedEpisodes
from episodes.transforms import Transform

SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=2, unlabeled=1)
STORES = {name: memory_store([20] * n) for name, n in (("one", 6), ("two", 8), ("three", 5))}


def mixture(spec=SPEC, stores=STORES, length=None, own=None, **options):
    series = {name: episodes.sample(store, "train", spec, seed=7, **options) for name, store in stores.items()}
    return MixedEpisodes(sources=series | (own or {}), seed=1, length=length)


def store_of(size=4, **more):
    """A store of one class whose images are of this size, with more fields."""
    fields = {"image": telling_images([20, 20, 20], size), **{name: np.full(60, value) for name, value in more.items()}}
    names = ("a", "b", "c")
    return MemoryStore(fields, dict.fromkeys(names, 20), splits={"world": {"train": list(names)}})


def same(one, two):
    for name in ("support", "query", "unlabeled"):
        a, b = getattr(one, name), getattr(two, name)
        assert (a.rows == b.rows).all()
        assert (a.labels == b.labels).all()
        assert all((a.fields[field] == b.fields[field]).all() for field in b.fields)
    assert one.index == two.index
    assert (one.class_ids == two.class_ids).all()


@settings(max_examples=30, deadline=None)
@given(indices=st.lists(st.integers(0, 10_000), min_size=1, max_size=20), flip=st.booleans())
def test_episodes_of_a_block_are_those_of_their_sources_in_order(indices, flip):
    mixed = mixture(transforms=(Transform(flip=flip, crop_padding=2),))
    block = mixed.block(indices, Arena())
    assert [one.index for one in block] == list(block.indices) == indices
    for index, one in zip(indices, block, strict=True):
        same(one, mixed.sources[mixed.source(index)][index])
        same(one, mixed[index])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 3])
def test_streams_of_a_mixture_have_every_index_in_order(workers, world):
    mixed, taken = mixture(length=50), {}
    for rank in range(world):
        with episodes.Stream(mixed, rank=rank, world=world, workers=workers) as stream:
            taken |= {one.index: one.query.rows.tolist() for one in stream}
    assert sorted(taken) == list(range(50))
    assert all(taken[i] == mixed[i].query.rows.tolist() for i in range(50))


def test_blocks_of_a_stream_stack_episodes_of_several_sources():
    mixed = mixture(length=10)
    with episodes.Stream(mixed, block=4) as stream:
        blocks = list(stream)
    assert [list(block.indices) for block in blocks] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len({mixed.source(i) for i in range(4)}) > 1
    for block in blocks:
        assert block.even
        stacked = block.stacked
        assert stacked.support.fields["image"].shape == (len(block), 6, 1, 4, 4)
        for b, one in enumerate(block):
            for part, whole in ((one.support, stacked.support), (one.unlabeled, stacked.unlabeled)):
                assert (whole.fields["image"][b] == part.fields["image"]).all()
                assert (whole.labels[b] == part.labels).all()
    alone = MixedEpisodes(sources={"one": mixed.sources["one"]}).block([3, 4], Arena())
    assert np.shares_memory(alone.stacked.query.fields["image"], alone.parts[0].fields["image"]), "of one source: no copy"


def test_episodes_of_different_sizes_are_not_stacked():
    uneven = mixture(episodes.EpisodeSpec(ways="2..5", shots=1, queries=1)).block(list(range(12)), Arena())
    assert not uneven.even
    with pytest.raises(SpecError, match="episodes 0 to 11 are of different sizes"):
        uneven.stacked  # noqa: B018


def test_memory_of_a_mixture_is_filled_again():
    with episodes.Stream(mixture(), block=8) as stream:
        places = {next(stream).parts[0].fields["image"].ctypes.data // 2**16 for _ in range(60)}
    assert len(places) < 20


def test_fields_that_differ_are_refused_with_both_shapes():
    words = (
        r"field 'image' is uint8 of shape \(1, 4, 4\) in source 'small' and uint8 of shape \(1, 8, 8\) in source 'large'"
    )
    with pytest.raises(SpecError, match=words):
        mixture(stores={"small": store_of(4), "large": store_of(8)})
    normalised = episodes.sample(store_of(4), "train", SPEC, transforms=(Transform(mean=(0.5,)),))
    with pytest.raises(SpecError, match="uint8 .* in source 'plain' and float32 .* in source 'normalised'"):
        mixture(stores={"plain": store_of(4)}, own={"normalised": normalised})
    bare = MemoryStore({"x": np.zeros((60, 2))}, dict.fromkeys("abc", 20), splits={"world": {"train": ["a", "b", "c"]}})
    with pytest.raises(SpecError, match="share no field: 'one' has image, 'two' has x"):
        mixture(stores={"one": store_of(), "two": bare})


def test_fields_that_some_sources_lack_are_left_out():
    mixed = mixture(stores={"with": store_of(drawer=3), "without": store_of()})
    assert mixed.fields == {"image": FieldSpec("uint8", (1, 4, 4))}
    assert {tuple(mixed[i].query.fields) for i in range(20)} == {("image",)}
    every = mixture(stores={"with": store_of(drawer=3), "too": store_of(drawer=4)})
    assert set(every.fields) == {"image", "drawer"}
    for i in range(10):
        assert set(every[i].query.fields["drawer"].tolist()) == {3 if every.source(i) == "with" else 4}


def test_a_mixture_ends_with_the_shortest_source_that_is_drawn_from():
    long = episodes.sample(STORES["one"], "train", SPEC, length=30)
    short = episodes.sample(STORES["two"], "train", SPEC, length=10)
    assert MixedEpisodes(sources={"long": long, "short": short}).length == 10
    assert MixedEpisodes(sources={"long": long, "short": short}, length=7).length == 7
    assert MixedEpisodes(sources={"long": long, "short": short}, weights={"long": 1}).length == 30
    assert mixture().length is None


def test_values_of_functions_of_ones_own_pass_as_they_are():
    def half(fields, generator):
        return {"half": fields["image"][:, :, :2, :2]}

    mixed = mixture(then=half)
    assert mixed[0].query.fields["half"].shape == (6, 1, 2, 2)
    assert mixed.block([0, 1, 2], Arena()).stacked.query.fields["half"].shape == (3, 6, 1, 2, 2)


def test_sources_whose_functions_make_other_fields_cannot_be_stacked():
    def renamed(fields, generator):
        return {"picture": fields["image"]}

    other = episodes.sample(STORES["one"], "train", SPEC, then=renamed)
    block = mixture(own={"other": other}).block(list(range(12)), Arena())
    assert {tuple(one.query.fields) for one in block} == {("image",), ("picture",)}
    with pytest.raises(SpecError, match="fields differ in name, type or shape cannot be stacked"):
        block.stacked  # noqa: B018


def test_a_source_whose_episodes_have_many_sizes_is_mixed_too():
    def cut(fields, generator):
        index = int(generator.bit_generator.state["state"]["counter"][3])
        return {"image": fields["image"][..., : 1 + index % 3]}

    mixed = mixture(own={"own": episodes.sample(STORES["one"], "train", SPEC, then=cut)})
    for one in mixed.block(list(range(40)), Arena()):
        same(one, mixed[one.index])
        assert one.query.fields["image"].shape == mixed[one.index].query.fields["image"].shape
    assert len({one.query.fields["image"].shape for one in mixed.block(list(range(40)), Arena())}) == 4


@pytest.mark.parametrize("weight", ["x", None, np.nan, -1, 0, np.inf])
def test_weights_that_are_none_are_refused(weight):
    with pytest.raises(SpecError, match="weights=.*: give numbers of 0 or more, one of them above 0"):
        MixedEpisodes(sources=mixture().sources, weights={"one": weight})


def test_equal_weights_are_equal_however_they_are_written():
    sources = mixture().sources
    ways = ({}, dict.fromkeys(sources, 1), dict.fromkeys(sources, np.float64(0.25)), dict.fromkeys(sources, 1e308))
    mixed = [MixedEpisodes(sources=sources, weights=weights) for weights in ways]
    assert len({one.fingerprint for one in mixed}) == 1
    assert len({tuple(map(one.source, range(50))) for one in mixed}) == 1
    assert mixed[0].fingerprint != MixedEpisodes(sources=sources, weights={"one": 2, "two": 1, "three": 1}).fingerprint


def test_the_fingerprint_is_that_of_the_episodes():
    one, two = mixture(), mixture(transforms=(Transform(flip=True),))
    assert one.fingerprint == mixture().fingerprint != two.fingerprint
    indices = [e.index for e in itertools.islice(episodes.Stream(two, start=5), 3)]
    assert indices == [5, 6, 7]
    assert json.dumps(episodes.Stream(two).state_dict())
