"""Results side by side: paired differences, several runs of one recipe, and what cannot be compared."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.main import main
from episodes.errors import ConfigError
from learners import comparison, comparison_page, intervals

TRAIN = ("--steps", 2, "--validate-every", 2, "--width", 8, "--ways", 5, "--queries", 3, "--accelerator", "cpu")
SCORE = ("--ways", 3, "--queries", 4, "--episodes", 8, "--device", "cpu")


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
def runs(glyphs_store, tmp_path_factory) -> Path:
    """Folder of three runs of one recipe, ``one`` to ``three``, and another, ``wide``."""
    out = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("one", "two", "three")):
        run("train", "protonet", glyphs_store, "-o", out / name, *TRAIN, "--seed", seed)
    run("train", "protonet", glyphs_store, "-o", out / "wide", *TRAIN, "--width", 12)
    return out


def table(per_episode, **changed):
    """A result as a report has it."""
    values = np.array(per_episode)
    mean, interval = intervals.mean_and_interval(values)
    plain = {
        "method": "m",
        "metric": "accuracy",
        "mean": mean,
        "interval95": interval,
        "normalised": None,
        "per_episode": values.tolist(),
        "episodes": len(values),
        "spec": {"ways": 5, "shots": 1},
        "split": "world/test",
        "sampler": "uniform",
        "rotations": False,
        "seed": 0,
        "source": "",
        "store_fingerprint": "s",
        "drawn": "d",
        "batch_norm": "none",
        "transductive": False,
        "seen_classes": 0,
        "calibration": {"ece": 0.1, "nll": 0.5},
        "audit": {"passed": True},
        "timing": {"adapt_seconds": 0.1, "predict_seconds": 0.1, "episodes_per_second": 5.0},
    }
    return plain | changed


# Numbers


@pytest.mark.parametrize(
    ("df", "t"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (10, 2.2281), (30, 2.0423), (100, 1.9840)],
)
def test_students_t_is_that_of_the_tables(df, t):
    assert intervals.students_t(df) == pytest.approx(t, abs=5e-5)


def test_students_t_goes_to_the_normal_value():
    assert intervals.students_t(1) > intervals.students_t(2) > intervals.students_t(3)
    assert intervals.students_t(5001) == pytest.approx(intervals.Z, abs=1e-3)
    assert intervals.students_t(2, 0.99) == pytest.approx(9.9248, abs=5e-5)


def test_the_mean_over_runs_has_an_interval_of_few_values():
    mean, half = intervals.mean_over_runs([0.9, 0.8, 0.7])
    assert (mean, half) == (pytest.approx(0.8), pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4))
    assert intervals.mean_over_runs([0.5]) == (0.5, math.inf)


pairs = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=2, max_size=40)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_a_difference_is_that_of_every_episode(values):
    first, second = ([one[k] / 20 for one in values] for k in (0, 1))
    (found,) = comparison.compare({"a": table(first), "b": table(second)}).differences
    gaps = [one - two for one, two in zip(first, second, strict=True)]
    middle = sum(gaps) / len(gaps)
    half = 1.96 * math.sqrt(sum((gap - middle) ** 2 for gap in gaps) / (len(gaps) - 1)) / math.sqrt(len(gaps))
    assert (found.mean, found.interval95) == (pytest.approx(middle, abs=1e-9), pytest.approx(half, abs=1e-9))
    turned = comparison.compare({"b": table(second), "a": table(first)}).differences[0]
    assert (turned.mean, turned.interval95, turned.significant) == (-found.mean, found.interval95, found.significant)


def test_a_small_difference_in_every_episode_is_significant_where_the_means_overlap():
    base = np.array([0.2, 0.4, 0.6, 0.8] * 10)
    better = base + 0.02 + 0.01 * np.tile([1, -1], 20)
    found = comparison.compare({"a": table(better), "b": table(base), "c": table(base)})
    gap, _, none = found.differences
    assert [(one.first, one.second) for one in found.differences] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert gap.significant
    assert gap.mean < found.results["a"]["interval95"]
    assert (none.mean, none.interval95, none.significant) == (0, 0, False)
    assert str(gap) == f"a - b: +2.00 ± {100 * gap.interval95:.2f}, significant"


def test_runs_are_averaged_over_runs_and_over_episodes():
    each = np.random.Generator(np.random.Philox(key=3)).random((3, 50))
    found = comparison.over_runs({str(k): table(one) for k, one in enumerate(each)})
    means = each.mean(1)
    assert found.mean == pytest.approx(means.mean())
    assert found.over_runs95 == pytest.approx(4.3027 * means.std(ddof=1) / math.sqrt(3), rel=1e-4)
    assert found.over_episodes95 == pytest.approx(1.96 * each.mean(0).std(ddof=1) / math.sqrt(50))
    assert "over 3 runs (95 %, Student's t)" in str(found)


# What cannot be compared


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"store_fingerprint": "t"}, "store_fingerprint is t there and s here"),
        ({"seed": 4, "drawn": "e"}, "seed is 4 there and 0 here (score both with the same episode options)"),
        ({"split": "world/val"}, "split is world/val there"),
        ({"spec": {"ways": 5, "shots": 5}}, "spec is {'ways': 5, 'shots': 5} there"),
        ({"drawn": "e"}, "fingerprint of what is drawn is e there and d here (the selection of classes"),
    ],
)
def test_results_on_different_episodes_are_refused_by_what_differs(changed, words):
    with pytest.raises(ConfigError) as caught:
        comparison.compare({"a": table([0, 1]), "b": table([1, 1], **changed)})
    assert str(caught.value).startswith("b and a were scored on different episodes")
    assert words in str(caught.value)
    with pytest.raises(ConfigError, match="episodes is 3 there and 2 here"):
        comparison.over_runs({"a": table([0, 1]), "b": table([1, 1, 1])})


def test_results_find_those_on_the_same_episodes_in_any_order():
    columns = {
        "a": [table([0, 1]), table([1, 1], drawn="e", seed=1)],
        "b": [table([0, 0], drawn="e", seed=1), table([1, 0])],
    }
    assert [[one["per_episode"] for one in row.values()] for row in comparison.alike(columns)] == [
        [[0, 1], [1, 0]],
        [[1, 1], [0, 0]],
    ]
    with pytest.raises(ConfigError, match="b holds no result"):
        comparison.alike(columns | {"b": []})


def test_a_single_episode_has_no_interval_and_json_says_so():
    found = comparison.compare({"a": table([1.0], interval95=None), "b": table([0.0], interval95=None)})
    told = json.loads(json.dumps(found.to_table(), allow_nan=False))
    assert told["differences"][0] == {"first": "a", "second": "b", "mean": 1.0, "interval95": None, "significant": False}
    assert comparison_page.render("t", [found]).count("<svg") == 2


# Commands


def test_runs_are_compared_on_the_same_episodes(runs, tmp_path):
    assert "RUN may also be a finished" in run("compare", "--help").stdout
    given = ("compare", runs / "one", runs / "wide", "--baseline", "pixels", *SCORE)
    text = run(*given, "-o", tmp_path / "c").stdout
    assert "3-way 1-shot on glyphs/test: 8 episodes (seed 0)" in text
    assert text.count("significant") == 3
    (found,) = json.loads((tmp_path / "c.json").read_text())["comparisons"]
    assert list(found["results"]) == ["one", "wide", "pixels"]
    each = {}
    for name in ("one", "wide"):
        (each[name],) = json.loads(run("evaluate", runs / name, *SCORE, "-o", tmp_path / name, "--json").stdout)["results"]
        assert found["results"][name]["mean"] == each[name]["mean"]
        assert found["drawn"] == each[name]["drawn"]
    gaps = np.array(each["one"]["per_episode"]) - np.array(each["wide"]["per_episode"])
    assert found["differences"][0]["mean"] == pytest.approx(gaps.mean())
    assert found["differences"][0]["interval95"] == pytest.approx(1.96 * gaps.std(ddof=1) / math.sqrt(8))
    page = (tmp_path / "c.html").read_text()
    assert page.count("<svg") == 2
    assert all(loading not in page for loading in ("<script", "<link", 'src="http', "@import"))
    assert "c.json exists; give --overwrite" in refused(*given, "-o", tmp_path / "c")
    reports = run("compare", tmp_path / "one.json", tmp_path / "wide.json", "--json").stdout
    (again,) = json.loads(reports)["comparisons"]
    assert again["differences"] == found["differences"][:1], "finished reports say the same"
    (mixed,) = json.loads(run("compare", runs / "one", tmp_path / "wide.json", *SCORE, "--json").stdout)["comparisons"]
    assert mixed["differences"] == found["differences"][:1]


def test_the_pixel_baseline_is_the_nearest_mean_of_what_is_stored(runs, glyphs_store):
    import episodes

    series = episodes.sample(
        episodes.open(glyphs_store), "test", episodes.EpisodeSpec(ways=3, shots=1, queries=4), length=8
    )
    right = []
    for episode in (series[i] for i in range(8)):
        known, asked = (
            part.fields["image"].reshape(len(part.labels), -1) / 255.0 for part in (episode.support, episode.query)
        )
        nearest = ((asked[:, None] - known[None]) ** 2).sum(-1).argmin(1)
        right.append((episode.support.labels[nearest] == episode.query.labels).mean())
    (found,) = json.loads(run("compare", runs / "one", "--baseline", "pixels", *SCORE, "--json").stdout)["comparisons"]
    assert found["results"]["pixels"]["mean"] == pytest.approx(np.mean(right))


def renamed(path, name):
    """The run at `path` once more."""
    copied = path.with_name(name)
    copied.mkdir(exist_ok=True)
    for file in ("recipe.toml", "data.json", "best.ckpt"):
        (copied / file).write_bytes((path / file).read_bytes())
    return copied


def test_what_compare_refuses(runs, glyphs_store, tmp_path):
    assert "give two or more to compare, or one with --baseline pixels" in refused("compare", runs / "one")
    assert "one is given twice" in refused("compare", runs / "one", runs / "one")
    assert "a run cannot be called 'pixels' beside" in refused(
        "compare", renamed(runs / "wide", "pixels"), "--baseline", "pixels"
    )
    assert "nowhere is not a run directory" in refused("compare", runs / "one", "nowhere")
    for number, options in enumerate((SCORE, (*SCORE, "--seed", 5))):
        run("evaluate", runs / "one", *options, "-o", tmp_path / f"r{number}")
    line = refused("compare", tmp_path / "r0.json", tmp_path / "r1.json")
    assert "r1 and r0 were scored on different episodes: seed is 5 there and 0 here" in line
    line = refused("compare", runs / "two", tmp_path / "r1.json", *SCORE)
    assert "were scored on different episodes: seed is" in line
    other = tmp_path / "other.store"
    run("ingest", "glyphs", other, "--alphabets", 7)
    run("train", "protonet", other, "-o", tmp_path / "other", *TRAIN)
    assert "store_fingerprint is" in refused("compare", runs / "one", tmp_path / "other", *SCORE)
    assert "significant" in run("compare", runs / "one", tmp_path / "other", *SCORE, "--store", glyphs_store).stdout
    line = refused("compare", tmp_path / "r0.json", "--baseline", "pixels")
    assert "'pixels' is scored on the episodes of a run; give one run that is no report" in line
    (tmp_path / "old.json").write_text(json.dumps({"results": [{"per_episode": [1.0]}]}))
    assert "is a report of an earlier version" in refused("compare", tmp_path / "old.json", tmp_path / "r0.json")
    (tmp_path / "none.json").write_text("[]")
    assert "is no report of `episodes evaluate`" in refused("compare", tmp_path / "none.json", tmp_path / "r0.json")
    assert "cannot read" in refused("compare", tmp_path / "absent.json", tmp_path / "r0.json")


def test_runs_delivered_in_other_forms_are_compared_on_the_same_rows(runs, glyphs_store, tmp_path):
    run("train", "protonet", glyphs_store, "-o", tmp_path / "scaled", *TRAIN, "-T", "mean=[0.5]")
    (found,) = json.loads(run("compare", runs / "one", tmp_path / "scaled", *SCORE, "--json").stdout)["comparisons"]
    assert set(found["results"]) == {"one", "scaled"}


def test_several_runs_of_a_recipe_have_a_mean(runs, tmp_path):
    paths = [runs / name for name in ("one", "two", "three")]
    text = run("evaluate", *paths, *SCORE, "-o", tmp_path / "all", "--overwrite").stdout
    assert "over 3 runs (95 %, Student's t)" in text
    (found,) = json.loads((tmp_path / "all.json").read_text())["over_runs"]
    each = [json.loads((path / "report.json").read_text())["results"][0] for path in paths]
    values = np.array([one["per_episode"] for one in each])
    assert list(found["runs"]) == ["one", "two", "three"]
    assert found["mean"] == pytest.approx(values.mean(), abs=1e-6)
    assert found["over_runs95"] == pytest.approx(intervals.mean_over_runs(values.mean(1).tolist())[1], abs=1e-6)
    assert (tmp_path / "all.html").read_text().count("<svg") == 1
    assert "report.json exists; give --overwrite" in refused("evaluate", *paths, *SCORE)
    told = json.loads(run("evaluate", *paths, *SCORE, "--overwrite", "--json").stdout)
    assert told["over_runs"] == json.loads(json.dumps([found | {"runs": told["over_runs"][0]["runs"]}]))
    assert list(told["results"]) == ["one", "two", "three"]


def test_runs_that_are_no_repetitions_have_no_mean(runs):
    line = refused("evaluate", runs / "one", runs / "wide", *SCORE, "--overwrite")
    assert "learner.width: 8 in one, 12 in wide; runs that share a mean differ by their seed only" in line
    copied = renamed(runs / "one", "again")
    line = refused("evaluate", runs / "one", copied, *SCORE, "--overwrite")
    assert "train.seed: 0 in one and in again; these are one run, not two" in line


def test_the_policy_of_batch_norm_can_be_another_at_evaluation(runs, tmp_path):
    def result(*more):
        text = run("evaluate", runs / "one", *SCORE, *more, "-o", tmp_path / "r", "--overwrite", "--json").stdout
        return json.loads(text)["results"][0]

    plain, leaky, own = result(), result("--batch-norm", "transductive"), result("--batch-norm", "running")
    assert (plain["batch_norm"], leaky["batch_norm"]) == ("running", "transductive")
    assert (plain["transductive"], leaky["transductive"]) == (False, True)
    assert leaky["audit"]["largest_difference"] > 0.01
    assert own["per_episode"] == plain["per_episode"]
    assert plain["drawn"] == leaky["drawn"]


@pytest.mark.slow
def test_ranks_report_what_one_process_does(runs, tmp_path):
    score = ("evaluate", runs / "one", *SCORE, "--shots", "1..3 per class", "--json", "-o")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cli.main"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(
        [*launch, *map(str, score), str(tmp_path / "two")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (found,), (wanted,) = (json.loads(text)["results"] for text in (done.stdout, run(*score, tmp_path / "one").stdout))
    for name in ("per_episode", "per_class", "per_shots", "descriptors", "against", "normalised", "drawn", "episodes"):
        assert found[name] == wanted[name], name
    for name in ("ece", "nll"):
        assert found["calibration"][name] == pytest.approx(wanted["calibration"][name], rel=1e-4)
