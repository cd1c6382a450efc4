"""The pre-trained baselines against slow references, and the identities that each of them has to keep."""

import copy
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import episodes
from cli.main import main
from episodes.adapters.pytorch import to_torch
from episodes.errors import ConfigError, SpecError
from episodes.stream.stream import Stream
from learners import functional
from learners.methods import baseline_finetune, baseline_nn, baseline_pp
from learners.methods.baseline_nn import nearest
from learners.methods.baseline_pp import tuned
from learners.origin import inputs_of
from learners.pretraining import fresh_head, scores
from learners.protocol import Inputs, adapted, single, task_of
from learners.report import evaluate
from learners.settings import TrainConfig
from learners.testing import check_learner, separable_world
from learners.trainer import Trainer

WORLD = separable_world()
SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=4)
BATCH = episodes.EpisodeSpec(ways=6, shots=0, queries=2)
INPUTS = inputs_of(episodes.sample(WORLD, "train", SPEC))
METHODS = (baseline_nn, baseline_finetune, baseline_pp)


def learner(module, inputs=INPUTS, seed=0, **options):
    torch.manual_seed(seed)
    return module.make(module.Options(**{"width": 8, **options}), inputs)


def block(size=3, split="test", spec=SPEC, *, double=True):
    """Episodes together, in float64 of 0..1 for comparisons with references."""
    episode = to_torch(next(Stream(episodes.sample(WORLD, split, spec), block=size)))
    for part in (episode.support, episode.query):
        if double:
            part.fields = {"image": part.fields["image"].double() / 255}
    return episode


@pytest.mark.parametrize(
    ("module", "options", "equivariant"),
    [
        (baseline_nn, {}, True),
        (baseline_nn, {"distance": "euclidean", "head": "cosine"}, True),
        (baseline_finetune, {"tune_steps": 8, "tune_rate": 0.05}, False),
        (baseline_finetune, {"tune": "head", "tune_rate": 0.3, "batch_norm": "running"}, False),
        (baseline_pp, {"tune_epochs": 30, "tune_rate": 0.05}, False),
        (baseline_pp, {"tune_epochs": 30, "tune_rate": 0.05, "head": "linear"}, False),
    ],
)
def test_a_baseline_keeps_the_laws_of_a_learner(module, options, equivariant):
    check_learner(lambda inputs: learner(module, inputs, width=16, **options), equivariant=equivariant)


def turned_batch():
    return episodes.sample(WORLD, "train", episodes.EpisodeSpec(ways=16, shots=1, queries=1), rotations=True)


def test_a_label_has_the_row_of_its_class_and_turn():
    series = turned_batch()
    inputs = inputs_of(series)
    assert len(inputs.classes) == 24
    made = learner(baseline_nn, inputs)
    places = {one: place for place, one in enumerate(inputs.classes)}
    episode = to_torch(next(Stream(series, block=4)))
    found = made.classifier.places(episode)
    assert {int(turn) for turn in episode.variants.flatten()} == {0, 1, 2, 3}
    for b, k in itertools.product(range(4), range(16)):
        assert found[b, k] == places[int(episode.class_ids[b, k]), int(episode.variants[b, k])]


def test_rows_of_the_head_are_those_of_the_state():
    series = turned_batch()
    inputs = inputs_of(series)
    made = learner(baseline_nn, inputs)
    other = learner(baseline_nn, replace(inputs, classes=inputs.classes[::-1]), seed=1)
    episode = to_torch(series[0])
    assert not torch.equal(other.classifier.places(episode), made.classifier.places(episode))
    other.load_state_dict(made.state_dict())
    assert torch.equal(other.classifier.places(episode), made.classifier.places(episode))
    assert torch.equal(other.meta_loss(episode).loss, made.meta_loss(episode).loss)


def test_a_head_over_unknown_classes_is_refused():
    made = learner(baseline_nn)
    with pytest.raises(SpecError, match=r"class number \d+ is none of the 6 classes that the head was made for"):
        made.meta_loss(to_torch(episodes.sample(WORLD, "test", BATCH)[0]))
    with pytest.raises(SpecError, match="is none of the 6 classes"):
        made.meta_loss(to_torch(turned_batch()[0]))
    for module in METHODS:
        with pytest.raises(ConfigError, match="needs the classes of one store; .*train on one store, without --mix"):
            learner(module, Inputs(fields=WORLD.fields))


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_the_loss_of_a_batch_is_the_mean_over_its_rows(head):
    made = learner(baseline_nn, head=head).double().eval()
    episode = block(2, "train")
    episode.query.labels[1, 3] = -1  # of a distractor
    losses, right = [], []
    weight, *_ = made.classifier.head["weight"], None
    for b in range(2):
        for part in (episode.support, episode.query):
            for image, label in zip(part.fields["image"][b], part.labels[b], strict=True):
                if label < 0:
                    continue
                feature = made.classifier.embedding.backbone(image[None])[0]
                if head == "linear":
                    logits = torch.stack(
                        [feature @ w + c for w, c in zip(weight, made.classifier.head["bias"], strict=True)]
                    )
                else:
                    unit = feature / (feature.norm() + 1e-5)
                    norms = made.classifier.head["norm"]
                    logits = torch.stack([2 * g * (unit @ w) / w.norm() for w, g in zip(weight, norms, strict=True)])
                place = INPUTS.classes.index((int(episode.class_ids[b, label]), 0))
                losses.append(-logits.log_softmax(-1)[place])
                right.append(int(logits.argmax()) == place)
    result = made.meta_loss(episode)
    assert float(result.loss.detach()) == pytest.approx(float(torch.stack(losses).mean().detach()), rel=1e-9)
    assert result.values["accuracy"] == pytest.approx(np.mean([np.mean(right[:18]), np.mean(right[18:])]))


def test_the_scale_of_cosines_is_2_for_few_classes_and_10_for_many():
    for outputs, factor in ((200, 2), (201, 10)):
        head = fresh_head("cosine", outputs, 5)
        features = head["weight"][:3]
        own = scores(features, head, None).diagonal()
        assert torch.allclose(own, factor * features.norm(dim=-1), rtol=1e-3)
        assert torch.allclose(scores(features, head, 3.0) * factor / 3, scores(features, head, None))


# Nearest neighbour.


def test_the_nearest_row_decides_and_the_first_of_equals():
    generator = np.random.default_rng(0)
    for trial in range(200):
        S, W, Q = 9, 3, 4
        labels = generator.permutation(np.arange(S) % W)
        similarities = generator.integers(0, 3, (1, Q, S)).astype(np.float32)  # many ties
        logits = nearest(torch.from_numpy(similarities), torch.from_numpy(labels)[None], W)
        for q in range(Q):
            assert int(logits[0, q].argmax()) == labels[int(np.argmax(similarities[0, q]))], trial
            assert logits[0, q].tolist() == pytest.approx([similarities[0, q, labels == c].max() for c in range(W)])


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_neighbours_are_found_one_by_one(distance):
    made = learner(baseline_nn, distance=distance).double().eval()
    episode = block()
    with torch.no_grad():
        logits = adapted(made, episode)(episode.query.fields)
        for b in range(3):
            known = made.classifier.embedding.backbone(episode.support.fields["image"][b])
            for q, image in enumerate(episode.query.fields["image"][b]):
                feature = made.classifier.embedding.backbone(image[None])[0]
                if distance == "cosine":
                    closeness = [float(feature @ one / (feature.norm() * one.norm())) for one in known]
                else:
                    closeness = [-float(((feature - one) ** 2).sum()) for one in known]
                assert logits[b, q].argmax() == episode.support.labels[b, int(np.argmax(closeness))]
                assert float(logits[b, q].max()) == pytest.approx(max(closeness), abs=1e-9)


def test_cosine_and_euclidean_neighbours_differ():
    known, query = torch.tensor([[[10.0, 1], [1, 1]]]), torch.tensor([[[1.0, 0]]])
    labels = torch.tensor([[0, 1]])
    assert nearest(functional.cosine_similarities(query, known), labels, 2).argmax() == 0
    assert nearest(-functional.squared_distances(query, known), labels, 2).argmax() == 1


def test_a_query_that_is_in_the_support_is_right():
    made = learner(baseline_nn).eval()
    episode = block(double=False)
    both = {"image": torch.cat([episode.support.fields["image"], episode.query.fields["image"]], 1)}
    support = replace(
        episode.support, fields=both, labels=torch.cat([episode.support.labels, episode.query.labels], 1), rows=None
    )
    with torch.no_grad():
        logits = made.adapt(replace(task_of(episode), support=support))(episode.query.fields)
    assert functional.accuracy(logits, episode.query.labels).tolist() == [1, 1, 1]


# Fine-tuning.


def test_without_steps_fine_tuning_is_at_chance():
    series = episodes.sample(WORLD, "test", SPEC, length=60)
    report = evaluate(learner(baseline_finetune, tune_steps=0), series, method="baseline_finetune")
    assert abs(report.mean - 1 / 3) < 2 * report.interval95 + 0.02


def test_many_steps_fit_the_support():
    made = learner(baseline_finetune, tune_steps=200, tune_rate=0.05).eval()
    episode = block(double=False)
    with torch.no_grad():
        logits = adapted(made, episode)(episode.support.fields)
    assert functional.accuracy(logits, episode.support.labels).tolist() == [1, 1, 1]


class Plain(nn.Module):
    """Conv-4 and a linear head of torch's own layers."""

    def __init__(self, made, ways):
        super().__init__()
        embedding = made.classifier.embedding
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(1 if i == 0 else 8, 8, 3, padding=1), nn.BatchNorm2d(8)) for i in range(4)
        )
        self.head = nn.Linear(embedding.features, ways)
        self.double()
        self.blocks.load_state_dict(copy.deepcopy(embedding.backbone.blocks.state_dict()))
        self.head.load_state_dict({name: getattr(made, f"new_{name}")[:ways] for name in ("weight", "bias")})

    def forward(self, values):
        for one in self.blocks:
            values = nn.functional.max_pool2d(torch.relu(one(values)), 2)
        return self.head(values.flatten(1))


@pytest.mark.parametrize("tune", ["all", "head"])
@pytest.mark.parametrize("batch_norm", ["support", "running"])
def test_fine_tuning_is_plain_descent_on_every_support(tune, batch_norm):
    settings = {"tune_steps": 5, "tune_rate": 0.1, "tune_decay": 0.5}
    made = learner(baseline_finetune, tune=tune, batch_norm=batch_norm, **settings)
    made.train()
    made.meta_loss(block(1, "train", double=False))  # so that running statistics are no longer 0 and 1
    made.double().eval()
    before = copy.deepcopy(made.state_dict())
    episode = block()
    with torch.no_grad():
        logits = adapted(made, episode)(episode.query.fields)
    for b in range(3):
        network = Plain(made, 3).train(batch_norm == "support")
        network.blocks.requires_grad_(tune == "all")
        optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
        for t in range(5):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + t * 0.5)
            optimizer.zero_grad()
            outputs = network(episode.support.fields["image"][b])
            nn.functional.cross_entropy(outputs, episode.support.labels[b]).backward()
            optimizer.step()
        expected = network.eval()(episode.query.fields["image"][b])
        assert torch.allclose(logits[b], expected, atol=1e-8)
    after = made.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items()), "tuning leaves the learner as it was"
    assert not made.training


def test_fine_tuning_says_which_statistics_it_uses():
    assert learner(baseline_finetune).batch_norm == "support"
    assert learner(baseline_finetune, batch_norm="running").batch_norm == "running"
    assert learner(baseline_finetune, backbone="linear").batch_norm == "none"
    with pytest.raises(ConfigError, match="batch_norm: queries are not normalised with their own statistics"):
        learner(baseline_finetune, batch_norm="transductive")


# Baseline and Baseline++.


def reference(features, labels, ways, options):
    """The head of one support by torch's own layers, hooks and optimizer."""
    order = torch.Generator().manual_seed(episodes.rng.stream_key("baseline_pp", options.tune_seed) >> 1)
    start = fresh_head(options.head, ways, features.shape[1], order)
    layer = nn.Linear(features.shape[1], ways, bias=options.head == "linear").double()
    with torch.no_grad():
        layer.weight.copy_(start["weight"])
        if options.head == "linear":
            layer.bias.copy_(start["bias"])
    if options.head == "cosine":
        weight_norm(layer, dim=0)
        unit = features / (features.norm(dim=1, keepdim=True) + 1e-5)
    optimizer = torch.optim.SGD(
        layer.parameters(), lr=options.tune_rate, momentum=0.9, dampening=0.9, weight_decay=options.tune_weight_decay
    )

    def predict(values):
        return 2 * layer(values) if options.head == "cosine" else layer(values)

    rows = unit if options.head == "cosine" else features
    for _ in range(options.tune_epochs):
        permuted = torch.randperm(len(rows), generator=order)
        for i in range(0, len(rows), options.tune_batch):
            chosen = permuted[i : i + options.tune_batch]
            optimizer.zero_grad()
            nn.functional.cross_entropy(predict(rows[chosen]), labels[chosen]).backward()
            optimizer.step()
    return lambda values: predict(
        values / (values.norm(dim=1, keepdim=True) + 1e-5) if options.head == "cosine" else values
    ).detach()


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_heads_learn_as_by_themselves(head):
    options = baseline_pp.Options(head=head, tune_epochs=7, tune_rate=0.3, tune_seed=5)
    torch.manual_seed(0)
    features, labels = torch.randn(3, 10, 6).double(), torch.stack([torch.randperm(10) % 5 for _ in range(3)])
    learned = tuned(features, labels, 5, options)
    queries = torch.randn(3, 4, 6).double()
    logits = scores(queries, learned, None)
    for b in range(3):
        assert torch.allclose(logits[b], reference(features[b], labels[b], 5, options)(queries[b]), atol=1e-6)
        alone = tuned(features[b : b + 1], labels[b : b + 1], 5, options)
        assert all(torch.allclose(alone[name][0], learned[name][b], atol=1e-12) for name in learned)
    other = tuned(features, labels, 5, replace(options, tune_seed=6))
    assert not torch.allclose(other["weight"], learned["weight"], atol=1e-3)


@pytest.mark.parametrize("module", METHODS)
def test_episodes_together_are_predicted_as_one_by_one(module):
    made = learner(module).eval()
    episode = block(double=False)
    with torch.no_grad():
        together = adapted(made, episode)(episode.query.fields)
        for b in range(3):
            one = single(episode, b)
            assert torch.allclose(adapted(made, one)(one.query.fields)[0], together[b], atol=1e-4)


def test_the_length_of_features_does_not_matter_to_cosine_heads():
    torch.manual_seed(0)
    head, features = fresh_head("cosine", 5, 8), 10 * torch.randn(6, 8).double()
    logits = scores(features, head, None)
    for factor in (0.1, 3.0, 1e6):
        assert torch.allclose(scores(factor * features, head, None), logits, atol=1e-4)
    assert not torch.allclose(scores(3 * features, fresh_head("linear", 5, 8), None), logits, atol=0.1)


def test_a_large_scale_predicts_the_nearest_class_vector():
    torch.manual_seed(0)
    head, features = fresh_head("cosine", 5, 8), torch.randn(40, 8)
    head["norm"] = torch.ones(5)
    nearest_vector = functional.cosine_similarities(features[None], head["weight"][None])[0].argmax(-1)
    shares = scores(features, head, 1e5).softmax(-1)
    assert torch.equal(shares.argmax(-1), nearest_vector)
    assert float(shares.max(-1).values.median()) == pytest.approx(1)


def test_the_learner_is_left_as_it_was_by_tasks():
    made = learner(baseline_pp, tune_epochs=3).eval()
    before = copy.deepcopy(made.state_dict())
    state = torch.get_rng_state()
    episode = block(double=False)
    with torch.no_grad():
        adapted(made, episode)(episode.query.fields)
    assert torch.equal(torch.get_rng_state(), state), "no global random numbers"
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert all(p.grad is None for p in made.parameters())


# All of them.


@pytest.mark.parametrize("module", METHODS)
def test_what_cannot_be_learned_from_is_refused(module):
    made = learner(module)
    made.require(SPEC)
    made.require_training(BATCH)
    with pytest.raises(SpecError, match="learns from the support; shots=0 must be 1 or more"):
        made.require(BATCH)
    with pytest.raises(SpecError, match="scored by its queries; queries=0 must be 1 or more"):
        made.require(episodes.EpisodeSpec(ways=3, shots=1, queries=0))
    with pytest.raises(ConfigError, match="scale: expected a number above 0, got -1"):
        module.Options(scale=-1.0)


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (baseline_finetune, "max_ways", 1),
        (baseline_finetune, "tune_steps", -1),
        (baseline_finetune, "tune_rate", -0.5),
        (baseline_pp, "tune_epochs", -1),
        (baseline_pp, "tune_batch", 0),
        (baseline_pp, "tune_weight_decay", -1.0),
    ],
)
def test_options_out_of_range_are_refused_by_name(module, name, value):
    with pytest.raises(ConfigError, match=f"{name}: expected . or more, got {value}"):
        module.Options(**{name: value})


def test_fine_tuning_refuses_more_ways_than_outputs():
    with pytest.raises(SpecError, match="the head has 2 outputs; ways=3 needs --max-ways as many"):
        learner(baseline_finetune, max_ways=2).require(SPEC)


def test_plain_batches_teach_all_three(tmp_path):
    """One training, by the trainer, on episodes without support; the classifier then serves every method."""
    config = TrainConfig(steps=60, validate_every=60, lr=0.005, accelerator="cpu", meta_batch=2)
    tested = episodes.sample(WORLD, "test", SPEC, length=10)
    trainer = Trainer(learner(baseline_nn), "baseline_nn", config, tmp_path)
    with trainer.stream(episodes.sample(WORLD, "train", BATCH)) as stream:
        report = trainer.fit(stream, lambda module: evaluate(module, tested, method="baseline_nn"))
    assert report.mean > 0.9
    for module, options in ((baseline_finetune, {"tune_rate": 0.05}), (baseline_pp, {"head": "linear", "tune_rate": 0.05})):
        other = learner(module, seed=1, **options)
        other.classifier.load_state_dict(trainer.learner.classifier.state_dict())
        assert evaluate(other, tested, method=module.__name__).mean > 0.9


def test_the_command_trains_on_batches_and_scores_tasks(glyphs_store, tmp_path):
    flags = ("--steps", 4, "--validate-every", 2, "--width", 8, "--ways", 12, "--shots", 0, "--queries", 1, "--rotations")
    out = tmp_path / "run"

    def run(*args, code=0):
        result = CliRunner().invoke(main, [str(a) for a in args])
        assert result.exit_code == code, result.output + repr(result.exception)
        return result

    run("train", "baseline_nn", glyphs_store, "-o", out, *flags, "--accelerator", "cpu")
    told = run("evaluate", out, "--episodes", 3, "--json").stdout
    (result,) = json.loads(told)["results"]
    assert (result["method"], result["episodes"], result["audit"]["passed"]) == ("baseline_nn", 3, True)
    refused = run("train", "baseline_nn", glyphs_store, "-o", tmp_path / "no", *flags, "--test-shots", 0, code=2)
    assert "learns from the support; shots=0" in refused.stderr
