"""Episodes as tensors of a framework: the same values in the same order, in the same memory where that can be."""

import pickle
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from worlds import memory_store

import episodes
from episodes.adapters._torch_bus import Bus
from episodes.adapters._torch_prefetch import _Sender
from episodes.adapters.pytorch import EpisodeDataset, prefetch, resident, to_torch
from episodes.episode import EpisodeBlock
from episodes.errors import SpecError, StateMismatch, StoreError, StreamError, WorkerFailed
from episodes.store.memory import MemoryStore
from episodes.stream.mixture import MixedEpisodes
from episodes.stream.series import SampledEpisodes
from episodes.stream.threads import Ahead
from episodes.transforms import Transform

SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=2, unlabeled=1)
LOOK = Transform(flip=True, rotate=20, contrast=0.3, mean=(0.4,), std=(0.2,))
FORKS = pytest.mark.filterwarnings("ignore:.*fork")  # told where other tests have started threads; here none is needed
GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))
DEVICES = ["cpu", GPU]


def series(*, transforms=(), then=None, spec=SPEC, **options):
    made = episodes.sample(memory_store([6, 7, 8, 9, 6, 7]), "train", spec, **options)
    return replace(made, transforms=transforms, then=then)


def flat(episode):
    """[(name, array)] of all that an episode holds, whatever the framework."""
    parts = {"support": episode.support, "query": episode.query, "unlabeled": episode.unlabeled}
    named = [("class_ids", episode.class_ids), ("variants", episode.variants)]
    named += [(f"class.{field}", values) for field, values in episode.class_fields.items()]
    for name, part in parts.items():
        if part is not None:
            named += [(f"{name}.labels", part.labels), (f"{name}.rows", part.rows)]
            named += [(f"{name}.{field}", values) for field, values in part.fields.items()]
    return named


def assert_same(one, two):
    assert one.index == two.index
    pairs = list(zip(flat(one), flat(two), strict=True))
    assert pairs
    for (name, a), (other, b) in pairs:
        a, b = a.cpu(), b.cpu()
        assert (name, a.dtype, a.shape) == (other, b.dtype, b.shape)
        assert torch.equal(a, b), name


def broken_at(*indices):
    """A series whose episodes of these indices cannot be made."""

    class Broken(SampledEpisodes):
        def block(self, wanted, arena):
            if set(wanted) & set(indices):
                raise StoreError("damaged")
            return super().block(wanted, arena)

    one = series()
    return Broken(store=one.store, classes=one.classes, spec=one.spec, sampler=one.sampler)


def uneven(**options):
    return series(spec=episodes.EpisodeSpec(ways="2..4", shots="1..3", queries=2), **options)


def test_tensors_on_the_cpu_share_the_memory_of_the_arrays():
    with episodes.Stream(series(), block=2) as stream:
        block = next(stream)
    for item, whole in ((block, block.stacked), (block[1], block[1])):
        for (_, tensor), (_, array) in zip(flat(to_torch(item)), flat(whole), strict=True):
            assert tensor.data_ptr() == array.ctypes.data
            assert tuple(tensor.shape) == (array.shape if item is block else (1, *array.shape))
            assert np.array_equal(tensor.numpy().reshape(array.shape), array)


def test_tensors_keep_the_memory_they_share():
    stream = episodes.Stream(series())
    kept = [to_torch(next(stream)) for _ in range(200)]
    for i, episode in enumerate(kept):
        assert_same(episode, to_torch(series()[i]))


def test_read_only_arrays_are_copied():
    episode = series()[0]
    image = episode.query.fields["image"]
    image.flags.writeable = False
    tensor = to_torch(episode).query.fields["image"]
    assert tensor.data_ptr() != image.ctypes.data
    assert np.array_equal(tensor[0], image)


def test_blocks_of_different_sizes_cannot_be_stacked():
    with episodes.Stream(uneven(), block=8) as stream, pytest.raises(SpecError, match="episodes 0 to 7 are of different"):
        to_torch(next(stream))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("transforms", [(), (LOOK,), (replace(LOOK, layout="hwc"),), (Transform(flip=True),)])
@pytest.mark.parametrize("block", [None, 3])
def test_prefetched_episodes_are_those_of_the_stream(device, transforms, block):
    one = series(transforms=transforms, rotations=True, length=10)
    whole = [to_torch(item) for item in episodes.Stream(one, block=block)]
    for workers, ahead in ((0, 0), (0, 2), (2, 3)):
        with prefetch(one, device, block=block, workers=workers, ahead=ahead) as ours:
            made = list(ours)  # kept: nothing of them is written again
        for a, b in zip(made, whole, strict=True):
            assert_same(a, b)
            assert a.query.fields["image"].device.type == device
    with prefetch(episodes.Stream(one, block=block), device) as ours:
        for a, b in zip(ours, whole, strict=True):
            assert_same(a, b)


def test_uint8_crosses_the_bus_and_is_normalised_on_the_device(monkeypatch):
    sent, deliver = [], Bus.deliver

    def noted(bus, arrays):
        sent.append([array.dtype for array in arrays if array.ndim == 5])
        return deliver(bus, arrays)

    monkeypatch.setattr(Bus, "deliver", noted)
    one = series(transforms=(LOOK,))
    with prefetch(one, "cpu", ahead=0) as ours:
        assert next(ours).query.fields["image"].dtype == torch.float32
    with prefetch(episodes.Stream(one), "cpu", ahead=0) as ours:
        next(ours)
    assert sent == [[np.uint8] * 3, [np.float32] * 3], "a stream is copied as it is"


def test_what_a_function_of_ones_own_makes_is_sent_as_it_is():
    one = series(transforms=(LOOK,), then=doubled)
    with prefetch(one, "cpu") as ours:
        for i in range(5):
            assert_same(next(ours), to_torch(one[i]))


def doubled(fields, generator):
    return {"image": fields["image"] * np.float32(2)}


def test_mixtures_are_prefetched_too():
    mixture = MixedEpisodes(sources={"a": series(), "b": series(seed=3)})
    with prefetch(mixture, "cpu") as ours:
        for i in range(8):
            assert_same(next(ours), to_torch(mixture[i]))


@pytest.mark.parametrize("block", [1, 4])
def test_blocks_of_a_mixture_are_stacked(block):
    mixture = MixedEpisodes(sources={"a": series(length=12), "b": series(seed=3, length=12)})
    stacked = [to_torch(one) for one in episodes.Stream(mixture, block=block)]
    assert [tuple(one.support.fields["image"].shape) for one in stacked] == [(block, 6, 1, 4, 4)] * (12 // block)
    for made in (prefetch(mixture, "cpu", block=block), EpisodeDataset(mixture, block=block)):
        for one, other in zip(made, stacked, strict=True):
            assert_same(one, other)


def test_host_memory_is_the_hosts_whatever_device_is_the_default():
    one = series(length=4)
    with torch.device("meta"):
        made = [*prefetch(one, "cpu"), *resident(one, "cpu")]
    for i, episode in enumerate(made):
        assert_same(episode, to_torch(one[i % 4]))


def test_ctrl_c_while_a_state_is_loaded_leaves_the_old_one_or_the_new_one(monkeypatch):
    drop, moments = Ahead.drop, iter([False, True])

    def impatient(ahead):
        if next(moments, False):
            raise KeyboardInterrupt
        drop(ahead)

    with prefetch(series(), "cpu", workers=2) as ours:
        assert [next(ours).index for _ in range(3)] == [0, 1, 2]
        state = ours.state_dict()
        monkeypatch.setattr(Ahead, "drop", impatient)
        ours.load_state_dict({**state, "next_index": 50})
        assert next(ours).index == 50
        with pytest.raises(KeyboardInterrupt):
            ours.load_state_dict({**state, "next_index": 100})
        place = ours.state_dict()["next_index"]
        assert place in (51, 100)
        assert [next(ours).index for _ in range(6)] == list(range(place, place + 6))


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_loader_tells_which_episode_could_not_be_made():
    loader = DataLoader(EpisodeDataset(broken_at(3)), batch_size=None, num_workers=1)
    with pytest.raises(StreamError, match="episode 3 could not be made: StoreError: damaged"):
        list(loader)


@settings(max_examples=40, deadline=None)
@given(
    takes=st.lists(st.integers(0, 5), min_size=1, max_size=5), ahead=st.integers(0, 4), block=st.sampled_from([None, 1, 2]),
    workers=st.sampled_from([0, 2]), world=st.sampled_from([1, 3]),
)  # fmt: skip
def test_state_counts_what_was_handed_on_and_moves_between_kinds_of_stream(takes, ahead, block, workers, world):
    one, state, taken = series(transforms=(LOOK,)), None, []
    for turn, count in enumerate(takes):
        plain = turn % 2
        options = {"block": block, "workers": workers, "rank": 0, "world": world}
        with episodes.Stream(one, **options) if plain else prefetch(one, "cpu", ahead=ahead, **options) as stream:
            if state is not None:
                stream.load_state_dict(state)
            taken += [to_torch(next(stream)) if plain else next(stream) for _ in range(count)]
            state = stream.state_dict()
    assert [episode.index for episode in taken] == list(range(0, len(taken) * world * (block or 1), world * (block or 1)))
    assert state["next_index"] == len(taken) * world * (block or 1)
    for episode in taken[-2:]:
        assert torch.equal(episode.query.rows[0], torch.from_numpy(one[episode.index].query.rows))


def test_going_back_drops_what_was_begun_ahead():
    one = series()
    with prefetch(one, "cpu", ahead=3) as ours:
        state = ours.state_dict()
        first = [next(ours).index for _ in range(5)]
        ours.load_state_dict(state)
        assert [next(ours).index for _ in range(5)] == first == list(range(5))
        with pytest.raises(StateMismatch, match="drew other episodes"):
            ours.load_state_dict({**state, "fingerprint": "other"})
        assert next(ours).index == 5


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_errors_come_when_it_is_their_turn_and_the_position_stays(ahead, workers):
    with prefetch(broken_at(3), "cpu", ahead=ahead, workers=workers) as ours:
        assert [next(ours).index for _ in range(3)] == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(WorkerFailed, match="episode 3 could not be made: StoreError: damaged") as caught:
                next(ours)
            assert caught.value.index == 3
            assert ours.state_dict()["next_index"] == 3
        ours.load_state_dict({**ours.state_dict(), "next_index": 4})
        assert next(ours).index == 4


def test_blocks_that_cannot_be_stacked_are_refused_in_their_turn():
    with prefetch(uneven(), "cpu", block=8) as ours:
        with pytest.raises(SpecError, match="episodes 0 to 7 are of different sizes"):
            next(ours)
        assert ours.state_dict()["next_index"] == 0


@pytest.mark.parametrize("when", range(6))
def test_an_interrupt_at_any_moment_loses_nothing(when, monkeypatch):
    deliver, calls = Bus.deliver, []

    def interrupted(bus, arrays):
        calls.append(1)
        if len(calls) == when + 1:
            raise KeyboardInterrupt
        return deliver(bus, arrays)

    monkeypatch.setattr(Bus, "deliver", interrupted)
    taken, indices = [], lambda: (taken.append(episode.index) for episode in ours)
    with prefetch(series(length=6), "cpu", ahead=2) as ours:
        with pytest.raises(KeyboardInterrupt):
            list(indices())
        list(indices())
    assert taken == list(range(6))


def test_what_is_impossible_is_refused():
    with pytest.raises(StreamError, match="ahead=-1 is out of range"):
        prefetch(series(), "cpu", ahead=-1)
    with pytest.raises(StreamError, match="block, workers: a stream has its own already"):
        prefetch(episodes.Stream(series()), "cpu", block=2, workers=1)
    with pytest.raises(StreamError, match="rank 2 of world 2"):
        prefetch(series(), "cpu", rank=2, world=2)
    stream = prefetch(series(), "cpu")
    stream.close()
    with pytest.raises(StreamError, match="closed"):
        next(stream)


class StandIn:
    """A stream and an event of a GPU that note what is asked of them."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def record(self, stream):
        self.log.append(f"{self.name} after {stream.name}")

    def synchronize(self):
        self.log.append(f"host waits for {self.name}")

    def wait_event(self, event):
        self.log.append(f"{self.name} waits for {event.name}")


def test_a_gpu_is_told_the_right_things_in_the_right_order(monkeypatch):
    log, count = [], iter(range(100))
    side, main = StandIn("side", log), StandIn("main", log)
    current = [main]

    @contextmanager
    def under(stream):
        current.append(stream)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "Event", lambda: StandIn(f"event {next(count)}", log))
    monkeypatch.setattr(torch.cuda, "stream", under)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: log.append(f"kept for {stream.name}"))
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, pin_memory=False, **options: empty(*args, **options))
    sender = _Sender(torch.device("cpu"), {"image": LOOK}, slots=1)
    sender._side, sender._bus._pinned = side, True
    one = series(transforms=(LOOK.pixels,))
    finish = sender.begin(one[0])
    assert log == ["event 0 after side", "event 1 after side"], "the copy; all of the item"
    log.clear()
    episode = finish()
    assert log == ["main waits for event 1"] + ["kept for main"] * 4, "what was copied, and three normalised fields"
    assert_same(episode, to_torch(series(transforms=(LOOK,))[0]))
    log.clear()
    sender.begin(one[1])
    assert log[0] == "host waits for event 0", "before the only piece of memory is written again"


def test_a_bus_never_writes_over_what_it_delivered():
    bus, rng = Bus(torch.device("cpu"), slots=2), np.random.default_rng(0)
    wanted, given = [], []
    for size in (3, 0, 700, 5, 64, 1):
        arrays = [rng.integers(0, 9, (size, 3)).astype(kind) for kind in ("uint8", "float64", "bool", "uint16", "int32")]
        wanted.append(arrays)
        given.append(bus.deliver(arrays))
    for arrays, tensors in zip(wanted, given, strict=True):
        for array, tensor in zip(arrays, tensors, strict=True):
            assert tensor.dtype == torch.from_numpy(array).dtype
            assert np.array_equal(tensor.numpy(), array)


@FORKS
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 2)])
@pytest.mark.parametrize("start", [5])
def test_a_loaders_workers_split_the_series_in_the_order_of_a_stream(workers, rank, world, start):
    one = series(length=23)
    dataset = EpisodeDataset(one, start=start, rank=rank, world=world)
    whole = [to_torch(item) for item in episodes.Stream(one, start=start, rank=rank, world=world)]
    made = list(DataLoader(dataset, batch_size=None, num_workers=workers))
    for a, b in zip(made, whole, strict=True):
        assert_same(a, b)


@FORKS
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loaders_blocks_hold_each_index_once(workers):
    one = series(length=23)
    loader = DataLoader(EpisodeDataset(one, block=3), batch_size=None, num_workers=workers)
    rows = [tuple(line.tolist()) for item in loader for line in item.query.rows]
    assert sorted(rows) == sorted(tuple(one[i].query.rows.tolist()) for i in range(23))
    if not workers:
        assert rows == [tuple(one[i].query.rows.tolist()) for i in range(23)]


@FORKS
@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_loader_of_processes_reads_a_store_on_disk(context, glyphs_store):
    spec = episodes.EpisodeSpec(ways=3, shots=1, queries=2)
    one = replace(episodes.sample(episodes.open(glyphs_store), "train", spec, length=9), transforms=(LOOK,))
    loader = DataLoader(EpisodeDataset(one), batch_size=None, num_workers=2, multiprocessing_context=context)
    made = list(loader)
    for i, episode in enumerate(made):
        assert_same(episode, to_torch(one[i]))
    assert len(made) == 9


def test_options_of_a_loader_are_refused_before_its_workers_start():
    with pytest.raises(StreamError, match="rank 3 of world 2"):
        EpisodeDataset(series(), rank=3, world=2)
    with pytest.raises(StreamError, match="block=0 is out of range"):
        EpisodeDataset(series(), block=0)


def test_a_pickled_store_is_its_path(glyphs_store, tmp_path, monkeypatch):
    monkeypatch.chdir(glyphs_store.parent)
    one = episodes.sample(episodes.open(glyphs_store.name), "train", episodes.EpisodeSpec(ways=2, shots=1, queries=1))
    data = pickle.dumps(one)
    assert len(data) < 200_000
    monkeypatch.chdir(tmp_path)
    assert_same(to_torch(pickle.loads(data)[7]), to_torch(one[7]))


def test_another_store_in_the_place_of_a_pickled_one_is_refused(glyphs_store, tmp_path):
    from episodes.ingest import ingest
    from episodes.readers import glyphs

    path = tmp_path / "moving.store"
    for drawings in (4, 5):
        options = glyphs.Options(alphabets=4, drawings=drawings)
        ingest(glyphs.make(None, options), path.with_suffix(f".{drawings}"), options=options)
    path.with_suffix(".4").rename(path)
    data = pickle.dumps(episodes.open(path))
    path.rename(tmp_path / "gone")
    path.with_suffix(".5").rename(path)
    with pytest.raises(StoreError, match="was replaced: its fingerprint is"):
        pickle.loads(data)


def test_store_types_are_kept_or_told():
    store = MemoryStore(
        {"a": np.arange(8, dtype=np.float16), "b": np.ones((8, 2), bool), "c": np.arange(8, dtype=np.uint16)},
        {"x": 4, "y": 4}, splits={"s": {"train": ["x", "y"]}},
    )  # fmt: skip
    one = episodes.sample(store, "train", episodes.EpisodeSpec(ways=2, shots=1, queries=1))
    with prefetch(one, "cpu") as ours:
        fields = next(ours).query.fields
    assert {name: values.dtype for name, values in fields.items()} == {
        "a": torch.float16, "b": torch.bool, "c": torch.uint16,
    }  # fmt: skip
    assert isinstance(next(iter(episodes.Stream(one, block=2))), EpisodeBlock)
