"""Encoded fields: images kept as JPEG bytes, decoded by libjpeg-turbo where they are read.

The accurate DCT and the smooth chroma upsampling are used, never the fast ones, so that decoding gives the same values
everywhere, and the values of Pillow. The decoder runs without the interpreter lock: threads decode in parallel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from episodes.errors import StoreError
from episodes.protocols import FieldSpec
from episodes.store._planes import split_planes

_MAX_SIDE = 65500  # of a JPEG, by libjpeg

Bytes = NDArray[np.uint8]


def can_encode(spec: FieldSpec) -> bool:
    """Whether a field holds images that a JPEG can: uint8, (1 or 3, height, width)."""
    if spec.dtype != "uint8" or len(spec.shape) != 3:
        return False
    channels, height, width = spec.shape
    return channels in (1, 3) and 1 <= height <= _MAX_SIDE and 1 <= width <= _MAX_SIDE


@cache
def codec() -> Any:
    """The module that decodes and encodes.

    Raises:
        StoreError: it is not installed.
    """
    try:
        import simplejpeg
    except ImportError:
        raise StoreError(
            "JPEG-encoded fields need simplejpeg, which is not installed; `pip install episodes[jpeg]`"
        ) from None
    return simplejpeg


def encode(image: Bytes, quality: int) -> bytes:
    """`image` ([1 or 3, height, width]) as a JPEG, grey or colour without subsampling (4:4:4); a pure function of both."""
    kind = {"colorspace": "GRAY", "colorsubsampling": "Gray"} if len(image) == 1 else {"colorsubsampling": "444"}
    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    data: bytes = codec().encode_jpeg(pixels, quality=quality, fastdct=False, **kind)
    return data


def decodes_to(data: bytes, image: Bytes) -> bool:
    """Whether `data` is a JPEG of precisely the pixels of `image` ([channels, height, width])."""
    try:
        if codec().decode_jpeg_header(data)[:2] != image.shape[1:]:
            return False
        decoded = np.empty_like(image, order="C")
        decode(data, decoded)
    except ValueError:
        return False
    return np.array_equal(decoded, image)


def decode(data: bytes | Bytes, out: Bytes, pixels: Bytes | None = None) -> None:
    """Decode a JPEG into `out` ([1 or 3, height, width], contiguous), by way of `pixels` (``out.size`` bytes) if given.

    Raises:
        ValueError: the bytes are damaged, or not of an image of this size.
    """
    channels, *size = out.shape
    wanted = (*size, channels)
    if channels == 1:
        got = codec().decode_jpeg(data, "GRAY", buffer=out)
    else:
        pixels = np.empty(out.size, np.uint8) if pixels is None else pixels
        got = codec().decode_jpeg(data, "RGB", buffer=pixels)
    if got.shape != wanted:
        raise ValueError(f"it is an image of {'x'.join(map(str, got.shape[:2]))}, not {'x'.join(map(str, size))} pixels")
    if channels == 3:
        split_planes(pixels, out.reshape(3, -1))


def decode_rows(
    images: Sequence[Bytes],
    shards: NDArray[np.int64],
    spans: NDArray[np.int64],
    out: Bytes,
    damaged: Callable[[int, str], Exception],
) -> None:
    """Decode one image a row into `out`.

    Args:
        images: by shard, the memory in which its images lie.
        shards: [n] shard of each row.
        spans: [n, 2] first byte and length of each row's image in that memory.
        out: [n, channels, height, width], contiguous.
        damaged: (place in `out`, reason) -> what to raise.
    """
    pixels = np.empty(out[:1].size, np.uint8)
    for i, (shard, (start, length)) in enumerate(zip(shards.tolist(), spans.tolist(), strict=True)):
        data = images[shard][start : start + length] if start >= 0 else images[shard][:0]
        try:
            decode(data, out[i], pixels)
        except ValueError as error:
            raise damaged(i, str(error)) from error
