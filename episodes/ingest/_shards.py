"""The shards of an ingest: each whole or absent, with a note of what of the source it used up."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from episodes.ingest._decode import fill
from episodes.ingest._work import Work
from episodes.store.manifest import KEY, Shard, Skipped, canonical
from episodes.store.writer import write_shard, write_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A finished shard, and what of the source it used up."""

    shard: Shard | None
    """None: every sample left at the end was broken."""
    consumed: int
    """Samples used up by this shard and all before it, skipped ones included."""
    skipped: tuple[Skipped, ...]

    def to_json(self) -> bytes:
        """As a note beside the shard."""
        return canonical(asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> Done:
        """Read a note."""
        table = json.loads(data)
        return cls(
            shard=Shard(**table["shard"]) if table["shard"] else None,
            consumed=table["consumed"],
            skipped=tuple(Skipped(**one) for one in table["skipped"]),
        )


def done_of(partial: Path, number: int) -> Done | None:
    """A shard of this or an earlier run, if it is whole."""
    note = partial / f"{_name(number)}.json"
    if not note.exists():
        return None
    one = Done.from_json(note.read_bytes())
    if one.shard:
        file = partial / one.shard.file
        if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != one.shard.sha256:
            return None
    return one


def finished_shards(partial: Path) -> list[Done]:
    """Shards of an earlier run that are whole, up to the first that is not."""
    every = (done_of(partial, number) for number in itertools.count())
    return [one for one in itertools.takewhile(lambda one: one is not None, every) if one]


def write_shards(
    partial: Path, work: Work, done: Sequence[Done], pool: ThreadPoolExecutor, progress: Callable[[int, int], None]
) -> Iterator[Done]:
    """Make the shards after those of `done`, one after the other: each begins where the last one ended."""
    consumed, total = done[-1].consumed if done else 0, len(work.samples)
    for number in itertools.count(len(done)):
        if consumed >= total:
            return
        one = make_shard(partial, work, number, consumed, pool, progress)
        consumed = one.consumed
        yield one


def make_shard(
    partial: Path, work: Work, number: int, start: int, pool: ThreadPoolExecutor, progress: Callable[[int, int], None]
) -> Done:
    """Make shard `number` of the samples from `start` on: its file, then the note that it is whole."""
    columns, skipped, consumed = fill(work, start, pool, progress)
    shard = write_shard(partial / f"{_name(number)}.h5", columns) if len(columns[KEY]) else None
    one = Done(shard=shard, consumed=consumed, skipped=tuple(skipped))
    write_whole(partial / f"{_name(number)}.json", one.to_json())
    return one


def _name(number: int) -> str:
    return f"shard-{number:05d}"
