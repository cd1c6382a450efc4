"""Episodes as a good programmer writes them by hand with NumPy: what streams are compared with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from episodes.classes import ClassIndex, Int
from episodes.stream.series import SampledEpisodes

Array = NDArray[Any]
Consume = Callable[[Any, int], None]
"""Called with images of some episodes, and how many."""
PLANS: Final = 256
"""Episodes whose rows are drawn beforehand, and whose sizes baselines take."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many rows each class of some episodes gives: baselines draw episodes of these sizes, in turns."""

    each: list[tuple[list[int], list[int]]]
    """(shots, rows in all) of every class."""

    @classmethod
    def of(cls, series: SampledEpisodes) -> Sizes:
        each = []
        for index in range(PLANS if series.length is None else min(PLANS, series.length)):
            plan = series.plan(index)
            labels = np.concatenate([plan.support_labels, plan.query_labels, plan.unlabeled_labels])
            shots, totals = plan.counts(plan.support_labels), plan.counts(labels)
            if len(others := plan.distractor_ids):
                shots += [0] * len(others)
                totals += [int((labels < 0).sum()) // len(others)] * len(others)
            each.append((shots, totals))
        return cls(each)

    @property
    def same(self) -> tuple[int, int, int] | None:
        """(ways, shots, rows of a class) where all episodes and classes are alike."""
        shots, totals = self.each[0]
        alike = all(one == self.each[0] for one in self.each) and len(set(shots)) == len(set(totals)) == 1
        return (len(shots), shots[0], totals[0]) if alike else None


def numpy_loop(
    array: Array, classes: ClassIndex, sizes: Sizes, wrap: Callable[[Array], Any], consume: Consume | None
) -> Callable[[int], int]:
    """What a good programmer writes: rows drawn by ``Generator.choice``, one fancy index an episode, constant labels."""
    draw = _drawer(classes)
    same = sizes.same
    if same is not None:
        ways, shots, total = same
        labels = [wrap(np.repeat(np.arange(ways), n)) for n in (shots, total - shots)]

        def fixed(calls: int) -> int:
            for _ in range(calls):
                images = array[np.stack(draw([total] * ways))]
                _ = wrap(images[:, :shots]), labels[0], wrap(images[:, shots:]), labels[1]
                if consume is not None:
                    consume(images.reshape(-1, *array.shape[1:]), 1)
            return calls * ways * total

        return fixed
    in_turn = itertools.cycle(sizes.each)

    def varying(calls: int) -> int:
        done = 0
        for shots, totals in itertools.islice(in_turn, calls):
            rows = draw(totals)
            parts = [[r[:k] for r, k in zip(rows, shots, strict=True)], [r[k:] for r, k in zip(rows, shots, strict=True)]]
            for number, part in enumerate(parts):
                labels = np.repeat(np.arange(len(part)), [len(r) for r in part])
                images, _ = wrap(array[np.concatenate(part)]), wrap(labels)
                done += len(labels)
                if consume is not None:
                    consume(images, number)
        return done

    return varying


def _drawer(classes: ClassIndex) -> Callable[[list[int]], list[Int]]:
    """Rows of different classes, as many of each as asked for or as it has."""
    choice = np.random.Generator(np.random.PCG64(0)).choice
    num, starts, counts = len(classes), classes.starts.tolist(), classes.counts.tolist()
    order = classes.order if len(classes.order) else None

    def draw(totals: list[int]) -> list[Int]:
        chosen = choice(num, len(totals), replace=False).tolist()
        places = [
            starts[c] + choice(counts[c], min(n, counts[c]), replace=False) for c, n in zip(chosen, totals, strict=True)
        ]
        return places if order is None else [order[one] for one in places]

    return draw


def row_lists(classes: ClassIndex, sizes: Sizes) -> Iterator[list[int]]:
    """Rows of one episode after the other, for a batch sampler; endless."""
    draw = _drawer(classes)
    for _, totals in itertools.cycle(sizes.each):
        yield np.concatenate(draw(totals)).tolist()


def owners(classes: ClassIndex, num_rows: int) -> list[int]:
    """Class of each row, as people keep it beside their images; 0 for rows of other splits."""
    out = np.zeros(num_rows, np.int64)
    for position, number in enumerate(classes.ids.tolist()):
        out[classes.rows(position)] = number
    return out.tolist()


def as_is(array: Array) -> Array:
    """The array itself, where there is no torch."""
    return array
