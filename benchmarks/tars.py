"""Targets of episode shards: tar files of whole episodes, against webdataset's writer and reader, in the page cache."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from delivery import FIXED, PHOTO, Rows, Run

import episodes
from episodes.bench import Case
from episodes.shards.compile import compile_shards
from episodes.shards.read import EpisodeShards
from episodes.stream.stream import Stream

COUNT = 48  # episodes: about 80 MB, one shard


def tars(run: Run) -> Rows:
    """One .npy an episode and field, 84 x 84 x 3."""
    if find_spec("webdataset") is None:
        run.notes.append("webdataset is not installed: nothing to compare episode shards with")
        return []
    series, size = episodes.sample(run.store(PHOTO, 64, 150), "train", FIXED), 1 << 30
    folder, other = run.folder / "tars", run.folder / "other.tar"
    compile_shards(series, folder, COUNT, shard_bytes=size)
    (tar,) = folder.glob("*.tar")
    numbers = itertools.count()

    def write(_: int) -> None:
        out = run.folder / f"written-{next(numbers)}"
        compile_shards(series, out, COUNT, shard_bytes=size)
        shutil.rmtree(out)

    def write_other(_: int) -> None:
        import webdataset

        with webdataset.TarWriter(str(other)) as sink, Stream(series) as stream:
            for episode in itertools.islice(stream, COUNT):
                values = {
                    f"{n}.npy": p.fields["image"] for n, p in (("support", episode.support), ("query", episode.query))
                }
                labels = {f"{n}.npy": p.labels for n, p in (("support_y", episode.support), ("query_y", episode.query))}
                sink.write({"__key__": f"{episode.index:08d}", **values, **labels})

    shards = EpisodeShards(folder)

    def read(_: int) -> None:
        with Stream(shards) as stream:
            for episode in stream:
                _ = episode.query.fields["image"]

    def read_other(_: int) -> None:
        import webdataset

        for _ in webdataset.WebDataset(str(tar), shardshuffle=False).decode():
            pass

    writing = run.measure([_case("ours", write), _case("webdataset", write_other)])
    reading = run.measure([_case("ours", read), _case("webdataset", read_other)])
    raw = COUNT * series.episode_bytes
    return [
        ("84x84x3, writing episode shards, to webdataset's writer", writing["ours"].ratios["kernel"], 1.5),
        ("84x84x3, reading episode shards, to webdataset's reader", reading["ours"].ratios["kernel"], 8),
        ("84x84x3, bytes of episode shards, to those of the values", tar.stat().st_size / raw, 1.01, "x", False),
    ]


def _case(name: str, call: Callable[[int], Any]) -> Case:
    def run(calls: int) -> int:
        for i in range(calls):
            call(i)
        return calls * COUNT

    return Case(name=name, role="stream" if name == "ours" else "kernel", run=run)
