"""``episodes show STORE -o episode.png``: an episode as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli._options import episode_options
from cli.plan import sampled
from episodes.errors import ConfigError


@click.command("show")
@click.argument("store", type=click.Path(path_type=Path))
@episode_options()
@click.option("--index", type=click.IntRange(0), default=0, show_default=True, help="Which episode.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Picture to write, .png.")
@click.option("--overwrite", is_flag=True, help="Replace the picture if it exists.")
def command(store: Path, index: int, output: Path, overwrite: bool, **values: Any) -> None:
    """Draw an episode of STORE: one line a class, its support on the left and its queries on the right."""
    from episodes.picture import draw

    if output.suffix.lower() != ".png":
        raise ConfigError(f"output: expected a name that ends with .png, got '{output}'")
    if output.exists() and not overwrite:
        raise ConfigError(f"output: {output} exists; give --overwrite to replace it, or another name")
    series = sampled(store, values)
    picture = draw(series[index], series.class_names(index))
    try:
        picture.save(output)
    except OSError as error:
        raise ConfigError(f"output: cannot write {output}: {error.strerror or error}") from error
    click.echo(output)
