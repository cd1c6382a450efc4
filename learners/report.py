"""evaluate(learner, series, n) -> Report: a mean, its interval, and everything needed to believe it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from episodes.adapters.pytorch import to_torch
from episodes.episode import Episode
from episodes.spec import EpisodeSpec
from episodes.stream.mixture import MixedEpisodes
from episodes.stream.series import SampledEpisodes
from episodes.stream.stream import Stream
from learners import functional, ranks
from learners.audit import EPISODES, Audit, audit, merged
from learners.origin import Episodes, origins
from learners.protocol import MetaLearner, adapted

_PASS_BYTES, _TOGETHER = 1 << 20, 256  # of the inputs of one pass, and episodes in it at most


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
    source: str = ""
    """Name of the store, where episodes of several are evaluated."""
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
        """``5-way 1-shot on vinyals/test``; with a source ``on omniglot: vinyals/test``."""
        source = f"{self.source}: " if self.source else ""
        return f"{self.spec.ways}-way {self.spec.shots}-shot on {source}{self.split}"

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
    series: Episodes,
    *,
    method: str,
    source: str = "",
    device: torch.device | str = "cpu",
    trained_on: Collection[str] = (),
    audited: int = EPISODES,
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
        values = _scores(learner, series, series.length, device, progress)
        own = range(ranks.rank(), min(audited, series.length), ranks.world())
        found = merged(ranks.gathered(audit(learner, (to_torch(series[i], device) for i in own))))
    finally:
        module.train(mode)
    mean, interval = mean_and_interval(values)
    names = frozenset[str]().union(*(part.class_names for part in parts))
    return Report(
        method=method,
        metric="accuracy",
        mean=mean,
        interval95=interval,
        per_episode=values,
        spec=parts[0].spec,
        split=" + ".join(dict.fromkeys(part.split for part in parts)),
        sampler=parts[0].sampler,
        seed=series.seed if isinstance(series, MixedEpisodes) else parts[0].seed,
        rotations=any(part.rotations for part in parts),
        fingerprint=series.fingerprint,
        store_fingerprint=" + ".join(part.store for part in parts),
        source=source or (" + ".join(series.sources) if isinstance(series, MixedEpisodes) else ""),
        seen_classes=len(names & set(trained_on)),
        batch_norm=learner.batch_norm,
        transductive=learner.transductive,
        audit=found,
        seconds=time.perf_counter() - begin,
    )


@torch.no_grad()
def _scores(
    learner: MetaLearner,
    series: Episodes,
    length: int,
    device: torch.device | str,
    progress: Callable[[int, int], None],
) -> NDArray[np.float64]:
    """[length] accuracy of each episode, whichever rank predicted it."""
    own: dict[int, float] = {}
    for indices, episode in _episodes(series, device):
        logits = adapted(learner, episode)(episode.query.fields)
        own |= zip(indices, functional.accuracy(logits, episode.query.labels).tolist(), strict=True)
        progress(min(len(own) * ranks.world(), length), length)
    scores = [one for part in ranks.gathered(own) for one in part.items()]
    assert sorted(index for index, _ in scores) == list(range(length)), "every episode once"
    return np.array([score for _, score in sorted(scores)], np.float64)


def _episodes(series: Episodes, device: torch.device | str) -> Iterator[tuple[Sequence[int], Episode[Tensor]]]:
    """The episodes of this rank with their indices: those of one size many at a time, others one by one."""
    size = max(1, min(_TOGETHER, _PASS_BYTES // max(1, series.episode_bytes)))
    if not (isinstance(series, SampledEpisodes) and series.spec.fixed):
        yield from (([one.index], to_torch(one, device)) for one in Stream(series))
        return
    for block in Stream(series, block=size):
        yield block.indices, to_torch(block, device)
