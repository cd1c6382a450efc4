"""Invented alphabets: a style of writing makes characters, and a character is a program of strokes.

The forward model follows Lake, Salakhutdinov, Tenenbaum 2015 (Bayesian program learning), with hand-set priors where
they fit theirs to Omniglot. All geometry is in fractions of the image, y downwards.

Each value is drawn from a key that says what it is for, so none depends on what was drawn before it. Only ``+ - * /``,
``sqrt``, ``floor``, ``min`` and ``max`` touch a float, elementwise or in a fixed order: those are exactly rounded, so
the bits do not depend on the platform, while those of ``sin``, ``exp``, a dot product or a pairwise sum do.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

POINTS = 5  # control points of a primitive, as in Lake et al. 2015
PIECES = 4  # straight pieces drawn between two control points
STEPS = (POINTS - 1) * PIECES + 1  # points of a primitive's polyline

# Shape of a primitive that runs from (0, 0) along x with length 1: control points' x, their y for depth 1, and the
# range of depths.
FAMILIES: tuple[tuple[tuple[float, ...], tuple[float, ...], tuple[float, float]], ...] = (
    ((0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.75, 1.0, 0.75, 0.0), (-0.04, 0.04)),  # line
    ((0.0, 0.2, 0.5, 0.8, 1.0), (0.0, 0.7, 1.0, 0.7, 0.0), (0.2, 0.4)),  # arc
    ((0.0, 0.02, 0.5, 0.98, 1.0), (0.0, 0.62, 1.0, 0.62, 0.0), (0.55, 0.95)),  # cup
    ((0.0, 0.45, 0.85, 1.0, 0.8), (0.0, 0.0, 0.05, 0.25, 0.5), (0.7, 1.2)),  # hook
    ((0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 1.0, 0.0, -1.0, 0.0), (0.18, 0.32)),  # wave
    ((0.0, 0.35, 0.7, 0.35, 0.0), (0.0, 0.35, 0.0, -0.35, 0.0), (0.7, 1.1)),  # loop
    ((0.0, 0.6, 1.0, 0.7, 0.35), (0.0, 0.4, 0.05, -0.3, -0.05), (0.8, 1.2)),  # curl
)
_D = sqrt(0.5)
DIRECTIONS = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0), (_D, _D), (-_D, _D), (-_D, -_D), (_D, -_D))

# What an alphabet accepts as a character, measured on a grid laid over the letter's extent.
CELLS = 12
ROW = CELLS + 2  # with a free cell at each end, so that growing by one cell does not run into the next row
DISTINCT = 25  # percent of a character's cells that must lie more than a cell away from any other character
ATTEMPTS = 80  # candidates before the most distinct one is taken; 10 are needed on average, 33 in the narrowest style
MISS_FREE, MISS_JOINED = 0.04, 0.012  # deviation of where the pen comes down for a stroke alone, and on another


class Draws:
    """Random numbers of one key: raw words of Philox4x64, which NumPy keeps stable, made floats by exact steps."""

    def __init__(self, *key: str | int) -> None:
        name = "/".join(map(str, key)).encode()
        digest = blake2b(name, digest_size=16, person=b"episodes.glyphs").digest()
        self._bits = np.random.Philox(key=int.from_bytes(digest, "little"))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """One number of [low, high)."""
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) * 2.0**-53)

    def below(self, n: int) -> int:
        """One integer of 0 .. n - 1."""
        return int(self._bits.random_raw()) % n

    def pick(self, weights: tuple[int, ...]) -> int:
        """A position of `weights`, each as probable as its weight."""
        left = self.below(sum(weights))
        for position, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return position
        raise AssertionError("weights are not negative and not all zero")

    def normal(self, n: int) -> Float:
        """[n] of mean 0 and variance 1, nearly normal and within 3.5: the centred sum of four 16-bit uniforms."""
        words = np.asarray(self._bits.random_raw(n), dtype="<u8").view("<u2").reshape(n, 4).astype(np.float64)
        total: Float = words[:, 0] + words[:, 1] + words[:, 2] + words[:, 3]  # of integers: exact
        return (total - 131070.0) * (sqrt(3.0) / 65536.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Style:
    """What the characters of one alphabet share."""

    primitives: Float
    """[primitives, POINTS, 2] curves from (0, 0)."""
    strokes: tuple[int, ...]
    """Weights of 1, 2, 3, 4 strokes."""
    parts: tuple[int, ...]
    """Weights of 1, 2, 3 primitives in a stroke."""
    relations: tuple[int, ...]
    """Weights of a stroke standing alone, or beginning at the start, at the end or along another."""
    extent: float
    """Larger side of a character, as a fraction of the image."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Character:
    """A program of strokes. A part is one primitive of one stroke; a stroke is a chain of parts."""

    controls: Float
    """[parts, POINTS, 2] curves from (0, 0)."""
    starts: Float
    """[parts, 2] where a part begins, counted from the letter's centre or, if attached, from what it is attached to."""
    anchors: tuple[tuple[int, int] | None, ...]
    """[parts] what a part is attached to: (earlier part, point of its polyline)."""
    reach: Float
    """[parts, 1, 1] larger side of each part."""
    miss: Float
    """[parts, 1] deviation of where the pen comes down; 0 where it goes on from the part before."""


def invent_style(draws: Draws) -> Style:
    """The style of an alphabet."""
    weights = [draws.below(3) for _ in FAMILIES]
    weights[0] += 1  # every script has plain lines
    for _ in range(2):
        weights[draws.below(len(FAMILIES))] += 3
    directions = (*[2 + draws.below(5)] * 4, *[1 + draws.below(4)] * 4)
    length = draws.uniform(0.5, 0.8)
    primitives = []
    for _ in range(7 + draws.below(4)):
        xs, ys, depths = FAMILIES[draws.pick(tuple(weights))]
        long = length * draws.uniform(0.7, 1.3)
        deep = long * draws.uniform(*depths) * (1 - 2 * draws.below(2))
        cosine, sine = DIRECTIONS[draws.pick(directions)]
        x, y = np.array(xs) * long, np.array(ys) * deep
        primitives.append(np.stack([x * cosine - y * sine, x * sine + y * cosine], axis=-1))
    return Style(
        primitives=np.stack(primitives),
        strokes=(1 + draws.below(3), 2 + draws.below(5), 1 + draws.below(4), draws.below(3)),
        parts=(3 + draws.below(5), 1 + draws.below(4), draws.below(2)),
        relations=(2 + draws.below(3), 1 + draws.below(3), 1 + draws.below(3), 1 + draws.below(3)),
        extent=draws.uniform(0.6, 0.72),
    )


def invent_characters(style: Style, count: int, *key: str | int) -> tuple[Character, ...]:
    """An alphabet: characters that a reader can tell from each other. The first n do not depend on `count`."""
    characters: list[Character] = []
    looks: list[_Look] = []
    for number in range(count):
        best: tuple[tuple[bool, int], Character, _Look] | None = None
        for attempt in range(ATTEMPTS):
            character = _compose(style, Draws(*key, number, attempt))
            look = _look(character, style.extent)
            merit = _is_legible(look), min((_novelty(look, other) for other in looks), default=100)
            if best is None or merit > best[0]:
                best = merit, character, look
            if merit >= (True, DISTINCT):
                break
        assert best is not None
        characters.append(best[1])
        looks.append(best[2])
    return tuple(characters)


def _compose(style: Style, draws: Draws) -> Character:
    """One candidate: strokes of primitives with relations, fitted to the extent of the style."""
    controls: list[Float] = []
    starts: list[Float] = []
    anchors: list[tuple[int, int] | None] = []
    miss: list[float] = []
    bounds = [0]  # first part of each stroke
    for stroke in range(1 + draws.pick(style.strokes)):
        parts = [
            style.primitives[draws.below(len(style.primitives))] * draws.uniform(0.75, 1.25)
            for _ in range(1 + draws.pick(style.parts))
        ]
        relation = draws.pick(style.relations) if stroke else 0
        start, anchor = np.zeros(2), None
        if relation:
            other = draws.below(stroke)
            first, last = bounds[other], bounds[other + 1] - 1
            along = (first + draws.below(last - first + 1), PIECES + draws.below(STEPS - 2 * PIECES))
            anchor = ((first, 0), (last, STEPS - 1), along)[relation - 1]
        else:
            # The middle of a stroke's own box falls somewhere in the box that letters fill.
            chain = (None, *((part, STEPS - 1) for part in range(len(parts) - 1)))
            path = trace(np.stack(parts), np.zeros((len(parts), 2)), chain).reshape(-1, 2)
            middle = (path.min(axis=0) + path.max(axis=0)) / 2
            start = np.array([draws.uniform(-0.4, 0.4), draws.uniform(-0.4, 0.4)]) - middle
        joined = len(parts) - 1
        anchors += [anchor, *((len(controls) + part, STEPS - 1) for part in range(joined))]
        starts += [start] + [np.zeros(2)] * joined
        miss += [MISS_JOINED if relation else MISS_FREE] + [0.0] * joined
        controls += parts
        bounds.append(len(controls))
    curves, begins = np.stack(controls), np.stack(starts)
    path = trace(curves, begins, tuple(anchors)).reshape(-1, 2)
    low, high = path.min(axis=0), path.max(axis=0)
    scale = style.extent / float((high - low).max())
    alone = np.array([anchor is None for anchor in anchors])[:, None]
    curves = curves * scale
    return Character(
        controls=curves,
        starts=np.where(alone, begins - (low + high) / 2, begins) * scale,
        anchors=tuple(anchors),
        reach=(curves.max(axis=1) - curves.min(axis=1)).max(axis=1)[:, None, None],
        miss=np.array(miss)[:, None],
    )


def _basis() -> Float:
    """[STEPS, POINTS] weights of the smooth (C2) cubic spline through the control points, its end spans quadratic."""
    # Tangents at the control points, from solving the spline's equations once, in fractions.
    tangents = np.array([[-49, 73, -30, 7, -1], [-11, -13, 30, -7, 1], [3, -21, 0, 21, -3]]) / 30
    tangents = np.concatenate([tangents, -tangents[1::-1, ::-1]])
    points, rows = np.eye(POINTS), []
    for step in range(STEPS):
        i = min(step // PIECES, POINTS - 2)
        t = step / PIECES - i
        ease = t * t * (3 - 2 * t)
        ends = (1 - ease) * points[i] + ease * points[i + 1]
        rows.append(ends + t * (1 - t) * ((1 - t) * tangents[i] - t * tangents[i + 1]))
    return np.stack(rows)


_BASIS = _basis()[:, :, None]


def trace(controls: Float, starts: Float, anchors: tuple[tuple[int, int] | None, ...]) -> Float:
    """[parts, STEPS, 2] polylines of all parts, each put where its relation says."""
    paths = _BASIS[:, 0] * controls[:, :1]
    for i in range(1, POINTS):
        paths += _BASIS[:, i] * controls[:, i : i + 1]
    paths += starts[:, None]
    for part, anchor in enumerate(anchors):
        if anchor is not None:
            paths[part] += paths[anchor]
    return paths


class _Look(NamedTuple):
    """What a person sees of a character, on a grid over its extent; lengths in extents."""

    cells: int
    """The cells that it touches, as bits."""
    grown: int
    """Those and their neighbours."""
    length: float
    """Of all its lines."""
    side: float
    """Its shorter side."""
    reach: float
    """Larger side of its smallest part."""


def _look(character: Character, extent: float) -> _Look:
    paths = trace(character.controls, character.starts, character.anchors) / extent
    step = paths[:, 1:] - paths[:, :-1]
    length = np.cumsum(np.sqrt(step[..., 0] * step[..., 0] + step[..., 1] * step[..., 1]))  # unlike sum, in order
    places = np.minimum(np.maximum(np.floor((paths + 0.5) * CELLS), 0), CELLS - 1).astype(np.int64) + 1
    cells = sum(1 << place for place in set((places[..., 1] * ROW + places[..., 0]).ravel().tolist()))
    wide = cells | cells << 1 | cells >> 1
    return _Look(
        cells=cells,
        grown=wide | wide << ROW | wide >> ROW,
        length=float(length[-1]),
        side=float((paths.max(axis=(0, 1)) - paths.min(axis=(0, 1))).min()),
        reach=float(character.reach.min()) / extent,
    )


def _is_legible(look: _Look) -> bool:
    """Neither a plain line nor a scribble, and without parts too small to see."""
    # A lone line covers three cells of its width once grown; strokes over or close by each other share theirs.
    spread = look.grown.bit_count() > 2.4 * CELLS * look.length
    return spread and 1.6 < look.length < 4.5 and look.side > 0.3 and look.reach > 0.22


def _novelty(one: _Look, other: _Look) -> int:
    """Percent of the cells of a character that are not near the other's, whichever way round that is more."""
    ways = ((one, other), (other, one))
    return max(100 * (a.cells & ~b.grown).bit_count() // a.cells.bit_count() for a, b in ways)
