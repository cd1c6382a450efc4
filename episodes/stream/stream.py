"""Stream: a position in a series and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from episodes.errors import StateMismatch, StreamError
from episodes.protocols import Series

Item = TypeVar("Item")
VERSION = 1


class Stream(Iterator[Item], Generic[Item]):
    """Items of a series in order of their index, resumable; for one rank of `world`, every world-th of them.

    The state is one number, the index that comes next over all ranks: the number of ranks may change on resume. Items
    are made when asked for, in the caller's thread.

    Args:
        series: where items come from.
        start: first index.
        rank: which of `world` equal consumers this is; it takes ``start + rank``, ``start + rank + world``, ...
        world: number of consumers.

    Raises:
        StreamError: rank or world out of range, or start negative.
    """

    def __init__(self, series: Series[Item], *, start: int = 0, rank: int = 0, world: int = 1) -> None:
        if world < 1 or not 0 <= rank < world:
            raise StreamError(f"rank {rank} of world {world}: rank must be 0 to world - 1, and world 1 or more")
        if start < 0:
            raise StreamError(f"start={start} is negative; indices begin at 0")
        self.series = series
        self._rank, self._world = rank, world
        self._round = start  # index of rank 0 in the round that comes next

    def __next__(self) -> Item:
        """The next item of this rank."""
        index = self._round + self._rank
        if self.series.length is not None and index >= self.series.length:
            raise StopIteration
        item = self.series[index]
        self._round += self._world
        return item

    def state_dict(self) -> dict[str, int | str]:
        """``{"version", "fingerprint", "next_index"}``; the index is global, the first that not every rank has taken."""
        return {"version": VERSION, "fingerprint": self.series.fingerprint, "next_index": self._round}

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Continue from a saved state.

        Raises:
            StateMismatch: the state is of another version or of other data; both values are shown.
        """
        if state.get("version") != VERSION:
            raise StateMismatch(f"stream state has version {state.get('version')!r}; this program reads {VERSION}")
        if state.get("fingerprint") != self.series.fingerprint:
            raise StateMismatch(
                f"the saved stream drew other episodes (fingerprint {state.get('fingerprint')}) than this one "
                f"({self.series.fingerprint}): store, split, spec, sampler or seed differ"
            )
        self._round = int(state["next_index"])
