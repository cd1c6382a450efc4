"""Checkpoints: everything needed to go on exactly, written aside and renamed, read without running code."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from episodes.errors import CheckpointError

VERSION = 1


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` (tensors and plain values) to `path`, which is whole or absent.

    Raises:
        CheckpointError: the disk is full or the place cannot be written.
    """
    aside = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"version": VERSION, **state}, aside)
        aside.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        aside.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write checkpoint {path}: {error}") from error


def load(path: Path, method: str) -> dict[str, Any]:
    """The state saved at `path`, on the CPU.

    Raises:
        CheckpointError: missing, unreadable, of another version, or of another method than `method`.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}; train first") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"checkpoint {path} cannot be read ({reason})") from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise CheckpointError(f"{path} is not a checkpoint of version {VERSION}")
    if state["method"] != method:
        raise CheckpointError(f"checkpoint {path} is of method '{state['method']}', not '{method}'")
    return state
