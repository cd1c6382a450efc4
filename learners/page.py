"""The report as one self-contained HTML page: results, learning curve, an episode, accuracies, provenance."""

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
import numpy as np
import torch
from matplotlib.figure import Figure

import episodes
from episodes.picture import draw
from episodes.shards.images import is_picture
from episodes.shards.read import EpisodeShards
from episodes.stream.series import SampledEpisodes
from learners import metrics
from learners.report import Report


def render(run: Path, recipe: str, results: Sequence[Report], series: Sequence[SampledEpisodes | EpisodeShards]) -> str:
    """HTML with every picture inside.

    Args:
        run: directory whose ``metrics.jsonl`` gives the learning curve.
        recipe: the resolved recipe, TOML.
        results: one report a setting.
        series: the episodes behind each.
    """
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        resources.files("learners").joinpath("page.html").read_text("utf-8")
    )
    about = {
        "episodes": episodes.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
    }
    sections = [
        {"report": report, "histogram": _histogram(report), "episode": _episode(one)}
        for report, one in zip(results, series, strict=True)
    ]
    return template.render(
        sections=sections, curve=_curve(run), training=metrics.summary(run), recipe=recipe, about=about, run=run.name
    )


def _curve(run: Path) -> str | None:
    train, val = metrics.read(run, "train"), metrics.read(run, "val")
    if not train and not val:
        return None
    figure, axes = _axes(7.0)
    steps, loss = [line["step"] for line in train], np.array([line["loss"] for line in train])
    if len(loss):
        window = max(1, len(loss) // 100)
        smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
        axes.plot(steps[window - 1 :], smooth, color="#4477aa", linewidth=1.2)
        axes.set_yscale("log")
    axes.set_xlabel("outer step")
    axes.set_ylabel("training loss", color="#4477aa")
    if val:
        right = axes.twinx()
        right.plot([v["step"] for v in val], [100 * v["accuracy"] for v in val], "o-", color="#cc6644", markersize=3)
        right.set_ylabel("validation accuracy, %", color="#cc6644")
    return _svg(figure)


def _histogram(report: Report) -> str:
    figure, axes = _axes(4.5)
    axes.hist(100 * report.per_episode, bins=min(30, max(5, report.episodes // 10)), color="#4477aa")
    axes.axvline(100 * report.mean, color="#cc6644")
    axes.set_xlabel("accuracy of an episode, %")
    axes.set_ylabel("episodes")
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


def _episode(series: SampledEpisodes | EpisodeShards) -> str | None:
    """Episode 0 as a data URL; as transformed, but for normalisation and layout. None: shards that hold no pixels."""
    buffer = io.BytesIO()
    if isinstance(series, EpisodeShards):
        shown = [name for name, spec in series.fields.items() if is_picture(spec)]
        if not shown:
            return None
        draw(series[0], series.class_names(0), field=shown[0]).save(buffer, format="png")
    else:
        pixels = replace(series, transforms=tuple(replace(one.pixels, layout="chw") for one in series.transforms))
        draw(pixels[0], series.class_names(0)).save(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
