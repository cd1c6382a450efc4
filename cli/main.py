"""The command ``episodes``: the group, the version, and one line for every error a user can cause."""

from __future__ import annotations

import logging
import os
import time
import warnings
from typing import IO, Any, Final, TextIO

import click

import episodes
from cli import (
    adapt,
    bench,
    compare,
    compile,  # noqa: A004
    copy,
    demo,
    embed,
    evaluate,
    freeze,
    ingest,
    inspect,
    plan,
    predict,
    recipes,
    show,
    split,
    stream,
    train,
    verify,
)
from episodes.errors import EpisodesError

INTERRUPTED = 130  # what shells report for Ctrl-C
_RANK_0_FIRST_S: Final = 5.0


class UserError(click.ClickException):
    """A library error as one line and exit code 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """``error: ...`` on standard error; under ``torchrun`` once, though every rank meets it."""
        if rank := _rank():
            time.sleep(_RANK_0_FIRST_S)  # the launcher ends this one where rank 0 ended with the same error
        click.echo(f"error{f' of rank {rank}' if rank else ''}: {' '.join(self.message.split())}", err=True)


class Group(click.Group):
    """Library errors become one line and exit code 2; anything else is a bug and keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        warnings.showwarning = _warn
        _show_log()
        try:
            return super().invoke(ctx)
        except EpisodesError as error:
            raise UserError(str(error)) from error
        except KeyboardInterrupt:
            if not _rank():
                click.echo("interrupted; `ingest`, `compile` and `train` go on where they were with --resume", err=True)
            ctx.exit(INTERRUPTED)


def _rank() -> int:
    """Which of several equal processes this is, as ``torchrun`` tells each; without importing torch."""
    told = os.environ.get("RANK", "")
    return int(told) if told.isdecimal() and os.environ.get("WORLD_SIZE", "1") != "1" else 0


class _Lines(logging.Handler):
    """What the library logs, as lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        click.echo(record.getMessage(), err=True)


def _show_log() -> None:
    log = logging.getLogger("episodes")
    if not log.handlers:
        log.addHandler(_Lines())
        log.setLevel(logging.INFO)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Warnings of this library as one line; others as Python shows them."""
    if category is UserWarning:
        click.echo(f"warning: {message}", err=True)
    else:
        click.echo(warnings.formatwarning(message, category, filename, lineno, line), err=True, nl=False, file=file)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(episodes.__version__, prog_name="episodes")
def main() -> None:
    """Few-shot learning from raw data to an honest result.

    \b
    episodes ingest omniglot raw/ omniglot.store     raw data -> store
    episodes train protonet omniglot.store -o run    store -> trained meta-learner
    episodes evaluate run                            -> accuracy on classes it never saw

    Results go to standard output, progress to standard error. Exit codes: 0, 2 for an error of yours, 1 for one of ours.
    """


for command in (
    adapt,
    bench,
    compare,
    compile,
    copy,
    demo,
    embed,
    evaluate,
    freeze,
    ingest,
    inspect,
    plan,
    predict,
    recipes,
    show,
    split,
    stream,
    train,
    verify,
):
    main.add_command(command.command)

if __name__ == "__main__":
    main()
