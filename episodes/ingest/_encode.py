"""Images of an encoded store: the bytes they came in where these fit, else encoded again; each is decoded as a check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from episodes.errors import ConfigError, StoreError
from episodes.protocols import Listing, RawSample, Reader
from episodes.store._encoded import can_encode, codec, decode, decodes_to, encode
from episodes.store.manifest import SPAN, Encoding

Kept = Literal["raw", "jpeg"]
QUALITY: Final = 95


def encodings_of(reader: Reader, listing: Listing, kept: Kept, quality: int) -> dict[str, Encoding]:
    """The fields that will be encoded, and how.

    Raises:
        ConfigError: an unknown encoding or quality, or no field that can be encoded.
        StoreError: the encoder is not installed.
    """
    if kept not in get_args(Kept):
        raise ConfigError(f"encoding: expected {' or '.join(get_args(Kept))}, got '{kept}'")
    if not 1 <= quality <= 100:
        raise ConfigError(f"quality: expected 1..100, got {quality}")
    if kept == "raw":
        return {}
    encodings = {name: Encoding(kept, quality) for name, spec in sorted(listing.fields.items()) if can_encode(spec)}
    if not encodings:
        found = ", ".join(f"{name} {spec.dtype} {spec.shape}" for name, spec in sorted(listing.fields.items()))
        raise ConfigError(
            f"encoding: reader '{reader.name}' gives no images, uint8 (1 or 3, height, width), to keep as {kept}; "
            f"it gives {found} (use raw)"
        )
    codec()
    return encodings


def encode_image(
    sample: RawSample, name: str, image: NDArray[np.uint8], encoding: Encoding
) -> tuple[bytes, NDArray[np.uint8]]:
    """(bytes to keep, what they decode to): the sample's own bytes if they decode to `image`, else `image` encoded.

    Raises:
        StoreError: what was encoded cannot be decoded.
    """
    raw = (sample.raw() if sample.raw else {}).get(name)
    if raw is not None and decodes_to(raw, image):
        return raw, image
    data, decoded = encode(image, encoding.quality), np.empty(image.shape, np.uint8)
    try:
        decode(data, decoded)
    except ValueError as error:
        raise StoreError(
            f"sample '{sample.key}' of class '{sample.class_name}': field '{name}' does not survive encoding ({error}); "
            "use --encoding raw"
        ) from error
    return data, decoded


def join_images(name: str, images: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
    """Images ([rows] of bytes) as the columns of a shard: all bytes one after the other, and the span of each row."""
    lengths = np.array([len(image) for image in images], np.int64)
    return {
        name: np.frombuffer(b"".join(images), np.uint8),
        SPAN + name: np.stack([np.cumsum(lengths) - lengths, lengths], axis=1),
    }
