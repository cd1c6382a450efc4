"""Stores and episode shards by path, url or name: the types of such arguments, and making something at one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli._progress import bar
from episodes.errors import ConfigError

if TYPE_CHECKING:
    from episodes.made import StorePlace
    from episodes.remote.place import Place


def path_or_url(value: str) -> Place:
    """The type of an argument that is files at either."""
    from episodes.made import PREFIX
    from episodes.remote.place import place

    if value.startswith(PREFIX):
        raise ConfigError(f"store: {value} is made on demand and has no files, which are needed here (a folder: ./{value})")
    return place(value)


def any_store(value: str) -> StorePlace:
    """The type of an argument that is a path, a url, or names a data set made on demand: ``made:sinusoids,seed=1``."""
    from episodes.made import store_place

    return store_place(value)


@contextmanager
def made(out: Place, *, overwrite: bool, resume: bool) -> Iterator[Path]:
    """The folder to make `out` in; a remote one is uploaded at the end (see `episodes.remote.publish.made_here`)."""
    from episodes.remote.publish import made_here

    with _uploading() as progress, made_here(out, overwrite=overwrite, resume=resume, progress=progress) as folder:
        yield folder


@contextmanager
def _uploading() -> Iterator[Any]:
    """A bar that appears with the first file uploaded, for there is one bar at a time."""
    with ExitStack() as stack:
        shown: list[Any] = []

        def progress(done: int, total: int) -> None:
            if not shown:
                shown.append(stack.enter_context(bar("upload", "MiB")))
            shown[0](done / 2**20, total / 2**20)

        yield progress
