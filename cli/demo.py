"""``episodes demo``: the whole road on embedded data, in minutes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click


@click.command("demo")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Folder to work in."
)
@click.option("--steps", type=click.IntRange(1), help="Outer steps.  [default: as in the recipe]")
@click.option("--episodes", type=click.IntRange(2), help="Test episodes of each setting.  [default: as in the recipe]")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier demo left there.")
def command(output: Path, steps: int | None, episodes: int | None, overwrite: bool) -> None:
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
    recipe = find("protonet-glyphs")
    if steps is not None:
        recipe = replace(recipe, train=replace(recipe.train, steps=steps))
    if episodes is not None:
        recipe = replace(
            recipe,
            validate=replace(recipe.validate, episodes=episodes),
            evaluate=tuple(replace(one, episodes=episodes) for one in recipe.evaluate),
        )
    click.echo(f"validation: {train.train(recipe, store, run, overwrite=overwrite and run.exists())}")
    evaluate.evaluate(run, None, run / "report", {}, overwrite=overwrite)
