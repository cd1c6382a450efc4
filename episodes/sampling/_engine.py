"""From a policy for classes to whole plans: what every sampler shares."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from episodes import rng
from episodes.classes import EMPTY, ClassIndex, Int, UInt
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.plans import PlanBlock
from episodes.rng import check_word, scratch, stream_key
from episodes.sampling import _kernels as kernel
from episodes.sampling import _rows
from episodes.sampling._tables import tables
from episodes.spec import EpisodeSpec

RELATIONS = {"any": kernel.ANY, "same": kernel.SAME, "other": kernel.OTHER}


@dataclass(frozen=True, slots=True, eq=False)
class Pools:
    """Sets of classes to choose one of: pool g holds the places ``members[offsets[g] : offsets[g + 1]]``."""

    mode: int
    offsets: Int
    members: Int


FLAT = Pools(kernel.FLAT, EMPTY, EMPTY)
_GIVEN = Pools(kernel.GIVEN, EMPTY, EMPTY)


def key_of(classes: ClassIndex, name: str, version: int, seed: int) -> tuple[np.uint64, np.uint64]:
    """Seed and stream of a sampler's draws over a split."""
    return _key(classes.split, name, version, seed)


@lru_cache(maxsize=256, typed=True)  # typed: True is no seed, though it equals 1
def _key(split: str, name: str, version: int, seed: int) -> tuple[np.uint64, np.uint64]:
    return np.uint64(check_word("seed", seed)), np.uint64(stream_key(split, name, version))


def most_ways(classes: ClassIndex, spec: EpisodeSpec) -> int:
    """Upper bound of the ways of an episode."""
    return min(spec.ways.high, len(classes)) if spec.ways.kind != "variable" else len(classes)


def draw_block(
    key: tuple[np.uint64, np.uint64],
    classes: ClassIndex,
    spec: EpisodeSpec,
    indices: UInt,
    pools: Pools = FLAT,
    hold: int = 1,
) -> PlanBlock:
    """Plans of the episodes `indices` [B]: classes of one pool each, counts as the spec says."""
    if spec.fixed and is_plain(spec, classes) and hold == 1 and pools.mode in (kernel.FLAT, kernel.POOLS):
        return _fixed_block(key, classes, spec, indices, pools)
    most = most_ways(classes, spec)
    positions = np.zeros((len(indices), most + spec.distractors.high), np.int64)
    return _described(key, classes, spec, indices, pools, hold, most, np.empty(len(indices), np.int64), positions)


def draw_given(
    key: tuple[np.uint64, np.uint64], classes: ClassIndex, spec: EpisodeSpec, index: int, positions: Int
) -> EpisodePlan:
    """The plan of episode `index` with the classes at `positions`; counts, distractors and rows as the spec says."""
    num = len(positions)
    slots = np.zeros((1, num + spec.distractors.high), np.int64)
    slots[0, :num] = positions
    most = max(num, most_ways(classes, spec))
    return _described(key, classes, spec, one_index(index), _GIVEN, 1, most, np.array([num]), slots).plan(0)


def _described(
    key: tuple[np.uint64, np.uint64],
    classes: ClassIndex,
    spec: EpisodeSpec,
    indices: UInt,
    pools: Pools,
    hold: int,
    most: int,
    ways: Int,
    positions: Int,
) -> PlanBlock:
    """Plans of `most` ways at most, into `ways` [B] and `positions` [B, S]; both are given where the classes are."""
    counts, distractors = np.zeros((3, *positions.shape), np.int64), np.empty(len(indices), np.int64)
    table = tables(spec, most)
    kernel.describe(
        *key,
        indices,
        np.uint64(hold),
        pools.mode,
        pools.offsets,
        pools.members,
        RELATIONS[spec.distractor_groups],
        table.forms,
        table.values,
        table.thresholds,
        classes.counts,
        classes.labeled,
        classes.groups,
        scratch(),
        ways,
        distractors,
        positions,
        *counts,
    )
    return with_rows(key, classes, spec, indices, ways, distractors, positions, *counts)


def with_rows(
    key: tuple[np.uint64, np.uint64],
    classes: ClassIndex,
    spec: EpisodeSpec,
    indices: UInt,
    ways: Int,
    distractors: Int,
    positions: Int,
    k: Int,
    q: Int,
    u: Int,
) -> PlanBlock:
    """The block of described episodes, with their rows drawn."""
    if (short := np.flatnonzero(distractors < 0)).size:
        raise SpecError(
            f"episode {indices[short[0]]} finds only {-1 - distractors[short[0]]} classes for its distractors (lower "
            "distractors, or draw them from any group)"
        )
    offsets = np.empty((4, len(indices) + 1), np.int64)
    _rows.fill_offsets(ways, k, q, u, offsets)
    rows, slots = np.empty(offsets[2, -1], np.int64), np.empty(offsets[2, -1] - offsets[2, 0], np.int64)
    if is_plain(spec, classes):
        _rows.fill_plain_rows(*key, indices, ways, positions, k, q, classes.extents, scratch(), rows, offsets)
    else:
        _rows.fill_rows(
            *key,
            indices,
            ways,
            distractors,
            positions,
            k,
            q,
            u,
            classes.starts,
            classes.counts,
            classes.labeled,
            classes.seen,
            classes.order,
            scratch(),
            rows,
            offsets,
            slots,
        )
    return PlanBlock(
        indices=indices,
        classes=classes,
        ways=ways,
        distractors=distractors,
        positions=positions,
        shots=k,
        queries=q,
        unlabeled_counts=u,
        rows=rows,
        offsets=offsets,
        unlabeled_slots=slots,
    )


def draw_ways(key: tuple[np.uint64, np.uint64], classes: ClassIndex, spec: EpisodeSpec, index: int, available: int) -> int:
    """The number of ways of episode `index` when `available` classes may be used."""
    table = tables(spec, most_ways(classes, spec))
    return int(kernel.draw_ways(table.forms, table.values, table.thresholds, *key, np.uint64(index), available))


def one_index(index: int) -> UInt:
    """`index` as a block of one."""
    return np.array([check_word("index", index)], np.uint64)


def is_plain(spec: EpisodeSpec, classes: ClassIndex) -> bool:
    """Support and query only, of classes whose rows are one pool, in order."""
    hidden = spec.unlabeled.high or spec.distractors.high
    return not hidden and not len(classes.front) and not len(classes.order)


def _fixed_block(
    key: tuple[np.uint64, np.uint64], classes: ClassIndex, spec: EpisodeSpec, indices: UInt, pools: Pools
) -> PlanBlock:
    count, ways, shots, queries = len(indices), spec.ways.low, spec.shots.low, spec.queries.low
    shape = _shape(ways, shots, queries, count)
    positions = np.empty((count, ways), np.int64)
    rows, numbers = np.empty(count * ways * (shots + queries), np.int64), scratch()
    kernel.fill_classes(*key, indices, pools.mode, pools.offsets, pools.members, len(classes), numbers, positions)
    _rows.fill_plain_rows(
        *key,
        indices,
        shape["ways"],
        positions,
        shape["shots"],
        shape["queries"],
        classes.extents,
        numbers,
        rows,
        shape["offsets"],
    )
    return PlanBlock(
        indices=indices,
        classes=classes,
        positions=positions,
        rows=rows,
        unlabeled_slots=EMPTY,
        **shape,
    )


@lru_cache(maxsize=64)
def _shape(ways: int, shots: int, queries: int, count: int) -> dict[str, Int]:
    """What all blocks of one fixed size share."""
    shape = {
        "ways": np.full(count, ways, np.int64),
        "distractors": np.zeros(count, np.int64),
        "shots": np.full((count, ways), shots, np.int64),
        "queries": np.full((count, ways), queries, np.int64),
        "unlabeled_counts": np.zeros((count, ways), np.int64),
        "offsets": np.empty((4, count + 1), np.int64),
    }
    _rows.fill_offsets(shape["ways"], shape["shots"], shape["queries"], shape["unlabeled_counts"], shape["offsets"])
    return shape  # shared, never written to; marked read-only they would cost a kernel ten times as much to take


def draw_plan(
    key: tuple[np.uint64, np.uint64],
    classes: ClassIndex,
    spec: EpisodeSpec,
    index: int,
    pools: Pools = FLAT,
    hold: int = 1,
) -> EpisodePlan:
    """The plan of episode `index`, as `draw_block` has it."""
    index = check_word("index", index)
    if not (spec.fixed and is_plain(spec, classes) and hold == 1 and pools.mode == kernel.FLAT):
        return draw_block(key, classes, spec, one_index(index), pools, hold).plan(0)
    ways, shots, queries = spec.ways.low, spec.shots.low, spec.queries.low
    drawn = np.empty(ways * (1 + shots + queries), np.int64)
    _rows.fill_one(*key, np.uint64(index), shots, queries, classes.extents, scratch(), drawn)
    positions, cut = drawn[:ways], ways * (1 + shots)
    labels = _labels(ways, shots, queries)
    return EpisodePlan(
        index=index,
        class_ids=classes.ids[positions],
        variants=classes.variants[positions],
        support=drawn[ways:cut],
        support_labels=labels[0],
        query=drawn[cut:],
        query_labels=labels[1],
        unlabeled=EMPTY,
        unlabeled_labels=EMPTY,
    )


@lru_cache(maxsize=64)
def _labels(ways: int, shots: int, queries: int) -> tuple[Int, Int]:
    labels = np.arange(ways)
    pair = np.repeat(labels, shots), np.repeat(labels, queries)
    for one in pair:
        one.setflags(write=False)  # shared by all plans of this size
    return pair


def numbers(key: tuple[np.uint64, np.uint64], purpose: np.uint64, slot: int, index: int, n: int, k: int) -> Int:
    """`k` different numbers below `n` in random order, by one key; for policies written in Python."""
    out = np.empty(k, np.int64)
    rng.choose(*key, purpose, np.uint64(slot), np.uint64(index), n, scratch(), out)
    return out
