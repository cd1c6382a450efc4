"""The command line as a user runs it: the road, and one line with exit code 2 for every mistake."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import real_data
from click.testing import CliRunner
from PIL import Image

from cli.main import main
from cli.recipe import read
from episodes import plugins
from learners import metrics

COMMANDS = ("demo", "evaluate", "freeze", "ingest", "inspect", "plan", "show", "split", "train")


def run(*args, code=0):
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exit_code == code, result.output + result.stderr + repr(result.exception)
    return result


def refused(*args):
    """The one line of a refusal."""
    lines = [line for line in run(*args, code=2).stderr.splitlines() if line.startswith(("error:", "Error:"))]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def trained(glyphs_store, tmp_path_factory) -> Path:
    """A run of a few steps."""
    out = tmp_path_factory.mktemp("runs") / "run"
    flags = ("--steps", 6, "--validate-every", 3, "--width", 8, "--ways", 8, "--queries", 3, "--checkpoint-every", 2)
    result = run("train", "protonet", glyphs_store, "-o", out, *flags, "--seed", 3, "--accelerator", "cpu")
    assert "validation: protonet 5-way 1-shot on glyphs/val: accuracy" in result.stdout
    return out


SHORT = ("--steps", 4, "--validate-every", 2, "--width", 8, "--ways", 6, "--queries", 3, "--accelerator", "cpu")


@pytest.fixture(scope="module")
def other_store(tmp_path_factory) -> Path:
    """Other glyphs than those of `glyphs_store`, of the same shape."""
    path = tmp_path_factory.mktemp("other") / "other.store"
    run("ingest", "glyphs", path, "--alphabets", 8)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    assert "Usage:" in run(command, "--help").stdout


@pytest.mark.parametrize("name", plugins.names(plugins.READERS))
def test_every_reader_has_help_with_defaults(name):
    text = run("ingest", name, "--help").stdout
    assert "--skip-broken" in text
    assert "[default:" in text


def test_plans_are_one_object_a_line_and_repeat(glyphs_store):
    args = ("plan", glyphs_store, "--ways", 3, "--shots", 2, "--queries", 1, "--unlabeled", 1, "--count", 4, "--seed", 9)
    lines = run(*args).stdout.splitlines()
    plans = [json.loads(line) for line in lines]
    assert [plan["index"] for plan in plans] == [0, 1, 2, 3]
    assert all(len(p["class_names"]) == 3 and len(p["support"]) == 6 and len(p["unlabeled"]) == 3 for p in plans)
    assert run(*args[:-4], "--start", 2, "--count", 1, "--seed", 9).stdout.splitlines() == lines[2:3]


def test_plans_within_a_group_stay_in_it(glyphs_store):
    lines = run("plan", glyphs_store, "--sampler", "hierarchical", "--rotations", "--count", 5).stdout.splitlines()
    for line in lines:
        assert len({name.split("/")[0] for name in json.loads(line)["class_names"]}) == 1


def test_an_episode_is_shown_as_a_picture(glyphs_store, tmp_path):
    run("show", glyphs_store, "-o", tmp_path / "e.png", "--ways", 4, "--queries", 3)
    with Image.open(tmp_path / "e.png") as picture:
        assert picture.width > 300
        assert len(picture.getcolors(1 << 20)) > 50
    assert "e.png exists; give --overwrite" in refused("show", glyphs_store, "-o", tmp_path / "e.png")
    assert "ends with .png" in refused("show", glyphs_store, "-o", tmp_path / "e.jpg")


def test_a_store_is_inspected(glyphs_store):
    about = json.loads(run("inspect", glyphs_store, "--json", "--verify").stdout)
    assert about["samples"] == 20 * about["classes"]
    assert about["verified"]
    assert about["fields"] == {"image": {"dtype": "uint8", "shape": [1, 28, 28]}}
    assert "verified: every shard" in run("inspect", glyphs_store, "--verify").stdout


def test_a_run_holds_what_is_needed_to_judge_it(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"recipe.toml", "metrics.jsonl", "tensorboard", "last.ckpt", "best.ckpt", "data.json"} <= names
    assert "seed = 3" in (trained / "recipe.toml").read_text()
    kinds = [json.loads(line)["kind"] for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert kinds == ["train"] * 3 + ["val"] + ["train"] * 3 + ["val", "time"]


def test_a_run_is_evaluated_with_a_report(trained):
    result = run("evaluate", trained, "--episodes", 12, "--ways", 3, "-o", trained / "small")
    assert "protonet 3-way 1-shot on glyphs/test: accuracy" in result.stdout
    assert "leakage audit passed" in result.stdout
    table = json.loads((trained / "small.json").read_text())["results"][0]
    assert (table["episodes"], table["spec"]["ways"], table["split"]) == (12, 3, "glyphs/test")
    page = (trained / "small.html").read_text()
    assert page.count("<svg") == 2 + 1 + len(table["against"]), "curve, accuracies, reliability, breakdowns"
    assert "data:image/png;base64" in page
    assert table["store_fingerprint"] in page
    for loading in ("<script", "<link", 'src="http', "@import"):
        assert loading not in page, "the page is self-contained"
    again = ("evaluate", trained, "--episodes", 12, "--ways", 3, "-o", trained / "small")
    assert "small.json exists; give --overwrite" in refused(*again)
    assert json.loads(run(*again, "--overwrite", "--json").stdout)["results"][0]["mean"] == table["mean"]


def test_classes_seen_in_training_are_counted_in_the_result(trained):
    """A list may train on what another list tests on, as vinyals/train and lake/test do."""
    out = trained / "seen"
    result = run("evaluate", trained, "--episodes", 4, "--split", "train+test", "-o", out)
    num_train = len(json.loads((trained / "data.json").read_text())["classes"])
    assert f"; {num_train} CLASSES SEEN IN TRAINING)" in result.stdout
    assert json.loads(out.with_suffix(".json").read_text())["results"][0]["seen_classes"] == num_train
    assert "this is not a few-shot" in out.with_suffix(".html").read_text()
    assert "SEEN" not in run("evaluate", trained, "--episodes", 4, "-o", out, "--overwrite").stdout


def test_another_policy_brings_its_own_counts(trained, glyphs_store):
    out = trained / "meta"
    run("evaluate", trained, "--split", "test", "--sampler", "meta-dataset", "--episodes", 4, "-o", out)
    result = json.loads(out.with_suffix(".json").read_text())["results"][0]
    assert (result["sampler"], result["spec"]) == (
        "meta_dataset",
        {"ways": "variable", "shots": "variable", "queries": "variable"},
    )
    frozen = trained / "list.jsonl"
    run("freeze", glyphs_store, "--split", "test", "--queries", 3, "--count", 6, "-o", frozen)
    result = run("evaluate", trained, "--split", "test", "--sampler", "frozen", "-O", f"path={frozen}", "-o", trained / "f")
    assert "over 6 episodes" in result.stdout


def test_a_frozen_list_brings_its_own_classes(trained, glyphs_store, tmp_path):
    def frozen(*args, name="l.jsonl"):
        run("freeze", glyphs_store, *args, "--ways", 4, "--queries", 3, "--count", 3, "-o", tmp_path / name)
        return ("--sampler", "frozen", "-O", f"path={tmp_path / name}")

    def planned(*args):
        plan = json.loads(run("plan", glyphs_store, *args, "--start", 2).stdout)
        return [plan[name] for name in ("class_names", "turns", "support", "query", "unlabeled")]

    kinds = [
        ("--split", "test"),
        ("--split", "glyphs/test", "--rotations"),
        ("--split", "train", "--labeled", "0.5", "--labeled-seed", 7, "--unlabeled", 2),
        ("--split", "val", "--rows", "back", "--labeled", "0.5"),
        ("--split", "test", "--base", "train", "--labeled", "0.5", "--sampler", "generalized", "-O", "base_ways=3"),
        ("--split", "test", "--overlap", "0.5", "--overlap-with", "train", "--overlap-seed", 3),
    ]
    for number, kind in enumerate(kinds):
        read = frozen(*kind, name=f"{number}.jsonl")
        assert planned(*read) == planned(*kind, "--ways", 4, "--queries", 3)
        split = json.loads((tmp_path / f"{number}.jsonl").read_text().splitlines()[0])["selection"]["split"]
        assert split == f"glyphs/{kind[1].rpartition('/')[2]}"
    again = frozen(*read, name="again.jsonl")  # a list of a list is over the same classes
    assert planned(*again) == planned(*read)


def test_a_split_that_is_given_counts_more_than_the_one_of_a_frozen_list(trained, glyphs_store, tmp_path):
    old = tmp_path / "turned.jsonl"
    args = ("--split", "test", "--rotations", "--ways", 4, "--queries", 3, "--count", 3)
    run("freeze", glyphs_store, *args, "-o", old)
    read = ("--sampler", "frozen", "-O", f"path={old}")
    run("show", glyphs_store, *read, "-o", tmp_path / "e.png")
    out = ("-o", tmp_path / "report", "--overwrite")
    assert "on glyphs/test: accuracy" in run("evaluate", trained, *read, *out).stdout
    assert "on glyphs/train+test: accuracy" in run(
        "evaluate", trained, *read, "--split", "train+test", "--rotations", *out
    ).stdout  # fmt: skip
    given = "which split 'glyphs/train' has not (the list is over 'glyphs/test')"
    assert given in refused("plan", glyphs_store, *read, "--split", "train", "--rotations")
    table = f'sampler = "frozen"\noptions = {{path = "{old}"}}\n'
    (tmp_path / "e.toml").write_text(table)
    assert run("plan", glyphs_store, "--episode", tmp_path / "e.toml").stdout == run("plan", glyphs_store, *read).stdout
    (tmp_path / "e.toml").write_text('split = "train"\n' + table)
    assert given in refused("plan", glyphs_store, "--episode", tmp_path / "e.toml", "--rotations")


def test_an_older_list_needs_its_split_said(glyphs_store, tmp_path):
    old = tmp_path / "old.jsonl"
    run("freeze", glyphs_store, "--split", "test", "--ways", 4, "--count", 3, "-o", old)
    read = ("--sampler", "frozen", "-O", f"path={old}")
    header, *lines = old.read_text().splitlines()
    table = {name: value for name, value in json.loads(header).items() if name != "selection"}
    old.write_text("\n".join([json.dumps(table, sort_keys=True, separators=(",", ":")), *lines]) + "\n")
    assert "which split 'glyphs/train' has not" in refused("plan", glyphs_store, *read)
    assert len(json.loads(run("plan", glyphs_store, *read, "--split", "test").stdout)["class_ids"]) == 4
    assert "cannot read frozen list none.jsonl" in refused(
        "plan", glyphs_store, "--sampler", "frozen", "-O", "path=none.jsonl"
    )
    assert "needs the list, as path=list.jsonl" in refused("plan", glyphs_store, "--sampler", "frozen")


def test_the_published_runs_are_a_list_like_any_other(omniglot_store, tmp_path):
    out = tmp_path / "runs.jsonl"
    printed = run("freeze", omniglot_store, "--runs", real_data.omniglot() / "all_runs.zip", "-o", out).stdout
    assert f"{out}: 20 episodes, sha256" in printed
    args = ("plan", omniglot_store, "--sampler", "frozen", "-O", f"path={out}", "--count", 20)
    plans = [json.loads(line) for line in run(*args).stdout.splitlines()]
    assert [len(plan["class_names"]) for plan in plans] == [20] * 20
    assert len({name.partition("/")[0] for name in plans[0]["class_names"]}) == 1


def test_help_states_only_the_defaults_that_apply():
    assert "[default: train]" in run("plan", "--help").stdout
    assert "[default: train]" not in run("evaluate", "--help").stdout
    assert "initial weights" in " ".join(run("train", "protonet", "--help").stdout.split())


def test_a_run_is_resumed_only_with_its_own_settings(trained, glyphs_store):
    before = (trained / "metrics.jsonl").read_text()
    run("train", "protonet", glyphs_store, "-o", trained, "--resume")
    assert [x for x in before.splitlines() if "loss" in x] == [
        x for x in (trained / "metrics.jsonl").read_text().splitlines() if "loss" in x
    ]
    assert "steps: --resume goes on with the settings" in refused(
        "train", "protonet", glyphs_store, "-o", trained, "--resume", "--steps", 9
    )
    assert "exists; give --overwrite to replace it, --resume" in refused("train", "protonet", glyphs_store, "-o", trained)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("plan", "STORE", "--ways", "0"), "ways=0 is too small; it must be 1 or more"),
        (("plan", "STORE", "--shots", "-1"), "shots=-1 is too small"),
        (("plan", "STORE", "--ways", "2.5"), "ways='2.5' is not a count; write a whole number as 5"),
        (("plan", "STORE", "--ways", "nan"), "ways='nan' is not a count"),
        (("plan", "STORE", "--ways", "9999"), "ways=9999 needs 9999 classes; split 'glyphs/train' has"),
        (("plan", "STORE", "--queries", "20"), "has 20 rows, and"),
        (("plan", "STORE", "--split", "trian"), "unknown split 'trian'; did you mean 'glyphs/train'"),
        (("plan", "STORE", "--sampler", "unifrom"), "unknown sampler 'unifrom'; did you mean 'uniform'"),
        (("plan", "STORE", "--sampler", "hierarchical", "--ways", "27"), "group 'Alphabet"),
        (("plan", "STORE", "--seed", "-1"), "seed=-1 is out of range"),
        (("plan", "STORE", "--wyas", "5"), "No such option '--wyas'"),
        (("plan", "nowhere"), "no store at nowhere (make one with `episodes ingest`)"),
        (("ingest", "omniglt", "a", "b"), "unknown reader 'omniglt'; did you mean 'omniglot'"),
        (("ingest", "omniglot", "nowhere", "new.store"), "source nowhere is not a folder"),
        (("ingest", "folder", "nowhere", "new.store"), "source nowhere does not exist"),
        (("ingest", "glyphs", "new.store", "--size", "0"), "size: expected 8..256, got 0"),
        (("ingest", "glyphs", "STORE"), "exists; give --overwrite"),
        (("train", "protnet", "STORE", "-o", "new"), "unknown method 'protnet'; did you mean 'protonet'"),
        (("train", "protonet", "nowhere", "-o", "new"), "no store at nowhere"),
        (("train", "protonet", "STORE", "-o", "new", "--shots", "0"), "shots=0 must be 1 or more"),
        (("train", "protonet", "STORE", "-o", "new", "--lr", "nan"), "lr: expected a finite number, got nan"),
        (("train", "protonet", "STORE", "-o", "new", "--steps", "-5"), "steps: expected 1 or more, got -5"),
        (("train", "protonet", "STORE", "-o", "new", "--distance", "manhattan"), "'manhattan' is not one of"),
        (("train", "protonet", "STORE", "-o", "new", "--recipe", "protonet-glyph"), "did you mean 'protonet-glyphs'"),
        (("train", "protonet", "STORE", "-o", "new", "--resume"), "no run at new to resume"),
        (("train", "protonet", "STORE", "-o", "new", "--split", "test"), "and in test split 'glyphs/test'"),
        (("evaluate", "nowhere"), "nowhere is not a run directory"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(glyphs_store, tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    line = refused(*(str(glyphs_store) if a == "STORE" else a for a in args))
    assert words in line
    assert list(tmp_path.iterdir()) == []


def test_the_installed_command_exits_with_two_and_no_traceback(tmp_path):
    command = Path(sys.executable).with_name("episodes")
    result = subprocess.run([command, "plan", tmp_path / "none"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: no store at")
    assert "Traceback" not in result.stderr
    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    assert version.startswith("episodes, ")


def test_statistics_of_episodes_as_text_json_and_picture(glyphs_store, tmp_path):
    args = ("plan", glyphs_store, "--stats", "--sampler", "meta-dataset", "--count", 300)
    out = tmp_path / "s.png"
    printed = run(*args, "-o", out).stdout
    assert all(f"{name}  mean " in printed for name in ("ways", "support", "imbalance", "coarsity", "class_frequency"))
    with Image.open(out) as picture:
        assert picture.width == 640
    table = json.loads(run(*args, "--json").stdout)
    assert table["episodes"] == 300
    assert 5 <= table["ways"]["q0"] <= table["ways"]["mean"] <= table["ways"]["q100"] <= 50
    assert "must end with .png and not exist" in refused(*args, "-o", out)


def test_every_kind_of_episode_is_reached_from_the_command_line(glyphs_store, tmp_path):
    def first(*args):
        return json.loads(run("plan", glyphs_store, *args).stdout)

    plan = first("--ways", "3..6", "--shots", "linear(6, 3)", "--queries", "all", "--seed", 2)
    assert 3 <= len(plan["class_ids"]) <= 6
    assert [k + q for k, q in zip(plan["shots"], plan["queries"], strict=True)] == [20] * len(plan["shots"])
    plan = first("--labeled", 0.5, "--unlabeled", 4, "--distractors", 2, "--queries", 3)
    assert (len(plan["unlabeled"]), plan["unlabeled_labels"].count(-1), len(plan["distractor_ids"])) == (28, 8, 2)
    test = ("--split", "test", "--queries", 5)
    plan = first(*test, "--base", "train", "--labeled", 0.5, "--sampler", "generalized", "-O", "base_ways=7")
    assert len(plan["class_ids"]) == 12
    plan = first(*test, "--overlap", 0.5, "--overlap-with", "train", "--sampler", "novelty", "-O", "fraction=0.4")
    assert len(plan["class_ids"]) == 5
    (tmp_path / "e.toml").write_text('ways = "5..9"\nshots = {1 = 0.5, 5 = 0.5}\nsampler = "hierarchical"\nseed = 4\n')
    assert (
        first("--episode", tmp_path / "e.toml")["class_ids"]
        == first("--ways", "5..9", "--shots", "{1: 0.5, 5: 0.5}", "--sampler", "hierarchical", "--seed", 4)["class_ids"]
    )
    out = tmp_path / "list.jsonl"
    assert "5 episodes, sha256" in run("freeze", glyphs_store, "--split", "test", "--count", 5, "-o", out).stdout
    frozen = first("--split", "test", "--sampler", "frozen", "-O", f"path={out}", "--start", 3)
    assert frozen["support"] == first("--split", "test", "--start", 3)["support"]
    assert "options.max_wayz: unknown key" in refused("plan", glyphs_store, "--sampler", "meta-dataset", "-O", "max_wayz=3")
    assert "expected NAME=VALUE" in refused("plan", glyphs_store, "-O", "hold")
    shown = json.loads(run("split", glyphs_store, "--how", "far", "-o", tmp_path / "split.json").stdout)
    assert shown["distance"] == "groups"
    assert sum(map(len, json.loads((tmp_path / "split.json").read_text()).values())) == sum(shown["sizes"].values())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warned = run("plan", glyphs_store, "--ways", "5..5000")
    assert "warning: ways=5..5000 ends at" in warned.stderr


def test_several_stores_give_episodes_in_turn(glyphs_store, other_store):
    printed = run("plan", glyphs_store, "--mix", other_store, "--count", 12).stdout
    plans = [json.loads(line) for line in printed.splitlines()]
    assert {p["source"] for p in plans} == {glyphs_store.stem, "other"}
    own = json.loads(
        run("plan", other_store, "--start", plans.index(next(p for p in plans if p["source"] == "other"))).stdout
    )
    assert own["support"] == next(p for p in plans if p["source"] == "other")["support"]


def test_training_on_several_stores_is_evaluated_store_by_store(glyphs_store, other_store, tmp_path, monkeypatch):
    out, name = tmp_path / "run", glyphs_store.stem
    monkeypatch.chdir(other_store.parent)
    done = run("train", "protonet", glyphs_store, "-o", out, "--mix", "other.store=3", *SHORT)
    assert f"5-way 1-shot on {name} + other: glyphs/val: accuracy" in done.stdout
    about = json.loads((out / "data.json").read_text())
    assert [Path(one["store"]).stem for one in about["sources"]] == [name, "other"]
    assert set(about["classes"]) == {c for one in about["sources"] for c in one["classes"]}
    monkeypatch.chdir(tmp_path)  # the recipe names the other store from anywhere
    run("train", "protonet", glyphs_store, "-o", out, "--resume")
    result = run("evaluate", out, "--episodes", 6)
    lines = [line for line in result.stdout.splitlines() if line.startswith("protonet")]
    assert [line.partition(": accuracy")[0] for line in lines] == [
        f"protonet 5-way 1-shot on {name}: glyphs/test",
        "protonet 5-way 1-shot on other: glyphs/test",
    ]
    results = json.loads((out / "report.json").read_text())["results"]
    assert [one["source"] for one in results] == [name, "other"]
    assert results[0]["store_fingerprint"] != results[1]["store_fingerprint"]
    alone = run("evaluate", out, "--store", other_store, "--episodes", 6, "-o", out / "alone", "--json")
    (one,) = json.loads(alone.stdout)["results"]
    assert (one["source"], one["per_episode"]) == ("", results[1]["per_episode"])
    assert "mix: expected STORE or STORE=WEIGHT, a number" in refused("plan", glyphs_store, "--mix", "other.store=much")
    assert "stores need different names" in refused("show", glyphs_store, "--mix", glyphs_store, "-o", "e.png")


def test_several_stores_in_a_recipe_have_splits_and_weights_of_their_own(glyphs_store, other_store, tmp_path):
    table = f'queries = 3\n[[sources]]\nstore = "{other_store}"\nsplit = "val"\nweight = 2\n'
    (tmp_path / "e.toml").write_text(table)
    printed = run("plan", glyphs_store, "--episode", tmp_path / "e.toml", "--count", 60).stdout
    plans = [json.loads(line) for line in printed.splitlines()]
    theirs = [plan for plan in plans if plan["source"] == "other"]
    assert 30 <= len(theirs) <= 50
    own = run("plan", other_store, "--split", "val", "--queries", 3, "--start", theirs[0]["index"]).stdout
    assert json.loads(own)["support"] == theirs[0]["support"]
    (tmp_path / "e.toml").write_text(table.replace("weight = 2", "weight = -2"))
    assert "sources[0].weight: expected a number of 0 or more" in refused(
        "plan", glyphs_store, "--episode", tmp_path / "e.toml"
    )
    run("show", glyphs_store, "--mix", other_store, "--index", theirs[0]["index"], "-o", tmp_path / "e.png")
    small = tmp_path / "small.store"
    run("ingest", "glyphs", small, "--alphabets", 8, "--size", 20)
    line = refused("train", "protonet", glyphs_store, "-o", tmp_path / "run", "--mix", small, *SHORT)
    assert "field 'image' is uint8 of shape (1, 28, 28) in source" in line
    assert "and uint8 of shape (1, 20, 20) in source 'small'" in line


def test_transforms_are_given_on_the_command_line(glyphs_store, tmp_path):
    def shown(*args):
        run("show", glyphs_store, "-o", tmp_path / "e.png", "--overwrite", "--queries", 3, *args)
        with Image.open(tmp_path / "e.png") as picture:
            return picture.tobytes()

    assert shown("-T", "rotate=30", "-T", "fill=255") != shown()
    assert shown("-T", "mean=[0.5]", "-T", "layout=hwc") == shown(), "but for what no picture can show"
    plans = run("plan", glyphs_store, "--queries", 3).stdout
    assert run("plan", glyphs_store, "--queries", 3, "-T", "flip=true").stdout == plans
    assert "transform.flp: unknown key; did you mean 'flip'" in refused("plan", glyphs_store, "-T", "flp=true")
    assert "transform.rotate: expected float, got 'much'" in refused("plan", glyphs_store, "-T", "rotate=much")
    assert "transform of field 'mask': known: image" in refused("plan", glyphs_store, "-T", "field=mask")


def test_training_transforms_its_episodes_and_delivers_all_alike(glyphs_store, tmp_path):
    out = tmp_path / "run"
    run("train", "protonet", glyphs_store, "-o", out, *SHORT, "-T", "crop-padding=2", "-T", "mean=[0.9]", "-T", "std=[0.3]")
    recipe = read(out / "recipe.toml")
    (trained,), (tested,) = recipe.episode.all_transforms(), recipe.evaluate[0].all_transforms()
    assert recipe.validate.all_transforms() == (tested,)
    assert (trained.crop_padding, trained.mean, trained.dtype) == (2, (0.9,), "float32")
    assert (tested.crop_padding, tested.mean, tested.dtype) == (0, (0.9,), "float32")
    plain = tmp_path / "plain"
    run("train", "protonet", glyphs_store, "-o", plain, *SHORT)
    losses = [[line["loss"] for line in metrics.read(one, "train")] for one in (out, plain)]
    assert losses[0] != losses[1]
    run("evaluate", out, "--episodes", 4)
    page = (out / "report.html").read_text()
    assert "were spent waiting for data" in page
    training = json.loads((out / "report.json").read_text())["training"]
    assert training["steps"] == 4
    assert 0 < training["data_share"] < 1
    assert "accuracy" in run("evaluate", out, "--episodes", 4, "-T", "brightness=0.2", "--overwrite").stdout
    line = refused("evaluate", out, "--episodes", 4, "-T", "mean=[0.1]", "--overwrite")
    assert "evaluate[0].transform: field 'image' is delivered Transform(dtype='float32', mean=(0.1,)" in line
    assert "backbone conv4 needs images" in refused(
        "train", "protonet", glyphs_store, "-o", tmp_path / "hwc", *SHORT, "-T", "layout=hwc"
    )


@pytest.mark.slow
def test_the_demo_goes_the_whole_road(tmp_path):
    result = run("demo", "-o", tmp_path / "demo", "--steps", 2, "--episodes", 5)
    assert "20-way 1-shot on glyphs/test: accuracy" in result.stdout
    report = Path(result.stdout.splitlines()[-1].removeprefix("report: "))
    assert report.read_text().startswith("<!doctype html>")
