"""Array -> array functions on the rows of an episode."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from episodes.classes import TURNS, Int


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
