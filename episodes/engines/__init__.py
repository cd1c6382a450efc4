"""Engines: where the shards of a compile or an ingest are made. One file each: threads of this process, Ray, Dask.

An engine module defines ``run`` (see `Run`) and knows neither stores nor episodes: a task is given a folder and a number,
and writes part `number` there, the note that it is whole (``.json``) last. Made again, a part is the same bytes; so a task
may be lost, retried, or run twice at once. `run_apart` calls it so in a process that may be killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from types import FrameType
from typing import Final, Protocol

from episodes.errors import StoreError
from episodes.partial import ATTEMPT

NOTE_SUFFIX: Final = ".json"
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


def run_apart(task: Task, folder: Path, item: int) -> int:
    """Make part `item` in a folder of this attempt, then move its files into `folder`, the note last.

    A cluster that takes a machine for dead starts its task anew while it may still be running. Attempts never share a file,
    and one whose folder was removed (`episodes.partial` does so before a folder is gone on with) can put nothing in place.

    Returns:
        The sum of the task's ticks.

    Raises:
        StoreError: this machine does not see `folder`, or cannot write to it.
    """
    host, done = socket.gethostname(), 0

    def tick(amount: int) -> None:
        nonlocal done
        done += amount

    if not folder.is_dir():
        raise StoreError(f"machine {host} does not see {folder}; use a folder that all machines share, at one path")
    try:
        own = Path(mkdtemp(prefix=f"{ATTEMPT}{item:05d}-{host}-{os.getpid()}-", dir=folder))
    except OSError as error:
        raise StoreError(f"machine {host} cannot write to {folder}: {error.strerror}") from error
    try:
        task(own, item, tick)
        for path in sorted(own.iterdir(), key=lambda path: path.suffix == NOTE_SUFFIX):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(own, ignore_errors=True)
    return done


def look_again(folder: Path) -> None:
    """See what others have put in `folder`: network file systems remember for a while that a file was absent."""
    os.listdir(folder)  # noqa: PTH208 - opening the folder asks the server


@contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C counts at the end of this, and does not reach the processes started in it, though a terminal sends it to all.

    Who started them ends them. In a thread other than the main one, where no signal is handled, nothing waits.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    mine, met = signal.getsignal(signal.SIGINT), list[tuple[int, FrameType | None]]()
    waits = callable(mine) and threading.current_thread() is threading.main_thread()
    if waits:  # whichever thread the system gives the signal to, Python handles it in this one
        signal.signal(signal.SIGINT, lambda *signal_: met.append(signal_))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which processes inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if waits:
            signal.signal(signal.SIGINT, mine)
        if met and callable(mine):
            mine(*met[0])
