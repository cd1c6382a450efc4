"""Options made from dataclasses, so that a setting is written down once: in the dataclass that uses it."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import click

from episodes import plugins
from episodes.config import from_table

Command = TypeVar("Command", bound=Callable[..., Any])


def from_dataclass(kind: type, skip: frozenset[str] = frozenset()) -> list[click.Option]:
    """One option a field: ``halve_every: int`` becomes ``--halve-every INTEGER``. One not given has the value None."""
    hints = get_type_hints(kind)
    return [_option(f, hints[f.name]) for f in fields(kind) if f.name not in skip]


def _option(f: Any, kind: Any) -> click.Option:
    default = None if f.default is MISSING else f.default
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (k for k in get_args(kind) if k is not type(None))
    flag = "--" + f.name.replace("_", "-")
    help_ = f.metadata.get("help", "")
    if default is not None:
        shown = {True: "on", False: "off"}.get(default, default) if isinstance(default, bool) else default
        help_ = f"{help_}  [default: {shown}]"
    if kind is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}"], default=None, help=help_)
    choice = click.Choice([str(c) for c in get_args(kind)]) if get_origin(kind) is Literal else None
    path = click.Path(path_type=Path) if kind is Path else None
    return click.Option([flag], type=choice or path or kind, default=None, help=help_)


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in values.items() if value is not None and value != ()}


def build(kind: Any, values: Mapping[str, Any]) -> Any:
    """An instance of dataclass `kind` from the options given among `values`."""
    names = {f.name for f in fields(kind)}
    return from_table(kind, {name: value for name, value in given(values).items() if name in names})


def paragraphs(docstring: str) -> str:
    """A module's docstring as help, line breaks kept."""
    return "\n\n".join(f"\b\n{paragraph}" for paragraph in docstring.strip().split("\n\n"))


class PluginGroup(click.Group):
    """One sub-command a plug-in, made when it is asked for; no other plug-in is imported."""

    def __init__(self, *args: Any, kind: plugins.Kind, command: Callable[[str], click.Command], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kind, self._command = kind, command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the plug-ins."""
        return list(plugins.names(self._kind))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """The command of one plug-in; an unknown name is a `PluginNotFound`."""
        return self._command(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List names only: their help would import every plug-in."""
        with formatter.section(f"{self._kind.noun.capitalize()}s"):
            formatter.write_text(", ".join(self.list_commands(ctx)))


def episode_options(*, shown: bool = True, mix: bool = False) -> Callable[[Command], Command]:
    """Every option that says which episodes; with their defaults if `shown`, those of several stores if `mix`."""

    def decorate(command: Command) -> Command:
        for option in reversed([*episode_parameters(shown=shown), *((MIX,) if mix else ())]):
            command.__click_params__ = [*getattr(command, "__click_params__", []), option]  # type: ignore[attr-defined]
        return command

    return decorate


MIX = click.Option(
    ["--mix"],
    multiple=True,
    metavar="STORE[=WEIGHT]",
    help="Another store; each episode is of one of them, alike unless a weight is given (STORE's own is 1).",
)


COUNTS = {
    "ways": ("Classes of an episode.", "5"),
    "shots": ("Support rows per class.", "1"),
    "queries": ("Query rows per class.", "15"),
    "unlabeled": ("Rows per class without label.", "0"),
    "distractors": ("Classes that appear only as rows without label.", "0"),
    "distractor_rows": ("Unlabeled rows of each distractor class.", "as --unlabeled"),
    "distractor_queries": ("Query rows of each distractor class (open-set).", "0"),
}


def episode_parameters(*, shown: bool = True, seed: str = "Seed of the episodes.") -> list[click.Parameter]:
    """The options of `episode_options`. Counts are written 5, 5..50, "{1: 0.5, 5: 0.5}", "[1, 2, 5]", all."""
    from episodes.selection import Selection

    def option(flag: str, text: str, default: Any, **settings: Any) -> click.Option:
        return click.Option([flag], help=f"{text}  [default: {default}]" if shown else text, default=None, **settings)

    counts = [option(f"--{n.replace('_', '-')}", text, default, metavar="COUNT") for n, (text, default) in COUNTS.items()]
    relation = click.Choice(["any", "same", "other"])
    chosen = from_dataclass(Selection)
    return [
        chosen[0] if shown else click.Option(["--split"], help=Selection.__dataclass_fields__["split"].metadata["help"]),
        *counts,
        option("--distractor-groups", "Groups that distractors come from.", "any", type=relation),
        option("--sampler", "Policy: uniform, hierarchical, meta-dataset, ...", "uniform"),
        click.Option(["-O", "--option", "options"], multiple=True, metavar="NAME=VALUE", help="Option of the policy."),
        *chosen[1:],
        click.Option(
            ["-T", "--transform", "transform"],
            multiple=True,
            metavar="NAME=VALUE",
            help="What happens to images: flip=true, crop_padding=8, rotate=10, mean=[0.5], ... (field=image).",
        ),
        option("--seed", seed, 0, type=int),
        click.Option(["--episode", "episode_file"], type=click.Path(path_type=Path), help="TOML table of all of these."),
    ]
