"""Regression: the descent against a plain loop, the score against a plain mean, and a run from training to comparison."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import episodes
from cli.compare import text as compare_text
from cli.main import main
from episodes.adapters.pytorch import to_torch
from episodes.errors import ConfigError, SpecError
from learners import checkpoint, comparison, comparison_page, metrics, plots, units
from learners.charts import Chart, Line
from learners.intervals import mean_and_interval
from learners.methods import maml_regression, oracle_regression, pretrained_regression
from learners.origin import inputs_of
from learners.protocol import Inputs, adapted, task_of
from learners.regression import Perceptron, descended
from learners.report import evaluate
from learners.scoring import Scoring
from learners.settings import TrainConfig
from learners.trainer import Trainer

STORE = episodes.make("sinusoids", train=60, val=20, test=30, rows=40)
SPEC = episodes.EpisodeSpec(ways=1, shots=5, queries=8)
METHODS = (maml_regression, pretrained_regression, oracle_regression)


def run(*args, code=0):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == code, result.output + result.stderr
    return result


def series(split="train", spec=SPEC, **options):
    return episodes.sample(STORE, split, spec, **options)


def learner(module=maml_regression, **options):
    torch.manual_seed(0)
    made = module.make(module.Options(**options), inputs_of(series()))
    for values in made.parameters():  # the published beginning is all but zero, which would hide mistakes
        torch.nn.init.normal_(values, std=0.3)
    return made


def stacked(indices, **options):
    """Episodes as one item, [B, n, ...]."""
    with episodes.Stream(series(**options), block=len(indices), start=indices[0]) as stream:
        return to_torch(next(stream))


def doubled(item):
    """In double precision, where equal is equal."""
    parts = {"support": item.support, "query": item.query}
    return replace(
        item, **{name: replace(p, fields={k: v.double() for k, v in p.fields.items()}) for name, p in parts.items()}
    )


def plain_descent(net, x, y, steps, rate, create_graph):
    """Of one task, one tensor after the other, by torch's own functions."""
    weights = {name: values.clone() for name, values in net.weights().items()}

    def call(now, rows):
        for i in range(net.depth):
            rows = rows @ now[f"weight{i}"] + now[f"bias{i}"]
            rows = torch.relu(rows) if i < net.depth - 1 else rows
        return rows

    found = [weights]
    for _ in range(steps):
        if not create_graph:
            weights = {name: values.detach().requires_grad_() for name, values in weights.items()}
        loss = ((call(weights, x) - y) ** 2).mean()
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph)
        weights = {name: values - rate * g for (name, values), g in zip(weights.items(), gradients, strict=True)}
        found.append(weights)
    return found, call


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_all_tasks_together_are_each_alone(steps):
    model, item = learner().double(), doubled(stacked(range(6)))
    x, y = model.rows(item.support.fields), model.targets(item.support.fields)
    after = descended(model.net, x, y, [0.05] * steps)
    assert len(after) == steps + 1
    for b in range(6):
        alone, call = plain_descent(model.net, x[b], y[b], steps, 0.05, create_graph=True)
        queries = model.rows(item.query.fields)
        for step in range(steps + 1):
            for name in alone[step]:
                assert torch.allclose(after[step][name][b], alone[step][name])
            predicted = model.predictor(after)(item.query.fields)[b, :, step]
            assert torch.allclose(predicted, call(alone[step], queries[b]))


def test_the_outer_gradient_is_that_of_a_plain_loop():
    model, item = learner(inner_steps=2).double().train(), doubled(stacked(range(4)))
    model.meta_loss(item).loss.backward()
    found = {name: values.grad.clone() for name, values in model.net.named_parameters()}
    model.zero_grad()
    total = torch.zeros(())
    for b in range(4):
        x, y = (of(item.support.fields)[b] for of in (model.rows, model.targets))
        alone, call = plain_descent(model.net, x, y, 2, 0.01, create_graph=True)
        error = call(alone[-1], model.rows(item.query.fields)[b]) - model.targets(item.query.fields)[b]
        total = total + (error**2).mean() / 4
    total.backward()
    for name, values in model.net.named_parameters():
        assert torch.allclose(found[name], values.grad), name


def outer(model, item):
    model.zero_grad()
    loss = model.meta_loss(item).loss
    loss.backward()
    return loss.detach(), torch.cat([values.grad.flatten() for values in model.parameters()])


@pytest.mark.parametrize("first_order", [False, True])
def test_finite_differences_agree_with_the_second_order_only(first_order):
    model = learner(inner_steps=2, inner_rate=0.1, first_order=first_order, width=6).double().train()
    item = doubled(stacked(range(3)))
    _, gradient = outer(model, item)
    direction = torch.randn(len(gradient), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    losses, step = [], 1e-6
    at = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    for sign in (1, -1):
        torch.nn.utils.vector_to_parameters(at + sign * step * direction, model.parameters())
        losses.append(float(outer(model, item)[0]))
    numeric, exact = (losses[0] - losses[1]) / (2 * step), float(gradient @ direction)
    assert (abs(numeric - exact) < 1e-5 * (1 + abs(exact))) is not first_order


def test_no_steps_leave_the_gradient_of_the_queries():
    model, item = learner(inner_steps=0).train(), stacked(range(3))
    _, found = outer(model, item)
    model.zero_grad()
    rows, targets = model.rows(item.query.fields), model.targets(item.query.fields)
    (model.net.call(model.net.weights(), rows) - targets).square().mean().backward()
    assert torch.allclose(found, torch.cat([values.grad.flatten() for values in model.parameters()]), atol=1e-6)


def test_evaluation_keeps_no_graph_and_reports_every_step():
    model, item = learner(test_steps=4).eval(), stacked(range(2))
    with torch.no_grad():
        predictions = adapted(model, item)(item.query.fields)
    assert predictions.shape == (2, 8, 5, 1)
    assert not predictions.requires_grad
    model.train()
    assert adapted(model, item)(item.query.fields).shape == (2, 8, 1, 1), "in training the last step alone"


def test_steps_beyond_those_of_training_may_have_a_rate_of_their_own():
    model, item = learner(inner_steps=2, test_steps=4, later_rate=0.003).eval(), stacked(range(2))
    x, y = model.rows(item.support.fields), model.targets(item.support.fields)
    with torch.no_grad():
        found = adapted(model, item)(item.query.fields)
        wanted = model.predictor(descended(model.net, x, y, [0.01, 0.01, 0.003, 0.003]))(item.query.fields)
        assert torch.equal(found, wanted)
        fewer = learner(inner_steps=2, test_steps=1, later_rate=0.003).eval()
        assert torch.equal(adapted(fewer, item)(item.query.fields), found[:, :, :2])


def test_a_network_begins_as_published():
    torch.manual_seed(0)
    net = Perceptron([1, 400, 400, 1])
    weights = torch.cat([values.detach().flatten() for name, values in net.named_parameters() if name.startswith("weight")])
    assert float(weights.abs().max()) <= 0.02
    assert float(weights.std()) == pytest.approx(0.0088, abs=2e-4), "a normal of 0.01 cut at two deviations"
    assert all((values == 0).all() for name, values in net.named_parameters() if name.startswith("bias"))


def test_the_report_is_a_plain_mean_over_functions():
    model, tested = learner(test_steps=3), series("test", length=12, seed=3)
    report = evaluate(model, tested, method="maml_regression")
    model.eval()
    wanted = []
    for i in range(12):
        episode = to_torch(tested[i])
        with torch.no_grad():
            predictions = adapted(model, episode)(episode.query.fields)
        truth = episode.query.fields["y"].numpy()[0, :, 0].astype(np.float64)
        wanted.append([np.mean((predictions[0, :, step, 0].numpy() - truth) ** 2) for step in range(4)])
    errors = np.array(wanted)
    assert (report.metric, report.lower_is_better) == ("mse", True)
    assert report.per_episode == pytest.approx(errors[:, 3], rel=1e-4)
    assert (report.mean, report.interval95) == pytest.approx(mean_and_interval(errors[:, 3]), rel=1e-4)
    assert list(report.further) == ["mse after 0 steps", "mse after 1 step"]
    for name, step in (("mse after 0 steps", 0), ("mse after 1 step", 1)):
        assert report.further[name] == pytest.approx(mean_and_interval(errors[:, step]), rel=1e-4)
    assert report.calibration is None
    assert report.normalised is None
    assert report.audit.passed
    assert report.audit.queries > 0
    shares = {tested.class_names(i)[0]: report.per_class[tested.class_names(i)[0]] for i in range(12)}
    assert sum(share.queries for share in shares.values()) == 12 * 8
    steps, curve = report.charts
    assert steps.lines["mse"].y == pytest.approx(errors.mean(0), rel=1e-4)
    assert list(curve.lines) == ["truth", "after 0 steps", "after 1 step", "after 3 steps", "support"]
    assert (np.diff(curve.lines["truth"].x) >= 0).all()
    first = tested[0]
    assert sorted(curve.lines["support"].y) == pytest.approx(sorted(first.support.fields["y"][:, 0].tolist()))


def test_the_table_of_a_report_says_what_it_is_of():
    table = evaluate(learner(), series("test", length=4), method="m").to_table()
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert (table["metric"], table["lower_is_better"], table["calibration"]) == ("mse", True, None)
    assert table["further"].keys() == {"mse after 0 steps", "mse after 1 step"}
    assert all(share.keys() == {"mse", "queries"} for share in table["per_class"].values())


@pytest.mark.parametrize("module", METHODS)
def test_each_method_learns_and_survives_a_state_round_trip(module):
    model = module.make(module.Options(), inputs_of(series()))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for i in range(0, 1200, 8):
        optimizer.zero_grad()
        loss = model.train().meta_loss(stacked(range(i, i + 8))).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-30:]) < np.mean(losses[:30])
    model.eval()
    twin, item = module.make(module.Options(), inputs_of(series())).eval(), stacked(range(2), split="test")
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(adapted(twin, item)(item.query.fields), adapted(model, item)(item.query.fields))


def test_the_oracle_is_told_the_function_and_sees_no_support():
    model, item = learner(oracle_regression, test_steps=2).eval(), stacked(range(3))
    with torch.no_grad():
        found = adapted(model, item)(item.query.fields)
        assert torch.equal(found[:, :, 0], found[:, :, 2]), "steps change nothing"
        other = replace(item.support, fields={name: values + 1 for name, values in item.support.fields.items()})
        assert torch.equal(model.adapt(replace(task_of(item), support=other))(item.query.fields), found)
        told = {**item.class_fields, "phase": item.class_fields["phase"] + 1}
        assert not torch.equal(model.adapt(replace(task_of(item), class_fields=told))(item.query.fields), found)
    fields = inputs_of(series()).fields
    with pytest.raises(ConfigError, match="an oracle is told the class fields, and this store has none"):
        oracle_regression.make(oracle_regression.Options(), Inputs(fields=fields))


def test_pretraining_takes_support_and_queries_alike():
    model, item = learner(pretrained_regression).train(), stacked(range(3))
    swapped = replace(item, support=item.query, query=item.support)
    assert torch.allclose(model.meta_loss(item).loss, model.meta_loss(swapped).loss)


def test_what_is_no_regression_is_refused():
    for module in METHODS:
        with pytest.raises(ConfigError, match="input: the store has no field 'z'; it has x, y"):
            learner(module, input="z")
        with pytest.raises(ConfigError, match="target: field 'x' is the input, too"):
            learner(module, target="x")
        with pytest.raises(ConfigError, match="width: expected 1 or more, got 0"):
            module.Options(width=0)
        with pytest.raises(ConfigError, match="test_steps: expected 0 or more, got -1"):
            module.Options(test_steps=-1)
        with pytest.raises(SpecError, match="a task of regression is one function, .*; ways=5 must be 1"):
            learner(module).require(episodes.EpisodeSpec(ways=5, shots=1, queries=1))
        with pytest.raises(SpecError, match="regression learns from the support; shots=0 must be 1 or more"):
            learner(module).require(episodes.EpisodeSpec(ways=1, shots=0, queries=1))
        with pytest.raises(SpecError, match="regression is scored by its queries; queries=0 must be 1 or more"):
            learner(module).require(episodes.EpisodeSpec(ways=1, shots=5, queries=0))
    points = episodes.EpisodeSpec(ways=1, shots=5, queries=0)
    learner(pretrained_regression).require_training(points)


class Told(torch.nn.Module):
    """Its score is what it is told; one parameter, so that it can be trained."""

    transductive, batch_norm = False, "none"

    def __init__(self, lower):
        super().__init__()
        self.lower, self.scores = lower, iter((3.0, 1.0, 2.0, 1.0))
        self.at = torch.nn.Parameter(torch.zeros(()))

    @property
    def scoring(self):
        def given(predictions, queries):
            return {"told": torch.full(queries.labels.shape, self.score)}

        return Scoring(metric="told", scores=given, lower_is_better=self.lower)

    def require(self, spec):
        pass

    def adapt(self, task):
        return lambda fields: fields["x"] * self.at

    def meta_loss(self, episode):
        from learners.protocol import MetaLoss

        return MetaLoss(loss=(self.at - 1) ** 2)


@pytest.mark.parametrize(("lower", "best"), [(True, 2), (False, 1)])
def test_validation_keeps_the_best_by_its_direction(lower, best, tmp_path):
    model = Told(lower)
    trainer = Trainer(model, "told", TrainConfig(steps=3, validate_every=1), tmp_path)

    def validate(module):
        module.score = next(module.scores)
        return evaluate(module, series("val", length=2), method="told")

    notes = []
    with trainer.stream(series()) as stream:
        trainer.fit(stream, validate, progress=lambda step, steps, note: notes.append(note))
    assert (trainer.best_step, trainer.best) == (best, {True: 1.0, False: 3.0}[lower])
    assert [line["told"] for line in metrics.read(tmp_path, "val")] == [3.0, 1.0, 2.0]
    assert notes[0].endswith("val 3")
    assert "validation told" in plots.curve(metrics.read(tmp_path, "train"), metrics.read(tmp_path, "val"))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (("accuracy", 0.98541, 0.00171), "98.54 % ± 0.17"),
        (("accuracy", 0.5), "50.00 %"),
        (("accuracy", 0.5, math.inf), "50.00 % ± inf"),
        (("mse", 0.031234, 0.0021), "0.0312 ± 0.0021"),
        (("mse", 4.2345, 0.123), "4.23 ± 0.12"),
        (("mse", 1234.5, 56.7), "1234 ± 57"),
        (("mse", 0.031234), "0.03123"),
        (("mse", 2.0, 0.0), "2 ± 0"),
        (("mse", 2.0, math.inf), "2 ± inf"),
        (("mse", None, None), "nan"),
    ],
)
def test_a_metric_is_written_in_its_unit(given, wanted):
    assert units.text(*given) == wanted


def test_a_difference_has_a_sign():
    assert units.difference("mse", 0.5, 0.01) == "+0.500 ± 0.010"
    assert units.difference("mse", -0.5, 0.01) == "-0.500 ± 0.010"
    assert units.difference("accuracy", 0.0123, 0.004) == "+1.23 ± 0.40"


def test_charts_of_one_title_are_drawn_together():
    def table(value):
        line = Line(x=[0, 1], y=[value, math.nan], low=[0, 0], high=[1, 1])
        return Chart(title="t", x="steps", y="mse", lines={"mse": line}, caption="c").to_table()

    both = Chart.together({"a": table(1), "b": json.loads(json.dumps(table(2)).replace("NaN", "null"))})
    assert list(both.lines) == ["a", "b"]
    assert both.lines["b"].y[0] == 2
    assert np.isnan(both.lines["b"].y[1])
    assert (both.x, both.caption) == ("steps", "c")


SMALL = "made:sinusoids,rows=40,test=30,train=60,val=20"
SHORT = ("--ways", 1, "--shots", 5, "--queries", 5, "--test-ways", 1, "--test-shots", 5, "--test-queries", 6)
SHORT += ("--steps", 6, "--meta-batch", 3, "--validate-every", 2, "--checkpoint-every", 1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each method."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("maml", "pretrained", "oracle"):
        text = run("train", f"{name}_regression", SMALL, "-o", folder / name, *SHORT).stdout
        assert "validation: " in text
        assert ": mse " in text
    return folder


def test_a_run_is_trained_evaluated_and_compared_by_commands(runs, tmp_path):
    about = json.loads((runs / "maml" / "data.json").read_text())
    assert about["store"] == SMALL
    assert about["fingerprint"] == STORE.fingerprint
    text = run("evaluate", runs / "maml", "--episodes", 9).stdout
    assert "maml_regression 1-way 5-shot on sinusoids/test: mse " in text
    assert "\n  mse after 0 steps " in text
    assert "%" not in text.partition("report:")[0]
    html = (runs / "maml" / "report.html").read_text()
    for words in ("Lower is better", "mse after 1 step", "Error by gradient steps", "One function", "of a prediction was"):
        assert words in html
    assert "Calibration" not in html
    result = json.loads((runs / "maml" / "report.json").read_text())["results"][0]
    assert (result["metric"], result["episodes"], result["seen_classes"]) == ("mse", 9, 0)

    given = (runs / "maml", runs / "pretrained", runs / "oracle", "--episodes", 9)
    text = run("compare", *given, "-o", tmp_path / "all").stdout
    assert "maml - pretrained: " in text
    assert "%" not in text
    compared = json.loads((tmp_path / "all.json").read_text())["comparisons"][0]
    assert compared["results"]["oracle"]["metric"] == "mse"
    assert compared["results"]["maml"]["mean"] == pytest.approx(result["mean"])
    assert compared["differences"][0]["metric"] == "mse"
    html = (tmp_path / "all.html").read_text()
    assert "difference in mse" in html
    assert html.count("<!-- pretrained -->") >= 2, "in the forest and in the chart that all share"


def test_an_option_of_a_run_is_tried_without_training_again(runs):
    shown = ("--episodes", 5, "--overwrite", "--json")
    own = json.loads(run("evaluate", runs / "pretrained", *shown).stdout)["results"][0]
    still = json.loads(run("evaluate", runs / "pretrained", "-L", "tune_rate=0", *shown).stdout)["results"][0]
    assert still["mean"] == still["further"]["mse after 0 steps"]["mean"]
    assert own["further"]["mse after 0 steps"] == still["further"]["mse after 0 steps"]
    recipe = json.loads((runs / "pretrained" / "report.json").read_text())["recipe"]
    assert recipe["learner"]["tune_rate"] == 0
    assert (
        "learner.tune_rates: unknown key; did you mean 'tune_rate'"
        in run("evaluate", runs / "pretrained", "-L", "tune_rates=1", "--overwrite", code=2).stderr
    )
    wrong = run("evaluate", runs / "pretrained", "-L", "width=3", "--overwrite", code=2)
    assert "do not fit this store or recipe" in wrong.stderr


def test_an_interrupted_run_goes_on_where_it_stood(tmp_path):
    model, config = "maml_regression", ("--schedule", "constant")
    run("train", model, SMALL, "-o", tmp_path / "whole", *SHORT, *config)
    run("train", model, SMALL, "-o", tmp_path / "parts", *SHORT, *config, "--steps", 4)
    recipe = tmp_path / "parts" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("steps = 4\n", "steps = 6\n"))
    run("train", model, SMALL, "-o", tmp_path / "parts", "--resume")
    first, second = (checkpoint.load(tmp_path / one / "last.ckpt", model) for one in ("whole", "parts"))
    assert first["step"] == second["step"] == 6
    assert (first["best"], first["best_step"]) == (second["best"], second["best_step"])
    assert all(torch.equal(values, second["learner"][name]) for name, values in first["learner"].items())


def test_an_error_that_is_infinite_is_reported_and_the_best_is_what_comes_after(tmp_path):
    model = learner(inner_rate=1e30, test_steps=5)
    report = evaluate(model, series("test", length=3), method="m")
    assert not math.isfinite(report.mean)
    table = json.loads(json.dumps(report.to_table(), allow_nan=False))
    assert table["mean"] is None
    assert "; 3 are infinite" in plots.histogram(report.per_episode, report.mean, report.metric)
    assert all(plots.chart(chart).startswith("<svg") for chart in report.charts)
    found = comparison.compare({"a": table, "b": evaluate(learner(), series("test", length=3), method="m").to_table()})
    assert not found.differences[0].significant
    assert "m  nan  (LEAKAGE AUDIT FAILED)" in compare_text(found), "what is no number cannot be compared with itself"
    assert "nan" in comparison_page.render("Comparison", [found])
    trainer = Trainer(model, "m", TrainConfig(steps=1), tmp_path)
    assert trainer._is_best(math.inf)
    trainer.best_step, trainer.best = 1, math.nan
    assert trainer._is_best(math.inf)
    trainer.best = 2.0
    assert [trainer._is_best(value) for value in (1.0, 2.0, 3.0, math.nan)] == [True, False, False, False]


def test_classification_and_regression_are_not_compared(runs, tmp_path):
    from learners.comparison import compare

    table = evaluate(learner(), series("test", length=4), method="m").to_table()
    with pytest.raises(ConfigError, match="b is scored by accuracy, a by mse; compare runs of one kind"):
        compare({"a": table, "b": {**table, "metric": "accuracy"}})


def test_commands_refuse_what_is_no_function(tmp_path):
    wrong = run("train", "maml_regression", SMALL, "-o", tmp_path / "run", "--ways", 5, "--steps", 2, code=2)
    assert "ways=5 must be 1" in wrong.stderr
    assert not (tmp_path / "run").exists()
