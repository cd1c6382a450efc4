"""Numbers of an evaluation against slow twins: accuracies by class, shots and episode, calibration, descriptors."""

import itertools
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import episodes
from episodes import distance, stats
from episodes.errors import SpecError
from episodes.selection import Selection
from episodes.store.memory import MemoryStore
from episodes.transforms import Transform
from learners import breakdown, page, plots
from learners.calibration import BINS, calibration
from learners.intervals import mean_and_interval
from learners.report import evaluate


class Fixed(nn.Module):
    """Logits that are a function of the query's own values: those of field ``x``, as many as there are ways, and more."""

    transductive = False
    batch_norm = "none"

    def __init__(self, extra=0):
        super().__init__()
        self.extra = extra

    def require(self, spec):
        pass

    def adapt(self, task):
        wide = task.ways + self.extra
        return lambda fields: fields["x"][..., :wide]


WIDE, ROWS = 12, 16
NAMES = [f"class{c:02d}" for c in range(WIDE)]


def world(**more):
    """Twelve classes in four groups whose rows are random logits."""
    values = np.random.Generator(np.random.Philox(key=7)).normal(0, 2, (WIDE * ROWS, WIDE)).astype(np.float32)
    splits = {"world": {"train": NAMES[:3], "test": NAMES[3:]}}
    groups = {name: f"group{c // 3}" for c, name in enumerate(NAMES)}
    return MemoryStore({"x": values}, dict.fromkeys(NAMES, ROWS), splits=splits, **{"groups": groups, **more})


WORLD = world()
UNEVEN = episodes.EpisodeSpec(ways="2..5", shots="1..4 per class", queries=3, unlabeled=2, distractors="0..2")


def judged(series, extra=0):
    """Slow: a dictionary a scored query, in order."""
    found = []
    for index in range(series.length):
        episode, names = series[index], series.class_names(index)
        shots = [int((episode.support.labels == k).sum()) for k in range(len(names))]
        for values, label in zip(episode.query.fields["x"], episode.query.labels.tolist(), strict=True):
            if label < 0:
                continue
            logits = values[: len(names) + extra].astype(np.float64)
            shares = np.exp(logits) / np.exp(logits).sum()
            found.append(
                {
                    "episode": index,
                    "name": names[label],
                    "shots": shots[label],
                    "right": int(logits.argmax()) == label,
                    "confidence": shares.max(),
                    "nll": -math.log(shares[label]),
                }
            )
    return found


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def slow_ece(confidences, rights):
    bins = [[] for _ in range(BINS)]
    for confidence, right in zip(confidences, rights, strict=True):
        m = next(m for m in range(BINS) if confidence <= (m + 1) / BINS or m == BINS - 1)
        bins[m].append((confidence, right))
    total = sum(map(len, bins))
    return sum(len(b) / total * abs(mean(r for _, r in b) - mean(c for c, _ in b)) for b in bins if b)


SPECS = {
    "even": episodes.EpisodeSpec(ways=4, shots=2, queries=3),
    "uneven": UNEVEN,
    "open": episodes.EpisodeSpec(ways=3, shots=1, queries=2, unlabeled=1, distractors=2, distractor_queries=2),
}


@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("spec", SPECS)
def test_a_report_is_what_the_queries_say_one_by_one(spec, extra):
    series = episodes.sample(WORLD, "test", SPECS[spec], length=40, seed=3)
    report, wanted = evaluate(Fixed(extra), series, method="fixed"), judged(series, extra)
    each = [mean(q["right"] for q in wanted if q["episode"] == index) for index in range(40)]
    assert report.per_episode == pytest.approx(each)
    for kind, shares in (("name", report.per_class), ("shots", report.per_shots)):
        for key in {q[kind] for q in wanted}:
            own = [q["right"] for q in wanted if q[kind] == key]
            assert (shares[key].score, shares[key].queries) == (pytest.approx(mean(own)), len(own))
    assert sorted(report.per_class) == list(report.per_class) == sorted({q["name"] for q in wanted})
    assert report.calibration.nll == pytest.approx(mean(q["nll"] for q in wanted), rel=1e-5)
    assert report.calibration.ece == pytest.approx(
        slow_ece([q["confidence"] for q in wanted], [q["right"] for q in wanted]), abs=1e-6
    )


def test_an_episode_without_a_query_to_score_is_refused():
    spec = episodes.EpisodeSpec(ways=2, shots=1, queries="0..1")
    series = episodes.sample(WORLD, "test", spec, length=40)
    empty = next(i for i in range(40) if not len(series.plan(i).query))
    with pytest.raises(SpecError, match=f"episode {empty} has no query to score; raise queries"):
        evaluate(Fixed(), series, method="fixed")


def test_probabilities_that_are_no_numbers_are_no_numbers_in_the_report_and_null_in_json():
    class Broken(Fixed):
        def adapt(self, task):
            return lambda fields: fields["x"][..., : task.ways] * math.nan

    report = evaluate(Broken(), episodes.sample(WORLD, "test", SPECS["even"], length=3), method="broken")
    assert not report.audit.passed
    table = json.loads(json.dumps(report.to_table(), allow_nan=False))
    assert (table["calibration"]["ece"], table["calibration"]["nll"]) == (None, None)


def test_quarter_turns_are_classes_of_their_own():
    values = np.random.Generator(np.random.Philox(key=8)).normal(0, 1, (6 * 8, 6, 6)).astype(np.float32)
    store = MemoryStore({"x": values}, {f"c{c}": 8 for c in range(6)}, splits={"w": {"test": [f"c{c}" for c in range(6)]}})
    spec = episodes.EpisodeSpec(ways=3, shots=1, queries=2)
    series = episodes.sample(store, Selection(split="test", rotations=True), spec, length=30)

    class Corner(Fixed):
        def adapt(self, task):
            return lambda fields: fields["x"][..., 0, : task.ways]

    report, queries = evaluate(Corner(), series, method="corner"), {}
    for i in range(30):
        plan, names = series.plan(i), series.class_names(i)
        for label in plan.query_labels.tolist():
            queries[names[label]] = queries.get(names[label], 0) + 1
    assert {name: share.queries for name, share in report.per_class.items()} == queries
    assert any(name.endswith("/rot090") for name in queries)


# Calibration


def test_a_calibrated_predictor_has_no_error():
    confidence, right = [], []
    for percent in (10, 30, 50, 70, 90):
        confidence += [percent / 100] * 100
        right += [n < percent for n in range(100)]
    found = calibration(np.array(confidence), np.array(right), np.zeros(500))
    assert found.ece == pytest.approx(0, abs=1e-12)
    assert found.queries.sum() == 500
    assert found.accuracy[found.queries > 0] == pytest.approx(found.confidence[found.queries > 0])


def test_the_error_of_an_overconfident_predictor_is_what_it_is_too_sure_of():
    confidence, right = np.full(200, 0.95), np.arange(200) % 2 == 0
    found = calibration(confidence, right, np.full(200, 0.7))
    assert (found.ece, found.nll) == (pytest.approx(0.45), pytest.approx(0.7))
    (line,) = found.to_table()["curve"]
    assert (line["queries"], line["accuracy"], line["confidence"]) == (200, 0.5, pytest.approx(0.95))


def test_a_bin_holds_its_upper_edge():
    found = calibration(np.array([0.0, 1 / 15, np.nextafter(1 / 15, 1), 1.0]), np.ones(4, bool), np.zeros(4))
    assert found.queries.tolist() == [2, 1, *[0] * 12, 1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_the_calibration_error_is_that_of_the_slow_twin(queries):
    confidence, right = (np.array(one) for one in zip(*queries, strict=True))
    found = calibration(confidence, right, np.zeros(len(right)))
    assert found.ece == pytest.approx(slow_ece(confidence.tolist(), right.tolist()), abs=1e-9)
    assert 0 <= found.ece <= 1


# Descriptors


def described(series, **options):
    return evaluate(Fixed(2), series, method="fixed", **options).descriptors


@pytest.mark.parametrize("spec", SPECS)
def test_descriptors_are_those_of_the_plans(spec):
    series = episodes.sample(WORLD, "test", SPECS[spec], length=30, seed=2)
    found, plans = described(series), [series.plan(i) for i in range(30)]
    known = stats.collect(plans, series.classes)
    for name in ("ways", "support", "imbalance", "coarsity"):
        assert found[name] == pytest.approx(known[name]), name
    assert found["shots"] == pytest.approx([mean(plan.counts(plan.support_labels)) for plan in plans])
    assert found["unlabeled"].tolist() == [len(plan.unlabeled) for plan in plans]
    assert found["distractor_rows"].tolist() == [(plan.unlabeled_labels < 0).sum() for plan in plans]
    assert found["open_queries"].tolist() == [(plan.query_labels < 0).sum() for plan in plans]
    if spec != "even":
        assert found["distractors"].tolist() == [len(plan.distractor_ids) for plan in plans]


def test_the_novel_share_is_described():
    chosen = Selection(split="test", overlap=0.4, overlap_with="train")
    spec = episodes.EpisodeSpec(ways=3, shots=1, queries=2)
    series = episodes.sample(WORLD, chosen, spec, length=40)
    novel = described(series)["novel"]
    seen = dict(zip(series.classes.ids.tolist(), series.classes.seen.tolist(), strict=True))
    assert novel == pytest.approx([mean(not seen[c] for c in series.plan(i).class_ids.tolist()) for i in range(40)])
    assert len(set(novel.tolist())) > 1


def test_the_distance_to_the_classes_of_training_is_described():
    series = episodes.sample(WORLD, "test", SPECS["even"], length=30)
    trained = NAMES[:4]  # the whole of group 0, and the first of group 1
    assert "distance" not in described(series), "nobody says what was trained on"
    table = distance.distances("groups", WORLD.split("all"))
    wanted = [mean(min(table[c, t] for t in range(4)) for c in series.plan(i).class_ids.tolist()) for i in range(30)]
    assert described(series, trained_on=trained)["distance"] == pytest.approx(wanted)
    loose = episodes.sample(world(groups={}), "test", SPECS["even"], length=2)
    assert {"coarsity", "distance"}.isdisjoint(described(loose, trained_on=trained))


# Breakdowns


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=80), st.randoms(use_true_random=False))
def test_slices_hold_every_episode_once_and_equal_values_together(values, source):
    accuracy = np.array([source.random() for _ in values])
    found = breakdown.slices(accuracy, np.array(values, np.float64))
    assert sum(one.episodes for one in found) == len(values)
    assert all(one.high < two.low for one, two in itertools.pairwise(found))
    for one in found:
        own = np.array([a for a, v in zip(accuracy, values, strict=True) if one.low <= v <= one.high])
        assert (one.episodes, one.mean) == (len(own), pytest.approx(own.mean()))
        if len(own) > 1:
            assert one.interval95 == pytest.approx(1.96 * own.std(ddof=1) / math.sqrt(len(own)))
    few = len(set(values)) <= breakdown.VALUES
    assert len(found) == len(set(values)) if few else len(found) <= breakdown.QUANTILES


def test_accuracy_is_shown_against_what_differs_and_nothing_else():
    report = evaluate(Fixed(), episodes.sample(WORLD, "test", UNEVEN, length=60), method="fixed")
    assert {"ways", "support", "shots", "imbalance", "unlabeled", "distractors"} <= set(report.against)
    assert "open_queries" not in report.against
    for ways, part in zip(range(2, 6), report.against["ways"], strict=True):
        own = report.per_episode[report.descriptors["ways"] == ways]
        assert (part.low, part.high, part.episodes, part.mean) == (ways, ways, len(own), pytest.approx(own.mean()))
    even = evaluate(Fixed(), episodes.sample(WORLD, "test", SPECS["even"], length=20), method="fixed")
    assert set(even.against) == {"coarsity"}


def test_accuracy_above_chance_is_0_for_a_guess_and_1_for_an_oracle():
    ways = np.array([2.0, 5.0, 20.0])
    assert breakdown.normalised(1 / ways, ways) == pytest.approx([0, 0, 0])
    assert breakdown.normalised(np.ones(3), ways) == pytest.approx([1, 1, 1])
    assert breakdown.normalised(np.ones(1), np.ones(1)) is None
    series = episodes.sample(WORLD, "test", UNEVEN, length=50)
    report = evaluate(Fixed(), series, method="fixed")
    ways = np.array([series.plan(i).ways for i in range(50)])
    each = (report.per_episode - 1 / ways) / (1 - 1 / ways)
    assert report.normalised == pytest.approx(mean_and_interval(each))


def test_the_report_as_json_holds_it_all():
    series = episodes.sample(WORLD, "test", UNEVEN, length=20, seed=4)
    report = evaluate(Fixed(), series, method="fixed", trained_on=NAMES[:3])
    table = json.loads(json.dumps(report.to_table(), allow_nan=False))
    assert table["descriptors"]["open_queries"] == 0, "one number for what all share"
    assert table["descriptors"]["ways"] == report.descriptors["ways"].tolist()
    assert len(table["per_episode"]) == len(table["descriptors"]["support"]) == table["episodes"] == 20
    assert table["per_shots"]["1"]["queries"] == report.per_shots[1].queries
    assert table["per_class"]["class05"]["accuracy"] == report.per_class["class05"].score
    assert table["normalised"]["mean"] == report.normalised[0]
    assert table["calibration"]["bins"] == BINS
    assert sum(line["queries"] for line in table["calibration"]["curve"]) == sum(
        share.queries for share in report.per_class.values()
    )
    assert table["against"]["ways"][0]["low"] == 2
    assert table["timing"]["episodes_per_second"] > 0


def test_what_is_drawn_has_a_name_of_its_own_whatever_happens_to_the_values():
    images = MemoryStore(
        {"image": np.zeros((60, 1, 16, 16), np.uint8)},
        {f"c{c}": 10 for c in range(6)},
        splits={"w": {"test": [f"c{c}" for c in range(6)]}},
    )
    spec = episodes.EpisodeSpec(ways=3, shots=1, queries=2)

    class Zero(Fixed):
        def adapt(self, task):
            return lambda fields: torch.zeros(*fields["image"].shape[:2], task.ways)

    series = episodes.sample(images, "test", spec, length=2)
    changed = replace(series, transforms=(Transform(mean=(0.5,), std=(0.5,)),))
    one, two, three = (evaluate(Zero(), s, method="zero") for s in (series, changed, replace(series, seed=1)))
    assert one.fingerprint == one.drawn == two.drawn != two.fingerprint
    assert three.drawn != one.drawn


# The page


def test_the_page_lists_the_classes_of_least_and_of_most_accuracy():
    shares = {f"c{c:02d}": breakdown.Share(score=(c * 7 % 25) / 25, queries=5) for c in range(25)}
    order = sorted(shares, key=lambda name: shares[name].score)
    for num in (25, 14, 3):
        kept = {name: shares[name] for name in order[:num]}
        lowest, highest = page.extremes(SimpleNamespace(per_class=kept))
        assert [name for name, _ in lowest] == order[: min(10, num)]
        assert [name for name, _ in highest] == order[10:num][-10:][::-1], "the best first, and none twice"


def test_every_breakdown_is_a_picture():
    report = evaluate(Fixed(), episodes.sample(WORLD, "test", UNEVEN, length=60), method="fixed")
    pictures = [*page.breakdowns(report), plots.reliability(report.calibration)]
    assert len(pictures) == len(report.against) + 2
    assert all(one.startswith("<svg") for one in pictures)
