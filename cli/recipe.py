"""Recipe: every setting of a run in one frozen value, read from TOML and written back resolved."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

import episodes
from episodes import config
from episodes.errors import ConfigError, near
from episodes.spec import EpisodeSpec
from learners.trainer import TrainConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from episodes.protocols import SampleStore
    from episodes.stream.series import SampledEpisodes


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeTable:
    """Which episodes: of which split, how large, by which policy."""

    split: str = "train"
    ways: int = 5
    shots: int = 1
    queries: int = 15
    unlabeled: int = 0
    sampler: str = "uniform"
    rotations: bool = False
    seed: int = 0
    episodes: int | None = None
    """Number of episodes; None: endless (training)."""

    def __post_init__(self) -> None:
        self.spec()
        if self.episodes is not None and self.episodes < 1:
            raise ConfigError(f"episodes: expected 1 or more, got {self.episodes}")

    def spec(self) -> EpisodeSpec:
        """Sizes of an episode."""
        return EpisodeSpec(ways=self.ways, shots=self.shots, queries=self.queries, unlabeled=self.unlabeled)

    def series(self, store: SampleStore) -> SampledEpisodes:
        """These episodes of `store`."""
        return episodes.sample(
            store,
            self.split,
            self.spec(),
            sampler=self.sampler,
            seed=self.seed,
            rotations=self.rotations,
            length=self.episodes,
        )


DATA = "data.json"  # of a run: what it was trained on (store, its fingerprint, split, classes)
VALIDATION = EpisodeTable(split="val", episodes=200)
TEST = EpisodeTable(split="test", episodes=600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides a run but the store's content."""

    name: str = "custom"
    about: str = ""
    """What it reproduces, and what it gave on what hardware in how long."""
    method: str
    learner: Mapping[str, Any] = field(default_factory=dict)
    """Options of the method that differ from its defaults."""
    episode: EpisodeTable = EpisodeTable()
    validate: EpisodeTable = VALIDATION
    evaluate: tuple[EpisodeTable, ...] = (TEST,)
    train: TrainConfig = field(default_factory=TrainConfig)

    def to_toml(self) -> str:
        """The text that `read` reads back."""
        return tomli_w.dumps(config.to_table(self))


def read(path: Path) -> Recipe:
    """The recipe in a TOML file.

    Raises:
        ConfigError: unreadable, no TOML, or a wrong key or value, named by its path.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read recipe {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
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
    folder = resources.files("learners.recipes")
    shipped = sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    if name not in shipped:
        raise ConfigError(f"recipe: unknown recipe '{name}'; {near(name, shipped)} (a file's name ends with .toml)")
    with resources.as_file(folder / f"{name}.toml") as path:
        return read(path)
