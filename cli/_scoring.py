"""Runs and the episodes they are scored on: what `evaluate` and `compare` share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli._options import given
from cli._progress import bar
from cli._shards import described, opened_shards, refuse_episode_options
from cli._stores import each_series, opened
from episodes import plugins
from episodes.errors import ConfigError, LeakageError

if TYPE_CHECKING:
    from cli.episode_table import EpisodeTable
    from cli.recipe import Recipe
    from episodes.made import StorePlace
    from episodes.remote.place import Place
    from episodes.shards.read import EpisodeShards
    from episodes.stream.series import SampledEpisodes
    from learners.protocol import Inputs
    from learners.report import Report

    Scored = SampledEpisodes | EpisodeShards
    Settings = Sequence[Mapping[str, Scored]]
    """For each setting the episodes of each source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run, as its directory says."""

    path: Path
    recipe: Recipe
    trained: Mapping[str, Any]
    """What it was trained on: ``data.json``."""

    @property
    def store(self) -> StorePlace | None:
        """What it was trained on; None: episode shards."""
        from episodes.made import store_place

        return store_place(self.trained["store"]) if "store" in self.trained else None


def read_run(path: Path, batch_norm: str | None = None, learner: Sequence[str] = ()) -> Run:
    """The run in a directory.

    Args:
        path: its directory.
        batch_norm: policy in place of the recipe's.
        learner: ``NAME=VALUE`` each, options of the method in place of the recipe's.

    Raises:
        ConfigError: there is no run; its method has no batch norm to choose, or no such option.
    """
    from cli.episode_flags import options_of
    from cli.recipe import DATA, read
    from episodes.config import from_table

    if not (path / "recipe.toml").exists():
        raise ConfigError(f"run: {path} is not a run directory (it has no recipe.toml)")
    recipe = read(path / "recipe.toml")
    if batch_norm is not None:
        options = plugins.find(plugins.METHODS, recipe.method).Options
        if "batch_norm" not in {f.name for f in fields(options)}:
            raise ConfigError(f"batch_norm: method '{recipe.method}' has no such option; leave --batch-norm out")
        recipe = replace(recipe, learner={**recipe.learner, "batch_norm": batch_norm})
    if learner:
        recipe = replace(recipe, learner={**recipe.learner, **options_of(learner)})
        from_table(plugins.find(plugins.METHODS, recipe.method).Options, recipe.learner, "learner")
    return Run(path=path, recipe=recipe, trained=json.loads((path / DATA).read_text(encoding="utf-8")))


def settings_of(run: Run, values: Mapping[str, Any], store: StorePlace | None) -> tuple[EpisodeTable, ...]:
    """The settings of a run's recipe, or the one that options describe; of `store` alone where it is given."""
    from cli.episode_flags import episode_table
    from cli.episode_table import TEST

    base = run.recipe.evaluate[0] if run.recipe.evaluate else TEST
    settings = (episode_table(values, base),) if given(values) else run.recipe.evaluate
    if store is not None and not values.get("mix"):
        settings = tuple(replace(setting, sources=()) for setting in settings)
    return settings


def series_of(run: Run, settings: Sequence[EpisodeTable], store: StorePlace | None) -> Settings:
    """The episodes of each setting, of `store` or of the one that the run was trained on.

    Raises:
        ConfigError: no store; inputs that are delivered otherwise than in training.
    """
    main = store or run.store
    if main is None:
        raise ConfigError(
            f"store: {run.path} was trained on episode shards; give --store, or --shards with episodes to score"
        )
    replace(run.recipe, evaluate=tuple(settings))  # refused where inputs are delivered otherwise than in training
    stores = opened(main, *settings)
    return [each_series(setting, main, stores) for setting in settings]


def compiled_of(run: Run, shards: Place, values: Mapping[str, Any], store: StorePlace | None) -> Settings:
    """The episodes of shards as the only setting.

    Raises:
        ConfigError: options that would change them; inputs that are delivered otherwise than in training.
    """
    refuse_episode_options(shards, dict(values))
    compiled = opened_shards(shards, store or run.store)
    replace(run.recipe, evaluate=(described(compiled),))
    return [{shards.stem: compiled}]


def score(
    run: Run, settings: Settings, device: str, *, quiet: bool, label: str = "evaluate"
) -> list[tuple[Report, Scored]]:
    """Reports of the settings with their series; each is printed when it is done, unless `quiet`."""
    from episodes.stream.mixture import shared_fields
    from learners.fabric import make_fabric
    from learners.origin import inputs_of
    from learners.protocol import Inputs
    from learners.run import classes_of

    if not settings:
        return []
    first = next(iter(settings[0].values()))
    rows = shared_fields(settings[0]) if len(settings[0]) > 1 else first.fields  # type: ignore[arg-type]  # no shards
    inputs = Inputs(fields=rows, class_fields=inputs_of(first).class_fields, classes=classes_of(run.trained))
    where = make_fabric(device, "32-true").device
    learner = load(run, inputs).to(where)
    return scored(learner, run.recipe.method, settings, where, run.trained["classes"], quiet=quiet, label=label)


def scored(
    learner: Any,
    method: str,
    settings: Settings,
    device: Any,
    trained_on: Sequence[str] = (),
    *,
    quiet: bool,
    label: str = "evaluate",
) -> list[tuple[Report, Scored]]:
    """As `score`, of a learner on its device."""
    import click

    from learners import ranks, report

    first, results = ranks.rank() == 0, []
    for sources in settings:
        for name, series in sources.items():
            with bar(label, "episodes") if first else nullcontext(_silent) as progress:
                result = report.evaluate(
                    learner,
                    series,
                    method=method,
                    source=name if len(sources) > 1 else "",
                    device=device,
                    trained_on=trained_on,
                    progress=progress,
                )
            results.append((result, series))
            if first and not quiet:
                click.echo(result)
    return results


def _silent(done: int, total: int) -> None:
    """No progress bar: that of rank 0 is enough."""


def load(run: Run, inputs: Inputs) -> Any:
    """The learner of a run with its best parameters.

    Raises:
        CheckpointError: they cannot be read, or do not fit these inputs.
    """
    from learners import checkpoint
    from learners.run import restored
    from learners.trainer import BEST

    best, method = run.path / BEST, run.recipe.method
    return restored(method, run.recipe.learner, inputs, checkpoint.load(best, method)["learner"], str(best))


def report_paths(output: Path, *, overwrite: bool) -> tuple[Path, Path]:
    """``.json`` and ``.html`` of a report without suffix.

    Raises:
        ConfigError: one exists and may not be replaced.
    """
    paths = output.with_name(output.name + ".json"), output.with_name(output.name + ".html")
    for path in paths:
        if path.exists() and not overwrite:
            raise ConfigError(f"output: {path} exists; give --overwrite to replace it, or another name with -o")
    return paths


def check_audits(results: Sequence[tuple[str, Report]], where: Path | None) -> None:
    """Refuse to end well where an audit failed; `where`: the report that says so.

    Raises:
        LeakageError: naming the first.
    """
    for name, result in results:
        if not result.audit.passed:
            told = f" (see {where})" if where is not None else ""
            if not result.audit.finite:
                raise LeakageError(
                    f"'{name}' predicts what is no finite number, of which no audit can say anything; lower the rate "
                    f"of its inner steps, or train it with a lower lr{told}"
                )
            raise LeakageError(
                f"'{name}' is not declared transductive, yet a logit changed by "
                f"{result.audit.largest_difference:.1%} of their spread when a query was predicted alone{told}"
            )
