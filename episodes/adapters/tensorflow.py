"""Episodes as TensorFlow tensors, sharing memory on the CPU where TensorFlow can; and as a ``tf.data.Dataset``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from episodes.adapters.each import Block, each_with_axis
from episodes.episode import Episode, Part
from episodes.errors import SpecError
from episodes.protocols import Series
from episodes.stream.stream import Stream

_ALIGN = 64  # bytes: TensorFlow ends the process at its first look into memory that begins elsewhere


def to_tensorflow(item: Episode[NDArray[Any]] | Block) -> Episode[tf.Tensor]:
    """`item` as tensors on the CPU with a leading episode axis, ``[1, n, ...]``, or ``[B, n, ...]`` of a block.

    Types are kept. A tensor shares the memory of the episode's array, and keeps it, where that begins at a multiple of 64
    bytes, and is a copy where it does not; see `episodes.adapters.jax.to_jax` for when it does.

    Raises:
        SpecError: a block of episodes of different sizes, which cannot be stacked.
    """
    return each_with_axis(item, _tensor)


def dataset(source: Series[Any] | Stream[Any], **options: Any) -> tf.data.Dataset:
    """Episodes as a ``tf.data.Dataset`` of nested dicts, for ``prefetch``, ``map`` and Keras.

    An element is ``{"index", "class_ids", "variants", "class_fields", "support", "query", "unlabeled"}``; the last three
    are ``{"fields", "labels", "rows"}``, with no rows where an episode has none. Shapes are ``[B, n, ...]``, B = 1 without
    `block`; B and n are left open in the signature, so that one trace of a ``tf.function`` serves all. Each element is
    copied once.

    Args:
        source: a series, of which each pass over the dataset begins a new stream; or a stream, which goes on where it is.
        **options: of `Stream`, where a series is given: start, block, workers, rank, world.

    Raises:
        StreamError: an option out of range.
        WorkerFailed, SpecError: through TensorFlow, which wraps them in an error of its own with their text.
    """
    series = source.series if isinstance(source, Stream) else source
    if not isinstance(source, Stream):
        Stream(source, **options).close()  # refuses here what it would refuse in TensorFlow's thread

    signature = _signature(_element(series[0]))

    def element(item: Episode[NDArray[Any]] | Block) -> dict[str, Any]:
        made = _element(item)
        _check(made, signature, f"episode {int(made['index'])}")
        return made

    def elements() -> Iterator[dict[str, Any]]:
        if isinstance(source, Stream):
            yield from map(element, source)
        else:
            with Stream(source, **options) as stream:
                yield from map(element, stream)

    return tf.data.Dataset.from_generator(elements, output_signature=signature)


def _tensor(values: NDArray[Any]) -> tf.Tensor:
    if values.ctypes.data % _ALIGN or not values.flags.writeable or not values.size:
        return tf.constant(values)
    return tf.experimental.dlpack.from_dlpack(values.__dlpack__())


def _element(item: Episode[NDArray[Any]] | Block) -> dict[str, Any]:
    episode = each_with_axis(item, lambda values: values)
    empty = Part(
        fields={name: values[:, :0] for name, values in episode.query.fields.items()},
        labels=episode.query.labels[:, :0],
        rows=episode.query.rows[:, :0],
    )
    return {
        "index": np.int64(episode.index),
        "class_ids": episode.class_ids,
        "variants": episode.variants,
        "class_fields": dict(episode.class_fields),
        "support": _part(episode.support),
        "query": _part(episode.query),
        "unlabeled": _part(episode.unlabeled or empty),
    }


def _part(part: Part[NDArray[Any]]) -> dict[str, Any]:
    return {"fields": dict(part.fields), "labels": part.labels, "rows": part.rows}


def _signature(element: Any) -> Any:
    """The nested ``tf.TensorSpec`` of an element: as it is, with the first two axes open."""
    if isinstance(element, Mapping):
        return {name: _signature(values) for name, values in element.items()}
    return tf.TensorSpec([None, None, *element.shape[2:]] if element.ndim else [], element.dtype)


def _check(element: Any, signature: Any, where: str) -> None:
    """Refuse what TensorFlow would make another type of without a word, or tell without saying of which episode."""
    if isinstance(element, Mapping):
        if element.keys() != signature.keys():
            raise SpecError(f"{where} has {', '.join(element)}; the first of the series has {', '.join(signature)}")
        for name, values in element.items():
            _check(values, signature[name], f"{where}, {name}")
    elif tf.as_dtype(element.dtype) != signature.dtype:
        raise SpecError(f"{where} is {element.dtype}; in the first episode of the series it is {signature.dtype.name}")
