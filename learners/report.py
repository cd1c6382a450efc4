"""evaluate(learner, series, n) -> Report: a mean, its interval, and everything needed to believe it."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from episodes.adapters.pytorch import to_torch
from episodes.spec import EpisodeSpec
from episodes.stream.mixture import MixedEpisodes
from episodes.stream.series import SampledEpisodes
from learners import breakdown, charts, ranks, units
from learners.audit import EPISODES, Audit, audit, merged
from learners.breakdown import Share, Slice
from learners.calibration import Calibration, calibration
from learners.charts import Chart
from learners.descriptors import Described, describer
from learners.intervals import mean_and_interval
from learners.origin import Episodes, origins
from learners.protocol import MetaLearner
from learners.records import Records, collect
from learners.scoring import scoring_of
from learners.units import ACCURACY

__all__ = ["Report", "Timing", "drawn", "evaluate", "finite", "mean_and_interval"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What scoring took, without the audit."""

    adapt_seconds: float
    """Of one episode, the mean over the first ones with every row embedded; of several computed together its share."""
    predict_seconds: float
    """The same, of all queries of an episode."""
    episodes_per_second: float
    """Of all processes together, waiting for episodes included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A result with its provenance. Accuracies are fractions, other metrics as they are."""

    method: str
    metric: str
    """``accuracy`` of a classifier, else as the method's `learners.scoring` has it."""
    lower_is_better: bool = False
    mean: float
    interval95: float
    """Half width: 1.96 standard errors over episodes (sample standard deviation, ddof 1)."""
    per_episode: NDArray[np.float64]
    further: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Mean and half width of the method's other metrics, on the same episodes."""
    normalised: tuple[float, float] | None
    """Mean and half width of the accuracy above chance (`breakdown.normalised`), which ways of any number share."""
    calibration: Calibration | None
    """None: predictions are no logits."""
    per_class: Mapping[str, Share]
    per_shots: Mapping[int, Share]
    descriptors: Described
    """name -> [episodes], see `learners.descriptors`."""
    against: Mapping[str, list[Slice]]
    """The metric by each descriptor that differs between episodes."""
    charts: tuple[Chart, ...] = ()
    """What the method brings, see `learners.charts`."""
    spec: EpisodeSpec
    split: str
    sampler: str
    seed: int
    rotations: bool
    fingerprint: str
    """Of the series: store, split, spec, sampler, seed and transforms."""
    drawn: str
    """The same without the transforms: results of equal `drawn` were scored on the same rows, and can be compared."""
    store_fingerprint: str
    source: str = ""
    """Name of the store, where episodes of several are evaluated."""
    seen_classes: int
    """Classes of this split that meta-training drew from; a number on unseen classes has 0 here."""
    batch_norm: str
    transductive: bool
    audit: Audit
    timing: Timing
    seconds: float

    @property
    def episodes(self) -> int:
        """Episodes behind the mean."""
        return len(self.per_episode)

    @property
    def setting(self) -> str:
        """``5-way 1-shot on vinyals/test``; with a source ``on omniglot: vinyals/test``."""
        source = f"{self.source}: " if self.source else ""
        return f"{self.spec.ways}-way {self.spec.shots}-shot on {source}{self.split}"

    def __str__(self) -> str:
        kind = " (transductive)" if self.transductive else ""
        seen = f"; {self.seen_classes} CLASSES SEEN IN TRAINING" if self.seen_classes else ""
        further = "".join(f"\n  {name} {units.text(name, *value)}" for name, value in self.further.items())
        return (
            f"{self.method}{kind} {self.setting}: {self.metric} {units.text(self.metric, self.mean, self.interval95)} "
            f"over {self.episodes} episodes (seed {self.seed}; {self.audit.verdict}{seen}){further}"
        )

    def to_table(self) -> dict[str, Any]:
        """Plain values, for JSON: what is no finite number is None, a descriptor that all episodes share one number."""
        table = {f.name: getattr(self, f.name) for f in fields(self)}
        table |= {"spec": self.spec.to_table(), "audit": asdict(self.audit), "timing": asdict(self.timing)}
        table["per_episode"] = [round(float(value), 6) for value in self.per_episode]
        table["episodes"] = self.episodes
        table["audit"]["passed"] = self.audit.passed
        table["calibration"] = None if self.calibration is None else self.calibration.to_table()
        table["per_class"] = {name: self._plain(share) for name, share in self.per_class.items()}
        table["per_shots"] = {str(shots): self._plain(share) for shots, share in self.per_shots.items()}
        table["further"] = {name: {"mean": mean, "interval95": half} for name, (mean, half) in self.further.items()}
        table["descriptors"] = {name: _short(values) for name, values in self.descriptors.items()}
        table["against"] = {name: [asdict(one) for one in slices] for name, slices in self.against.items()}
        table["charts"] = [chart.to_table() for chart in self.charts]
        if self.normalised is not None:
            table["normalised"] = dict(zip(("mean", "interval95"), self.normalised, strict=True))
        for name in ("lower_is_better", "further"):
            if not table[name]:
                del table[name]  # an accuracy says nothing by them
        plain: dict[str, Any] = finite(table)
        return plain

    def _plain(self, share: Share) -> dict[str, float]:
        return {self.metric: share.score, "queries": share.queries}


def _short(values: NDArray[np.float64]) -> float | list[float]:
    """One number if all are equal."""
    rounded = [round(value, 6) for value in values.tolist()]
    return rounded[0] if len(set(rounded)) == 1 else rounded


def finite(value: Any) -> Any:
    """Plain values without infinity and NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluate(
    learner: MetaLearner,
    series: Episodes,
    *,
    method: str,
    source: str = "",
    device: torch.device | str = "cpu",
    trained_on: Collection[str] = (),
    audited: int = EPISODES,
    charted: int = charts.EPISODES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Score `learner` on every episode of a finite series, in evaluation mode; its mode is restored.

    Ranks share the episodes, and each has the whole report afterwards: every episode once, in order of the indices.

    Args:
        learner: an ``nn.Module``.
        series: of a stated length, or shards. A mixture is scored as a whole; for a number a source, evaluate its sources.
        method: name for the report.
        source: name of the store for the report, where there are several.
        device: where the learner is.
        trained_on: names of the classes that meta-training drew from; the report counts those met again here.
        audited: episodes of the leakage audit.
        charted: episodes that the method may look at for charts of its own; 0: no charts.
        progress: called with (episodes done, episodes in all).

    Raises:
        SpecError: the method cannot learn from such episodes.
    """
    parts = origins(series)
    for part in parts:
        learner.require(part.spec)
    module = cast(nn.Module, learner)
    assert series.length is not None, "evaluation needs a series of a stated length"
    mode, begin = module.training, time.perf_counter()
    module.eval()
    try:
        records = collect(learner, series, describer(series, trained_on), device, progress)
        scored = time.perf_counter() - begin
        own = range(ranks.rank(), min(audited, series.length), ranks.world())
        found = merged(ranks.gathered(audit(learner, (to_torch(series[i], device) for i in own))))
        pictures = charts.brought(learner, series, charted, device)
    finally:
        module.train(mode)
    names = frozenset[str]().union(*(part.class_names for part in parts))
    scoring = scoring_of(learner)
    return Report(
        method=method,
        lower_is_better=scoring is not None and scoring.lower_is_better,
        **_numbers(records, series),
        charts=pictures,
        spec=parts[0].spec,
        split=" + ".join(dict.fromkeys(part.split for part in parts)),
        sampler=parts[0].sampler,
        seed=series.seed if isinstance(series, MixedEpisodes) else parts[0].seed,
        rotations=any(part.rotations for part in parts),
        fingerprint=series.fingerprint,
        drawn=drawn(series),
        store_fingerprint=" + ".join(part.store for part in parts),
        source=source or (" + ".join(series.sources) if isinstance(series, MixedEpisodes) else ""),
        seen_classes=len(names & set(trained_on)),
        batch_norm=learner.batch_norm,
        transductive=learner.transductive,
        audit=found,
        timing=_timing(records, scored),
        seconds=time.perf_counter() - begin,
    )


def _numbers(records: Records, series: Episodes) -> dict[str, Any]:
    """Everything of a report that is made from the records."""
    metric, *others = records.scores
    scores, above = records.per_episode(metric), None
    mean, interval = mean_and_interval(scores)
    if metric == ACCURACY:
        above = breakdown.normalised(scores, records.described["ways"])
    return {
        "metric": metric,
        "mean": mean,
        "interval95": interval,
        "per_episode": scores,
        "further": {name: mean_and_interval(records.per_episode(name)) for name in others},
        "normalised": None if above is None else mean_and_interval(above),
        "calibration": _calibrated(records),
        "per_class": breakdown.by_class(records, series),
        "per_shots": breakdown.by_shots(records),
        "descriptors": records.described,
        "against": breakdown.against(scores, records.described),
    }


def _calibrated(records: Records) -> Calibration | None:
    if records.confidence is None or records.nll is None:
        return None
    return calibration(records.confidence, records.score, records.nll)


def drawn(series: Episodes) -> str:
    """Fingerprint of the series as its rows are, whatever happens to their values."""
    sources = series.sources if isinstance(series, MixedEpisodes) else {"": series}
    if not any(isinstance(one, SampledEpisodes) and (one.transforms or one.then) for one in sources.values()):
        return series.fingerprint
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to warn of was said when the series was made
        if isinstance(series, MixedEpisodes):
            plain = {name: replace(one, transforms=(), then=None) for name, one in series.sources.items()}
            return replace(series, sources=plain).fingerprint
        assert isinstance(series, SampledEpisodes)
        return replace(series, transforms=(), then=None).fingerprint


def _timing(records: Records, seconds: float) -> Timing:
    return Timing(
        adapt_seconds=records.adapt_seconds / records.timed,
        predict_seconds=records.predict_seconds / records.timed,
        episodes_per_second=len(records.index) / max(*ranks.gathered(seconds), 1e-9),  # a coarse clock may not have moved
    )
