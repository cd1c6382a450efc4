"""Episode shards in place of a store: trained on and scored, with the numbers that the store gives."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_cli import refused, run

import episodes

COUNTS = ("--ways", 6, "--shots", 1, "--queries", 3)
TESTED = ("--ways", 3, "--queries", 3)
RECIPE = """
method = "protonet"
learner = {width = 8}
validate = {split = "val", ways = 3, queries = 3, episodes = 6}
evaluate = [{split = "test", ways = 3, queries = 3, episodes = 6}]
train = {steps = 4, validate_every = 4, accelerator = "cpu"}
"""


@pytest.fixture(scope="module")
def made(glyphs_store, tmp_path_factory) -> Path:
    """Runs on a store and on shards of the same episodes, and shards to score them with."""
    out = tmp_path_factory.mktemp("shards")
    (out / "small.toml").write_text(RECIPE)
    for split, options, count in (("train", COUNTS, 4), ("val", TESTED, 6), ("test", (*TESTED, "--seed", 5), 7)):
        run("compile", glyphs_store, "--split", split, *options, "--count", count, "-o", out / f"{split}.shards")
    flags = ("--recipe", out / "small.toml")
    run("train", "protonet", glyphs_store, "-o", out / "store", *COUNTS, *flags)
    run("train", "protonet", out / "train.shards", "--validate-on", glyphs_store, "-o", out / "shards", *flags)
    run("train", "protonet", out / "train.shards", "--validate-on", out / "val.shards", "-o", out / "both", *flags)
    return out


def lines(directory, kind):
    """What a run measured, but for times."""
    found = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    times = ("seconds", "data_seconds", "data_share")
    return [{k: v for k, v in line.items() if k not in times} for line in found if line["kind"] == kind]


def results(*args):
    return json.loads(run("evaluate", *args, "--json").stdout)["results"][0]


def test_training_on_shards_is_training_on_their_episodes(made):
    for name in ("shards", "both"):
        for kind in ("train", "val"):
            assert lines(made / name, kind) == lines(made / "store", kind)
    assert len(lines(made / "both", "train")) == 4
    data, stored = (json.loads((made / name / "data.json").read_text()) for name in ("shards", "store"))
    shards = episodes.open_shards(made / "train.shards")
    assert (data["content"], data["fingerprint"]) == (shards.manifest.content, stored["fingerprint"])
    assert (data["split"], data["classes"]) == ("glyphs/train", sorted(stored["classes"]))
    assert (data["store"], "store" in json.loads((made / "both" / "data.json").read_text())) == (stored["store"], False)
    assert "ways = 6" in (made / "shards" / "recipe.toml").read_text().replace('"', "")


def test_scores_on_shards_are_those_of_the_store(made):
    one = results(made / "store", "--seed", 5, "--episodes", 7, "-o", made / "a")
    two = results(made / "store", "--shards", made / "test.shards", "-o", made / "b")
    for table in (one, two):
        table.pop("seconds"), table.pop("timing")
    for name in ("coarsity", "distance"):  # shards do not know how their classes are related
        for part in ("descriptors", "against"):
            one[part].pop(name, None)
    assert one == two
    assert (one["episodes"], one["seen_classes"], one["split"], one["seed"]) == (7, 0, "glyphs/test", 5)
    assert "data:image/png" in (made / "b.html").read_text()


def test_runs_on_shards_are_evaluated(made):
    options = ("--shards", made / "test.shards", "-o", made / "c", "--overwrite")
    one, two, three = (results(made / name, *options)["per_episode"] for name in ("store", "shards", "both"))
    assert np.array_equal(one, two)
    assert np.array_equal(one, three)
    text = run("evaluate", made / "both", "--shards", made / "train.shards", "-o", made / "d").stdout
    classes = episodes.open_shards(made / "train.shards").manifest.about["class_names"]
    assert f"{len(classes)} CLASSES SEEN IN TRAINING" in text
    assert results(made / "shards", "-o", made / "e")["seen_classes"] == 0
    assert "was trained on episode shards; give --store" in refused("evaluate", made / "both", "-o", made / "f")


def test_payload_rows_is_scored_with_its_store(made, glyphs_store, tmp_path):
    rows = made / "rows.shards"
    run("compile", glyphs_store, "--split", "test", *TESTED, "--seed", 5, "--count", 7, "--payload", "rows", "-o", rows)
    options = ("--overwrite", "-o", made / "g", "--shards")
    wanted = results(made / "store", *options, made / "test.shards")["per_episode"]
    assert results(made / "store", *options, rows)["per_episode"] == wanted
    assert results(made / "both", *options, rows, "--store", glyphs_store)["per_episode"] == wanted
    run("ingest", "glyphs", tmp_path / "other.store", "--alphabets", 3)
    text = refused("evaluate", made / "store", *options, rows, "--store", tmp_path / "other.store")
    assert "was compiled from store" in text
    assert "holds row numbers only" in refused("evaluate", made / "both", *options, rows)


def test_what_is_refused(made, glyphs_store, tmp_path):
    train, out = made / "train.shards", tmp_path / "run"
    assert "give --validate-on with a store, or shards" in refused("train", "protonet", train, "-o", out)
    given = ("train", "protonet", train, "-o", out, "--validate-on", glyphs_store)
    assert "holds 4 episodes; 5 steps of 1 take 5 (compile more" in refused(*given, "--steps", 5)
    assert "holds 4 episodes; 2 steps of 3 take 6" in refused(*given, "--steps", 2, "--meta-batch", 3)
    assert "are compiled already; leave --ways out" in refused(*given, "--steps", 2, "--ways", 3)
    assert "leave --transform out" in refused(*given, "--steps", 2, "--transform", "flip=true")
    assert "leave --validate-on out" in refused("train", "protonet", glyphs_store, "-o", out, "--validate-on", glyphs_store)
    leaky = ("train", "protonet", made / "test.shards", "--validate-on", glyphs_store, "-o", out, "--steps", 2)
    assert "is in training split 'glyphs/test' and in test split 'glyphs/test'" in refused(*leaky)
    assert not out.exists()
    score = ("evaluate", made / "store", "-o", tmp_path / "r", "--shards")
    assert "leave --seed out" in refused(*score, made / "test.shards", "--seed", 3)
    assert "no episode shards at" in refused(*score, tmp_path / "none")
    assert "is no manifest of episode shards" in refused(*score, glyphs_store)


def test_shards_deliver_images_as_in_training(made, glyphs_store, tmp_path):
    look, test, train = ("--transform", "mean=[0.5]"), tmp_path / "t.shards", tmp_path / "u.shards"
    run("compile", glyphs_store, "--split", "test", *TESTED, "--count", 6, *look, "-o", test)
    text = refused("evaluate", made / "store", "--shards", test, "-o", tmp_path / "r")
    assert "give both the same layout, dtype, mean and std" in text
    run("compile", glyphs_store, *COUNTS, "--count", 4, *look, "-o", train)
    options = ("--recipe", made / "small.toml", "--validate-on", glyphs_store)
    run("train", "protonet", train, "-o", tmp_path / "run", *options)
    assert results(tmp_path / "run", "--shards", test, "-o", tmp_path / "s")["episodes"] == 6
    assert "Episode 0" not in (tmp_path / "s.html").read_text()  # normalised: no picture to show


def test_training_on_shards_is_resumed(made, glyphs_store):
    args = ("train", "protonet", made / "train.shards", "--validate-on", glyphs_store, "-o", made / "shards", "--resume")
    assert "validation: protonet" in run(*args).stdout
    assert "leave these out" in refused(*args, "--steps", 9)
