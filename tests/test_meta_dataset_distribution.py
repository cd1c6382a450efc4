"""Meta-Dataset's episodes against a second sampler, written from the rules in NumPy, and figures of the original.

One value per episode is compared (ways, sum, smallest, median and largest of the shots, shots of the first class, queries):
those are independent between episodes, so that p-values mean what they say. Many values are tested at once, so each p-value
is multiplied by their number. The same tests reject samplers that are wrong in the ways that happen (sampling 13).
"""

import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from test_meta_dataset import EPISODES, drawn
from worlds import class_index

import episodes
from episodes.store.memory import MemoryStore

# Characters of Omniglot's alphabets, in order of their names, as Meta-Dataset splits them.
ALPHABETS = {
    "train": (29, 26, 41, 40, 24, 46, 26, 34, 33, 22, 26, 43, 24, 48, 22, 52, 47, 40, 26, 40, 41, 33, 42, 23, 55),
    "test": (20, 26, 26, 26, 26, 26, 45, 45, 41, 26, 47, 40, 30, 45, 46, 28, 23, 25, 42, 26),
}
# From 6 to 442 rows a class, as Meta-Dataset's specification of Fungi has them.
(SIZES,) = json.loads(Path(__file__).with_name("fungi_sizes.json").read_text()).values()
FUNGI = tuple(int(rows) for rows, classes in SIZES.items() for _ in range(classes))


def reference(sizes, pools=None, *, graph=False, count=EPISODES, wrong=""):
    """Ways, queries, pool and shots of `count` episodes by the rules of the paper, but for what is `wrong`.

    Args:
        sizes: rows of each class.
        pools: groups of classes, or with `graph` the classes below each eligible node; None: all alike.
        graph: the number of ways is not drawn.
        count: episodes.
        wrong: what to do otherwise.
    """
    rng, sizes = np.random.Generator(np.random.PCG64(17)), np.array(sizes)
    everything = np.arange(len(sizes))
    found = []
    most = {"max_ways off by one": 49, "max_ways one too many": 51}.get(wrong, 50)
    weights = np.array([len(p) for p in pools], float) if pools and wrong == "pools by size" else None
    for _ in range(count):
        pool = rng.choice(len(pools), p=None if weights is None else weights / weights.sum()) if pools else 0
        inside = np.array(pools[pool]) if pools else everything
        ways = min(most, len(inside))
        if not graph or wrong == "graph draws its ways":
            ways = rng.integers(5, ways + 1)
        classes = rng.permutation(inside)[:ways]
        n = sizes[classes]
        q = min(10, n.min() // 2 if wrong != "queries of the mean class" else int(n.mean()) // 2)
        q = min(q, n.min() - 1)
        room = n - q
        beta = rng.random(ways if wrong == "beta per class" else 1)
        rows = np.floor(beta * np.minimum(100, room)) + (0 if wrong == "no one outside the floor" else 1)
        bound = min(500, int(rows.sum()))
        alpha = rng.uniform(math.log(0.5), math.log(2), 1 if wrong == "alpha per episode" else ways)
        share = (room if wrong == "proportions of the room" else n) * np.exp(alpha)
        share = share / share.sum()
        k = np.floor(share * max(0, bound - ways)).astype(int) + 1
        k = np.minimum(k, np.minimum(100, room) if wrong == "contribution caps shots" else room)
        if wrong == "shots uniform":
            k = rng.integers(1, np.minimum(100, room) + 1)
        if wrong == "rest handed out":
            k = np.minimum(k + (rng.permutation(ways) < bound - k.sum()), room)
        found.append((ways, q, pool, k))
    return values(*([one[i] for one in found] for i in range(4)))


def values(ways, queries, pool, shots):
    """One value per episode of each kind."""
    return {
        "ways": np.array(ways),
        "queries": np.array(queries),
        "pool": np.array(pool),
        "sum": np.array([k.sum() for k in shots]),
        "smallest": np.array([k.min() for k in shots]),
        "median": np.array([np.median(k) for k in shots]),
        "largest": np.array([k.max() for k in shots]),
        "first": np.array([k[0] for k in shots]),
        "imbalance": np.array([k.max() / k.min() for k in shots]),
    }


def ours(classes, pools=None, **options):
    """The same values of this library's sampler."""
    block = drawn(classes, **options)
    shots = [block.shots[b, :w] for b, w in enumerate(block.ways)]
    home = {c: g for g, inside in enumerate(pools or ()) for c in inside}
    pool = (
        [home.get(c, 0) for c in block.positions[:, 0].tolist()]
        if options.get("hierarchy") == "groups"
        else [0] * len(shots)
    )
    return values(block.ways, block.queries[:, 0], pool, shots)


def p_value(one, two):
    """That two samples are of one distribution: chi-square over values, or bins of equally many where there are many."""
    both = np.concatenate([one, two])
    edges = np.unique(both)
    if len(edges) == 1:
        return 1.0
    if len(edges) > 60:
        edges = np.unique(np.quantile(both, np.linspace(0, 1, 41)[:-1]))
    table = np.stack([np.bincount(np.searchsorted(edges, x, side="right") - 1, minlength=len(edges)) for x in (one, two)])
    rare = table.sum(axis=0) < 20
    table = np.concatenate([table[:, ~rare], table[:, rare].sum(axis=1, keepdims=True)], axis=1)
    return stats.chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue if (table.sum(axis=0) > 0).sum() > 1 else 1.0


def least(one, two):
    """Smallest p-value over all kinds of values, times their number."""
    return len(one) * min(p_value(one[name], two[name]) for name in one)


def groups_of(sizes):
    ends = np.cumsum(sizes)
    return [list(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]


# 60 classes below a root, its three unequal children and the five or six children of each: nodes of 5 to 60 classes.
SPANS = [list(range(60)), *([list(range(36)), list(range(36, 52)), list(range(52, 60))]),
         *(list(range(i, i + 6)) for i in range(0, 36, 6)), list(range(36, 41)), list(range(41, 52))]  # fmt: skip


def tree(sizes):
    """Classes below the nodes of SPANS."""
    names = [f"c{c:02d}" for c in range(60)]
    order = sorted(range(len(SPANS)), key=lambda n: len(SPANS[n]))
    pairs = []
    for child, (node, span) in enumerate(
        [(f"n{n}", SPANS[n]) for n in order] + [(name, [c]) for c, name in enumerate(names)]
    ):
        above = (
            [n for n in order if set(span) < set(SPANS[n])]
            if child < len(order)
            else [n for n in order if span[0] in SPANS[n]]
        )
        pairs += [(f"n{above[0]}", node)] if above else []
    store = MemoryStore(
        {"x": np.zeros((sum(sizes), 1))}, dict(zip(names, sizes, strict=True)), splits={"s": {"train": names}}, is_a=pairs
    )
    return store.split("train")


TREE = tuple(np.random.Generator(np.random.PCG64(8)).integers(12, 700, 60).tolist())
WORLDS = {
    "omniglot": ((20,) * 883, None, {}),
    "alphabets": ((20,) * 883, groups_of(ALPHABETS["train"]), {"hierarchy": "groups"}),
    "fungi": (FUNGI, None, {}),
    "nodes": (TREE, SPANS, {"hierarchy": "graph"}),
}


@functools.cache
def of_world(name):
    """Values of this library's sampler in a world."""
    sizes, pools, options = WORLDS[name]
    if name == "nodes":
        return ours(tree(list(sizes)), **options)
    return ours(class_index(list(sizes), [g for g, p in enumerate(pools) for _ in p] if pools else None), pools, **options)


def by_reference(name, wrong=""):
    sizes, pools, options = WORLDS[name]
    found = reference(sizes, pools, graph=options.get("hierarchy") == "graph", wrong=wrong)
    if name == "nodes":
        found["pool"] = np.zeros(EPISODES)  # which node it was cannot be told from a plan
    return found


def test_the_nodes_of_the_tree_are_the_spans():
    graph = tree(list(TREE)).graph
    assert sorted(graph.span(int(n)).tolist() for n in graph.eligible(5, 392)) == sorted(SPANS)


@pytest.mark.parametrize("world", sorted(WORLDS))
def test_episodes_are_distributed_as_by_a_second_sampler(world):
    assert least(of_world(world), by_reference(world)) > 1e-3


@pytest.mark.parametrize(
    ("world", "wrong"),
    [
        *((world, wrong) for world in ("omniglot", "fungi") for wrong in ("beta per class", "shots uniform")),
        ("omniglot", "max_ways off by one"),
        ("omniglot", "max_ways one too many"),
        ("omniglot", "no one outside the floor"),
        ("omniglot", "alpha per episode"),
        ("omniglot", "rest handed out"),
        ("alphabets", "pools by size"),
        ("alphabets", "beta per class"),
        ("fungi", "proportions of the room"),
        ("fungi", "queries of the mean class"),
        ("nodes", "graph draws its ways"),
        ("nodes", "contribution caps shots"),
        ("nodes", "pools by size"),
    ],
)
def test_wrong_samplers_are_told_apart(world, wrong):
    assert least(of_world(world), by_reference(world, wrong)) < 1e-9


@pytest.mark.parametrize("world", sorted(WORLDS))
def test_episodes_do_not_depend_on_the_one_before(world):
    found = of_world(world)
    for name in ("ways", "sum", "first"):
        assert abs(np.corrcoef(found[name][1:], found[name][:-1])[0, 1]) < 4.5 / math.sqrt(EPISODES), name


# Figures of the original: means of 100,000 episodes, good to about 1 %, probabilities to 0.001 (sampling 12).


@pytest.mark.parametrize(
    ("world", "ways", "five", "fifty", "total", "each"),
    [
        ("omniglot", 27.5, 1 / 46, 1 / 46, 132, 4.81),
        ("alphabets", 20.02, np.mean([1 / (min(50, g) - 4) for g in ALPHABETS["train"]]), 2 / 46 / 25, 96.4, 4.81),
        ("fungi", 27.5, 1 / 46, 1 / 46, 359, 15.5),
    ],
)
def test_figures_of_the_original(world, ways, five, fifty, total, each):
    found = of_world(world)
    assert found["ways"].mean() == pytest.approx(ways, abs=4 * found["ways"].std() / math.sqrt(EPISODES))
    for number, share in ((5, five), (50, fifty)):
        assert stats.binomtest(int((found["ways"] == number).sum()), EPISODES, share).pvalue > 1e-4
    assert found["sum"].mean() == pytest.approx(total, rel=0.02)
    assert (found["sum"] / found["ways"]).mean() == pytest.approx(each, rel=0.015)
    if world == "fungi":
        assert found["queries"].mean() == pytest.approx(4.02, rel=0.015)
        assert (found["largest"] == 1).mean() == pytest.approx(0.013, abs=0.001 + 4 * math.sqrt(0.013 / EPISODES))
    else:
        assert (found["queries"] == 10).all()
        assert stats.binomtest(int((found["largest"] == 1).sum()), EPISODES, 0.1).pvalue > 1e-4


def test_the_alphabets_are_those_of_omniglot(omniglot_store):
    store = episodes.open(omniglot_store)
    for part, sizes in ALPHABETS.items():
        assert np.diff(store.split(f"meta-dataset/{part}").groups_in_use[1]).tolist() == list(sizes)


def test_fungi_is_as_published():
    assert (len(FUNGI), min(FUNGI), max(FUNGI)) == (994, 6, 442)


def test_exact_numbers_of_ways():
    assert [sum(ALPHABETS[part]) for part in ("train", "test")] == [883, 659]
    two_level = [np.mean([(5 + min(50, g)) / 2 for g in ALPHABETS[part]]) for part in ("train", "test")]
    assert two_level == [pytest.approx(20.02, abs=0.0005), pytest.approx(18.975, abs=0.0005)]
    train = ALPHABETS["train"]
    assert np.mean([1 / (min(50, g) - 4) for g in train]) == pytest.approx(0.036, abs=0.0005)
    assert np.mean([(g >= 50) / 46 for g in train]) == pytest.approx(0.002, abs=0.0005)
    flat = drawn(class_index([20] * 30), count=EPISODES)  # fewer classes than max_ways: ways end there
    assert flat.ways.max() == 30
    assert stats.chisquare(np.bincount(flat.ways - 5, minlength=26)).pvalue > 1e-4
    assert flat.ways.mean() == pytest.approx((5 + 30) / 2, abs=4 * flat.ways.std() / math.sqrt(EPISODES))


def test_every_class_is_as_likely_as_its_groups_make_it():
    """M8: a class is in an episode with the mean ways of its group over its size, over the number of groups."""
    groups = [g for g, size in enumerate(ALPHABETS["train"]) for _ in range(size)]
    block = drawn(class_index([20] * 883, groups), hierarchy="groups")
    used = np.arange(block.positions.shape[1]) < block.ways[:, None]
    seen = np.bincount(block.positions[used], minlength=883)
    sizes = np.array(ALPHABETS["train"])
    share = ((5 + np.minimum(50, sizes)) / 2 / sizes / 25)[groups]
    tested = [stats.binomtest(int(n), EPISODES, p).pvalue for n, p in zip(seen, share, strict=True)]
    assert min(tested) > 1e-3 / 883


def test_every_class_is_as_likely_as_its_nodes_make_it():
    block = drawn(tree(list(TREE)), hierarchy="graph")
    used = np.arange(block.positions.shape[1]) < block.ways[:, None]
    seen = np.bincount(block.positions[used], minlength=60)
    share = [np.mean([min(50, len(span)) / len(span) if c in span else 0.0 for span in SPANS]) for c in range(60)]
    tested = [stats.binomtest(int(n), EPISODES, p).pvalue for n, p in zip(seen, share, strict=True)]
    assert min(tested) > 1e-3 / 60
