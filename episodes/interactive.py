"""Interactive episodes: a learner asks for labels of a pool, under a budget.

The pool is the unlabeled part of an ordinary plan (its distractors included), so `EpisodeSpec(unlabeled=P,
distractors=H)` makes an interactive episode of any split. An oracle has no random state: whatever is asked, and in
whatever order, the same row gets the same answer. Query labels are not reachable through it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from episodes.classes import Int
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.rng import ORACLE, below, check_word, choose, philox, scratch, stream_key


class Oracle:
    """Labels of a plan's unlabeled rows, for a price.

    A request is all or nothing: what cannot be answered whole costs and reveals nothing. A distractor answers -1, with
    noise too, and costs. Places are places in the plan's unlabeled part (a row may be there twice, as two turns).

    Args:
        plan: its unlabeled part is the pool.
        budget: what may be spent.
        costs: price of each label 0..W-1, and then that of a distractor; default 1 each.
        noise: probability that an answer is another label, uniform, fixed per place.
        seed: of the noise.
        batch: most places a request may name; default no limit.

    Raises:
        SpecError: a number out of range, or as many costs as are not labels.
    """

    def __init__(
        self,
        plan: EpisodePlan,
        *,
        budget: float,
        costs: Sequence[float] | None = None,
        noise: float = 0.0,
        seed: int = 0,
        batch: int | None = None,
    ) -> None:
        prices = np.ones(plan.ways + 1) if costs is None else np.array(costs, np.float64)
        if len(prices) != plan.ways + 1 or not np.isfinite(prices).all() or (prices < 0).any():
            raise SpecError(f"costs={costs}: give {plan.ways + 1} numbers of 0 or more (labels, distractors)")
        if not math.isfinite(budget) or budget < 0:
            raise SpecError(f"budget={budget} is not a number of 0 or more")
        if not 0 <= noise <= 1 or (noise > 0 and plan.ways < 2):
            raise SpecError(f"noise={noise} is not a probability over the other labels of {plan.ways} ways")
        if batch is not None and batch < 1:
            raise SpecError(f"batch={batch} is too small; it must be 1 or more")
        self.budget, self.batch = float(budget), batch
        self._answers = _answers(plan, noise, check_word("seed", seed))
        self._costs = prices[plan.unlabeled_labels]  # label -1 is the last
        self._rows = plan.unlabeled
        self._asked: list[int] = []
        self._spent = 0.0
        self._open = True
        self._offered: int | None = None

    @property
    def rows(self) -> Int:
        """[P] store rows of the pool, by place."""
        return self._rows

    @property
    def remaining(self) -> float:
        """What is left of the budget."""
        return self.budget - self._spent

    @property
    def asked(self) -> tuple[int, ...]:
        """Places asked so far, in order."""
        return tuple(self._asked)

    @property
    def pool(self) -> Int:
        """Places not asked yet, in order; no labels, and no hint of how many a label has."""
        return np.setdiff1d(np.arange(len(self._rows)), self._asked)

    def ask(self, places: Sequence[int] | Int) -> Int:
        """Labels at `places`; -1 for a distractor.

        Raises:
            SpecError: closed; a place that is none, or was asked; a request above the batch or the budget.
        """
        if not self._open:
            raise SpecError("the oracle is closed; open the next episode's")
        wanted = self._checked(places)
        if self._offered is not None and wanted.tolist() != [self._offered]:
            raise SpecError(f"places {wanted.tolist()} are not on offer; place {self._offered} is, and no other comes back")
        if self.batch is not None and len(wanted) > self.batch:
            raise SpecError(f"{len(wanted)} places in one request; batch={self.batch} is the most")
        price = float(self._costs[wanted].sum())
        if price > self.remaining + 1e-9:
            raise SpecError(f"the request costs {price:g}; {self.remaining:g} of budget={self.budget:g} remain")
        self._spent += price
        self._asked += wanted.tolist()
        return self._answers[wanted]

    def affords(self, places: Sequence[int] | Int) -> bool:
        """Whether the rest of the budget pays for a request; what `ask` would refuse is not told apart."""
        return float(self._costs[self._checked(places)].sum()) <= self.remaining + 1e-9

    def offer(self, place: int) -> None:
        """From now on only `place` may be asked, until the next offer."""
        self._offered = int(place)

    def close(self) -> None:
        """No more answers."""
        self._open = False

    def _checked(self, places: Sequence[int] | Int) -> Int:
        wanted = np.asarray(places)
        if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
            raise SpecError(f"places={places!r} is not a list of whole numbers")
        wanted = wanted.astype(np.int64)
        known = set(self._asked)
        for place in wanted.tolist():
            if not 0 <= place < len(self._rows):
                raise SpecError(f"place {place} is not in the pool of {len(self._rows)} rows")
            if place in known:
                raise SpecError(f"place {place} (row {self._rows[place]}) was asked already")
            known.add(place)
        return wanted


def _key(seed: int) -> tuple[np.uint64, np.uint64]:
    return np.uint64(seed), np.uint64(stream_key("oracle", 1))


def _answers(plan: EpisodePlan, noise: float, seed: int) -> Int:
    """The answer at every place, noise included, by the key (seed, ORACLE, episode, place)."""
    labels = plan.unlabeled_labels.copy()
    if not noise:
        return labels
    key, index = _key(seed), np.uint64(plan.index)
    for place, label in enumerate(plan.unlabeled_labels.tolist()):
        if label >= 0 and (int(philox(*key, 1, np.uint64(place), ORACLE, index)[0]) >> 11) / 2**53 < noise:
            other = int(below(*key, ORACLE, np.uint64((1 << 32) + place), index, plan.ways - 1))
            labels[place] = other + (other >= label)
    return labels


def in_order(oracle: Oracle) -> Iterator[tuple[Int, Int]]:
    """Policy: the pool as it comes, until the budget is spent. Yields (places, labels) after each request."""
    yield from _spend(oracle, oracle.pool)


def at_random(oracle: Oracle, seed: int = 0, index: int = 0) -> Iterator[tuple[Int, Int]]:
    """Policy: the pool in an order keyed by (seed, index), until the budget is spent."""
    order, pool = np.empty(len(oracle.pool), np.int64), oracle.pool
    key = np.uint64(check_word("seed", seed)), np.uint64(stream_key("at_random", 1))
    choose(*key, ORACLE, np.uint64(0), np.uint64(check_word("index", index)), len(pool), scratch(), order)
    yield from _spend(oracle, pool[order])


def one_by_one(oracle: Oracle, seed: int = 0, index: int = 0) -> Iterator[int]:
    """Stream mode: the places of the pool in an order keyed by (seed, index); ask about each now, or never."""
    order, pool = np.empty(len(oracle.pool), np.int64), oracle.pool
    key = np.uint64(check_word("seed", seed)), np.uint64(stream_key("one_by_one", 1))
    choose(*key, ORACLE, np.uint64(0), np.uint64(check_word("index", index)), len(pool), scratch(), order)
    for place in pool[order].tolist():
        oracle.offer(place)
        yield place
    oracle.close()


def _spend(oracle: Oracle, order: Int) -> Iterator[tuple[Int, Int]]:
    size = oracle.batch or 1
    for start in range(0, len(order), size):
        places = order[start : start + size]
        while len(places) and not oracle.affords(places):
            places = places[:-1]
        if not len(places):
            return
        yield places, oracle.ask(places)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LearningCurve:
    """Scores after t labels."""

    labels: Int
    """[T + 1] labels asked so far; the first is 0."""
    scores: NDArray[np.float64]
    """[T + 1]"""

    @property
    def area(self) -> float:
        """Mean score over the curve."""
        return float(self.scores.mean())

    @property
    def final(self) -> float:
        """Score when the budget is spent."""
        return float(self.scores[-1])


def learning_curve(
    oracle: Oracle, policy: Callable[[Oracle], Iterator[tuple[Int, Int]]], score: Callable[[Int, Int], float]
) -> LearningCurve:
    """Run a policy to the end of its budget and score a learner after every request.

    Args:
        oracle: fresh.
        policy: yields (places, labels) after each request.
        score: (all places asked, their labels) -> score, for example the accuracy of the queries.
    """
    places, labels = np.empty(0, np.int64), np.empty(0, np.int64)
    asked, scores = [0], [score(places, labels)]
    for new, told in policy(oracle):
        places, labels = np.concatenate([places, new]), np.concatenate([labels, told])
        asked.append(len(places))
        scores.append(score(places, labels))
    oracle.close()
    return LearningCurve(labels=np.array(asked), scores=np.array(scores))
