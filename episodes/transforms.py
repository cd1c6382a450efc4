"""Transforms of an episode's images: what to do, as a value; what it draws for each row, from a key.

One image passes through, in this order, leaving out what is not asked for:

1. geometry: quarter turns of its class, then affine, padded crop, flip, composed into one map from output pixel to source
   pixel, so that it is resampled once at most; what lies outside the image is `fill`;
2. tone: contrast, then brightness;
3. delivery: layout, and float32 ``(x / 255 - mean) / std``.

The first two are whole-number arithmetic from uint8 to uint8 and the third is one product and one sum in float32. So the
compiled gather (`episodes.store._fused`) and a device (`episodes.adapters._torch_transform`) agree bit by bit, and uint8
that is delivered and normalised on the device is what float32 delivery gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from episodes.classes import EMPTY, TURNS, Int
from episodes.errors import ConfigError, SpecError
from episodes.protocols import FieldSpec

Layout = Literal["chw", "hwc"]
NUMBERS = 8  # columns of `Transform.draw`


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """What happens to a uint8 image field on its way into an episode. Hashable; ``str()`` is its canonical form.

    Random parts are drawn for each (episode, row): an image and its mask in another field move alike, and a row is the
    same wherever its episode is made.

    Raises:
        ConfigError: a value is out of range; the message begins with its name.
    """

    field: str = "image"
    stored: Layout = "chw"
    """Layout of the field in the store."""
    layout: Layout = "chw"
    """Layout that is delivered."""
    dtype: Literal["uint8", "float32"] | None = None
    """Type that is delivered; None becomes float32 where `mean` or `std` is given, else uint8."""
    mean: tuple[float, ...] = ()
    """Per channel, or one for all, of pixels in 0..1; subtracted."""
    std: tuple[float, ...] = ()
    """Per channel, or one for all, of pixels in 0..1; divided by."""
    flip: bool = False
    """Mirror left and right, half the time."""
    crop_padding: int = 0
    """Pad every side by this many pixels and cut the old size out at a uniform place."""
    rotate: float = 0.0
    """Turn about the centre by up to this many degrees either way."""
    translate: float = 0.0
    """Shift by up to this share of the height and of the width, either way."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Enlarge about the centre by a factor from this range."""
    fill: int = 0
    """Value of what lies outside the image: 255 for white paper."""
    brightness: float = 0.0
    """Add up to this share of 255, either way."""
    contrast: float = 0.0
    """Multiply the distance from 128 by 1 ± up to this."""

    def __post_init__(self) -> None:
        for name in ("stored", "layout"):
            if getattr(self, name) not in ("chw", "hwc"):
                raise ConfigError(f"{name}: expected 'chw' or 'hwc', got {getattr(self, name)!r}")
        for name, most in (("rotate", 180), ("translate", 1), ("brightness", 1), ("contrast", 1)):
            object.__setattr__(self, name, _number(name, getattr(self, name), 0, most))
        for name, most in (("crop_padding", 4096), ("fill", 255)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                raise ConfigError(f"{name}: expected a whole number in 0..{most}, got {value!r}")
        if not isinstance(self.flip, bool):
            raise ConfigError(f"flip: expected true or false, got {self.flip!r}")
        object.__setattr__(self, "scale", _numbers("scale", self.scale, 1 / 16, 16))
        if len(self.scale) != 2 or self.scale[0] > self.scale[1]:
            raise ConfigError(f"scale: expected a lower and an upper end, got {self.scale}")
        self._check_delivery()

    def _check_delivery(self) -> None:
        object.__setattr__(self, "mean", _numbers("mean", self.mean, -math.inf, math.inf))
        object.__setattr__(self, "std", _numbers("std", self.std, 0, math.inf))
        if 0.0 in self.std:
            raise ConfigError(f"std: expected numbers above 0, got {self.std}")
        normalises = bool(self.mean or self.std)
        if self.dtype is None:
            object.__setattr__(self, "dtype", "float32" if normalises else "uint8")
        if self.dtype not in ("uint8", "float32"):
            raise ConfigError(f"dtype: expected 'uint8' or 'float32', got {self.dtype!r}")
        if normalises and self.dtype == "uint8":
            raise ConfigError("dtype: expected 'float32' where mean or std is given, got 'uint8' (leave dtype out)")

    def __str__(self) -> str:
        """Every value that is not the default, in one fixed form; part of a fingerprint."""
        given = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        return f"Transform({', '.join(f'{name}={value!r}' for name, value in given)})"

    @property
    def resamples(self) -> bool:
        """Whether places fall between pixels; if not, geometry moves whole pixels."""
        return self.rotate > 0 or self.translate > 0 or self.scale != (1.0, 1.0)

    @property
    def tones(self) -> bool:
        """Whether brightness or contrast change."""
        return self.brightness > 0 or self.contrast > 0

    @property
    def draws(self) -> bool:
        """Whether anything is random."""
        return self.resamples or self.tones or self.flip or self.crop_padding > 0

    @property
    def pixels(self) -> Transform:
        """The same without normalisation: what to deliver to a device that normalises there."""
        return replace(self, dtype="uint8", mean=(), std=())

    def size(self, field: FieldSpec) -> tuple[int, int, int]:
        """(channels, height, width) of the images of `field`.

        Raises:
            SpecError: they are no uint8 images, or of another number of channels than `mean` or `std`.
        """
        if field.dtype != "uint8" or len(field.shape) != 3 or 0 in field.shape:
            axes = "(channels, height, width)" if self.stored == "chw" else "(height, width, channels)"
            raise SpecError(f"field '{self.field}' is {field.dtype} of shape {field.shape}; transforms need uint8 {axes}")
        a, b, c = field.shape
        channels, height, width = (a, b, c) if self.stored == "chw" else (c, a, b)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (0, 1, channels):
                raise SpecError(
                    f"{name} has {len(values)} numbers; field '{self.field}' of shape {field.shape} has {channels} "
                    f"channels as stored='{self.stored}'"
                )
        return channels, height, width

    def output(self, field: FieldSpec) -> FieldSpec:
        """Type and shape of what `field` becomes.

        Raises:
            SpecError: as `size`.
        """
        channels, height, width = self.size(field)
        shape = (channels, height, width) if self.layout == "chw" else (height, width, channels)
        return FieldSpec("uint8" if self.dtype == "uint8" else "float32", shape)

    def normaliser(self, channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """([C] factor, [C] term): float32 delivery is ``x * factor + term``, two roundings; both empty for uint8."""
        if self.dtype == "uint8":
            return np.empty(0, np.float32), np.empty(0, np.float32)
        mean = np.broadcast_to(np.array(self.mean or (0.0,)), channels)
        std = np.broadcast_to(np.array(self.std or (1.0,)), channels)
        return (1.0 / (255.0 * std)).astype(np.float32), (-mean / std).astype(np.float32)

    def draw(
        self, field: FieldSpec, seed: int, stream: int, indices: NDArray[np.uint64], rows: Int, turns: Int = EMPTY
    ) -> NDArray[np.int64]:
        """Numbers of the random parts and of quarter turns, for rows of any episodes in any order.

        A pure function, row by row, of (seed, stream, index, row, turn): which rows are asked for together does not
        matter. Each part has random words of its own, so switching one on leaves the others' draws as they were.

        Args:
            field: of the store.
            seed: the episodes' seed.
            stream: the episodes' stream key (`episodes.rng.stream_key`), which keeps splits apart.
            indices: [n] episode of each row.
            rows: [n] row of the store.
            turns: [n] quarter turns counter-clockwise, 0..3; empty: none.

        Returns:
            [n, 8]: source place ``y = (n0*Y + n1*X + n2) / 65536``, ``x = (n3*Y + n4*X + n5) / 65536`` of output pixel
            (Y, X); gain and bias of the tone, in 65536ths. [0, 8] where nothing moves and nothing is drawn.

        Raises:
            SpecError: as `size`; or odd quarter turns of images that are not square.
        """
        from episodes._transform_numbers import fill_numbers

        _, height, width = self.size(field)
        if len(turns) and height != width and (turns % 2).any():
            raise SpecError(f"field '{self.field}' of shape {field.shape} is no square image; it has no quarter turns")
        if not self.draws and not turns.any():
            return np.empty((0, NUMBERS), np.int64)
        affine = (math.radians(self.rotate), self.translate, *self.scale)
        limits = np.array([self.flip, self.crop_padding, *affine, self.brightness, self.contrast], np.float64)
        out = np.empty((len(rows), NUMBERS), np.int64)
        key = np.uint64(seed), np.uint64(stream)
        fill_numbers(*key, np.asarray(indices, np.uint64), rows, turns, height, width, limits, out)
        return out


def _number(name: str, value: Any, low: float, high: float) -> float:
    """`value` as a finite float in low..high."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ConfigError(f"{name}: expected a number, got {value!r}")
    if not (math.isfinite(value) and low <= value <= high):
        rule = f"a number in {low:g}..{high:g}" if math.isfinite(high) else "a finite number"
        raise ConfigError(f"{name}: expected {rule}{' of 0 or more' if low == 0 < high == math.inf else ''}, got {value!r}")
    return float(value)


def _numbers(name: str, values: Any, low: float, high: float) -> tuple[float, ...]:
    if isinstance(values, str) or not isinstance(values, (Sequence, np.ndarray)):
        raise ConfigError(f"{name}: expected a list of numbers, got {values!r}")
    return tuple(_number(name, value, low, high) for value in values)


def delivery(transforms: Iterable[Transform]) -> dict[str, Transform]:
    """Field -> how its images are delivered, where that is not as they are stored: nothing random."""
    made = {one.field: Transform(**{name: getattr(one, name) for name in _DELIVERED}) for one in transforms}
    return {name: one for name, one in made.items() if one != Transform(field=name)}


_DELIVERED = ("field", "stored", "layout", "dtype", "mean", "std")


def quarter_turn(images: NDArray[Any], turns: Int) -> None:
    """Turn ``images[i]`` in place by ``turns[i]`` quarter turns counter-clockwise: an exact rotation, nothing resampled.

    Args:
        images: [n, ..., size, size], any dtype.
        turns: [n] in 0..3.
    """
    for turn in range(1, TURNS):
        (chosen,) = np.nonzero(turns == turn)
        if len(chosen):
            images[chosen] = np.rot90(images[chosen], turn, axes=(-2, -1))
