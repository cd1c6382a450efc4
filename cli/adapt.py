"""``episodes adapt RUN FOLDER -o PREDICTOR``: a trained meta-learner learns classes of one's own from a few pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli._places import path_or_url

if TYPE_CHECKING:
    from episodes.remote.place import Place


@click.command("adapt")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Predictor to make, a directory.")
@click.option("--store", type=path_or_url, help="Store that says how images look.  [default: that of the training]")
@click.option(
    "--fit", type=click.Choice(["crop", "squash", "pad"]), help="How a picture becomes square.  [default: as in the store]"
)
@click.option(
    "--invert/--no-invert", default=None, help="Dark ink on light paper becomes light on dark.  [default: as in the store]"
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps or auto.")
@click.option("--overwrite", is_flag=True, help="Replace the predictor in --output.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def command(
    run: Path,
    folder: Path,
    output: Path,
    store: Place | None,
    fit: str | None,
    invert: bool | None,
    device: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Adapt RUN to the classes in FOLDER, which has one sub-folder of pictures for each; they tell others by
    `episodes predict`.

    One picture a class is enough. Pictures in a sub-folder `unlabeled` are of any class, for the methods that learn from
    such. Pictures are brought to the form that the reader of RUN's store gave its own, and on to the learner as RUN's
    recipe says. The predictor is self-contained.
    """
    from learners.fabric import make_fabric
    from learners.pictures import support_folder
    from learners.predictor import adapt_images
    from learners.predictor_files import save_predictor
    from learners.run import open_run

    classes, unlabeled = support_folder(folder)
    trained = open_run(run, store=store, fit=fit, invert=invert)
    predictor = adapt_images(trained, classes, unlabeled, device=make_fabric(device, "32-true").device)
    written = save_predictor(predictor, output, overwrite=overwrite)
    counts = dict(zip(predictor.names, predictor.counts, strict=True))
    if as_json:
        about = {"predictor": str(output), "method": trained.method, "classes": counts, "unlabeled": len(unlabeled)}
        click.echo(json.dumps({**about, "hash": written}))
        return
    click.echo(f"{output}: {trained.method} tells {len(counts)} classes apart")
    for name, count in counts.items():
        click.echo(f"  {name}: {count} picture{'s' if count > 1 else ''}")
    if unlabeled:
        click.echo(f"  without label: {len(unlabeled)}")
    click.echo(f"  hash {written}")
