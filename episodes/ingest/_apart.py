"""Shards of an ingest made apart, by an engine: where no sample is skipped, shard n is the n-th piece of the rows.

A listing does not travel: it holds open files, and an entry a sample. The reader does, and every process of a cluster
lists the source once for itself; that it finds the same is checked by the hash of the listing.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from episodes.engines import Run, Tick
from episodes.errors import ReaderError, StoreError
from episodes.ingest._shards import Done, done_of, make_shard
from episodes.ingest._work import Work
from episodes.protocols import Reader
from episodes.store.manifest import Encoding


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What an ingest writes, before the source is listed; picklable if the reader is."""

    reader: Reader
    options: Any
    is_a: Sequence[tuple[str, str]]
    encodings: Mapping[str, Encoding]
    shard_bytes: int
    source: str
    """Hash of the listing, `Work.source`."""

    def to_bytes(self) -> bytes:
        """As a pickle; paths are absolute, for other processes stand in other folders."""
        try:
            return pickle.dumps(replace(self, reader=_absolute(self.reader)))
        except (pickle.PicklingError, AttributeError, TypeError) as error:  # pickle raises all three
            raise ReaderError(
                f"reader '{self.reader.name}' cannot be sent to other processes ({error}); define it in a module, and let "
                "it open files no sooner than it lists them"
            ) from error

    def work(self) -> Work:
        """List the source.

        Raises:
            StoreError: it is not what it was where the ingest began.
        """
        listing = self.reader.listing()
        if self.is_a:
            listing = replace(listing, is_a=self.is_a)
        work = Work.plan(self.reader, listing, self.options, self.encodings, self.shard_bytes, False)
        if work.source != self.source:
            raise StoreError(
                "a process of the cluster finds another source than the one the ingest began with; every machine must see "
                "the same files at the same path"
            )
        return work


def make_apart(
    folder: Path, work: Work, recipe: Recipe, engine: Run, workers: int | None, progress: Callable[[int, int], None]
) -> list[Done]:
    """Make every shard that is not whole yet, in any order; all of them come back."""
    total, size = len(work.samples), work.rows_per_shard
    numbers = range(-(-total // size))
    whole = {number: one for number in numbers if (one := done_of(folder, number))}
    missing = [number for number in numbers if number not in whole]
    done = total - sum(min(total, (number + 1) * size) - number * size for number in missing)

    def tick(samples: int) -> None:
        nonlocal done
        done += samples
        progress(done, total)

    engine(partial(_make, recipe.to_bytes()), folder, missing, workers=workers, tick=tick)
    for number in missing:
        one = done_of(folder, number)
        if one is None:
            raise StoreError(f"shard {number} is not whole in {folder} (is the disk shared?); go on with --resume")
        whole[number] = one
    return [whole[number] for number in numbers]


def _make(recipe: bytes, folder: Path, number: int, tick: Tick) -> None:
    work = _listed(recipe)
    start = told = number * work.rows_per_shard

    def progress(done: int, total: int) -> None:
        nonlocal told
        tick(done - told)
        told = done

    with ThreadPoolExecutor(1) as pool:
        make_shard(folder, work, number, start, pool, progress)


@lru_cache(maxsize=1)  # a process makes many shards of one ingest
def _listed(recipe: bytes) -> Work:
    one: Recipe = pickle.loads(recipe)
    return one.work()


def _absolute(value: Any) -> Any:
    if isinstance(value, Path):
        return value.absolute()
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _absolute(getattr(value, f.name)) for f in fields(value) if f.init})
    return value
