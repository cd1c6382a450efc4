"""TOML, which Python itself reads from 3.11 on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from episodes.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a file.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read recipe {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def parsed(text: str) -> dict[str, Any]:
    """The table in a text.

    Raises:
        ValueError: it is not TOML.
    """
    return tomllib.loads(text)
