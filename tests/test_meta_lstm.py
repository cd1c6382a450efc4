"""The Meta-Learner LSTM: with fixed gates it is gradient descent, its features and its size are the paper's."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import episodes
from episodes.adapters.pytorch import to_torch
from episodes.errors import ConfigError, SpecError
from episodes.stream.stream import Stream
from learners.methods import meta_lstm
from learners.protocol import Inputs, adapted, single
from learners.report import evaluate
from learners.testing import check_learner, separable_world

WORLD = separable_world()
SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=4)


def learner(**options):
    torch.manual_seed(0)
    chosen = {"width": 4, "max_ways": 3, "inner_steps": 3} | options
    return meta_lstm.make(meta_lstm.Options(**chosen), Inputs(fields=WORLD.fields))


def block(size=2):
    episode = to_torch(next(Stream(episodes.sample(WORLD, "train", SPEC), block=size)))
    for part in (episode.support, episode.query):
        part.fields = {"image": part.fields["image"].double() / 255}
    return episode


def still(model, rate):
    """Gates that keep all of the weights and take a fixed share of the gradient."""
    with torch.no_grad():
        for gate, bias in ((model.rule.forget, 50.0), (model.rule.input, rate)):
            gate.weight.zero_()
            gate.bias.fill_(bias)
    return model.double()


def test_it_keeps_the_laws_of_a_learner():
    # Gates near a rate of 0.01 move little in a few updates: a rate of 0.5 stands for what long training finds.
    def make(inputs):
        model = learner(width=16)
        nn.init.constant_(model.rule.input.bias, 0.0)
        return model

    check_learner(make, steps=60, equivariant=False)


def test_with_fixed_gates_it_is_gradient_descent():
    model, episode = still(learner(), -1.5), block(1)
    rows, labels = episode.support.fields["image"][0], episode.support.labels[0]
    weights = {name: values.detach().clone().requires_grad_() for name, values in model.net.weights().items()}
    for _ in range(3):
        loss = nn.functional.cross_entropy(model.net.call(weights, rows), labels)
        slopes = torch.autograd.grad(loss, list(weights.values()))
        rate = 1 / (1 + math.exp(1.5))
        weights = {
            name: (values - rate * slope / len(rows)).detach().requires_grad_()
            for (name, values), slope in zip(weights.items(), slopes, strict=True)
        }
    found, gates = model.updated(rows, labels, 3)
    assert len(gates) == 3
    for name, values in weights.items():
        assert torch.allclose(found[name], values, atol=1e-9), name


def test_the_gradient_of_the_initial_weights_is_that_of_first_order_maml():
    model, episode = still(learner(), -1.5), block(1)
    model.meta_loss(episode).loss.backward()
    rows, labels = episode.support.fields["image"][0], episode.support.labels[0]
    with torch.no_grad():
        weights = {name: values.detach() for name, values in model.updated(rows, labels, 3)[0].items()}
    weights = {name: values.requires_grad_() for name, values in weights.items()}
    logits = model.net.predict(weights, rows, episode.query.fields["image"][0], "support")
    slopes = torch.autograd.grad(nn.functional.cross_entropy(logits, episode.query.labels[0]), list(weights.values()))
    for (name, parameter), slope in zip(model.net.named_parameters(), slopes, strict=True):
        assert torch.allclose(parameter.grad, slope, atol=1e-9), name


def test_without_updates_the_gradient_is_that_of_the_queries():
    model, episode = learner(inner_steps=0, batch_norm="transductive").double(), block(1)
    model.meta_loss(episode).loss.backward()
    logits = model.net.call(model.net.weights(), episode.query.fields["image"][0])
    loss = nn.functional.cross_entropy(logits, episode.query.labels[0])
    for parameter, slope in zip(
        model.net.parameters(), torch.autograd.grad(loss, list(model.net.parameters())), strict=True
    ):
        assert torch.allclose(parameter.grad, slope)


@pytest.mark.parametrize("x", [0.0, 1e-12, -1e-6, math.exp(-10), -math.exp(-9), 0.3, -7.0])
def test_numbers_are_shown_to_the_rule_as_in_the_paper(x):
    large = abs(x) >= math.exp(-10)
    expected = (math.log(abs(x)) / 10, math.copysign(1, x)) if large else (-1, math.exp(10) * x)
    assert meta_lstm.preprocessed(torch.tensor(x).double()).tolist() == pytest.approx(expected, abs=1e-6)


def test_coordinates_do_not_mix():
    torch.manual_seed(0)
    rule = meta_lstm.UpdateRule().double()
    nn.init.normal_(rule.read.weight)
    weights, slope, order = torch.randn(9).double(), torch.randn(9).double(), torch.randperm(9)
    loss = torch.tensor(1.3).double()
    state, turned = rule.begin(weights), rule.begin(weights)
    a, b = weights, weights[order]
    for _ in range(3):
        a, state = rule(a, slope, loss, state)
        b, turned = rule(b, slope[order], loss, turned)
    assert torch.allclose(a[order], b)


def test_the_sizes_are_the_papers():
    assert sum(p.numel() for p in meta_lstm.UpdateRule().parameters()) == 2000 + 46
    image = replace(WORLD.fields["image"], shape=(3, 84, 84))
    model = meta_lstm.make(meta_lstm.Options(), Inputs(fields={"image": image}))
    assert sum(p.numel() for p in model.net.parameters()) == 32_901
    forget, rate = (torch.sigmoid(gate.bias.detach()) for gate in (model.rule.forget, model.rule.input))
    assert 0.982 < float(forget) < 0.994
    assert 0.006 < float(rate) < 0.019


def test_a_vector_is_cut_into_the_weights_it_was_made_of():
    weights = learner().net.weights()
    flat = torch.cat([values.flatten() for values in weights.values()])
    again = meta_lstm.cut(flat, weights)
    assert list(again) == list(weights)
    assert all(torch.equal(again[name], values) for name, values in weights.items())


@pytest.mark.parametrize("second_order", [False, True])
def test_tasks_together_are_what_they_are_one_by_one(second_order):
    episode, results = block(3), []
    for tasks in ("loop", "vmap", "block"):
        model = learner(tasks=tasks, second_order=second_order).double()
        logits = adapted(model, episode)(episode.query.fields)
        logits.square().sum().backward()
        results.append([logits.detach(), *(p.grad for p in model.parameters())])
    for other in results[1:]:
        assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(results[0], other, strict=True))
    one = single(episode, 2)
    assert torch.allclose(adapted(model, one)(one.query.fields)[0], results[0][0][2], atol=1e-9)


def test_the_assumption_of_independent_gradients_can_be_dropped():
    slopes = []
    for second_order in (False, True):
        model = still(learner(second_order=second_order), 1.0)
        model.meta_loss(block(1)).loss.backward()
        slopes.append(model.net.head.weight.grad)
    assert not torch.allclose(*slopes, atol=1e-6)


def test_gates_that_are_fixed_are_charted_as_they_are():
    model = still(learner(), -1.5)
    with torch.no_grad():
        forget, rate = model.eval().charts([block(2)])
    assert (forget.title, rate.title) == ("Forget gate", "Input gate")
    assert list(forget.lines) == list(rate.lines) == ["blocks.0", "blocks.1", "blocks.2", "blocks.3", "head"]
    assert "the first 2 episodes" in forget.caption
    for chart, value in ((forget, 1.0), (rate, 1 / (1 + math.exp(1.5)))):
        for line in chart.lines.values():
            assert line.x.tolist() == [1, 2, 3]
            for values in (line.y, line.low, line.high):
                assert values.tolist() == pytest.approx([value] * 3)


def test_charts_are_means_and_percentiles_over_weights_and_episodes(monkeypatch):
    model = learner().double().eval()
    with torch.no_grad():  # gates that differ: they depend on the weight, the gradient and the loss
        for parameter in model.rule.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape))
    monkeypatch.setattr(meta_lstm, "SHOWN", 3)
    blocks = [block(2), single(block(4), 3), block(1)]
    with torch.no_grad():
        charts = model.charts(iter(blocks))
    found = {}
    for episode, b in ((blocks[0], 0), (blocks[0], 1), (blocks[1], 0)):
        for step, pair in enumerate(model.updated(episode.support.fields["image"][b], episode.support.labels[b], 3)[1]):
            for gate, flat in enumerate(pair):
                for name, values in meta_lstm.cut(flat, model.net.weights()).items():
                    layer = "head" if name.startswith("head") else ".".join(name.split(".")[1:3])
                    found.setdefault((gate, layer, step), []).extend(values.flatten().tolist())
    assert len(found) == 2 * 5 * 3
    for (gate, layer, step), values in found.items():
        line, values = charts[gate].lines[layer], sorted(values)
        assert line.y[step] == pytest.approx(sum(values) / len(values))
        for end, share in ((line.low, 0.1), (line.high, 0.9)):
            place = share * (len(values) - 1)
            low, part = values[math.floor(place)], place % 1
            assert end[step] == pytest.approx(low + part * (values[math.ceil(place)] - low))
    assert max(charts[1].lines["head"].high - charts[1].lines["head"].low) > 0.001


def test_the_band_of_a_large_layer_is_that_of_some_of_its_weights(monkeypatch):
    model, episode = learner().double().eval().requires_grad_(False), block(1)
    whole = model.charts([episode])[1].lines["blocks.1"]
    monkeypatch.setattr(meta_lstm, "COORDINATES", 50)
    some = model.charts([episode])[1].lines["blocks.1"]
    assert some.y.tolist() == whole.y.tolist(), "the mean is of all"
    assert 0 < abs(some.low - whole.low).max() < 0.002
    assert learner(inner_steps=0).charts([episode]) == []


def test_an_evaluation_has_the_gates():
    report = evaluate(learner(), episodes.sample(WORLD, "test", SPEC, length=4), method="meta_lstm")
    assert [chart.title for chart in report.charts] == ["Forget gate", "Input gate"]
    assert 0.98 < report.charts[0].lines["head"].y[0] < 1, "as the gates begin"
    assert "the first 4 episodes" in report.charts[0].caption


def test_what_it_cannot_do_is_refused_by_name():
    with pytest.raises(SpecError, match="the head has 3 outputs; ways=4 needs --max-ways"):
        learner().require(replace(SPEC, ways=4))
    with pytest.raises(ConfigError, match="'running' statistics do not fit adapted weights"):
        meta_lstm.Options(batch_norm="running")
