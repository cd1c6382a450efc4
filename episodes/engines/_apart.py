"""A task in a process of a cluster: it may be killed at any moment, or run twice at once, and neither may be seen."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from tempfile import mkdtemp

from episodes.engines import Task
from episodes.errors import StoreError
from episodes.partial import ATTEMPT

NOTE_SUFFIX = ".json"


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
