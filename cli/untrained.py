"""Scoring a method that was not trained: on features, where it has nothing to learn from other tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli._scoring import check_audits, report_paths, scored
from cli._stores import each_series, opened
from episodes import plugins
from episodes.errors import ConfigError

if TYPE_CHECKING:
    from episodes.remote.place import Place


def check_untrained(stores: Sequence[Path], others: Mapping[str, Any]) -> None:
    """Refuse what does not go with a method that was not trained.

    Raises:
        ConfigError: options of runs, or not one store.
    """
    for name, value in others.items():
        if value is not None:
            raise ConfigError(f"{name}: there is no run with --method; leave --{name.replace('_', '-')} out")
    if len(stores) != 1:
        raise ConfigError(f"method: expected one store with --method, got {len(stores)}")


def evaluate_untrained(
    method: str,
    store: Place,
    output: Path | None,
    values: Mapping[str, Any],
    options: Sequence[str] = (),
    *,
    overwrite: bool,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Evaluate `method` on the episodes of `store` that `values` describe; print the report, and write it as JSON.

    Args:
        method: its name.
        store: of features, as a rule (`episodes embed`).
        output: report to write, without suffix; None: none.
        values: options of the episodes, and ``device``.
        options: of the method, each ``NAME=VALUE``.
        overwrite: replace the report.
        quiet: print nothing.

    Raises:
        ConfigError: the method has parameters that meta-training would set.
    """
    from cli.episode_flags import episode_table, options_of
    from cli.episode_table import TEST
    from episodes.config import from_table
    from learners import ranks
    from learners.fabric import make_fabric
    from learners.origin import inputs_of
    from learners.untrained import require_nothing_to_train

    path = None if output is None else report_paths(output, overwrite=overwrite)[0]
    values = dict(values)
    device = make_fabric(values.pop("device", "auto"), "32-true").device
    table = episode_table(values, TEST)
    sources = each_series(table, store, opened(store, table))
    module = plugins.find(plugins.METHODS, method)
    given = options_of(options)
    learner = module.make(from_table(module.Options, given, "learner"), inputs_of(next(iter(sources.values()))))
    require_nothing_to_train(learner, method)
    results = [result for result, _ in scored(learner.to(device), method, [sources], device, quiet=quiet)]
    tables = [result.to_table() for result in results]
    if path is not None and ranks.rank() == 0:
        path.write_text(json.dumps({"method": method, "learner": given, "results": tables}, indent=1), encoding="utf-8")
        if not quiet:
            click.echo(f"report: {path}")
    check_audits([(method, result) for result in results], path)
    return tables
