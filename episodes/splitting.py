"""Choosing which classes train, validate and test, by how near they are to each other.

``near`` divides siblings, so that every test class has relatives in training; ``far`` keeps whole subtrees together, as
tieredImageNet and FC100 do; ``random`` knows no hierarchy. `delta` of `episodes.distance` tells how far test is from train.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Final, Literal, get_args

import numpy as np

from episodes.errors import SpecError, near
from episodes.graph import SamplingGraph, shown
from episodes.rng import check_word

How = Literal["near", "random", "far"]
PARTS: Final = ("train", "val", "test")


def split_classes(
    how: How, graph: SamplingGraph, shares: tuple[float, float, float], seed: int = 0
) -> dict[str, list[str]]:
    """split -> classes, with about these shares of train, val and test; parts of share 0 are left out.

    Raises:
        SpecError: an unknown way, shares that do not add up to 1, or too few classes for them.
    """
    if how not in get_args(How):
        raise SpecError(f"unknown way to split '{how}'; {near(how, get_args(How))}")
    if not all(math.isfinite(s) and s >= 0 for s in shares) or abs(sum(shares) - 1) > 1e-6:
        raise SpecError(f"shares {shares} must be 0 or more and add up to 1")
    num = len(graph.leaves)
    ends = [math.floor(sum(shares[: i + 1]) * num + 1e-9) for i in range(2)]
    sizes = [ends[0], ends[1] - ends[0], num - ends[1]]
    check_word("seed", seed)
    if how == "far":
        parts = _far(graph, sizes, seed)
    else:
        order = keyed(graph.leaves, seed) if how == "random" else _siblings(graph, seed)
        # Near: neighbours in the order go to the splits in turn, by Bresenham's rule, so that siblings are divided.
        owner = np.repeat(np.arange(3), sizes) if how == "random" else _in_turn(sizes)
        parts = [[name for name, part in zip(order, owner.tolist(), strict=True) if part == p] for p in range(3)]
    for name, share, members in zip(PARTS, shares, parts, strict=True):
        if share > 0 and not members:
            raise SpecError(f"a share of {share} of {num} classes leaves '{name}' without any")
    return {name: sorted(members) for name, members in zip(PARTS, parts, strict=True) if members}


def by_roots(graph: SamplingGraph, val: str, test: str) -> dict[str, list[str]]:
    """Classes below node `val`, below node `test`, and the rest; those below both go to val and test in turn.

    Source: Triantafillou et al. 2020 (carnivore n02075296 and device n03183080 for ImageNet), with the shared classes in
    order of their names. Where groups are the hierarchy, a group's name is its node's.

    Raises:
        SpecError: no such node, or a part without any class.
    """
    known = {shown(name): n for n, name in enumerate(graph.names)}
    below = []
    for name in (val, test):
        if name not in known:
            raise SpecError(f"node '{name}' is not in the hierarchy; {near(name, known)[:200]}")
        below.append({graph.leaves[c] for c in graph.span(known[name]).tolist()})
    both = sorted(below[0] & below[1])
    vals = (below[0] - below[1]) | set(both[::2])
    tests = (below[1] - below[0]) | set(both[1::2])
    rest = set(graph.leaves) - vals - tests
    for part, members in zip(PARTS, (rest, vals, tests), strict=True):
        if not members:
            raise SpecError(f"roots '{val}' and '{test}' leave '{part}' without any of the {len(graph.leaves)} classes")
    return {"train": sorted(rest), "val": sorted(vals), "test": sorted(tests)}


def auto_roots(graph: SamplingGraph, desired: int = 150, margin: int = 50) -> tuple[str, str]:
    """Nodes for `by_roots`, of val and of test: the two with the largest spans that are about `desired` classes.

    Candidates span more than ``desired - margin`` and fewer than ``desired + margin`` classes; of equal ones the name that
    sorts last comes first. Source: the released sampler of Triantafillou et al. 2020, where no roots are given.

    Raises:
        SpecError: fewer than two candidates; a number below 1.
    """
    for name, value in (("desired", desired), ("margin", margin)):
        if value < 1:
            raise SpecError(f"{name}={value} is out of range; it must be 1 or more")
    low, high = max(1, desired - margin + 1), desired + margin - 1
    found = sorted(((len(graph.span(n)), graph.names[n]) for n in graph.eligible(low, high).tolist()), reverse=True)
    if len(found) < 2:
        sizes = sorted(np.diff(graph.offsets).tolist(), key=lambda size: abs(size - desired))[:5]
        raise SpecError(
            f"desired={desired} and margin={margin} ask for two nodes that span {low}..{high} classes; the hierarchy has "
            f"{len(found)} (spans nearest to {desired}: {', '.join(map(str, sizes))})"
        )
    return shown(found[0][1]), shown(found[1][1])


def keyed(names: Sequence[str], seed: int) -> list[str]:
    """Names in an order that hashes (seed, name)."""
    return sorted(names, key=lambda name: (hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), name))


def _siblings(graph: SamplingGraph, seed: int) -> list[str]:
    """Classes with those of one lowest node together, in keyed order there."""
    sizes = np.diff(graph.offsets)
    home = {}
    for node in np.argsort(-sizes, kind="stable").tolist():
        for c in graph.span(node).tolist():
            home[graph.leaves[c]] = graph.names[node]  # the smallest span comes last
    place = {name: n for n, name in enumerate(keyed(graph.leaves, seed))}
    return sorted(graph.leaves, key=lambda name: (home.get(name, ""), place[name]))


def _in_turn(sizes: Sequence[int]) -> np.ndarray:
    """Owner of each of sum(sizes) places, every owner's places as evenly spread as can be."""
    total = sum(sizes)
    wanted = [((n + 0.5) * total / size, owner) for owner, size in enumerate(sizes) for n in range(size)]
    return np.array([owner for _, owner in sorted(wanted)])


def _far(graph: SamplingGraph, sizes: Sequence[int], seed: int) -> list[list[str]]:
    """Test, then val, of whole subtrees: always the largest node that still fits, keyed among equals."""
    taken: set[int] = set()
    parts: list[list[str]] = [[], [], []]
    rank = {name: n for n, name in enumerate(keyed(graph.names, seed))}
    nodes = sorted(range(len(graph.names)), key=lambda n: (-len(graph.span(n)), rank[graph.names[n]]))
    for part in (2, 1):
        room = sizes[part]
        for node in nodes:
            span = [c for c in graph.span(node).tolist() if c not in taken]
            if span and len(span) <= room:
                taken.update(span)
                parts[part] += [graph.leaves[c] for c in span]
                room -= len(span)
        loose = [name for name in keyed(graph.leaves, seed) if graph.leaves.index(name) not in taken][:room]
        taken.update(graph.leaves.index(name) for name in loose)
        parts[part] += loose
    parts[0] = [name for c, name in enumerate(graph.leaves) if c not in taken]
    return parts
