"""Engine ``dask``: each part a task of a Dask cluster, made again where a worker dies.

`address` is the scheduler's (``tcp://host:8786``) or the path of its file (``scheduler.json``); without one, processes of
this machine serve for the time of the run.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from episodes.engines import Task, Tick, ctrl_c_waits, look_again, run_apart
from episodes.errors import ConfigError, StoreError


def run(
    task: Task, folder: Path, items: Collection[int], *, workers: int | None, tick: Tick, address: str | None = None
) -> None:
    """See `episodes.engines.Run`; as many tasks at a time as the cluster has threads, unless told otherwise."""
    try:
        from distributed import KilledWorker, as_completed
    except ImportError:
        raise ConfigError("engine: dask is not installed; pip install 'episodes[dask]'") from None
    folder, waiting, running = folder.absolute(), deque(items), set[Any]()
    with _connected(address, workers) as client:
        # A result of the cluster rather than an argument of every task: it is sent once, and made again if it is lost.
        shared = client.submit(_itself, task, pure=False)

        def start() -> Any:
            future = client.submit(run_apart, shared, folder, waiting.popleft(), pure=False)
            running.add(future)
            return future

        ended = as_completed([start() for _ in range(min(len(waiting), workers or len(waiting)))])
        try:
            for future in ended:
                running.discard(future)
                tick(future.result())
                if waiting:
                    ended.add(start())
        except KilledWorker as error:
            raise StoreError(f"a part could not be made: its workers died ({error}); go on with --resume") from error
        finally:
            client.cancel(list(running), force=True)
    look_again(folder)


def _itself(task: Task) -> Task:
    return task


@contextmanager
def _connected(address: str | None, workers: int | None) -> Iterator[Any]:
    client = None
    if address is None:
        resource_tracker.ensure_running()  # started later, it would let signals through again
    try:
        with nullcontext() if address is not None else ctrl_c_waits():  # processes are started here alone
            client = _client(address, workers)
        yield client
    finally:
        if client is not None:
            with ctrl_c_waits():
                client.close()


def _client(address: str | None, workers: int | None) -> Any:
    from distributed import Client

    try:
        if address is None:
            silent = {"silence_logs": logging.CRITICAL, "dashboard_address": None}
            return Client(n_workers=workers, threads_per_worker=1, processes=True, **silent)
        if not address.endswith(".json"):
            return Client(address)
        Path(address).stat()  # Dask itself would wait for it without end
        return Client(scheduler_file=address)
    except (OSError, ValueError) as error:
        raise ConfigError(f"address: no Dask scheduler at {address} ({error})") from error
