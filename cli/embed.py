"""``episodes embed STORE -o FEATURES``: a store of features, computed once by a fixed backbone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli._places import made, path_or_url
from cli._progress import bar
from cli.ingest import summary
from episodes.errors import ConfigError

if TYPE_CHECKING:
    from episodes.remote.place import Place
    from learners.features import Dtype


@click.command("embed")
@click.argument("store", type=path_or_url)
@click.option("--backbone", required=True, help="A run directory; conv4, resnet12, none, ...; or package.module:attribute.")
@click.option("--weights", type=click.Path(path_type=Path), help="State dict of a named backbone, a file of torch.save.")
@click.option("--width", type=int, default=64, show_default=True, help="Channels of a named backbone's first block.")
@click.option("--split", default="all", show_default=True, help="Classes to embed.")
@click.option("--rotations", is_flag=True, help="Quarter turns as classes of their own, name/rot090.")
@click.option("--field", help="Field of STORE to embed.  [default: that of the run, or image]")
@click.option("--batch", type=click.IntRange(1), default=256, show_default=True, help="Rows of a pass.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps or auto.")
@click.option(
    "--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True, help="Of features."
)
@click.option("-o", "--output", type=path_or_url, required=True, help="Store to make.")
@click.option("--overwrite", is_flag=True, help="Replace the store in --output.")
def command(
    store: Place,
    backbone: str,
    weights: Path | None,
    width: int,
    split: str,
    rotations: bool,
    field: str | None,
    batch: int,
    device: str,
    dtype: Dtype,
    output: Place,
    overwrite: bool,
) -> None:
    """Pass every image of STORE through a backbone and keep the features, as a store with the same classes and splits.

    Episodes of it are made and scored many times faster, and every command takes it: methods with --backbone auto or none
    learn from the features as they are. Nothing is left of an embedding that was interrupted.
    """
    import episodes
    from learners.embed import of_name, of_run
    from learners.fabric import make_fabric
    from learners.features import embed

    opened, on = episodes.open(store), make_fabric(device, "32-true").device
    if Path(backbone).is_dir():
        if weights is not None:
            raise ConfigError(f"weights: run {backbone} has its own; leave --weights out")
        embedder = of_run(Path(backbone), opened, field, on)
    else:
        embedder = of_name(backbone, opened, field, on, weights=weights, width=width)
    with made(output, overwrite=overwrite, resume=False) as folder, bar("embed", "samples") as progress:
        embed(
            embedder,
            opened,
            folder,
            split=split,
            rotations=rotations,
            dtype=dtype,
            batch=batch,
            overwrite=overwrite,
            progress=progress,
        )
    click.echo(summary(output))
