"""Charts that a method brings: what it is given, and where they end up."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import episodes
from episodes.errors import ConfigError
from episodes.stream.mixture import MixedEpisodes
from learners import charts, page, plots
from learners.charts import Chart, Line
from learners.report import evaluate
from learners.testing import separable_world

WORLD = separable_world()
EVEN = episodes.EpisodeSpec(ways=3, shots=2, queries=4)
UNEVEN = episodes.EpisodeSpec(ways="2..4", shots="1..3 per class", queries=2)


class Telling(nn.Module):
    """A guess; its chart is the number of support rows of each episode it takes, and the first row of each."""

    transductive, batch_norm, takes = False, "none", math.inf

    def __init__(self):
        super().__init__()
        self.seen = []

    def require(self, spec):
        pass

    def adapt(self, task):
        return lambda fields: torch.zeros(*fields["image"].shape[:2], task.ways)

    def charts(self, episodes):
        assert not self.training
        assert not torch.is_grad_enabled()
        rows, first = [], []
        for episode in episodes:
            assert episode.query.labels.shape[0] == len(episode.class_ids)
            rows += [episode.support.labels.shape[1]] * len(episode.class_ids)
            first += episode.support.rows[:, 0].tolist()
            if len(rows) >= self.takes:
                break
        self.seen = first
        at = np.arange(len(rows))
        return [Chart(title="rows <shown>", x="episode", y="rows", lines={"support": Line(x=at, y=rows)}, caption="All.")]


def series(spec=EVEN, length=120, **options):
    return episodes.sample(WORLD, "test", spec, length=length, **options)


def mixture():
    return MixedEpisodes(sources={"a": series(length=None), "b": series(UNEVEN, None, seed=2)}, seed=1, length=30)


@pytest.mark.parametrize("make", [series, lambda: series(UNEVEN, 70), mixture], ids=["even", "uneven", "mixed"])
def test_a_method_is_given_every_episode_once_in_its_order(make):
    model, source = Telling(), make()
    report = evaluate(model, source, method="telling")
    assert model.seen == [int(source[i].support.rows[0]) for i in range(source.length)]
    (chart,) = report.charts
    assert chart.lines["support"].y.tolist() == [len(source[i].support.rows) for i in range(source.length)]


@pytest.mark.parametrize("num", [0, 1, 49, 50, 51, 119, 5000])
def test_no_more_episodes_are_given_than_asked_for(num):
    model = Telling()
    report = evaluate(model, series(), method="telling", charted=num)
    assert len(model.seen) == min(num, 120)
    assert len(report.charts) == (num > 0)


def test_episodes_are_made_only_as_they_are_taken(monkeypatch):
    model, made = Telling(), []
    model.takes = 60
    inner = charts.to_torch
    monkeypatch.setattr(charts, "to_torch", lambda item, device: made.append(item) or inner(item, device))
    evaluate(model, series(), method="telling")
    assert (len(made), len(model.seen)) == (2, 100), "two blocks of fifty"


def test_without_the_member_there_are_none_and_nothing_is_made(monkeypatch):
    monkeypatch.setattr(charts, "_first", None)
    model = Telling()
    model.charts = None
    assert evaluate(model, series(), method="telling").charts == ()


def test_json_and_page_have_what_was_brought():
    report = evaluate(Telling(), series(length=4), method="telling")
    (table,) = json.loads(json.dumps(report.to_table(), allow_nan=False))["charts"]
    assert table == {
        "title": "rows <shown>",
        "x": "episode",
        "y": "rows",
        "caption": "All.",
        "lines": {"support": {"x": [0, 1, 2, 3], "y": [6, 6, 6, 6], "points": False}},
    }
    about = {"report": report, "histogram": "", "reliability": "", "breakdowns": [], "classes": ([], []), "episode": None}
    drawn = [(chart, plots.chart(chart)) for chart in report.charts]
    html = page.filled("page.html", sections=[{**about, "charts": drawn}], curve=None, training=None, recipe="", run="run")
    assert "<h3>rows &lt;shown&gt;</h3>" in html
    assert "<p>All.</p>" in html
    assert "<!-- rows -->" in html, "the label of an axis of the picture"
    assert "<tr><th>episode</th><th>support</th></tr>" in html
    assert "<tr><td>3</td><td>6</td></tr>" in html


def test_a_chart_is_a_picture_with_bands_marks_and_names():
    x = np.linspace(0, 1, 40)
    band = Line(x=x, y=np.sin(x), low=np.sin(x) - 1, high=np.sin(x) + 1)
    one = Chart(
        title="t", x="x", y="y", lines={"curve": band, "seen": Line(x=[0.2, 0.4], y=[1, math.nan], points=True)}, caption=""
    )
    text = plots.chart(one)
    assert text.startswith("<svg")
    assert "PolyCollection" in text, "the band"
    assert "<!-- curve -->" in text
    assert "<!-- seen -->" in text
    assert one.rows() == [], "lines of different x are no table"
    assert one.to_table()["lines"]["seen"]["x"] == [0.2, 0.4]


def test_a_table_stands_where_lines_share_few_values_of_x():
    lines = {name: Line(x=[1, 2], y=[k, math.nan]) for k, name in enumerate("ab")}
    one = Chart(title="t", x="x", y="y", lines=lines, caption="")
    assert [(x, [v for v in values if v == v]) for x, values in one.rows()] == [(1, [0, 1]), (2, [])]
    long = Chart(title="t", x="x", y="y", lines={"a": Line(x=range(16), y=range(16))}, caption="")
    assert long.rows() == []


def test_what_is_no_chart_is_refused():
    with pytest.raises(ConfigError, match=r"of one n, got \[\(2,\), \(3,\)\]"):
        Line(x=[1, 2], y=[1, 2, 3])
    with pytest.raises(ConfigError, match=r"are \[n\] of one n, got \[\(1, 2\)\]"):
        Line(x=[[1, 2]], y=[[1, 2]])
    with pytest.raises(ConfigError, match="a band has low and high"):
        Line(x=[1], y=[1], low=[0])
    with pytest.raises(ConfigError, match="chart 't' has no line"):
        Chart(title="t", x="x", y="y", lines={}, caption="")
