"""Glyphs: invented alphabets, generated on the spot; the embedded data set of tests, tutorials and the demo.

In the spirit of the forward model of Lake, Salakhutdinov, Tenenbaum 2015: an alphabet (group) owns a set of stroke
primitives and habits of joining them; a character (class) is a small program of strokes with relations; a drawing
(sample) runs that program with motor noise, in the hand of one of the alphabet's drawers, under a small affine change
and with a pen of some width, rendered with anti-aliasing. Ink is 255 on 0. The key is the drawer's number (``01``).

By default 50 alphabets of 14 to 26 characters (1,009 in all), 20 drawings each, split by alphabet: 60 % train, 16 %
val, 24 % test. Pixel nearest neighbour is right in 31 % of 20-way and 52 % of 5-way 1-shot episodes of all classes.

A drawing is a pure function of (seed, alphabet, character, drawing, size), and size only sets its resolution. More
alphabets or drawings change none that were there before, but the splits are dealt anew. Only exactly rounded arithmetic
is used, so the bytes are the same on every platform. Generated; no licence needed.

The class field ``strokes``, float32 [64], describes a character without noise, within -1..1, in multiples of 1/256:

- 0: strokes / 4; 1, 2: width and height, as fractions of the image; 3: length of all lines / 4.
- 4 + 15 k, for stroke k of up to four, or zeros: 1; x and y of its start, of the points a quarter, half and three
  quarters along, and of its end, twice their distance from the letter's middle (10 numbers); its parts / 3; and 1, 0, 0
  where its pen comes down on the start of another stroke, 0, 1, 0 on the end of one, 0, 0, 1 on one's middle.

Strokes come in the order of the middles of their boxes, from the upper left on (x + y), and begin at the end nearer to it.
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
from episodes.readers import _program as program
from episodes.readers import _strokes as strokes

SOURCE: str | None = None

# What makes a picture of one's own, dark ink on light paper, one like those of the store.
OWN_PICTURES = {"fit": "squash", "invert": True}

FEWEST, MOST = 14, 26  # characters of an alphabet
SPLITS = (("train", 60), ("val", 16), ("test", 24))  # percent of the alphabets

# Motor noise and the variation of whole drawings, as standard deviations. Together they put pixel nearest neighbour
# about where it stands on Omniglot (27 % at 20 ways), yet keep the topology of a character.
TREMBLE, SWING, BOW = 0.025, 0.10, 0.06  # of a part's control points, of its end and of its middle, against its reach
GROW = 0.10  # of a part's width and height
SLANT, SIZE, ASPECT, TURN, SHIFT, PEN = 0.08, 0.08, 0.05, 0.04, 0.045, 0.08  # TURN: tangent of half the angle


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
        """All drawings, none of which is made yet; the characters are invented for their class field."""
        o = self.options
        samples, groups, members, attributes = [], {}, {}, {}
        for a in range(o.alphabets):
            members[a] = [f"Alphabet{a + 1:03d}/character{c + 1:02d}" for c in range(_characters(o.seed, a))]
            for c, name in enumerate(members[a]):
                groups[name] = f"Alphabet{a + 1:03d}"
                attributes[name] = program.vector(_alphabet(o.seed, a)[c])
                samples += [
                    RawSample(name, f"{d + 1:02d}", partial(_load, o.seed, a, c, d, o.size)) for d in range(o.drawings)
                ]
        splits = {
            split: [name for a in alphabets for name in members[a]]
            for split, alphabets in _split(o.seed, o.alphabets).items()
        }
        fields = {"image": FieldSpec("uint8", (1, o.size, o.size))}
        return Listing(
            fields=fields,
            samples=samples,
            groups=groups,
            splits={"glyphs": splits},
            class_fields={"strokes": attributes},
        )


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
    style = strokes.invent_style(strokes.Draws(seed, "style", alphabet))
    return strokes.invent_characters(style, _characters(seed, alphabet), seed, "character", alphabet)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawer:
    """How one person writes an alphabet."""

    slant: float
    extent: float
    """Size against the alphabet's."""
    aspect: float
    pen: float
    """Width of the pen, as a fraction of the image."""


@cache
def _drawer(seed: int, alphabet: int, drawing: int) -> Drawer:
    slant, extent, aspect, pen = strokes.Draws(seed, "drawer", alphabet, drawing).normal(4).tolist()
    return Drawer(slant=0.10 * slant, extent=1 + 0.06 * extent, aspect=1 + 0.06 * aspect, pen=0.065 + 0.008 * pen)


def _load(seed: int, alphabet: int, character: int, drawing: int, size: int) -> Mapping[str, NDArray[np.uint8]]:
    drawer, draws = _drawer(seed, alphabet, drawing), strokes.Draws(seed, "drawing", alphabet, character, drawing)
    paths, width = draw(_alphabet(seed, alphabet)[character], drawer, draws)
    return {"image": render(paths, width, size)[None]}


def draw(character: strokes.Character, drawer: Drawer, draws: strokes.Draws) -> tuple[strokes.Float, float]:
    """One drawing: polylines [parts, STEPS, 2] in fractions of the image, and the pen's width."""
    parts = len(character.anchors)
    noise = draws.normal(8 + parts * (strokes.POINTS + 4) * 2)
    slant, size, wide, high, turn, right, down, pen = noise[:8].tolist()
    paths = _move(character, noise[8:].reshape(parts, strokes.POINTS + 4, 2))

    size = drawer.extent * (1 + SIZE * size)
    wide, high = size * drawer.aspect * (1 + ASPECT * wide), size / drawer.aspect * (1 + ASPECT * high)
    half = TURN * turn  # the rational circle: a rotation without sine or cosine
    cosine, sine = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    x = (paths[..., 0] + (drawer.slant + SLANT * slant) * paths[..., 1]) * wide
    y = paths[..., 1] * high
    width = drawer.pen * (1 + PEN * pen)
    return np.stack(
        [
            _inside(x * cosine - y * sine, SHIFT * right, width / 2 + 1 / 28),
            _inside(x * sine + y * cosine, SHIFT * down, width / 2 + 1 / 28),
        ],
        axis=-1,
    ), width


def _inside(values: strokes.Float, shift: float, margin: float) -> strokes.Float:
    """One coordinate of a drawing, put about the middle of the image and kept off its edges."""
    low, high = float(values.min()), float(values.max())
    fit = min(1.0, (1 - 2 * margin) / (high - low))
    # Half way between keeping the letter's centre, which noise has moved, and centring the drawing.
    place = 0.5 + shift - fit * (low + high) / 4
    return values * fit + min(max(place, margin - fit * low), 1 - margin - fit * high)


_ALONG = np.arange(strokes.POINTS)[:, None] / (strokes.POINTS - 1)
_BEND = 4 * BOW * _ALONG * (1 - _ALONG)


def _move(character: strokes.Character, noise: strokes.Float) -> strokes.Float:
    """Motor noise: each part trembles, swings about its start, bows and grows; strokes begin a little off."""
    swing, bow, grow, start = (noise[:, strokes.POINTS + i, None] for i in range(4))
    jitter = TREMBLE * noise[:, : strokes.POINTS] + SWING * _ALONG * swing + _BEND * bow
    jitter = (jitter - jitter[:, :1]) * character.reach
    starts = character.starts + character.miss * start[:, 0]
    return strokes.trace(character.controls * (1 + GROW * grow) + jitter, starts, character.anchors)


def render(paths: strokes.Float, width: float, size: int) -> NDArray[np.uint8]:
    """Anti-aliased ink of polylines [lines, points, 2] in fractions of the image: [size, size], 255 where inked.

    A pixel's ink is how far the pen's edge reaches beyond its centre, in pixels, within 0..1. Each piece of a line is
    measured only on the square of pixels that it can reach; the nearest piece counts.
    """
    points = (paths * size).astype(np.float32)
    begin, along = points[:, :-1].reshape(-1, 2), (points[:, 1:] - points[:, :-1]).reshape(-1, 2)
    reach = max(width * size / 2, 0.5) + 0.5  # no line is thinner than a pixel: it would fade
    window = int(np.ceil(float(np.abs(along).max()) + 2 * reach)) + 1
    corner = np.floor(np.minimum(begin, begin + along) - np.float32(reach))
    step = np.arange(window)
    centre = (corner + np.float32(0.5) - begin)[:, :, None] + step.astype(np.float32)  # [pieces, 2, window] from begin
    square = along * along
    share = centre * (along / (square[:, :1] + square[:, 1:] + np.float32(1e-12)))[:, :, None]
    t = share[:, 0, None, :] + share[:, 1, :, None]  # [pieces, window, window] place of the nearest point on the piece
    t = np.minimum(np.maximum(t, np.float32(0)), np.float32(1))
    right = centre[:, 0, None, :] - t * along[:, 0, None, None]
    down = centre[:, 1, :, None] - t * along[:, 1, None, None]
    far = right * right + down * down

    wide = size + 2 * window  # a margin, so that no square needs clipping
    canvas = np.full(wide * wide, np.float32(reach * reach))
    cell = corner.astype(np.int64) + window
    index = (cell[:, 1] * wide + cell[:, 0])[:, None, None] + (step[:, None] * wide + step)
    np.minimum.at(canvas, index.ravel(), far.ravel())
    inside = canvas.reshape(wide, wide)[window:-window, window:-window]
    ink = np.minimum(np.maximum(np.float32(reach) - np.sqrt(inside), np.float32(0)), np.float32(1))
    rounded: NDArray[np.uint8] = np.floor(ink * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return rounded
