"""ProtoNet's identities, the backbone, the audit that finds leaks, and training that resumes exactly."""

import json
import math
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import episodes
from cli._scoring import check_audits
from episodes.adapters.pytorch import to_torch
from episodes.errors import CheckpointError, ConfigError, LeakageError, SpecError, StateMismatch
from episodes.protocols import FieldSpec
from episodes.transforms import Transform
from learners import checkpoint, functional, metrics, page, ranks
from learners.audit import audit
from learners.backbones import Conv4
from learners.methods import protonet
from learners.protocol import Inputs, MetaLoss
from learners.report import evaluate, mean_and_interval
from learners.settings import TrainConfig
from learners.testing import check_learner, separable_world
from learners.trainer import Trainer

SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=4)
WORLD = separable_world()
INPUTS = Inputs(fields=WORLD.fields)


def learner(**options):
    torch.manual_seed(0)
    return protonet.make(protonet.Options(width=8, **options), INPUTS)


@pytest.mark.parametrize(
    ("shape", "width", "parameters", "features"),
    [((1, 28, 28), 64, 111_936, 64), ((3, 84, 84), 64, 113_088, 1600), ((3, 84, 84), 32, 28_896, 800)],
)
def test_conv4_has_the_published_parameters(shape, width, parameters, features):
    backbone = Conv4(shape, width)
    assert sum(p.numel() for p in backbone.parameters()) == parameters
    assert backbone(torch.zeros(2, *shape)).shape == (2, features)
    assert backbone.features == features


def test_conv4_is_convolution_norm_relu_pool():
    backbone = Conv4((1, 16, 16), 4).eval()
    values = images = torch.rand(3, 1, 16, 16)
    for block in backbone.blocks:
        values = nn.functional.max_pool2d(torch.relu(block(values)), 2)
    assert torch.allclose(backbone(images), values.flatten(1), atol=1e-6)


def test_conv4_refuses_images_it_would_pool_to_nothing():
    with pytest.raises(ConfigError, match=r"16 x 16 pixels or more, got shape \(1, 15, 16\)"):
        Conv4((1, 15, 16))


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_protonet_keeps_the_laws_of_a_learner(distance):
    def make(inputs):
        torch.manual_seed(0)
        return protonet.make(protonet.Options(width=16, distance=distance), inputs)

    check_learner(make)


shapes = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(1, 8))


@settings(max_examples=50, deadline=None)
@given(shape=shapes, seed=st.integers(0, 1000))
def test_euclidean_logits_are_those_of_a_linear_layer(shape, seed):
    ways, shots, queries, dims = shape
    torch.manual_seed(seed)
    support, query = torch.randn(1, ways * shots, dims).double(), torch.randn(1, queries, dims).double()
    labels = torch.arange(ways).repeat_interleave(shots)[None]
    prototypes = functional.class_means(support, labels, ways)
    logits = -functional.squared_distances(query, prototypes)
    assert torch.allclose(logits, -((query[:, :, None] - prototypes[:, None]) ** 2).sum(-1), atol=1e-9)
    linear = query @ (2 * prototypes).transpose(1, 2) - prototypes.square().sum(-1)[:, None]
    assert torch.allclose(logits.softmax(-1), linear.softmax(-1), atol=1e-6)
    twice = functional.class_means(support.repeat(1, 2, 1), labels.repeat(1, 2), ways)
    assert torch.allclose(twice, prototypes), "showing every shot twice changes nothing"
    order = torch.randperm(ways * shots)
    assert torch.allclose(functional.class_means(support[:, order], labels[:, order], ways), prototypes)
    moved = -functional.squared_distances(query + 3, prototypes + 3)
    assert torch.allclose(moved, logits, atol=1e-8), "moving all features changes nothing"


def test_unequal_shots_are_averaged_each_over_its_own():
    features = torch.tensor([[[0.0], [2.0], [10.0]]])
    assert functional.class_means(features, torch.tensor([[0, 0, 1]]), 2).flatten().tolist() == [1.0, 10.0]


def test_images_are_scaled_by_their_type():
    assert functional.to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [0.0, 1.0]
    assert functional.to_float(torch.tensor([0.0, 7.0])).tolist() == [0.0, 7.0]


def test_protonet_refuses_what_it_cannot_learn_from():
    with pytest.raises(SpecError, match="shots=0 must be 1 or more"):
        learner().require(replace(SPEC, shots=0))
    with pytest.raises(SpecError, match="queries=0 must be 1 or more"):
        learner().require(replace(SPEC, queries=0))
    with pytest.raises(ConfigError, match="no field 'picture'; it has image"):
        learner(image="picture")
    with pytest.raises(ConfigError, match="field 'drawer' is one number a row; learners take vectors and images"):
        protonet.make(protonet.Options(image="drawer"), Inputs(fields={"drawer": FieldSpec("int64", ())}))


def test_tensors_share_the_memory_of_the_episode():
    episode = episodes.sample(WORLD, "train", SPEC)[0]
    tensors = to_torch(episode)
    assert tensors.support.fields["image"].shape == (1, 6, 1, 16, 16)
    assert tensors.support.fields["image"].data_ptr() == episode.support.fields["image"].ctypes.data
    assert tensors.query.labels.dtype == torch.int64


def test_the_interval_is_that_of_the_sample():
    values = np.array([0.2, 0.4, 0.9, 0.5])
    mean, half = mean_and_interval(values)
    assert mean == pytest.approx(0.5)
    assert half == pytest.approx(1.96 * math.sqrt(((values - 0.5) ** 2).sum() / 3) / 2)
    assert mean_and_interval(np.array([1.0])) == (1.0, math.inf)


def test_a_report_tells_where_it_comes_from():
    series = episodes.sample(WORLD, "test", SPEC, seed=5, length=7)
    model = learner()
    model.train()
    report = evaluate(model, series, method="protonet")
    assert model.training, "the learner's mode is restored"
    assert (report.episodes, report.split, report.seed, report.spec) == (7, "world/test", 5, SPEC)
    assert (report.fingerprint, report.store_fingerprint) == (series.fingerprint, WORLD.fingerprint)
    assert report.audit.passed
    assert report.audit.queries == 5 * 12
    table = json.loads(json.dumps(report.to_table()))
    assert table["mean"] == report.mean
    assert table["batch_norm"] == "running"
    assert evaluate(model, series, method="protonet").per_episode.tolist() == report.per_episode.tolist()


class Leaky(protonet.ProtoNet):
    """Uses the batch statistics of the queries, as many published codes do by leaving batch norm in training mode."""

    def adapt(self, task):
        self.train()
        return super().adapt(task)


class Flying(protonet.ProtoNet):
    """Predicts no number."""

    def adapt(self, task):
        predict = super().adapt(task)
        return lambda fields: predict(fields) * torch.inf


def test_predictions_that_are_no_numbers_are_called_so(tmp_path):
    series = episodes.sample(WORLD, "test", SPEC, length=3)
    report = evaluate(Flying(protonet.Options(width=8), INPUTS), series, method="m")
    assert not report.audit.passed
    assert "PREDICTIONS ARE NOT FINITE" in str(report)
    assert "of which nothing can be said" in page.render(tmp_path, "", [report], [series])
    with pytest.raises(LeakageError, match="'m' predicts what is no finite number.*lower the rate of its inner steps"):
        check_audits([("m", report)], None)


def test_the_audit_finds_batch_statistics_over_queries():
    series = episodes.sample(WORLD, "test", SPEC, length=3)
    leaky = Leaky(protonet.Options(width=8), INPUTS)
    report = evaluate(leaky, series, method="leaky")
    assert not report.audit.passed
    assert report.audit.largest_difference > 0.01
    assert "LEAKAGE AUDIT FAILED" in str(report)

    class Declared(Leaky):
        transductive = True

    assert audit(Declared(protonet.Options(width=8), INPUTS), [to_torch(series[0])]).passed, "a declared method may"


def test_unlabeled_rows_reach_adapt_in_evaluation_and_audit():
    class Curious(protonet.ProtoNet):
        seen = ()

        def adapt(self, task):
            self.seen += tuple(len(rows) for rows in task.unlabeled["image"])
            return super().adapt(task)

    curious = Curious(protonet.Options(width=8), INPUTS)
    spec = episodes.EpisodeSpec.from_table(SPEC.to_table() | {"unlabeled": 2})
    evaluate(curious, episodes.sample(WORLD, "test", spec, length=3), method="curious", audited=1)
    assert curious.seen == (2 * spec.ways.low,) * 4


def test_the_audit_fails_logits_that_are_not_finite():
    model = learner()
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    model.eval()
    assert not audit(model, [to_torch(episodes.sample(WORLD, "test", SPEC)[0])]).passed


CONFIG = TrainConfig(steps=12, validate_every=4, checkpoint_every=3, lr=0.01, accelerator="cpu")


def train(run, config=CONFIG, *, resume=False, seed=0, stop=None):
    run.mkdir(exist_ok=True)
    series = episodes.sample(WORLD, "test", SPEC, length=5)

    def progress(step, steps, note):
        if step == stop:
            raise KeyboardInterrupt

    trainer = Trainer(learner(), "protonet", config, run)
    stream = trainer.stream(episodes.sample(WORLD, "train", SPEC, seed=seed))
    report = trainer.fit(stream, lambda m: evaluate(m, series, method="protonet"), resume=resume, progress=progress)
    return report, trainer


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"]


@pytest.mark.parametrize("stop", [3, 7, 11])
def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(tmp_path, stop):
    train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", stop=stop)
    train(tmp_path / "cut", resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    whole, cut = (checkpoint.load(tmp_path / run / "last.ckpt", "protonet")["learner"] for run in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_run_does_not_depend_on_where_its_episodes_are_made(tmp_path):
    for data in ("host", "prefetch", "resident"):
        train(tmp_path / data, replace(CONFIG, data=data))
    assert losses(tmp_path / "prefetch") == losses(tmp_path / "resident") == losses(tmp_path / "host")


def test_a_meta_batch_averages_its_episodes(tmp_path):
    train(tmp_path / "one", replace(CONFIG, steps=2, lr=1e-12))
    train(tmp_path / "two", replace(CONFIG, steps=1, meta_batch=2, lr=1e-12))
    (_, a), (_, b) = losses(tmp_path / "one")
    assert losses(tmp_path / "two")[0][1] == pytest.approx((a + b) / 2, rel=1e-5)


def test_training_stops_when_validation_no_longer_improves(tmp_path):
    _, trainer = train(tmp_path / "run", replace(CONFIG, steps=100, lr=1e-12, validate_every=2, patience=2))
    assert trainer.step == trainer.best_step + 4 < 100


def test_a_run_that_stopped_early_is_not_trained_further(tmp_path):
    config = replace(CONFIG, steps=100, lr=1e-12, validate_every=2, patience=1)
    _, trainer = train(tmp_path / "run", config)
    _, again = train(tmp_path / "run", config, resume=True)
    assert again.step == trainer.step < 100


class Noisy(torch.nn.Module):
    """Its loss is a number drawn."""

    def __init__(self):
        super().__init__()
        self.weight, self.drawn = torch.nn.Parameter(torch.ones(())), []

    def meta_loss(self, episode):
        self.drawn.append(float(noise := torch.rand(())))
        return MetaLoss(loss=self.weight * noise)


@pytest.mark.parametrize("rank", [0, 1])
def test_what_a_rank_draws_does_not_depend_on_where_it_was_interrupted(rank, tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "rank", lambda: rank)
    report = SimpleNamespace(metric="accuracy", mean=0.5, interval95=0.0)

    def drawn(steps, run):
        torch.manual_seed(3)
        noisy, resume = Noisy(), run.exists()
        run.mkdir(exist_ok=True)
        config = replace(CONFIG, steps=steps, schedule="constant", validate_every=100)
        trainer = Trainer(noisy, "noisy", config, run)
        trainer.fit(episodes.Stream(episodes.sample(WORLD, "train", SPEC)), lambda module: report, resume=resume)
        return noisy.drawn

    whole = drawn(4, tmp_path / "whole")
    assert [*drawn(2, tmp_path / "parts"), *drawn(4, tmp_path / "parts")] == whole
    assert len(set(whole)) == 4


def test_the_best_parameters_are_kept(tmp_path):
    _, trainer = train(tmp_path / "run")
    best = checkpoint.load(tmp_path / "run" / "best.ckpt", "protonet")
    assert best["step"] == trainer.best_step
    state = trainer.learner.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in best["learner"].items())


def test_a_run_tells_which_episodes_a_step_used_and_what_it_waited(tmp_path):
    notes = []
    run = tmp_path / "run"
    run.mkdir()
    trainer = Trainer(learner(), "protonet", replace(CONFIG, meta_batch=2), run)
    series = episodes.sample(WORLD, "test", SPEC, length=2)
    trainer.fit(
        episodes.Stream(episodes.sample(WORLD, "train", SPEC)),
        lambda m: evaluate(m, series, method="protonet"),
        progress=lambda step, steps, note: notes.append(note),
    )
    lines = metrics.read(run, "train")
    assert [(line["first_index"], line["episodes"]) for line in lines] == [(2 * step, 2) for step in range(12)]
    assert all(0 < line["data_share"] < 1 for line in lines)
    about, (end,) = metrics.summary(run), metrics.read(run, "time")
    assert about["steps"] == 12
    assert about["seconds"] == pytest.approx(sum(line["seconds"] for line in lines))
    assert about["data_share"] == pytest.approx(end["data_share"]) == pytest.approx(trainer.data_share)
    assert f"data {100 * trainer.data_share:.1f} %" in notes[-1]
    assert metrics.summary(tmp_path) is None


def test_waiting_for_data_is_told_from_computing(tmp_path, monkeypatch):
    """By a clock that goes on by 3 s while a part of an episode is made, and by 4 s in a loss."""
    clock = [0.0]

    def pass_by(fields, generator):
        clock[0] += 3
        return fields

    class Slow(protonet.ProtoNet):
        def meta_loss(self, episode):
            clock[0] += 4
            return super().meta_loss(episode)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    late = episodes.sample(WORLD, "train", SPEC, then=pass_by, length=2)
    tested = episodes.sample(WORLD, "test", SPEC, length=2)
    trainer = Trainer(Slow(protonet.Options(width=8), INPUTS), "protonet", replace(CONFIG, steps=2), tmp_path)
    trainer.fit(episodes.Stream(late), lambda m: evaluate(m, tested, method="protonet"))
    lines = metrics.read(tmp_path, "train")  # both episodes, of two parts each, are made in one call
    assert [(line["seconds"], line["data_share"]) for line in lines] == [(16, 0.75), (4, 0)]
    assert metrics.summary(tmp_path) == {"steps": 2, "seconds": 20, "data_share": 0.6}


def test_workers_are_one_on_an_accelerator_and_none_on_the_cpu_unless_given(tmp_path):
    assert Trainer(learner(), "protonet", CONFIG, tmp_path).workers == 0
    assert Trainer(learner(), "protonet", replace(CONFIG, workers=3), tmp_path).workers == 3
    with pytest.raises(ConfigError, match="workers: expected 0 or more, got -1"):
        TrainConfig(workers=-1)


def test_the_precision_reaches_the_loss(tmp_path):
    class Precise(protonet.ProtoNet):
        seen = ()

        def meta_loss(self, episode):
            self.seen = (*self.seen, self.embedding.backbone(functional.to_float(episode.support.fields["image"][0])).dtype)
            return super().meta_loss(episode)

    precise = Precise(protonet.Options(width=8), INPUTS)
    series = episodes.sample(WORLD, "test", SPEC, length=2)
    Trainer(precise, "protonet", replace(CONFIG, steps=2, precision="bf16-mixed"), tmp_path).fit(
        episodes.Stream(episodes.sample(WORLD, "train", SPEC)), lambda m: evaluate(m, series, method="protonet")
    )
    assert precise.seen == (torch.bfloat16,) * 2


def test_normalised_images_are_learned_from_as_they_are():
    series = episodes.sample(WORLD, "train", SPEC, transforms=(Transform(mean=(0.5,), std=(0.25,)),))
    plain = episodes.sample(WORLD, "train", SPEC)
    seen, stored = (to_torch(one[0]).support.fields["image"] for one in (series, plain))
    assert torch.allclose(functional.to_float(seen), (functional.to_float(stored) - 0.5) / 0.25, atol=1e-5)
    assert learner().meta_loss(to_torch(series[0])).loss.isfinite()


def test_rates_follow_their_schedule():
    assert TrainConfig(schedule="constant", lr=0.1).rate(999) == 0.1
    halving = TrainConfig(schedule="halve", halve_every=10, lr=0.1)
    assert [halving.rate(s) for s in (0, 9, 10, 20)] == pytest.approx([0.1, 0.1, 0.05, 0.025])
    cosine = TrainConfig(schedule="cosine", steps=100, lr=0.1)
    assert [cosine.rate(s) for s in (0, 50, 100)] == pytest.approx([0.1, 0.05, 0.0])


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("lr", 0.0), ("meta_batch", -1), ("patience", 0), ("weight_decay", -1.0), ("seed", -1)],
)
def test_settings_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"{name}.*{value}"):
        TrainConfig(**{name: value})


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "double"])
def test_a_precision_of_the_parameters_is_refused(precision):
    with pytest.raises(ConfigError, match=f"precision: expected 32-true, bf16-mixed or 16-mixed, got '{precision}'"):
        Trainer(learner(), "protonet", replace(CONFIG, precision=precision), None)


def test_an_unknown_accelerator_is_refused():
    with pytest.raises(ConfigError, match="accelerator 'abacus'"):
        Trainer(learner(), "protonet", replace(CONFIG, accelerator="abacus"), None)


def test_checkpoints_that_do_not_fit_are_refused(tmp_path):
    train(tmp_path / "run")
    last = tmp_path / "run" / "last.ckpt"
    with pytest.raises(CheckpointError, match="is of method 'protonet', not 'maml'"):
        checkpoint.load(last, "maml")
    with pytest.raises(StateMismatch, match="drew other episodes"):
        train(tmp_path / "run", resume=True, seed=1)
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="last.ckpt cannot be read"):
        checkpoint.load(last, "protonet")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        checkpoint.load(tmp_path / "nothing.ckpt", "protonet")


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(CheckpointError, match=r"loss is (nan|inf) at step \d+; lower lr"):
        train(tmp_path / "run", replace(CONFIG, lr=1e30, steps=50, validate_every=50))


def test_generalized_scores_are_what_they_say():
    logits = torch.tensor([[3.0, 0, 2, 0], [0, 1, 2, 0], [4, 0, 3, 0], [0, 0, 0, 5], [0, 9, 1, 2]])
    labels = torch.tensor([0, 1, 2, 3, 3])  # the first two are base classes
    scores = functional.generalized_scores(logits, labels, 2)
    assert scores["all"] == pytest.approx(2 / 5)
    assert scores["base"] == pytest.approx(1 / 2)
    assert scores["novel"] == pytest.approx(1 / 3)
    assert scores["novel/novel"] == scores["base/base"] == 1
    assert scores["harmonic"] == pytest.approx(2 / 5)
    assert scores["all_class_mean"] == pytest.approx((1 + 0 + 0 + 1 / 2) / 4)
