"""A comparison, or several runs of one recipe, as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from learners import plots
from learners.comparison import Comparison, OverRuns
from learners.page import filled


def render(title: str, parts: Sequence[Comparison | OverRuns]) -> str:
    """HTML with every picture inside, a section a setting."""
    return filled("comparison.html", title=title, sections=[_section(part) for part in parts])


def _section(part: Comparison | OverRuns) -> dict[str, Any]:
    rows = [(name, one["mean"], _half(one["interval95"])) for name, one in part.results.items()]
    section = {"setting": part.setting, "results": part.results, "first": next(iter(part.results.values()))}
    if isinstance(part, OverRuns):
        rows.append(("all runs", part.mean, part.over_runs95))
        means = plots.forest(rows, "accuracy, %")
        return section | {"overall": part, "means": means, "differences": (), "gaps": ""}
    gaps = [(f"{one.first} - {one.second}", one.mean, one.interval95) for one in part.differences]
    return section | {
        "overall": None,
        "means": plots.forest(rows, "accuracy, %"),
        "differences": part.differences,
        "gaps": plots.forest(gaps, "difference, percentage points", zero=True) if gaps else "",
    }


def _half(interval: float | None) -> float:
    """Of a single episode JSON has no interval."""
    return float("inf") if interval is None else interval
