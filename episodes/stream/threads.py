"""Making blocks of items ahead of a consumer, in order: by a few threads, or in the caller when it asks.

Threads, for what costs time holds no interpreter lock: compiled drawing and gathering, image decoding. Block m is ready
when its maker is, and is handed out m-th; at most `ahead` blocks are in the making or waiting.

The consumer meets its threads in `queue.SimpleQueue` alone, whose calls are one instruction each: Ctrl-C comes before or
after one of them. Conditions and futures are Python, and an interruption within them can leave a lock taken for ever.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Generic, NoReturn, TypeVar

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Failure:
    """The item that could not be made, and why."""

    index: int
    error: Exception


@dataclass(slots=True, eq=False)
class _Job(Generic[Made]):
    make: Callable[[range], Made] | None
    """None: it has been called. Whose method it is would otherwise wait for itself."""
    indices: range
    done: SimpleQueue[Callable[[], Made]] = field(default_factory=SimpleQueue)
    """What gives the block, or raises what came in its way."""
    dropped: bool = False


class Ahead(Generic[Made]):
    """Blocks in order.

    Args:
        workers: threads; 0: the caller's own.
        ahead: most blocks in the making or waiting.
    """

    def __init__(self, workers: int, ahead: int) -> None:
        self._workers, self._most = workers, ahead
        self._jobs: SimpleQueue[_Job[Made] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._queue: deque[_Job[Made]] = deque()
        self._end = weakref.finalize(self, _end, self._jobs, self._threads)  # forgotten, or at the end of the program

    def take(self, make: Callable[[range], Made], request: Callable[[], range | None]) -> Made | None:
        """The next block, None after the last.

        Args:
            make: indices -> block; called from any thread. Not kept between calls, so that who owns this can be forgotten.
            request: the indices of the block to make next; None: there are no more.
        """
        if not self._workers:
            indices = request()
            return None if indices is None else make(indices)
        while len(self._threads) < self._workers:
            thread = threading.Thread(target=_work, args=(self._jobs,), name="episodes", daemon=True)
            thread.start()
            self._threads.append(thread)
        self._fill(make, request)
        if not self._queue:
            return None
        made = self._queue[0].done.get()
        self._queue.popleft()
        self._fill(make, request)
        return made()

    def _fill(self, make: Callable[[range], Made], request: Callable[[], range | None]) -> None:
        while len(self._queue) < self._most:
            indices = request()
            if indices is None:
                return
            job = _Job(make, indices)
            self._queue.append(job)
            self._jobs.put(job)

    def without_threads(self) -> Ahead[Made]:
        """The same, with nothing in the making."""
        return Ahead(self._workers, self._most)

    def drop(self) -> None:
        """Forget what was made ahead; what is in the making is not waited for."""
        for job in self._queue:
            job.dropped = True
        self._queue.clear()

    def close(self) -> None:
        """End the threads, when they have made what they are at."""
        self.drop()
        self._end()


def _work(jobs: SimpleQueue[_Job[Any] | None]) -> None:
    """What a thread does. It holds nothing while it waits, so that a stream that is forgotten is gone."""
    while (job := jobs.get()) is not None:
        make, job.make = job.make, None
        if make is not None and not job.dropped:
            job.done.put(_outcome(make, job.indices))
        del job, make
    jobs.put(None)  # for the next thread


def _outcome(make: Callable[[range], Made], indices: range) -> Callable[[], Made]:
    try:
        made = make(indices)
    except BaseException as error:  # whatever it is, the consumer is who must know
        return raiser(error)
    return lambda: made


def raiser(error: BaseException) -> Callable[[], NoReturn]:
    """What raises `error` when it is called: when it is its turn."""

    def call() -> NoReturn:
        raise error

    return call


def _end(jobs: SimpleQueue[_Job[Any] | None], threads: Sequence[threading.Thread]) -> None:
    jobs.put(None)
    for thread in threads:
        if thread is not threading.current_thread():  # which may be where a stream was forgotten
            thread.join()


def one_by_one(make: Callable[[int], Any], indices: Sequence[int]) -> tuple[list[Any], Failure | None]:
    """Items up to the first that fails."""
    made: list[Any] = []
    for index in indices:
        try:
            made.append(make(index))
        except Exception as error:  # noqa: PERF203 - each is tried by itself, to know which failed
            return made, Failure(index, error)
    return made, None
