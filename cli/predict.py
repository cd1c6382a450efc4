"""``episodes predict PREDICTOR IMAGE...``: the classes of pictures, told by a predictor of `episodes adapt`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli._progress import bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

_TOGETHER = 256  # pictures between two steps of the bar


@click.command("predict")
@click.argument("predictor", type=click.Path(path_type=Path))
@click.argument("images", metavar="IMAGE...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--top", type=click.IntRange(1), default=1, show_default=True, help="Most probable classes to print.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps or auto.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def command(predictor: Path, images: tuple[Path, ...], top: int, device: str, as_json: bool) -> None:
    """Tell the class of each IMAGE, a picture or a folder of pictures: file, class, probability, tab-separated.

    Probabilities are of the predictor's classes, and sum to 1 whatever the picture shows.
    """
    import numpy as np

    from learners.fabric import make_fabric
    from learners.pictures import pictures_in
    from learners.predictor import NONE
    from learners.predictor_files import open_predictor

    opened = open_predictor(predictor, device=make_fabric(device, "32-true").device)
    files = pictures_in(images)
    transductive = opened.trained.learner.transductive
    size = len(files) if transductive else _TOGETHER
    blocks = []
    with bar("predict", "pictures") as progress:
        for start in range(0, len(files), size):
            blocks.append(opened.predict(files[start : start + size])[1])
            progress(min(start + size, len(files)), len(files))
    best = [ranked(row, (*opened.names, NONE), top) for row in np.concatenate(blocks)]
    if as_json:
        found = [{"file": str(file), **one[0], "top": one} for file, one in zip(files, best, strict=True)]
        click.echo(json.dumps({"predictions": found, "transductive": transductive}, ensure_ascii=False))
        return
    for file, one in zip(files, best, strict=True):
        told = (f"{each['class']}\t{each['probability']:.3f}" for each in one)
        click.echo("\t".join([str(file), *told]))
    if transductive:
        click.echo("note: this method is transductive; a class may depend on the other pictures", err=True)


def ranked(probabilities: NDArray[np.float64], names: Sequence[str], top: int) -> list[dict[str, Any]]:
    """The most probable classes, most probable first, ties by name."""
    order = (-probabilities).argsort(kind="stable")[:top].tolist()
    return [{"class": names[k], "probability": float(probabilities[k])} for k in order]
