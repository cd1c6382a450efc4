"""Smooth keyed pictures, which a JPEG keeps nearly as they are, and a reader of them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from worlds import TellingReader

from episodes.protocols import FieldSpec, Listing


def picture(seed: int, size: tuple[int, int] = (24, 16), channels: int = 3) -> Image.Image:
    """A picture of (width, height), a pure function of its arguments."""
    rng = np.random.Generator(np.random.Philox(seed))
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return coarse if channels == 3 else coarse.convert("L")


def saved(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """The bytes of a file of `image`."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


class PictureReader(TellingReader):
    """A TellingReader of grey pictures of 8 x 8."""

    def listing(self) -> Listing:
        """As the TellingReader's, with other images."""
        one = super().listing()
        return Listing(
            fields={"image": FieldSpec("uint8", (1, 8, 8))}, samples=one.samples, groups=one.groups, splits=one.splits
        )

    def _load(self, c: int, place: int) -> dict[str, np.ndarray]:
        super()._load(c, place)  # may be broken
        return {"image": np.asarray(picture(100 * c + place, (8, 8), 1))[None]}
