"""An episode with each of its arrays made into something else: a tensor, a place in a buffer, a shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from episodes.episode import Episode, Part

A = TypeVar("A")
B = TypeVar("B")


class Block(Protocol):
    """Episodes that were made together, of one source or of several."""

    @property
    def stacked(self) -> Episode[NDArray[Any]]:
        """All as one, ``[B, n, ...]``."""
        ...


def each(episode: Episode[A], to: Callable[[A], B]) -> Episode[B]:
    """`episode` with ``to(array)`` in place of each array, in a fixed order."""
    return Episode(
        index=episode.index,
        class_ids=to(episode.class_ids),
        variants=to(episode.variants),
        support=_part(episode.support, to),
        query=_part(episode.query, to),
        unlabeled=None if episode.unlabeled is None else _part(episode.unlabeled, to),
        class_fields={name: to(values) for name, values in episode.class_fields.items()},
    )


def each_with_axis(item: Episode[NDArray[Any]] | Block, to: Callable[[Any], B]) -> Episode[B]:
    """As `each`, of arrays with a leading episode axis: ``[1, n, ...]`` of an episode, ``[B, n, ...]`` of a block.

    Raises:
        SpecError: a block of episodes of different sizes, which cannot be stacked.
    """
    if isinstance(item, Episode):
        return each(item, lambda array: to(array[None]))
    return each(item.stacked, to)


def _part(part: Part[A], to: Callable[[A], B]) -> Part[B]:
    return Part(
        fields={name: to(values) for name, values in part.fields.items()},
        labels=to(part.labels),
        rows=to(part.rows),
    )
