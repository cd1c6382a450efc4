"""Encoded image -> uint8 array, channel first; what is done with every kind of image is stated here.

- EXIF orientation is applied. Of an animation the first frame is taken.
- Transparency (RGBA, LA, palette with a transparent entry) is laid over white.
- Palette, CMYK and YCbCr images become RGB, or grey by the luma 0.299 R + 0.587 G + 0.114 B.
- 16-bit grey (0..65535) is divided by 257 and rounded, not clipped. Of 16-bit colour Pillow gives the upper 8 bits.
- Resizing is bilinear with Pillow's antialiasing: the filter widens with the reduction, so shrinking averages.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from episodes.errors import ReaderError
from episodes.readers._jpeg import is_jpeg, turbo, without_metadata

Mode = Literal["rgb", "grey"]
Fit = Literal["crop", "squash", "pad"]
CHANNELS: dict[str, int] = {"rgb": 3, "grey": 1}
# Only these are tried, whatever a file's name: of Pillow's other formats one starts a program (EPS).
FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
# What Pillow's decoders raise on bad bytes, by their sources; OSError is only the commonest.
_BROKEN = (
    *(OSError, EOFError, ValueError, TypeError, SyntaxError, IndexError, KeyError, OverflowError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
    Warning,  # where the process turns Pillow's into errors
)
# EXIF orientation -> what makes the picture upright.
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, name: str, *, mode: Mode, size: int | None, fit: Fit) -> NDArray[np.uint8]:
    """Decode to [channels, height, width].

    Args:
        data: the file's bytes.
        name: of the file, for errors.
        mode: ``rgb`` (3 channels) or ``grey`` (1).
        size: height and width of the result; None keeps the image's own.
        fit: how a picture that is not square becomes one: ``crop`` its middle, ``squash`` it, or ``pad`` with white.

    Raises:
        ReaderError: not an image, truncated, corrupt or of a kind not supported.
    """
    try:
        # Warnings are not filtered here: filters belong to the process, and threads that set them leave them changed.
        body, orientation = without_metadata(data) if is_jpeg(data) else (data, None)
        image = None if orientation is None else turbo(body, Image.MAX_IMAGE_PIXELS)
        if image is not None:
            flat = _flat(image, mode)
        else:
            with _opened(body, orientation) as (image, orientation):
                _check_pixels(image)
                image.load()
                flat = _flat(image, mode)
    except _BROKEN as error:
        raise ReaderError(
            f"cannot decode image {name}: {_reason(error)} (replace the file, or leave such samples out with --skip-broken)"
        ) from error
    if orientation in _TURNS:
        flat = flat.transpose(_TURNS[orientation])
    if size is not None:
        flat = resize(flat, size, fit)
    values: NDArray[Any] = np.asarray(flat, np.uint8)
    return np.ascontiguousarray(values.reshape(*values.shape[:2], -1).transpose(2, 0, 1))


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """(height, width) as `decode` gives them, from the header alone.

    Raises:
        ReaderError: not an image.
    """
    try:
        body, orientation = without_metadata(data) if is_jpeg(data) else (data, None)
        with _opened(body, orientation) as (image, orientation):
            width, height = image.size
    except _BROKEN as error:
        raise ReaderError(f"cannot decode image {name}: {_reason(error)} (replace the file)") from error
    return (width, height) if orientation >= 5 else (height, width)  # 5..8 swap the axes


def resize(image: Image.Image, size: int, fit: Fit) -> Image.Image:
    """`image` as size x size."""
    if image.size == (size, size):
        return image
    if fit == "squash":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    if fit == "crop":
        return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return ImageOps.pad(image, (size, size), Image.Resampling.BILINEAR, color="white")


@contextmanager
def _opened(body: bytes, orientation: int | None) -> Iterator[tuple[Image.Image, int]]:
    """(the image, its header read; its EXIF orientation, as given or as Pillow finds it)."""
    with Image.open(io.BytesIO(body), formats=FORMATS) as image:
        yield image, image.getexif().get(0x0112, 1) if orientation is None else orientation


def _check_pixels(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(f"{image.width} x {image.height} pixels are more than the {limit} that are safe to decode")


def _reason(error: Exception) -> str:
    # Pillow's own words for this one name a buffer in memory.
    return "it is no image of a known format" if isinstance(error, UnidentifiedImageError) else str(error)


def _flat(image: Image.Image, mode: Mode) -> Image.Image:
    if image.mode.startswith("I"):  # of these formats 16-bit PNG only, which Pillow 10.1 calls I and later ones I;16
        values = np.asarray(image).astype(np.uint32)
        if "transparency" in image.info:
            values[values == image.info["transparency"]] = 65535
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB" if mode == "rgb" else "L")
