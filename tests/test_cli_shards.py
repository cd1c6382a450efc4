"""Episode shards in place of a store: trained on and scored, with the numbers that the store gives."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_cli import SHORT, other_store, refused, run  # noqa: F401 - a fixture

import episodes

COUNTS = ("--ways", 6, "--shots", 1, "--queries", 3)
FEW = ("--test-ways", 3, "--test-queries", 3)


@pytest.fixture(scope="module")
def made(glyphs_store, tmp_path_factory) -> Path:
    """Runs on a store and on shards of the same episodes, and shards to score them with."""
    out = tmp_path_factory.mktemp("shards")
    for split, options in (("train", COUNTS), ("val", ("--ways", 3, "--queries", 3)), ("test", ("--ways", 3, "--seed", 5))):
        count = 4 if split == "train" else 200 if split == "val" else 20
        run("compile", glyphs_store, "--split", split, *options, "--count", count, "-o", out / f"{split}.shards")
    flags = ("--steps", 4, "--validate-every", 2, "--width", 8, "--accelerator", "cpu", *FEW)
    run("train", "protonet", glyphs_store, "-o", out / "store", *COUNTS, *flags)
    run("train", "protonet", out / "train.shards", "--validate-on", glyphs_store, "-o", out / "shards", *flags)
    run("train", "protonet", out / "train.shards", "--validate-on", out / "val.shards", "-o", out / "both", *flags)
    return out


def lines(directory, kind):
    found = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if "seconds" not in k and k != "data_share"}
        for line in found
        if line["kind"] == kind
    ]


def test_training_on_shards_is_training_on_their_episodes(made):
    for name in ("shards", "both"):
        assert lines(made / name, "train") == lines(made / "store", "train")
        assert lines(made / name, "val") == lines(made / "store", "val")
    data = json.loads((made / "shards" / "data.json").read_text())
    shards = episodes.open_shards(made / "train.shards")
    assert (data["content"], data["split"]) == (shards.manifest.content, "glyphs/train")
    assert data["classes"] == sorted(json.loads((made / "store" / "data.json").read_text())["classes"])
    assert "store" not in json.loads((made / "both" / "data.json").read_text())
    recipe = (made / "shards" / "recipe.toml").read_text()
    assert "ways = 6" in recipe or 'ways = "6"' in recipe


def test_scores_on_shards_are_those_of_the_store(made, glyphs_store):
    run("evaluate", made / "store", "--ways", 3, "--seed", 5, "--episodes", 20, "-o", made / "a")
    text = run("evaluate", made / "store", "--shards", made / "test.shards", "-o", made / "b").stdout
    assert "protonet 3-way 1-shot on glyphs/test: accuracy" in text
    assert "SEEN" not in text
    one, two = (json.loads((made / f"{name}.json").read_text())["results"][0] for name in "ab")
    assert one.pop("seconds") != two.pop("seconds")
    assert one == two
    assert "data:image/png" in (made / "b.html").read_text()


def test_runs_on_shards_are_evaluated(made, glyphs_store):
    args = ("--shards", made / "test.shards", "--json", "-o", made / "c", "--overwrite")
    results = [json.loads(run("evaluate", made / name, *args).stdout)["results"][0] for name in ("store", "shards", "both")]
    for result in results:
        np.testing.assert_array_equal(result["per_episode"], results[0]["per_episode"])
    text = run("evaluate", made / "both", "--shards", made / "train.shards", "-o", made / "d").stdout
    assert f"{len(episodes.open_shards(made / 'train.shards').manifest.about['class_names'])} CLASSES SEEN" in text
    assert run("evaluate", made / "shards", "--episodes", 5, "-o", made / "e").stdout
    assert "was trained on episode shards; give --store, or --shards" in refused(
        "evaluate", made / "both", "-o", made / "f"
    )


def test_payload_rows_is_scored_with_its_store(made, glyphs_store, other_store):
    run("compile", glyphs_store, "--split", "test", "--ways", 3, "--seed", 5, "--count", 20, "--payload", "rows",
        "-o", made / "rows.shards")  # fmt: skip
    args = ("--shards", made / "rows.shards", "--json", "-o", made / "g", "--overwrite")
    wanted = run("evaluate", made / "store", "--shards", made / "test.shards", "--json", "-o", made / "h").stdout
    for options in ((), ("--store", glyphs_store)):
        got = run("evaluate", made / "store", *args, *options).stdout
        assert json.loads(got)["results"][0]["per_episode"] == json.loads(wanted)["results"][0]["per_episode"]
    assert "was compiled from store" in refused("evaluate", made / "store", *args, "--store", other_store)


def test_what_is_refused(made, glyphs_store, tmp_path):
    train, out = made / "train.shards", tmp_path / "run"
    base = ("train", "protonet", train, "-o", out)
    assert "give --validate-on with a store, or shards" in refused(*base, *SHORT[:4])
    given = (*base, "--validate-on", glyphs_store, "--validate-every", 2, "--accelerator", "cpu")
    assert "holds 4 episodes; 5 steps of 1 take 5 (compile more" in refused(*given, "--steps", 5)
    assert "holds 4 episodes; 2 steps of 3 take 6" in refused(*given, "--steps", 2, "--meta-batch", 3)
    assert "are compiled already; leave --ways out" in refused(*given, "--steps", 2, "--ways", 3)
    assert "leave --transform out" in refused(*given, "--steps", 2, "--transform", "flip=true")
    assert "leave --validate-on out" in refused("train", "protonet", glyphs_store, "-o", out, "--validate-on", glyphs_store)
    leaky = refused("train", "protonet", made / "test.shards", "--validate-on", glyphs_store, "-o", out, "--steps", 2)
    assert "is in training split 'glyphs/test' and in test split 'glyphs/test'" in leaky
    assert not out.exists()
    score = ("evaluate", made / "store", "-o", tmp_path / "r")
    assert "leave --seed out" in refused(*score, "--shards", made / "test.shards", "--seed", 3)
    assert "no episode shards at" in refused(*score, "--shards", tmp_path / "none")
    assert "is no manifest of episode shards" in refused(*score, "--shards", glyphs_store)


def test_shards_deliver_images_as_in_training(made, glyphs_store, tmp_path):
    look = ("--transform", "mean=[0.5]", "--transform", "std=[0.5]")
    run("compile", glyphs_store, "--split", "test", "--ways", 3, "--count", 6, *look, "-o", tmp_path / "t.shards")
    text = refused("evaluate", made / "store", "--shards", tmp_path / "t.shards", "-o", tmp_path / "r")
    assert "give both the same layout, dtype, mean and std" in text
    run("compile", glyphs_store, "--split", "train", *COUNTS, "--count", 4, *look, "-o", tmp_path / "u.shards")
    run("train", "protonet", tmp_path / "u.shards", "--validate-on", glyphs_store, "-o", tmp_path / "run", "--steps", 4,
        "--validate-every", 2, "--width", 8, "--accelerator", "cpu", *FEW)  # fmt: skip
    run("evaluate", tmp_path / "run", "--shards", tmp_path / "t.shards", "-o", tmp_path / "s")
    assert json.loads((tmp_path / "s.json").read_text())["results"][0]["episodes"] == 6


def test_training_on_shards_is_resumed(made, glyphs_store, tmp_path):
    run("compile", glyphs_store, *COUNTS, "--count", 8, "-o", tmp_path / "t.shards")
    args = ("train", "protonet", tmp_path / "t.shards", "--validate-on", glyphs_store, "-o", tmp_path / "run")
    run(*args, "--steps", 8, "--validate-every", 4, "--width", 8, "--accelerator", "cpu", *FEW)
    assert "validation: protonet" in run(*args, "--resume").stdout
    assert "leave these out" in refused(*args, "--resume", "--steps", 9)
