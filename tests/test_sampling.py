"""Laws of the samplers, over thousands of drawn specs; each kernel agrees with a slow twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_rng import slow_choose
from worlds import class_index

from episodes import plugins, rng
from episodes.errors import SpecError
from episodes.sampling import hierarchical, uniform
from episodes.spec import EpisodeSpec
from episodes.testing import check_plan, check_sampler

UNIFORM = uniform.make(uniform.Options())
HIERARCHICAL = hierarchical.make(hierarchical.Options())
BOTH = [UNIFORM, HIERARCHICAL]


@st.composite
def cases(draw):
    """A ClassIndex of 2 groups and a spec that it can serve."""
    ways = draw(st.integers(1, 6))
    sizes = draw(st.lists(st.integers(3, 30), min_size=2 * ways, max_size=24))
    groups = [i % 2 for i in range(len(sizes))]
    total = draw(st.integers(1, min(sizes)))
    unlabeled = draw(st.integers(0, total - 1))
    shots = draw(st.integers(0, total - unlabeled))
    queries = total - unlabeled - shots
    spec = EpisodeSpec(ways=ways, shots=shots, queries=queries, unlabeled=unlabeled)
    classes = class_index(sizes, groups)
    return (classes.with_quarter_turns() if draw(st.booleans()) else classes), spec


def slow_plan(sampler, classes, spec, seed, index):
    """Positions and rows [W, rows per class], on Python integers and NumPy's Philox."""
    stream = rng.stream_key(classes.split, sampler.name, sampler.version)

    def draw(purpose, slot, n, k):
        return slow_choose(seed, stream, purpose, slot, index, n, k)

    members = list(range(len(classes)))
    if sampler is HIERARCHICAL:
        present = sorted(set(classes.groups.tolist()) - {-1})
        group = present[draw(rng.GROUPS, 0, len(present), 1)[0]]
        members = [c for c in members if classes.groups[c] == group]
    positions = [members[i] for i in draw(rng.CLASSES, 0, len(members), spec.ways.low)]
    rows = [
        [int(classes.starts[c]) + r for r in draw(rng.ROWS, label, int(classes.counts[c]), spec.rows_per_class)]
        for label, c in enumerate(positions)
    ]
    return positions, rows


@pytest.mark.parametrize("sampler", BOTH, ids=lambda s: s.name)
@settings(max_examples=400, deadline=None)
@given(case=cases(), seed=st.integers(0, 2**64 - 1), index=st.integers(0, 2**64 - 1))
def test_plans_are_valid_and_equal_their_slow_twin(sampler, case, seed, index):
    classes, spec = case
    plan = sampler.plan(classes, spec, seed, index)
    check_plan(plan, classes, spec)
    positions, rows = slow_plan(sampler, classes, spec, seed, index)
    assert plan.class_ids.tolist() == classes.ids[positions].tolist()
    assert plan.variants.tolist() == classes.variants[positions].tolist()
    assert plan.support.tolist() == [r for one in rows for r in one[: spec.shots.low]]
    assert plan.query.tolist() == [r for one in rows for r in one[spec.shots.low : spec.shots.low + spec.queries.low]]
    assert sorted(plan.unlabeled.tolist()) == sorted(r for one in rows for r in one[spec.shots.low + spec.queries.low :])


@pytest.mark.parametrize("sampler", BOTH, ids=lambda s: s.name)
def test_samplers_keep_the_laws(sampler):
    check_sampler(sampler, class_index([20] * 12, [i // 6 for i in range(12)]), EpisodeSpec(ways=4, shots=2, queries=3))


@settings(max_examples=200, deadline=None)
@given(case=cases(), seed=st.integers(0, 2**64 - 1), index=st.integers(0, 2**32))
def test_more_ways_and_more_queries_move_nothing_drawn_before(case, seed, index):
    classes, spec = case
    plan = UNIFORM.plan(classes, spec, seed, index)
    wider = UNIFORM.plan(classes, EpisodeSpec.from_table(spec.to_table() | {"ways": spec.ways.low + 1}), seed, index)
    assert wider.class_ids[: spec.ways.low].tolist() == plan.class_ids.tolist()
    assert wider.support[: len(plan.support)].tolist() == plan.support.tolist()
    if spec.rows_per_class < classes.counts.min():
        more = EpisodeSpec.from_table(spec.to_table() | {"queries": spec.queries.low + 1})
        longer = UNIFORM.plan(classes, more, seed, index)
        assert longer.support.tolist() == plan.support.tolist()


def test_classes_rows_and_labels_are_uniform():
    classes, spec = class_index([10] * 8), EpisodeSpec(ways=2, shots=1, queries=1)
    plans = [UNIFORM.plan(classes, spec, 3, i) for i in range(8000)]
    first = np.bincount([p.class_ids[0] for p in plans], minlength=8)
    second = np.bincount([p.class_ids[1] for p in plans], minlength=8)
    row = np.bincount([p.support[0] % 10 for p in plans], minlength=10)
    query = np.bincount([p.query[1] % 10 for p in plans], minlength=10)
    assert all(stats.chisquare(counts).pvalue > 1e-4 for counts in (first, second, row, query))


def test_groups_are_uniform_whatever_their_size():
    classes = class_index([5] * 12, [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    spec = EpisodeSpec(ways=3, shots=1, queries=1)
    plans = [HIERARCHICAL.plan(classes, spec, 3, i) for i in range(4000)]
    assert all(len({int(classes.groups[c]) for c in p.class_ids}) == 1 for p in plans)
    assert stats.binomtest(sum(int(p.class_ids[0]) < 3 for p in plans), len(plans)).pvalue > 1e-4


def test_splits_never_share_draws():
    spec = EpisodeSpec(ways=5, shots=1, queries=1)
    train, val = class_index([20] * 50), class_index([20] * 50, split="world/val")
    same = [
        np.array_equal(UNIFORM.plan(train, spec, 0, i).class_ids, UNIFORM.plan(val, spec, 0, i).class_ids)
        for i in range(50)
    ]
    assert not any(same)


def test_plans_are_pinned():
    """A change here changes every user's episodes: raise the sampler's version and say so in the changelog."""
    classes, spec = class_index([20] * 30, [i // 10 for i in range(30)]), EpisodeSpec(ways=3, shots=1, queries=2)
    plan = UNIFORM.plan(classes, spec, 42, 48213)
    assert (plan.class_ids.tolist(), plan.support.tolist(), plan.query.tolist()) == (
        [4, 7, 15],
        [87, 147, 314],
        [91, 92, 158, 152, 312, 301],
    )
    plan = HIERARCHICAL.plan(classes, spec, 42, 48213)
    assert (plan.class_ids.tolist(), plan.support.tolist(), plan.query.tolist()) == (
        [3, 4, 1],
        [77, 89, 29],
        [69, 78, 93, 82, 28, 27],
    )


def test_a_group_too_small_is_named():
    classes = class_index([5] * 5, [0, 0, 0, 1, 1])
    with pytest.raises(SpecError, match=r"group 'group1' has 2 classes .* ways=3 .* lower ways to 2"):
        HIERARCHICAL.require(classes, EpisodeSpec(ways=3, shots=1, queries=1))


def test_classes_without_groups_have_no_hierarchy():
    with pytest.raises(SpecError, match="no class of split 'world/train' has a group"):
        HIERARCHICAL.require(class_index([5] * 5), EpisodeSpec(ways=3, shots=1, queries=1))


def test_every_sampler_is_found_by_its_file_name():
    assert set(plugins.names(plugins.SAMPLERS)) >= {"hierarchical", "meta_dataset", "uniform"}
