"""WordNet whole, and the figures of Meta-Dataset's sampling graph over ImageNet and Tiny-ImageNet (sampling 3.4 and 12).

`wordnet_classes.json` holds the offsets of ImageNet's 1,000 classes in WordNet 3.0, and which of them are Tiny-ImageNet's.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import real_data
from click.testing import CliRunner
from scipy import stats

from cli.main import main
from episodes.distance import delta, distances
from episodes.errors import SpecError
from episodes.graph import SamplingGraph, read_is_a, restrict, rooted
from episodes.sampling import meta_dataset
from episodes.spec import EpisodeSpec
from episodes.splitting import auto_roots, by_roots, split_classes
from episodes.store.memory import MemoryStore

NOUNS = Path(os.environ.get("EPISODES_WORDNET", "/usr/share/wordnet/data.noun"))
TABLE = json.loads(Path(__file__).with_name("wordnet_classes.json").read_text())
IMAGENET = [f"n{offset}" for line in TABLE["imagenet"] for offset in line.split()]
TINY = [IMAGENET[place] for place in TABLE["tiny_imagenet"]]
CARNIVORE, DEVICE = "n02075296", "n03183080"
SPEC = EpisodeSpec(ways="variable", shots="variable", queries="variable")


@pytest.fixture(scope="module")
def pairs():
    """Every is-a pair of WordNet's nouns."""
    if not NOUNS.exists():
        pytest.skip(
            f"WordNet is not at {NOUNS}; install wordnet-base, or set EPISODES_WORDNET to a data.noun of version 3.0"
        )
    return read_is_a(NOUNS)


@pytest.fixture(scope="module")
def parts(pairs):
    """ImageNet's classes by Meta-Dataset's roots."""
    return by_roots(SamplingGraph.build(pairs, IMAGENET), CARNIVORE, DEVICE)


def test_the_roots_of_meta_dataset_are_those_that_the_rule_finds(pairs):
    graph = SamplingGraph.build(pairs, IMAGENET)
    assert auto_roots(graph) == (CARNIVORE, DEVICE)  # another node spans 130 classes, too: the last name comes first
    with pytest.raises(SpecError, match="desired=130 and margin=1 ask for two nodes that span 130..130 classes"):
        auto_roots(SamplingGraph.build(pairs, TINY), 130, 1)


def eligible(graph, high=392):
    """Spans of the nodes that span 5..high classes."""
    return np.diff(graph.offsets)[graph.eligible(5, high)]


def classes_of(pairs, names, rows=20):
    """The classes as a split of a store without values."""
    store = MemoryStore({"x": np.zeros((rows * len(names), 1))}, dict.fromkeys(names, rows), splits={"s": {"train": names}},
                        is_a=pairs)  # fmt: skip
    return store.split("train")


def test_class_lists_are_whole():
    assert (len(IMAGENET), len(TINY)) == (1000, 200)
    assert sorted(set(IMAGENET)) == IMAGENET
    assert len(set(TINY)) == 200
    assert all(len(name) == 9 and name[1:].isdigit() for name in IMAGENET)


def test_the_hundred_classes_at_hand_are_of_tiny_imagenet():
    names = json.loads(real_data.tiny_imagenet().with_name("classes.json").read_text())
    assert set().union(*names.values()) <= set(TINY)


def test_the_pairs_beside_the_images_are_those_of_wordnet(pairs):
    source = real_data.tiny_imagenet()
    names = sorted(set().union(*json.loads(source.with_name("classes.json").read_text()).values()))
    assert restrict(read_is_a(source.with_name("is_a.csv")), names) == restrict(pairs, names)


def test_all_of_wordnet_is_read(pairs):
    """WordNet 3.0 has 82,115 nouns; one of them, entity, is above all others, and 'is above' has no circle."""
    names = {name for pair in pairs for name in pair}
    assert (len(names), len(pairs)) == (82_115, 84_427)
    assert names - {child for _, child in pairs} == {"n00001740"}
    assert ("n02083346", "n02084071") in pairs, "a dog is a canine"
    inner = {parent for parent, _ in pairs}
    restrict(pairs, sorted(names - inner))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count resident memory in other units")
def test_reading_all_of_wordnet_takes_little_memory(pairs):
    code = (
        "import resource, sys; from pathlib import Path; import episodes.graph as g;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; g.read_is_a(Path(sys.argv[1]));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    printed = subprocess.run([sys.executable, "-c", code, str(NOUNS)], capture_output=True, text=True, check=True).stdout
    assert len(pairs) > 0
    assert int(printed) < 400 << 10, "KiB; the file itself has 15 MB"


def test_the_graph_of_tiny_imagenet_is_the_published_one(pairs):
    kept = restrict(pairs, TINY)
    assert len(kept) == 566
    assert len({name for pair in kept for name in pair} - set(TINY)) == 343
    graph = SamplingGraph.build(pairs, TINY)
    sizes = np.diff(graph.offsets)
    assert (len(graph.names), sizes.min(), sizes.max()) == (108, 1, 200)
    assert (sizes == 1).sum() == 1, "two ways lead from it to one and the same class"
    found = eligible(graph)
    assert (len(found), found.min(), found.max(), int((found == 200).sum())) == (42, 5, 200, 2)
    ways = np.minimum(50, found)
    assert ways.mean() == pytest.approx(19.310, abs=0.0005)
    assert ((ways == 5).sum(), (ways == 50).sum()) == (4, 7)


def test_imagenet_is_split_as_by_meta_dataset(pairs, parts):
    assert {part: len(names) for part, names in parts.items()} == {"train": 712, "val": 158, "test": 130}
    both = SamplingGraph.build(pairs, IMAGENET)
    spans = [set(both.span(both.names.index(root)).tolist()) for root in (CARNIVORE, DEVICE)]
    assert not spans[0] & spans[1], "no class is below both roots"
    assert (np.diff(both.offsets) == 1).sum() == 2

    train = SamplingGraph.build(pairs, parts["train"])
    found = eligible(train)
    assert (len(found), found.max()) == (113, 392)
    assert min(size for size in np.diff(train.offsets) if size > 392) == 661
    ways = np.minimum(50, found)
    assert ways.mean() == pytest.approx(18.965, abs=0.0005)
    assert ((ways == 5).sum(), (ways == 50).sum()) == (15, 17)
    for part, root, number in (("train", None, 113), ("val", CARNIVORE, 18), ("test", DEVICE, 15)):
        below = rooted(pairs, root, parts[part]) if root else pairs
        graph = SamplingGraph.build(below, parts[part])
        nodes = graph.eligible(5, 392)
        assert len(nodes) == number
        reached = set().union(*(graph.span(int(n)).tolist() for n in nodes))
        assert len(reached) == len(parts[part]), "every class lies below an eligible node"


def test_392_is_the_smallest_bound_that_reaches_every_training_class(pairs, parts):
    graph = SamplingGraph.build(pairs, parts["train"])

    def reached(high):
        return len(set().union(*(graph.span(int(n)).tolist() for n in graph.eligible(5, high))))

    assert reached(392) == 712
    assert reached(391) < 712


@pytest.mark.parametrize(("part", "root", "number"), [("val", CARNIVORE, 18), ("val", None, 20), ("test", DEVICE, 15)])
def test_episodes_are_drawn_below_the_root_of_their_split(pairs, parts, part, root, number):
    """Without the root other ancestors count too: domestic animal is above the dogs and cats of the carnivores."""
    classes = classes_of(pairs, parts[part])
    sampler = meta_dataset.make(meta_dataset.Options(hierarchy="graph", root=root))
    sampler.require(classes, SPEC)
    graph = SamplingGraph.build(rooted(classes.is_a, root, classes.names) if root else classes.is_a, classes.names)
    nodes = [frozenset(graph.span(int(n)).tolist()) for n in graph.eligible(5, 392)]
    assert len(nodes) == number
    sets = Counter(frozenset(sampler.plan(classes, SPEC, 1, i).class_ids.tolist()) for i in range(4000))
    small = Counter(node for node in nodes if len(node) < 50)
    assert {s for s in sets if len(s) < 50} == set(small)
    worst = min(stats.binomtest(sets[node], 4000, times / number).pvalue for node, times in small.items())
    assert worst > 1e-4 / len(small)
    for one in sets:
        assert len(one) < 50 or any(one <= node for node in nodes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"hierarchy": "graph", "root": CARNIVORE},
            f"class 'n.*' is not below root='{CARNIVORE}' \\(1.. such classes",
        ),
        ({"hierarchy": "graph", "root": "n02075297"}, "root='n02075297' stands above no class .*did you mean 'n02075296'"),
        ({"hierarchy": "flat", "root": CARNIVORE}, "it needs hierarchy=graph, not flat"),
    ],
)
def test_roots_that_cannot_be_are_refused(pairs, options, words):
    with pytest.raises(SpecError, match=words):
        meta_dataset.make(meta_dataset.Options(**options)).require(classes_of(pairs, TINY), SPEC)


@pytest.mark.parametrize(
    ("part", "rows", "ways", "five", "fifty", "total", "each"),
    [("tiny", 500, 19.310, 4 / 42, 7 / 42, 383, 30.2), ("train", 1300, 18.965, 15 / 113, 17 / 113, 373, 31.5)],
)
def test_graph_episodes_are_distributed_as_published(pairs, parts, part, rows, ways, five, fifty, total, each):
    """Sampling 12: means of 100,000 episodes of the original. Of ImageNet's classes nine in ten have 1,300 rows."""
    classes = classes_of(pairs, TINY if part == "tiny" else parts[part], rows=rows)
    sampler = meta_dataset.make(meta_dataset.Options(hierarchy="graph"))
    sampler.require(classes, SPEC)
    count = 20_000
    plans = [sampler.plan(classes, SPEC, 11, i) for i in range(count)]
    drawn, sums = np.array([(plan.ways, len(plan.support)) for plan in plans]).T
    values, times = np.unique(np.minimum(50, eligible(classes.graph)), return_counts=True)
    found = np.array([(drawn == value).sum() for value in values])
    assert found.sum() == count
    assert stats.chisquare(found, count * times / times.sum()).pvalue > 1e-4
    for value, share in ((5, five), (50, fifty)):
        assert stats.binomtest(int((drawn == value).sum()), count, share).pvalue > 1e-4
    assert drawn.mean() == pytest.approx(ways, abs=4 * drawn.std() / count**0.5)
    assert sums.mean() == pytest.approx(total, rel=0.02)
    assert (sums / drawn).mean() == pytest.approx(each, rel=0.03)
    assert all(len(plan.query) == 10 * plan.ways for plan in plans)
    assert stats.binomtest(int((sums == drawn).sum()), count, 0.01).pvalue > 1e-4
    # M8: every class as often as the nodes above it make it.
    spans = [set(classes.graph.span(int(n)).tolist()) for n in classes.graph.eligible(5, 392)]
    likely = [sum(min(50, len(span)) / len(span) for span in spans if c in span) / len(spans) for c in range(len(classes))]
    seen = Counter(int(c) for plan in plans for c in plan.class_ids)
    p_values = [stats.binomtest(seen[int(c)], count, p).pvalue for c, p in zip(classes.ids, likely, strict=True)]
    assert min(p_values) > 1e-3 / len(classes)


def test_splits_of_tiny_imagenet_lie_further_apart_the_further_they_are_split(pairs):
    """Sampling 6: 40 of 200 classes as test, by lca_span: about 2.2, 2.35 and above 5 (near, random, far)."""
    classes = classes_of(pairs, TINY, rows=2)
    table, place = distances("lca_span", classes), {name: p for p, name in enumerate(classes.names)}
    found = {}
    for how in ("near", "random", "far"):
        sides = split_classes(how, classes.graph, (0.8, 0.0, 0.2), 0)
        assert len(sides["test"]) == 40
        found[how] = delta(table, *(np.array([place[n] for n in sides[p]]) for p in ("train", "test")))
    assert found["near"] < found["random"] < found["far"]
    assert found["near"] == pytest.approx(2.2, abs=0.15)
    assert found["random"] == pytest.approx(2.35, abs=0.25)
    assert found["far"] > 5


def test_a_note_tells_the_nodes_with_the_same_leaves(pairs):
    sampler = meta_dataset.make(meta_dataset.Options(hierarchy="graph"))
    (note,) = sampler.notes(classes_of(pairs, TINY), SPEC)
    assert note == (
        "nodes 'n00001740', 'n00001930' span the same classes; each counts as a node of its own, so these classes are "
        "drawn 2 times as often"
    )


def test_a_store_keeps_of_wordnet_what_is_above_its_classes(pairs, tmp_path):
    from PIL import Image

    for number, name in enumerate(TINY[:8]):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (8, 8), (number, i, 0)).save(folder / f"{i}.png")
    store = tmp_path / "s.store"
    args = ["ingest", "folder", str(tmp_path / "images"), str(store), "--hierarchy", str(NOUNS)]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output + result.stderr
    table = json.loads((store / "classes.json").read_text())
    assert tuple(map(tuple, table["is_a"])) == restrict(pairs, sorted(TINY[:8]))
