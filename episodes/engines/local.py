"""Engine ``local``: threads of this process, each making a part at a time."""

from __future__ import annotations

import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from episodes.engines import Task, Tick
from episodes.errors import ConfigError


def run(
    task: Task, folder: Path, items: Collection[int], *, workers: int | None, tick: Tick, address: str | None = None
) -> None:
    """See `episodes.engines.Run`; one worker, the caller itself, unless told otherwise."""
    if address is not None:
        raise ConfigError(f"address: engine local runs on this machine only, got {address} (give --engine ray or dask)")
    lock, stop = threading.Lock(), threading.Event()

    def told(amount: int) -> None:
        if stop.is_set():
            raise InterruptedError
        with lock:
            tick(amount)

    if workers is None or workers <= 1:
        for item in items:
            task(folder, item, told)
        return
    with ThreadPoolExecutor(workers, "task") as pool:
        futures = [pool.submit(task, folder, item, told) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
