"""Series and streams: the right values, in the right order, whatever the ranks and restarts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import memory_store

import episodes
from episodes.errors import SpecError, StateMismatch, StoreError, StreamError
from episodes.protocols import FieldSpec
from episodes.store.memory import MemoryStore
from episodes.stream.mixture import MixedEpisodes
from episodes.transforms import quarter_turn

SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=2, unlabeled=1)


def series(**options):
    return episodes.sample(memory_store([6, 7, 8, 9, 6, 7]), "train", SPEC, **options)


def test_values_are_those_of_the_planned_rows():
    one = series()
    for i in range(20):
        episode, plan = one[i], one.plan(i)
        for part in (episode.support, episode.query, episode.unlabeled):
            image = part.fields["image"]
            assert (image[:, 0, 0, 0] == plan.class_ids[part.labels]).all(), "pixel (0, 0) tells the class"
            starts = one.classes.starts[plan.class_ids[part.labels]]
            assert (image[:, 0, 0, 1] == part.rows - starts).all(), "pixel (0, 1) tells the place in the class"


def test_turned_classes_are_turned_counter_clockwise():
    one = series(rotations=True)
    corner = {0: (0, 0), 1: (3, 0), 2: (3, 3), 3: (0, 3)}  # where the top left corner goes
    seen = set()
    for i in range(30):
        episode = one[i]
        for label, turn in enumerate(episode.variants.tolist()):
            for image in episode.query.fields["image"][episode.query.labels == label]:
                row, column = corner[turn]
                assert image[0, row, column] == episode.class_ids[label]
                assert (np.rot90(image, -turn, axes=(-2, -1))[0, 0, 2]) == 255
                seen.add(turn)
    assert seen == {0, 1, 2, 3}


def test_four_quarter_turns_are_none():
    images = np.arange(2 * 3 * 5 * 5, dtype=np.uint8).reshape(2, 3, 5, 5)
    turned = images.copy()
    for _ in range(4):
        quarter_turn(turned, np.array([1, 3]))
    assert (turned == images).all()


def test_fields_that_are_no_square_images_have_no_turns():
    store = MemoryStore({"vector": np.zeros((6, 3), np.float32)}, {"a": 3, "b": 3}, splits={"s": {"train": ["a", "b"]}})
    assert store.fields["vector"] == FieldSpec("float32", (3,))
    spec = episodes.EpisodeSpec(ways=2, shots=1, queries=1)
    with pytest.raises(SpecError, match=r"field 'vector' of shape \(3,\) is no square image"):
        episodes.sample(store, "train", spec, rotations=True)


@settings(max_examples=60, deadline=None)
@given(worlds=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), min_size=1, max_size=4))
def test_every_index_is_taken_once_whatever_the_ranks_between_restarts(worlds):
    one, state, taken = series(), None, []
    for world, rounds in worlds:
        ranks = [episodes.Stream(one, rank=r, world=world) for r in range(world)]
        for stream in ranks:
            if state is not None:
                stream.load_state_dict(state)
        for _ in range(rounds):
            taken += [next(stream).index for stream in ranks]
        state = ranks[0].state_dict()
    assert taken == list(range(len(taken)))


def test_resuming_after_every_episode_gives_the_uninterrupted_sequence():
    one = series(length=12)
    whole = [e.support.rows.tolist() for e in episodes.Stream(one)]
    resumed, state = [], episodes.Stream(one).state_dict()
    for _ in range(12):
        stream = episodes.Stream(one)
        stream.load_state_dict(state)
        resumed.append(next(stream).support.rows.tolist())
        state = stream.state_dict()
    assert resumed == whole
    assert len(whole) == 12


def test_ranks_share_a_finite_series_without_repeats():
    one = series(length=7)
    taken = [[e.index for e in episodes.Stream(one, rank=r, world=3)] for r in range(3)]
    assert taken == [[0, 3, 6], [1, 4], [2, 5]]


def test_states_at_the_end_of_a_series_go_on_where_it_goes_on():
    """Ranks that had fewer episodes in the last round say the same as the others."""
    states = []
    for r in range(3):
        stream = episodes.Stream(series(length=10), rank=r, world=3)
        assert [e.index for e in stream] == list(range(r, 10, 3))
        states.append(stream.state_dict())
    assert [state["next_index"] for state in states] == [10, 10, 10]
    taken = []
    for r, state in enumerate(states):
        stream = episodes.Stream(series(length=20), rank=r, world=3)
        stream.load_state_dict(state)
        taken += [e.index for e in stream]
    assert sorted(taken) == list(range(10, 20))


@pytest.mark.parametrize("index", [-3, 2.9, "abc", None, True])
def test_a_state_without_a_position_is_refused(index):
    stream = episodes.Stream(series(), start=4)
    state = stream.state_dict() | {"next_index": index}
    with pytest.raises(StateMismatch, match=f"next_index={index!r}; it must be a whole number of 0 or more"):
        stream.load_state_dict(state)
    with pytest.raises(StateMismatch, match="None is no state of a stream"):
        stream.load_state_dict(None)
    assert next(stream).index == 4


@pytest.mark.parametrize("length", [-1, 2.5, "3", True])
def test_a_length_that_is_none_is_refused(length):
    with pytest.raises(SpecError, match=f"length={length!r} is"):
        series(length=length)
    with pytest.raises(SpecError, match=f"length={length!r} is"):
        MixedEpisodes(sources={"one": series()}, length=length)


def test_numpys_whole_numbers_are_whole_numbers():
    stream = episodes.Stream(series(length=np.int64(9)), start=np.int64(3), rank=np.int64(1), world=np.int64(2))
    assert [e.index for e in stream] == [4, 6, 8]


def test_arrays_of_objects_are_refused():
    """Their values are addresses, which nothing would keep alive."""
    for values in (np.array([[1], [2, 3]], object), np.zeros(2, "datetime64[s]")):
        with pytest.raises(StoreError, match="field 'x' is of type .*; a store holds numbers, truth values and text"):
            MemoryStore({"x": values}, {"a": 1, "b": 1})


def test_state_of_other_data_is_refused_with_both_fingerprints():
    state = episodes.Stream(series()).state_dict()
    for other in (series(seed=1), series(rotations=True)):
        with pytest.raises(StateMismatch, match=str(state["fingerprint"])):
            episodes.Stream(other).load_state_dict(state)


def test_state_of_another_version_is_refused():
    stream = episodes.Stream(series())
    with pytest.raises(StateMismatch, match="version 9"):
        stream.load_state_dict({**stream.state_dict(), "version": 9})


@pytest.mark.parametrize(
    ("rank", "world", "words"),
    [
        (-1, 1, "rank=-1 is out of range"),
        (1, 1, "rank 1 of world 1: rank must be 0 to world - 1"),
        (0, 0, "world=0 is out of range; it must be a whole number of 1 or more"),
        (2, 2, "rank 2 of world 2"),
        (None, 2, "world=2 without rank: say which of the 2 this is"),
        (0.0, 2, "rank=0.0 is out of range; it must be a whole number"),
        ("0", 2, "rank='0' is out of range"),
        (0, np.zeros(2), "world=array"),
    ],
)
def test_ranks_out_of_range_are_refused(rank, world, words):
    with pytest.raises(StreamError, match=words):
        episodes.Stream(series(), rank=rank, world=world)


def test_indices_out_of_range_are_refused():
    with pytest.raises(StreamError, match="start=-1"):
        episodes.Stream(series(), start=-1)
    with pytest.raises(SpecError, match="index=-1"):
        series()[-1]
    with pytest.raises(SpecError, match="index 5 is beyond this series of 5"):
        series(length=5)[5]


def test_specs_are_checked_before_the_first_episode():
    with pytest.raises(SpecError, match="ways=7 needs 7 classes"):
        episodes.sample(memory_store([5] * 6), "train", episodes.EpisodeSpec(ways=7, shots=1, queries=1))
