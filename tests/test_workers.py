"""Streams with threads and blocks: the same episodes in the same order, memory nobody loses, errors in their turn."""

import contextlib
import dataclasses
import operator
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from worlds import memory_store

import episodes
from episodes.errors import SpecError, StoreCorrupt, StreamError, WorkerFailed
from episodes.stream.buffers import Arena, Arenas
from episodes.stream.stream import Stream
from episodes.stream.threads import Ahead
from episodes.transforms import Transform

SPECS = {
    "fixed": episodes.EpisodeSpec(ways=3, shots=1, queries=2),
    "hidden": episodes.EpisodeSpec(ways=2, shots=2, queries=1, unlabeled=2, distractors=1),
    "variable": episodes.EpisodeSpec(ways="2..4", shots="1..3 per class", queries=2),
}


def series(spec="fixed", **options):
    return episodes.sample(memory_store([8, 9, 8, 7, 9, 8]), "train", SPECS[spec], **options)


def flipped(spec="fixed", **options):
    return dataclasses.replace(series(spec, **options), transforms=(Transform(flip=True, crop_padding=1, contrast=0.5),))


def values(episode):
    parts = [p for p in (episode.support, episode.query, episode.unlabeled) if p is not None]
    arrays = [a for p in parts for a in (*p.fields.values(), p.labels, p.rows)]
    return episode.index, [a.tolist() for a in (episode.class_ids, episode.variants, *arrays)]


KINDS = {"plain": series, "transformed": flipped, "turned": lambda spec, **o: flipped(spec, rotations=True, **o)}


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(list(KINDS)), spec=st.sampled_from(list(SPECS)), block=st.sampled_from([None, 1, 3, 16, 100]),
    workers=st.integers(0, 3), ahead=st.sampled_from([None, 1, 5]), start=st.integers(0, 9), world=st.integers(1, 3),
    length=st.integers(1, 90),
)  # fmt: skip
def test_the_same_episodes_whatever_makes_them(kind, spec, block, workers, ahead, start, world, length):
    one = KINDS[kind](spec, seed=7, length=length)
    for rank in range(world):
        wanted = [values(one[i]) for i in range(start + rank, length, world)]
        options = {"block": block, "workers": workers, "ahead": ahead, "start": start, "rank": rank, "world": world}
        with Stream(one, **options) as stream:
            if block is None:
                assert [values(episode) for episode in stream] == wanted
            else:
                blocks = list(stream)
                assert [values(episode) for b in blocks for episode in b] == wanted
                assert all(len(b) == block for b in blocks[:-1])


def test_policies_that_draw_no_blocks_stream_alike():
    groups = {"distance": "groups"}
    one = episodes.sample(memory_store([8] * 6), "train", SPECS["fixed"], sampler="tempered", options=groups)
    assert not hasattr(one.sampler, "block")
    with Stream(one, workers=2) as stream:
        assert [values(next(stream)) for _ in range(70)] == [values(one[i]) for i in range(70)]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_consumer_keeps_is_never_written_again(workers):
    one = series("hidden")
    with Stream(one, workers=workers) as stream:
        kept = [next(stream) for _ in range(500)]
    assert [values(episode) for episode in kept] == [values(one[i]) for i in range(500)]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_consumer_keeps_of_an_episode_is_enough(workers):
    one = series()
    with Stream(one, workers=workers) as stream:
        labels = [next(stream).query.fields["image"][1:, 0, 0] for _ in range(500)]
    assert all((got == one[i].query.fields["image"][1:, 0, 0]).all() for i, got in enumerate(labels))


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_that_is_dropped_is_filled_again(workers):
    seen = set()
    with Stream(series(), block=16, workers=workers) as stream:
        for _ in range(400):
            image = next(stream).fields["image"]
            seen.add(image.ctypes.data)
            del image
    assert len(seen) <= max(1, 2 * workers) + 3 + 1, "as many buffers as may be in the making, waiting or held"


def test_a_tensor_keeps_its_memory_as_an_array_does():
    torch = pytest.importorskip("torch")
    one = series()
    with Stream(one) as stream:
        tensors = [torch.from_numpy(next(stream).query.fields["image"]) for _ in range(300)]
    assert all((t.numpy() == one[i].query.fields["image"]).all() for i, t in enumerate(tensors))


@pytest.mark.parametrize("large", [0, 2**40])  # all of the system, and none
def test_what_is_kept_of_either_kind_of_memory_is_never_written_again(large, monkeypatch):
    monkeypatch.setattr("episodes.stream.buffers._LARGE", large)
    one, kept = series(), []
    with Stream(one, workers=1, block=8) as stream:
        for turn in range(40):
            block = next(stream)
            if turn % 3 == 0:
                kept.append((block[3].support.fields["image"][1:], block.indices[3]))
            del block
    for image, index in kept:
        assert np.array_equal(image, one[index].support.fields["image"][1:])


def test_arrays_of_an_arena_are_aligned_apart_and_keep_it_busy():
    arena = Arena()
    arena.reserve([10, 100])
    assert arena.idle
    one, two = arena.array((10,), "uint8"), arena.array((5, 5), "float32")
    assert not arena.idle
    assert one.ctypes.data % 64 == two.ctypes.data % 64 == 0
    one[:], two[:] = 1, 2.0
    assert (one == 1).all()
    del one
    part = two[1:, 0]
    del two
    assert not arena.idle, "a view of a view is a reference, too"
    del part
    assert arena.idle


def test_arenas_beyond_those_kept_are_given_and_forgotten():
    arenas = Arenas(keep=2)
    held = []
    for _ in range(5):
        arena = arenas.take()
        held.append(arena.array((8,), "uint8"))
        arenas.give_back(arena)
    assert len({a.ctypes.data for a in held}) == 5
    first = held[0].ctypes.data
    held.clear()
    arena = arenas.take()
    assert arena.array((8,), "uint8").ctypes.data == first


class Failing:
    """A store whose rows of one class cannot be read, `times` times; then they can."""

    def __init__(self, store, wrong, times=10**9):
        self._store, self._wrong, self.times = store, wrong, times
        self.fields, self.fingerprint, self.num_rows = store.fields, store.fingerprint, store.num_rows
        self.split, self.class_fields = store.split, store.class_fields

    def places(self, name):
        return None

    def read(self, rows, out=None):
        if self._wrong in rows and self.times > 0:
            self.times -= 1
            raise StoreCorrupt(f"row {self._wrong} is damaged")
        return self._store.read(rows, out)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("block", [None, 8])
def test_an_error_arrives_in_its_turn_and_keeps_the_place(workers, block):
    sound = series()
    first = next(i for i in range(10**6) if 3 in np.concatenate([sound.plan(i).support, sound.plan(i).query]) and i > 20)
    broken = dataclasses.replace(sound, store=Failing(sound.store, 3), length=first + 1)
    before = [i for i in range(first) if 3 in np.concatenate([sound.plan(i).support, sound.plan(i).query])]
    start = before[-1] + 1 if before else 0
    with Stream(broken, start=start, workers=workers, block=block) as stream:
        got = []
        for _ in range(3):  # it is told again each time that it is asked for
            with pytest.raises(WorkerFailed, match=f"episode {first} could not be made: StoreCorrupt: row 3 is") as failure:
                got.extend(stream) if block is None else got.extend(e for items in stream for e in items)
            assert failure.value.index == first
            assert isinstance(failure.value.__cause__, StoreCorrupt)
            assert failure.value.__cause__.__traceback__ is not None
            assert stream.state_dict()["next_index"] == first
    assert [values(e) for e in got] == [values(sound[i]) for i in range(start, first)]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_that_passes_loses_nothing(workers):
    sound = series(length=200)
    broken = dataclasses.replace(sound, store=Failing(sound.store, 3, times=5))
    got, failures = [], 0
    with Stream(broken, workers=workers) as stream:
        while len(got) < 200:
            try:
                got.append(next(stream))
            except WorkerFailed:  # noqa: PERF203
                failures += 1
        with pytest.raises(StopIteration):
            next(stream)
    assert failures > 0
    assert [values(e) for e in got] == [values(sound[i]) for i in range(200)]


class Flaky(Failing):
    """A store some of whose reads fail, by their number."""

    def __init__(self, store, calls):
        super().__init__(store, None)
        self._calls, self._number = calls, 0

    def read(self, rows, out=None):
        self._number += 1
        if self._number in self._calls:
            raise StoreCorrupt("a cable was pulled")
        return self._store.read(rows, out)


@settings(deadline=None)
@given(calls=st.sets(st.integers(1, 40)), block=st.sampled_from([None, 1, 3, 16]))
@example(calls={1, 5, 6}, block=16)  # a block, its fourth episode, and the block of the three before it
def test_whatever_read_fails_is_told_in_its_turn_and_nothing_is_lost(calls, block):
    sound = series(length=30)
    broken = dataclasses.replace(sound, store=Flaky(sound.store, calls))
    got = []
    with Stream(broken, block=block, workers=0) as stream:
        while len(got) < 30:
            told = None
            try:
                items = next(stream)
            except WorkerFailed as failure:
                items, told = [], failure.index
            assert told in (None, len(got))
            got.extend(items if isinstance(items, Sequence) else [items])
    assert [values(e) for e in got] == [values(sound[i]) for i in range(30)]


class Interrupting:
    """Items by index; the k-th call is met by Ctrl-C."""

    fingerprint, length = "interrupting", None

    def __init__(self, moments):
        self.moments, self.calls = set(moments), 0

    def __getitem__(self, index):
        self.calls += 1
        if self.calls in self.moments:
            raise KeyboardInterrupt
        return index


def test_after_an_interruption_the_next_item_is_the_next_item():
    stream, got = Stream(Interrupting({3, 4, 9})), []
    while len(got) < 12:
        try:
            got.append(next(stream))
        except KeyboardInterrupt:  # noqa: PERF203
            assert stream.state_dict()["next_index"] == len(got)
    assert got == list(range(12))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_second_ctrl_c_while_the_first_is_dealt_with_loses_nothing(workers, monkeypatch):
    drop, moments = Ahead.drop, iter([True, False, True, True, False, True])

    def impatient(ahead):
        if next(moments, False):
            raise KeyboardInterrupt
        drop(ahead)

    stream, got = Stream(Interrupting({3, 7, 30}), workers=workers), []
    monkeypatch.setattr(Ahead, "drop", impatient)
    for _ in range(40):
        with contextlib.suppress(KeyboardInterrupt):
            got.append(next(stream))
        assert stream.state_dict()["next_index"] == len(got)
    assert got == list(range(len(got)))
    assert len(got) > 30
    moments = iter([True])
    with pytest.raises(KeyboardInterrupt):
        stream.load_state_dict({**stream.state_dict(), "next_index": 100})
    assert stream.state_dict()["next_index"] == 100
    assert [next(stream) for _ in range(3)] == [100, 101, 102]
    stream.close()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such signals on this system")
@pytest.mark.parametrize("options", [{}, {"block": 1}, {"workers": 1}], ids=str)
def test_ctrl_c_at_any_instruction_loses_nothing(options):
    """Consumed in C, so that it can only come within the stream's own Python."""

    def interrupt(*_):
        raise KeyboardInterrupt

    indices = operator.attrgetter("indices" if options.get("block") else "index")
    before, rng, got, interrupts = signal.signal(signal.SIGALRM, interrupt), random.Random(0), [], 0
    with Stream(series(), **options) as stream:
        next(stream)
        try:
            while interrupts < 300:
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0002, 0.004))
                    got.extend(map(indices, stream))
                except KeyboardInterrupt:  # noqa: PERF203
                    interrupts += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    flat = [i for one in got for i in one] if options.get("block") else got
    assert flat == list(range(1, len(flat) + 1))


FORKED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_workers import Stream, series, values
one = series()
stream = Stream(one, workers=2)
next(stream)
child = os.fork()
signal.alarm(120)
right = [values(next(stream)) for _ in range(600)] == [values(one[i]) for i in range(1, 601)]
if child:
    right = right and os.waitpid(child, 0)[1] == 0
os._exit(0 if right else 5)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_stream_with_workers_goes_on_in_a_forked_process():
    script = FORKED.format(tests=str(Path(__file__).parent))
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=False).returncode == 0


ENDLESS = """
import sys, threading
sys.path.insert(0, {tests!r})
from test_workers import Stream, series
try:
    with Stream(series(), workers=2) as stream:
        print("begun", flush=True)
        for episode in stream:
            pass
except KeyboardInterrupt:
    print(sorted(t.name for t in threading.enumerate()), stream._closed, flush=True)
    sys.exit(3)
"""


def test_ctrl_c_ends_a_stream_and_its_threads(tmp_path):
    script = tmp_path / "endless.py"
    script.write_text(textwrap.dedent(ENDLESS).format(tests=str(__import__("pathlib").Path(__file__).parent)))
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(1.0)  # any moment will do
    process.send_signal(signal.SIGINT)
    try:
        out, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 3
    assert out == "['MainThread'] True\n"


def test_a_closed_stream_leaves_no_thread_and_says_so():
    before = set(threading.enumerate())
    stream = Stream(series(), workers=3)
    first = next(stream)
    assert set(threading.enumerate()) - before
    stream.close()
    stream.close()
    assert set(threading.enumerate()) <= before  # earlier tests' may end meanwhile
    with pytest.raises(StreamError, match="the stream is closed"):
        next(stream)
    assert values(first) == values(series()[0]), "what was delivered stays"


def test_a_stream_that_is_forgotten_ends_its_threads():
    before = set(threading.enumerate())
    stream = Stream(series(), workers=2)
    next(stream)
    del stream
    for _ in range(6000):
        if set(threading.enumerate()) <= before:
            return
        time.sleep(0.05)
    raise AssertionError(f"threads left: {set(threading.enumerate()) - before}")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([None, 4]), st.integers(0, 40)), min_size=1, max_size=6))
def test_saving_and_going_on_with_other_workers_and_blocks_loses_nothing(legs):
    one, state, got = series("variable"), None, []
    for workers, block, count in legs:
        with Stream(one, workers=workers, block=block) as stream:
            if state is not None:
                stream.load_state_dict(state)
            for _ in range(count):
                item = next(stream)
                got += [item.index] if block is None else list(item.indices)
            state = stream.state_dict()
    assert got == list(range(len(got)))


def test_a_stream_can_be_set_back():
    with Stream(series(), workers=2) as stream:
        state = stream.state_dict()
        first = [next(stream).index for _ in range(50)]
        stream.load_state_dict(state)
        assert [next(stream).index for _ in range(50)] == first


def test_a_block_stacks_what_is_even_and_names_what_is_not():
    one = flipped("hidden", rotations=True)
    with Stream(one, block=8) as stream:
        next(stream)
        block = next(stream)
    stacked = block.stacked
    assert stacked.index == 8
    for b, episode in enumerate(block):
        for part in ("support", "query", "unlabeled"):
            whole, single = getattr(stacked, part), getattr(episode, part)
            assert (whole.fields["image"][b] == single.fields["image"]).all()
            assert np.shares_memory(whole.fields["image"], single.fields["image"])
            assert (whole.labels[b] == single.labels).all()
            assert (whole.rows[b] == single.rows).all()
        assert (stacked.class_ids[b] == episode.class_ids).all()
        assert (stacked.variants[b] == episode.variants).all()
    cut = block[3:6]
    assert list(cut.indices) == [11, 12, 13]
    assert values(cut[-1]) == values(block[5])
    assert (cut.stacked.query.fields["image"] == stacked.query.fields["image"][3:6]).all()
    assert [e.index for e in block[6:100]] == [14, 15]
    assert len(block[5:2]) == 0
    with pytest.raises(IndexError, match="8 episodes has no place 8"):
        block[8]
    with pytest.raises(IndexError, match="step of 2"):
        block[::2]
    with Stream(series("variable"), block=20) as stream, pytest.raises(SpecError, match="0 to 19 are of different sizes"):
        _ = next(stream).stacked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers=-1 is out of range; it must be a whole number of 0 or more"),
        ({"workers": 1.5}, "workers=1.5"),
        ({"workers": True}, "workers=True"),
        ({"block": 0}, "block=0 is out of range; it must be a whole number of 1 or more"),
        ({"ahead": 0}, "ahead=0"),
        ({"start": -1}, "start=-1"),
        ({"rank": 2, "world": 2}, "rank 2 of world 2"),
        ({"rank": 1}, "rank 1 of world 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(StreamError, match=message):
        Stream(series(), **options)


def test_blocks_of_a_series_that_makes_none_are_refused():
    with pytest.raises(StreamError, match="block=4: Interrupting makes items one by one; leave block out"):
        Stream(Interrupting(()), block=4)


def noisy(fields, generator):
    image = fields["image"].astype(np.float32)
    return {"image": image + generator.random(image.shape, np.float32)}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_function_of_ones_own_is_keyed_by_episode_and_part(workers):
    one = dataclasses.replace(flipped("hidden"), then=noisy)
    with Stream(one, workers=workers, block=7) as stream:
        got = [values(episode) for _ in range(4) for episode in next(stream)]
    assert got == [values(one[i]) for i in range(28)]
    assert one[0].support.fields["image"].dtype == np.float32
    other = dataclasses.replace(one, seed=1)
    assert one.fingerprint != other.fingerprint != dataclasses.replace(one, then=None).fingerprint


def moody(fields, generator):
    """Of another type in some episodes, of another size in others."""
    index, image = int(generator.bit_generator.state["state"]["counter"][3]), fields["image"]
    return {"image": (image.astype(np.int64) + 2**53 + 1, image[:, :, :2], image, image)[index // 3 % 4]}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("block", [None, 2, 7])
def test_an_episode_does_not_depend_on_those_it_is_made_with(workers, block):
    one = dataclasses.replace(series("hidden", length=50), then=moody)
    wanted = [one[i] for i in range(50)]
    images = [episode.query.fields["image"] for episode in wanted]
    assert len({(image.dtype, image.shape) for image in images}) == 3
    with Stream(one, workers=workers, block=block) as stream:
        got = list(stream)
    flat = got if block is None else [episode for items in got for episode in items]
    assert [values(episode) for episode in flat] == list(map(values, wanted))
    assert [episode.query.fields["image"].dtype for episode in flat] == [image.dtype for image in images]
    if block == 7:
        with pytest.raises(SpecError, match="fields differ in name, type or shape cannot be stacked"):
            got[0].stacked  # noqa: B018


def test_functions_that_cannot_be_used_are_refused():
    with pytest.raises(SpecError, match=r"has no name that tells it from others; give it an attribute `fingerprint`"):
        dataclasses.replace(series(), then=__import__("functools").partial(noisy))
    short = dataclasses.replace(series(), then=lambda fields, generator: {"image": fields["image"][1:]})
    with pytest.raises(SpecError, match=r"episode 4: .*lambda.* made 2 rows of field 'image' out of 3; give as many back"):
        short[4]

    def more(fields, generator):
        return fields if len(fields["image"]) == 3 else {**fields, "heat": np.zeros(len(fields["image"]))}

    words = (
        r"made 'image' uint8 \(1, 4, 4\), 'heat' float64 \(\) of a part and 'image' .* of another; give every part the same"
    )
    with pytest.raises(SpecError, match=words):
        dataclasses.replace(series(), then=more)[0]


def test_transforms_are_checked_against_the_store():
    one = series()
    with pytest.raises(SpecError, match="transform of field 'images': did you mean 'image'"):
        dataclasses.replace(one, transforms=(Transform(field="images"),))
    with pytest.raises(SpecError, match="transforms: give one a field, got image, image"):
        dataclasses.replace(one, transforms=(Transform(), Transform(flip=True)))
    with pytest.raises(SpecError, match="mean has 3 numbers"):
        dataclasses.replace(one, transforms=(Transform(mean=(0.1, 0.2, 0.3)),))
    assert one.fingerprint != flipped().fingerprint
    assert dataclasses.replace(one, transforms=(Transform(std=(0.5,)),)).fields["image"].dtype == "float32"
