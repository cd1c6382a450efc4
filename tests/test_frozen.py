"""Frozen lists and interactive episodes: written, read by another reader, corrupted, asked in any order."""

import dataclasses
import hashlib
import json
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from worlds import class_index, memory_store

import episodes
from episodes import frozen
from episodes.errors import EpisodesError, SpecError, StateMismatch
from episodes.interactive import Oracle, at_random, in_order, learning_curve, one_by_one
from episodes.sampling import uniform
from episodes.spec import EpisodeSpec

STORE = memory_store([20] * 12)
SPEC = EpisodeSpec(ways="2..4", shots="1..3", queries=2, unlabeled=2, distractors=1)
PLANS = [episodes.sample(STORE, "train", SPEC, seed=3).plan(i) for i in range(8)]


def names(rows):
    return [f"key{row}" for row in rows.tolist()]


@pytest.fixture
def path(tmp_path):
    """A list of eight episodes."""
    frozen.write(tmp_path / "l.jsonl", PLANS, fingerprint=STORE.fingerprint, seed=3, source="world", keys=names)
    return tmp_path / "l.jsonl"


def loaded(path, **settings_):
    return frozen.load(path, STORE.split("train"), **{"fingerprint": STORE.fingerprint, **settings_})


def test_a_list_comes_back_as_it_was_written(path, tmp_path):
    found = loaded(path)
    for one, two in zip(found.plans, PLANS, strict=True):
        for name in ("class_ids", "support", "support_labels", "query", "query_labels", "unlabeled", "unlabeled_labels",
                     "distractor_ids", "variants"):  # fmt: skip
            assert np.array_equal(getattr(one, name), getattr(two, name)), name
    write = partial(frozen.write, fingerprint=STORE.fingerprint, seed=3, source="world", keys=names)
    assert write(tmp_path / "again.jsonl", found.plans) == found.list_hash
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()
    assert found.list_hash == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(EpisodesError, match="exists; give --overwrite"):
        write(path, PLANS)


def test_a_second_reader_understands_the_list(path):
    header, *lines = path.read_bytes().decode().split("\n")[:-1]
    assert json.loads(header)["count"] == len(lines) == 8
    for i, line in enumerate(lines):
        entry = json.loads(line)
        assert line == json.dumps(entry, sort_keys=True, separators=(",", ":"))
        assert (entry["i"], entry["source"]) == (i, "world")
        assert sum(entry["shots"]) == len(entry["support"])
        assert b"\r" not in path.read_bytes()


def test_a_list_is_pinned(path):
    """The bytes are the format: a change here is a new format version, or a new version of the sampler."""
    assert loaded(path).list_hash[:16] == "31539f78f83e2f79"


def test_lists_over_two_stores_of_the_same_data_agree_by_their_keys(tmp_path):
    def shifted(rows):
        return names(rows - 1000)

    moved = [
        type(p)(**{f: getattr(p, f) + (1000 if f in ("support", "query", "unlabeled") else 0)
                   for f in ("index", "class_ids", "variants", "support", "support_labels", "query", "query_labels",
                             "unlabeled", "unlabeled_labels", "distractor_ids")})
        for p in PLANS
    ]  # fmt: skip
    for file, plans, keys in (("a", PLANS, names), ("b", moved, shifted)):
        frozen.write(tmp_path / file, plans, fingerprint=file, seed=0, source="w", keys=keys)
    headers = [json.loads((tmp_path / file).read_text().splitlines()[0]) for file in ("a", "b")]
    assert headers[0]["keys"] == headers[1]["keys"]


SELECTIONS = st.builds(
    episodes.Selection,
    split=st.text(min_size=1, max_size=12),
    rotations=st.booleans(),
    min_rows=st.integers(0, 99),
    labeled=st.floats(0, 1),
    labeled_seed=st.integers(0, 2**63 - 1),
    rows=st.sampled_from(["all", "front", "back"]),
    base=st.none() | st.text(min_size=1, max_size=5),
    overlap_seed=st.integers(0, 9),
)


@given(SELECTIONS)
@settings(max_examples=150, deadline=None)
def test_a_list_says_what_its_classes_were_drawn_from(tmp_path_factory, selection):
    path = tmp_path_factory.getbasetemp() / "selected.jsonl"
    about = {"fingerprint": STORE.fingerprint, "seed": 3, "source": "a\u2028b", "keys": names, "overwrite": True}
    frozen.write(path, PLANS, selection=selection, **about)
    assert frozen.selection_of(path) == selection
    found = loaded(path)
    assert (found.selection, found.source, len(found)) == (selection, "a\u2028b", 8)
    header = path.read_bytes().decode().split("\n")[0]
    assert header == json.dumps(json.loads(header), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    defaults = vars_of(episodes.Selection())
    written = json.loads(header)["selection"]
    assert written == {n: v for n, v in vars_of(selection).items() if n == "split" or v != defaults[n]}
    frozen.write(path, PLANS, **about)
    assert frozen.selection_of(path) is loaded(path).selection is None
    assert set(json.loads(path.read_bytes().split(b"\n")[0])) == {"count", "fingerprint", "format", "keys", "seed"}


def vars_of(selection):
    return {f.name: getattr(selection, f.name) for f in dataclasses.fields(selection)}


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ({"spilt": "train"}, "line 1: selection.spilt: unknown key; did you mean 'split'"),
        ({"split": 3}, "line 1: selection.split: expected str, got 3"),
        ({"split": "train", "rows": "some"}, "line 1: selection.rows='some' is unknown"),
        ("train", "line 1: selection: expected a table, got 'train'"),
    ],
)
def test_selections_that_are_none_are_named(path, selection, words):
    edited(path, 0, selection=selection)
    for read in (frozen.selection_of, loaded):
        with pytest.raises(SpecError, match=words):
            read(path)
    with pytest.raises(SpecError, match="cannot read frozen list"):
        frozen.selection_of(path.with_name("none"))


def test_classes_of_another_split_are_refused_with_the_split_they_are_of(path):
    store = memory_store([20] * 12, num_train=6)
    edited(path, 0, selection={"split": "world/all"})
    with pytest.raises(SpecError, match=r"which split 'world/test' has not \(the list is over 'world/all'\)"):
        frozen.load(path, store.split("test"), STORE.fingerprint)


def edited(path, line, **values):
    lines = path.read_text().splitlines()
    entry = json.loads(lines[line])
    for name, value in values.items():
        entry[name] = value(entry[name]) if callable(value) else value
    lines[line] = json.dumps(entry, sort_keys=True, separators=(",", ":"))
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"query": lambda rows: [*rows[:-1], rows[0]]},
            "episode 2(: row .* is not a row of| has row .* twice)",
        ),
        ({"support": lambda rows: [*rows[:-1], 10**6]}, "episode 2: row 1000000 is not a row of class"),
        ({"support": lambda rows: rows[:-1]}, "counts and rows do not match"),
        ({"class_ids": lambda ids: [*ids[:-1], ids[0]]}, "episode 2 has class .* twice"),
        ({"class_ids": lambda ids: [*ids[:-1], 99]}, "episode 2 has class 99, which split 'world/train' has not"),
        ({"i": 7}, "episode 2: its index is 7"),
        ({"unlabeled_labels": lambda labels: [9] * len(labels)}, "episode 2 has a label outside"),
        ({"shots": "many"}, "episode 2 is not an episode"),
    ],
)
def test_episodes_that_break_a_law_are_named(path, values, words):
    edited(path, 3, **values)
    with pytest.raises(SpecError, match=words):
        loaded(path)


def test_a_distractor_that_is_a_class_of_the_episode_is_named(path):
    edited(path, 1, distractor_ids=[int(PLANS[0].class_ids[0])])
    with pytest.raises(SpecError, match=f"class {PLANS[0].class_ids[0]} is one of its classes and a distractor"):
        loaded(path)


def test_the_same_row_in_support_and_query_is_named(path):
    row = int(PLANS[0].support[0])
    edited(path, 1, query=lambda rows: [row, *rows[1:]])
    with pytest.raises(SpecError, match=f"episode 0 has row {row} twice"):
        loaded(path)


def test_lists_of_another_store_count_format_or_hash_are_refused_with_both_values(path):
    with pytest.raises(StateMismatch, match=f"has fingerprint {STORE.fingerprint}; expected other"):
        loaded(path, fingerprint="other")
    with pytest.raises(StateMismatch, match=r"has hash [0-9a-f]{64}; expected 00"):
        loaded(path, expected="00")
    edited(path, 0, format=2)
    with pytest.raises(StateMismatch, match="has format 2; expected 1"):
        loaded(path)
    edited(path, 0, format=1)
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(StateMismatch, match="has count 8; expected 7"):
        loaded(path)
    path.write_text("{")
    with pytest.raises(SpecError, match="line 1 is not JSON"):
        loaded(path)
    with pytest.raises(SpecError, match="cannot read frozen list"):
        loaded(path.with_name("none"))


def test_a_frozen_list_is_a_policy_like_any_other(path):
    series = episodes.sample(STORE, "train", SPEC, sampler="frozen", options={"path": str(path)})
    assert series.length == 8
    assert np.array_equal(series[5].support.rows, PLANS[5].support)
    with pytest.raises(SpecError, match="index 8 is beyond"):
        series.plan(8)
    with pytest.raises(EpisodesError, match="the sampler frozen needs the list"):
        episodes.sample(STORE, "train", SPEC, sampler="frozen")


POOL = EpisodeSpec(ways=5, shots=0, queries=3, unlabeled=6, distractors=2)
EPISODE = uniform.make(uniform.Options()).plan(class_index([20] * 12), POOL, 1, 4)


@given(st.permutations(range(42)), st.floats(0, 1), st.integers(0, 2**64 - 1))
@settings(max_examples=100, deadline=None)
def test_the_same_row_gets_the_same_answer_in_any_order(order, noise, seed):
    one, two = (Oracle(EPISODE, budget=42, noise=noise, seed=seed) for _ in range(2))
    whole = one.ask(np.arange(42))
    pieces = [two.ask(order[:10]), two.ask(order[10:11]), two.ask(order[11:])]
    assert np.array_equal(whole[order], np.concatenate(pieces))
    assert two.asked == tuple(order)
    assert (one.remaining, len(one.pool)) == (0, 0)
    distractor = EPISODE.unlabeled_labels < 0
    assert (whole[distractor] == -1).all()
    assert (whole[~distractor] >= 0).all()


def test_answers_are_true_but_for_the_noise_that_was_asked():
    true = EPISODE.unlabeled_labels
    assert Oracle(EPISODE, budget=99).ask(np.arange(42)).tolist() == true.tolist()
    wrong, told = 0, []
    for seed in range(200):
        answers = Oracle(EPISODE, budget=99, noise=0.3, seed=seed).ask(np.arange(42))
        wrong += int((answers != true).sum())
        told += [(a - t) % 5 for a, t in zip(answers.tolist(), true.tolist(), strict=True) if a != t]
    assert stats.binomtest(wrong, 200 * 30, 0.3).pvalue > 1e-4
    assert stats.chisquare(np.bincount(told, minlength=5)[1:]).pvalue > 1e-4, "each other label alike"


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ([42], "place 42 is not in the pool of 42 rows"),
        ([-1], "place -1 is not in the pool"),
        ([3, 3], "place 3 .* was asked already"),
        ([0], "place 0 .* was asked already"),
        ([1, 2, 3, 4, 5], "5 places in one request; batch=4"),
        ([1, 2, 3], r"the request costs 3; 2 of budget=3 remain"),
        ([0.5], "is not a list of whole numbers"),
    ],
)
def test_a_request_that_cannot_be_answered_costs_and_reveals_nothing(places, words):
    oracle = Oracle(EPISODE, budget=3, batch=4)
    oracle.ask([0])
    with pytest.raises(SpecError, match=words):
        oracle.ask(places)
    assert (oracle.remaining, oracle.asked) == (2, (0,))
    oracle.close()
    with pytest.raises(SpecError, match="the oracle is closed"):
        oracle.ask([1])


@pytest.mark.parametrize(
    "settings_",
    [{"budget": -1}, {"budget": float("nan")}, {"budget": 1, "noise": 1.5}, {"budget": 1, "costs": [1, 2]},
     {"budget": 1, "costs": [-1] * 6}, {"budget": 1, "batch": 0}, {"budget": 1, "seed": -1}],
)  # fmt: skip
def test_oracles_that_make_no_sense_are_refused(settings_):
    with pytest.raises(SpecError, match=f"{list(settings_)[-1]}="):
        Oracle(EPISODE, **settings_)


@pytest.mark.parametrize("policy", [in_order, partial(at_random, seed=2)], ids=["in-order", "random"])
def test_policies_spend_the_budget_and_draw_a_learning_curve(policy):
    costs = [1.0, 1.0, 2.0, 1.0, 1.0, 3.0]
    oracle = Oracle(EPISODE, budget=20, costs=costs, batch=3)
    curve = learning_curve(oracle, policy, lambda places, labels: len(labels) / 42)
    assert curve.labels[0] == 0
    assert curve.final == curve.scores[-1] == len(oracle.asked) / 42
    assert 0 < curve.area < curve.final
    assert oracle.remaining < 3
    again = Oracle(EPISODE, budget=20, costs=costs, batch=3)
    assert learning_curve(again, policy, lambda places, labels: 0.0).labels.tolist() == curve.labels.tolist()
    assert again.asked == oracle.asked


def test_in_a_stream_a_place_is_asked_now_or_never():
    oracle = Oracle(EPISODE, budget=5)
    seen = []
    for place in one_by_one(oracle, seed=3):
        if seen:
            with pytest.raises(SpecError, match="are not on offer|was asked already"):
                oracle.ask([seen[-1]])
        if place % 3 == 0 and oracle.remaining >= 1:
            assert oracle.ask([place]).tolist() == [EPISODE.unlabeled_labels[place]]
        seen.append(place)
    assert sorted(seen) == list(range(42))
    assert len(oracle.asked) == 5
    assert seen == list(one_by_one(Oracle(EPISODE, budget=5), seed=3))
