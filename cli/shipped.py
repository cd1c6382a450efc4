"""Recipes that come with the package, as text: their names, and the TOML of one."""

from __future__ import annotations

from importlib import resources

from episodes.errors import ConfigError, near


def names() -> tuple[str, ...]:
    """All of them, sorted."""
    files = (entry.name for entry in resources.files("learners.recipes").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml")))


def text(name: str) -> str:
    """The TOML of one, with its comments.

    Raises:
        ConfigError: no such recipe; near names are listed.
    """
    if name not in (known := names()):
        raise ConfigError(f"recipe: unknown recipe '{name}'; {near(name, known)} (a file's name ends with .toml)")
    return resources.files("learners.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8")
