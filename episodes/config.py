"""TOML table <-> frozen dataclass. Errors begin with the key path: ``train.meta_batch: expected int, got 'four'``.

Defaults live in the dataclass and nowhere else; a table holds differences. Supported types: bool, int, float, str, Path,
Literal, unions of those with None, tuples of one such type, and dataclasses of them.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from episodes.count import Count
from episodes.errors import ConfigError, SpecError, near

T = TypeVar("T")


def from_table(kind: type[T], table: Any, path: str = "") -> T:
    """An instance of dataclass `kind` from a table; `path` is the table's place in the file, for errors.

    Raises:
        ConfigError: unknown or missing key, wrong type, or a value that the dataclass itself refuses.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{path or 'recipe'}: expected a table, got {table!r}")
    known, hints = {f.name: f for f in fields(kind)}, get_type_hints(kind)  # type: ignore[arg-type]  # T is a dataclass
    for key in table:
        if key not in known:
            raise ConfigError(f"{_join(path, key)}: unknown key; {near(key, known)}")
    try:
        values = {key: _value(hints[key], value, _join(path, key)) for key, value in table.items()}
    except SpecError as error:  # of a count
        raise ConfigError(_join(path, str(error))) from error
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"{path or 'recipe'}: {str(error).partition('() ')[2] or error}") from error
    except (ConfigError, SpecError) as error:
        raise ConfigError(_join(path, str(error))) from error


def to_table(value: Any) -> dict[str, Any]:
    """The table that `from_table` reads back; what is None is left out, for TOML has no null."""
    return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if getattr(value, f.name) is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Count):
        return value.plain()
    if is_dataclass(value):
        return to_table(value)
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return str(value) if isinstance(value, Path) else value


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _value(kind: Any, value: Any, path: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _union(args, value, path)
    if origin is Literal:
        value = str(value) if type(value) is int else value  # a word that looks like a number, as TOML reads it
        if value not in args:
            raise ConfigError(f"{path}: expected one of {', '.join(map(repr, args))}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{path}: expected a list, got {value!r}")
        return tuple(_value(args[0], one, f"{path}[{i}]") for i, one in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: expected a table, got {value!r}")
        return dict(value)
    if kind is Count:
        name = path.rpartition(".")[2]
        return Count.parse(value, name) if isinstance(value, str) else Count.of(value, name)
    if is_dataclass(kind):
        assert isinstance(kind, type)
        return value if isinstance(value, kind) else from_table(kind, value, path)
    return _scalar(kind, value, path)


def _union(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    (kind,) = (k for k in kinds if k is not type(None))  # X | None is the one union in use
    return _value(kind, value, path)


def _scalar(kind: type, value: Any, path: str) -> Any:
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(value, bool) is not (kind is bool) or not isinstance(value, kind):
        raise ConfigError(f"{path}: expected {kind.__name__}, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path}: expected a finite number, got {value!r}")
    return value
