"""Meta-Dataset's procedure: its exact pieces, its distributions on 20,000 episodes, and that the tests can fail."""

import math

import numpy as np
import pytest
import twin
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from worlds import class_index

import episodes
from episodes.errors import SpecError
from episodes.sampling import _meta_dataset as kernel
from episodes.sampling import meta_dataset
from episodes.sampling._kernels import F_SHOTS, HIGH, KIND, RANGE, VARIABLE
from episodes.spec import EpisodeSpec

EPISODES = 20_000
SPEC = EpisodeSpec(ways="variable", shots="variable", queries="variable")
# Sizes of Omniglot's 25 training alphabets, as Meta-Dataset splits it: 883 characters (sampling rules, sections 7 and 12).
OMNIGLOT_FLAT = [20] * 883


def forms(shots=None):
    table = np.zeros((7, 6), np.int64)
    table[F_SHOTS, KIND] = VARIABLE if shots is None else RANGE
    table[F_SHOTS, HIGH] = shots or 0
    return table


@pytest.mark.parametrize(
    ("rows", "shots", "queries"),
    [
        ((9, 10, 20, 21), None, 4),
        ((3, 50), None, 1),
        ((2, 50), None, 1),
        ((30, 31), 25, 5),
        ((30, 31), 29, 1),
        ((30, 45), 22, 8),
    ],
)
def test_queries_of_the_smallest_class(rows, shots, queries):
    assert kernel.num_queries(forms(shots), min(rows), 10) == queries


@pytest.mark.parametrize(
    ("room", "beta", "bound"),
    [
        ((10,) * 5, 0.0, 5),
        ((10,) * 5, 0.999999, 50),
        ((10, 90, 1290), 0.0, 3),
        # The table of values (sampling 12) prints 51 and 102 here. The formula (3.7, and trap 8: the 1 is added outside of
        # the floor) gives one more, and the other lines of the table agree with the formula: it is kept.
        ((10, 90, 1290), 0.25, 3 + 23 + 26),
        ((10, 90, 1290), 0.5, 6 + 46 + 51),
        ((1290,) * 50, 0.05, 300),
        ((1290,) * 50, 0.5, 500),
    ],
)
def test_bound_of_the_support(room, beta, bound):
    assert kernel.support_bound(beta, np.array(room), 0, 100, 500) == bound


def test_shots_of_very_unequal_classes():
    shots = np.empty(2, np.int64)
    kernel.split_shots(np.array([-0.60174, -0.29369]), np.array([12, 3000]), 6, 500, shots)
    assert shots.tolist() == [2, 497]


def test_the_exponential_is_that_of_the_mathematics():
    for x in np.linspace(-3, 3, 2001):
        assert math.isclose(kernel.exp(x), math.exp(x), rel_tol=1e-14)


def drawn(classes, count=EPISODES, **options):
    """Plan block of a sampler with these options."""
    sampler = meta_dataset.make(meta_dataset.Options(**options))
    sampler.require(classes, SPEC)
    return sampler.block(classes, SPEC, 11, np.arange(count, dtype=np.uint64))


def summed(block, name="shots"):
    values = getattr(block, name)
    return np.where(np.arange(values.shape[1]) < block.ways[:, None], values, 0).sum(axis=1)


def ways_are_uniform(ways, low, high):
    """p-value of a chi-square test of one number of ways per episode."""
    return stats.chisquare(np.bincount(ways - low, minlength=high - low + 1)).pvalue


def bound_is_uniform(ways, total):
    """p-value for M6: with classes of 10 free rows S / W is uniform on 1..10, and S - (W - 1) <= sum of shots <= S.

    Up to 3 rows a class no class can be cut, whatever the weights, so those three values show in the sums.
    """
    found = np.bincount(np.minimum(4, np.ceil(total / ways).astype(int)), minlength=5)[1:]
    return stats.chisquare(found, len(ways) * np.array([0.1, 0.1, 0.1, 0.7])).pvalue


def test_flat_episodes_of_omniglot():
    block = drawn(class_index(OMNIGLOT_FLAT))
    total = summed(block)
    assert ways_are_uniform(block.ways, 5, 50) > 1e-4
    assert block.ways.mean() == pytest.approx(27.5, abs=4 * 13.3 / math.sqrt(EPISODES))
    assert (block.queries[:, 0] == 10).all()
    assert total.mean() == pytest.approx(132, rel=0.02)
    assert (total / block.ways).mean() == pytest.approx(4.81, rel=0.015)
    # M7 with m = 10: all shots are 1 in a tenth of the episodes, and S / W is uniform on 1..10.
    assert stats.binomtest(int((total == block.ways).sum()), EPISODES, 0.1).pvalue > 1e-4
    assert bound_is_uniform(block.ways, total) > 1e-4
    used = np.arange(block.shots.shape[1]) < block.ways[:, None]
    assert ((block.shots >= 1) & (block.shots <= 10))[used].all()
    assert total.max() <= 500
    for values in (block.ways, total):  # M9: episodes are independent
        assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 4 / math.sqrt(EPISODES)


def test_every_class_is_equally_likely():
    block = drawn(class_index(OMNIGLOT_FLAT))
    used = np.arange(block.positions.shape[1]) < block.ways[:, None]
    seen = np.bincount(block.positions[used], minlength=883)
    p = block.ways.mean() / 883
    least = min(stats.binomtest(int(n), EPISODES, p).pvalue for n in (seen.min(), seen.max()))
    assert least > 1e-4 / 883  # Bonferroni over the classes
    labels = np.bincount(block.positions[:, 0], minlength=883)
    assert stats.chisquare(labels).pvalue > 1e-4


def test_real_alphabets_are_drawn_alike_whatever_their_size(omniglot_store):
    classes = episodes.open(omniglot_store).split("meta-dataset/train")
    block = drawn(classes, hierarchy="groups")
    numbers, offsets, _ = classes.groups_in_use
    groups = np.searchsorted(numbers, classes.groups[block.positions[:, 0]])
    assert len(numbers) == 25
    assert stats.chisquare(np.bincount(groups, minlength=25)).pvalue > 1e-4
    sizes = np.diff(offsets)
    expected = np.mean((5 + np.minimum(50, sizes)) / 2)
    assert expected == pytest.approx(20.02, abs=0.005)
    assert block.ways.mean() == pytest.approx(expected, abs=4 * block.ways.std() / math.sqrt(EPISODES))
    assert (block.ways == 5).mean() == pytest.approx(0.036, abs=0.006)
    assert (block.ways == 50).mean() == pytest.approx(0.002, abs=0.0015)
    assert summed(block).mean() == pytest.approx(96.4, rel=0.02)
    used = np.arange(block.positions.shape[1]) < block.ways[:, None]
    groups = classes.groups[np.where(used, block.positions, block.positions[:, :1])]
    assert (groups == groups[:, :1]).all()  # M2
    test = drawn(episodes.open(omniglot_store).split("meta-dataset/test"), hierarchy="groups")
    assert test.ways.mean() == pytest.approx(18.975, abs=4 * test.ways.std() / math.sqrt(EPISODES))


def test_large_classes_are_cut_by_the_bounds():
    """Fungi's kind of imbalance: from 6 to 442 rows a class."""
    sizes = np.random.Generator(np.random.PCG64(3)).integers(6, 443, 994).tolist()
    block = drawn(class_index(sizes))
    counts = np.array(sizes)
    used = np.arange(block.shots.shape[1]) < block.ways[:, None]
    n = np.where(used, counts[block.positions], 10**9)
    q = np.minimum(10, n.min(axis=1) // 2)
    assert (np.where(used, block.queries, q[:, None]) == q[:, None]).all()  # M3
    assert (block.shots <= n - q[:, None])[used].all()  # M4
    assert summed(block).max() <= 500
    assert (summed(block) < 500).mean() > 0.99  # M5: what flooring leaves is not handed out


@pytest.mark.parametrize("p", [0.25, 1.0])
def test_a_share_of_episodes_ignores_the_hierarchy(p):
    classes = class_index([20] * 200, [c // 20 for c in range(200)])
    block = drawn(classes, hierarchy="groups", ignore_hierarchy=p)
    # A flat episode of 5 or more of 200 classes is in one group with probability below 1e-4.
    used = np.arange(block.positions.shape[1]) < block.ways[:, None]
    first = classes.groups[block.positions[:, :1]]
    flat = (np.where(used, classes.groups[np.where(used, block.positions, 0)], first) != first).any(axis=1)
    assert stats.binomtest(int(flat.sum()), EPISODES, p).pvalue > 1e-4 if p < 1 else flat.mean() > 0.999


class TestPower:
    """The tests above reject samplers that are wrong in the ways that happen."""

    def other(self, *, beta_per_class=False, uniform_shots=False, max_ways=50):
        """A NumPy sampler of flat Omniglot, right but for what is asked: (ways, sum of shots) of each episode."""
        rng = np.random.Generator(np.random.PCG64(5))
        ways = rng.integers(5, max_ways + 1, EPISODES)
        totals = np.empty(EPISODES, int)
        for i, w in enumerate(ways):
            if uniform_shots:
                totals[i] = rng.integers(1, 11, w).sum()
                continue
            beta = rng.random(w if beta_per_class else 1)
            bound = min(500, int((np.floor(beta * 10) + 1).sum()) * (1 if beta_per_class else w))
            share = np.exp(rng.uniform(math.log(0.5), math.log(2), w))
            share /= share.sum()
            totals[i] = np.minimum(np.floor(share * (bound - w)) + 1, 10).sum()
        return ways, totals

    def checks(self, ways, totals):
        return [
            ways_are_uniform(ways, 5, 50) if ways.max() <= 50 else 0.0,
            stats.binomtest(int((totals == ways).sum()), EPISODES, 0.1).pvalue,
            bound_is_uniform(ways, totals),
        ]

    def test_the_right_one_passes(self):
        assert min(self.checks(*self.other())) > 1e-4
        block = drawn(class_index(OMNIGLOT_FLAT))
        assert min(self.checks(block.ways, summed(block))) > 1e-4

    @pytest.mark.parametrize(
        "wrong", [{"beta_per_class": True}, {"uniform_shots": True}, {"max_ways": 49}, {"max_ways": 51}], ids=str
    )
    def test_wrong_ones_are_rejected(self, wrong):
        assert min(self.checks(*self.other(**wrong))) < 1e-9


def _options(**values):
    return meta_dataset.Options(**values)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_ways": 0}, "min_ways: expected 1 or more, got 0"),
        ({"min_ways": 51}, "max_ways: expected min_ways=51 or more, got 50"),
        ({"max_queries": 0}, "max_queries: expected 1 or more"),
        ({"max_support": 40}, "max_support: expected max_ways=50 or more, got 40"),
        ({"min_log_weight": 1.0}, "max_log_weight: expected min_log_weight=1.0 or more"),
        ({"max_span": 4}, "max_span: expected min_ways=5 or more, got 4"),
        ({"ignore_hierarchy": 1.5}, "ignore_hierarchy: expected 0 to 1"),
    ],
)
def test_constants_that_contradict_each_other_are_refused(options, words):
    with pytest.raises(SpecError, match=words):
        _options(**options)


@pytest.mark.parametrize(
    ("sizes", "groups", "options", "spec", "words"),
    [
        ([20] * 4, None, {}, {}, "min_ways=5 needs 5 classes; split 'world/train' has 4"),
        ([20, 1] * 5, None, {}, {}, "class 'class01' has 1 rows.* one shot and one query needs 2"),
        ([30] * 9, None, {}, {"shots": 30}, "class 'class00' has 30 rows.*shots=30 and one query needs 31"),
        ([20] * 9, [0] * 6 + [1] * 3, {"hierarchy": "groups"}, {}, "group 'group1' has 3 classes .* min_ways=5"),
        ([20] * 9, None, {"hierarchy": "groups"}, {}, "no class of split 'world/train' has a group"),
        ([20] * 9, [0] * 9, {"hierarchy": "groups"}, {"ways": 5}, "ways=5 is fixed; with hierarchy=groups"),
        ([20] * 9, None, {"hierarchy": "graph"}, {}, "the store has no hierarchy"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(sizes, groups, options, spec, words):
    counts = {"ways": "variable", "shots": "variable", "queries": "variable", **spec}
    with pytest.raises(SpecError, match=words):
        meta_dataset.make(_options(**options)).require(class_index(sizes, groups), EpisodeSpec(**counts))


def test_all_classes_in_every_episode():
    classes = class_index([30] * 12)
    sampler = meta_dataset.make(_options(all_classes=True))
    plan = sampler.plan(classes, SPEC, 0, 5)
    assert plan.class_ids.tolist() == list(range(12))
    assert sampler.max_sizes(classes, SPEC) == {"ways": 12, "support": 500, "query": 120, "unlabeled": 0}


def test_plans_are_pinned():
    """A change here changes every user's episodes: raise the sampler's version and say so in the changelog."""
    plan = meta_dataset.make(_options()).plan(class_index([20, 35, 50] * 20), SPEC, 42, 48213)
    assert (plan.class_ids[:4].tolist(), plan.counts(plan.support_labels)[:6]) == ([40, 54, 18, 7], [13, 10, 6, 10, 21, 21])


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.floats(-4, 4), min_size=1, max_size=60), st.booleans())
def test_exponentials_of_many_are_those_of_each(numbers, usual):
    x = np.clip(numbers, -0.7, 0.7) if usual else np.array(numbers)
    out = np.empty(len(x))
    kernel.exp_all(x, out)
    assert out.tolist() == [twin.exp(one) for one in x.tolist()]
