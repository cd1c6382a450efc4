"""DeviceStream: a stream whose items become those of a framework, some of them ahead of the consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from episodes.errors import StreamError
from episodes.protocols import Series
from episodes.stream.stream import Stream
from episodes.stream.threads import raiser

Made = TypeVar("Made")
Item = TypeVar("Item")


class DeviceStream(Iterator[Made], Generic[Made]):
    """Items of `stream`, made into another kind; the surface and the state of the stream itself.

    The state counts the items that were handed on, not those that were begun ahead. So it is exact, and a state of a
    `Stream` over the same series continues here, and the other way round.

    Args:
        stream: where items come from; only this object takes from it from now on.
        begin: item -> what finishes it: called when it is the item's turn, in the consumer's thread.
        ahead: items begun before it is their turn.

    Raises:
        StreamError: `ahead` is no whole number of 0 or more.
        EpisodesError: from ``next``, when it is an item's turn, what the stream or `begin` raised; the position stays.
    """

    def __init__(self, stream: Stream[Item], begin: Callable[[Item], Callable[[], Made]], ahead: int) -> None:
        if isinstance(ahead, bool) or not isinstance(ahead, int) or ahead < 0:
            raise StreamError(f"ahead={ahead!r} is out of range; it must be a whole number of 0 or more")
        self._stream, self._begin, self._ahead = stream, begin, ahead
        self._begun: deque[tuple[Callable[[], Made], dict[str, int | str]]] = deque()  # with the state after each
        self._failed = self._closed = self._torn = False
        self._state = stream.state_dict()

    @property
    def series(self) -> Series[Any]:
        """Where items come from."""
        return self._stream.series

    def __next__(self) -> Made:
        """The next item."""
        if self._closed:
            raise StreamError("the stream is closed")
        try:
            if self._torn:
                self._go_to(self._state)
            self._torn = True
            self._fill()
            if not self._begun:
                self._state = self._stream.state_dict()  # past the end
                raise StopIteration
            finish, reached = self._begun[0]
            made = finish()
            self._begun.popleft()
        except BaseException:  # its own error, or Ctrl-C at any moment: what was not handed on is begun again
            self._go_to(self._state)
            raise
        self._torn, self._state = False, reached  # as in `Stream`, nothing is called between the state and what it counts
        return made

    def _fill(self) -> None:
        while len(self._begun) <= self._ahead and not self._failed:
            try:
                finish = self._begin(next(self._stream))
            except StopIteration:
                return
            except Exception as error:  # raised when it is the turn of the item that failed
                finish, self._failed = raiser(error), True
            self._begun.append((finish, self._stream.state_dict()))

    def _go_to(self, state: Mapping[str, int | str]) -> None:
        self._torn = True
        self._stream.load_state_dict(state)
        self._begun.clear()
        self._failed, self._state = False, self._stream.state_dict()
        self._torn = False

    def state_dict(self) -> dict[str, int | str]:
        """As `Stream.state_dict`, of the items handed on."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Continue from a saved state; what was begun ahead is dropped.

        Raises:
            StateMismatch: as `Stream.load_state_dict`.
        """
        self._go_to(state)

    def close(self) -> None:
        """End the stream and let go of its memory; items that were handed on keep theirs."""
        self._closed = True
        self._begun.clear()
        self._stream.close()

    def __enter__(self) -> DeviceStream[Made]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
