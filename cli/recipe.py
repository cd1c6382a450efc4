"""Recipe: every setting of a run in one frozen value, read from TOML and written back resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tomli_w

from cli import shipped
from cli._toml import parsed, read_toml
from cli.episode_table import TEST, VALIDATION, EpisodeTable
from cli.outcome import Ran, Result
from episodes import config
from episodes.errors import ConfigError
from learners.settings import TrainConfig

DATA = "data.json"  # of a run: what it was trained on (store, its fingerprint, split, classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides a run but the store's content."""

    name: str = "custom"
    about: str = ""
    """What it reproduces, and where it differs."""
    size: Literal["paper", "cpu"] | None = None
    """``paper``: the published schedule; ``cpu``: one that two cores finish in minutes."""
    data: str = ""
    """Data set it is for."""
    method: str
    learner: Mapping[str, Any] = field(default_factory=dict)
    """Options of the method that differ from its defaults."""
    episode: EpisodeTable = field(default_factory=EpisodeTable)
    validate: EpisodeTable = VALIDATION
    evaluate: tuple[EpisodeTable, ...] = (TEST,)
    train: TrainConfig = field(default_factory=TrainConfig)
    result: tuple[Result, ...] = ()
    """Published and measured numbers of a shipped recipe."""
    ran: Ran | None = None
    """The run that gave the measured ones; None: it was not run."""

    def __post_init__(self) -> None:
        if self.ran is None and (measured := [one.setting for one in self.result if one.measured is not None]):
            raise ConfigError(f"ran: '{measured[0]}' was measured; say on what, in how many minutes and steps")
        trained = self.episode.delivery()
        tables = {"validate": self.validate} | {f"evaluate[{i}]": one for i, one in enumerate(self.evaluate)}
        for where, table in tables.items():
            tested = table.delivery()
            for name in sorted(trained.keys() | tested.keys()):
                if (one := trained.get(name)) != (other := tested.get(name)):
                    raise ConfigError(
                        f"{where}.transform: field '{name}' is delivered {other or 'as stored'}, in training "
                        f"{one or 'as stored'}; give both the same layout, dtype, mean and std"
                    )

    def to_toml(self) -> str:
        """The text of a run's recipe, which `read` reads back: all but `result` and `ran`, for it is another run."""
        table = config.to_table(self)
        return tomli_w.dumps({name: value for name, value in table.items() if name not in ("result", "ran")})


def read(path: Path) -> Recipe:
    """The recipe in a TOML file.

    Raises:
        ConfigError: unreadable, no TOML, or a wrong key or value, named by its path.
    """
    table = read_toml(path)
    try:
        return config.from_table(Recipe, table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def find(name: str) -> Recipe:
    """A shipped recipe by name, or the one in a file.

    Raises:
        ConfigError: no such recipe; near names are listed.
    """
    if name.endswith(".toml") or "/" in name:
        return read(Path(name))
    table = parsed(shipped.text(name))
    try:
        return config.from_table(Recipe, table)
    except ConfigError as error:
        raise ConfigError(f"recipe {name}: {error}") from error
