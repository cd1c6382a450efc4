"""Engines: where the shards of a compile or an ingest are made. One file each: threads of this process, Ray, Dask.

An engine module defines ``run`` (see `Run`) and knows neither stores nor episodes: a task is given a folder and a number,
and writes part `number` there, the note that it is whole (``.json``) last. Made again, a part is the same bytes; so a task
may be lost, retried, or run twice at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

Tick = Callable[[int], None]
"""Told how many episodes or samples more are done."""
Task = Callable[[Path, int, Tick], object]
"""(folder, number, tick): make a part. Picklable where it has to travel."""


class Run(Protocol):
    """What an engine module's ``run`` is."""

    def __call__(
        self,
        task: Task,
        folder: Path,
        items: Collection[int],
        *,
        workers: int | None,
        tick: Tick,
        address: str | None = None,
    ) -> None:
        """Make the parts `items` of `folder` and return when all are whole; an error or Ctrl-C ends all of them soon.

        Args:
            task: makes one part.
            folder: where parts are put; every machine must see it at this path.
            items: numbers of the parts.
            workers: tasks at a time; None: what the engine thinks right.
            tick: called as work gets done, by one thread at a time.
            address: of a cluster.

        Raises:
            EpisodesError: as the task did; the first to be noticed.
            ConfigError: the engine is not installed, or nothing answers at `address`.
            StoreError: a part could not be made in spite of retries. What is whole stays.
        """
        ...
