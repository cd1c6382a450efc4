"""Where shards are made: ``--engine`` and ``--address`` of `compile` and `ingest`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from episodes import plugins
from episodes.errors import ConfigError

if TYPE_CHECKING:
    from episodes.engines import Run

Command = TypeVar("Command", bound=Callable[..., Any])

LOCAL = "local"

ENGINE = click.Option(
    ["--engine"], default=LOCAL, show_default=True, metavar="NAME", help="What makes shards: local (threads), ray or dask."
)
ADDRESS = click.Option(
    ["--address"],
    metavar="PLACE",
    help="Of the cluster: auto or host:port (ray), tcp://host:port or scheduler.json (dask).",
)


def engine_options() -> Callable[[Command], Command]:
    """Both options."""

    def decorate(command: Command) -> Command:
        command.__click_params__ = [*getattr(command, "__click_params__", []), ADDRESS, ENGINE]  # type: ignore[attr-defined]
        return command

    return decorate


def engine_of(name: str, address: str | None) -> Run | None:
    """The engine of that name; None: threads of this process."""
    if name != LOCAL:
        run: Run = partial(plugins.find(plugins.ENGINES, name).run, address=address)
        return run
    if address is not None:
        raise ConfigError(f"address: {address} is of a cluster; name its engine, as --engine ray")
    return None
