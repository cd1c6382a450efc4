"""Episodes as flags of the command line describe them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from cli._toml import parsed, read_toml
from cli.episode_table import EpisodeTable
from episodes import config, frozen
from episodes.errors import ConfigError
from episodes.selection import Selection
from episodes.spec import COUNTS


def episode_table(values: Mapping[str, Any], base: EpisodeTable | None = None) -> EpisodeTable:
    """The episodes that flags describe: `base`, or the table in ``--episode FILE``, with the flags given changed.

    A frozen list brings its own classes, unless a flag or the file names a split.

    Raises:
        ConfigError: a wrong key or value, named by its path.
        SpecError: a frozen list that cannot be read.
    """
    table = config.to_table(base) if base is not None else {}
    if (file := values.get("episode_file")) is not None:
        table = read_toml(file)
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
        return name.strip().replace("-", "_"), parsed(f"value = {value}")["value"]
    except ValueError:
        return name.strip().replace("-", "_"), value.strip()
