"""Every form of count, pools, partitions, distractors: kernels agree with their slow twin, and the laws hold."""

import dataclasses
import itertools

import numpy as np
import pytest
import twin
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import class_index

from episodes import pools, rng
from episodes.errors import SpecError
from episodes.sampling import hierarchical, meta_dataset, uniform
from episodes.spec import EpisodeSpec
from episodes.testing import check_plan

UNIFORM = uniform.make(uniform.Options())
GROUPS = hierarchical.make(hierarchical.Options())
words = st.integers(0, 2**64 - 1)


def counts(low, high, lists=None):
    """Texts of counts between two bounds; `lists`: how many numbers a list has."""
    pair = st.tuples(st.integers(low, high), st.integers(low, high)).map(sorted)
    ranges = pair.map(lambda p: f"{p[0]}..{p[1]}")
    weights = st.dictionaries(st.integers(low, high), st.floats(0.01, 1), min_size=1, max_size=3)
    forms = [st.integers(low, high), ranges, weights]
    if lists is not None:
        forms += [ranges.map(lambda text: f"{text} per class")]
        forms += [st.sampled_from([f"linear({high}, 3)", f"long-tail({high}, 2.5)", f"step({high}, 2, 0.4)"])]
    if lists:
        several = st.lists(st.integers(low, high), min_size=lists, max_size=lists)
        forms += [several, several.map(lambda values: f"{values} permuted")]
    return st.one_of(*forms)


@st.composite
def cases(draw):
    """Classes of two groups, perhaps parted, and a spec that they can serve."""
    ways = draw(st.one_of(st.integers(1, 5), st.just("2..5"), st.just({1: 0.5, 4: 0.5})))
    lists = ways if isinstance(ways, int) else 0
    spec = EpisodeSpec(
        ways=ways,
        shots=draw(counts(1, 4, lists)),
        queries=draw(st.one_of(counts(0, 4, lists), st.just("all"))),
        unlabeled=draw(st.one_of(st.just(0), counts(0, 4, lists))),
        **(
            {"distractors": draw(counts(0, 3)), "distractor_rows": draw(counts(1, 3)),
             "distractor_queries": draw(counts(0, 2)),
             "distractor_groups": draw(st.sampled_from(["any", "same", "other"]))}
            if draw(st.booleans())
            else {}
        ),
    )  # fmt: skip
    sizes = draw(st.lists(st.integers(24, 40), min_size=18, max_size=24))
    classes = class_index(sizes, [c % 2 for c in range(len(sizes))])
    if draw(st.booleans()):
        classes = pools.partition(classes, draw(st.sampled_from([0.5, 0.4, 1.0])), draw(st.integers(0, 9)))
    return classes, spec


@pytest.mark.parametrize("sampler", [UNIFORM, GROUPS], ids=lambda s: s.name)
@settings(max_examples=400, deadline=None)
@given(case=cases(), seed=words, index=st.integers(0, 2**63))
def test_every_form_agrees_with_its_slow_twin(sampler, case, seed, index):
    classes, spec = case
    sampler.require(classes, spec)
    groups = None if sampler is UNIFORM else [[c for c in range(len(classes)) if classes.groups[c] == g] for g in (0, 1)]
    positions, extra, support, query, hidden = twin.plan(sampler, classes, spec, seed, index, groups)
    if len(extra) < twin.number(spec.distractors, twin.Draws(sampler, classes, seed, index), rng.COUNTS, 4 * twin.SLOT):
        with pytest.raises(SpecError, match=f"episode {index} finds only {len(extra)} classes for its distractors"):
            sampler.plan(classes, spec, seed, index)
        return
    plan = sampler.plan(classes, spec, seed, index)
    check_plan(plan, classes, spec)
    assert plan.class_ids.tolist() == classes.ids[positions].tolist()
    assert plan.distractor_ids.tolist() == classes.ids[extra].tolist()
    assert plan.support.tolist() == list(itertools.chain(*support))
    assert plan.query.tolist() == list(itertools.chain(*query))
    assert list(zip(plan.unlabeled.tolist(), plan.unlabeled_labels.tolist(), strict=True)) == hidden


EDGES = [20, 63, 64, 65, 600, rng.SCRATCH - 1, rng.SCRATCH, rng.SCRATCH + 1, 10_000_000]


@settings(max_examples=100, deadline=None)
@given(counts=st.lists(st.sampled_from(EDGES), min_size=3, max_size=6), seed=words, index=words, one=st.booleans())
def test_classes_of_every_size_draw_as_the_slow_twin_does(counts, seed, index, one):
    classes, spec = class_index(counts), EpisodeSpec(ways=3, shots=7 if one else "2..9 per class", queries=6)
    block = UNIFORM.block(classes, spec, seed, np.array([index, index ^ 1], np.uint64))
    for plan in (*block, UNIFORM.plan(classes, spec, seed, index)):
        positions, _, support, query, _ = twin.plan(UNIFORM, classes, spec, seed, plan.index)
        assert plan.class_ids.tolist() == positions
        assert plan.support.tolist() == list(itertools.chain(*support))
        assert plan.query.tolist() == list(itertools.chain(*query))


@settings(max_examples=150, deadline=None)
@given(case=cases(), seed=words, first=st.integers(0, 2**40))
def test_a_block_is_its_single_plans_in_any_order(case, seed, first):
    classes, spec = case
    block = GROUPS.block(classes, spec, seed, np.arange(first, first + 7, dtype=np.uint64))
    for b in (3, 0, 6, 5):
        one, two = block.plan(b), GROUPS.plan(classes, spec, seed, first + b)
        for f in dataclasses.fields(one):
            a, c = getattr(one, f.name), getattr(two, f.name)
            assert np.array_equal(a, c) if isinstance(a, np.ndarray) else a == c, f.name


@settings(max_examples=150, deadline=None)
@given(case=cases(), seed=words, index=st.integers(0, 2**40))
def test_distractors_leave_everything_else_as_it_was(case, seed, index):
    classes, spec = case
    table = {**spec.to_table(), "unlabeled": 3, "queries": 2, "ways": 3, "shots": 2}
    plain = {k: v for k, v in table.items() if not k.startswith("distractor")}
    with_them = {**plain, "distractors": 2, "distractor_groups": spec.distractor_groups}
    one = GROUPS.plan(classes, EpisodeSpec(**plain), seed, index)
    two = GROUPS.plan(classes, EpisodeSpec(**with_them), seed, index)
    for name in ("class_ids", "support", "query"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    known = two.unlabeled_labels >= 0
    assert sorted(two.unlabeled[known].tolist()) == sorted(one.unlabeled.tolist())
    assert len(two.distractor_ids) == 2
    assert not set(two.distractor_ids.tolist()) & set(two.class_ids.tolist())


@settings(max_examples=150, deadline=None)
@given(seed=words, index=words, ways=st.integers(5, 9), most=st.integers(10, 40), p=st.sampled_from([0.0, 0.3, 1.0]))
def test_meta_dataset_agrees_with_its_slow_twin(seed, index, ways, most, p):
    sizes = np.random.Generator(np.random.PCG64(seed)).integers(2, 400, 60).tolist()
    classes = class_index(sizes, [c % 3 for c in range(60)])
    spec = EpisodeSpec(ways="variable", shots="variable", queries="variable")
    for hierarchy in ("flat", "groups"):
        options = meta_dataset.Options(hierarchy=hierarchy, min_ways=ways, max_ways=most, ignore_hierarchy=p)
        sampler = meta_dataset.make(options)
        sampler.require(classes, spec)
        groups = [[c for c in range(60) if c % 3 == g] for g in range(3)] if hierarchy == "groups" else None
        positions, k, q = twin.meta_dataset(sampler, classes, spec, seed, index, groups)
        plan = sampler.plan(classes, spec, seed, index)
        check_plan(plan, classes, spec)
        assert plan.class_ids.tolist() == positions
        assert (plan.counts(plan.support_labels), plan.counts(plan.query_labels)) == (k, q)


@settings(max_examples=100, deadline=None)
@given(seed=words, index=st.integers(0, 2**40), total=st.sampled_from([240, 600, 32]))
def test_fixed_totals_have_their_total(seed, index, total):
    spec = EpisodeSpec(ways="2..20", shots="1..9", queries=f"total({total})")
    classes = class_index([400] * 30)
    plan = UNIFORM.plan(classes, spec, seed, index)
    assert len(plan.support) + len(plan.query) == total
    assert total % plan.ways == 0
    assert len(set(plan.counts(plan.support_labels))) == 1


@pytest.mark.parametrize(
    ("shots", "expected"),
    [
        ("linear(20, 10)", [20, 16, 11, 7, 2]),
        ("long-tail(20, 10)", [20, 11, 6, 3, 2]),
        ("step(20, 10, 0.5)", [20] * 3 + [2] * 2),
    ],
)
def test_imbalanced_forms_deal_the_same_numbers_in_every_episode(shots, expected):
    spec, classes = EpisodeSpec(ways=5, shots=shots, queries=1), class_index([30] * 8)
    dealt = [UNIFORM.plan(classes, spec, 0, i) for i in range(200)]
    shots_of = [plan.counts(plan.support_labels) for plan in dealt]
    assert all(sorted(one, reverse=True) == expected for one in shots_of)
    assert len({one[0] for one in shots_of}) == len(set(expected)), "which class gets which is drawn"


def test_labeled_and_unlabeled_rows_are_apart():
    classes = pools.partition(class_index([20] * 12), 0.25, 1001)
    labeled = {int(row) for c in range(12) for row in classes.rows(c)[:5]}
    spec = EpisodeSpec(ways=5, shots=1, queries=4, unlabeled=5, distractors=5)
    for plan in UNIFORM.block(classes, spec, 1, np.arange(300, dtype=np.uint64)):
        assert set(plan.support.tolist()) | set(plan.query.tolist()) <= labeled
        assert not set(plan.unlabeled.tolist()) & labeled
        assert (len(plan.unlabeled), int((plan.unlabeled_labels < 0).sum())) == (50, 25)
        assert len(set(plan.unlabeled.tolist())) == 50


def test_published_sizes_of_semi_supervised_episodes():
    """Ren et al. 2018, Omniglot: 5 ways, 1 shot, all queries, 5 unlabeled rows of 5 classes and 5 distractors."""
    spec = EpisodeSpec(ways=5, shots=1, queries="all", unlabeled=5, distractors=5)
    omniglot = class_index([20] * 40)
    train = UNIFORM.plan(pools.partition(omniglot, 0.1, 0), spec, 0, 0)
    test = UNIFORM.plan(omniglot, spec, 0, 0)
    assert [len(p.support) for p in (train, test)] == [5, 5]
    assert [len(p.query) for p in (train, test)] == [5, 70]
    assert [(len(p.unlabeled), int((p.unlabeled_labels < 0).sum())) for p in (train, test)] == [(50, 25)] * 2


def test_unlabeled_rows_come_in_no_order_of_classes():
    spec = EpisodeSpec(ways=5, shots=1, queries=1, unlabeled=6)
    plan = UNIFORM.plan(class_index([20] * 9), spec, 4, 0)
    assert plan.unlabeled_labels.tolist() != sorted(plan.unlabeled_labels.tolist())


def test_held_descriptions_keep_classes_and_counts_and_change_rows():
    held = uniform.make(uniform.Options(hold=3))
    spec, classes = EpisodeSpec(ways="2..6", shots="1..4", queries=2), class_index([30] * 20)
    plans = [held.plan(classes, spec, 5, i) for i in range(12)]
    for i in range(0, 12, 3):
        assert len({(p.class_ids.tobytes(), p.support_labels.tobytes()) for p in plans[i : i + 3]}) == 1
        assert len({p.support.tobytes() for p in plans[i : i + 3]}) == 3
    assert len({p.class_ids.tobytes() for p in plans}) > 1


def test_exclusive_variants_never_meet():
    turned = class_index([20] * 8).with_quarter_turns()
    spec = EpisodeSpec(ways=8, shots=1, queries=1)
    exclusive = uniform.make(uniform.Options(variants_exclusive=True))
    exclusive.require(turned, spec)
    plans = [exclusive.plan(turned, spec, 2, i) for i in range(200)]
    assert all(len(set(p.class_ids.tolist())) == 8 for p in plans)
    turns = np.bincount(np.concatenate([p.variants for p in plans]), minlength=4)
    assert turns.min() > 300
    with pytest.raises(SpecError, match="ways=9 needs 9 classes; split 'world/train' without variants has 8"):
        exclusive.require(turned, EpisodeSpec(ways=9, shots=1, queries=1))


def test_very_large_classes_many_classes_and_many_ways():
    spec = EpisodeSpec(ways=1000, shots=1, queries=2)
    classes = class_index([10_000_000, *[20] * 99_999])
    plan = UNIFORM.plan(classes, spec, 2**64 - 1, 2**64 - 1)
    check_plan(plan, class_index([10_000_000, *[20] * 99_999]), spec)
    huge = UNIFORM.plan(class_index([2**33, 2**33]), EpisodeSpec(ways=2, shots=50, queries=50), 1, 2**32)
    assert len(set(huge.support.tolist()) | set(huge.query.tolist())) == 200
    assert huge.query.max() > 2**33
