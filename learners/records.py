"""Records: what an evaluation keeps of every query, and of every episode, so that all numbers can be made from it later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from episodes.adapters.each import each_with_axis
from episodes.adapters.pytorch import to_torch
from episodes.classes import Int
from episodes.episode import Episode
from episodes.errors import SpecError
from episodes.shards.read import EpisodeShards
from episodes.stream.series import SampledEpisodes
from episodes.stream.stream import Stream
from learners import functional, ranks
from learners.descriptors import Describe, shots_of
from learners.embedding import each_row_once
from learners.origin import Episodes
from learners.protocol import MetaLearner, adapted
from learners.scoring import scoring_of
from learners.units import ACCURACY

_PASS_BYTES, _TOGETHER = 1 << 20, 256  # of the inputs of one pass, and episodes in it at most
_TIMED = 8  # episodes of each rank whose time is taken; from then on each row is embedded once


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Records:
    """E episodes in order of their index, and their N queries, episode by episode.

    Queries of distractors (label -1) are left out: none of the classes is theirs.
    """

    index: Int
    """[E]"""
    counts: Int
    """[E] queries of each."""
    described: Mapping[str, NDArray[np.float64]]
    """name -> [E], see `learners.descriptors`."""
    scores: Mapping[str, NDArray[Any]]
    """Metric -> [N], the one that decides first. Of a classifier the accuracy: whether the largest logit is that of the
    query's class; one beyond the classes (a cluster of distractors) never is. Else by `learners.scoring`, float64."""
    confidence: NDArray[np.float32] | None
    """[N] probability of the largest logit, by a softmax over all logits as they are given. None: predictions are none."""
    nll: NDArray[np.float32] | None
    """[N] negative logarithm of the probability of the query's class, in nats; None likewise."""
    shots: NDArray[np.int32]
    """[N] support rows of the query's class."""
    label: NDArray[np.int32]
    """[N]"""
    class_id: NDArray[np.int32]
    """[N] store-wide number of the query's class."""
    turn: NDArray[np.int8]
    """[N] quarter turns of the query's class."""
    timed: int
    """Episodes that were timed: the first, before rows are met again whose features are known."""
    adapt_seconds: float
    """Of these together, over ranks."""
    predict_seconds: float

    @property
    def episode(self) -> Int:
        """[N] place among the E episodes of each query's."""
        return np.repeat(np.arange(len(self.index)), self.counts)

    @property
    def metric(self) -> str:
        """The one that decides."""
        return next(iter(self.scores))

    @property
    def score(self) -> NDArray[Any]:
        """[N] by that metric."""
        return self.scores[self.metric]

    def per_episode(self, metric: str) -> NDArray[np.float64]:
        """[E] mean over the queries; of the accuracy the fraction of right answers."""
        return np.bincount(self.episode, weights=self.scores[metric], minlength=len(self.index)) / self.counts


_OF_EPISODES, _OF_QUERIES = ("index", "counts"), ("shots", "label", "class_id", "turn")
assert {*_OF_EPISODES, *_OF_QUERIES} < {f.name for f in fields(Records)}


def collect(
    learner: MetaLearner,
    series: Episodes,
    describe: Describe,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Records:
    """The records of every episode of a finite series, whichever rank predicted it; the same on every rank.

    Args:
        learner: in evaluation mode.
        series: of a stated length.
        describe: measurements of episodes.
        device: where the learner is.
        progress: called with (episodes done, episodes in all).

    Raises:
        SpecError: an episode without a query that could be scored.
    """
    assert series.length is not None, "evaluation needs a series of a stated length"
    own: list[Records] = []
    done = 0
    with torch.no_grad(), ExitStack() as later:
        for indices, episode, tensors in _passes(series, device):
            one = _scored(learner, indices, episode, tensors, describe)
            own.append(one if done < _TIMED else replace(one, timed=0, adapt_seconds=0.0, predict_seconds=0.0))
            if done < _TIMED <= done + len(indices):
                later.enter_context(each_row_once(cast(nn.Module, learner)))
            done += len(indices)
            progress(min(done * ranks.world(), series.length), series.length)
    parts = ranks.gathered(merged(own) if own else None)
    records = merged([part for part in parts if part is not None])
    assert records.index.tolist() == list(range(series.length)), "every episode once"
    return records


def merged(parts: Sequence[Records]) -> Records:
    """The records of several parts as one, in order of the index; what only some parts were described by is left out."""
    index = np.concatenate([part.index for part in parts])
    counts = np.concatenate([part.counts for part in parts])
    order: Any = slice(None)
    queries: Any = slice(None)
    if (np.diff(index) < 0).any():  # of several ranks
        order = np.argsort(index, kind="stable")
        queries = np.argsort(np.repeat(index, counts), kind="stable")
    names = [name for name in parts[0].described if all(name in part.described for part in parts)]
    columns = {name: np.concatenate([getattr(part, name) for part in parts])[queries] for name in _OF_QUERIES}
    for name in ("confidence", "nll"):  # of a classifier
        columns |= (
            {} if getattr(parts[0], name) is None else {name: np.concatenate([getattr(p, name) for p in parts])[queries]}
        )
    return replace(
        parts[0],
        index=index[order],
        counts=counts[order],
        described={name: np.concatenate([part.described[name] for part in parts])[order] for name in names},
        scores={name: np.concatenate([part.scores[name] for part in parts])[queries] for name in parts[0].scores},
        **columns,
        timed=sum(part.timed for part in parts),
        adapt_seconds=sum(part.adapt_seconds for part in parts),
        predict_seconds=sum(part.predict_seconds for part in parts),
    )


def _passes(
    series: Episodes, device: torch.device | str
) -> Iterator[tuple[Sequence[int], Episode[NDArray[Any]], Episode[Tensor]]]:
    """The episodes of this rank, ``[B, n, ...]``: those of one size many at a time, others one by one."""
    size = max(1, min(_TOGETHER, _PASS_BYTES // max(1, series.episode_bytes)))
    if not (isinstance(series, SampledEpisodes | EpisodeShards) and series.spec.fixed):
        for one in Stream(series):
            yield [one.index], each_with_axis(one, _same), to_torch(one, device)
        return
    for block in Stream(series, block=size):
        yield block.indices, each_with_axis(block, _same), to_torch(block, device)


def _same(values: NDArray[Any]) -> NDArray[Any]:
    return values


def _scored(
    learner: MetaLearner,
    indices: Sequence[int],
    episode: Episode[NDArray[Any]],
    tensors: Episode[Tensor],
    describe: Describe,
) -> Records:
    """Records of B episodes that are predicted together."""
    labels, known = episode.query.labels, episode.query.labels >= 0
    counts = known.sum(1)
    if not counts.all():
        raise SpecError(f"episode {indices[int(np.argmin(counts))]} has no query to score; raise queries")
    begin = _clock(tensors)
    predict = adapted(learner, tensors)
    middle = _clock(tensors)
    predictions = predict(tensors.query.fields)
    end = _clock(tensors)
    scores, confidence, nll = _judged(learner, predictions, tensors)
    at = np.where(known, labels, 0)

    def of_queries(by_label: NDArray[Any]) -> NDArray[Any]:
        chosen: NDArray[Any] = np.take_along_axis(by_label, at, 1)[known]
        return chosen

    return Records(
        index=np.array(indices, np.int64),
        counts=counts.astype(np.int64),
        described=describe(indices, episode),
        scores={name: values[known] for name, values in scores.items()},
        confidence=None if confidence is None else confidence[known],
        nll=None if nll is None else nll[known],
        shots=of_queries(shots_of(episode)).astype(np.int32),
        label=labels[known].astype(np.int32),
        class_id=of_queries(episode.class_ids).astype(np.int32),
        turn=of_queries(episode.variants).astype(np.int8),
        timed=len(indices),
        adapt_seconds=middle - begin,
        predict_seconds=end - middle,
    )


def _judged(
    learner: MetaLearner, predictions: Tensor, episode: Episode[Tensor]
) -> tuple[Mapping[str, NDArray[Any]], NDArray[Any] | None, NDArray[Any] | None]:
    """Scores of each query, [B, Q]; of a classifier confidence and negative log-likelihood, too."""
    scoring = scoring_of(learner)
    if scoring is None:
        right, confidence, nll = (values.cpu().numpy() for values in _classified(predictions, episode.query.labels))
        return {ACCURACY: right}, confidence, nll
    found = scoring.scores(predictions, episode.query)
    ordered = [scoring.metric, *(name for name in found if name != scoring.metric)]
    return {name: found[name].double().cpu().numpy() for name in ordered}, None, None


def _classified(logits_BQL: Tensor, labels_BQ: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Right or not, confidence, and negative log-likelihood of each query; L may be more than the ways."""
    # By hand: torch's log_softmax takes three times as long where L is small.
    logits_BQL = functional.full(logits_BQL)
    chosen_BQ1 = logits_BQL.argmax(-1, keepdim=True)
    top_BQ1 = logits_BQL.gather(-1, chosen_BQ1)
    log_total_BQ1 = (logits_BQL - top_BQ1).exp().sum(-1, keepdim=True).log()  # and the top's own logit is 0
    nll_BQ1 = log_total_BQ1 + top_BQ1 - logits_BQL.gather(-1, labels_BQ.clamp(min=0).unsqueeze(-1))
    right_BQ1 = chosen_BQ1 == labels_BQ.unsqueeze(-1)
    return right_BQ1.squeeze(-1), (-log_total_BQ1).exp().float().squeeze(-1), nll_BQ1.float().squeeze(-1)


def _clock(tensors: Episode[Tensor]) -> float:
    """Seconds, when all that was asked of the device is done."""
    if tensors.class_ids.is_cuda:
        torch.cuda.synchronize(tensors.class_ids.device)
    return time.perf_counter()
