"""Glyphs: invented alphabets, generated on the spot; the embedded data set of tests, tutorials and the demo.

In the spirit of the forward model of Lake, Salakhutdinov, Tenenbaum 2015: an alphabet (group) owns a set of stroke
primitives and habits of joining them; a character (class) is a small program of strokes with relations; a drawing (sample)
runs that program with motor noise, in the hand of one of twenty drawers, under a small affine change and with a pen of
some width, rendered with anti-aliasing. Ink is 255 on 0. The key is the drawer's number (``01``).

By default 50 alphabets of 14 to 26 characters, 20 drawings each, split by alphabet: 60 % train, 16 % val, 24 % test.

A drawing is a pure function of (seed, alphabet, character, drawing, size): asking for more alphabets or drawings changes
none that were there before, and only exactly rounded arithmetic is used, so the bytes are the same on every platform.
Generated, so free of any licence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from episodes.errors import ConfigError, ReaderError
from episodes.protocols import FieldSpec, Listing, RawSample
from episodes.readers import _strokes as strokes

SOURCE: str | None = None

FEWEST, MOST = 14, 26  # characters of an alphabet
SPLITS = (("train", 60), ("val", 16), ("test", 24))  # percent of the alphabets


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which alphabets to invent."""

    seed: int = field(default=0, metadata={"help": "another seed invents other alphabets"})
    alphabets: int = field(default=50, metadata={"help": "number of alphabets"})
    drawings: int = field(default=20, metadata={"help": "drawings of each character"})
    size: int = field(default=28, metadata={"help": "height and width of the images, pixels"})

    def __post_init__(self) -> None:
        for name, low, high in (("seed", 0, 2**63), ("alphabets", 3, 1000), ("drawings", 1, 1000), ("size", 8, 256)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name}: expected {low}..{high}, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class GlyphsReader:
    """See the module's docstring."""

    options: Options
    name: str = "glyphs"
    version: int = 1

    def listing(self) -> Listing:
        """All drawings; none is made yet."""
        o = self.options
        samples, groups, members = [], {}, {}
        for a in range(o.alphabets):
            members[a] = [f"Alphabet{a + 1:03d}/character{c + 1:02d}" for c in range(_characters(o.seed, a))]
            for c, name in enumerate(members[a]):
                groups[name] = f"Alphabet{a + 1:03d}"
                samples += [
                    RawSample(name, f"{d + 1:02d}", partial(_load, o.seed, a, c, d, o.size)) for d in range(o.drawings)
                ]
        splits = {
            split: [name for a in alphabets for name in members[a]]
            for split, alphabets in _split(o.seed, o.alphabets).items()
        }
        fields = {"image": FieldSpec("uint8", (1, o.size, o.size))}
        return Listing(fields=fields, samples=samples, groups=groups, splits={"glyphs": splits})


def make(source: Path | None, options: Options) -> GlyphsReader:
    """The reader; it takes no source."""
    if source is not None:
        raise ReaderError(f"reader 'glyphs' generates its data and takes no source; got {source}")
    return GlyphsReader(options)


def _characters(seed: int, alphabet: int) -> int:
    return FEWEST + strokes.Draws(seed, "characters", alphabet).below(MOST - FEWEST + 1)


def _split(seed: int, alphabets: int) -> dict[str, list[int]]:
    """Alphabets of each split, ascending: in keyed order, cut by the shares of `SPLITS`, at least one each."""
    order = sorted(range(alphabets), key=lambda a: (strokes.Draws(seed, "split", a).uniform(), a))
    val, test = (max(1, round(alphabets * share / 100)) for _, share in SPLITS[1:])
    cuts = [alphabets - val - test, alphabets - test]
    parts = (order[: cuts[0]], order[cuts[0] : cuts[1]], order[cuts[1] :])
    return {split: sorted(part) for (split, _), part in zip(SPLITS, parts, strict=True)}


@cache
def _alphabet(seed: int, alphabet: int) -> tuple[strokes.Character, ...]:
    """The characters of an alphabet; each is told apart from those before it."""
    style = strokes.invent_style(strokes.Draws(seed, "style", alphabet))
    characters: list[strokes.Character] = []
    for c in range(_characters(seed, alphabet)):
        characters.append(strokes.invent_character(style, characters, seed, "character", alphabet, c))
    return tuple(characters)


def _load(seed: int, alphabet: int, character: int, drawing: int, size: int) -> Mapping[str, NDArray[np.uint8]]:
    drawer = strokes.invent_drawer(strokes.Draws(seed, "drawer", alphabet, drawing))
    draws = strokes.Draws(seed, "drawing", alphabet, character, drawing)
    paths, width = strokes.draw(_alphabet(seed, alphabet)[character], drawer, draws)
    return {"image": render(paths, width, size)[None]}


def render(paths: NDArray[np.float64], width: float, size: int) -> NDArray[np.uint8]:
    """Anti-aliased ink of polylines [lines, points, 2] in fractions of the image: [size, size], 255 where inked.

    A pixel's ink is how far the pen's edge reaches beyond its centre, in pixels, within 0..1. Each piece of a line is
    drawn on the square of pixels that it can reach, and where pieces overlap the darker wins.
    """
    points = (paths * size).astype(np.float32)
    begin, end = points[:, :-1].reshape(-1, 2), points[:, 1:].reshape(-1, 2)
    half = np.float32(max(width * size / 2, 0.5))
    reach = half + np.float32(0.5)
    along = end - begin
    window = int(np.ceil(float(np.abs(along).max()) + 2 * float(reach))) + 1
    corner = np.floor(np.minimum(begin, end) - reach).astype(np.int64)
    local = corner.astype(np.float32) + np.float32(0.5) - begin
    step = np.arange(window, dtype=np.float32)
    x, y = local[:, :1] + step, local[:, 1:] + step  # [pieces, window] pixel centres, from the piece's begin
    unit = along / (along[:, :1] * along[:, :1] + along[:, 1:] * along[:, 1:] + np.float32(1e-12))
    t = (x * unit[:, :1])[:, None, :] + (y * unit[:, 1:])[:, :, None]
    t = np.minimum(np.maximum(t, np.float32(0)), np.float32(1))
    across, down = x[:, None, :] - t * along[:, :1, None], y[:, :, None] - t * along[:, 1:, None]
    ink = np.minimum(np.maximum(reach - np.sqrt(across * across + down * down), np.float32(0)), np.float32(1))
    wide = size + 2 * window  # a margin, so that no window needs clipping
    canvas = np.zeros(wide * wide, np.float32)
    cell = (corner[:, 1] + window) * wide + corner[:, 0] + window
    index = cell[:, None, None] + (np.arange(window) * wide)[None, :, None] + np.arange(window)
    np.maximum.at(canvas, index.ravel(), ink.ravel())
    image = canvas.reshape(wide, wide)[window:-window, window:-window]
    rounded: NDArray[np.uint8] = np.floor(image * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return rounded
