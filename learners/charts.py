"""Charts: pictures that a method brings to its report, of what goes on inside it or of a score of its own.

A learner may have a member ``charts`` (`learners.protocol.MetaLearner`). `learners.report.evaluate` calls it with the first
episodes of the evaluation; what comes back stands in ``report.json`` as numbers and in the page as pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from episodes.adapters.each import each
from episodes.adapters.pytorch import to_torch
from episodes.episode import Episode
from episodes.errors import ConfigError
from episodes.shards.read import EpisodeShards
from episodes.stream.series import SampledEpisodes
from episodes.stream.stream import Stream
from learners import ranks
from learners.origin import Episodes
from learners.protocol import MetaLearner

EPISODES: Final = 1000  # of an evaluation a method may look at for its charts; it takes as many of them as it needs
TABLE: Final = 15  # values of x that are also shown as a table in the page
_PASS_BYTES, _TOGETHER = 1 << 22, 50  # of the inputs of one block, and episodes in it at most
Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Line:
    """Values over x; a line, or marks.

    Raises:
        ConfigError: arrays of different lengths, or one of the two ends of a band only.
    """

    x: Float
    """[n]"""
    y: Float
    """[n]; NaN where there is no value."""
    low: Float | None = None
    """[n] lower end of a band."""
    high: Float | None = None
    """[n] upper end of it."""
    points: bool = False
    """Marks that no line joins."""

    def __post_init__(self) -> None:
        for name in ("x", "y", "low", "high"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, np.asarray(values, np.float64))
        shapes = {values.shape for values in (self.x, self.y, self.low, self.high) if values is not None}
        if len(shapes) != 1 or self.x.ndim != 1:
            raise ConfigError(f"chart: x, y, low and high of a line are [n] of one n, got {sorted(shapes)}")
        if (self.low is None) != (self.high is None):
            raise ConfigError("chart: a band has low and high; give both or none")

    def to_table(self) -> dict[str, Any]:
        """Plain values, to seven digits; NaN stays."""
        arrays = {name: getattr(self, name) for name in ("x", "y", "low", "high")}
        lists = {name: [float(f"{v:.7g}") for v in values] for name, values in arrays.items() if values is not None}
        return {**lists, "points": self.points}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chart:
    """Lines by name, in one picture.

    Raises:
        ConfigError: it has no line.
    """

    title: str
    x: str
    """What the horizontal axis is."""
    y: str
    lines: Mapping[str, Line]
    caption: str
    """One sentence: of how many episodes it is, and what a band is."""

    def __post_init__(self) -> None:
        if not self.lines:
            raise ConfigError(f"chart '{self.title}' has no line; leave it out")

    @classmethod
    def together(cls, tables: Mapping[str, Mapping[str, Any]]) -> Chart:
        """Charts of one line each, as `to_table` gives them, in one: name of a chart -> its line.

        Axes and caption are those of the first.
        """
        first = next(iter(tables.values()))
        lines = {}
        for name, table in tables.items():
            (line,) = table["lines"].values()
            arrays = {k: np.array(line[k], np.float64) for k in ("x", "y", "low", "high") if k in line}
            lines[name] = Line(**arrays, points=line["points"])  # None, which JSON has for NaN, becomes NaN
        return cls(**{k: first[k] for k in ("title", "x", "y", "caption")}, lines=lines)

    def to_table(self) -> dict[str, Any]:
        """Plain values."""
        about = {name: getattr(self, name) for name in ("title", "x", "y", "caption")}
        return {**about, "lines": {name: line.to_table() for name, line in self.lines.items()}}

    def rows(self) -> list[tuple[float, list[float]]]:
        """(x, the y of each line) for a table; none where lines differ in x, or have more than `TABLE` of them."""
        first, *others = self.lines.values()
        if len(first.x) > TABLE or any(not np.array_equal(first.x, line.x) for line in others):
            return []
        columns = np.stack([line.y for line in self.lines.values()], axis=1)
        return list(zip(first.x.tolist(), columns.tolist(), strict=True))


@torch.no_grad()
def brought(learner: MetaLearner, series: Episodes, num: int, device: torch.device | str = "cpu") -> tuple[Chart, ...]:
    """The charts of a learner in evaluation mode; none if it brings none. Made on rank 0, the same on every rank.

    Args:
        learner: its member ``charts`` is called, if it has one.
        series: of the evaluation.
        num: most episodes to look at, from the first on; 0: no charts.
        device: where the learner is.
    """
    make = getattr(learner, "charts", None)
    if make is None or num < 1:
        return ()
    return ranks.first(lambda: tuple(make(_first(series, num, device))))


def _first(series: Episodes, num: int, device: torch.device | str) -> Iterator[Episode[Tensor]]:
    """The first episodes in order, ``[B, n, ...]``: those of one size several at a time, others one by one."""
    left = num
    for episode in _in_order(series, device):
        yield each(episode, lambda values: values[:left])  # noqa: B023 - used at once
        left -= len(episode.class_ids)
        if left < 1:
            return


def _in_order(series: Episodes, device: torch.device | str) -> Iterator[Episode[Tensor]]:
    if not (isinstance(series, SampledEpisodes | EpisodeShards) and series.spec.fixed):
        for one in Stream(series, rank=0, world=1):
            yield to_torch(one, device)
        return
    size = max(1, min(_TOGETHER, _PASS_BYTES // max(1, series.episode_bytes)))
    for block in Stream(series, block=size, rank=0, world=1):
        yield to_torch(block, device)
