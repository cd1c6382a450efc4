"""Sinusoids: regression tasks of few points. A class is a function y = A sin(x - p), a row of it a point (x, y).

Finn, Abbeel, Levine 2017, "Model-agnostic meta-learning for fast adaptation of deep networks", section 5.1: amplitude A
uniform in [0.1, 5], phase p in [0, pi], points x in [-5, 5]. Fields x and y [1] float32; class fields amplitude and phase,
which make an oracle. The functions of the splits are different ones.

Differs from the released code: a split has a stated number of functions, each of them with --rows points to draw from,
where there every task is a fresh one. Sines are computed in double precision; x is the same on every machine, y to the
rounding of the sine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from episodes import rng
from episodes.classes import Int
from episodes.errors import ConfigError
from episodes.protocols import Arrays, FieldSpec

AMPLITUDES, PHASES, POINTS = (0.1, 5.0), (0.0, math.pi), (-5.0, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which functions, and how many."""

    train: int = field(default=100_000, metadata={"help": "functions of the training split"})
    val: int = field(default=10_000, metadata={"help": "of the validation split"})
    test: int = field(default=10_000, metadata={"help": "of the test split"})
    rows: int = field(default=10_000, metadata={"help": "points of each function to draw from"})
    seed: int = field(default=0, metadata={"help": "of functions and points"})

    def __post_init__(self) -> None:
        for name in ("train", "val", "test", "rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        rng.check_word("seed", self.seed)


@dataclass(frozen=True)
class Sinusoids:
    """See the module's docstring."""

    options: Options = Options()
    name: str = "sinusoids"
    version: int = 1

    @property
    def fields(self) -> Mapping[str, FieldSpec]:
        """A point."""
        return {"x": FieldSpec("float32", (1,)), "y": FieldSpec("float32", (1,))}

    @property
    def splits(self) -> Mapping[str, int]:
        """Functions of each."""
        return {name: getattr(self.options, name) for name in ("train", "val", "test")}

    @property
    def rows(self) -> int:
        """Points of each function."""
        return self.options.rows

    def class_values(self, classes: Int) -> Arrays:
        """Amplitude and phase, float32 [n]."""
        amplitudes, phases = self._functions(classes)
        return {"amplitude": amplitudes.astype(np.float32), "phase": phases.astype(np.float32)}

    def values(self, classes: Int, places: Int) -> Arrays:
        """Points, x and y [n, 1]; y is that of the x delivered, which is rounded to float32."""
        amplitudes, phases = self._functions(classes)
        x = _spread(self._units(rng.MADE_ROW, classes, places, 1), POINTS).astype(np.float32)
        y = amplitudes[:, None] * np.sin(x - phases[:, None])
        return {"x": x, "y": y.astype(np.float32)}

    def _functions(self, classes: Int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        drawn = self._units(rng.MADE_CLASS, classes, np.zeros_like(classes), 2)
        return _spread(drawn[:, 0], AMPLITUDES), _spread(drawn[:, 1], PHASES)

    def _units(self, purpose: np.uint64, classes: Int, places: Int, count: int) -> NDArray[np.float64]:
        return rng.units(self.options.seed, self._stream, purpose, classes, places, count)

    @cached_property
    def _stream(self) -> int:
        return rng.stream_key("made", self.name, self.version)


def _spread(units: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.float64]:
    """Numbers in [0, 1) over limits."""
    low, high = limits
    return low + (high - low) * units


def make(options: Options) -> Sinusoids:
    """The data set of these options."""
    return Sinusoids(options)
