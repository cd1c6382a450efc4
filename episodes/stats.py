"""What a set of episodes looks like: ways, sizes, shots, imbalance, class frequency, coarsity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from episodes.classes import ClassIndex
from episodes.distance import coarsity, distances
from episodes.episode import EpisodePlan

if TYPE_CHECKING:
    from episodes.stream.series import SampledEpisodes

QUANTILES: Final = (0.0, 0.05, 0.5, 0.95, 1.0)
BINS: Final = 20
Values = Mapping[str, NDArray[np.float64]]


def collect(plans: Iterable[EpisodePlan], classes: ClassIndex) -> Values:
    """Measurements of episodes by name; one value an episode, but for the last two.

    Returns:
        ``ways``; ``support``, ``query``, ``unlabeled`` (rows); ``imbalance`` (largest by smallest shots);
        ``coarsity`` (mean squared distance of its classes, by ``lca_span`` or by groups, where the store has either);
        ``shots`` (one value for each class of each episode); ``class_frequency`` (one for each class: in how many of the
        episodes).
    """
    found: dict[str, list[float]] = {}
    seen = np.zeros(len(classes))
    place = {pair: p for p, pair in enumerate(zip(classes.ids.tolist(), classes.variants.tolist(), strict=True))}
    table = _distances(classes)
    for plan in plans:
        shots = plan.counts(plan.support_labels)
        pairs = zip(plan.class_ids.tolist(), plan.variants.tolist(), strict=True)
        positions = np.array([place[pair] for pair in pairs])
        seen[positions] += 1
        measured = {"ways": plan.ways, "support": len(plan.support), "query": len(plan.query)}
        if len(plan.unlabeled):
            measured["unlabeled"] = len(plan.unlabeled)
        if min(shots, default=0) > 0:
            found.setdefault("imbalance", []).append(max(shots) / min(shots))
        if table is not None:
            found.setdefault("coarsity", []).append(coarsity(table, positions))
        for name, value in measured.items():
            found.setdefault(name, []).append(value)
        found.setdefault("shots", []).extend(shots)
    order = ("ways", "support", "query", "unlabeled", "imbalance", "coarsity", "shots")
    values = {name: np.array(found[name], np.float64) for name in order if name in found}
    return {**values, "class_frequency": seen}


def _distances(classes: ClassIndex) -> NDArray[np.float64] | None:
    if classes.variants.any():
        return None
    if classes.is_a:
        return distances("lca_span", classes)
    return distances("groups", classes) if (classes.groups >= 0).any() else None


def notes(values: Values, series: SampledEpisodes) -> list[str]:
    """What is no error but may not be meant, in sentences: of the policy, and where no class is ever left out.

    Args:
        values: of `collect`, from the plans of `series`.
        series: where the plans are from.
    """
    policy = getattr(series.sampler, "notes", None)
    found = [] if policy is None else list(policy(series.classes, series.spec))
    seen, number = values["class_frequency"], len(values.get("ways", ()))
    if number > 1 and (seen == number).all():
        found.append(
            f"all {len(seen)} classes of split '{series.classes.split}' are in each of these {number} episodes, which "
            "differ by their rows only (lower ways, if that is not meant)"
        )
    return found


def summary(values: Values) -> dict[str, dict[str, float]]:
    """Mean and quantiles of each measurement."""
    return {
        name: {"mean": float(v.mean()), **{f"q{100 * q:g}": float(np.quantile(v, q)) for q in QUANTILES}}
        for name, v in values.items()
    }


def histogram(values: NDArray[np.float64]) -> list[tuple[float, float, int]]:
    """(low, high, how many) of at most 20 bins; whole numbers have bins of whole width."""
    low, high = float(values.min()), float(values.max())
    if (values == np.round(values)).all():
        width = max(1, int(np.ceil((high - low + 1) / BINS)))
        edges = np.arange(low, high + width + 1, width)
    else:
        edges = np.linspace(low, high, BINS + 1)
    counts, edges = np.histogram(values, edges)
    whole = list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True))
    while len(whole) > 1 and whole[-1][2] == 0:
        whole.pop()
    return whole


def text(values: Values, width: int = 40) -> str:
    """Mean, quantiles and a histogram of each measurement, as lines."""
    lines = []
    for name, v in values.items():
        marks = "  ".join(f"{mark} {value:g}" for mark, value in summary({name: v})[name].items())
        lines.append(f"{name}  {marks}")
        bins = histogram(v)
        most = max(count for _, _, count in bins)
        lines += [f"  {low:>9.6g}  {'#' * round(width * count / most):<{width}}  {count}" for low, _, count in bins]
    return "\n".join(lines)


def picture(values: Values) -> Image.Image:
    """The histograms, one below the other."""
    wide, tall, left, gap = 640, 120, 60, 40
    sheet = Image.new("RGB", (wide, (tall + gap) * len(values) + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for n, (name, v) in enumerate(values.items()):
        bins, top = histogram(v), gap + n * (tall + gap)
        most, step = max(count for _, _, count in bins), (wide - 2 * left) / len(bins)
        pen.text((left, top - 16), f"{name}: mean {v.mean():.4g}", fill="black")
        for i, (_, _, count) in enumerate(bins):
            x, height = left + i * step, tall * count / most
            pen.rectangle((x, top + tall - height, x + step - 2, top + tall), fill="#4477aa")
        pen.text((left, top + tall + 3), f"{bins[0][0]:.4g}", fill="black")
        pen.text((wide - left - 40, top + tall + 3), f"{bins[-1][1]:.4g}", fill="black")
    return sheet
