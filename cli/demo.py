"""``episodes demo``: the whole road on embedded data, in minutes."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("demo")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Folder to work in."
)
@click.option("--steps", type=click.IntRange(1), help="Outer steps.  [default: as in the recipe]")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier demo left there.")
def command(output: Path, steps: int | None, overwrite: bool) -> None:
    """Make invented alphabets, train a Prototypical Network on some, test it on others.

    \b
    The same by hand:
      episodes ingest glyphs demo/glyphs.store
      episodes train protonet demo/glyphs.store -o demo/run --recipe protonet-glyphs
      episodes evaluate demo/run
    """
    from cli import evaluate, ingest, train
    from cli.recipe import find

    store, run = output / "glyphs.store", output / "run"
    shared = {"shard_mb": 16, "workers": None, "skip_broken": False}
    ingest.run("glyphs", {"store": store, **shared, "overwrite": overwrite, "resume": False})
    values = {"recipe": "protonet-glyphs", "steps": steps}
    recipe = find("protonet-glyphs") if steps is None else train.resolved("protonet", values)
    click.echo(f"validation: {train.train(recipe, store, run, overwrite=overwrite and run.exists())}")
    evaluate.evaluate(run, None, run / "report", {}, overwrite=overwrite)
