"""The ways to get samples that a benchmark compares: streams, kernels, and what people write by hand.

Every way keeps its memory and uses it again where it can choose to; none is given work that another is spared, but for
what the other way is about: the kernel, ``np.take`` and memcpy get their rows drawn beforehand.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

import numpy as np

from episodes.bench import Case, Message, Settings
from episodes.bench._loops import PLANS, Array, Consume, Sizes, as_is, numpy_loop, owners, row_lists
from episodes.classes import Int
from episodes.errors import ConfigError
from episodes.protocols import FieldSpec, Places, SampleStore
from episodes.store._gather import gather
from episodes.stream.series import SampledEpisodes
from episodes.stream.stream import Stream

_READ: Final = 4096  # rows a read
_PYTHON_S: Final = 50e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Cases, and what their figures mean."""

    cases: list[Case]
    field: str
    images: float
    """Rows of a usual episode."""
    row_bytes: int
    """Bytes of a row as the store has it."""
    notes: list[str]


def build(series: SampledEpisodes, settings: Settings, stack: ExitStack) -> Made:
    """Every way for this series; streams and workers end with `stack`."""
    store = series.store
    name = max(store.fields, key=lambda one: store.fields[one].row_bytes)
    field, notes = store.fields[name], []
    if len(store.fields) > 1:
        notes.append(f"streams give all {len(store.fields)} fields; the other ways give '{name}' alone")
    if series.transforms or series.then is not None:
        notes.append("streams transform images; the other ways give them as they are stored")
    array = _load(store, name, field, settings.memory_gb)
    num = PLANS if series.length is None else min(PLANS, series.length)
    plans = [series.plan(i) for i in range(num)]
    drawn = [np.concatenate([plan.support, plan.query, plan.unlabeled]) for plan in plans]
    sizes = Sizes.of(series)
    torch = find_spec("torch") is not None
    if settings.consumer == "compute" and not torch:
        raise ConfigError("consumer: 'compute' needs torch, which is not installed (pip install 'episodes[train]')")
    if not torch:
        notes.append("torch is not installed: no DataLoader, and the NumPy loop gives arrays")
    consume = _consumer(settings, field)
    loaders: list[Case] = []
    if torch:  # first, so that their processes are forked before there are threads
        from episodes.adapters import _torch_bench

        labels = owners(series.classes, store.num_rows)
        for workers in settings.workers:
            wanted = row_lists(series.classes, sizes)
            batches = stack.enter_context(_torch_bench.loader(array, labels, wanted, workers))
            run = _torch_bench.run(batches, consume)
            loaders.append(Case(name=f"DataLoader, {_workers(workers)}", role="loader", run=run))
    cases = [
        stream_case(series, name, block, workers, consume, stack)
        for block in (None, settings.block)
        for workers in settings.workers
    ]
    if consume is not None:
        cases.append(_alone(array[drawn[0]], consume))
    wrap = _torch_bench.from_numpy if torch else as_is
    blocks = [np.concatenate(drawn[i : i + settings.block]) for i in range(0, num, settings.block)]
    messages: list[tuple[Message, str, list[Int]]] = [("one", "1 episode", drawn)]
    messages.append(("block", f"{settings.block} episodes", blocks))
    for message, title, rows in messages:
        cases += kernel_cases(store, name, array, message, title, rows)
    cases.append(Case(name="NumPy loop", role="numpy", run=numpy_loop(array, series.classes, sizes, wrap, consume)))
    images = float(np.mean([len(rows) for rows in drawn]))
    return Made(cases=cases + loaders, field=name, images=images, row_bytes=field.row_bytes, notes=notes)


def _workers(num: int) -> str:
    return f"{num} worker{'' if num == 1 else 's'}"


def _load(store: SampleStore, name: str, field: FieldSpec, memory_gb: float) -> Array:
    """All rows of a field in memory, as the baselines have them."""
    size = store.num_rows * field.row_bytes / 1e9
    if size > memory_gb:
        raise ConfigError(
            f"memory_gb: baselines load field '{name}' into memory, which takes {size:,.1f} GB, more than "
            f"{memory_gb:g} GB; give --memory-gb {int(size) + 1} where there is as much"
        )
    array = np.empty((store.num_rows, *field.shape), field.dtype)
    for start in range(0, store.num_rows, _READ):
        part = array[start : start + _READ]
        store.read(np.arange(start, start + len(part)), {name: part})
    return array


def stream_case(
    series: SampledEpisodes, field: str, block: int | None, workers: int, consume: Consume | None, stack: ExitStack
) -> Case:
    """A stream of episodes, or of blocks; it begins again where a finite series ends, and closes with `stack`."""
    stream: Stream[Any] = stack.enter_context(Stream(series, block=block, workers=workers, rank=0, world=1))
    start = stream.state_dict()
    first = series.plan(0)
    fixed = len(first.support) + len(first.query) + len(first.unlabeled) if series.spec.fixed else None

    def item() -> Any:
        try:
            return next(stream)
        except StopIteration:  # a finite series begins again
            stream.load_state_dict(start)
            return next(stream)

    def one_by_one(calls: int) -> int:
        rows = 0
        for _ in range(calls):
            episode = item()
            parts = [part for part in (episode.support, episode.query, episode.unlabeled) if part]
            rows += sum(len(part.rows) for part in parts)
            if consume is not None:
                for part in parts:
                    consume(part.fields[field], 1 if part is episode.query else 0)
        return rows

    def fixed_and_dropped(calls: int) -> int:
        for _ in range(calls):
            item()
        return calls * (fixed or 0)

    def blocks(calls: int) -> int:
        rows = 0
        for _ in range(calls):
            episodes = item()
            begin, end = episodes.offsets[:3, 0].tolist(), episodes.offsets[:3, -1].tolist()
            rows += sum(end) - sum(begin)
            if consume is not None:
                for part in range(3):
                    images = episodes.fields[field][begin[part] : end[part]]
                    if len(images):
                        consume(images, len(episodes) if part == 1 else 0)
        return rows

    run = blocks if block else fixed_and_dropped if fixed and consume is None else one_by_one
    title = "one at a time" if block is None else f"blocks of {block}"
    return Case(name=f"stream, {title}, {_workers(workers)}", role="stream", run=run, message="block" if block else "one")


def _alone(images: Array, consume: Consume) -> Case:
    """What is left where data costs nothing."""

    def run(calls: int) -> int:
        for _ in range(calls):
            consume(images, 1)
        return calls * len(images)

    return Case(name="consumer alone", role="consumer", run=run)


def kernel_cases(store: SampleStore, name: str, array: Array, message: Message, title: str, drawn: list[Int]) -> list[Case]:
    """The bare gather from the store and from an array, ``np.take`` and memcpy, of the same rows into the same memory."""
    num, row_bytes, places = len(array), store.fields[name].row_bytes, store.places(name)
    out = np.zeros((max(map(len, drawn)), *array.shape[1:]), array.dtype)
    address, rows_in_turn = np.uint64(out.ctypes.data), itertools.cycle(drawn)
    # One row after the other, in as many places as there are: as far from the cache as the rows are.
    while len(array) < len(out):
        array = np.concatenate([array, array])
    starts = itertools.cycle(range(0, len(array) - len(out) + 1, len(out)))

    def gathering(where: Places) -> Callable[[int], int]:
        def run(calls: int) -> int:
            done = 0
            for rows in itertools.islice(rows_in_turn, calls):
                gather(where.addresses, where.rows_per_shard, num, row_bytes, rows, address)
                done += len(rows)
            return done

        return run

    def take(calls: int) -> int:
        done = 0
        for rows in itertools.islice(rows_in_turn, calls):
            np.take(array, rows, axis=0, out=out[: len(rows)], mode="clip")
            done += len(rows)
        return done

    def memcpy(calls: int) -> int:
        for start in itertools.islice(starts, calls):
            np.copyto(out, array[start : start + len(out)])
        return calls * len(out)

    memory = Places(np.array([array.ctypes.data], np.uint64), len(array))
    cases = [Case(name=f"kernel from an array, {title}", role="kernel", run=gathering(memory), message=message)]
    if places is not None:
        cases[0] = Case(name=f"kernel, {title}", role="kernel", run=gathering(places), message=message)
    cases.append(Case(name=f"np.take, {title}", role="take", run=take, message=message))
    cases.append(Case(name=f"memcpy, {title}", role="memcpy", run=memcpy, message=message))
    return cases


def _consumer(settings: Settings, field: FieldSpec) -> Consume | None:
    if settings.consumer == "null":
        return None
    if settings.consumer == "compute":
        from episodes.adapters import _torch_bench

        return _torch_bench.product(field)
    turns = max(1, round(_PYTHON_S / min(_turn_s() for _ in range(9))))
    return lambda images, episodes: _spin(turns * episodes)


def _turn_s() -> float:
    """Seconds of a turn; the least of some, for others may use the machine."""
    begin = time.perf_counter()
    _spin(20_000)
    return (time.perf_counter() - begin) / 20_000


def _spin(turns: int) -> None:
    for _ in range(turns):
        pass
