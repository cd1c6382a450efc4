"""Making blocks of items ahead of a consumer, in order: by a few threads, or in the caller when it asks.

Threads, for what costs time holds no interpreter lock: compiled drawing and gathering, image decoding. Block m is ready
when its maker is, and is handed out m-th; at most `ahead` blocks are in the making or waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Failure:
    """The item that could not be made, and why."""

    index: int
    error: Exception


class Ahead(Generic[Made]):
    """Blocks in order.

    Args:
        workers: threads; 0: the caller's own.
        ahead: most blocks in the making or waiting.
    """

    def __init__(self, workers: int, ahead: int) -> None:
        self._workers, self._most = workers, ahead
        self._pool: ThreadPoolExecutor | None = None
        self._queue: deque[Future[Made]] = deque()

    def take(self, make: Callable[[range], Made], request: Callable[[], range | None]) -> Made | None:
        """The next block, None after the last.

        Args:
            make: indices -> block; called from any thread. Not kept between calls, so that who owns this can be forgotten.
            request: the indices of the block to make next; None: there are no more.
        """
        if not self._workers:
            indices = request()
            return None if indices is None else make(indices)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers, "episodes")
        self._fill(self._pool, make, request)
        if not self._queue:
            return None
        made = self._queue[0].result()
        self._queue.popleft()
        self._fill(self._pool, make, request)
        return made

    def _fill(self, pool: ThreadPoolExecutor, make: Callable[[range], Made], request: Callable[[], range | None]) -> None:
        while len(self._queue) < self._most:
            indices = request()
            if indices is None:
                return
            self._queue.append(pool.submit(make, indices))

    def without_threads(self) -> Ahead[Made]:
        """The same, with nothing in the making."""
        return Ahead(self._workers, self._most)

    def drop(self) -> None:
        """Forget what was made ahead; what is in the making is waited for, so that its memory is free again."""
        for future in self._queue:
            future.cancel()
        while self._queue:
            future = self._queue.popleft()
            if not future.cancelled():
                future.exception()

    def close(self) -> None:
        """End the threads."""
        self.drop()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def one_by_one(make: Callable[[int], Any], indices: Sequence[int]) -> tuple[list[Any], Failure | None]:
    """Items up to the first that fails."""
    made: list[Any] = []
    for index in indices:
        try:
            made.append(make(index))
        except Exception as error:  # noqa: PERF203 - each is tried by itself, to know which failed
            return made, Failure(index, error)
    return made, None
