"""Comparison of results episode by episode: what one is better by, and how sure that is.

Everything here works on reports as plain values (`Report.to_table`), which is what ``report.json`` holds: a finished report
is compared like a fresh one. Two results are compared only if they were scored on the same rows. Then the difference of
each episode is known. Its interval is narrower than those of the means suggest: an episode that is hard for one is hard for
all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from episodes.errors import ConfigError
from learners import units
from learners.intervals import mean_and_interval, mean_over_runs
from learners.origin import Episodes, origins
from learners.report import drawn, finite

Table = Mapping[str, Any]
_DECIDES: Final = ("store_fingerprint", "split", "rotations", "sampler", "spec", "seed", "episodes", "drawn")
_SHOWN: Final = ("method", "mean", "interval95", "normalised", "batch_norm", "transductive", "seen_classes")
_OTHER: Final = ("metric", "lower_is_better", "further", "charts")  # of a metric that is no accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Of two results, first - second, over their episodes."""

    first: str
    second: str
    metric: str
    mean: float
    interval95: float
    """Half width: 1.96 standard errors of the paired differences (ddof 1)."""

    @property
    def significant(self) -> bool:
        """Whether 0 lies outside the interval."""
        return abs(self.mean) > self.interval95

    @property
    def text(self) -> str:
        """``+1.20 ± 0.31``, of accuracies in percentage points."""
        return units.difference(self.metric, self.mean, self.interval95)

    def to_table(self) -> dict[str, Any]:
        """Plain values."""
        about = {name: getattr(self, name) for name in ("first", "second", "mean", "interval95", "significant")}
        return about if self.metric == units.ACCURACY else {"metric": self.metric, **about}

    def __str__(self) -> str:
        found = "significant" if self.significant else "not significant"
        return f"{self.first} - {self.second}: {self.text}, {found}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Results on one set of episodes."""

    setting: str
    results: Mapping[str, Table]
    """Name -> report."""
    differences: Sequence[Difference]
    """Of every pair, in order of the names."""

    def to_table(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        first = next(iter(self.results.values()))
        table: dict[str, Any] = finite(
            {
                "setting": self.setting,
                **{name: first[name] for name in _DECIDES},
                "results": {name: _shown(one) for name, one in self.results.items()},
                "differences": [one.to_table() for one in self.differences],
            }
        )
        return table


@dataclass(frozen=True, slots=True, kw_only=True)
class OverRuns:
    """One setting, over several runs of one recipe."""

    setting: str
    results: Mapping[str, Table]
    mean: float
    over_runs95: float
    """Half width of the 95 % interval over runs, by Student's t: what another training may give."""
    over_episodes95: float
    """The same over episodes, each with its mean over these runs: what other episodes may give these models."""

    def to_table(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        numbers = {name: getattr(self, name) for name in ("mean", "over_runs95", "over_episodes95")}
        runs = {name: _shown(one) for name, one in self.results.items()}
        table: dict[str, Any] = finite({"setting": self.setting, **numbers, "runs": runs})
        return table

    def __str__(self) -> str:
        first = next(iter(self.results.values()))
        metric = first["metric"]
        half = units.text(metric, self.mean, self.over_episodes95).partition(" ± ")[2]
        return (
            f"{first['method']} {self.setting}: {metric} {units.text(metric, self.mean, self.over_runs95)} "
            f"over {len(self.results)} runs (95 %, Student's t), ± {half} over {first['episodes']} episodes"
        )


def compare(results: Mapping[str, Table]) -> Comparison:
    """Every pair of results on the same episodes.

    Raises:
        ConfigError: two were scored on different episodes; what differs is named.
    """
    _check_same(results)
    values = {name: _scores(one) for name, one in results.items()}
    metric = next(iter(results.values()))["metric"]
    differences = []
    for first, second in combinations(results, 2):
        mean, interval = mean_and_interval(values[first] - values[second])
        differences.append(Difference(first=first, second=second, metric=metric, mean=mean, interval95=interval))
    return Comparison(setting=setting_of(next(iter(results.values()))), results=dict(results), differences=differences)


def over_runs(results: Mapping[str, Table]) -> OverRuns:
    """Several runs together.

    Raises:
        ConfigError: two were scored on different episodes; what differs is named.
    """
    _check_same(results)
    values = np.stack([_scores(one) for one in results.values()])
    mean, runs = mean_over_runs(values.mean(1).tolist())
    _, over = mean_and_interval(values.mean(0))
    setting = setting_of(next(iter(results.values())))
    return OverRuns(setting=setting, results=dict(results), mean=mean, over_runs95=runs, over_episodes95=over)


def alike(columns: Mapping[str, Sequence[Table]]) -> list[dict[str, Table]]:
    """For each result of the first column, those of the other columns on the same episodes.

    Args:
        columns: name -> results of a run, in any order.

    Raises:
        ConfigError: a column has none; what differs from its nearest is named.
    """
    (first, wanted), *others = columns.items()
    found = []
    for one in wanted:
        row = {first: one}
        for name, results in others:
            close = min(results, key=lambda other, one=one: len(_differing(one, other)), default=None)  # type: ignore[misc]
            if close is None:
                raise ConfigError(f"{name} holds no result (evaluate it with `episodes evaluate`)")
            row[name] = close
        _check_same(row)
        found.append(row)
    return found


def about(series: Episodes) -> dict[str, Any]:
    """What decides the episodes of a series, named as in a report."""
    parts = origins(series)
    return {
        "store_fingerprint": " + ".join(part.store for part in parts),
        "split": " + ".join(dict.fromkeys(part.split for part in parts)),
        "rotations": any(part.rotations for part in parts),
        "sampler": parts[0].sampler,
        "spec": parts[0].spec.to_table(),
        "seed": parts[0].seed,
        "episodes": series.length,
        "drawn": drawn(series),
    }


def setting_of(result: Table) -> str:
    """As `Report.setting`."""
    source = f"{result['source']}: " if result.get("source") else ""
    return f"{result['spec']['ways']}-way {result['spec']['shots']}-shot on {source}{result['split']}"


def _check_same(results: Mapping[str, Table]) -> None:
    (name, one), *others = results.items()
    for other_name, other in others:
        metrics = [found for found in (one.get("metric"), other.get("metric")) if found]  # fresh ones have none
        if len(set(metrics)) > 1:
            raise ConfigError(f"{other_name} is scored by {metrics[1]}, {name} by {metrics[0]}; compare runs of one kind")
        if differing := _differing(one, other):
            what = differing[0]
            mend = "score both with the same episode options"
            if what == "drawn":
                what, mend = "fingerprint of what is drawn", "the selection of classes or an option of the policy differs"
                if "drawn" not in one or "drawn" not in other:
                    mend = "an older report does not say it; evaluate again"
            raise ConfigError(
                f"{other_name} and {name} were scored on different episodes: {what} is {other.get(differing[0])} there and "
                f"{one.get(differing[0])} here ({mend})"
            )


def _differing(one: Table, other: Table) -> list[str]:
    """What two results differ in, the most telling first; all results have a name for what is drawn."""
    return [name for name in _DECIDES if one.get(name) != other.get(name) or name not in one]


def _scores(result: Table) -> NDArray[np.float64]:
    return np.array(result["per_episode"], np.float64)


def _shown(result: Table) -> dict[str, Any]:
    calibrated = result["calibration"] or {"ece": None, "nll": None}
    other = () if result["metric"] == units.ACCURACY else _OTHER
    return {
        **{name: result[name] for name in _SHOWN},
        **{name: result[name] for name in other if name in result},
        "ece": calibrated["ece"],
        "nll": calibrated["nll"],
        "audit_passed": result["audit"]["passed"],
        "timing": result["timing"],
    }
