"""Pictures of results as SVG text, to be put into a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from learners import units
from learners.breakdown import Share, Slice
from learners.calibration import BINS, Calibration
from learners.charts import TABLE, Chart
from learners.metrics import metric_of

BLUE, RED, GREY = "#4477aa", "#cc6644", "#999999"
_LINES: Final = (BLUE, RED, "#228833", "#aa3377", "#66aacc", "#ccaa33", GREY)
_WIDE: Final = 7.0


def curve(train: Sequence[Mapping[str, Any]], val: Sequence[Mapping[str, Any]]) -> str | None:
    """Training loss and validation metric by outer step, from the lines of a run's log; None: it has none."""
    if not train and not val:
        return None
    figure, axes = _axes(_WIDE)
    steps, loss = [line["step"] for line in train], np.array([line["loss"] for line in train])
    if len(loss):
        window = max(1, len(loss) // 100)
        smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
        axes.plot(steps[window - 1 :], smooth, color=BLUE, linewidth=1.2)
        axes.set_yscale("log")
    axes.set_xlabel("outer step")
    axes.set_ylabel("training loss", color=BLUE)
    if val:
        right = axes.twinx()
        metric = metric_of(val[0])
        factor, label = units.axis(metric)
        right.plot([v["step"] for v in val], [factor * v[metric] for v in val], "o-", color=RED, markersize=3)
        right.set_ylabel(f"validation {label}", color=RED)
    return _svg(figure)


def histogram(scores: NDArray[np.float64], mean: float, metric: str = units.ACCURACY) -> str:
    """Of the episodes' scores."""
    figure, axes = _axes(4.5)
    factor, label = units.axis(metric)
    finite = scores[np.isfinite(scores)]
    axes.hist(factor * finite, bins=min(30, max(5, len(scores) // 10)), color=BLUE)
    if np.isfinite(mean):
        axes.axvline(factor * mean, color=RED)
    beyond = f"; {len(scores) - len(finite)} are infinite" if len(finite) < len(scores) else ""
    axes.set_xlabel(label.replace(metric, f"{metric} of an episode") + beyond)
    axes.set_ylabel("episodes")
    return _svg(figure)


def reliability(found: Calibration) -> str:
    """Accuracy against confidence, bin by bin; the diagonal is where both agree. Grey: how many queries a bin has."""
    figure, axes = _axes(4.5)
    filled = found.queries > 0
    at = (np.arange(BINS) + 0.5) / BINS
    axes.bar(at, found.queries / found.queries.max(), 1 / BINS, color="#dddddd")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    axes.plot(found.confidence[filled], found.accuracy[filled], "o-", color=BLUE, markersize=4)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    return _svg(figure)


def breakdown(name: str, slices: Sequence[Slice], metric: str = units.ACCURACY) -> str:
    """Mean metric with its interval by a measurement of the episodes."""
    figure, axes = _axes(4.5)
    factor, label = units.axis(metric)
    middle = [(one.low + one.high) / 2 for one in slices]
    half = [factor * one.interval95 if np.isfinite(one.interval95) else 0.0 for one in slices]
    axes.errorbar(middle, [factor * one.mean for one in slices], half, fmt="o-", color=BLUE, markersize=4, capsize=2)
    axes.set(xlabel=name, ylabel=label)
    return _svg(figure)


def by_shots(shares: Mapping[int, Share], metric: str = units.ACCURACY) -> str:
    """Mean metric of queries by the shots of their class."""
    figure, axes = _axes(4.5)
    factor, label = units.axis(metric)
    axes.plot(list(shares), [factor * share.score for share in shares.values()], "o-", color=BLUE, markersize=4)
    axes.set(xlabel="shots of the query's class", ylabel=label)
    return _svg(figure)


def chart(found: Chart) -> str:
    """Lines and marks with their bands; names beside them where there are several."""
    figure, axes = _axes(4.5 if len(found.lines) == 1 else _WIDE)
    for i, (name, line) in enumerate(found.lines.items()):
        colour, whole = _LINES[i % len(_LINES)], "--" if i >= len(_LINES) else "-"
        if line.low is not None:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
        style = "o" if line.points else f"o{whole}" if len(line.x) <= TABLE else whole
        axes.plot(line.x, line.y, style, color=colour, markersize=4, linewidth=1.2, label=name)
    if all((line.x == line.x.round()).all() for line in found.lines.values()):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=found.x, ylabel=found.y)
    if len(found.lines) > 1:
        figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return _svg(figure)


def forest(rows: Sequence[tuple[str, float, float]], label: str, factor: float = 100.0, *, zero: bool = False) -> str:
    """A mean with its interval a line, in per cent or by another factor; with a line at `zero` for differences."""
    figure = Figure(figsize=(_WIDE, 0.8 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    if zero:
        axes.axvline(0, color=GREY, linewidth=1)
    for place, (_, mean, half) in enumerate(rows):
        finite = factor * half if np.isfinite(half) else 0.0
        axes.errorbar(factor * mean, -place, xerr=finite, fmt="o", color=BLUE, markersize=4, capsize=2)
    axes.set_yticks([-place for place in range(len(rows))], [name for name, _, _ in rows])
    axes.set(xlabel=label, ylim=(0.5 - len(rows), 0.5))
    return _svg(figure)


def _axes(width: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
