"""The report as one self-contained HTML page: results, learning curve, an episode, calibration, breakdowns,
what the method brings, provenance."""

from __future__ import annotations

import base64
import io
import platform
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import torch

import episodes
from episodes.picture import draw
from episodes.shards.images import is_picture
from episodes.shards.read import EpisodeShards
from episodes.stream.series import SampledEpisodes
from learners import metrics, plots, units
from learners.breakdown import Share
from learners.report import Report

EACH = 10  # classes listed at either end


def render(run: Path, recipe: str, results: Sequence[Report], series: Sequence[SampledEpisodes | EpisodeShards]) -> str:
    """HTML with every picture inside.

    Args:
        run: directory whose ``metrics.jsonl`` gives the learning curve.
        recipe: the resolved recipe, TOML.
        results: one report a setting.
        series: the episodes behind each.
    """
    sections = [
        {
            "report": report,
            "histogram": plots.histogram(report.per_episode, report.mean, report.metric),
            "reliability": plots.reliability(report.calibration) if report.calibration is not None else "",
            "breakdowns": breakdowns(report),
            "charts": [(chart, plots.chart(chart)) for chart in report.charts],
            "classes": extremes(report),
            "episode": _episode(one),
        }
        for report, one in zip(results, series, strict=True)
    ]
    curve = plots.curve(metrics.read(run, "train"), metrics.read(run, "val"))
    return filled("page.html", sections=sections, curve=curve, training=metrics.summary(run), recipe=recipe, run=run.name)


def filled(name: str, **values: Any) -> str:
    """A template of this folder with its values, and with what it was made with."""
    folder = resources.files("learners")
    loader = jinja2.FunctionLoader(lambda one: folder.joinpath(one).read_text("utf-8"))
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["percent"] = lambda value: "-" if value is None else f"{100 * value:.2f}"
    environment.filters["written"] = lambda value, metric, half=None: units.text(metric, value, half)
    template = environment.get_template(name)
    about = {
        "episodes": episodes.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
    }
    return template.render(about=about, **values)


def breakdowns(report: Report) -> list[str]:
    """A picture for each thing that the episodes of a report differ in."""
    pictures = [plots.breakdown(name, slices, report.metric) for name, slices in report.against.items()]
    return pictures + ([plots.by_shots(report.per_shots, report.metric)] if len(report.per_shots) > 1 else [])


def extremes(report: Report) -> tuple[list[tuple[str, Share]], list[tuple[str, Share]]]:
    """The ten classes of the lowest score, and the ten of the highest, without those of the first list."""
    order = sorted(report.per_class.items(), key=lambda one: (one[1].score, one[0]))
    return order[:EACH], order[EACH:][-EACH:][::-1]


def _episode(series: SampledEpisodes | EpisodeShards) -> str | None:
    """Episode 0 as a data URL; as transformed, but for normalisation and layout. None: there are no pixels."""
    if not isinstance(series, EpisodeShards):
        series = replace(series, transforms=tuple(replace(one.pixels, layout="chw") for one in series.transforms))
    shown = [name for name, spec in series.fields.items() if is_picture(spec)]
    if not shown:
        return None
    buffer = io.BytesIO()
    draw(series[0], series.class_names(0), field=shown[0]).save(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
