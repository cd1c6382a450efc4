"""Laws of episodes over every policy and every kind of spec: forms of counts, pools of rows, base + novel, distractors.

A case is what a user may write: a selection of a store, a spec, a policy with options. What a policy refuses is passed
over; what it accepts must keep the laws.
"""

import dataclasses
import functools
import itertools
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from test_engine import counts

import episodes
from episodes import frozen, plugins
from episodes.config import from_table
from episodes.errors import EpisodesError, SpecError
from episodes.spec import COUNTS, EpisodeSpec
from episodes.store.memory import MemoryStore
from episodes.stream.series import SampledEpisodes

NAMES = [f"{kingdom}{family}{c}" for kingdom in "pq" for family in "ab" for c in "012345"]  # 24 classes, 4 groups
IS_A = [
    *(("life", kingdom) for kingdom in "pq"),
    *((kingdom, kingdom + family) for kingdom in "pq" for family in "ab"),
    *((name[:2], name) for name in NAMES),
]
SPLITS = {"w": {"train": NAMES[:9] + NAMES[12:18], "test": NAMES[9:12] + NAMES[18:]}}


def world(sizes):
    """A store of classes of these sizes: drawings with who drew them, groups and a hierarchy."""
    rows = sum(sizes)
    drawer = np.concatenate([np.arange(n) for n in sizes])
    return MemoryStore(
        {"image": np.arange(rows, dtype=np.int32).reshape(-1, 1, 1), "drawer": drawer},
        dict(zip(NAMES, sizes, strict=True)),
        groups={name: name[:2] for name in NAMES},
        splits=SPLITS,
        is_a=IS_A,
    )


EQUAL, UNEQUAL = world([24] * 24), world([24 + (7 * c) % 13 for c in range(24)])
SELECTIONS = {
    "plain": st.sampled_from(["all", "train", "test"]).map(lambda split: {"split": split}),
    "turned": st.just({"split": "train", "rotations": True}),
    "labeled": st.sampled_from([0.5, 0.4]).map(lambda share: {"split": "all", "labeled": share, "labeled_seed": 3}),
    "front": st.sampled_from(["front", "back"]).map(lambda rows: {"split": "all", "labeled": 0.5, "rows": rows}),
    "turned and labeled": st.just({"split": "train", "labeled": 0.5, "rotations": True}),
    "base": st.just({"split": "test", "base": "train", "labeled": 0.5}),
    "overlap": st.sampled_from([0.4, 0.8]).map(lambda o: {"split": "test", "overlap": o, "overlap_with": "train"}),
}


def some(**options):
    """Tables that have some of these options."""
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in options.items()})


OPTIONS = {
    "uniform": some(hold=[1, 3], variants_exclusive=[True, False]),
    "hierarchical": some(hold=[1, 2]),
    "meta_dataset": some(
        hierarchy=["flat", "groups", "graph"], ignore_hierarchy=[0.5], min_ways=[1, 2, 3], max_ways=[5, 6], max_queries=[3],
        max_support=[12, 100], max_contribution=[4], all_classes=[True], hold=[2],
    ),
    "meta_batch": some(batch=[2, 3], share=[0, 1, 2], rows_disjoint=[True], fixed_labels=[True]),
    "passes": some(),
    "generalized": some(base_ways=[1, 4], base_shots=[0, 2]),
    "novelty": some(fraction=[0.0, 0.5, 1.0]),
    "under_node": some(hierarchy=["graph", "groups"], min_span=[2, 6], max_span=[6, 24], by=["node", "leaf"]),
    "spread": some(hierarchy=["graph", "groups"]),
    "tempered": some(t=[-5.0, 0.0, 5.0], distance=["lca_span", "path", "groups"]),
    "coarsity": some(low=[0.0, 1.0], distance=["lca_span", "groups"]),
    "combinations": some(),
    "leave_one_out": some(draw=[0, 2]),
    "each_row_once": some(),
    "all_supports": some(draw=[0, 1]),
    "drawers": some(),
    "self_supervised": some(probability=[0.0, 0.5], of=["uniform", "hierarchical", "novelty"]),
}  # fmt: skip
FIXED = ("passes", "generalized", "each_row_once", "all_supports", "drawers")
MOVES_SUPPORT = ("passes", "each_row_once", "leave_one_out")  # queries decide which rows are used up


@st.composite
def specs(draw, policy):
    """Tables of specs, in forms that the policy knows."""
    if policy == "leave_one_out":
        return {"ways": draw(st.integers(1, 4)), "shots": draw(st.sampled_from(["variable", 1, 4])), "queries": 1}
    if policy in FIXED:
        most = 2 if policy == "all_supports" else 4
        return {
            "ways": draw(st.integers(1, 4)),
            "shots": draw(st.integers(0, most)),
            "queries": draw(st.integers(1, 4)),
        } | ({"unlabeled": draw(st.integers(0, 2))} if policy == "passes" else {})
    least = 2 if policy in ("coarsity", "meta_dataset") else 1
    ways = st.one_of(st.integers(least, 4), st.sampled_from(["2..4", "2..6"]), st.just({2: 0.5, 4: 0.5}))
    if policy in ("combinations", "meta_batch"):
        ways = st.integers(least, 4)
    table = {"ways": draw(ways)}
    lists = table["ways"] if isinstance(table["ways"], int) else 0
    table["shots"] = draw(counts(0, 4, lists))
    table["queries"] = draw(st.one_of(counts(1, 3, lists), st.sampled_from(["all", "total(24)"])))
    if policy == "meta_dataset":
        table["ways"] = draw(st.one_of(st.just("variable"), ways))
        table["shots"] = draw(st.one_of(st.just("variable"), counts(1, 4)))
        table["queries"] = draw(st.one_of(st.just("variable"), counts(1, 3)))
    if draw(st.booleans()):
        table["unlabeled"] = draw(counts(0, 3, lists))
    if draw(st.booleans()):
        table |= {"distractors": draw(counts(0, 2)), "distractor_rows": draw(counts(1, 2))}
        table["distractor_queries"] = draw(counts(0, 2))
        table["distractor_groups"] = draw(st.sampled_from(["any", "same", "other"]))
    return table


@st.composite
def cases(draw, policy):
    """(store, selection, spec table, options) that the policy accepts."""
    kinds = {"generalized": ["base"], "novelty": ["overlap", "plain"]}.get(policy, sorted(SELECTIONS))
    kind = draw(st.sampled_from(kinds))
    selection = episodes.Selection(**draw(SELECTIONS[kind]))
    store = draw(st.sampled_from([EQUAL, UNEQUAL]))
    table, options = draw(specs(policy)), draw(OPTIONS[policy])
    try:
        series = made(policy, store, selection, table, options, draw(st.integers(0, 2**64 - 1)))
    except EpisodesError as error:
        event(f"refused: {str(error)[:60]}")
        assume(False)
    event(f"{kind}{', distractors' * (series.spec.distractors.high > 0)}")
    return series, table


def made(policy, store, selection, table, options, seed):
    """The series, where the warning that a range of ways is cut is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        module = plugins.find(plugins.SAMPLERS, policy)
        sampler, classes = module.make(from_table(module.Options, options)), selected(store, selection)
        return SampledEpisodes(store=store, classes=classes, spec=EpisodeSpec(**table), sampler=sampler, seed=seed)


@functools.cache
def selected(store, selection):
    """The classes, with the hierarchy above them built once."""
    return selection.classes(store)


def planned(series, index):
    """The plan, or None where the episode finds too few classes of the groups asked for as distractors."""
    try:
        return series.plan(index)
    except SpecError as error:
        if "finds only" in str(error) and series.spec.distractor_groups != "any":
            return None
        raise


def indices(series, count=4):
    """Some indices of a series."""
    top = 2**40 if series.length is None else series.length - 1
    if series.sampler.name == "passes":
        top = 30
    return st.lists(st.integers(0, top), min_size=1, max_size=count)


def same(one, two):
    if one is None or two is None:
        return one is two
    return all(np.array_equal(getattr(one, f.name), getattr(two, f.name)) for f in dataclasses.fields(one)
               if isinstance(getattr(one, f.name), np.ndarray)) and one.index == two.index  # fmt: skip


def law(examples, without=()):
    """A test of drawn cases of every policy, but for those that a law cannot be about."""

    def decorate(test):
        drawn = given(data=st.data())(test)
        drawn = settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))(drawn)
        return pytest.mark.parametrize("policy", sorted(set(OPTIONS) - set(without)))(drawn)

    return decorate


@law(60)
def test_classes_differ_rows_are_disjoint_and_of_their_class(policy, data):
    series, _ = data.draw(cases(policy))
    c = series.classes
    place = {pair: p for p, pair in enumerate(zip(c.ids.tolist(), c.variants.tolist(), strict=True))}
    rows_of = [set(c.rows(p).tolist()) for p in range(len(c))]
    front = [set(c.rows(p)[: c.labeled[p]].tolist()) for p in range(len(c))]
    for index in data.draw(indices(series)):
        if (plan := planned(series, index)) is None:
            continue
        if plan.query_views is not None:
            alone(plan, series)
            continue
        pairs = list(zip(plan.class_ids.tolist(), plan.variants.tolist(), strict=True))
        assert len(set(pairs)) == len(pairs) == plan.ways, "I1"
        positions = [place[pair] for pair in pairs]
        distracting = [p for p in range(len(c)) if c.ids[p] in plan.distractor_ids and p not in positions]
        assert c.variants.any() or not set(plan.distractor_ids.tolist()) & {one for one, _ in pairs}
        used = set()
        for part in ("support", "query", "unlabeled"):
            rows, labels = getattr(plan, part), getattr(plan, f"{part}_labels")
            assert len(rows) == len(labels)
            for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
                homes = [positions[label]] if label >= 0 else distracting
                assert any(row in rows_of[p] for p in homes), "I4"
                assert label < 0 or (row, label) not in used, "I2"
                used.add((row, label))
                if label >= 0 and c.labeled[homes[0]] < c.counts[homes[0]]:
                    seen = len(c.seen) > 0 and bool(c.seen[homes[0]])
                    apart = part == "unlabeled" or (part == "query" and seen)
                    assert (row in front[homes[0]]) != apart, "labeled and unlabeled, training and held-out rows are apart"
            if part != "unlabeled":
                assert (np.diff(np.where(labels < 0, plan.ways, labels)) >= 0).all(), "I6: class by class"
        counted(plan, series)


def alone(plan, series):
    """Laws of an episode whose classes are its support rows."""
    c, support = series.classes, plan.support.tolist()
    place = {pair: p for p, pair in enumerate(zip(c.ids.tolist(), c.variants.tolist(), strict=True))}
    pairs = list(zip(plan.class_ids.tolist(), plan.variants.tolist(), strict=True))
    assert plan.support_labels.tolist() == list(range(plan.ways)) == list(range(len(support)))
    assert len(set(zip(support, plan.variants.tolist(), strict=True))) == plan.ways, "I2"
    assert all(row in c.rows(place[pair]) for row, pair in zip(support, pairs, strict=True)), "I4"
    assert plan.query.tolist() == [support[label] for label in plan.query_labels.tolist()]
    assert (np.diff(plan.query_labels) > 0).all(), "I6: class by class, and each row asked for once"
    before = series.sampler.inner.plan(c, series.spec, series.seed, plan.index)
    shots, queries = before.counts(before.support_labels), before.counts(before.query_labels)
    assert len(plan.query) == sum(map(min, shots, queries))
    counted(before, series)


def counted(plan, series):
    """Counts are as the spec has them."""
    spec, seen = series.spec, series.classes.seen
    if series.sampler.name in ("each_row_once", "leave_one_out", "generalized"):
        return
    assert len(plan.support_labels[plan.support_labels < 0]) == 0
    if spec.queries.kind == "total":
        assert len(plan.support) + (plan.query_labels >= 0).sum() == 24
    if spec.ways.kind != "variable":
        assert spec.ways.low <= plan.ways <= spec.ways.high
    for name, labels in (
        ("shots", plan.support_labels),
        ("queries", plan.query_labels),
        ("unlabeled", plan.unlabeled_labels),
    ):
        count, found = getattr(spec, name), plan.counts(labels)
        if count.kind in ("range", "weights"):
            assert all(count.low <= n <= count.high for n in found)
            assert count.per_class or len(set(found)) == 1, "one draw for all classes"
        elif count.dealt:
            dealt = list(count.of_ways(plan.ways))
            assert (sorted(found) == sorted(dealt)) if count.permuted else found == dealt
    if spec.queries.kind == "all" and not len(seen) and not spec.distractors.high:
        free = sum(n for n in plan.counts(plan.query_labels))
        assert free > 0
    assert spec.distractors.low <= len(plan.distractor_ids) <= spec.distractors.high


@law(25)
def test_a_plan_is_pure_under_any_order_of_access(policy, data):
    series, _ = data.draw(cases(policy))
    wanted = data.draw(indices(series, 6))
    first = {index: planned(series, index) for index in wanted}
    again = dataclasses.replace(series, sampler=pickle.loads(pickle.dumps(series.sampler)))
    other = dataclasses.replace(series, seed=(series.seed + 1) % 2**64)
    for index in data.draw(st.permutations(wanted)):
        planned(other, index)
        assert same(planned(again, index), first[index])
        assert same(planned(series, index), first[index])


def raised(table):
    """The spec with one query more of each class."""
    value = table["queries"]
    if isinstance(value, int):
        return table | {"queries": value + 1}
    if isinstance(value, dict):
        return table | {"queries": {k + 1: w for k, w in value.items()}}
    if isinstance(value, list):
        return table | {"queries": [k + 1 for k in value]}
    if ".." in value:
        low, _, high = value.removesuffix(" per class").partition("..")
        return table | {"queries": f"{int(low) + 1}..{int(high) + 1}{' per class' * ('per' in value)}"}
    return None


@law(40, without=MOVES_SUPPORT)
def test_more_queries_leave_the_support_as_it_was(policy, data):
    series, table = data.draw(cases(policy))
    assume((more := raised(table)) is not None)
    assume(not (policy == "meta_dataset" and table["shots"] == "variable"))
    assume(not getattr(getattr(series.sampler, "options", None), "rows_disjoint", False))  # rows are cut up by size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            grown = dataclasses.replace(series, spec=EpisodeSpec(**more), length=None)
    except EpisodesError:
        assume(False)
    for index in data.draw(indices(series)):
        if (one := planned(series, index)) is None:
            continue
        two = planned(grown, index)
        for name in ("class_ids", "variants", "support", "support_labels", "distractor_ids"):
            assert np.array_equal(getattr(one, name), getattr(two, name)), name
        mine = [row for row, label in zip(one.query.tolist(), one.query_labels.tolist(), strict=True) if label >= 0]
        assert policy == "meta_batch" or set(mine) <= set(two.query.tolist()), "and the queries that were"


@law(40, without=(*FIXED, "leave_one_out", "self_supervised"))
def test_added_distractors_leave_everything_else_as_it_was(policy, data):
    series, table = data.draw(cases(policy))
    plain = {name: value for name, value in table.items() if not name.startswith("distractor")}
    most = EpisodeSpec(**plain).ways.high
    added = {
        "distractors": data.draw(counts(1, 3)),
        "distractor_rows": data.draw(counts(1, 2)),
        "distractor_queries": data.draw(counts(0, 2)),
        "distractor_groups": data.draw(st.sampled_from(["any", "any", "same", "other"])),
    }
    assume(most + 3 <= len(series.classes))  # else ways end earlier, to leave classes for the distractors
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            without = dataclasses.replace(series, spec=EpisodeSpec(**plain), length=None)
            having = dataclasses.replace(series, spec=EpisodeSpec(**plain, **added), length=None)
    except EpisodesError:
        assume(False)
    for index in data.draw(indices(series)):
        if (two := planned(having, index)) is None:
            continue
        one = planned(without, index)
        for name in ("class_ids", "variants", "support", "support_labels"):
            assert np.array_equal(getattr(one, name), getattr(two, name)), name
        for part in ("query", "unlabeled"):
            known = getattr(two, f"{part}_labels") >= 0
            pairs = [
                list(zip(getattr(p, part)[keep].tolist(), getattr(p, f"{part}_labels")[keep].tolist(), strict=True))
                for p, keep in ((one, slice(None)), (two, known))
            ]
            assert pairs[0] == pairs[1] if part == "query" else sorted(pairs[0]) == sorted(pairs[1])
        assert 1 <= len(two.distractor_ids) <= 3


@law(15, without=("self_supervised",))  # which needs transforms; it has tests of its own
def test_ranks_share_a_series_as_a_partition(policy, data):
    series, _ = data.draw(cases(policy))
    length, world_size = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    assume(
        all(planned(series, i) is not None for i in range(length if series.length is None else min(length, series.length)))
    )
    series = dataclasses.replace(series, length=length)
    taken = [content(episodes.Stream(series, rank=rank, world=world_size)) for rank in range(world_size)]
    whole = content(episodes.Stream(series))
    assert [index for index, _, _ in whole] == list(range(series.length))
    assert sorted(itertools.chain(*taken)) == sorted(whole)
    assert all(one == whole[r::world_size] for r, one in enumerate(taken))


def content(stream):
    return [(episode.index, episode.support.rows.tobytes(), episode.query.rows.tobytes()) for episode in stream]


@law(25, without=("self_supervised",))  # which is refused
def test_a_frozen_list_comes_back_whole(policy, data, tmp_path_factory):
    series, _ = data.draw(cases(policy))
    top = 5 if series.length is None else min(5, series.length)
    plans = [plan for i in range(top) if (plan := planned(series, i)) is not None]
    path = tmp_path_factory.getbasetemp() / f"{policy}.jsonl"
    about = {"fingerprint": "f", "seed": series.seed, "source": "w", "keys": lambda rows: [str(r) for r in rows.tolist()]}
    if any(plan.query_turns is not None for plan in plans):
        with pytest.raises(SpecError, match="distractors that are quarter turns cannot be written down"):
            frozen.write(path, plans, **about, overwrite=True)
        return
    digest = frozen.write(path, plans, **about, overwrite=True)
    found = frozen.load(path, series.classes, "f", digest)
    written = path.read_bytes()
    for i, (one, two) in enumerate(zip(plans, found.plans, strict=True)):
        assert same(dataclasses.replace(one, index=i), two)
    assert frozen.write(path, found.plans, **about, overwrite=True) == digest
    assert path.read_bytes() == written


def test_every_policy_and_every_count_is_under_the_laws():
    assert {*OPTIONS, "frozen"} == set(plugins.names(plugins.SAMPLERS))
    assert set(COUNTS) == {"ways", "shots", "queries", "unlabeled", "distractors", "distractor_rows", "distractor_queries"}
