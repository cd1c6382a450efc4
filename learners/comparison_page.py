"""A comparison, or several runs of one recipe, as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from learners import plots, units
from learners.charts import Chart
from learners.comparison import Comparison, OverRuns
from learners.page import filled


def render(title: str, parts: Sequence[Comparison | OverRuns]) -> str:
    """HTML with every picture inside, a section a setting."""
    return filled("comparison.html", title=title, sections=[_section(part) for part in parts])


def _section(part: Comparison | OverRuns) -> dict[str, Any]:
    rows = [(name, _number(one["mean"]), _half(one["interval95"])) for name, one in part.results.items()]
    first = next(iter(part.results.values()))
    factor, label = units.axis(first["metric"])
    section = {"setting": part.setting, "results": part.results, "first": first, "charts": shared(part.results)}
    if isinstance(part, OverRuns):
        rows.append(("all runs", part.mean, part.over_runs95))
        means = plots.forest(rows, label, factor)
        return section | {"overall": part, "means": means, "differences": (), "gaps": ""}
    gaps = [(f"{one.first} - {one.second}", one.mean, one.interval95) for one in part.differences]
    return section | {
        "overall": None,
        "means": plots.forest(rows, label, factor),
        "differences": part.differences,
        "gaps": plots.forest(gaps, _difference(first["metric"]), factor, zero=True) if gaps else "",
    }


def shared(results: Mapping[str, Mapping[str, Any]]) -> list[tuple[Chart, str]]:
    """Charts of one title that several results bring with one line each, as one chart with its picture."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, result in results.items():
        for chart in result.get("charts", ()):
            if len(chart["lines"]) == 1:
                found.setdefault(chart["title"], {})[name] = chart
    together = [(Chart.together(charts), len(charts)) for charts in found.values()]
    return [(chart, plots.chart(chart)) for chart, num in together if num > 1]


def _difference(metric: str) -> str:
    return "difference, percentage points" if metric == units.ACCURACY else f"difference in {metric}"


def _number(mean: float | None) -> float:
    """Of a method whose error is infinite JSON has no mean."""
    return math.nan if mean is None else mean


def _half(interval: float | None) -> float:
    """Of a single episode JSON has no interval."""
    return float("inf") if interval is None else interval
