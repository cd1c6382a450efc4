"""What a spec refuses, and with which words."""

import pytest
from worlds import class_index

from episodes.errors import SpecError
from episodes.spec import EpisodeSpec


@pytest.mark.parametrize(
    ("field", "value"),
    [("ways", 0), ("ways", -1), ("shots", -1), ("queries", -2), ("unlabeled", -1)],
)
def test_counts_too_small_are_refused_by_name(field, value):
    with pytest.raises(SpecError, match=f"{field}={value} is too small; it must be {int(field == 'ways')} or more"):
        EpisodeSpec(**{"ways": 5, "shots": 1, "queries": 1, field: value})


@pytest.mark.parametrize("value", [2.5, 5.0, True, float("nan"), float("inf"), None, "five", "5..", "[]", "{}"])
@pytest.mark.parametrize("field", ["ways", "shots", "queries", "unlabeled"])
def test_counts_that_are_no_whole_numbers_are_refused_by_name(field, value):
    with pytest.raises(SpecError, match=f"^{field}="):
        EpisodeSpec(**{"ways": 5, "shots": 1, "queries": 1, field: value})


def test_an_episode_without_rows_is_refused():
    with pytest.raises(SpecError, match="shots and queries are both 0"):
        EpisodeSpec(ways=5, shots=0, queries=0)


def test_more_ways_than_classes_are_refused():
    with pytest.raises(SpecError, match=r"ways=6 needs 6 classes; split 'world/train' has 5 \(lower ways\)"):
        EpisodeSpec(ways=6, shots=1, queries=1).require(class_index([20] * 5))


def test_the_first_class_too_small_is_named():
    words = r"class 'class01' has 3 rows, and 1 more class; shots \+ queries needs 4 \(lower queries or shots"
    with pytest.raises(SpecError, match=words):
        EpisodeSpec(ways=2, shots=1, queries=3).require(class_index([4, 3, 9, 2]))


def test_a_spec_that_fits_exactly_passes():
    EpisodeSpec(ways=4, shots=1, queries=2, unlabeled=1).require(class_index([4, 4, 4, 4]))
    with pytest.raises(SpecError, match="unlabeled needs 5"):
        EpisodeSpec(ways=4, shots=1, queries=2, unlabeled=2).require(class_index([4, 4, 4, 4]))


def test_turning_twice_is_refused():
    turned = class_index([4, 4]).with_quarter_turns()
    assert [turned.name(i) for i in range(5)] == ["class00", *(f"class00/rot{d}" for d in ("090", "180", "270")), "class01"]
    with pytest.raises(SpecError, match="quarter turns already"):
        turned.with_quarter_turns()
