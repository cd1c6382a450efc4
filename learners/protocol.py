"""What a meta-learner is: adapt to a task, predict queries, and give a loss to the outer loop.

Tensors carry a leading episode axis B; n are the rows of a part, W the ways. Episodes of equal size come together, those of
other sizes one at a time with B = 1: a method is written once for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from episodes.adapters.each import each
from episodes.episode import Episode, Fields, Part
from episodes.errors import SpecError
from episodes.protocols import FieldSpec
from episodes.spec import EpisodeSpec
from learners import functional

Predictor = Callable[[Fields[Tensor]], Tensor]
"""Query fields, ``[B, n, ...]`` -> logits ``[B, n, W]``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """All of an episode but its queries: what a learner may adapt to."""

    support: Part[Tensor]
    """[B, n, ...]; n is 0 where shots are 0."""
    ways: int
    unlabeled: Fields[Tensor] | None = None
    """Rows without labels, ``[B, n, ...]``."""
    class_fields: Fields[Tensor] = field(default_factory=dict)
    """What is known of the classes beside their rows (attributes), ``[B, W, ...]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaLoss:
    """Scalar loss with its graph, the mean over the B episodes, and the values worth logging, likewise means.

    The values have the same names in every episode: ranks average them.
    """

    loss: Tensor
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a learner is made for."""

    fields: Mapping[str, FieldSpec]
    """Of the episodes' rows, as they are delivered."""
    class_fields: Mapping[str, FieldSpec] = field(default_factory=dict)
    """Of the episodes' classes."""
    classes: Sequence[tuple[int, int]] | None = None
    """(store-wide number, quarter turns) of each class of meta-training: of a head over all of them. None: not known,
    as of several stores."""


class MetaLearner(Protocol):
    """A method: an ``nn.Module`` in practice, found as one file of `learners.methods`.

    Such a file defines ``Options`` (a frozen dataclass) and ``make(options, inputs: Inputs) -> MetaLearner``. `adapt` is
    never given the queries, so a method cannot learn from them by accident; that its predictions do not depend on each
    other either is checked at every evaluation (`learners.audit`).

    Optional: ``charts(episodes: Iterable[Episode[Tensor]]) -> Sequence[Chart]``, pictures for the report
    (`learners.charts`). It is called at the end of an evaluation, in evaluation mode and without gradients, with the
    episodes in their order, ``[B, n, ...]``, queries and labels included. They are made as they are taken: it takes as many
    as it needs, and changes nothing of the learner.

    Optional: ``end_step()``, called after the update of each outer step, in which `meta_loss` may have been called any
    number of times, on several ranks: for what a method keeps from step to step (`learners.ranks.average`).

    Optional: ``scoring: Scoring`` (`learners.scoring`), of a method whose predictions are no logits: what they are scored
    by, in place of the accuracy.
    """

    @property
    def transductive(self) -> bool:
        """May a prediction depend on the other queries?"""
        ...

    @property
    def batch_norm(self) -> str:
        """Which statistics evaluation normalises with (`learners.norm`), or ``none`` without batch norm."""
        ...

    def require(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` if the method cannot adapt to episodes of this spec, nor train on them.

        A method that trains on others than it adapts to, as plain batches, has a second one, ``require_training``.
        """
        ...

    def adapt(self, task: Task) -> Predictor:
        """Learn the task; the predictor keeps the graph, so that an outer loss reaches every parameter."""
        ...

    def meta_loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Loss of one item of meta-training: B episodes of equal size."""
        ...


def task_of(episode: Episode[Tensor]) -> Task:
    """The episode without its queries and without what its unlabeled rows are."""
    return Task(
        support=episode.support,
        ways=episode.class_ids.shape[1],
        unlabeled=None if episode.unlabeled is None else episode.unlabeled.fields,
        class_fields=episode.class_fields,
    )


def adapted(learner: MetaLearner, episode: Episode[Tensor]) -> Predictor:
    """The predictor of an episode: all of it but the queries goes to `MetaLearner.adapt`."""
    return learner.adapt(task_of(episode))


def require_support(method: str, spec: EpisodeSpec) -> None:
    """Raise `SpecError` unless a method that adapts to the support has a shot of every class, and a query to score."""
    require_shots(method, spec)
    require_queries(method, spec)


def require_shots(method: str, spec: EpisodeSpec) -> None:
    """Raise `SpecError` unless every class has a shot."""
    if spec.shots.low < 1 and spec.shots.kind != "variable":
        raise SpecError(f"{method} learns from the support; shots={spec.shots} must be 1 or more")


def require_queries(method: str, spec: EpisodeSpec) -> None:
    """Raise `SpecError` unless there is a query to score."""
    if spec.queries.high < 1 and spec.queries.kind in ("range", "weights"):
        raise SpecError(f"{method} is scored by its queries; queries={spec.queries} must be 1 or more")


def check_queries(labels: Tensor) -> None:
    """Raise `SpecError` if an episode, whose spec allows it, has no queries at all; `labels` are theirs, [B, Q]."""
    if not labels.numel():
        raise SpecError("an episode has no query to learn from; raise queries")


def classified(logits: Tensor, labels: Tensor) -> MetaLoss:
    """Mean cross-entropy and accuracy of queries, logits [B, Q, W]; label -1 (a distractor's query) is left out.

    Raises:
        SpecError: an episode has no queries at all.
    """
    check_queries(labels)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1)
    return MetaLoss(loss=loss, values={"accuracy": float(functional.accuracy(logits.detach(), labels).mean())})


def single(episode: Episode[Tensor], b: int) -> Episode[Tensor]:
    """Episode b of B, with a leading axis of 1."""
    return each(episode, lambda values: values[b : b + 1])
