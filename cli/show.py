"""``episodes show STORE -o episode.png``: an episode as a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli._options import episode_options
from cli._places import any_store
from cli._stores import joined
from cli.plan import sampled
from episodes.errors import ConfigError

if TYPE_CHECKING:
    from episodes.made import StorePlace


@click.command("show")
@click.argument("store", type=any_store)
@episode_options(mix=True)
@click.option("--index", type=click.IntRange(0), default=0, show_default=True, help="Which episode.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Picture to write, .png.")
@click.option("--overwrite", is_flag=True, help="Replace the picture if it exists.")
def command(store: StorePlace, index: int, output: Path, overwrite: bool, **values: Any) -> None:
    """Draw an episode of STORE: one line a class, its support on the left and its queries on the right.

    Transforms are shown, but for normalisation and layout.
    """
    from episodes.picture import draw
    from episodes.stream.mixture import MixedEpisodes

    if output.suffix.lower() != ".png":
        raise ConfigError(f"output: expected a name that ends with .png, got '{output}'")
    if output.exists() and not overwrite:
        raise ConfigError(f"output: {output} exists; give --overwrite to replace it, or another name")
    table, sources = sampled(store, values)
    mixed = joined(table, sources)
    series = sources[mixed.source(index)] if isinstance(mixed, MixedEpisodes) else mixed
    pixels = replace(series, transforms=tuple(replace(one.pixels, layout="chw") for one in series.transforms))
    picture = draw(pixels[index], series.class_names(index))
    try:
        picture.save(output)
    except OSError as error:
        raise ConfigError(f"output: cannot write {output}: {error.strerror or error}") from error
    click.echo(output)
