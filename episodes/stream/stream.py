"""Stream: a position in a series and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast, overload
from weakref import WeakSet

from episodes.errors import StateMismatch, StreamError, WorkerFailed
from episodes.protocols import Series
from episodes.stream.buffers import Arena, Arenas
from episodes.stream.options import ranks_of, whole
from episodes.stream.threads import Ahead, Failure, one_by_one

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)
Block_co = TypeVar("Block_co", bound=Sequence[Any], covariant=True)
VERSION = 1
_CALL_BYTES = 16 << 20  # of values made in one call: Python's own cost is lost in it, and they go past the caches
_MOST = 256  # episodes of a call


class BlockSeries(Series[Item_co], Protocol[Item_co, Block_co]):
    """A series that makes many items in one go."""

    @property
    def episode_bytes(self) -> int:
        """Bytes of a usual item."""
        ...

    def block(self, indices: Sequence[int], arena: Arena) -> Block_co:
        """The items `indices`, in memory of `arena`."""
        ...


class Stream(Iterator[Item], Generic[Item]):
    """Items of a series in order of their index, resumable; for one rank of `world`, every world-th of them.

    The state is one number, the index that comes next over all ranks: ranks, workers and blocks may change on resume.
    The order never depends on them either. An item owns its memory as long as anything refers to it (see
    `episodes.stream.buffers`). A stream with workers is closed by ``with``, `close`, or the end of the program.

    Args:
        series: where items come from.
        start: first index.
        block: give blocks of so many items in place of single ones; the last may be shorter, and one before a failure.
        workers: threads that make items ahead; 0: the caller's, when it asks, which is fastest for a consumer that does
            little itself. With a GPU, or on many cores, give 1 or more.
        ahead: calls' worth of items made ahead at most; None: two for each worker.
        rank: which of `world` equal consumers this is; it takes ``start + rank``, ``start + rank + world``, ... None: as
            ``torch.distributed`` says where that is running, else 0 of 1.
        world: number of consumers.

    Raises:
        StreamError: rank or world out of range; start negative; workers, block or ahead too small; blocks of a series that
            makes none.
        WorkerFailed: from ``next``, when it is the turn of an item that could not be made; the position stays there.
    """

    @overload
    def __init__(
        self: Stream[Item], series: Series[Item], *, start: int = ..., block: None = ..., workers: int = ...,
        ahead: int | None = ..., rank: int | None = ..., world: int | None = ...,
    ) -> None: ...  # fmt: skip
    @overload
    def __init__(
        self: Stream[Block_co], series: BlockSeries[Any, Block_co], *, start: int = ..., block: int, workers: int = ...,
        ahead: int | None = ..., rank: int | None = ..., world: int | None = ...,
    ) -> None: ...  # fmt: skip
    def __init__(
        self,
        series: Series[Any],
        *,
        start: int = 0,
        block: int | None = None,
        workers: int = 0,
        ahead: int | None = None,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        self.series = series
        self._rank, self._world = ranks_of(rank, world)
        start, workers = whole("start", start, 0), whole("workers", workers, 0)
        ahead = max(1, 2 * workers) if ahead is None else whole("ahead", ahead, 1)
        block = None if block is None else whole("block", block, 1)
        self._blocks = cast("BlockSeries[Any, Any]", series) if hasattr(series, "block") else None
        if block is not None and self._blocks is None:
            raise StreamError(f"block={block}: {type(series).__name__} makes items one by one; leave block out")
        self._block, self._size = block, _worth_a_call(self._blocks, block or 1) if self._blocks else 1
        self._arenas = Arenas(keep=ahead + 3)  # in the making or waiting; held by the consumer, and by the one before it
        self._ahead: Ahead[tuple[Sequence[Any], Failure | None]] = Ahead(workers, ahead)
        self._length, self._closed = series.length, False
        _ALIVE.add(self)
        self._go_to(start)

    def _go_to(self, index: int) -> None:
        """Set the position; what was made ahead is dropped."""
        self._torn = True  # until all is as the position says: Ctrl-C may come in between
        self._round = index  # of rank 0, in the round that comes next
        self._ahead.drop()
        self._requested = index  # the same, of what is asked for next
        self._current: Iterator[Any] = iter(())
        self._failure: Failure | None = None
        self._torn = False

    def _next_request(self) -> range | None:
        first, step = self._requested + self._rank, self._world
        stop = first + self._size * step
        if self._length is not None:
            stop = min(stop, self._length)
        if first >= stop:
            return None
        self._requested += self._size * step
        return range(first, stop, step)

    def _make(self, indices: range) -> tuple[Sequence[Any], Failure | None]:
        """Items of a request, and why they end early if they do. Runs in any thread."""
        if self._blocks is None:
            return one_by_one(self.series.__getitem__, indices)
        arena = self._arenas.take()
        try:
            return self._blocks.block(indices, arena), None
        except Exception as error:  # raised when it is the turn of the item that failed
            good, failure = one_by_one(self.series.__getitem__, indices)
            if failure is None:  # it will be made when it is asked for again; what went wrong is still told
                return (), Failure(indices[0], error)
        finally:
            self._arenas.give_back(arena)
        made, earlier = self._make(indices[: len(good)]) if good else ((), None)  # may fail anew
        return made, earlier or failure

    def __next__(self) -> Item:
        """The next item of this rank, or block of items."""
        if self._closed:
            raise StreamError("the stream is closed")
        try:
            if self._torn:
                self._go_to(self._round)
            self._torn = True
            item = self._take()
            reached = self._round + self._world * (1 if self._block is None else len(cast("Sequence[Any]", item)))
            if self._length is not None and reached > self._length:  # the last of a round may be no rank's
                reached = self._length
        except WorkerFailed:
            raise
        except BaseException:  # Ctrl-C at any moment: what was asked for and not delivered is asked for again
            self._go_to(self._round)
            raise
        # Nothing is called from here on, so no Ctrl-C can come between the position and what it counts.
        self._torn = False
        self._round = reached
        return item

    def _take(self) -> Item:
        while True:
            for item in self._current:
                return item  # type: ignore[no-any-return]
            if (failure := self._failure) is not None:
                self._go_to(self._round)
                raise WorkerFailed(failure.index, failure.error) from failure.error
            made = self._ahead.take(self._make, self._next_request)
            if made is None:
                assert self._length is not None
                self._round = max(self._round, self._length)
                raise StopIteration
            items, self._failure = made
            self._current = iter(items) if self._block is None else self._cut(items, self._block)

    def _cut(self, items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
        return (items[start : start + size] for start in range(0, len(items), size))

    def state_dict(self) -> dict[str, int | str]:
        """``{"version", "fingerprint", "next_index"}``; the index is global, the first that not every rank has taken."""
        return {"version": VERSION, "fingerprint": self.series.fingerprint, "next_index": self._round}

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Continue from a saved state.

        Raises:
            StateMismatch: the state is of another version or of other data, and both values are shown; or it is none.
        """
        if not isinstance(state, Mapping):
            raise StateMismatch(f"{state!r} is no state of a stream; give what `state_dict` returned")
        if state.get("version") != VERSION:
            raise StateMismatch(f"stream state has version {state.get('version')!r}; this program reads {VERSION}")
        if state.get("fingerprint") != self.series.fingerprint:
            raise StateMismatch(
                f"the saved stream drew other episodes (fingerprint {state.get('fingerprint')}) than this one "
                f"({self.series.fingerprint}): store, split, spec, sampler, transforms or seed differ"
            )
        index = state.get("next_index")
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise StateMismatch(f"the stream state has next_index={index!r}; it must be a whole number of 0 or more")
        self._go_to(index)

    def close(self) -> None:
        """End the threads and let go of the memory; episodes that were delivered keep theirs."""
        self._closed = True
        self._current = iter(())
        self._ahead.close()
        self._arenas = Arenas(keep=0)

    def __enter__(self) -> Stream[Item]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_ALIVE: WeakSet[Stream[Any]] = WeakSet()


def _forget_threads() -> None:
    """In a process that was forked: threads stayed with the parent, and what they were making is made anew."""
    for stream in list(_ALIVE):
        stream._ahead, stream._arenas = stream._ahead.without_threads(), Arenas(stream._arenas.keep)
        stream._torn = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def _worth_a_call(series: BlockSeries[Any, Any], multiple: int) -> int:
    """Items to make in one call: as many as are worth it, in whole blocks of `multiple`."""
    worth = max(1, min(_MOST, _CALL_BYTES // max(1, series.episode_bytes)))
    return multiple * max(1, worth // multiple)
