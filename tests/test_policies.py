"""Policies over classes: meta-batches, passes, base + novel, overlap, hierarchy, exhaustive sets, drawers, mixtures."""

import itertools
import math
import pickle

import numpy as np
import pytest
import real_data
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from worlds import class_index, memory_store

import episodes
from episodes import plugins, pools
from episodes.config import from_table
from episodes.distance import coarsity, delta, distances
from episodes.errors import EpisodesError, SpecError
from episodes.sampling import (
    all_supports,
    combinations,
    drawers,
    each_row_once,
    generalized,
    leave_one_out,
    meta_batch,
    novelty,
    passes,
    spread,
    tempered,
    under_node,
)
from episodes.sampling import coarsity as window
from episodes.spec import EpisodeSpec
from episodes.splitting import by_roots, split_classes
from episodes.store.memory import MemoryStore
from episodes.stream.mixture import MixedEpisodes
from episodes.testing import check_plan, check_sampler

SPEC = EpisodeSpec(ways=4, shots=2, queries=3)
# Two kingdoms, each of two families of three genera: 12 leaves.
TREE = [
    *(("life", k) for k in ("plants", "animals")),
    *((k, f"{k}{f}") for k in ("plants", "animals") for f in "ab"),
    *((f"{k}{f}", f"{k}{f}{g}") for k in ("plants", "animals") for f in "ab" for g in "123"),
]
LEAVES = sorted(child for _, child in TREE if child[-1].isdigit())


def tree_classes(rows=20):
    store = MemoryStore(
        {"x": np.zeros((12 * rows, 1))}, dict.fromkeys(LEAVES, rows), splits={"s": {"train": LEAVES}}, is_a=TREE
    )
    return store.split("train")


CASES = {
    "uniform": ({}, class_index([20] * 12, [c // 4 for c in range(12)]), SPEC),
    "hierarchical": ({}, class_index([20] * 12, [c // 6 for c in range(12)]), SPEC),
    "meta_dataset": ({"max_ways": 9}, class_index([20] * 12), EpisodeSpec(ways="variable", shots="variable", queries=2)),
    "meta_batch": ({"batch": 3, "share": 2}, class_index([20] * 12), SPEC),
    "passes": ({}, class_index([20] * 12), SPEC),
    "under_node": ({"max_span": 12}, tree_classes(), SPEC),
    "spread": ({}, tree_classes(), EpisodeSpec(ways=2, shots=2, queries=3)),
    "tempered": ({"t": 3.0}, tree_classes(), SPEC),
    "coarsity": ({"low": 2.0}, tree_classes(), SPEC),
    "combinations": ({}, class_index([20] * 12), SPEC),
    "novelty": ({"fraction": 1.0}, class_index([20] * 12), SPEC),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_policy_keeps_the_laws(name):
    options, classes, spec = CASES[name]
    module = plugins.find(plugins.SAMPLERS, name)
    check_sampler(
        module.make(from_table(module.Options, options)),
        classes,
        spec,
        episodes=12,
        prefix_stable=name not in ("meta_dataset", "passes"),
    )


def test_every_policy_is_listed_with_options_that_are_explained():
    known = {
        *CASES,
        "frozen",
        "generalized",
        "leave_one_out",
        "each_row_once",
        "all_supports",
        "drawers",
        "self_supervised",
    }
    assert set(plugins.names(plugins.SAMPLERS)) >= known
    for name in known:
        for option in plugins.find(plugins.SAMPLERS, name).Options.__dataclass_fields__.values():
            assert option.metadata["help"], (name, option.name)


@pytest.mark.parametrize("share", [0, 2, 4])
def test_a_meta_batch_shares_exactly_as_many_classes(share):
    sampler = meta_batch.make(meta_batch.Options(batch=3, share=share))
    classes = class_index([20] * 30)
    sampler.require(classes, SPEC)
    labels = set()
    for b in range(40):
        sets = [set(sampler.plan(classes, SPEC, 1, 3 * b + e).class_ids.tolist()) for e in range(3)]
        core = set.intersection(*sets)
        assert len(core) == share
        assert all(one & two == core for one, two in itertools.combinations(sets, 2))
        labels |= {
            tuple(sampler.plan(classes, SPEC, 1, 3 * b + e).class_ids.tolist().index(c) for c in core) for e in (0, 1)
        }
    assert share == 0 or len(labels) > 1, "a shared class does not keep its label"


def test_a_meta_batch_may_share_no_row():
    sampler = meta_batch.make(meta_batch.Options(batch=4, share=4, rows_disjoint=True, fixed_labels=True))
    classes = class_index([20] * 9)
    sampler.require(classes, SPEC)
    plans = [sampler.plan(classes, SPEC, 1, i) for i in range(4)]
    assert len({p.class_ids.tobytes() for p in plans}) == 1
    rows = [row for p in plans for row in (*p.support.tolist(), *p.query.tolist())]
    assert len(set(rows)) == len(rows) == 4 * 20
    with pytest.raises(SpecError, match="has 20 rows; rows_disjoint over batch=5 needs 25"):
        meta_batch.make(meta_batch.Options(batch=5, share=4, rows_disjoint=True)).require(classes, SPEC)
    with pytest.raises(SpecError, match="need 20 different classes; split 'world/train' has 9"):
        meta_batch.make(meta_batch.Options(batch=5)).require(classes, SPEC)


@pytest.mark.parametrize(("sizes", "spec", "low", "high"), [
    ([20] * 10, EpisodeSpec(ways=5, shots=1, queries=5), 5, 6),
    ([600] * 64, EpisodeSpec(ways=5, shots=5, queries=15), 380, 384),
])  # fmt: skip
def test_a_pass_uses_every_row_once_at_most(sizes, spec, low, high):
    sampler, classes = passes.make(passes.Options()), class_index(sizes)
    first = [i for i in range(high + 1) if sampler.where(classes, spec, 3, i)[0] == 0]
    assert low <= len(first) <= high
    rows = [r for i in first for p in [sampler.plan(classes, spec, 3, i)] for r in (*p.support.tolist(), *p.query.tolist())]
    assert len(set(rows)) == len(rows)
    later = len(first) + 2
    again = pickle.loads(pickle.dumps(sampler)).plan(classes, spec, 3, later)  # without what the first one remembers
    assert again.query.tolist() == sampler.plan(classes, spec, 3, later).query.tolist()
    assert sampler.where(classes, spec, 3, later) == (1, 2)


def joined_classes():
    world = class_index([20] * 16)
    base = pools.partition(world.select(np.arange(10)), 0.6, 1)
    return pools.joined(base, world.select(np.arange(10, 16)))


def test_base_and_novel_classes_share_a_label_space():
    classes = joined_classes()
    sampler = generalized.make(generalized.Options(base_ways=6, base_shots=2))
    spec = EpisodeSpec(ways=3, shots=1, queries=4)
    sampler.require(classes, spec)
    training = {int(r) for p in range(10) for r in classes.rows(p)[: classes.front[p]]}
    for i in range(50):
        plan = sampler.plan(classes, spec, 2, i)
        assert plan.class_ids[:6].tolist() == sorted(plan.class_ids[:6].tolist())
        assert plan.class_ids[:6].max() < 10 <= plan.class_ids[6:].min()
        assert plan.counts(plan.support_labels) == [2] * 6 + [1] * 3
        base_support, base_query = plan.support[plan.support_labels < 6], plan.query[plan.query_labels < 6]
        assert set(base_support.tolist()) <= training
        assert not set(base_query.tolist()) & training
        assert not set(plan.support.tolist()) & set(plan.query.tolist())
    with pytest.raises(SpecError, match="has no base classes; join some with base=train"):
        sampler.require(class_index([20] * 9), spec)
    with pytest.raises(SpecError, match="base class 'class00' has 8 held-out rows"):
        sampler.require(classes, EpisodeSpec(ways=3, shots=1, queries=9))


@given(st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_overlaps_are_nested_and_share_no_row(seed, one, two):
    world = class_index([20] * 30)
    train, test = world.select(np.arange(20)), world.select(np.arange(20, 30))
    seen = []
    for fraction in sorted((one, two)):
        training, testing, realised = pools.overlapped(train, test, fraction, seed)
        shared = set(training.ids.tolist()) & set(testing.ids.tolist())
        assert realised == len(shared) / 10 == math.floor(fraction * 10 + 0.5) / 10
        rows = [{int(r) for p in range(len(c)) for r in c.rows(p)} for c in (training, testing)]
        assert not rows[0] & rows[1]
        assert {int(c) for c in testing.ids[testing.seen]} == shared
        seen.append(shared)
    assert seen[0] <= seen[1]


def test_overlap_and_base_are_reached_by_selection():
    store = memory_store([20] * 20, num_train=12)
    test = episodes.Selection(split="test", overlap=0.5, overlap_with="train").classes(store)
    train = episodes.Selection(split="train", overlap=0.5, overlap_with="test").classes(store)
    assert (len(train), len(test), int(test.seen.sum())) == (16, 8, 4)
    sampler = novelty.make(novelty.Options(fraction=0.5))
    sampler.require(test, SPEC)
    for i in range(30):
        plan = sampler.plan(test, SPEC, 0, i)
        check_plan(plan, test, SPEC)
        assert len(set(plan.class_ids.tolist()) & set(train.ids.tolist())) == 2
    with pytest.raises(SpecError, match=r"fraction=0.0 of 5 ways needs 5 seen classes; split .* has 4"):
        novelty.make(novelty.Options(fraction=0.0)).require(test, EpisodeSpec(ways=5, shots=1, queries=1))
    joined = episodes.Selection(split="test", base="train", labeled=0.5).classes(store)
    assert int(joined.seen.sum()) == 12


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({"overlap": 1.5, "overlap_with": "test"}, "overlap=1.5 is not a share"),
        ({"overlap": float("nan"), "overlap_with": "test"}, "overlap=nan is not a share"),
        ({"overlap": 0.5}, "overlap=0.5 and overlap_with=None go together"),
        ({"overlap": 0.5, "overlap_with": "train"}, "one of the two must be a training split"),
        ({"labeled": 1.2}, "labeled=1.2 is not a share"),
        ({"labeled": float("nan")}, "labeled=nan is not a share"),
        ({"min_rows": 99}, "min_rows=99 leaves no class"),
        ({"rows": "front", "labeled": 0.0}, "has no row in its front pool"),
        ({"base": "test"}, "need rows kept from meta-training"),
        ({"base": "train", "labeled": 0.5}, "is in 'world/train' and in 'world/train'"),
    ],
)
def test_selections_that_cannot_be_are_refused(settings_, words):
    with pytest.raises(SpecError, match=words):
        episodes.Selection(**{"split": "train", **settings_}).classes(memory_store([20] * 20, num_train=12))


def test_small_classes_are_left_out_with_a_warning():
    store = memory_store([20, 3] * 8)
    with pytest.warns(UserWarning, match="min_rows=10 leaves out 8 classes of split 'world/train': class01, class03"):
        classes = episodes.Selection(min_rows=10).classes(store)
    with pytest.raises(SpecError, match="ways=9 needs 9 classes; .* has 8, 8 more were left out by min_rows"):
        EpisodeSpec(ways=9, shots=1, queries=1).require(classes)


def test_labeled_rows_that_are_too_few_are_named():
    classes = pools.partition(class_index([20] * 9), 0.1)
    with pytest.raises(SpecError, match=r"class 'class00' has 2 labeled rows.*shots \+ queries needs 5"):
        EpisodeSpec(ways=3, shots=1, queries=4).require(classes)
    with pytest.raises(SpecError, match="class 'class00' has 18 unlabeled rows"):
        EpisodeSpec(ways=3, shots=1, queries=1, unlabeled=19).require(classes)


def test_fine_and_coarse_episodes():
    classes, spec = tree_classes(), EpisodeSpec(ways=3, shots=1, queries=1)
    table = distances("lca_span", classes)
    fine = under_node.make(under_node.Options(min_span=3, max_span=3))
    fine.require(classes, spec)
    one = [coarsity(table, np.searchsorted(classes.ids, fine.plan(classes, spec, 0, i).class_ids)) for i in range(200)]
    assert set(one) == {math.log2(3) ** 2}
    families = [classes.names[fine.plan(classes, spec, 0, i).class_ids[0]][:-1] for i in range(2000)]
    assert stats.chisquare(np.unique(families, return_counts=True)[1]).pvalue > 1e-4
    pair = EpisodeSpec(ways=2, shots=1, queries=1)
    coarse = spread.make(spread.Options(node="life"))
    coarse.require(classes, pair)
    for i in range(50):
        names = [classes.names[c] for c in coarse.plan(classes, pair, 0, i).class_ids]
        assert {name[:-2] for name in names} == {"plants", "animals"}
    near, far = (
        np.mean([
            coarsity(table, sampler.plan(classes, spec, 0, i).class_ids) for i in range(300)
        ])
        for sampler in (tempered.make(tempered.Options(t=8.0)), tempered.make(tempered.Options(t=-8.0)))
    )  # fmt: skip
    flat = np.mean(
        [coarsity(table, tempered.make(tempered.Options(t=0.0)).plan(classes, spec, 0, i).class_ids) for i in range(300)]
    )
    assert near < 0.8 * flat < flat < far
    narrow = window.make(window.Options(low=9.0, high=13.0))
    narrow.require(classes, spec)
    assert all(9 <= coarsity(table, narrow.plan(classes, spec, 0, i).class_ids) <= 13 for i in range(50))
    with pytest.raises(SpecError, match=r"no coarsity in 50..60 in 10000 tries; seen were"):
        window.make(window.Options(low=50.0, high=60.0)).require(classes, spec)
    with pytest.raises(SpecError, match="no node of the hierarchy spans 7..10 classes"):
        under_node.make(under_node.Options(max_span=10)).require(classes, EpisodeSpec(ways=7, shots=1, queries=1))
    with pytest.raises(SpecError, match="node='lief' is no node; did you mean 'life'"):
        spread.make(spread.Options(node="lief")).require(classes, pair)


def test_the_graph_episodes_of_meta_dataset_are_all_classes_of_a_node():
    classes = tree_classes()
    sampler = plugins.find(plugins.SAMPLERS, "meta-dataset")
    options = sampler.Options(hierarchy="graph", min_ways=3, max_ways=6)
    spec = EpisodeSpec(ways="variable", shots="variable", queries="variable")
    graph = classes.graph
    eligible = [frozenset(graph.span(n).tolist()) for n in graph.eligible(3, 392)]
    assert len(eligible) == 7
    made = sampler.make(options)
    sets = [frozenset(made.plan(classes, spec, 0, i).class_ids.tolist()) for i in range(3000)]
    assert all(one in eligible or any(len(e) >= 6 and len(one) == 6 and one <= e for e in eligible) for one in sets)
    triples = sum(len(one) == 3 for one in sets)
    assert stats.binomtest(triples, 3000, 4 / 7).pvalue > 1e-4


def test_real_classes_lie_further_apart_the_further_they_are_split():
    from test_reader_folder import listing

    from episodes.graph import SamplingGraph, read_is_a

    source = real_data.tiny_imagenet()
    names = sorted({s.class_name for s in listing(source, size=8).samples})
    pairs = read_is_a(source.with_name("is_a.csv"))
    store = MemoryStore({"x": np.zeros((200, 1))}, dict.fromkeys(names, 2), splits={"s": {"all": names}}, is_a=pairs)
    classes = store.split("all")
    graph = SamplingGraph.build(pairs, names)
    sizes = np.diff(graph.offsets)
    assert (len(graph.names), sizes.max(), len(graph.eligible(5, 392))) == (58, 100, 27)
    table = distances("lca_span", classes)
    place = {name: p for p, name in enumerate(names)}
    found = []
    for how in ("near", "random", "far"):
        parts = split_classes(how, graph, (0.8, 0.0, 0.2), 0)
        assert {part: len(members) for part, members in parts.items()} == {"train": 80, "test": 20}
        found.append(delta(table, *(np.array([place[n] for n in parts[p]]) for p in ("train", "test"))))
    assert found[0] < found[1] < found[2]


def test_splits_by_roots_share_no_class():
    parts = by_roots(tree_classes().graph, "plantsa", "animals")
    assert {part: len(members) for part, members in parts.items()} == {"train": 3, "val": 3, "test": 6}
    with pytest.raises(SpecError, match="node 'plnts' is not in the hierarchy; did you mean 'plants'"):
        by_roots(tree_classes().graph, "plnts", "animals")


@given(st.integers(1, 60), st.data())
@settings(max_examples=200, deadline=None)
def test_combinations_count_up(n, data):
    k = data.draw(st.integers(0, n))
    index = data.draw(st.integers(0, math.comb(n, k) - 1))
    members = combinations.combination(index, n, k)
    assert members == sorted(set(members))
    assert len(members) == k
    before = sum(
        math.comb(n - 1 - c, k - 1 - j) for j, m in enumerate(members) for c in range(members[j - 1] + 1 if j else 0, m)
    )
    assert before == index


def test_exhaustive_sets_are_whole():
    classes, spec = class_index([4] * 6), EpisodeSpec(ways=3, shots=1, queries=1)
    every = combinations.make(combinations.Options())
    sets = {frozenset(every.plan(classes, spec, 0, i).class_ids.tolist()) for i in range(every.length(classes, spec))}
    assert len(sets) == 20

    one_out = leave_one_out.make(leave_one_out.Options())
    loo = EpisodeSpec(ways=3, shots="variable", queries=1)
    one_out.require(classes, loo)
    plans = [one_out.plan(classes, loo, 0, i) for i in range(one_out.length(classes, loo))]
    asked = [int(p.query[0]) for p in plans]
    assert len(set(asked)) == len(asked) == 12
    assert all(len(p.support) == 11 and p.query[0] not in p.support for p in plans)

    supports = all_supports.make(all_supports.Options())
    two = EpisodeSpec(ways=2, shots=2, queries=1)
    supports.require(classes, two)
    found = {supports.plan(classes, two, 0, i).support.tobytes() for i in range(supports.length(classes, two))}
    assert len(found) == 36
    with pytest.raises(SpecError, match="have .* supports; at most 1000000"):
        supports.require(class_index([30] * 9), EpisodeSpec(ways=5, shots=5, queries=1))


@given(st.lists(st.integers(3, 11), min_size=4, max_size=9), st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_each_row_is_a_query_once(sizes, ways, queries):
    classes, spec = class_index([n + 2 for n in sizes]), EpisodeSpec(ways=ways, shots=2, queries=queries)
    sampler = each_row_once.make(each_row_once.Options())
    sampler.require(classes, spec)
    plans = [sampler.plan(classes, spec, 5, i) for i in range(sampler.length(classes, spec))]
    asked = [row for p in plans for row in p.query.tolist()]
    assert sorted(asked) == list(range(classes.num_rows))
    assert all(not set(p.query.tolist()) & set(p.support.tolist()) for p in plans)
    blocks = [-(-n // queries) for n in classes.counts.tolist()]
    assert len(plans) == max(max(blocks), -(-sum(blocks) // ways)), "no shorter list exists"


def test_drawers_of_support_and_query_are_different_people(omniglot_store):
    store = episodes.open(omniglot_store)
    series = episodes.sample(store, "lake/test", EpisodeSpec(ways=20, shots=1, queries=1), sampler="drawers")
    who = series.classes.column("drawer")
    for i in range(30):
        plan = series.plan(i)
        assert len({series.classes.groups[np.searchsorted(series.classes.ids, c)] for c in plan.class_ids}) == 1
        assert [len(set(who[rows].tolist())) for rows in (plan.support, plan.query)] == [1, 1]
        assert who[plan.support[0]] != who[plan.query[0]]
    with pytest.raises(SpecError, match="shots \\+ queries needs 21 drawers; every class has 20"):
        drawers.make(drawers.Options()).require(series.classes, EpisodeSpec(ways=20, shots=1, queries=20))
    with pytest.raises(SpecError, match="the store has no field 'draw' .* did you mean 'drawer'"):
        drawers.make(drawers.Options(column="draw")).require(series.classes, EpisodeSpec(ways=20, shots=1, queries=1))


def test_the_published_runs_are_found_again(omniglot_store):
    from episodes.omniglot_runs import published_runs

    store = episodes.open(omniglot_store)
    runs = published_runs(real_data.omniglot() / "all_runs.zip", store)
    classes = store.split("lake/test")
    assert len(runs) == 20
    who = classes.column("drawer")
    for plan in runs:
        check_plan(plan, classes, EpisodeSpec(ways=20, shots=1, queries=1))
        assert [len(set(who[rows].tolist())) for rows in (plan.support, plan.query)] == [1, 1]
        assert who[plan.support[0]] != who[plan.query[0]]
    alphabets = [classes.group_names[classes.groups[np.searchsorted(classes.ids, p.class_ids[0])]] for p in runs]
    assert np.unique(alphabets, return_counts=True)[1].tolist() == [2] * 10


def test_a_mixture_draws_sources_by_weight_and_leaves_their_episodes_alone():
    stores = {name: memory_store([20] * n) for name, n in (("one", 12), ("two", 16), ("three", 20))}
    series = {name: episodes.sample(store, "train", SPEC, seed=7) for name, store in stores.items()}
    mixed = MixedEpisodes(sources=series, weights={"one": 2, "two": 1, "three": 1}, seed=1)
    names = [mixed.source(i) for i in range(4000)]
    counts = [names.count(name) for name in series]
    assert stats.chisquare(counts, [2000, 1000, 1000]).pvalue > 1e-4
    for i in (0, 5, 99):
        assert np.array_equal(mixed[i].query.rows, series[mixed.source(i)][i].query.rows)
    taken = [e.index for e in itertools.islice(episodes.Stream(mixed), 5)]
    assert taken == [0, 1, 2, 3, 4]
    wrong = [({"four": 1}, "'four', which is no source"), ({"one": -1}, "numbers of 0 or more"), ({"one": 0}, "above 0")]
    for weights, words in wrong:
        with pytest.raises(SpecError, match=words):
            MixedEpisodes(sources=series, weights=weights)
    with pytest.raises(EpisodesError, match="needs one source"):
        MixedEpisodes(sources={})
