"""Options of a stream: whole numbers, and which of several ranks it is."""

from __future__ import annotations

import operator
import sys
from typing import Any

from episodes.errors import StreamError


def whole(name: str, value: Any, least: int) -> int:
    """`value` as a whole number of `least` or more.

    Raises:
        StreamError: it is none.
    """
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if number < least:
        raise StreamError(f"{name}={value!r} is out of range; it must be a whole number of {least} or more")
    return number


def ranks_of(rank: int | None, world: int | None) -> tuple[int, int]:
    """Rank and world as given; what is not, as torch.distributed has it where that was started (without importing torch).

    Raises:
        StreamError: out of range; one of several ranks of which it is not said which.
    """
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if (rank is None or world is None) and distributed and distributed.is_available() and distributed.is_initialized():
        rank = distributed.get_rank() if rank is None else rank
        world = distributed.get_world_size() if world is None else world
    world = 1 if world is None else whole("world", world, 1)
    if rank is None and world > 1:
        raise StreamError(f"world={world} without rank: say which of the {world} this is, rank=0 to {world - 1}")
    rank = 0 if rank is None else whole("rank", rank, 0)
    if rank >= world:
        raise StreamError(f"rank {rank} of world {world}: rank must be 0 to world - 1")
    return rank, world
