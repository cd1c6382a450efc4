"""Finding plug-ins: a file of a plug-in folder by its name, or an entry point of an outside package.

Every module of a plug-in folder whose name does not begin with ``_`` is a plug-in. Only the one asked for is imported, so
a missing optional dependency of a neighbour cannot break it. Outside packages declare entry points in groups of the same
names: ``[project.entry-points."episodes.readers"]``. There is nothing to register.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import Final

from episodes.errors import PluginNotFound, near


@dataclass(frozen=True, slots=True)
class Kind:
    """A folder of plug-ins."""

    package: str
    noun: str


READERS: Final = Kind("episodes.readers", "reader")
MAKERS: Final = Kind("episodes.makers", "made data set")
SAMPLERS: Final = Kind("episodes.sampling", "sampler")
METHODS: Final = Kind("learners.methods", "method")
ENGINES: Final = Kind("episodes.engines", "engine")


@cache
def names(kind: Kind) -> tuple[str, ...]:
    """Names of all plug-ins of a kind, sorted; none is imported. Hyphens stand for underscores."""
    package = importlib.import_module(kind.package)
    own = {module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")}
    return tuple(sorted(own | {point.name for point in entry_points(group=kind.package)}))


def find(kind: Kind, name: str) -> ModuleType:
    """The module of plug-in `name`.

    Raises:
        PluginNotFound: there is none; near names are listed.
    """
    name = name.replace("-", "_")
    if name not in names(kind):
        raise PluginNotFound(f"unknown {kind.noun} '{name}'; {near(name, names(kind))}")
    for point in entry_points(group=kind.package, name=name):
        module: ModuleType = point.load()
        return module
    return importlib.import_module(f"{kind.package}.{name}")
