"""Outcome: what a shipped recipe gave when it was run, beside what was published for its setting."""

from __future__ import annotations

from dataclasses import dataclass

from episodes.errors import ConfigError
from learners import units


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One number of a recipe, in percent; of an error of regression (``mse``) as it is."""

    setting: str
    """``5-way 1-shot``; of another split or policy than the recipe's first ``[[evaluate]]`` its name, too."""
    metric: str = "accuracy"
    published: float | None = None
    """As the paper gives it; None: it has no such number."""
    measured: float | None = None
    """Of the run that `Ran` describes; None: not measured."""
    interval95: float | None = None
    """Half the width of its 95 % interval over episodes."""
    episodes: int | None = None
    """Episodes behind the measured number."""
    note: str = ""
    """What a reader must know to compare the two."""

    def __post_init__(self) -> None:
        for name in ("published", "measured", "interval95"):
            value = getattr(self, name)
            if value is not None and self._percent and not 0 <= value <= 100:
                raise ConfigError(f"{name}: expected percent in 0..100, got {value}")
        if self.measured is not None and self.episodes is None:
            raise ConfigError("episodes: a measured number needs the number of episodes behind it")
        if self.measured is None and (self.interval95 is not None or self.episodes is not None):
            raise ConfigError("measured: interval95 and episodes are of a measured number, which is missing")

    @property
    def _percent(self) -> bool:
        return not self.metric.startswith("mse")

    @property
    def number(self) -> str:
        """The measured one with its interval, as tables of results have it: ``98.54 % ± 0.17``, ``0.0312 ± 0.0021``."""
        assert self.measured is not None
        if not self._percent:
            return units.text(self.metric, self.measured, self.interval95)
        return f"{self.measured:.2f} %" + ("" if self.interval95 is None else f" ± {self.interval95:.2f}")

    @property
    def kind(self) -> str:
        """The setting, and the metric where it is not the accuracy."""
        return self.setting if self.metric == "accuracy" else f"{self.setting}, {self.metric}"

    @property
    def beside(self) -> str:
        """The published number and the note."""
        number = "" if self.published is None else f"{self.published:.2f}".removesuffix("0")
        return f"{number} ({self.note})" if number and self.note else number or self.note

    def __str__(self) -> str:
        measured = "not measured" if self.measured is None else f"{self.number} over {self.episodes:,} episodes"
        published = "" if self.published is None else f", published {self.beside}"
        return f"{self.kind}: {measured}{published or (f' ({self.note})' if self.note else '')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """The run that gave the measured numbers."""

    on: str
    """``2 cores``."""
    minutes: float
    """Of the training."""
    steps: int
    """Outer steps, fewer than the recipe's where it stopped early."""
    note: str = ""

    def __post_init__(self) -> None:
        if self.minutes <= 0 or self.steps < 1:
            raise ConfigError(f"minutes and steps: expected more than 0, got {self.minutes} and {self.steps}")

    def __str__(self) -> str:
        return f"{self.steps:,} steps, {self.minutes:g} min on {self.on}{f' ({self.note})' if self.note else ''}"
