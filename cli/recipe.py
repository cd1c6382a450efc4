"""Recipe: every setting of a run in one frozen value, read from TOML and written back resolved."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tomli_w

import episodes
from cli import shipped
from cli.outcome import Ran, Result
from episodes import config, frozen, plugins
from episodes.count import Count
from episodes.errors import ConfigError
from episodes.selection import Selection
from episodes.spec import COUNTS, EpisodeSpec, Relation
from episodes.transforms import Transform, delivery
from learners.settings import TrainConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from episodes.made import StorePlace
    from episodes.protocols import SampleStore
    from episodes.stream.series import SampledEpisodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A store beside the one that a command names; each episode is of one of them."""

    store: str
    """Path, url, or ``made:NAME``."""
    split: str | None = None
    """None: the split of the other episodes."""
    weight: float = 1.0
    """How often it is drawn from; the store of the command has 1."""

    def __post_init__(self) -> None:
        # Absolute, for a run is resumed and evaluated from anywhere.
        object.__setattr__(self, "store", str(self.place.absolute()))
        if self.weight < 0:
            raise ConfigError(f"weight: expected a number of 0 or more, got {self.weight}")

    @property
    def place(self) -> StorePlace:
        """Where the store is."""
        from episodes.made import store_place

        return store_place(self.store)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeTable(Selection):
    """Which episodes: of which classes, how large, by which policy. A count that is not given is as the policy has it."""

    ways: Count | None = None
    shots: Count | None = None
    queries: Count | None = None
    unlabeled: Count | None = None
    distractors: Count | None = None
    distractor_rows: Count | None = None
    distractor_queries: Count | None = None
    distractor_groups: Relation = "any"
    sampler: str = "uniform"
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the policy that differ from its defaults."""
    seed: int = 0
    episodes: int | None = None
    """Number of episodes; None: endless (training)."""
    sources: tuple[Source, ...] = ()
    """Further stores."""
    transform: Transform | None = None
    """What happens to the images of a field."""
    transforms: tuple[Transform, ...] = ()
    """The same for several fields."""

    def __post_init__(self) -> None:
        Selection.__post_init__(self)
        self.spec()
        if self.episodes is not None and self.episodes < 1:
            raise ConfigError(f"episodes: expected 1 or more, got {self.episodes}")

    def spec(self) -> EpisodeSpec:
        """Sizes of an episode."""
        counts = {name: getattr(self, name) for name in COUNTS if getattr(self, name) is not None}
        return EpisodeSpec(**default_counts(self.sampler) | counts, distractor_groups=self.distractor_groups)

    def selection(self) -> Selection:
        """Which classes."""
        return Selection(**{f.name: getattr(self, f.name) for f in fields(Selection)})

    def series(self, store: SampleStore) -> SampledEpisodes:
        """These episodes of `store`."""
        return episodes.sample(
            store,
            self.selection(),
            self.spec(),
            sampler=self.sampler,
            options=self.options,
            seed=self.seed,
            length=self.episodes,
            transforms=self.all_transforms(),
        )

    def all_transforms(self) -> tuple[Transform, ...]:
        """Those of `transform` and `transforms` together."""
        return (*self.transforms, *((self.transform,) if self.transform is not None else ()))

    def delivery(self) -> dict[str, Transform]:
        """Field -> how its images reach the learner, where that is not as they are stored: nothing random."""
        return delivery(self.all_transforms())


def default_counts(sampler: str) -> dict[str, Any]:
    """Counts of an episode where none is given: 5-way 1-shot with 15 queries, unless the policy has its own."""
    module = plugins.find(plugins.SAMPLERS, sampler)
    return dict(getattr(module, "DEFAULT_COUNTS", {"ways": 5, "shots": 1, "queries": 15}))


DATA = "data.json"  # of a run: what it was trained on (store, its fingerprint, split, classes)
VALIDATION = EpisodeTable(split="val", episodes=200)
TEST = EpisodeTable(split="test", episodes=600)


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
    episode: EpisodeTable = EpisodeTable()
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


def episode_table(values: Mapping[str, Any], base: EpisodeTable | None = None) -> EpisodeTable:
    """The episodes that flags describe: `base`, or the table in ``--episode FILE``, with the flags given changed.

    A frozen list brings its own classes, unless a flag or the file names a split.

    Raises:
        ConfigError: a wrong key or value, named by its path.
        SpecError: a frozen list that cannot be read.
    """
    table = config.to_table(base) if base is not None else {}
    if (file := values.get("episode_file")) is not None:
        table = _toml(file)
    split_given = values.get("split") is not None or (file is not None and "split" in table)
    if (sampler := values.get("sampler")) is not None and sampler != table.get("sampler", "uniform"):
        # Another policy has counts and options of its own.
        table = {name: value for name, value in table.items() if name not in (*COUNTS, "options")}
    known = {f.name for f in fields(EpisodeTable)} - {"options", "sources", "transform", "transforms"}
    flags = {name: value for name, value in values.items() if name in known and value is not None}
    if given := values.get("options"):
        flags["options"] = {**table.get("options", {}), **options_of(given)}
    if given := values.get("transform"):
        flags |= _transformed(table, options_of(given))
    if given := values.get("mix"):
        flags["sources"] = [_source(text) for text in given]
    if (table | flags).get("sampler") == "frozen" and not split_given:
        table = _selected_by_list(table, (table | flags).get("options"))
    return config.from_table(EpisodeTable, table | flags)


def _selected_by_list(table: dict[str, Any], options: Any) -> dict[str, Any]:
    """The table with the classes that the frozen list of these options was drawn from, where its header says them."""
    path = options.get("path") if isinstance(options, Mapping) else None
    selection = frozen.selection_of(Path(path)) if isinstance(path, (str, Path)) else None
    if selection is None:
        return table
    names = {f.name for f in fields(Selection)}
    return {name: value for name, value in table.items() if name not in names} | config.to_table(selection)


def _transformed(table: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The transforms of a table, that of one field with the values given changed."""
    name = given.get("field", "image")
    old: dict[str, Any] = {}
    rest = []
    for one in (*table.get("transforms", ()), *((table["transform"],) if "transform" in table else ())):
        if one.get("field", "image") == name:
            old = dict(one)
        else:
            rest.append(one)
    if {"mean", "std"} & given.keys():
        old.pop("dtype", None)  # normalisation that is asked for now brings its own type
    return {"transform": old | given, "transforms": rest}


def _source(text: str) -> dict[str, Any]:
    """``other.store`` or ``other.store=0.5`` as a table of `Source`."""
    path, equals, weight = text.rpartition("=")
    if not equals or Path(text).exists():
        return {"store": text}
    try:
        return {"store": path, "weight": float(weight)}
    except ValueError:
        raise ConfigError(f"mix: expected STORE or STORE=WEIGHT, a number, got '{text}'") from None


def options_of(texts: Iterable[str]) -> dict[str, Any]:
    """``["max_ways=20", ...]`` as a table.

    Raises:
        ConfigError: one is not NAME=VALUE.
    """
    return dict(map(_option, texts))


def _option(text: str) -> tuple[str, Any]:
    """``max_ways=20`` as a pair; the value is read as TOML, and as text where it is none."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"option: expected NAME=VALUE, got '{text}'")
    try:
        return name.strip().replace("-", "_"), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip().replace("-", "_"), value.strip()


def read(path: Path) -> Recipe:
    """The recipe in a TOML file.

    Raises:
        ConfigError: unreadable, no TOML, or a wrong key or value, named by its path.
    """
    table = _toml(path)
    try:
        return config.from_table(Recipe, table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read recipe {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def find(name: str) -> Recipe:
    """A shipped recipe by name, or the one in a file.

    Raises:
        ConfigError: no such recipe; near names are listed.
    """
    if name.endswith(".toml") or "/" in name:
        return read(Path(name))
    table = tomllib.loads(shipped.text(name))
    try:
        return config.from_table(Recipe, table)
    except ConfigError as error:
        raise ConfigError(f"recipe {name}: {error}") from error
