"""Invented alphabets as programs of strokes: a style makes characters, a character makes drawings.

The forward model follows Lake, Salakhutdinov, Tenenbaum 2015 (Bayesian program learning), with hand-set priors where
they fit theirs to Omniglot. Everything here is geometry in fractions of the image, y downwards; the reader makes pixels.

Each value is drawn from a key that says what it is for, so none depends on what was drawn before it. Only ``+ - * /``,
``sqrt``, ``min`` and ``max`` touch a float, elementwise or in a fixed order: those are exactly rounded, so the bits do
not depend on the platform, while those of ``sin``, ``exp``, a dot product or a pairwise sum do.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

POINTS = 5  # control points of a primitive, as in Lake et al. 2015
PIECES = 3  # straight pieces drawn between two control points
STEPS = (POINTS - 1) * PIECES + 1  # points of a primitive's polyline
ATTEMPTS = 40  # candidates tried before the best so far is taken as a character
DISTINCT = 90  # distance from every other character of the alphabet, in 1/2000 of the image, that a character should have

# Shape of a primitive that runs from (0, 0) along x with length 1: control points' x, their y for depth 1, and the range
# of depths.
FAMILIES: dict[str, tuple[tuple[float, ...], tuple[float, ...], tuple[float, float]]] = {
    "line": ((0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.75, 1.0, 0.75, 0.0), (-0.04, 0.04)),
    "arc": ((0.0, 0.2, 0.5, 0.8, 1.0), (0.0, 0.7, 1.0, 0.7, 0.0), (0.2, 0.4)),
    "cup": ((0.0, 0.02, 0.5, 0.98, 1.0), (0.0, 0.62, 1.0, 0.62, 0.0), (0.55, 0.95)),
    "hook": ((0.0, 0.45, 0.85, 1.0, 0.8), (0.0, 0.0, 0.05, 0.25, 0.5), (0.7, 1.2)),
    "wave": ((0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 1.0, 0.0, -1.0, 0.0), (0.18, 0.32)),
    "loop": ((0.0, 0.5, 1.0, 0.5, 0.0), (0.0, 0.5, 0.0, -0.5, 0.0), (0.7, 1.1)),
    "curl": ((0.0, 0.6, 1.0, 0.7, 0.35), (0.0, 0.4, 0.05, -0.3, -0.05), (0.8, 1.2)),
}
DIAGONAL = 0.5**0.5
DIRECTIONS = (
    *((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)),
    *((DIAGONAL, DIAGONAL), (-DIAGONAL, DIAGONAL), (-DIAGONAL, -DIAGONAL), (DIAGONAL, -DIAGONAL)),
)
NEW = -1  # anchor of a part that is attached to nothing


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

    def normal(self, *shape: int) -> Float:
        """Numbers of mean 0 and variance 1, nearly normal and within 3.5: the centred sum of four 16-bit uniforms."""
        raw = np.asarray(self._bits.random_raw(int(np.prod(shape))), dtype=np.uint64)
        low = np.uint64(0xFFFF)
        total = sum(((raw >> np.uint64(16 * i)) & low) for i in range(4))
        numbers: Float = (np.asarray(total).astype(np.float64) - 131070.0) * (3.0**0.5 / 65536.0)
        return numbers.reshape(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
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
    """[parts, 2] where a part begins, counted from the centre or, if it is attached, from the point it is attached to."""
    anchors: tuple[tuple[int, int], ...]
    """[parts] (earlier part, point of its polyline), or (NEW, 0)."""
    chained: tuple[bool, ...]
    """[parts] whether the pen goes on from the part before."""


def invent_style(draws: Draws) -> Style:
    """The style of an alphabet."""
    families = list(FAMILIES)
    weights = [draws.below(3) for _ in families]
    weights[0] += 1  # every script has plain lines
    for _ in range(2):
        weights[draws.below(len(families))] += 4
    directions = (*[1 + draws.below(6)] * 4, *[draws.below(4)] * 4)
    length = draws.uniform(0.5, 0.8)
    primitives = []
    for _ in range(6 + draws.below(4)):
        family = families[draws.pick(tuple(weights))]
        xs, ys, depths = FAMILIES[family]
        long = length * draws.uniform(0.6, 1.4) * (0.7 if family == "loop" else 1.0)
        deep = draws.uniform(*depths) * (1 - 2 * draws.below(2))
        curve = np.stack([np.array(xs), np.array(ys) * deep], axis=1) * long
        primitives.append(_turned(curve, *DIRECTIONS[draws.pick(directions)]))
    return Style(
        primitives=np.stack(primitives),
        strokes=(1 + draws.below(3), 2 + draws.below(5), 1 + draws.below(4), draws.below(3)),
        parts=(2 + draws.below(5), 1 + draws.below(4), draws.below(3)),
        relations=(2 + draws.below(3), 1 + draws.below(3), 1 + draws.below(3), 1 + draws.below(3)),
        extent=draws.uniform(0.6, 0.72),
    )


def invent_character(style: Style, earlier: list[Character], *key: str | int) -> Character:
    """A character that a reader can tell from the `earlier` ones of its alphabet."""
    best, best_distance = None, -1
    known = [_outline(character) for character in earlier]
    for attempt in range(ATTEMPTS):
        character = _compose(style, Draws(*key, attempt))
        outline = _outline(character)
        if _is_scribble(character, outline):
            continue
        distance = min((_distance(outline, other) for other in known), default=DISTINCT)
        if distance >= DISTINCT:
            return character
        if distance > best_distance:
            best, best_distance = character, distance
    return best if best is not None else character


def _compose(style: Style, draws: Draws) -> Character:
    """One candidate: strokes of primitives with relations, fitted to the extent of the style."""
    controls: list[Float] = []
    starts: list[Float] = []
    anchors: list[tuple[int, int]] = []
    chained: list[bool] = []
    bounds: list[int] = [0]  # first part of each stroke
    for stroke in range(1 + draws.pick(style.strokes)):
        parts = [style.primitives[draws.below(len(style.primitives))] for _ in range(1 + draws.pick(style.parts))]
        relation = draws.pick(style.relations) if stroke else 0
        other = draws.below(stroke) if stroke else 0
        first, last = bounds[other], bounds[other + 1] - 1 if stroke else 0
        along = (first + draws.below(last - first + 1), PIECES + draws.below(STEPS - 2 * PIECES))
        anchor = ((NEW, 0), (first, 0), (last, STEPS - 1), along)[relation]
        start = np.zeros(2)
        if relation == 0:
            # The middle of a stroke's own box falls somewhere in the box that letters fill.
            path = np.concatenate(_trace(np.stack(parts), np.zeros((len(parts), 2)), _chain(len(parts))))
            middle = (path.min(axis=0) + path.max(axis=0)) / 2
            start = np.array([draws.uniform(-0.4, 0.4), draws.uniform(-0.4, 0.4)]) - middle
        for i, part in enumerate(parts):
            anchors.append((len(controls) - 1, STEPS - 1) if i else anchor)
            starts.append(np.zeros(2) if i else start)
            chained.append(i > 0)
            controls.append(part)
        bounds.append(len(controls))
    curves = np.stack(controls)
    begins = np.stack(starts)
    path = _trace(curves, begins, tuple(anchors)).reshape(-1, 2)
    low, high = path.min(axis=0), path.max(axis=0)
    scale = style.extent / float((high - low).max())
    alone = np.array([a == NEW for a, _ in anchors])[:, None]
    return Character(
        controls=curves * scale,
        starts=np.where(alone, begins - (low + high) / 2, begins) * scale,
        anchors=tuple(anchors),
        chained=tuple(chained),
    )


def _chain(parts: int) -> tuple[tuple[int, int], ...]:
    return ((NEW, 0), *((i, STEPS - 1) for i in range(parts - 1)))


def _basis() -> Float:
    """[STEPS, POINTS] weights of the Catmull-Rom spline through the control points, its ends extrapolated."""
    eye = np.eye(POINTS)
    knots = np.concatenate([[2 * eye[0] - eye[1]], eye, [2 * eye[-1] - eye[-2]]])
    rows = []
    for step in range(STEPS):
        span = min(step // PIECES, POINTS - 2)
        t = step / PIECES - span
        before, here, there, after = knots[span : span + 4]
        rows.append(
            here
            + t * (there - before) / 2
            + t * t * (2 * before - 5 * here + 4 * there - after) / 2
            + t * t * t * (3 * here - before - 3 * there + after) / 2
        )
    return np.stack(rows)


BASIS = _basis()


def _trace(controls: Float, starts: Float, anchors: tuple[tuple[int, int], ...]) -> Float:
    """[parts, STEPS, 2] polylines of all parts, each put where its relation says."""
    terms = BASIS[None, :, :, None] * controls[:, None, :, :]
    paths = terms[:, :, 0]
    for i in range(1, POINTS):
        paths = paths + terms[:, :, i]
    for part, (other, point) in enumerate(anchors):
        paths[part] += starts[part] if other == NEW else starts[part] + paths[other, point]
    return paths


def _turned(points: Float, cosine: float, sine: float) -> Float:
    x, y = points[..., 0], points[..., 1]
    return np.stack([x * cosine - y * sine, x * sine + y * cosine], axis=-1)


def _outline(character: Character) -> Float:
    return _trace(character.controls, character.starts, character.anchors).reshape(-1, 2)


def _nearest(a: Float, b: Float) -> Float:
    x = a[:, None, 0] - b[None, :, 0]
    y = a[:, None, 1] - b[None, :, 1]
    return np.sqrt(x * x + y * y)


def _distance(a: Float, b: Float) -> int:
    """Mean distance from a point of one outline to the other outline, both ways, in 1/2000 of the image."""
    apart = np.floor(_nearest(a, b) * 2000).astype(np.int64)
    return int(max(apart.min(axis=1).sum() // len(a), apart.min(axis=0).sum() // len(b)))


def _is_scribble(character: Character, outline: Float) -> bool:
    size = outline.max(axis=0) - outline.min(axis=0)
    if size.min() < 0.3 * size.max():
        return True
    part = np.repeat(np.arange(len(character.anchors)), STEPS)
    apart = np.where(part[:, None] == part[None, :], 1.0, _nearest(outline, outline))
    crowded = int((apart.min(axis=1) < 0.07).sum())
    step = np.abs(np.diff(outline.reshape(-1, STEPS, 2), axis=1)).max(axis=2)
    length = int(np.floor(step * 4096).astype(np.int64).sum()) / 4096
    return crowded > 0.3 * len(outline) or not 1.5 < length / float(size.max()) < 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawer:
    """How one person writes an alphabet."""

    slant: float
    extent: float
    """Size against the alphabet's."""
    aspect: float
    pen: float
    """Width of the pen, as a fraction of the image."""


def invent_drawer(draws: Draws) -> Drawer:
    """A person with habits."""
    slant, extent, aspect, pen = draws.normal(4).tolist()
    return Drawer(slant=0.10 * slant, extent=1 + 0.06 * extent, aspect=1 + 0.06 * aspect, pen=0.065 + 0.008 * pen)


def draw(character: Character, drawer: Drawer, draws: Draws) -> tuple[Float, float]:
    """One drawing: polylines [parts, STEPS, 2] in fractions of the image, and the pen's width."""
    noise = draws.normal(len(character.anchors), POINTS + 4, 2)
    placed = _affine(_move(character, noise), drawer, draws)
    pen, dx, dy = draws.normal(3).tolist()
    width = drawer.pen * (1 + 0.08 * pen)
    margin = width / 2 + 1 / 28
    low, high = placed.min(axis=(0, 1)), placed.max(axis=(0, 1))
    fit = min(1.0, (1 - 2 * margin) / float((high - low).max()))
    placed, low, high = placed * fit, low * fit, high * fit
    shift = 0.5 + 0.045 * np.array([dx, dy]) - (low + high) / 2 * 0.5
    shift = np.minimum(np.maximum(shift, margin - low), 1 - margin - high)  # all ink stays inside
    return placed + shift, width


def _move(character: Character, noise: Float) -> Float:
    """Motor noise: each part swings about its start, bows, grows and trembles; strokes begin a little off."""
    reach = (character.controls.max(axis=1) - character.controls.min(axis=1)).max(axis=1)[:, None, None]
    swing, bow, scale, start = (noise[:, POINTS + i] for i in range(4))
    along = np.arange(POINTS)[:, None] / (POINTS - 1)
    jitter = 0.025 * noise[:, :POINTS] + 0.10 * along * swing[:, None] + 0.24 * along * (1 - along) * bow[:, None]
    jitter = jitter - jitter[:, :1]
    alone = np.array([other == NEW for other, _ in character.anchors])[:, None]
    free = ~np.array(character.chained)[:, None]
    starts = character.starts + np.where(alone, 0.04, 0.012) * np.where(free, start, 0.0)
    return _trace(character.controls * (1 + 0.10 * scale[:, None]) + jitter * reach, starts, character.anchors)


def _affine(paths: Float, drawer: Drawer, draws: Draws) -> Float:
    """Slant, size, aspect and a small turn of the whole drawing."""
    turn, stretch, aspect, shear = draws.normal(4).tolist()
    size = drawer.extent * (1 + 0.08 * stretch)
    x = (paths[..., 0] + (drawer.slant + 0.08 * shear) * paths[..., 1]) * (size * drawer.aspect * (1 + 0.05 * aspect))
    y = paths[..., 1] * (size / drawer.aspect)
    t = 0.04 * turn  # half the tangent: a turn without sine or cosine
    return _turned(np.stack([x, y], axis=-1), (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t))
