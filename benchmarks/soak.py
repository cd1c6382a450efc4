"""Streams for as long as it takes to meet what is rare: whatever disturbs them, the episodes are the inline stream's.

    python benchmarks/soak.py --minutes 30 --saves 1000 -o soak.json
    python benchmarks/soak.py --episodes 1000000 -o memory.json

Fixed, variable and transformed episodes, each at full speed through streams whose threads, blocks, look-ahead and ranks
change from segment to segment; between segments the state goes through JSON, into the same streams or into new ones. The
store fails sometimes, in any thread, and is slow sometimes; the consumer pauses sometimes, and keeps some episodes, whose
values are looked at again later. A hash runs over (index, rows, labels, checksum of the values) of all episodes in order,
and one over those of a stream without threads, blocks, failures or pauses: they are compared after every segment.

With ``--episodes`` one stream of small episodes runs at full speed instead, and only its memory is looked at.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import hashlib
import json
import os
import sys
import threading
import time
import zlib
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

import episodes
from episodes.errors import EpisodesError, StoreCorrupt, WorkerFailed
from episodes.store.memory import MemoryStore
from episodes.stream.series import SampledEpisodes
from episodes.stream.stream import Stream
from episodes.transforms import Transform

SPECS = {
    "fixed": episodes.EpisodeSpec(ways=5, shots=1, queries=15),
    "variable": episodes.EpisodeSpec(ways="5..20", shots="1..4 per class", queries="1..15", unlabeled=1, distractors=2),
    "transformed": episodes.EpisodeSpec(ways=5, shots=1, queries=5),
}
CHANGED = Transform(flip=True, crop_padding=2, rotate=10, contrast=0.3, mean=(0.5,), std=(0.25,))
LEAST = 30  # episodes between two saves, however busy the machine is
KEPT, WATCH_S = 6, 5.0  # an episode that is kept keeps the memory of all that were made with it


class Troubled:
    """A store that fails once in `every` reads and is slow as often, in whatever thread it is read."""

    def __init__(self, store: MemoryStore, every: int) -> None:
        self._store, self._every, self._rng = store, every, np.random.Generator(np.random.Philox(1))
        self._lock, self.failures = threading.Lock(), 0
        self.fields, self.fingerprint, self.num_rows = store.fields, store.fingerprint, store.num_rows
        self.split, self.read, self.class_fields = store.split, store.read, store.class_fields

    def places(self, name: str) -> Any:
        """Where values lie; asked for once a block and field."""
        with self._lock:
            fate = int(self._rng.integers(0, self._every))
            self.failures += fate == 0
        if fate == 0:
            raise StoreCorrupt("this read fails")
        if fate == 1:
            time.sleep(0.003)
        return self._store.places(name)


def store_of(classes: int = 400, rows: int = 20) -> MemoryStore:
    """Images of 28 x 28 whose values are drawn from their row."""
    images = np.random.Generator(np.random.Philox(2)).integers(0, 256, (classes * rows, 1, 28, 28), np.uint8)
    names = [f"class{c:04d}" for c in range(classes)]
    return MemoryStore({"image": images}, dict.fromkeys(names, rows), splits={"soak": {"train": names}})


def series_of(store: MemoryStore) -> dict[str, SampledEpisodes]:
    """The three kinds of episodes."""
    made = {kind: episodes.sample(store, "train", spec, seed=5) for kind, spec in SPECS.items()}
    made["transformed"] = dataclasses.replace(
        episodes.sample(store, "train", SPECS["transformed"], seed=5, rotations=True), transforms=(CHANGED,)
    )
    return made


def checksum(episode: Any) -> int:
    """CRC-32 over the values of an episode."""
    crc = 0
    for part in (episode.support, episode.query, episode.unlabeled):
        for values in part.fields.values() if part else ():
            crc = zlib.crc32(values, crc)
    return crc


def note(digest: Any, episode: Any) -> int:
    """Add an episode to a running hash; returns its checksum."""
    crc = checksum(episode)
    digest.update(b"%d,%d" % (episode.index, crc))
    for part in (episode.support, episode.query, episode.unlabeled):
        if part:
            digest.update(part.rows)
            digest.update(part.labels)
    return crc


class Track:
    """One kind of episodes: the disturbed streams, the quiet one, and both hashes."""

    def __init__(self, series: SampledEpisodes, every: int, seed: int) -> None:
        self.store = Troubled(series.store, every)
        self.series = dataclasses.replace(series, store=self.store)
        self.quiet = Stream(series)
        self.rng = np.random.Generator(np.random.Philox(seed))
        self.hash, self.wanted = hashlib.sha256(), hashlib.sha256()
        self.kept: deque[tuple[Any, int]] = deque()
        self.streams: list[Stream[Any]] = []
        self.block: int | None = None
        self.due: list[int] = []  # by rank, the index it gives next
        self.waiting: dict[int, Any] = {}  # given by a rank, not yet its turn
        self.place = self.saves = self.pauses = self.reopened = self.told = 0

    def reopen(self) -> None:
        """New streams, made otherwise, one a rank."""
        self.close()
        self.block = [None, None, 1, 7, 16][self.rng.integers(5)]
        workers, world, ahead = (int(self.rng.integers(n)) for n in (4, 3, 5))
        options: dict[str, Any] = {"block": self.block, "workers": workers, "world": world + 1, "ahead": ahead or None}
        self.streams = [Stream(self.series, rank=rank, **options) for rank in range(world + 1)]
        self.reopened += 1

    def restore(self) -> None:
        """State through JSON, into the streams there are or into new ones.

        Where a failure cut a block short, ranks stand at different places: what not all have taken is given again.
        """
        states = [stream.state_dict() for stream in self.streams] or [self.quiet.state_dict()]
        given = [due - rank for rank, due in enumerate(self.due)] or [self.place]
        assert [state["next_index"] for state in states] == given, (self.place, self.due, states)
        state = min(states, key=lambda one: one["next_index"])
        if not self.streams or self.rng.random() < 0.5:
            self.reopen()
        for stream in self.streams:
            stream.load_state_dict(json.loads(json.dumps(state)))
        self.due = [int(state["next_index"]) + rank for rank in range(len(self.streams))]
        self.waiting.clear()
        self.saves += 1

    def segment(self, seconds: float) -> None:
        """Episodes of all ranks in order for so long, and `LEAST` at least; then as many of the quiet stream."""
        begin, end = self.place, time.monotonic() + seconds
        while self.streams and (time.monotonic() < end or self.place < begin + LEAST):
            self.ask(min(range(len(self.due)), key=self.due.__getitem__))
            while (episode := self.waiting.pop(self.place, None)) is not None:
                self.take(episode)
            if self.rng.random() < 0.001:
                self.pauses += 1
                time.sleep(float(self.rng.random()) * 0.03)
        for _ in range(self.place - begin):
            note(self.wanted, next(self.quiet))
        assert self.hash.digest() == self.wanted.digest(), f"episodes {begin} to {self.place} are not the inline stream's"

    def ask(self, rank: int) -> None:
        """The next item of a rank; a failure is told in its turn, and is over when it is asked for again."""
        while True:
            try:
                item = next(self.streams[rank])
                break
            except WorkerFailed as error:
                index, self.told = error.index, self.told + 1
            assert index == self.due[rank], f"rank {rank} told a failure of {index}; its turn is {self.due[rank]}"
        for episode in [item] if self.block is None else item:
            assert episode.index == self.due[rank], f"rank {rank} gave {episode.index} for {self.due[rank]}"
            self.due[rank] += len(self.streams)
            if episode.index >= self.place:
                self.waiting[episode.index] = episode

    def take(self, episode: Any) -> None:
        """Look at an episode, and at one that was kept for a while."""
        crc = note(self.hash, episode)
        self.place += 1
        if self.place % 50 == 0:
            self.kept.append((episode, crc))
            if len(self.kept) > KEPT:
                old, was = self.kept.popleft()
                assert checksum(old) == was, f"episode {old.index} was written over while it was kept"

    def close(self) -> None:
        """End the disturbed streams."""
        for stream in self.streams:
            stream.close()
        self.streams = []


def usage() -> dict[str, float]:
    """Resident MB that are no file's, threads and open files of this process. Linux only."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    handles = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names alone
    return {"anon_mb": int(status["RssAnon"].split()[0]) / 1024, "threads": threading.active_count(), "handles": handles}


def trimmed() -> dict[str, float]:
    """The same, after the allocator gave back what it keeps of memory that was freed."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    return usage()


def soak(minutes: float, saves: int, every: int = 150, watch_s: float = WATCH_S) -> dict[str, Any]:
    """Run; returns what was done and what it used.

    Raises:
        AssertionError: an episode is not the inline stream's, was written over, or came out of turn.
    """
    tracks = {kind: Track(one, every, seed) for seed, (kind, one) in enumerate(series_of(store_of()).items())}
    for track in tracks.values():  # compiles
        track.segment(0)
        track.quiet.series[0]
    gc.collect()  # what others left, with files it holds open, is none of ours
    before = usage()
    end, seconds = time.monotonic() + 60 * minutes, 60 * minutes / max(saves, 1)
    watched, last = [], time.monotonic()
    for turn in range(10**9):
        track = list(tracks.values())[turn % len(tracks)]
        track.restore()
        # Less than its share: the quiet stream and closing take time, too.
        track.segment(seconds * 0.4 * float(track.rng.random() + 0.5))
        if time.monotonic() >= last + watch_s:
            last = time.monotonic()
            watched.append(usage())
        if time.monotonic() >= end and sum(t.saves for t in tracks.values()) >= saves:
            break
    for track in tracks.values():
        track.close()
        track.quiet.close()
        track.kept.clear()
    watched = watched or [usage()]
    return {
        "minutes": minutes,
        "kinds": {
            kind: {
                "episodes": t.place, "saves": t.saves, "reopened": t.reopened, "pauses": t.pauses,
                "failures": t.store.failures, "told": t.told,
                "sha256": t.hash.hexdigest(), "inline": t.wanted.hexdigest(),
            }
            for kind, t in tracks.items()
        },
        "before": before,
        "most_by_tenths": [_most(list(part)) for part in np.array_split(np.array(watched), 10) if len(part)],
        "after_close": usage(),
        "after_trim": trimmed(),
    }  # fmt: skip


def _most(watched: list[dict[str, float]]) -> dict[str, float]:
    return {name: max(one[name] for one in watched) for name in watched[0]}


def memory(num: int, workers: int = 0, block: int | None = None) -> dict[str, Any]:
    """Memory beyond the store of a stream of `num` 28 x 28 episodes, at each tenth of them."""
    series = series_of(store_of())["fixed"]
    for _ in zip(range(200), Stream(series), strict=False):  # compiles
        pass
    before, tenths, count = usage(), [], 0
    with Stream(series, workers=workers, block=block) as stream:
        for item in stream:
            count += 1 if block is None else len(item)
            if count >= num * (len(tenths) + 1) / 10:
                tenths.append(usage())
                if count >= num:
                    break
        slots = (max(1, 2 * workers) + 3) * stream._size
    del item
    return {
        "episodes": count,
        "workers": workers,
        "block": block,
        "slots_mb": slots * series.episode_bytes / 2**20,
        "beyond_before_mb": [round(one["anon_mb"] - before["anon_mb"], 2) for one in tenths],
        "handles": [before["handles"], _most(tenths)["handles"], usage()["handles"]],
        "threads": [before["threads"], _most(tenths)["threads"], usage()["threads"]],
    }


def main() -> int:
    """Run and print one JSON object; exit code 1 where an episode was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--saves", type=int, default=1000, help="saves and restores, at least")
    parser.add_argument("--episodes", type=int, help="look at the memory of so many episodes instead")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    try:
        if given.episodes:
            configurations = [(0, None), (0, 16), (1, 16), (2, None)]
            result: Any = [memory(given.episodes, workers, block) for workers, block in configurations]
        else:
            result = soak(given.minutes, given.saves)
    except (AssertionError, EpisodesError) as error:
        print(f"wrong: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    text = json.dumps(result, indent=1)
    print(text)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
