"""Made: the name of a data set that is made on demand, written where a store's path would stand.

``made:sinusoids``, or with options ``made:sinusoids,train=1000,seed=1``. A folder of such a name is written ``./made:...``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from episodes.errors import ConfigError
from episodes.remote.place import Place, place

PREFIX: Final = "made:"


@dataclass(frozen=True, slots=True)
class Made:
    """A data set by name and options. A value: nothing is computed, and the name not looked for, before it is opened."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Those that differ from the data set's defaults."""

    @property
    def stem(self) -> str:
        """Name of the source in a report."""
        return self.name

    def __str__(self) -> str:
        return ",".join([PREFIX + self.name, *(f"{name}={_written(self.options[name])}" for name in sorted(self.options))])

    def absolute(self) -> Made:
        """Itself: it is the same everywhere."""
        return self

    resolve = absolute


StorePlace: TypeAlias = Place | Made
"""Where a store is: a path, a url, or the name of one that is made on demand."""


def store_place(where: str | StorePlace) -> StorePlace:
    """A path, a url, or ``made:NAME,OPTION=VALUE,...``.

    Raises:
        ConfigError: an option without value.
    """
    if isinstance(where, Made):
        return where
    if not isinstance(where, str) or not where.startswith(PREFIX):
        return place(where)
    name, *options = where.removeprefix(PREFIX).split(",")
    return Made(name, dict(_option(where, option) for option in options))


def _option(where: str, text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"store: expected made:NAME,OPTION=VALUE,..., got '{where}'")
    try:
        return name.strip().replace("-", "_"), json.loads(value)
    except ValueError:
        return name.strip().replace("-", "_"), value.strip()


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
