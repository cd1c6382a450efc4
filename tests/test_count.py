"""Counts are written one way everywhere, and what is none is refused by name."""

import pytest
from hypothesis import given
from test_engine import counts

from episodes.config import from_table, to_table
from episodes.count import Count
from episodes.errors import SpecError
from episodes.spec import EpisodeSpec


@given(counts(0, 30, 4))
def test_a_count_is_read_back_from_its_text(value):
    count = Count.of(value)
    assert Count.parse(str(count)) == count
    assert Count.of(count.plain()) == count
    assert hash(Count.parse(str(count))) == hash(count)
    assert count.low <= count.high


@pytest.mark.parametrize(
    ("text", "low", "high", "kind"),
    [
        ("5", 5, 5, "range"),
        (" 5..50 ", 5, 50, "range"),
        ("{1: 0.5, 5: 0.5}", 1, 5, "weights"),
        ("[1, 2, 5]", 1, 5, "list"),
        ("[1, 2, 5] permuted", 1, 5, "list"),
        ("1..5 per class", 1, 5, "range"),
        ("linear(20, 10)", 2, 20, "linear"),
        ("long-tail(20, 10)", 2, 20, "long-tail"),
        ("step(20, 10, 0.5)", 2, 20, "step"),
        ("all", 0, 0, "all"),
        ("total(240)", 0, 0, "total"),
        ("variable", 0, 0, "variable"),
    ],
)
def test_every_form_has_a_text(text, low, high, kind):
    count = Count.parse(text)
    assert (count.low, count.high, count.kind) == (low, high, kind)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("5..2", "the range ends before it begins"),
        ("5..nan", "shots='5..nan' is not a count"),
        ("2.5..4", "shots='2.5..4' is not a count"),
        ("-1..4", "shots=-1..4 is too small"),
        ("5", "shots='5' is text; write the number 5"),
        ({}, "has no values"),
        ({1: -0.5}, "the weight -0.5 is not a number of 0 or more"),
        ({1: float("nan")}, "the weight nan"),
        ({1: float("inf")}, "the weight inf"),
        ({1: 0.0, 2: 0.0}, "all weights are 0"),
        ({1.5: 1.0}, "is not a count"),
        ([], "is an empty list"),
        ([1, True], "is not a count"),
        ("[1, 2", "is not a count"),
        ("all per class", "per class goes with a range or weights"),
        ("linear(20)", "linear takes 2 numbers, got 1"),
        ("linear(20, 0.5)", "the ratio 1 or more"),
        ("step(20, 10, 1)", "between 0 and 1"),
        ("total(ten)", "the weight 'ten'"),
        (2**31, "is too large"),
    ],
)
def test_what_is_no_count_is_refused_by_name(value, words):
    with pytest.raises(SpecError, match=words) as caught:
        EpisodeSpec(ways=5, shots=value, queries=1)
    assert str(caught.value).startswith("shots=")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"ways": "all"}, "ways=all is not allowed; ways may be: range, weights, variable"),
        ({"ways": "0..5"}, r"ways=0..5 is too small; it must be 1 or more"),
        ({"shots": [1, 2, 3]}, r"shots=\[1, 2, 3\] has 3 numbers, ways=5"),
        ({"ways": "2..5", "shots": [1, 2]}, "a list needs fixed ways"),
        ({"shots": "all"}, "shots=all is not allowed"),
        ({"distractors": 2}, "distractors=2 with unlabeled=0: they could not appear"),
        ({"distractors": 2, "unlabeled": 1, "distractor_groups": "far"}, "distractor_groups='far' is unknown"),
        ({"shots": 0, "queries": 0}, "shots and queries are both 0"),
    ],
)
def test_specs_that_contradict_themselves_are_refused(spec, words):
    with pytest.raises(SpecError, match=words):
        EpisodeSpec(**{"ways": 5, "shots": 1, "queries": 1, **spec})


def test_a_spec_is_written_with_what_differs_only():
    spec = EpisodeSpec(ways="5..20", shots={1: 0.5, 5: 0.5}, queries="all", unlabeled=2, distractors=3)
    table = spec.to_table()
    assert table == {"ways": "5..20", "shots": "{1: 0.5, 5: 0.5}", "queries": "all", "unlabeled": 2, "distractors": 3}
    assert EpisodeSpec.from_table(table) == spec
    assert str(spec) == "ways=5..20, shots={1: 0.5, 5: 0.5}, queries=all, unlabeled=2, distractors=3"


def test_toml_and_flags_write_counts_alike():
    from cli.episode_flags import episode_table
    from cli.episode_table import EpisodeTable

    toml = from_table(EpisodeTable, {"ways": "5..20", "shots": {"1": 0.5, "5": 0.5}, "queries": 3})
    flags = episode_table({"ways": "5..20", "shots": "{1: 0.5, 5: 0.5}", "queries": "3"})
    assert toml == flags
    assert from_table(EpisodeTable, to_table(toml)) == toml


def test_a_range_beyond_the_classes_is_cut_with_a_warning():
    from worlds import class_index

    with pytest.warns(UserWarning, match=r"ways=2..50 ends at 9: split 'world/train' has 9 classes"):
        EpisodeSpec(ways="2..50", shots=1, queries=1).require(class_index([5] * 9))
