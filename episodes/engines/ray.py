"""Engine ``ray``: each part a task of a Ray cluster, spread over its machines, made again where a worker or machine dies.

A Ray that this process is connected to already is used and left as it is. Otherwise `address` names the cluster: ``auto``
(the one this machine belongs to) or ``host:port``; without one, RAY_ADDRESS counts, and else a cluster of this machine
alone is started for the time of the run.

Tasks are never cancelled: Ray ends the process that cancels a task whose result is just arriving (a failed check in its
core, "tried to complete task that was not pending", exit code 1, no message). Disconnecting ends them, and where the
connection is not ours they end themselves once the folder that stands for this run is gone.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

from episodes.engines import Task, Tick, ctrl_c_waits, look_again, run_apart
from episodes.errors import ConfigError, EpisodesError, StoreError
from episodes.partial import ATTEMPT

RETRIES: Final = 5  # of one task, where its worker or machine died
_ANSWERS_S: Final = 10
_QUEUED: Final = 1024  # tasks the cluster is given at a time: an autoscaler sees the demand, and waiting stays cheap


def run(
    task: Task, folder: Path, items: Collection[int], *, workers: int | None, tick: Tick, address: str | None = None
) -> None:
    """See `episodes.engines.Run`; as many tasks at a time as the cluster has cores, unless told otherwise."""
    try:
        import ray
    except ImportError:
        raise ConfigError("engine: ray is not installed; pip install 'episodes[ray]'") from None
    folder = folder.absolute()
    waiting, running = deque(items), dict[Any, int]()
    with _connected(ray, address), _wanted(folder) as wanted:
        options = {"num_cpus": 1, "max_retries": RETRIES, "scheduling_strategy": "SPREAD"}
        remote, shared = ray.remote(_attempt).options(**options), ray.put(task)
        while waiting or running:
            while waiting and len(running) < (workers or _QUEUED):
                item = waiting.popleft()
                running[remote.remote(shared, folder, item, wanted)] = item
            (ended,), _ = ray.wait(list(running), num_returns=1)
            tick(_result(ray, ended, running.pop(ended)))
    look_again(folder)


@contextmanager
def _wanted(folder: Path) -> Iterator[Path]:
    """A folder in `folder` that is there as long as this run goes on; who goes on with `folder` removes it, too."""
    wanted = Path(mkdtemp(prefix=f"{ATTEMPT}all-{socket.gethostname()}-{os.getpid()}-", dir=folder))
    try:
        yield wanted
    finally:
        shutil.rmtree(wanted, ignore_errors=True)


class _Unwanted(Exception):
    """The run that an attempt belongs to is over."""


def _attempt(task: Task, folder: Path, item: int, wanted: Path) -> int:
    """`run_apart`, given up with nothing left of it once `wanted` is gone."""

    def wanted_yet(own: Path, item: int, tick: Tick) -> None:
        def told(amount: int) -> None:
            if not wanted.exists():
                raise _Unwanted
            tick(amount)

        told(0)
        task(own, item, told)

    try:
        return run_apart(wanted_yet, folder, item)
    except _Unwanted:
        return 0  # nobody asks for it any more; an error would be printed by Ray


def _result(ray: Any, ended: Any, item: int) -> int:
    try:
        done: int = ray.get(ended)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, EpisodesError):
            raise error.cause from None  # as if it had been met here
        raise
    except ray.exceptions.RayError as error:
        raise StoreError(
            f"part {item} could not be made in {RETRIES + 1} tries ({type(error).__name__}: is memory short?); "
            "go on with --resume"
        ) from error
    return done


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    place = address or os.environ.get("RAY_ADDRESS", "")
    _check_answers(place)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster started here reports to no one
    try:
        try:
            with nullcontext() if place not in ("", "local") else ctrl_c_waits():  # processes are started here alone
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"address: no Ray cluster at '{place}' ({error})") from error
        yield
    finally:
        with ctrl_c_waits():
            ray.shutdown()


def _check_answers(place: str) -> None:
    """Refuse a ``host:port`` at which nothing listens; Ray itself would try for many minutes."""
    host, _, port = place.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWERS_S).close()
    except OSError as error:
        raise ConfigError(f"address: no Ray cluster at '{place}' ({error})") from error
