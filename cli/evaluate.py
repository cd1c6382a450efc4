"""``episodes evaluate RUN``: the score of a trained meta-learner on classes it never saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli._options import episode_options
from cli._places import any_store, path_or_url
from cli._scoring import check_audits, compiled_of, read_run, report_paths, score, series_of, settings_of
from cli._seeds import check_seeds_only, names_of
from cli.untrained import check_untrained, evaluate_untrained

if TYPE_CHECKING:
    from cli._scoring import Run, Scored
    from episodes.made import StorePlace
    from episodes.remote.place import Place
    from learners.comparison import OverRuns
    from learners.report import Report


@click.command("evaluate")
@click.argument("runs", metavar="RUN...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--store", type=any_store, help="Another store than the run was trained on, in place of all of those.")
@click.option("--shards", type=path_or_url, help="Episode shards: score their episodes, in place of those of a store.")
@episode_options(shown=False, mix=True)
@click.option("--episodes", type=int, help="Number of episodes.")
@click.option(
    "--batch-norm",
    type=click.Choice(["running", "support", "transductive"]),
    help="Statistics to normalise with, in place of the run's policy.",
)
@click.option("--method", help="RUN is a store, of features as a rule: score a method that has nothing to train on it.")
@click.option(
    "-L",
    "--learner",
    multiple=True,
    metavar="NAME=VALUE",
    help="Option of the run's method in place of its own, or of --method.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps or auto.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Report to write, without suffix.  [default: RUN/report]"
)
@click.option("--overwrite", is_flag=True, help="Replace the report if it exists.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def command(
    runs: tuple[Path, ...],
    store: StorePlace | None,
    shards: Place | None,
    batch_norm: str | None,
    method: str | None,
    learner: tuple[str, ...],
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Score RUN: mean accuracy, or what its method predicts by, with its 95 % interval, and a leakage audit.

    Without episode options the settings in the run's recipe are used, and the reports written are RUN/report.json and
    RUN/report.html. Any episode option describes one setting instead: the recipe's first with that option changed.
    With --shards all episodes of a compiled set are scored, as they are: a benchmark that others score, too. --store is
    then needed for payload rows only.

    Several RUNs must be of one recipe and differ by their seeds: each has its report, and the mean over runs has an
    interval of its own; -o then names a report of all of them. To set different recipes against each other there is
    `episodes compare`.

    With --method there is no run: RUN is a store of features (`episodes embed`), and the method learns from each support
    alone. The report is written where -o says.

    Classes that RUN was trained on may be scored, but the result says how many they are. Of several stores (--mix, or
    those of the recipe) each has a result of its own. Under torchrun the processes share the episodes.
    """
    from learners import ranks

    if method is not None:
        check_untrained(runs, {"store": store, "shards": shards, "batch_norm": batch_norm})
        tables = evaluate_untrained(method, runs[0], output, values, learner, overwrite=overwrite, quiet=as_json)
        if as_json and ranks.rank() == 0:
            click.echo(json.dumps({"results": tables}))
        ranks.close()
        return
    settings: dict[str, Any] = {"shards": shards, "batch_norm": batch_norm, "learner": learner}
    settings |= {"overwrite": overwrite, "quiet": as_json}
    if len(runs) == 1:
        found = {"results": evaluate(runs[0], store, output or runs[0] / "report", values, **settings)}
    else:
        found = evaluate_several(runs, store, output, values, **settings)
    if as_json and ranks.rank() == 0:
        click.echo(json.dumps(found))
    ranks.close()


def evaluate(
    run: Path,
    store: StorePlace | None,
    output: Path,
    values: dict[str, Any],
    *,
    shards: Place | None = None,
    batch_norm: str | None = None,
    learner: tuple[str, ...] = (),
    overwrite: bool,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Evaluate the settings of a run, or the one that `values` describe; write and print the reports."""
    from learners import ranks

    paths, one = report_paths(output, overwrite=overwrite), read_run(run, batch_norm, learner)
    values = dict(values)
    device = values.pop("device", "auto")
    if shards is not None:
        settings = compiled_of(one, shards, values, store)
    else:
        settings = series_of(one, settings_of(one, values, store), store)
    results = score(one, settings, device, quiet=quiet)
    if ranks.rank() == 0:
        _write(paths, one, results)
        if not quiet:
            click.echo(f"report: {paths[1]}")
    check_audits([(result.method, result) for result, _ in results], paths[0])
    return [result.to_table() for result, _ in results]


def evaluate_several(
    runs: tuple[Path, ...],
    store: StorePlace | None,
    output: Path | None,
    values: dict[str, Any],
    *,
    overwrite: bool,
    quiet: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Evaluate runs of one recipe, each with its reports; write and print their mean."""
    from learners import ranks
    from learners.comparison import alike, over_runs

    names = names_of(runs)
    check_seeds_only([read_run(run) for run in runs], names)
    reports = [run / "report" for run in runs]
    for one in [*reports, *([] if output is None else [output])]:
        report_paths(one, overwrite=overwrite)
    columns = {}
    for name, run, report in zip(names, runs, reports, strict=True):
        if not quiet and ranks.rank() == 0:
            click.echo(f"{name}:")
        columns[name] = evaluate(run, store, report, values, overwrite=overwrite, quiet=quiet, **settings)
    overall = [over_runs(row) for row in alike(columns)]
    tables = [one.to_table() for one in overall]
    if ranks.rank() == 0:
        if not quiet:
            click.echo("\n".join(map(str, overall)))
        if output is not None:
            _write_several(output, overall, overwrite=overwrite, quiet=quiet)
    return {"over_runs": tables, "results": columns}


def _write(paths: tuple[Path, Path], run: Run, results: list[tuple[Report, Scored]]) -> None:
    """The reports as JSON and as a page."""
    from episodes.config import to_table
    from learners import metrics, page

    tables = [result.to_table() for result, _ in results]
    about = {"recipe": to_table(run.recipe), "training": metrics.summary(run.path), "results": tables}
    paths[0].write_text(json.dumps(about, indent=1), encoding="utf-8")
    reports, series = [result for result, _ in results], [one for _, one in results]
    paths[1].write_text(page.render(run.path, run.recipe.to_toml(), reports, series), encoding="utf-8")


def _write_several(output: Path, overall: list[OverRuns], *, overwrite: bool, quiet: bool) -> None:
    """The mean over runs, as JSON and as a page."""
    from learners import comparison_page

    paths = report_paths(output, overwrite=overwrite)
    paths[0].write_text(json.dumps({"over_runs": [one.to_table() for one in overall]}, indent=1), encoding="utf-8")
    paths[1].write_text(comparison_page.render("Several runs of one recipe", overall), encoding="utf-8")
    if not quiet:
        click.echo(f"report: {paths[1]}")
