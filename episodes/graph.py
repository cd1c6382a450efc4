"""SamplingGraph: the hierarchy above the classes of a split, as Meta-Dataset samples it.

Source: Triantafillou et al. 2020 and its released code, over WordNet's is-a relation. Kept are the classes and those of
their ancestors that have two different children in the graph of classes and ancestors; a node with a single child is
removed and its child hangs from its parents, the root too, so that a graph may have several roots. A node's span is the
set of classes below it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np

from episodes.classes import EMPTY, Int
from episodes.errors import ReaderError, SpecError, near

Pairs = tuple[tuple[str, str], ...]
_ROOT, _GROUP = chr(0), chr(1)  # before every name: nodes made of groups, which may be called as a class is


def read_is_a(path: Path) -> Pairs:
    """(parent, child) pairs, sorted: of a CSV ``parent,child``, of lines ``parent child``, or of WordNet's ``data.noun``.

    In ``data.noun`` a synset is named ``n`` and its offset (``n02084071``); hypernyms and instance hypernyms count.

    Raises:
        ReaderError: unreadable, or of another form; the line is named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ReaderError(f"cannot read {path}: {error}") from error
    lines = text.splitlines()
    pairs = _wordnet(path, lines) if path.name == "data.noun" else _columns(path, lines)
    if not pairs:
        raise ReaderError(f"{path} has no pair of parent and child")
    return tuple(sorted(set(pairs)))


def _columns(path: Path, lines: Sequence[str]) -> list[tuple[str, str]]:
    comma = bool(lines) and "," in lines[0]
    if comma and [cell.strip() for cell in lines[0].split(",")] != ["parent", "child"]:
        raise ReaderError(f"{path}: line 1 must be the header parent,child")
    found = []
    rows = csv.reader(lines[1:]) if comma else (line.split() for line in lines)
    for number, row in enumerate(rows, start=1 + comma):
        cells = [cell.strip() for cell in row]
        if not cells:
            continue
        if len(cells) != 2 or not all(cells):
            raise ReaderError(f"{path}: line {number} has {len(cells)} names, not a parent and its child")
        found.append((cells[0], cells[1]))
    return found


def _wordnet(path: Path, lines: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for number, line in enumerate(lines, start=1):
        if line.startswith("  "):  # the licence
            continue
        try:
            cells = line.split(" | ")[0].split()
            words = int(cells[3], 16)
            pointers = cells[4 + 2 * words :]
            for p in range(int(pointers[0])):
                symbol, offset, part = pointers[1 + 4 * p : 4 + 4 * p]
                if symbol in ("@", "@i") and part == "n":
                    found.append((f"n{offset}", f"n{cells[0]}"))
        except (ValueError, IndexError) as error:
            raise ReaderError(f"{path}: line {number} is not a synset of WordNet's data.noun") from error
    return found


def restrict(pairs: Iterable[tuple[str, str]], leaves: Sequence[str]) -> Pairs:
    """The pairs among `leaves` and their ancestors.

    Raises:
        SpecError: a cycle; a class above another class; a class that no pair names.
    """
    parents: dict[str, list[str]] = {}
    for parent, child in pairs:
        parents.setdefault(child, []).append(parent)
    outside = [leaf for leaf in leaves if leaf not in parents]
    if outside:
        raise SpecError(
            f"class '{outside[0]}' is not in the hierarchy ({len(outside)} such classes); {near(outside[0], parents)[:200]}"
        )
    above: set[str] = set()
    reach = list(leaves)
    while reach:
        for parent in parents.get(reach.pop(), ()):
            if parent not in above:
                above.add(parent)
                reach.append(parent)
    kept = tuple(sorted((p, c) for c in above | set(leaves) for p in parents.get(c, ())))
    for leaf in sorted(above & set(leaves)):
        below = min(_below(kept, leaf) & set(leaves))
        raise SpecError(f"class '{leaf}' stands above class '{below}' in the hierarchy; leave one of them out")
    _order(kept)
    return kept


def _below(pairs: Iterable[tuple[str, str]], top: str) -> set[str]:
    """All names below `top`."""
    children: dict[str, list[str]] = {}
    for parent, child in pairs:
        children.setdefault(parent, []).append(child)
    found: set[str] = set()
    reach = [top]
    while reach:
        for child in children.get(reach.pop(), ()):
            if child not in found:
                found.add(child)
                reach.append(child)
    return found


def rooted(pairs: Pairs, root: str, leaves: Sequence[str]) -> Pairs:
    """The pairs at and below `root`: the hierarchy of a split whose classes are those below one node.

    Meta-Dataset samples ImageNet's validation and test classes so: without it, other ancestors of theirs would count too.

    Raises:
        SpecError: no such name, or a class that is not below it.
    """
    if root not in (parents := {parent for parent, _ in pairs}):
        raise SpecError(f"root='{root}' stands above no class of the hierarchy; {near(root, parents)[:200]}")
    under = _below(pairs, root)
    if outside := [leaf for leaf in leaves if leaf not in under]:
        raise SpecError(f"class '{outside[0]}' is not below root='{root}' ({len(outside)} such classes)")
    return tuple((parent, child) for parent, child in pairs if parent == root or parent in under)


def _order(pairs: Pairs) -> list[str]:
    """All names, children before their parents."""
    below: dict[str, set[str]] = {}
    for parent, child in pairs:
        below.setdefault(parent, set()).add(child)
    try:
        return list(TopologicalSorter(below).static_order())
    except CycleError as error:
        raise SpecError(f"the hierarchy has a cycle: {' is above '.join(error.args[1])}") from error


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SamplingGraph:
    """See the module's docstring. N kept nodes in order of their names, L classes."""

    names: tuple[str, ...]
    """[N]"""
    leaves: tuple[str, ...]
    """[L] classes, in the order given."""
    offsets: Int
    """[N + 1]"""
    members: Int
    """Node n spans the classes ``members[offsets[n] : offsets[n + 1]]``, ascending."""
    children: tuple[tuple[int, ...], ...]
    """Children of each node: n for the node n, ``~c`` for the class c; a child that two paths reach is there once."""

    @classmethod
    def build(cls, pairs: Iterable[tuple[str, str]], leaves: Sequence[str]) -> SamplingGraph:
        """The graph above `leaves`.

        Raises:
            SpecError: as `restrict`.
        """
        place = {leaf: c for c, leaf in enumerate(leaves)}
        kept_pairs = restrict(pairs, leaves)
        below: dict[str, list[str]] = {}
        for parent, child in kept_pairs:
            below.setdefault(parent, []).append(child)
        names = tuple(sorted(name for name, children in below.items() if len(children) > 1))
        number = {name: n for n, name in enumerate(names)}
        spans: dict[str, int] = {}  # sets of classes as bits of an int
        ends: dict[str, frozenset[int]] = {}  # what a name stands for once single children are passed through
        for name in _order(kept_pairs):
            if name in place:
                spans[name], ends[name] = 1 << place[name], frozenset([~place[name]])
                continue
            spans[name] = 0
            for child in below[name]:
                spans[name] |= spans[child]
            ends[name] = frozenset([number[name]]) if name in number else ends[below[name][0]]
        members = [_bits(spans[name]) for name in names]
        return cls(
            names=names,
            leaves=tuple(leaves),
            offsets=np.concatenate([[0], np.cumsum([len(m) for m in members])]).astype(np.int64),
            members=np.concatenate(members).astype(np.int64) if members else EMPTY,
            children=tuple(tuple(sorted(frozenset().union(*(ends[c] for c in below[name])))) for name in names),
        )

    def span(self, node: int) -> Int:
        """Classes below a node."""
        return self.members[self.offsets[node] : self.offsets[node + 1]]

    def eligible(self, low: int, high: int) -> Int:
        """Nodes that span `low` to `high` classes."""
        sizes = np.diff(self.offsets)
        return np.flatnonzero((sizes >= low) & (sizes <= high)).astype(np.int64)

    def alike(self, nodes: Int) -> list[list[str]]:
        """Names of those of `nodes` that span the same classes, in lists of two or more."""
        found: dict[bytes, list[str]] = {}
        for node in nodes.tolist():
            found.setdefault(self.span(node).tobytes(), []).append(shown(self.names[node]))
        return [names for names in found.values() if len(names) > 1]


def _bits(span: int) -> Int:
    data = np.frombuffer(span.to_bytes((span.bit_length() + 7) // 8, "little"), np.uint8)
    return np.flatnonzero(np.unpackbits(data, bitorder="little")).astype(np.int64)


def pairs_of_groups(groups: Mapping[str, str]) -> Pairs:
    """Groups as a hierarchy of two levels: class -> group, and one root above all groups."""
    tops = {(_ROOT, f"{_GROUP}{group}") for group in groups.values()}
    return tuple(sorted(tops | {(f"{_GROUP}{group}", name) for name, group in groups.items()}))


def shown(node: str) -> str:
    """The name of a node as people read and write it: without the mark that keeps groups apart from classes."""
    return "all groups" if node == _ROOT else node.removeprefix(_GROUP)
