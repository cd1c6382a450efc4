"""What cannot be drawn is refused before the first episode, in words that name it (sampling 11).

Refusals of one part of the library are tested with that part; here are those that concern every policy, and the rows of the
table that belong nowhere else.
"""

import dataclasses

import numpy as np
import pytest
from test_policies import LEAVES, TREE, joined_classes, tree_classes
from worlds import TellingReader, class_index, memory_store

import episodes
from episodes import plugins, pools
from episodes.config import from_table
from episodes.errors import ConfigError, SpecError, StoreError
from episodes.ingest import ingest
from episodes.protocols import RawSample
from episodes.rng import check_word
from episodes.spec import EpisodeSpec
from episodes.store.memory import MemoryStore

GROUPED = class_index([20] * 12, [c // 6 for c in range(12)])
PLAIN = {"ways": 3, "shots": 1, "queries": 2}
VARIABLE = {"ways": "variable", "shots": "variable", "queries": "variable"}


def policy(name, **options):
    module = plugins.find(plugins.SAMPLERS, name)
    return module.make(from_table(module.Options, options))


# Counts ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["unlabeled", "distractors", "distractor_rows", "distractor_queries"])
@pytest.mark.parametrize(
    "value", [-1, 2.5, True, float("nan"), float("inf"), "five", "5..2", "1..inf", {}, {1: -1.0}, {1: 0}]
)
def test_every_count_is_checked_with_its_name(field, value):
    with pytest.raises(SpecError, match=f"^{field}="):
        EpisodeSpec(**PLAIN | {"unlabeled": 1, "distractors": 1} | {field: value})


@pytest.mark.parametrize(
    ("table", "needed"),
    [
        ({"shots": "1..5", "queries": 16}, 21),
        ({"shots": 1, "queries": {2: 0.9, 20: 0.1}}, 21),
        ({"shots": "linear(15, 3)", "queries": 6}, 21),
        ({"shots": [1, 2, 15], "queries": [20, 1, 1]}, 21),
        ({"shots": [1, 2, 15], "queries": "[20, 1, 1] permuted"}, 35),
        ({"shots": "1..9 per class", "queries": "1..12 per class"}, 21),
        ({"shots": 20, "queries": "all"}, 21),
        ({"shots": 1, "queries": 2, "unlabeled": "0..18"}, 21),
        ({"shots": 1, "queries": "total(63)"}, 21),
        ({"shots": "1..3", "queries": "total(63)", "unlabeled": 2}, 23),
    ],
    ids=str,
)
def test_room_is_made_for_the_largest_values_of_every_form(table, needed):
    spec = EpisodeSpec(**PLAIN | table)
    words = (
        rf"class 'class01' has 20 rows, and 7 more classes; shots \+ queries.* needs {needed} \(lower queries or shots, or "
    )
    with pytest.raises(SpecError, match=f"{words}leave small classes out with min_rows={needed}"):
        policy("uniform").require(class_index([99] + [20] * 8), spec)
    policy("uniform").require(class_index([needed] * 9), spec)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (
            {"ways": 7, "queries": "total(240)"},
            r"queries=total\(240\): none of ways=7 divides the total and leaves a query",
        ),
        ({"ways": 20, "shots": 12, "queries": "total(240)"}, "none of ways=20 divides .* beside shots=12"),
        ({"ways": "13..14", "queries": "total(240)"}, "none of ways=13..14"),
        ({"ways": {2: 0.5, 4: 0.5}, "queries": "total(240)"}, "needs ways that are a number or a range.*got ways={2: 0.5"),
        ({"shots": "1..2 per class", "queries": "total(240)"}, "shots that are the same for every class; .*shots=1..2 per"),
        ({"shots": [1, 2, 3], "queries": "total(240)"}, r"shots=\[1, 2, 3\]"),
        ({"shots": "linear(4, 2)", "queries": "total(240)"}, r"shots=linear\(4, 2\)"),
    ],
    ids=str,
)
def test_totals_that_no_number_of_ways_divides_are_refused(table, words):
    with pytest.raises(SpecError, match=words):
        EpisodeSpec(**PLAIN | table)


def test_a_total_needs_as_many_classes_as_divide_it():
    spec = EpisodeSpec(ways="7..9", shots=1, queries="total(240)")
    with pytest.raises(SpecError, match="ways=7..9 needs 8 classes; split 'world/train' has 7"):
        policy("uniform").require(class_index([99] * 7), spec)
    with pytest.raises(SpecError, match="group 'group1' has 7 classes .* ways=7..9 within one group needs 8"):
        policy("hierarchical").require(class_index([99] * 15, [0] * 8 + [1] * 7), spec)


# Classes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"ways": 10, "distractors": 3}, "ways=10 and distractors=3 needs 13 classes; split 'world/train' has 12"),
        ({"ways": "2..40", "distractors": "1..11"}, "ways=2..40 and distractors=1..11 needs 13 classes"),
        ({"ways": {2: 0.5, 11: 0.5}, "distractors": 2}, "needs 13 classes; split 'world/train' has 12"),
        ({"ways": 13}, r"ways=13 needs 13 classes; split 'world/train' has 12 \(lower ways\)"),
    ],
)
@pytest.mark.parametrize("name", ["uniform", "hierarchical", "novelty"])
def test_ways_and_distractors_that_are_too_many_are_refused(name, spec, words):
    with pytest.raises(SpecError, match=words):
        policy(name).require(GROUPED, EpisodeSpec(**PLAIN | {"unlabeled": 1} | spec))


def test_distractors_of_groups_that_are_too_small_are_refused():
    spec = EpisodeSpec(**PLAIN, unlabeled=1, distractors=4, distractor_groups="same")
    with pytest.raises(SpecError, match="group 'group0' has 6 classes in split .* ways=3 within one group needs 7"):
        policy("hierarchical").require(GROUPED, spec)
    other = EpisodeSpec(**PLAIN, unlabeled=1, distractors=7, distractor_groups="other")
    with pytest.raises(SpecError, match="distractors=7 of other groups: 6 classes .* are outside its largest group"):
        policy("hierarchical").require(GROUPED, other)
    with pytest.raises(SpecError, match="finds only [0-9] classes for its distractors"):
        [policy("uniform").plan(GROUPED, spec, 0, i) for i in range(50)]
    with pytest.raises(SpecError, match=r"distractor_rows \+ distractor_queries needs 21"):
        policy("uniform").require(GROUPED, EpisodeSpec(**PLAIN, distractors=1, distractor_rows=20, distractor_queries=1))


@pytest.mark.parametrize(
    ("counts", "splits", "words"),
    [
        ({"a": 2, "b": 0}, {}, "class 'b' has no rows; remove it from the source"),
        ({"a": 2, "b": 2}, {"train": ["a", "b"], "val": []}, "split 's/val' has no classes; give it some or leave it out"),
        (
            {"a": 2, "b": 2, "c": 2},
            {"train": ["a", "b", "c"], "val": ["b"], "test": ["c"]},
            r"class 'b' is in split 'train' and in 'val' of list 's' \(2 such classes\); splits must not share classes",
        ),
        ({"a": 2}, {"train": ["a", "a"]}, "class 'a' is in split 'train' and in 'train'"),
    ],
)
def test_classes_and_splits_that_cannot_be_are_named(counts, splits, words):
    with pytest.raises(SpecError, match=words):
        MemoryStore({"x": np.zeros((sum(counts.values()), 1))}, counts, splits={"s": splits})


def test_turned_variants_of_a_class_never_leave_its_split():
    store = memory_store([5] * 20, num_train=12)
    train, test = (episodes.Selection(split=split, rotations=True).classes(store) for split in ("train", "test"))
    assert not set(train.ids.tolist()) & set(test.ids.tolist())
    assert [len(c) for c in (train, test)] == [48, 32]
    seen, kept = (
        episodes.Selection(split=one, overlap_with=other, overlap=0.5, rotations=True).classes(store)
        for one, other in (("train", "test"), ("test", "train"))
    )
    for c in (seen, kept):  # shared or not, all four turns are on the same side
        assert (np.unique(c.ids, return_counts=True)[1] == 4).all()


def test_an_index_without_classes_is_refused():
    store = memory_store([5] * 4)
    series = episodes.sample(store, "train", EpisodeSpec(ways=2, shots=1, queries=1))
    with pytest.raises(SpecError, match="split 'world/train' has no classes"):
        dataclasses.replace(series, classes=series.classes.select(np.empty(0, np.int64)))


def test_the_same_key_twice_in_a_class_is_named(tmp_path):
    class Doubled(TellingReader):
        def listing(self):
            one = super().listing()
            return dataclasses.replace(one, samples=[*one.samples, RawSample("class01", "002", one.samples[0].load)])

    with pytest.raises(StoreError, match="class 'class01' has two samples with the key '002'; keys must differ"):
        ingest(Doubled([3, 4]), tmp_path / "s.store")
    assert list(tmp_path.iterdir()) == []


# Pools of rows -----------------------------------------------------------------------------------------------------------


def test_overlaps_that_cannot_be_cut_are_refused():
    world = class_index([5] * 9)
    train, test = world.select(np.arange(5)), world.select(np.arange(5, 9))
    with pytest.raises(SpecError, match="splits 'world/train' and 'world/train' share classes already"):
        pools.overlapped(train, world, 0.5)
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(
            SpecError, match=f"row_share={share} leaves one side without rows; give a number between 0 and 1"
        ):
            pools.overlapped(train, test, 0.5, row_share=share)
    one_row = class_index([1] * 9)
    with pytest.raises(SpecError, match=r"class 'class05' has no row in its front pool \(4 such classes\)"):
        pools.overlapped(one_row.select(np.arange(5)), one_row.select(np.arange(5, 9)), 1.0)


@pytest.mark.parametrize(
    "spec",
    [{"unlabeled": 1}, {"distractors": 1, "distractor_rows": 1}, {"queries": "all"}],
    ids=str,
)
@pytest.mark.parametrize("name", ["uniform", "meta_batch", "combinations", "novelty"])
def test_queries_of_base_classes_share_their_rows_with_no_other_part(name, spec):
    with pytest.raises(
        SpecError, match="has base classes, whose queries are held-out rows: unlabeled rows, distractors and"
    ):
        policy(name).require(joined_classes(), EpisodeSpec(**PLAIN | spec))


def test_held_out_rows_that_are_too_few_are_named():
    with pytest.raises(SpecError, match="class 'class00' has 8 held-out rows, and 9 more classes; queries needs 9"):
        policy("uniform").require(joined_classes(), EpisodeSpec(ways=3, shots=1, queries=9))
    with pytest.raises(SpecError, match="has base classes"):
        policy("meta_dataset").require(joined_classes(), EpisodeSpec(**VARIABLE))
    with pytest.raises(SpecError, match="need fixed counts, no unlabeled rows and no distractors"):
        policy("generalized").require(joined_classes(), EpisodeSpec(**PLAIN, unlabeled=1))
    with pytest.raises(SpecError, match="base_ways=11 needs that many base classes; there are 10"):
        policy("generalized", base_ways=11).require(joined_classes(), EpisodeSpec(**PLAIN))


@pytest.mark.parametrize("name", ["leave_one_out", "all_supports", "each_row_once", "drawers"])
def test_lists_of_all_rows_know_no_labeled_share(name):
    classes = pools.partition(GROUPED, 0.5)
    spec = EpisodeSpec(**PLAIN | {"queries": 1})
    with pytest.raises(
        SpecError, match="knows no labeled share; give rows=front for the labeled rows of 'world/train' alone"
    ):
        policy(name).require(classes, spec)
    if name != "drawers":
        policy(name).require(pools.only(classes, "front"), spec)


# Meta-Dataset ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_log_weight": float("nan")}, "min_log_weight: expected a finite number, got nan"),
        ({"max_log_weight": 800.0}, "max_log_weight: expected -500 to 500, got 800.0"),
        ({"max_contribution": 0}, "max_contribution: expected 1 or more, got 0"),
        (
            {"all_classes": True, "hierarchy": "groups"},
            "all_classes is every class of the split; hierarchy=groups does not",
        ),
        ({"hierarchy": "both"}, "hierarchy: expected one of 'flat', 'groups', 'graph', got 'both'"),
        ({"ignore_hierarchy": -0.5}, "ignore_hierarchy: expected 0 to 1, got -0.5"),
    ],
)
def test_constants_of_meta_dataset_are_checked(options, words):
    with pytest.raises(ConfigError, match=words):
        policy("meta_dataset", **options)


SMALL = pools.partition(class_index([20] * 60), 0.9)  # 18 labeled rows, 2 unlabeled ones


@pytest.mark.parametrize(
    ("classes", "options", "spec", "words"),
    [
        (class_index([20] * 4), {}, {"ways": 3}, "min_ways=5 needs 5 classes; split 'world/train' has 4"),
        (class_index([20] * 9), {}, {"queries": "1..5 per class"}, "queries=1..5 per class with shots=variable"),
        (class_index([20] * 9), {}, {"shots": [1, 2], "ways": 2}, r"shots=\[1, 2\] does not go with meta-dataset"),
        (class_index([20] * 9), {}, {"queries": "all"}, "queries=all does not go with meta-dataset"),
        (
            class_index([20] * 52),
            {},
            {"unlabeled": 1, "distractors": 3},
            "max_ways=50 and distractors=3 need 53 classes; split",
        ),
        (
            class_index([20] * 9),
            {},
            {"ways": "5..8", "unlabeled": 1, "distractors": 2},
            "ways=5..8 and distractors=2 need 10 classes; split 'world/train' has 9",
        ),
        (
            class_index([20] * 9),
            {"all_classes": True},
            {"unlabeled": 1, "distractors": 1},
            "all_classes and distractors=1 need 10 classes; split 'world/train' has 9",
        ),
        (
            class_index([20] * 60, [0] * 60),
            {},
            {"unlabeled": 1, "distractors": 1, "distractor_groups": "other"},
            "distractor_groups=other does not go with meta-dataset",
        ),
        (class_index([20] * 60), {}, {"unlabeled": 19}, "class 'class00' has 20 rows.*one shot and one query needs 21"),
        (SMALL, {}, {"unlabeled": 3}, "class 'class00' has 2 unlabeled rows, .*unlabeled needs 3"),
        (
            class_index([20] * 60),
            {},
            {"distractors": 1, "distractor_rows": 21},
            r"class 'class00' has 20 rows.*distractor_rows \+ distractor_queries needs 21",
        ),
        (
            class_index([20] * 9),
            {"all_classes": True},
            {"ways": 5},
            "ways=5 with all_classes: every class is in every episode",
        ),
        (
            class_index([20] * 9),
            {"all_classes": True, "max_ways": 5, "max_support": 8},
            {},
            "max_support=8 is less than all 9",
        ),
        (class_index([20] * 60), {"max_ways": 6, "max_support": 8}, {"ways": 9}, "max_support=8 is less than ways=9"),
        (
            tree_classes(),
            {"hierarchy": "graph", "min_ways": 4, "max_span": 5, "max_ways": 5},
            {},
            "spans 4..5 classes of split",
        ),
        (tree_classes(), {"hierarchy": "graph", "max_ways": 5}, {"ways": 5}, "ways=5 is fixed; with hierarchy=graph"),
    ],
)
def test_what_meta_dataset_cannot_draw_is_refused(classes, options, spec, words):
    with pytest.raises(SpecError, match=words):
        policy("meta_dataset", **options).require(classes, EpisodeSpec(**VARIABLE | spec))


def test_small_classes_are_not_left_out_of_whole_groups_or_of_all_classes():
    with pytest.warns(UserWarning, match="min_rows=10 leaves out 1 classes"):
        classes = pools.with_min_rows(class_index([20] * 9 + [2], [0] * 10), 10)
    with pytest.raises(SpecError, match="min_rows=10 does not go with hierarchy=groups, whose groups are whole"):
        policy("meta_dataset", hierarchy="groups").require(classes, EpisodeSpec(**VARIABLE))
    with pytest.raises(SpecError, match="all_classes: min_rows=10 leaves out 1 of split 'world/train'"):
        policy("meta_dataset", all_classes=True).require(classes, EpisodeSpec(**VARIABLE))


def test_a_range_of_queries_makes_room_for_its_largest():
    with pytest.raises(SpecError, match=r"class 'class00' has 20 rows.*shots=3..20 and one query needs 21"):
        policy("meta_dataset").require(class_index([20] * 9), EpisodeSpec(**VARIABLE | {"shots": "3..20"}))
    with pytest.raises(SpecError, match=r"shots \+ queries needs 21"):
        policy("meta_dataset").require(class_index([20] * 9), EpisodeSpec(**VARIABLE | {"queries": "3..20"}))


@pytest.mark.parametrize("t", [1.7e308, -1.7e308])
def test_a_temperature_that_leaves_no_weight_is_refused_with_its_episode(t):
    sampler, spec = policy("tempered", t=t), EpisodeSpec(ways=4, shots=1, queries=1)
    with pytest.raises(SpecError, match=r"episode [0-9]+: t=-?1.7e\+308 leaves no class with a weight"):
        [sampler.plan(tree_classes(), spec, 0, i) for i in range(20)]
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(SpecError, match=f"t: expected a finite number, got {wrong}"):
            plugins.find(plugins.SAMPLERS, "tempered").Options(t=wrong)


def test_classes_outside_a_hierarchy_are_named_when_the_store_is_made():
    with pytest.raises(
        SpecError, match=r"class 'plantsa4' is not in the hierarchy \(1 such classes\); did you mean 'plantsa'"
    ):
        MemoryStore({"x": np.zeros((13, 1))}, dict.fromkeys([*LEAVES, "plantsa4"], 1), is_a=TREE)


# Indices and seeds -------------------------------------------------------------------------------------------------------

LISTS = {"leave_one_out": 60, "each_row_once": 80, "all_supports": 8000, "combinations": 220}
EVERY = {
    "uniform": {}, "hierarchical": {}, "meta_batch": {}, "passes": {}, "novelty": {"fraction": 1.0}, "spread": {},
    "under_node": {"max_span": 12}, "tempered": {}, "coarsity": {}, "meta_dataset": {"min_ways": 3, "max_ways": 3},
    "generalized": {}, **{name: {} for name in LISTS},
}  # fmt: skip


def of_policy(name):
    """(sampler, classes, spec) of any policy but the two that need a file or a field."""
    spec = EpisodeSpec(ways=2 if name == "spread" else 3, shots=1, queries=1)
    classes = {"generalized": joined_classes, "hierarchical": lambda: GROUPED}.get(name, tree_classes)()
    return policy(name, **EVERY[name]), classes, spec


@pytest.mark.parametrize("name", sorted(EVERY))
def test_every_policy_refuses_what_is_no_index_and_no_seed(name):
    sampler, classes, spec = of_policy(name)
    sampler.require(classes, spec)
    for value in (-1, 2**64):
        with pytest.raises(SpecError, match=f"index={value} is out of range; it must be 0 to"):
            sampler.plan(classes, spec, 0, value)
        with pytest.raises(SpecError, match=f"seed={value} is out of range; it must be 0 to"):
            sampler.plan(classes, spec, value, 0)
    for value in (1.5, True, "3", None, np.float64(2)):
        with pytest.raises(SpecError, match="index=.* is not a whole number"):
            sampler.plan(classes, spec, 0, value)
        with pytest.raises(SpecError, match="seed=.* is not a whole number"):
            sampler.plan(classes, spec, value, 0)


@pytest.mark.parametrize("name", sorted(LISTS))
def test_an_index_beyond_a_finite_list_is_refused(name):
    sampler, classes, spec = of_policy(name)
    assert sampler.length(classes, spec) == LISTS[name]
    with pytest.raises(SpecError, match=f"index {LISTS[name]} is beyond"):
        sampler.plan(classes, spec, 0, LISTS[name])


@pytest.mark.parametrize("value", [-1, 2**64])
def test_numbers_out_of_64_bits_are_named(value):
    with pytest.raises(SpecError, match=f"partition={value} is out of range"):
        check_word("partition", value)
    for name in ("labeled_seed", "overlap_seed"):
        shares = {"labeled": 0.5} if name == "labeled_seed" else {"overlap": 0.5, "overlap_with": "test"}
        with pytest.raises(SpecError, match=f"{name}={value} is out of range"):
            episodes.Selection(**{name: value}, **shares).classes(memory_store([20] * 20, num_train=12))
