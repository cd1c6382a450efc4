"""``episodes split STORE``: choose train, validation and test classes by their distance, and say how far apart they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli._places import path_or_url
from episodes.errors import ConfigError

if TYPE_CHECKING:
    from episodes.remote.place import Place


@click.command("split")
@click.argument("store", type=path_or_url)
@click.option("--how", type=click.Choice(["near", "random", "far"]), default="random", show_default=True, help="Siblings "
              "divided, no regard, or whole subtrees apart.")  # fmt: skip
@click.option("--shares", default="0.64,0.16,0.2", show_default=True, help="Shares of train,val,test.")
@click.option("--roots", help="Two nodes VAL,TEST whose classes validate and test, or auto (instead of --how).")
@click.option("--desired", type=int, default=150, show_default=True, help="With --roots auto: classes below each root.")
@click.option("--margin", type=int, default=50, show_default=True, help="With --roots auto: how far off they may be.")
@click.option(
    "--distance", default="lca_span", show_default=True, help="lca_span, lca_height, path, jiang_conrath, groups."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the choice.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="JSON file for `episodes ingest folder --splits`.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def command(
    store: Place,
    how: str,
    shares: str,
    roots: str | None,
    desired: int,
    margin: int,
    distance: str,
    seed: int,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Split the classes of STORE, which needs a hierarchy or groups, and print delta as one JSON object.

    Delta is the mean distance of a test class to the nearest training class.
    """
    import numpy as np

    import episodes
    from episodes.distance import delta, distances
    from episodes.sampling._semantic import hierarchy
    from episodes.splitting import auto_roots, by_roots, split_classes

    classes = episodes.open(store).split("all")
    graph = hierarchy(classes, "graph" if classes.is_a else "groups")
    chosen: tuple[str, str] | None = None
    if roots:
        val, _, test = roots.partition(",")
        chosen = auto_roots(graph, desired, margin) if roots == "auto" else (val.strip(), test.strip())
        parts = by_roots(graph, *chosen)
    else:
        try:
            train, val_, test_ = (float(share) for share in shares.split(","))
        except ValueError:
            raise ConfigError(f"shares: expected three numbers as 0.64,0.16,0.2, got '{shares}'") from None
        parts = split_classes(how, graph, (train, val_, test_), seed)  # type: ignore[arg-type]  # click checked it
    measure = distance if classes.is_a else "groups"
    table = distances(measure, classes)
    place = {name: p for p, name in enumerate(classes.names)}
    positions = {part: np.array([place[name] for name in names]) for part, names in parts.items()}
    about: dict[str, Any] = {"sizes": {part: len(names) for part, names in parts.items()}, "distance": measure}
    if chosen is not None:
        about["roots"] = list(chosen)
    if {"train", "test"} <= parts.keys():
        about["delta"] = round(delta(table, positions["train"], positions["test"]), 4)
    click.echo(json.dumps(about))
    if output is not None:
        if output.exists() and not overwrite:
            raise ConfigError(f"output: {output} exists; give --overwrite to replace it, or another name")
        output.write_text(json.dumps(parts, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        click.echo(output, err=True)
