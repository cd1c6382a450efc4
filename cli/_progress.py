"""Progress bars on standard error: rate and time left; nothing where it is not a terminal, but for a line at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(label: str, unit: str) -> Iterator[Callable[..., None]]:
    """A bar as a function of (done, total[, note])."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as progress:
        task = progress.add_task(label, total=None, rate="", note="")

        def update(done: int, total: int, note: str = "") -> None:
            speed = progress.tasks[0].speed
            progress.update(task, completed=done, total=total, note=note, rate=f"{speed:,.1f} {unit}/s" if speed else "")

        yield update
