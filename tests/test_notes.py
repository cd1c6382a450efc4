"""Notes beside the statistics: nodes that span the same classes, and episodes that leave no class out."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from worlds import memory_store

import episodes
from cli.main import main
from episodes import stats
from episodes.graph import SamplingGraph
from episodes.store.memory import MemoryStore

LEAVES = [f"leaf{n}" for n in range(6)]
# One and two stand above all six classes, and so does their common parent; few above three of them.
IS_A = [
    ("top", "one"), ("top", "two"), *((node, leaf) for node in ("one", "two") for leaf in LEAVES),
    *(("few", leaf) for leaf in LEAVES[:3]), ("top", "few"),
]  # fmt: skip
STORE = MemoryStore({"x": np.zeros((60, 1))}, dict.fromkeys(LEAVES, 10), splits={"s": {"train": LEAVES}}, is_a=IS_A)
ALIKE = "nodes 'one', 'top', 'two' span the same classes; each counts as a node of its own"


def notes(sampler, count=20, store=STORE, **settings):
    """Notes on the first episodes of a policy."""
    options = settings.pop("options", None)
    spec = episodes.EpisodeSpec(**{"ways": 3, "shots": 1, "queries": 1} | settings)
    series = episodes.sample(store, "train", spec, sampler=sampler, options=options)
    return stats.notes(stats.collect(map(series.plan, range(count)), series.classes), series)


def test_nodes_with_the_same_leaves_are_found():
    graph = SamplingGraph.build(IS_A, LEAVES)
    assert graph.alike(np.arange(len(graph.names))) == [["one", "top", "two"]]
    assert graph.alike(np.array([graph.names.index(name) for name in ("few", "top")])) == []


@pytest.mark.parametrize(
    ("sampler", "options", "settings"),
    [
        ("under-node", {"max_span": 6}, {}),
        ("meta-dataset", {"hierarchy": "graph", "min_ways": 2, "max_ways": 4}, {"ways": "variable"}),
        ("spread", {}, {}),
        ("self-supervised", {"of": "under_node", "of_options": {"max_span": 6}}, {}),
    ],
)
def test_policies_of_a_graph_say_which_nodes_are_alike(sampler, options, settings):
    (found,) = notes(sampler, options=options, **settings)
    assert found.startswith(ALIKE)
    assert found.endswith("these classes are drawn 3 times as often")


@pytest.mark.parametrize(
    ("sampler", "options", "settings"),
    [
        ("under-node", {"max_span": 5}, {}),  # only few is eligible
        ("spread", {"node": "few"}, {}),
        ("meta-dataset", {"min_ways": 2, "max_ways": 4}, {"ways": "variable"}),
        ("meta-dataset", {"hierarchy": "graph", "min_ways": 2, "max_ways": 3, "max_span": 4}, {"ways": "variable"}),
        ("meta-dataset", {"hierarchy": "graph", "min_ways": 2, "max_ways": 4, "root": "one"}, {"ways": "variable"}),
        ("uniform", {}, {}),
    ],
)
def test_notes_are_of_nodes_in_use_only(sampler, options, settings):
    assert notes(sampler, options=options, **settings) == []


def test_episodes_that_leave_no_class_out_are_noted():
    (found,) = notes("uniform", ways=6)
    assert found == (
        "all 6 classes of split 's/train' are in each of these 20 episodes, which differ by their rows only (lower ways, "
        "if that is not meant)"
    )
    assert notes("uniform", ways=5) == []
    assert notes("uniform", ways=6, count=1) == []
    assert notes("uniform", ways=6, store=memory_store([9] * 7)) == []


def test_the_command_prints_notes(glyphs_store):
    def plan(*args):
        result = CliRunner().invoke(main, ["plan", str(glyphs_store), "--stats", "--count", "9", "--split", "test", *args])
        assert result.exit_code == 0, result.output + result.stderr
        return result.stdout

    classes = len(episodes.open(glyphs_store).split("test"))
    assert f"\nnote: all {classes} classes of split 'glyphs/test' are in each of these 9" in plan("--ways", str(classes))
    assert json.loads(plan("--ways", str(classes), "--json"))["notes"][0].startswith(f"all {classes} classes of split")
    assert "note:" not in plan()
    assert json.loads(plan("--json"))["notes"] == []
