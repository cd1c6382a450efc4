"""Engine ``ray``: each part a task of a Ray cluster, spread over its machines, made again where a worker or machine dies.

A Ray that this process is connected to already is used and left as it is. Otherwise `address` names the cluster: ``auto``
(the one this machine belongs to) or ``host:port``; without one, RAY_ADDRESS counts, and else a cluster of this machine
alone is started for the time of the run.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from episodes.engines import Task, Tick, look_again, run_apart, spared_by_ctrl_c
from episodes.errors import ConfigError, EpisodesError, StoreError

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
    with _connected(ray, address):
        options = {"num_cpus": 1, "max_retries": RETRIES, "scheduling_strategy": "SPREAD"}
        remote, shared = ray.remote(run_apart).options(**options), ray.put(task)
        try:
            while waiting or running:
                while waiting and len(running) < (workers or _QUEUED):
                    item = waiting.popleft()
                    running[remote.remote(shared, folder, item)] = item
                (ended,), _ = ray.wait(list(running), num_returns=1)
                tick(_result(ray, ended, running.pop(ended)))
        finally:
            for one in running:
                ray.cancel(one, force=True)
    look_again(folder)


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
        with spared_by_ctrl_c():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"address: no Ray cluster at '{place}' ({error})") from error
    try:
        yield
    finally:
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
