"""``episodes evaluate RUN``: the accuracy of a trained meta-learner on classes it never saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from cli._options import episode_options, given
from cli._progress import bar
from episodes.errors import ConfigError, LeakageError


@click.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--store", type=click.Path(path_type=Path), help="Another store than the run was trained on.")
@episode_options(shown=False)
@click.option("--episodes", type=int, help="Number of episodes.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps or auto.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Report to write, without suffix.  [default: RUN/report]"
)
@click.option("--overwrite", is_flag=True, help="Replace the report if it exists.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def command(run: Path, store: Path | None, output: Path | None, overwrite: bool, as_json: bool, **values: Any) -> None:
    """Score RUN: mean accuracy with its 95 % interval, and a leakage audit.

    Without episode options the settings in the run's recipe are used, and the reports written are RUN/report.json and
    RUN/report.html. Any episode option describes one setting instead: the recipe's first with that option changed.
    Classes that RUN was trained on may be scored, but the result says how many they are.
    """
    output = output or run / "report"
    tables = evaluate(run, store, output, values, overwrite=overwrite, quiet=as_json)
    if as_json:
        click.echo(json.dumps({"results": tables}))


def evaluate(
    run: Path, store: Path | None, output: Path, values: dict[str, Any], *, overwrite: bool, quiet: bool = False
) -> list[dict[str, Any]]:
    """Evaluate the settings of a run, or the one that `values` describe; write and print the reports."""
    import episodes
    from cli.recipe import DATA, TEST, episode_table, read
    from episodes.config import to_table
    from learners import page, report
    from learners.trainer import make_fabric

    paths = [output.with_name(output.name + suffix) for suffix in (".json", ".html")]
    for path in paths:
        if path.exists() and not overwrite:
            raise ConfigError(f"output: {path} exists; give --overwrite to replace it, or another name with -o")
    if not (run / "recipe.toml").exists():
        raise ConfigError(f"run: {run} is not a run directory (it has no recipe.toml)")
    recipe = read(run / "recipe.toml")
    device = make_fabric(values.pop("device", "auto"), "32-true").device
    trained = json.loads((run / DATA).read_text(encoding="utf-8"))
    opened = episodes.open(store or trained["store"])
    base = recipe.evaluate[0] if recipe.evaluate else TEST
    settings = [episode_table(values, base)] if given(values) else list(recipe.evaluate)
    learner = load(run, recipe, opened.fields).to(device)
    all_series = [setting.series(opened) for setting in settings]
    results = []
    for series in all_series:
        with bar("evaluate", "episodes") as progress:
            results.append(
                report.evaluate(
                    learner,
                    series,
                    method=recipe.method,
                    device=device,
                    trained_on=trained["classes"],
                    progress=progress,
                )
            )
        if not quiet:
            click.echo(results[-1])
    tables = [result.to_table() for result in results]
    paths[0].write_text(json.dumps({"recipe": to_table(recipe), "results": tables}, indent=1), encoding="utf-8")
    paths[1].write_text(page.render(run, recipe.to_toml(), results, all_series), encoding="utf-8")
    if not quiet:
        click.echo(f"report: {paths[1]}")
    for result in results:
        if not result.audit.passed:
            raise LeakageError(
                f"'{result.method}' is not declared transductive, yet a logit changed by "
                f"{result.audit.largest_difference:.1%} of their spread when a query was predicted alone (see {paths[0]})"
            )
    return tables


def load(run: Path, recipe: Any, specs: Any) -> Any:
    """The learner of a run with its best parameters, for inputs of these fields."""
    from episodes import plugins
    from episodes.config import from_table
    from episodes.errors import CheckpointError
    from learners import checkpoint
    from learners.trainer import BEST

    module = plugins.find(plugins.METHODS, recipe.method)
    learner = module.make(from_table(module.Options, recipe.learner, "learner"), specs)
    state = checkpoint.load(run / BEST, recipe.method)
    try:
        learner.load_state_dict(state["learner"])
    except RuntimeError as error:
        raise CheckpointError(
            f"the parameters in {run / BEST} do not fit this store or recipe ({str(error).splitlines()[-1].strip()})"
        ) from error
    return learner
