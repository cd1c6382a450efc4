"""Shipped recipes: each says what it is for and what it gave, and the documentation says the same numbers."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import outcome, recipe, shipped
from cli._toml import parsed
from cli.main import main
from episodes import plugins
from episodes.config import from_table, to_table
from episodes.errors import ConfigError

RESULTS = (Path(__file__).resolve().parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
GOOD = {"method": "protonet"}
MEASURED = {"setting": "5-way 1-shot", "measured": 98.5, "interval95": 0.2, "episodes": 1000}
RAN = {"on": "2 cores", "minutes": 17, "steps": 3600}


def run(*args, code=0):
    result = CliRunner().invoke(main, ["recipes", *args])
    assert result.exit_code == code, result.output + result.stderr
    return result


@pytest.mark.parametrize("name", shipped.names())
def test_a_shipped_recipe_says_what_it_is_for_and_what_it_gave(name):
    one = recipe.find(name)
    assert one.name == name
    assert one.size in ("paper", "cpu")
    assert one.about
    assert one.data
    assert one.result, "published or measured numbers, or the settings they will be of"
    assert one.method in plugins.names(plugins.METHODS)
    from_table(plugins.find(plugins.METHODS, one.method).Options, one.learner)
    measured = [result for result in one.result if result.measured is not None]
    assert bool(measured) == (one.ran is not None)
    if one.ran is not None:
        assert one.ran.steps <= one.train.steps


def test_the_page_of_results_has_the_tables_of_the_recipes():
    assert run("--markdown").stdout in RESULTS, "renew them: episodes recipes --markdown"
    first = recipe.find("protonet-omniglot-cpu").result[0]
    assert f"| 5-way 1-shot | {first.measured:.2f} % ± {first.interval95:.2f} | 98.8 | `protonet-omniglot-cpu`, " in RESULTS
    assert run("protonet-glyphs", "--markdown").stdout.startswith("## glyphs\n\n| setting | measured |")


def test_all_recipes_are_listed_with_what_they_gave():
    text, own = run().stdout, recipe.find("protonet-omniglot-cpu")
    first = own.result[0]
    assert own.ran is not None
    assert f"protonet-omniglot-cpu (cpu): protonet on Omniglot, {own.train.steps:,} steps\n" in text
    interval = f"{first.measured:.2f} % ± {first.interval95:.2f} over {first.episodes:,} episodes"
    assert f"  5-way 1-shot: {interval}, published 98.8\n" in text
    assert f"  ran: {own.ran.steps:,} steps, {own.ran.minutes:g} min on {own.ran.on}" in text
    assert "Usage: " in run("--help").stdout
    table = json.loads(run("--json").stdout)["recipes"]
    assert tuple(one["name"] for one in table) == shipped.names()
    one = json.loads(run("protonet-omniglot-cpu", "--json").stdout)
    assert one in table
    assert one["result"][0]["measured"] == first.measured
    assert one["ran"]["steps"] == own.ran.steps


def test_one_recipe_is_printed_as_it_is_shipped(tmp_path):
    text = run("protonet-omniglot-lake-cpu").stdout
    assert "# Half the time where the processor computes in bfloat16" in text, "with its comments"
    (tmp_path / "own.toml").write_text(text)
    assert recipe.find(str(tmp_path / "own.toml")) == recipe.find("protonet-omniglot-lake-cpu")
    assert "unknown recipe 'protonet-omniglot-cup'; did you mean" in run("protonet-omniglot-cup", code=2).stderr


def test_a_run_does_not_claim_the_results_of_its_recipe():
    own = recipe.find("protonet-omniglot-cpu")
    table = parsed(own.to_toml())
    assert not {"result", "ran"} & table.keys()
    assert table["train"]["steps"] == own.train.steps


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"result": [{**MEASURED, "measured": 120}]}, r"result\[0\].measured: expected percent in 0..100, got 120"),
        ({"result": [{"setting": "s", "measured": 98.5}]}, r"result\[0\].episodes: a measured number needs"),
        ({"result": [{"setting": "s", "interval95": 0.2}]}, r"result\[0\].measured: interval95 and episodes are of"),
        ({"result": [{"setting": "s", "mean": 3}]}, r"result\[0\].mean: unknown key"),
        ({"result": [MEASURED]}, r"ran: '5-way 1-shot' was measured; say on what"),
        ({"ran": {**RAN, "minutes": 0}}, r"ran.minutes and steps: expected more than 0, got 0.0 and 3600"),
        ({"ran": {"on": "2 cores", "minutes": 3}}, r"ran: .*steps"),
        ({"size": "small"}, r"size: expected one of 'paper', 'cpu'|size: expected .*paper"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(table, words):
    with pytest.raises(ConfigError, match=words):
        from_table(recipe.Recipe, {**GOOD, **table})


def test_results_round_trip_and_read_well():
    one = from_table(recipe.Recipe, {**GOOD, "result": [MEASURED], "ran": RAN})
    assert from_table(recipe.Recipe, to_table(one)) == one
    assert str(one.result[0]) == "5-way 1-shot: 98.50 % ± 0.20 over 1,000 episodes"
    error = outcome.Result(setting="20 runs", metric="error", measured=6.25, episodes=20, published=13.7, note="humans 4.5")
    assert str(error) == "20 runs, error: 6.25 % over 20 episodes, published 13.7 (humans 4.5)"
    assert str(one.ran) == "3,600 steps, 17 min on 2 cores"
