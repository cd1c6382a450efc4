"""``episodes evaluate RUN``: the accuracy of a trained meta-learner on classes it never saw."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli._options import episode_options, given
from cli._places import path_or_url
from cli._progress import bar
from cli._shards import described, opened_shards, refuse_episode_options
from cli._stores import each_series, opened
from episodes.errors import ConfigError, LeakageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cli.recipe import Recipe
    from episodes.protocols import FieldSpec
    from episodes.remote.place import Place
    from episodes.shards.read import EpisodeShards
    from episodes.stream.series import SampledEpisodes
    from learners.report import Report

    Scored = SampledEpisodes | EpisodeShards


@click.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--store", type=path_or_url, help="Another store than the run was trained on, in place of all of those.")
@click.option("--shards", type=path_or_url, help="Episode shards: score their episodes, in place of those of a store.")
@episode_options(shown=False, mix=True)
@click.option("--episodes", type=int, help="Number of episodes.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps or auto.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Report to write, without suffix.  [default: RUN/report]"
)
@click.option("--overwrite", is_flag=True, help="Replace the report if it exists.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def command(
    run: Path,
    store: Place | None,
    shards: Place | None,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Score RUN: mean accuracy with its 95 % interval, and a leakage audit.

    Without episode options the settings in the run's recipe are used, and the reports written are RUN/report.json and
    RUN/report.html. Any episode option describes one setting instead: the recipe's first with that option changed.
    With --shards all episodes of a compiled set are scored, as they are: a benchmark that others score, too. --store is
    then needed for payload rows only.

    Classes that RUN was trained on may be scored, but the result says how many they are. Of several stores (--mix, or
    those of the recipe) each has a result of its own. Under torchrun the processes share the episodes.
    """
    from learners import ranks

    output = output or run / "report"
    tables = evaluate(run, store, output, values, shards=shards, overwrite=overwrite, quiet=as_json)
    if as_json and ranks.rank() == 0:
        click.echo(json.dumps({"results": tables}))
    ranks.close()


def evaluate(
    run: Path,
    store: Place | None,
    output: Path,
    values: dict[str, Any],
    *,
    shards: Place | None = None,
    overwrite: bool,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Evaluate the settings of a run, or the one that `values` describe; write and print the reports."""
    from cli.recipe import DATA, TEST, episode_table, read
    from episodes.remote.place import place
    from episodes.stream.mixture import shared_fields
    from learners import ranks, report
    from learners.fabric import make_fabric

    paths = [output.with_name(output.name + suffix) for suffix in (".json", ".html")]
    for path in paths:
        if path.exists() and not overwrite:
            raise ConfigError(f"output: {path} exists; give --overwrite to replace it, or another name with -o")
    if not (run / "recipe.toml").exists():
        raise ConfigError(f"run: {run} is not a run directory (it has no recipe.toml)")
    recipe = read(run / "recipe.toml")
    accelerator = values.pop("device", "auto")
    trained = json.loads((run / DATA).read_text(encoding="utf-8"))
    base = recipe.evaluate[0] if recipe.evaluate else TEST
    settings = (episode_table(values, base),) if given(values) else recipe.evaluate
    each: list[Mapping[str, Scored]] = []
    if shards is not None:
        refuse_episode_options(shards, values)
        own = trained.get("store")
        compiled = opened_shards(shards, store or (None if own is None else place(own)))
        settings, each, inputs = (described(compiled),), [{shards.stem: compiled}], compiled.fields
    elif store is None and "store" not in trained:
        raise ConfigError(f"store: {run} was trained on episode shards; give --store, or --shards with episodes to score")
    if store is not None and not values.get("mix"):
        settings = tuple(replace(setting, sources=()) for setting in settings)
    replace(recipe, evaluate=settings)  # refused where inputs are delivered otherwise than in training
    if shards is None:
        main = store or place(trained["store"])
        stores = opened(main, *settings)
        sampled = [each_series(setting, main, stores) for setting in settings]
        each, inputs = [*sampled], shared_fields(sampled[0]) if sampled else {}
    device = make_fabric(accelerator, "32-true").device
    learner = load(run, recipe, inputs, trained).to(device) if each else None
    first, results = ranks.rank() == 0, []
    for sources in each:
        for name, series in sources.items():
            with bar("evaluate", "episodes") if first else nullcontext(_silent) as progress:
                result = report.evaluate(
                    learner,  # type: ignore[arg-type]  # there is one if there are settings
                    series,
                    method=recipe.method,
                    source=name if len(sources) > 1 else "",
                    device=device,
                    trained_on=trained["classes"],
                    progress=progress,
                )
            results.append((result, series))
            if first and not quiet:
                click.echo(result)
    if first:
        _write(paths, run, recipe, results)
        if not quiet:
            click.echo(f"report: {paths[1]}")
    for result, _ in results:
        if not result.audit.passed:
            raise LeakageError(
                f"'{result.method}' is not declared transductive, yet a logit changed by "
                f"{result.audit.largest_difference:.1%} of their spread when a query was predicted alone (see {paths[0]})"
            )
    return [result.to_table() for result, _ in results]


def _silent(done: int, total: int) -> None:
    """No progress bar: that of rank 0 is enough."""


def _write(paths: list[Path], run: Path, recipe: Recipe, results: list[tuple[Report, Scored]]) -> None:
    """The reports as JSON and as a page."""
    from episodes.config import to_table
    from learners import metrics, page

    tables = [result.to_table() for result, _ in results]
    about = {"recipe": to_table(recipe), "training": metrics.summary(run), "results": tables}
    paths[0].write_text(json.dumps(about, indent=1), encoding="utf-8")
    reports, series = [result for result, _ in results], [one for _, one in results]
    paths[1].write_text(page.render(run, recipe.to_toml(), reports, series), encoding="utf-8")


def load(
    run: Path, recipe: Recipe, fields: Mapping[str, FieldSpec], trained: Mapping[str, Any], class_fields: Any = None
) -> Any:
    """The learner of a run with its best parameters, for inputs of these fields.

    Args:
        run: its directory.
        recipe: its recipe.
        fields: of the rows.
        trained: its ``data.json``.
        class_fields: of the classes.
    """
    from episodes import plugins
    from episodes.config import from_table
    from episodes.errors import CheckpointError
    from learners import checkpoint
    from learners.protocol import Inputs
    from learners.trainer import BEST

    module = plugins.find(plugins.METHODS, recipe.method)
    classes = tuple(zip(trained["numbers"], trained["turns"], strict=True)) if "numbers" in trained else None
    inputs = Inputs(fields=fields, class_fields=class_fields or {}, classes=classes)
    learner = module.make(from_table(module.Options, recipe.learner, "learner"), inputs)
    state = checkpoint.load(run / BEST, recipe.method)
    try:
        learner.load_state_dict(state["learner"])
    except RuntimeError as error:
        raise CheckpointError(
            f"the parameters in {run / BEST} do not fit this store or recipe ({str(error).splitlines()[-1].strip()})"
        ) from error
    return learner
