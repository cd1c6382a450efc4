"""Which classes and which of their rows a sampler may use: small classes left out, labeled parts, base + novel, overlap.

Each function takes a ClassIndex and gives another over the same store; nothing is copied but row numbers.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Literal

import numpy as np

from episodes.classes import ClassIndex, Int
from episodes.errors import SpecError
from episodes.rng import FRONT, OVERLAP, check_word, choose, scratch, stream_key

Part = Literal["all", "front", "back"]


def with_min_rows(classes: ClassIndex, rows: int) -> ClassIndex:
    """The classes that have `rows` rows or more; warns with the number left out.

    Raises:
        SpecError: none is left.
    """
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 0:
        raise SpecError(f"min_rows={rows!r} is not a whole number of 0 or more")
    kept = np.flatnonzero(classes.counts >= rows)
    dropped = len(classes) - len(kept)
    if not len(kept):
        raise SpecError(f"min_rows={rows} leaves no class of '{classes.split}'; the largest has {classes.counts.max()}")
    if dropped:
        out = [classes.name(int(c)) for c in np.flatnonzero(classes.counts < rows)[:3]]
        warnings.warn(
            f"min_rows={rows} leaves out {dropped} classes of split '{classes.split}': {', '.join(out)}, ...", stacklevel=3
        )
    return replace(classes.select(kept), min_rows=rows, dropped=dropped)


def partition(classes: ClassIndex, ratio: float, seed: int = 0) -> ClassIndex:
    """Each class's rows shuffled by `seed`, the first ``floor(ratio * n)`` of them its front pool.

    The labeled and unlabeled rows of semi-supervised meta-training (Ren et al. 2018: ratio 0.1 on Omniglot and
    tieredImageNet, 0.4 on mini-ImageNet; seeds 0, 1001, ..., 9009), and the training and test rows of base classes. A
    quarter turn of a class is shuffled apart from the others. With ratio 1 every row is in the front pool.

    Raises:
        SpecError: a ratio that is not in 0..1, or a seed that is none.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio <= 1:
        raise SpecError(f"labeled={ratio!r} is not a share; give a number from 0 to 1")
    key = np.uint64(check_word("labeled_seed", seed)), np.uint64(stream_key("front", 1))
    order = np.empty(classes.num_rows, np.int64)
    starts = np.concatenate([[0], np.cumsum(classes.counts)[:-1]]).astype(np.int64)
    for position in range(len(classes)):
        rows = classes.rows(position)
        places = np.empty(len(rows), np.int64)
        slot = np.uint64(int(classes.ids[position]) * 4 + int(classes.variants[position]))
        choose(*key, FRONT, slot, np.uint64(0), len(rows), scratch(), places)
        order[starts[position] : starts[position] + len(rows)] = rows[places]
    front = np.array([math.floor(ratio * n + 1e-9) for n in classes.counts.tolist()], np.int64)
    return replace(classes, order=order, starts=starts, front=front)


def only(classes: ClassIndex, part: Part) -> ClassIndex:
    """The rows of one pool of each class alone.

    Raises:
        SpecError: some class has no row in it.
    """
    if part == "all":
        return replace(classes, front=np.empty(0, np.int64))
    front = classes.labeled
    starts = classes.starts if part == "front" else classes.starts + front
    counts = front if part == "front" else classes.counts - front
    if (empty := np.flatnonzero(counts == 0)).size:
        raise SpecError(f"class '{classes.name(int(empty[0]))}' has no row in its {part} pool ({len(empty)} such classes)")
    return replace(classes, starts=starts, counts=counts, front=np.empty(0, np.int64))


def require_one_pool(classes: ClassIndex, policy: str) -> None:
    """Raise `SpecError` if some class has labeled and unlabeled rows: `policy` would mix them."""
    if (classes.labeled < classes.counts).any():
        raise SpecError(f"{policy} knows no labeled share; give rows=front for the labeled rows of '{classes.split}' alone")


def joined(base: ClassIndex, novel: ClassIndex) -> ClassIndex:
    """Base classes, then novel ones, as one index; base classes are marked as seen and keep their two pools of rows.

    Raises:
        SpecError: a class is in both, or a base class has no second pool.
    """
    shared = set(base.names) & set(novel.names)
    if shared:
        raise SpecError(f"class '{min(shared)}' is in '{base.split}' and in '{novel.split}' ({len(shared)} such classes)")
    if not len(base.front) or not (base.front < base.counts).all():
        raise SpecError(f"base classes of '{base.split}' need rows kept from meta-training: give labeled below 1")
    orders = [c.order if len(c.order) else np.concatenate([c.rows(p) for p in range(len(c))]) for c in (base, novel)]
    starts = [c.starts if len(c.order) else np.concatenate([[0], np.cumsum(c.counts)[:-1]]) for c in (base, novel)]

    def both(name: str) -> Int:
        return np.concatenate([getattr(base, name), getattr(novel, name)])

    return ClassIndex(
        split=f"{base.split}|{novel.split}",
        ids=both("ids"),
        starts=np.concatenate([starts[0], starts[1] + len(orders[0])]).astype(np.int64),
        counts=both("counts"),
        groups=both("groups"),
        variants=both("variants"),
        names=base.names + novel.names,
        group_names=base.group_names,
        order=np.concatenate(orders).astype(np.int64),
        front=np.concatenate([base.front, novel.labeled]),
        seen=np.arange(len(base) + len(novel)) < len(base),
        is_a=base.is_a,
        fingerprint=base.fingerprint,
        column=base.column,
    )


def overlapped(
    train: ClassIndex, test: ClassIndex, fraction: float, seed: int = 0, row_share: float = 0.5
) -> tuple[ClassIndex, ClassIndex, float]:
    """Train and test classes that overlap on purpose: ``floor(fraction * |test| + 1/2)`` test classes also train.

    The shared classes are those of a keyed order, so that they are nested for growing fractions; their rows are cut in
    two, `row_share` of them for training, so that no row is in both.

    Returns:
        Train with the shared classes, test with its shared classes marked as seen and cut, and the realised fraction.

    Raises:
        SpecError: a fraction or share outside 0..1; the splits share classes already; a class too small to be cut.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction <= 1:
        raise SpecError(f"overlap={fraction!r} is not a share of the test classes; give a number from 0 to 1")
    if not 0 < row_share < 1:
        raise SpecError(f"row_share={row_share} leaves one side without rows; give a number between 0 and 1")
    if set(train.ids.tolist()) & set(test.ids.tolist()):
        raise SpecError(f"splits '{train.split}' and '{test.split}' share classes already; overlap needs disjoint ones")
    ids = np.unique(test.ids)
    order = np.empty(len(ids), np.int64)
    key = np.uint64(check_word("overlap_seed", seed)), np.uint64(stream_key("overlap", 1))
    choose(*key, OVERLAP, np.uint64(0), np.uint64(0), len(ids), scratch(), order)
    num = math.floor(fraction * len(ids) + 0.5)
    seen = np.isin(test.ids, ids[order[:num]])
    if not num:
        return train, replace(test, seen=seen), 0.0
    cut = partition(test.select(np.flatnonzero(seen)), row_share, seed)
    for_train, for_test = only(cut, "front"), only(cut, "back")
    name = f"~{num}/{len(ids)}@{seed}"
    training = replace(_concatenated(train, for_train), split=train.split + name)
    testing = replace(_concatenated(test.select(np.flatnonzero(~seen)), for_test), split=test.split + name)
    marks = np.arange(len(testing)) >= len(testing) - int(seen.sum())
    return training, replace(testing, seen=marks), num / len(ids)


def _concatenated(one: ClassIndex, two: ClassIndex) -> ClassIndex:
    rows = [c.rows(p) for c in (one, two) for p in range(len(c))]
    counts = np.concatenate([one.counts, two.counts])
    return replace(
        one,
        ids=np.concatenate([one.ids, two.ids]),
        starts=np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64),
        counts=counts,
        groups=np.concatenate([one.groups, two.groups]),
        variants=np.concatenate([one.variants, two.variants]),
        names=one.names + two.names,
        order=np.concatenate(rows).astype(np.int64),
        front=np.empty(0, np.int64),
        seen=np.empty(0, np.bool_),
    )
