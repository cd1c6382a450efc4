"""``episodes compare RUN RUN``: which is better on the same episodes, and whether that could be chance."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli._options import episode_options
from cli._places import any_store, path_or_url
from cli._scoring import check_audits, compiled_of, read_run, report_paths, score, scored, series_of, settings_of
from cli._seeds import names_of
from episodes.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cli._scoring import Run, Scored, Settings
    from cli.episode_table import EpisodeTable
    from episodes.made import StorePlace
    from episodes.remote.place import Place
    from learners.comparison import Comparison
    from learners.report import Report


@click.command("compare")
@click.argument("runs", metavar="RUN...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--store", type=any_store, help="Another store than the runs were trained on, in place of all of those.")
@click.option("--shards", type=path_or_url, help="Episode shards: score their episodes, in place of those of a store.")
@episode_options(shown=False, mix=True)
@click.option("--episodes", type=int, help="Number of episodes.")
@click.option(
    "--baseline", type=click.Choice(["pixels"]), help="A further result: the nearest class mean of the pixels, untrained."
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps or auto.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Comparison to write, without suffix.")
@click.option("--overwrite", is_flag=True, help="Replace the comparison if it exists.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def command(
    runs: tuple[Path, ...],
    store: StorePlace | None,
    shards: Place | None,
    baseline: str | None,
    device: str,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Score every RUN on the same episodes: means, and the difference of each pair with its 95 % interval, episode by
    episode.

    The settings are those of the first run's recipe, or the one that episode options describe. A RUN may also be a finished
    report (its .json): it is read, not scored again, and must be of the same episodes.
    """
    from learners import ranks

    if len(runs) + (baseline is not None) < 2:
        raise ConfigError("run: give two or more to compare, or one with --baseline pixels")
    if output is not None:
        report_paths(output, overwrite=overwrite)
    columns, audits = _columns(runs, store, shards, values, baseline=baseline, device=device, quiet=as_json)
    found = _compared(columns)
    if ranks.rank() == 0:
        if as_json:
            click.echo(json.dumps({"comparisons": [one.to_table() for one in found]}))
        else:
            click.echo("\n\n".join(text(one) for one in found))
        if output is not None:
            _write(output, found, overwrite=overwrite, quiet=as_json)
    ranks.close()
    check_audits(audits, None)


Columns = dict[str, list["Mapping[str, Any]"]]


def _columns(
    paths: Sequence[Path],
    store: StorePlace | None,
    shards: Place | None,
    values: Mapping[str, Any],
    *,
    baseline: str | None,
    device: str,
    quiet: bool,
) -> tuple[Columns, list[tuple[str, Report]]]:
    """Name -> the results of a run, as tables; and the fresh ones as reports. All is refused before anything is scored."""
    names = names_of(paths)
    runs = {name: read_run(path) for name, path in zip(names, paths, strict=True) if path.suffix != ".json"}
    read = {name: _read(path) for name, path in zip(names, paths, strict=True) if path.suffix == ".json"}
    settings = _settings(runs, store, shards, values)
    _check_alike(read, settings)
    if baseline is not None and not settings:
        raise ConfigError(f"baseline: '{baseline}' is scored on the episodes of a run; give one run that is no report")
    if baseline in names:
        raise ConfigError(f"run: a run cannot be called '{baseline}' beside --baseline {baseline}; rename its folder")
    fresh = {name: score(run, settings[name], device, quiet=True, label=name) for name, run in runs.items()}
    if baseline is not None:
        fresh[baseline] = _pixels(next(iter(settings.values())), device)
    audits = [(name, report) for name, results in fresh.items() for report, _ in results]
    tables: Columns = {**read, **{name: [one.to_table() for one, _ in results] for name, results in fresh.items()}}
    ordered = [*names, *([baseline] if baseline is not None else [])]
    return {name: tables[name] for name in ordered}, audits


def _settings(
    runs: Mapping[str, Run], store: StorePlace | None, shards: Place | None, values: Mapping[str, Any]
) -> dict[str, Settings]:
    """Name -> its episodes: those of the first run's settings for all, delivered to each as it was trained."""
    if not runs:
        return {}
    if shards is not None:
        return {name: compiled_of(run, shards, values, store) for name, run in runs.items()}
    first = next(iter(runs.values()))
    tables = settings_of(first, values, store)
    own = first.recipe.episode.delivery()

    def delivered(run: Run) -> tuple[EpisodeTable, ...]:
        if (its := run.recipe.episode.delivery()) == own:
            return tables
        return tuple(replace(one, transform=None, transforms=tuple(its.values())) for one in tables)

    return {name: series_of(run, delivered(run), store) for name, run in runs.items()}


def _check_alike(read: Mapping[str, Sequence[Mapping[str, Any]]], settings: Mapping[str, Settings]) -> None:
    """Refuse what cannot be compared before it takes an evaluation to know."""
    from learners.comparison import about, alike

    known: dict[str, Sequence[Mapping[str, Any]]] = dict(read)
    for name, one in settings.items():
        known[name] = [about(series) for sources in one for series in sources.values()]
    if len(known) > 1:
        alike(known)


def _read(path: Path) -> list[Mapping[str, Any]]:
    """The results in a ``report.json``."""
    try:
        found: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["results"]
        if all("per_episode" in one and "drawn" in one for one in found):
            return found
    except OSError as error:
        raise ConfigError(f"run: cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"run: {path} is no report of `episodes evaluate`") from error
    raise ConfigError(f"run: {path} is a report of an earlier version; evaluate again")


def _pixels(settings: Settings, device: str) -> list[tuple[Report, Scored]]:
    """Results of the nearest class mean of the inputs as they are: what there is to see without learning."""
    from learners.fabric import make_fabric
    from learners.methods import protonet
    from learners.origin import inputs_of

    where = make_fabric(device, "32-true").device
    learner = protonet.make(protonet.Options(backbone="none"), inputs_of(next(iter(settings[0].values())))).to(where)
    return scored(learner, "pixels", settings, where, quiet=True, label="pixels")


def _compared(columns: Columns) -> list[Comparison]:
    from learners.comparison import alike, compare

    return [compare(row) for row in alike(columns)]


def text(found: Comparison) -> str:
    """A comparison as lines."""
    from learners import units

    first, wide = next(iter(found.results.values())), max(map(len, found.results))
    lines = [f"{found.setting}: {first['episodes']} episodes (seed {first['seed']})"]
    for name, one in found.results.items():
        metric = one["metric"]
        notes = ["transductive"] if one["transductive"] else []
        notes += [f"{one['seen_classes']} CLASSES SEEN IN TRAINING"] if one["seen_classes"] else []
        notes += [] if one["audit"]["passed"] else ["LEAKAGE AUDIT FAILED"]
        note = f"  ({'; '.join(notes)})" if notes else ""
        lines.append(f"  {name:<{wide}}  {one['method']}  {units.text(metric, one['mean'], one['interval95'])}{note}")
        lines += [
            f"  {'':<{wide}}    {n} {units.text(n, v['mean'], v['interval95'])}" for n, v in one.get("further", {}).items()
        ]
    return "\n".join([*lines, *(f"  {one}" for one in found.differences)])


def _write(output: Path, found: list[Comparison], *, overwrite: bool, quiet: bool) -> None:
    """The comparison as JSON and as a page."""
    from learners import comparison_page

    paths = report_paths(output, overwrite=overwrite)
    tables = {"comparisons": [one.to_table() for one in found]}
    paths[0].write_text(json.dumps(tables, indent=1), encoding="utf-8")
    paths[1].write_text(comparison_page.render("Comparison", found), encoding="utf-8")
    if not quiet:
        click.echo(f"report: {paths[1]}")
