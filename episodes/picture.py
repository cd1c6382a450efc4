"""An episode as a picture: one line a class, one for distractors: name, support, queries, unlabeled rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from episodes.episode import Episode
from episodes.errors import SpecError

CELL, GAP, NAME, HEAD = 56, 4, 190, 22  # pixels
PAPER, INK, FAINT = (250, 250, 248), (30, 30, 30), (120, 120, 120)


def draw(episode: Episode[NDArray[Any]], names: Sequence[str], *, field: str | None = None) -> Image.Image:
    """The picture of an episode from a series (``[n, ...]`` arrays).

    Args:
        episode: its images are uint8, [n, 1 or 3, height, width].
        names: of its classes, in order of their labels.
        field: which field holds the images; default the first that does.

    Raises:
        SpecError: the episode has no such field.
    """
    fields = episode.support.fields if len(episode.support.labels) else episode.query.fields
    images = [name for name, values in fields.items() if values.ndim == 4 and values.shape[1] in (1, 3)]
    field = field or (images[0] if images else None)
    if field not in images:
        named = "" if field is None else f" '{field}'"
        raise SpecError(f"the episode has no image field{named}; its fields are {', '.join(fields)}")
    parts = [("support", episode.support), ("query", episode.query)]
    parts += [("unlabeled", episode.unlabeled)] if episode.unlabeled else []
    if any((part.labels < 0).any() for _, part in parts):
        names = [*names, "distractors"]
        # A line of their own below the classes; it is as long as they are many.
        parts = [
            (title, replace(part, labels=np.where(part.labels < 0, len(names) - 1, part.labels))) for title, part in parts
        ]
    widths = [max(1, int(np.bincount(part.labels, minlength=1).max(initial=0))) for _, part in parts]
    step = CELL + GAP
    size = (NAME + sum(w * step + 3 * GAP for w in widths), HEAD + len(names) * step)
    canvas = Image.new("RGB", size, PAPER)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for label, name in enumerate(names):
        shown = name if len(name) <= 28 else "…" + name[-27:]
        pen.text((GAP, HEAD + label * step + CELL // 2 - 7), shown, fill=INK, font=font)
    left = NAME
    for (title, part), width in zip(parts, widths, strict=True):
        pen.text((left, 4), title, fill=FAINT, font=font)
        for label in range(len(names)):
            for place, row in enumerate(np.flatnonzero(part.labels == label)):
                canvas.paste(_cell(part.fields[field][row]), (left + place * step, HEAD + label * step))
        left += width * step + 3 * GAP
    return canvas


def _cell(image: NDArray[Any]) -> Image.Image:
    values = np.ascontiguousarray(image.astype(np.uint8).transpose(1, 2, 0))
    cell = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
    return cell.convert("RGB").resize(
        (CELL, CELL), Image.Resampling.NEAREST if cell.width <= CELL else Image.Resampling.BOX
    )
