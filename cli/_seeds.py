"""Runs side by side: what they are called, and whether they are the same training with other seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from episodes.errors import ConfigError

if TYPE_CHECKING:
    from cli._scoring import Run

_DECIDES: Final = ("method", "learner", "episode", "validate", "train")
# Where and how fast a run was trained, and how often it was written down.
_NO_MATTER: Final = {"accelerator", "workers", "data", "together", "checkpoint_every"}


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each: of its folder, of a ``report.json`` the folder it is in; or the whole path where two share it.

    Raises:
        ConfigError: one path is given twice.
    """
    if len(twice := {path.absolute() for path in paths}) < len(paths):
        doubled = next(path for path in paths if [p.absolute() for p in paths].count(path.absolute()) > 1)
        raise ConfigError(f"run: {doubled} is given twice ({len(twice)} different of {len(paths)})")
    folders = [path.absolute().parent if path.name == "report.json" else path.absolute() for path in paths]
    short = [folder.stem if folder.suffix == ".json" else folder.name for folder in folders]
    return [name if short.count(name) == 1 else str(path) for name, path in zip(short, paths, strict=True)]


def check_seeds_only(runs: Sequence[Run], names: Sequence[str]) -> None:
    """Refuse runs that are no repetitions of one training.

    Raises:
        ConfigError: their recipes or data differ by more than the seed, or two have the same one.
    """
    first, seeds = _decisive(runs[0]), {runs[0].recipe.train.seed: names[0]}
    for run, name in zip(runs[1:], names[1:], strict=True):
        other = _decisive(run)
        for key in [*first, *other]:
            if (one := first.get(key)) != (two := other.get(key)):
                raise ConfigError(
                    f"{key}: {one} in {names[0]}, {two} in {name}; runs that share a mean differ by their seed only (set "
                    "others against each other with `episodes compare`)"
                )
        if (seed := run.recipe.train.seed) in seeds:
            raise ConfigError(f"train.seed: {seed} in {seeds[seed]} and in {name}; these are one run, not two")
        seeds[seed] = name


def _decisive(run: Run) -> dict[str, Any]:
    """Key path -> value of all that decides a training but its seed."""
    from episodes.config import to_table

    table = to_table(run.recipe)
    parts: dict[str, Any] = {name: table[name] for name in _DECIDES if name in table}
    found = dict(_flat(parts, ""))
    for name in ("episode.seed", "train.seed", *(f"train.{one}" for one in _NO_MATTER)):
        found.pop(name, None)
    return found | {"store": run.trained.get("fingerprint")}


def _flat(table: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value
