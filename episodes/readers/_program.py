"""A character's program of strokes as one vector of fixed length, free of any drawing's noise.

The order in which a program lists its strokes, and the end that the pen comes down on, cannot be seen in a drawing. So
strokes are put in order by the middle of their boxes, from the upper left on, and begin at the end that is nearer to the
upper left: values that a picture tells something about. Only exactly rounded arithmetic, as in `_strokes`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from episodes.readers._strokes import STEPS, Character, Float, trace

STROKES = 4  # at most, of a character
PARTS = 3  # at most, of a stroke
BEFORE, SLOT = 4, 15  # numbers before the first stroke, and of a stroke
LENGTH = BEFORE + STROKES * SLOT
GRAIN = 256  # values are multiples of 1 / GRAIN: they are short when written down


def vector(character: Character) -> NDArray[np.float32]:
    """[64] within -1..1; the layout is that of the docstring of `episodes.readers.glyphs`."""
    paths = trace(character.controls, character.starts, character.anchors)
    first = np.flatnonzero(character.miss[:, 0] > 0).tolist()  # parts at which the pen comes down
    strokes = [paths[a:b].reshape(-1, 2) for a, b in zip(first, [*first[1:], len(paths)], strict=True)]
    slots = [_slot(path, character.anchors[part]) for part, path in zip(first, strokes, strict=True)]
    side = paths.max(axis=(0, 1)) - paths.min(axis=(0, 1))
    values = np.zeros(LENGTH)
    values[:BEFORE] = len(strokes) / STROKES, *side, sum(_length(path) for path in strokes) / STROKES
    order = sorted(range(len(slots)), key=lambda k: (_far(*_box(strokes[k])), k))
    for place, k in enumerate(order):
        values[BEFORE + place * SLOT : BEFORE + (place + 1) * SLOT] = slots[k]
    return (np.floor(values * GRAIN + 0.5) / GRAIN).astype(np.float32)


def _slot(path: Float, anchor: tuple[int, int] | None) -> Float:
    """Numbers of one stroke [points, 2]."""
    if _far(path[0]) > _far(path[-1]):
        path = path[::-1]
    points = [path[(len(path) - 1) * k // 4] for k in range(5)]
    ends = anchor is not None and anchor[1] == 0, anchor is not None and anchor[1] == STEPS - 1
    joined = (*ends, anchor is not None and not any(ends))
    # Coordinates lie within half the image, so that twice them fill the range.
    return np.array([1, *(2 * np.stack(points)).ravel(), len(path) / (PARTS * STEPS), *joined], np.float64)


def _box(path: Float) -> tuple[Float, Float]:
    return path.min(axis=0), path.max(axis=0)


def _far(*points: Float) -> float:
    """How far from the upper left, summed over points."""
    return sum(float(point[0]) + float(point[1]) for point in points)


def _length(path: Float) -> float:
    step = path[1:] - path[:-1]
    return float(np.cumsum(np.sqrt(step[:, 0] * step[:, 0] + step[:, 1] * step[:, 1]))[-1])  # unlike sum, in order
