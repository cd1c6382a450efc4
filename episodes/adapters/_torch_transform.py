"""Transforms on a device: the numbers of `Transform.draw` applied with torch, bit by bit as the compiled gather does.

No loop over images and no number read back from the device, so that a GPU is never waited for.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from episodes.transforms import Transform


def apply(images: Tensor, numbers: Tensor, transform: Transform, rows: Tensor | None = None) -> Tensor:
    """Transformed images, fresh and contiguous, on the device of `images`.

    Args:
        images: uint8 [n, *shape of the stored field]; with `rows`, [num_rows, *shape], a whole store.
        numbers: int64 [n, 8] of `Transform.draw`, on the same device; [0, 8]: nothing moves and the tone stays.
        transform: what was drawn for.
        rows: int64 [n] on the same device; rows of the store, in range.
    """
    if rows is not None:
        images = images.index_select(0, rows)
    planes = images if transform.stored == "chw" else images.permute(0, 3, 1, 2)
    if len(numbers):
        planes = _move(planes, numbers, transform)
        if transform.tones:
            planes = _tone(planes, numbers)
    return normalise(planes if transform.layout == "chw" else planes.permute(0, 2, 3, 1), transform)


def normalise(images: Tensor, transform: Transform) -> Tensor:
    """uint8 images in the delivered layout, as `Transform.pixels` gives them -> what `transform` delivers."""
    images = images.contiguous()
    if transform.dtype == "uint8":
        return images
    channels = images.shape[1 if transform.layout == "chw" else 3]
    scale, shift = _normaliser(transform, channels, images.device)
    return images.to(torch.float32).mul_(scale).add_(shift)  # two roundings, as the kernel; a fused one would differ


@lru_cache(maxsize=64)
def _normaliser(transform: Transform, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(factor, term) per channel, shaped for the delivered layout; kept, because a copy to a device waits for it."""
    shape = (channels, 1, 1) if transform.layout == "chw" else (channels,)
    scale, shift = (torch.from_numpy(values).view(shape).to(device) for values in transform.normaliser(channels))
    return scale, shift


def _move(planes: Tensor, numbers: Tensor, transform: Transform) -> Tensor:
    """Geometry of uint8 [n, C, H, W]."""
    height, width = planes.shape[2:]
    down = torch.arange(height, device=planes.device)[:, None]
    right = torch.arange(width, device=planes.device)
    m = numbers[:, :, None, None]
    y, x = m[:, 0] * down + m[:, 1] * right + m[:, 2], m[:, 3] * down + m[:, 4] * right + m[:, 5]  # [n, H, W]
    v, u = y >> 16, x >> 16
    if not transform.resamples:
        return _at(planes, v, u, transform.fill)
    p, q = ((y >> 8) & 255)[:, None].to(torch.int32), ((x >> 8) & 255)[:, None].to(torch.int32)
    top = _at(planes, v, u, transform.fill) * (256 - q) + _at(planes, v, u + 1, transform.fill) * q
    bottom = _at(planes, v + 1, u, transform.fill) * (256 - q) + _at(planes, v + 1, u + 1, transform.fill) * q
    return ((top * (256 - p) + bottom * p + 32768) >> 16).to(torch.uint8)


def _at(planes: Tensor, y: Tensor, x: Tensor, fill: int) -> Tensor:
    """[n, C, H, W] values of the pixels at [n, H, W] places, `fill` outside."""
    channels, height, width = planes.shape[1:]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    place = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).flatten(1)[:, None].expand(-1, channels, -1)
    values = planes.flatten(2).gather(2, place).view_as(planes)
    return values.masked_fill(~inside[:, None], fill)


def _tone(planes: Tensor, numbers: Tensor) -> Tensor:
    gain, bias = numbers[:, 6, None, None, None].to(torch.int32), numbers[:, 7, None, None, None].to(torch.int32)
    return ((planes * gain + (bias + 32768)) >> 16).clamp_(0, 255).to(torch.uint8)
