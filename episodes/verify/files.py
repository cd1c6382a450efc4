"""Files against what a manifest says of them: there, of this size, of this hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from pathlib import Path

_PIECE = 1 << 22  # bytes read at a time


def fault_of(path: Path, size: int | None, sha256: str, tick: Callable[[int], None] = lambda num: None) -> str | None:
    """What is wrong with a file; None: nothing.

    Args:
        path: of the file.
        size: bytes that it must have; None: any.
        sha256: that it must have.
        tick: called with the bytes that were read on.
    """
    digest, got = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
                got += len(piece)
                tick(len(piece))
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if size is not None and got != size:
        return f"has {got} bytes, the manifest says {size}"
    if digest.hexdigest() != sha256:
        return f"is damaged: its SHA-256 is {digest.hexdigest()}, the manifest says {sha256}"
    return None


def strays(folder: Path, known: Collection[str]) -> list[str]:
    """Names in `folder` that are not known, in order."""
    return sorted(path.name for path in folder.iterdir() if path.name not in known)
