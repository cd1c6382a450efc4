"""Payload ``images``: the pictures of an episode as files, without loss: stored JPEG bytes untouched, everything else PNG.

The bytes of a PNG are those of the installed Pillow; its pixels are the same everywhere.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from episodes.protocols import FieldSpec, SampleStore
from episodes.shards.record import Buffer, member
from episodes.store._encoded import decode

_LEVEL = 6  # of PNG's compression


def is_picture(spec: FieldSpec) -> bool:
    """Whether a field's rows can be files: uint8, (1 or 3, height, width)."""
    return spec.dtype == "uint8" and len(spec.shape) == 3 and spec.shape[0] in (1, 3)


def picture_members(key: str, field: str, values: NDArray[np.uint8], kept: Sequence[bytes] | None) -> Iterator[Buffer]:
    """One member a row.

    Args:
        key: of the episode.
        field: name of the field.
        values: [N, channels, height, width].
        kept: the stored JPEG bytes of each row, where they show just these values.
    """
    for i, image in enumerate(values):
        if kept is not None:
            yield from member(f"{key}.{i:04d}.{field}.jpg", kept[i])
        else:
            yield from member(f"{key}.{i:04d}.{field}.png", _png(image))


def _png(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    Image.fromarray(pixels).save(file, "PNG", compress_level=_LEVEL)
    return file.getvalue()


def read_picture(name: str, data: bytes, out: NDArray[np.uint8]) -> None:
    """Decode a member into `out` [channels, height, width].

    Raises:
        ValueError: it is damaged, or of another size.
    """
    if name.endswith(".jpg"):
        decode(data, out)
        return
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            pixels = np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(str(error)) from error
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if planes.shape != out.shape:
        raise ValueError(f"it is {planes.shape}, not {out.shape}")
    out[:] = planes


def kept_bytes(store: SampleStore, field: str, rows: NDArray[np.int64]) -> list[bytes] | None:
    """The encoded bytes of rows, of a store that keeps them."""
    encoded: Any = getattr(store, "encoded", None)
    return None if encoded is None else encoded(field, rows)
