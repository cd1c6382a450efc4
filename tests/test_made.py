"""Data sets made on demand: every row a pure function of its number, episodes and commands as of any other store."""

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import episodes
from cli.episode_table import Source
from cli.main import main
from episodes import rng
from episodes.errors import ConfigError, PluginNotFound, SpecError, StoreError
from episodes.made import Made, store_place
from episodes.makers import sinusoids
from episodes.spec import EpisodeSpec
from episodes.testing import check_maker

SPEC = EpisodeSpec(ways=1, shots=5, queries=7)
SMALL = "made:sinusoids,rows=50,seed=2,test=20,train=40,val=30"


def run(*args, code=0):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == code, result.output + result.stderr
    return result


def small(**options):
    return episodes.make("sinusoids", **{"train": 40, "val": 30, "test": 20, "rows": 50, "seed": 2, **options})


def words(seed, stream, purpose, slot, index):
    """The first block, by NumPy's own generator."""
    key, counter = np.array([seed, stream], np.uint64), np.array([0, slot, int(purpose), index], np.uint64)
    generator = np.random.Philox(key=key, counter=counter)
    return [float(word >> np.uint64(11)) * 2.0**-53 for word in generator.random_raw(4)]


def point(seed, c, place):
    """(amplitude, phase, x, y) in plain Python."""
    stream = rng.stream_key("made", "sinusoids", 1)
    a, p, *_ = words(seed, stream, rng.MADE_CLASS, c, 0)
    amplitude, phase = 0.1 + 4.9 * a, math.pi * p
    x = np.float32(-5 + 10 * words(seed, stream, rng.MADE_ROW, c, place)[0])
    return amplitude, phase, x, amplitude * math.sin(float(x) - phase)


def test_rows_are_those_of_a_slow_twin():
    store = small()
    rows = np.array([0, 49, 50, 1234, 4499])
    values, known = store.read(rows), store.class_fields
    for i, row in enumerate(rows.tolist()):
        amplitude, phase, x, y = point(2, *divmod(row, 50))
        assert values["x"][i, 0] == x
        assert values["y"][i, 0] == pytest.approx(y, abs=1e-6)
        assert known["amplitude"][row // 50] == np.float32(amplitude)
        assert known["phase"][row // 50] == np.float32(phase)


@given(st.lists(st.integers(0, 90 * 50 - 1), min_size=1, max_size=40))
@settings(max_examples=30, deadline=None)
def test_a_row_is_the_same_whatever_is_read_with_it(rows):
    store = small()
    values = store.read(np.array(rows))
    for i, row in enumerate(rows):
        alone = store.read(np.array([row]))
        assert all(values[name][i] == alone[name][0] for name in values)


def test_the_maker_keeps_the_laws():
    check_maker(sinusoids.make(sinusoids.Options()))
    check_maker(sinusoids.make(sinusoids.Options(train=3, val=1, test=1, rows=2, seed=2**64 - 1)))


def test_functions_are_spread_as_published():
    known = episodes.make("sinusoids").class_fields
    for name, low, high in (("amplitude", 0.1, 5.0), ("phase", 0.0, math.pi)):
        values = known[name]
        assert values.min() >= low
        assert values.max() <= high
        tenths, _ = np.histogram(values, 10, (low, high))
        expected = len(values) / 10
        assert ((tenths - expected) ** 2 / expected).sum() < 33.7, "chi-square of 9 degrees, one in 10,000"
    assert abs(np.corrcoef(known["amplitude"], known["phase"])[0, 1]) < 0.02
    x = episodes.make("sinusoids").read(np.arange(20_000) * 10_007)["x"]
    assert abs(float(x.mean())) < 0.1
    assert float(x.std()) == pytest.approx(10 / math.sqrt(12), abs=0.05)


def test_splits_share_no_function():
    store = small()
    train, val, test = (store.split(name) for name in ("train", "sinusoids/val", "test"))
    assert [len(one) for one in (train, val, test)] == [40, 30, 20]
    assert np.array_equal(np.concatenate([train.ids, val.ids, test.ids]), store.split("all").ids)
    both = store.split("test+train")
    assert both.split == "sinusoids/train+test"
    assert np.array_equal(both.ids, np.concatenate([train.ids, test.ids]))
    assert list(store.split("all").names) == sorted(store.split("all").names)
    assert store.split("train") is train
    for wrong in ("tests", "omniglot/train", "train+tset"):
        with pytest.raises(SpecError, match=f"unknown split '{wrong}'".replace("+", r"\+")):
            store.split(wrong)


@pytest.mark.parametrize(("workers", "block"), [(0, None), (2, None), (0, 4), (2, 4)])
def test_episodes_are_the_same_for_any_stream(workers, block):
    series = episodes.sample(small(), "train", SPEC, seed=1)
    with episodes.Stream(series, workers=workers, block=block) as stream:
        for index in range(12 // (block or 1)):
            item = next(stream)
            for one in [item] if block is None else item:
                assert one.index // (block or 1) == index
                expected = series[one.index]
                for part, other in ((one.support, expected.support), (one.query, expected.query)):
                    assert all(np.array_equal(part.fields[name], other.fields[name]) for name in ("x", "y"))
                assert np.array_equal(one.class_fields["phase"], expected.class_fields["phase"])


def test_an_episode_lies_on_its_function():
    one = episodes.sample(small(), "val", SPEC)[3]
    amplitude, phase = (one.class_fields[name][0] for name in ("amplitude", "phase"))
    for part in (one.support, one.query):
        assert np.allclose(part.fields["y"], amplitude * np.sin(part.fields["x"] - phase), atol=1e-5)


def test_the_fingerprint_is_of_the_definition():
    assert small().fingerprint == small().fingerprint
    assert len({small().fingerprint, small(seed=3).fingerprint, small(train=41).fingerprint}) == 3


def test_what_cannot_be_is_refused():
    with pytest.raises(PluginNotFound, match="unknown made data set 'sinusoid'; did you mean 'sinusoids'"):
        episodes.make("sinusoid")
    with pytest.raises(ConfigError, match="sinusoids.sed: unknown key; did you mean 'seed'"):
        small(sed=1)
    with pytest.raises(ConfigError, match="sinusoids.rows: expected 1 or more, got 0"):
        small(rows=0)
    with pytest.raises(StoreError, match="are too many rows"):
        small(train=2**40, rows=2**40)
    with pytest.raises(StoreError, match=r"rows 0..4500 are not all in 0..4499"):
        small().read(np.array([0, 4500]))
    with pytest.raises(StoreError, match="made:sinusoids is no file: it is made on demand"):
        episodes.open("made:sinusoids")
    assert small().keys(np.array([0, 51])) == ["0", "1"]


def test_a_name_reads_as_it_is_written():
    place = store_place("made:sinusoids,train=40,seed=2")
    assert place == Made("sinusoids", {"seed": 2, "train": 40})
    assert str(place.resolve()) == "made:sinusoids,seed=2,train=40"
    assert store_place(str(place)) == place
    assert store_place(place) is place
    assert hash(place) == hash(Made("sinusoids"))
    assert episodes.open(place).num_classes == 20_040
    assert Source(store="made:sinusoids,train=40,seed=2").store == str(place), "in a recipe, too, and no path is made of it"
    assert store_place("made:x,mode=flat").options == {"mode": "flat"}
    with pytest.raises(ConfigError, match="expected made:NAME,OPTION=VALUE,..., got 'made:x,mode'"):
        store_place("made:x,mode")


def test_the_commands_of_stores_take_the_name(tmp_path):
    text = run("inspect", SMALL).stdout
    assert text.startswith(f"{SMALL}: 90 classes, 4,500 samples, made on demand\n")
    assert "splits sinusoids: train 40 / val 30 / test 20" in text
    about = json.loads(run("inspect", SMALL, "--json").stdout)
    assert about["fingerprint"] == small().fingerprint
    assert about["fields"]["y"] == {"dtype": "float32", "shape": [1]}
    plan = json.loads(run("plan", SMALL, "--ways", 1, "--shots", 5, "--queries", 7).stdout)
    assert plan["support"] == episodes.sample(small(), "train", SPEC).plan(0).support.tolist()
    assert plan["source"] == "sinusoids"
    run("freeze", SMALL, "--count", 3, "--ways", 1, "--queries", 7, "-o", tmp_path / "list.jsonl")
    run("compile", SMALL, "--count", 3, "--ways", 1, "--shots", 5, "--queries", 7, "-o", tmp_path / "shards")
    read, made = episodes.open_shards(tmp_path / "shards")[2], episodes.sample(small(), "train", SPEC)[2]
    assert np.array_equal(read.query.fields["y"], made.query.fields["y"])


def test_shards_of_more_rows_than_memory_holds_are_verified(tmp_path):
    big, shards = "made:sinusoids,rows=1000000000", tmp_path / "shards"
    run("compile", big, "--split", "test", "--count", 4, "--ways", 1, "--queries", 7, "--payload", "rows", "-o", shards)
    assert run("verify", shards).exit_code == 0
    assert run("verify", shards, "--store", big).exit_code == 0
    assert "was compiled from store" in run("verify", shards, "--store", "made:sinusoids", code=2).stderr


def test_commands_that_need_files_or_pictures_say_so(tmp_path):
    assert "no bytes to --verify" in run("inspect", SMALL, "--verify", code=2).stderr
    assert "no image field; its fields are x, y" in run("show", SMALL, "-o", tmp_path / "a.png", code=2).stderr
    assert "made on demand and has no files" in run("verify", SMALL, code=2).stderr
    assert "unknown made data set 'sinus'" in run("plan", "made:sinus", code=2).stderr
    frozen = run("freeze", SMALL, "--runs", tmp_path / "runs.zip", "-o", tmp_path / "list.jsonl", code=2)
    assert "made on demand; leave --runs out" in frozen.stderr
