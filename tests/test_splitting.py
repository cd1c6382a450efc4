"""Roots that are found for splitting: the written rule once more, what is refused, and the command."""

import json

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.main import main
from episodes.errors import SpecError
from episodes.graph import SamplingGraph, pairs_of_groups, shown
from episodes.splitting import auto_roots, by_roots

# Spans: life 24; a 10, a1 6; b 9, b1 4; c 5.
SIZES = {"a1": 6, "a": 4, "b1": 4, "b": 5, "c": 5}
PAIRS = [
    ("life", "a"), ("life", "b"), ("life", "c"), ("a", "a1"), ("b", "b1"),
    *((node, f"{node}-{n}") for node, size in SIZES.items() for n in range(size)),
]  # fmt: skip
LEAVES = sorted(child for _, child in PAIRS if "-" in child)
GRAPH = SamplingGraph.build(PAIRS, LEAVES)


def below(pairs, node):
    """Leaves below a node, by recursion."""
    children = [child for parent, child in pairs if parent == node]
    return {node} if not children else set().union(*(below(pairs, child) for child in children))


@pytest.mark.parametrize(
    ("desired", "margin", "roots"),
    [
        (10, 2, ("a", "b")),
        (10, 15, ("life", "a")),
        (6, 4, ("b", "a1")),  # strictly below 10: not a
        (6, 2, ("a1", "c")),  # strictly above 4: not b1
        (5, 2, ("a1", "c")),
        (4, 2, ("c", "b1")),
    ],
)
def test_the_two_largest_nodes_within_the_margin_are_the_roots(desired, margin, roots):
    assert auto_roots(GRAPH, desired, margin) == roots


@st.composite
def trees(draw):
    """is-a pairs of a tree whose inner nodes have two children or more."""
    pairs, open_, number = [], ["n0"], 1
    for _ in range(draw(st.integers(1, 8))):
        node = draw(st.sampled_from(open_))
        open_.remove(node)
        for _ in range(draw(st.integers(2, 4))):
            pairs.append((node, f"n{number}"))
            open_.append(f"n{number}")
            number += 1
    return pairs, sorted(open_)


@given(trees(), st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_auto_roots_keep_the_written_rule(tree, desired, margin):
    pairs, leaves = tree
    spans = {node: len(below(pairs, node)) for node in {parent for parent, _ in pairs}}
    found = sorted(
        ((size, name) for name, size in spans.items() if desired - margin < size < desired + margin), reverse=True
    )
    graph = SamplingGraph.build(pairs, leaves)
    if len(found) < 2:
        with pytest.raises(SpecError, match=f"desired={desired} and margin={margin} ask for two nodes that span"):
            auto_roots(graph, desired, margin)
    else:
        assert auto_roots(graph, desired, margin) == (found[0][1], found[1][1])


def test_nodes_of_equal_spans_are_taken_from_the_last_name_on():
    pairs = [("top", node) for node in "abc"] + [(node, f"{node}{n}") for node in "abc" for n in range(3)]
    assert auto_roots(SamplingGraph.build(pairs, [child for _, child in pairs[3:]]), 3, 1) == ("c", "b")


def test_classes_below_both_roots_go_to_val_and_test_in_turn():
    parts = by_roots(GRAPH, *auto_roots(GRAPH, 8, 3))
    assert auto_roots(GRAPH, 8, 3) == ("a", "b")
    assert {part: len(names) for part, names in parts.items()} == {"train": 5, "val": 10, "test": 9}
    nested = by_roots(GRAPH, "a", "a1")
    assert (len(nested["val"]), len(nested["test"])) == (4 + 3, 3)
    assert nested["test"] == [f"a1-{n}" for n in (1, 3, 5)]


def test_groups_are_roots_by_their_names():
    groups = {f"{alphabet}{n}": alphabet for alphabet, size in (("x", 5), ("y", 4), ("z", 9)) for n in range(size)}
    graph = SamplingGraph.build(pairs_of_groups(groups), sorted(groups))
    assert auto_roots(graph, 5, 2) == ("x", "y")
    assert by_roots(graph, "x", "y")["train"] == [f"z{n}" for n in range(9)]
    assert [shown(name) for name in graph.names] == ["all groups", "x", "y", "z"]
    with pytest.raises(SpecError, match="node 'w' is not in the hierarchy; .*all groups"):
        by_roots(graph, "x", "w")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: auto_roots(GRAPH, 150), r"desired=150 and margin=50 ask for two nodes that span 101..199 classes; the "
                                         r"hierarchy has 0 \(spans nearest to 150: 24, 10, 9, 6, 5\)"),
        (lambda: auto_roots(GRAPH, 24, 3), "span 22..26 classes; the hierarchy has 1"),
        (lambda: auto_roots(GRAPH, 0, 3), "desired=0 is out of range; it must be 1 or more"),
        (lambda: auto_roots(GRAPH, 5, 0), "margin=0 is out of range; it must be 1 or more"),
        (lambda: by_roots(GRAPH, "life", "a"), "roots 'life' and 'a' leave 'train' without any of the 24 classes"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(SpecError, match=words):
        call()


def test_the_command_finds_roots(glyphs_store, tmp_path):
    def split(*args):
        return CliRunner().invoke(main, ["split", str(glyphs_store), *args])

    found = split("--roots", "auto", "--desired", "18", "--margin", "12", "-o", str(tmp_path / "a.json"))
    assert found.exit_code == 0, found.output + found.stderr
    about = json.loads(found.stdout)
    assert about["sizes"]["val"] >= about["sizes"]["test"] >= 7
    assert about["sizes"]["val"] <= 29
    again = json.loads(split("--roots", ",".join(about["roots"]), "-o", str(tmp_path / "b.json")).stdout)
    assert again == about
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    parts = json.loads((tmp_path / "a.json").read_text())
    assert {name.partition("/")[0] for name in parts["val"]} == {about["roots"][0]}
    refused = split("--roots", "auto")
    assert refused.exit_code == 2
    assert "desired=150 and margin=50 ask for two nodes that span 101..199 classes" in refused.stderr
