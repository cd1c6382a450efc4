"""evaluate(learner, series, n) -> Report: a mean, its interval, and everything needed to believe it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from episodes.adapters.pytorch import to_torch
from episodes.spec import EpisodeSpec
from episodes.stream.series import SampledEpisodes
from episodes.stream.stream import Stream
from learners import functional
from learners.audit import EPISODES, Audit, audit
from learners.protocol import MetaLearner, adapted


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A result with its provenance. Accuracies are fractions."""

    method: str
    metric: str
    mean: float
    interval95: float
    """Half width: 1.96 standard errors over episodes (sample standard deviation, ddof 1)."""
    per_episode: NDArray[np.float64]
    spec: EpisodeSpec
    split: str
    sampler: str
    seed: int
    rotations: bool
    fingerprint: str
    """Of the series: store, split, spec, sampler and seed."""
    store_fingerprint: str
    seen_classes: int
    """Classes of this split that meta-training drew from; a number on unseen classes has 0 here."""
    batch_norm: str
    transductive: bool
    audit: Audit
    seconds: float

    @property
    def episodes(self) -> int:
        """Episodes behind the mean."""
        return len(self.per_episode)

    @property
    def setting(self) -> str:
        """``5-way 1-shot on vinyals/test``."""
        return f"{self.spec.ways}-way {self.spec.shots}-shot on {self.split}"

    def __str__(self) -> str:
        leak = "leakage audit passed" if self.audit.passed else "LEAKAGE AUDIT FAILED"
        kind = " (transductive)" if self.transductive else ""
        seen = f"; {self.seen_classes} CLASSES SEEN IN TRAINING" if self.seen_classes else ""
        return (
            f"{self.method}{kind} {self.setting}: {self.metric} {100 * self.mean:.2f} % ± {100 * self.interval95:.2f} "
            f"over {self.episodes} episodes (seed {self.seed}; {leak}{seen})"
        )

    def to_table(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        table = {f.name: getattr(self, f.name) for f in fields(self)}
        table |= {"spec": self.spec.to_table(), "audit": asdict(self.audit)}
        table["per_episode"] = [round(float(value), 6) for value in self.per_episode]
        table["episodes"] = self.episodes
        table["audit"]["passed"] = self.audit.passed
        return table


def mean_and_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval: 1.96 · sd / √n with ddof 1; infinite for a single value."""
    if len(values) < 2:
        return float(values.mean()), float("inf")
    return float(values.mean()), float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))


def evaluate(
    learner: MetaLearner,
    series: SampledEpisodes,
    *,
    method: str,
    device: torch.device | str = "cpu",
    trained_on: Collection[str] = (),
    audited: int = EPISODES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Score `learner` on every episode of a finite series, in evaluation mode; its mode is restored.

    Args:
        learner: an ``nn.Module``.
        series: of a stated length.
        method: name for the report.
        device: where the learner is.
        trained_on: names of the classes that meta-training drew from; the report counts those met again here.
        audited: episodes of the leakage audit.
        progress: called with (episodes done, episodes in all).

    Raises:
        SpecError: the method cannot learn from such episodes.
    """
    learner.require(series.spec)
    module = cast(nn.Module, learner)
    assert series.length is not None, "evaluation needs a series of a stated length"
    mode, begin = module.training, time.perf_counter()
    module.eval()
    try:
        values = np.empty(series.length, np.float64)
        with torch.no_grad():
            for i, arrays in enumerate(Stream(series)):
                episode = to_torch(arrays, device)
                logits = adapted(learner, episode)(episode.query.fields)
                values[i] = float(functional.accuracy(logits, episode.query.labels))
                progress(i + 1, series.length)
        found = audit(learner, (to_torch(series[i], device) for i in range(min(audited, series.length))))
    finally:
        module.train(mode)
    mean, interval = mean_and_interval(values)
    return Report(
        method=method,
        metric="accuracy",
        mean=mean,
        interval95=interval,
        per_episode=values,
        spec=series.spec,
        split=series.classes.split,
        sampler=series.sampler.name,
        seed=series.seed,
        rotations=bool(series.classes.variants.any()),
        fingerprint=series.fingerprint,
        store_fingerprint=series.store.fingerprint,
        seen_classes=len(set(series.classes.names) & set(trained_on)),
        batch_norm=learner.batch_norm,
        transductive=learner.transductive,
        audit=found,
        seconds=time.perf_counter() - begin,
    )
