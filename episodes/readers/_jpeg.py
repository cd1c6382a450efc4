"""A JPEG without its metadata, and which way up it is; and its pixels, where libjpeg-turbo can be asked without Pillow.

What Pillow need not parse cannot make it warn or fail.

Pillow reads EXIF and multi-picture blocks as it opens a file and warns about damaged ones, which ImageNet is known for.
Warnings go through the filters of the whole process, which a decoding thread may not touch; so the blocks are cut out.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

from PIL import Image

_ORIENTATION, _SHORT = 0x0112, 3
# What decides pixels: JFIF (APP0) and Adobe (APP14), which state the colour transform, and all that is not APPn.
_METADATA = {*range(0xE1, 0xF0)} - {0xEE}


def is_jpeg(data: bytes) -> bool:
    """Whether `data` begins as a JPEG does."""
    return data.startswith(b"\xff\xd8\xff")


def without_metadata(data: bytes) -> tuple[bytes, int]:
    """(the JPEG without metadata, its EXIF orientation 1..8; 1 where it has none or the block is damaged)."""
    kept, orientation, at = [data[:2]], 1, 2
    while at + 4 <= len(data) and data[at] == 0xFF and 0xC0 <= (kind := data[at + 1]) <= 0xFE and kind != 0xDA:
        end = at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
        block = data[at:end]
        if kind == 0xE1 and block[4:10] == b"Exif\0\0" and orientation == 1:
            orientation = _orientation(block[10:])
        if kind not in _METADATA:
            kept.append(block)
        at = end
    return b"".join((*kept, data[at:])), orientation


def _orientation(tiff: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}L", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHLH", tiff, entry)
            if (tag, kind) == (_ORIENTATION, _SHORT):
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:  # a directory that ends before it says it does
        pass
    return 1


def turbo(data: bytes, most: int | None) -> Image.Image | None:
    """A grey or colour JPEG of `most` pixels or fewer as Pillow decodes it, to the bit, in a third of the time.

    None: it is for Pillow to decode it, or to say what is wrong with it; or simplejpeg is not installed.
    """
    codec = _codec()
    if codec is None:
        return None
    try:
        height, width, space, _ = codec.decode_jpeg_header(data)
        if space not in ("YCbCr", "Gray") or (most is not None and height * width > most):
            return None
        pixels = codec.decode_jpeg(data, "GRAY" if space == "Gray" else "RGB")
    except ValueError:  # damaged, if only by bytes that Pillow overlooks
        return None
    return Image.fromarray(pixels[..., 0] if space == "Gray" else pixels)


@cache
def _codec() -> Any:
    """The module, or None where it is not installed."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg
