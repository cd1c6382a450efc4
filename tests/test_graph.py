"""The hierarchy above classes: read, restricted, collapsed; distances on it."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from episodes.distance import distances
from episodes.errors import ReaderError, SpecError
from episodes.graph import SamplingGraph, read_is_a, restrict, rooted
from episodes.splitting import split_classes
from episodes.store.memory import MemoryStore

DATA_NOUN = """  1 This software and database is being provided to you
00001740 03 n 01 entity 0 001 ~ 00001930 n 0000 | that which is
00001930 03 n 01 physical_entity 0 002 @ 00001740 n 0000 ~ 00002684 n 0000 | an entity
00002684 03 n 02 object 0 physical_object 0 003 @ 00001930 n 0000 + 00532607 v 0105 @i 00001740 n 0000 | a thing
"""


def test_three_forms_of_is_a_pairs_are_read(tmp_path):
    (tmp_path / "data.noun").write_text(DATA_NOUN)
    pairs = (("n00001740", "n00001930"), ("n00001740", "n00002684"), ("n00001930", "n00002684"))
    assert read_is_a(tmp_path / "data.noun") == pairs
    (tmp_path / "a.csv").write_text("parent,child\n" + "".join(f"{p},{c}\n" for p, c in pairs))
    (tmp_path / "a.txt").write_text("".join(f"{p} {c}\n" for p, c in reversed(pairs)))
    assert read_is_a(tmp_path / "a.csv") == read_is_a(tmp_path / "a.txt") == pairs


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "child,parent\na,b\n", "line 1 must be the header parent,child"),
        ("a.csv", "parent,child\na,b\na\n", "line 3 has 1 names"),
        ("a.txt", "a b\na b c\n", "line 2 has 3 names"),
        ("a.csv", "parent,child\n", "has no pair"),
        ("data.noun", "n1 broken\n", "line 1 is not a synset"),
    ],
)
def test_files_of_another_form_are_refused_with_their_line(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ReaderError, match=words):
        read_is_a(tmp_path / name)
    with pytest.raises(ReaderError, match="cannot read"):
        read_is_a(tmp_path / "none")


@pytest.mark.parametrize(
    ("pairs", "leaves", "words"),
    [
        ([("a", "b"), ("b", "c"), ("c", "a"), ("a", "x")], ["x"], "the hierarchy has a cycle: "),
        ([("a", "b"), ("b", "c")], ["b", "c"], "class 'b' stands above class 'c'"),
        ([("a", "b")], ["b", "bb"], r"class 'bb' is not in the hierarchy \(1 such classes\); did you mean 'b'"),
    ],
)
def test_hierarchies_that_cannot_be_are_refused(pairs, leaves, words):
    with pytest.raises(SpecError, match=words):
        restrict(pairs, leaves)
    with pytest.raises(SpecError, match=words):
        MemoryStore({"x": np.zeros((len(leaves), 1))}, dict.fromkeys(leaves, 1), is_a=pairs)


@st.composite
def dags(draw):
    """Pairs over inner nodes n0 > n1 > ... and leaves, every leaf below some node."""
    inner, leaves = draw(st.integers(1, 7)), draw(st.integers(2, 8))
    names = [f"n{i}" for i in range(inner)]
    pairs = {(names[i], names[j]) for i in range(inner) for j in range(i + 1, inner) if draw(st.booleans())}
    classes = [f"leaf{c}" for c in range(leaves)]
    for leaf in classes:
        pairs |= {(parent, leaf) for parent in draw(st.sets(st.sampled_from(names), min_size=1, max_size=3))}
    return sorted(pairs), classes


def slow_spans(pairs, leaves):
    """node -> (set of leaves by enumerating paths, number of different children among ancestors and leaves)."""
    children = {}
    for p, c in pairs:
        children.setdefault(p, set()).add(c)

    def below(node):
        return {node} if node in leaves else set().union(*(below(c) for c in children.get(node, ())), set())

    above = {node for node in children if below(node)}
    return {n: (below(n), len({c for c in children[n] if c in above or c in leaves})) for n in above}


@given(dags())
@settings(max_examples=300, deadline=None)
def test_kept_nodes_and_spans_are_those_of_enumerating_paths(case):
    pairs, leaves = case
    graph = SamplingGraph.build(pairs, leaves)
    slow = slow_spans(pairs, leaves)
    assert list(graph.names) == sorted(n for n, (_, children) in slow.items() if children > 1)
    for n, name in enumerate(graph.names):
        assert {leaves[c] for c in graph.span(n)} == slow[name][0]
        reached = {c for child in graph.children[n] for c in (graph.span(child).tolist() if child >= 0 else [~child])}
        assert reached == set(graph.span(n).tolist()), "children of the collapsed graph span the same classes"


@given(dags(), st.data())
@settings(max_examples=200, deadline=None)
def test_below_a_root_a_node_spans_what_it_spans_of_the_root(case, data):
    pairs, leaves = restrict(*case), case[1]
    slow = slow_spans(pairs, leaves)
    root = data.draw(st.sampled_from(sorted(slow)))
    inside = sorted(slow[root][0])
    below = rooted(pairs, root, inside)
    graph = SamplingGraph.build(below, inside)
    assert {parent for parent, _ in below} <= {name for name in slow if reaches(pairs, root, name)}
    for n, name in enumerate(graph.names):
        assert {inside[c] for c in graph.span(n)} == slow[name][0] <= set(inside)
    assert set(graph.names) == {n for n, (_, children) in slow.items() if children > 1 and reaches(pairs, root, n)}
    if outside := sorted(set(leaves) - set(inside)):
        with pytest.raises(SpecError, match=f"class '{outside[0]}' is not below root='{root}'"):
            rooted(pairs, root, [*inside, outside[0]])
    with pytest.raises(SpecError, match=f"root='{root}x' stands above no class of the hierarchy"):
        rooted(pairs, f"{root}x", inside)


def reaches(pairs, top, name):
    return top == name or any(reaches(pairs, child, name) for parent, child in pairs if parent == top)


@given(dags())
@settings(max_examples=100, deadline=None)
def test_distances_are_distances(case):
    pairs, leaves = case
    store = MemoryStore(
        {"x": np.zeros((2 * len(leaves), 1))}, dict.fromkeys(leaves, 2), splits={"s": {"t": leaves}}, is_a=pairs
    )
    classes = store.split("t")
    slow = slow_spans(pairs, leaves)
    for name in ("lca_span", "lca_height", "path", "jiang_conrath"):
        table = distances(name, classes)
        assert np.array_equal(table, table.T)
        assert (np.diag(table) == 0).all()
        assert (table[~np.eye(len(leaves), dtype=bool)] > 0).all()
    spans = distances("lca_span", classes)
    for a, b in itertools.combinations(range(len(leaves)), 2):
        common = [len(span) for span, _ in slow.values() if {classes.names[a], classes.names[b]} <= span]
        if common:
            assert spans[a, b] == pytest.approx(math.log2(min(common)))


def test_unknown_names_are_refused_with_near_ones():
    store = MemoryStore(
        {"x": np.zeros((4, 1))}, {"a": 2, "b": 2}, splits={"s": {"t": ["a", "b"]}}, is_a=[("r", "a"), ("r", "b")]
    )
    with pytest.raises(SpecError, match="unknown distance 'lca_spam'; did you mean 'lca_span'"):
        distances("lca_spam", store.split("t"))
    with pytest.raises(SpecError, match="has a group; ingest with groups"):
        distances("groups", store.split("t"))
    with pytest.raises(SpecError, match="unknown way to split 'fa'; did you mean 'far'"):
        split_classes("fa", store.split("t").graph, (0.5, 0.0, 0.5))
    with pytest.raises(SpecError, match="must be 0 or more and add up to 1"):
        split_classes("far", store.split("t").graph, (0.5, 0.5, 0.5))
