"""Layers with weights of each task: what they compute and its derivatives are those of torch's layers, task by task."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from learners.backbones import make_backbone
from learners.convolution import Steps, convolved
from learners.norm import EpisodeNorm, Pass, passing, with_episode_norms
from learners.normalization import normalized
from learners.taskwise import TaskConv2d, TaskLinear, takes_tasks, with_task_layers

EPS = 1e-3


def drawn(*shape, seed=0, **flags):
    made = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + sum(shape)))
    return made.requires_grad_(**flags) if flags else made.requires_grad_()


def by_hand(rows, weight, bias, steps):
    parts = zip(rows.chunk(len(weight)), weight, [None] * len(weight) if bias is None else bias, strict=True)
    return torch.cat([F.conv2d(x, w, b, steps.stride, steps.padding, steps.dilation) for x, w, b in parts])


@settings(max_examples=25, deadline=None)
@given(
    tasks=st.integers(1, 3),
    rows=st.integers(1, 3),
    channels=st.sampled_from([(1, 2), (2, 3), (3, 1)]),
    stride=st.sampled_from([(1, 1), (2, 2), (2, 1)]),
    padding=st.sampled_from([(0, 0), (1, 1), (0, 2)]),
    dilation=st.sampled_from([(1, 1), (2, 1)]),
    bias=st.booleans(),
)
def test_a_convolution_of_tasks_and_its_gradients_are_torchs(tasks, rows, channels, stride, padding, dilation, bias):
    steps = Steps(stride, padding, dilation)
    x, w = drawn(tasks * rows, channels[0], 6, 7), drawn(tasks, channels[1], channels[0], 3, 2)
    b = drawn(tasks, channels[1], seed=1) if bias else None
    given_ = [x, w, *([b] if bias else [])]
    found, expected = (work(x, w, b, steps) for work in (convolved, by_hand))
    assert torch.allclose(found, expected)
    slope = drawn(*found.shape, seed=2)
    # The sine makes second derivatives to everything differ from nothing.
    firsts = [torch.autograd.grad((slope * one.sin()).sum(), given_, create_graph=True) for one in (found, expected)]
    seconds = [torch.autograd.grad(sum(g.pow(2).sum() for g in first), [*given_, slope]) for first in firsts]
    for pair in (*zip(*firsts, strict=True), *zip(*seconds, strict=True)):
        assert torch.allclose(*pair, atol=1e-8)


def test_a_convolution_has_derivatives_of_third_order():
    steps = Steps((2, 2), (1, 1), (1, 1))
    x, w, b = drawn(4, 2, 5, 5), drawn(2, 3, 2, 3, 3), drawn(2, 3)

    def slopes(*at):
        return torch.autograd.grad(convolved(*at, steps).pow(3).sum(), at, create_graph=True)

    assert torch.autograd.gradgradcheck(slopes, (x, w, b), atol=1e-4)


@pytest.mark.parametrize("tasks", [1, 3])
def test_weights_that_all_tasks_share_get_a_gradient_of_each(tasks):
    steps, one = Steps((1, 1), (1, 1), (1, 1)), drawn(3, 2, 3, 3)
    x, shared, apart = drawn(2 * tasks, 2, 5, 5), one.expand(tasks, -1, -1, -1, -1), one.detach().repeat(tasks, 1, 1, 1, 1)
    apart.requires_grad_()
    found = [torch.autograd.grad(convolved(x, w, None, steps).sin().sum(), (x, w)) for w in (shared, apart)]
    for pair in zip(*found, strict=True):
        assert torch.allclose(*pair)


def test_biases_of_each_task_go_with_weights_that_all_share():
    steps, w, b = Steps((1, 1), (1, 1), (1, 1)), drawn(3, 2, 3, 3), drawn(2, 3)
    x, shared = drawn(4, 2, 5, 5), w.expand(2, -1, -1, -1, -1)
    found = convolved(x, shared, b, steps)
    assert torch.allclose(found, by_hand(x, shared, b, steps))
    fixed = convolved(x, shared.detach(), b, steps)
    assert torch.allclose(*(torch.autograd.grad(one.sin().sum(), b)[0] for one in (found, fixed)))


@pytest.mark.parametrize(
    ("tasks", "shape", "last"),
    [(1, (4, 3), False), (2, (8, 3), False), (2, (6, 2, 3, 4), True), (3, (6, 2, 2, 3), False), (2, (4, 2, 5), False)],
)
def test_a_batch_norm_of_tasks_and_its_derivatives_are_those_of_its_formula(tasks, shape, last):
    values, weight, bias = drawn(*shape), drawn(tasks, shape[1]), drawn(tasks, shape[1], seed=1)

    def ours(x, w, b):
        x = x.contiguous(memory_format=torch.channels_last) if last else x
        return normalized(x, w, b, EPS)

    def formula(x, w, b):
        grouped = x.unflatten(0, (tasks, -1)).movedim(2, -1)
        flat = grouped.flatten(1, -2)
        mean, scale = flat.mean(1), (flat.var(1, correction=0) + EPS).rsqrt()
        made = (flat - mean[:, None]) * (scale * w)[:, None] + b[:, None]
        return made.view(grouped.shape).movedim(-1, 2).flatten(0, 1), mean, scale

    at = (values, weight, bias)
    for pair in zip(ours(*at), formula(*at), strict=True):
        assert torch.allclose(*pair)
    assert torch.autograd.gradcheck(ours, at)
    assert torch.autograd.gradgradcheck(ours, at)
    slope = [drawn(*one.shape, seed=3) for one in formula(*at)]
    firsts = [torch.autograd.grad(made(*at), at, slope, create_graph=True) for made in (ours, formula)]
    turn = [drawn(*one.shape, seed=4) for one in firsts[0]]
    seconds = [torch.autograd.grad(first, [*at, *slope], turn, materialize_grads=True) for first in firsts]
    for pair in (*zip(*firsts, strict=True), *zip(*seconds, strict=True)):
        assert torch.allclose(*pair, atol=1e-9)


def test_second_derivatives_of_a_batch_norm_are_the_same_in_pieces(monkeypatch):
    values, weight, bias = drawn(12, 3, 4, 4), drawn(4, 3), drawn(4, 3, seed=1)

    def second():
        made, _, _ = normalized(values, weight, bias, EPS)
        first = torch.autograd.grad(made.pow(3).sum(), (values, weight), create_graph=True)
        return torch.autograd.grad(sum(one.pow(2).sum() for one in first), (values, weight, bias))

    whole = second()
    monkeypatch.setattr("learners.normalization.AT_ONCE", 2 * 3 * 16 * 3)  # two tasks at once
    for pair in zip(whole, second(), strict=True):
        assert torch.allclose(*pair, atol=1e-12)


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_batch_norm_of_half_precision_is_that_of_single_precision(tasks, memory_format):
    x = drawn(tasks * 4, 5, 6, 7).float().detach().to(memory_format=memory_format).requires_grad_()
    given_ = [x, *(drawn(tasks, 5, seed=seed).float().detach().requires_grad_() for seed in (1, 2))]
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        made, mean, scale = normalized(x.to(dtype), *given_[1:], EPS)
        assert (made.dtype, mean.dtype, scale.dtype) == (dtype, torch.float32, torch.float32)
        loss = made.float().pow(3).mean() + mean.sum() + scale.sum()
        first = torch.autograd.grad(loss, given_, create_graph=True)
        found.append((made.float(), *first, *torch.autograd.grad(sum(one.pow(2).sum() for one in first), given_)))
    for half, single in zip(*reversed(found), strict=True):
        assert float((half - single).detach().abs().max()) < 0.03 * float(single.detach().abs().max())


@pytest.mark.parametrize(("name", "channels"), [("conv4", 1), ("conv4-stride", 3), ("resnet12", 3)])
def test_a_network_with_weights_of_each_task_is_one_after_the_other(name, channels):
    torch.manual_seed(0)
    shape = (channels, 16, 16)
    net = with_task_layers(make_backbone(name, shape, 4)).double()
    assert takes_tasks(net)
    rows = torch.rand(6, *shape, dtype=torch.float64)
    weights = {key: p + 0.1 * torch.randn(2, *p.shape, dtype=torch.float64) for key, p in net.named_parameters()}
    layers = [one for one in net.modules() if isinstance(one, EpisodeNorm)]
    with passing(layers, Pass(episodes=2, own=True)):
        together = torch.func.functional_call(net, weights, (rows,))
    for b in range(2):
        with passing(layers, Pass(own=True)):
            alone = torch.func.functional_call(net, {key: w[b] for key, w in weights.items()}, (rows[3 * b : 3 * b + 3],))
        assert torch.allclose(together[3 * b : 3 * b + 3], alone)


def test_a_linear_map_takes_rows_of_more_axes_and_may_have_no_bias():
    for bias in (True, False):
        layer = with_task_layers(nn.Sequential(nn.Linear(3, 2, bias=bias)))[0].double()
        assert isinstance(layer, TaskLinear)
        rows = drawn(4, 5, 3)
        weights = {name: drawn(2, *p.shape, seed=7) for name, p in layer.named_parameters()}
        made = torch.func.functional_call(layer, weights, (rows,))
        for b in range(2):
            alone = F.linear(rows[2 * b : 2 * b + 2], *(w[b] for w in weights.values()))
            assert torch.allclose(made[2 * b : 2 * b + 2], alone)


def test_layers_of_another_kind_stay_and_are_known():
    kinds = [nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")]
    kinds += [nn.Conv2d(4, 4, 3, padding="same"), nn.GroupNorm(2, 4), nn.ConvTranspose2d(4, 4, 3)]
    for one in kinds:
        layer = with_task_layers(nn.Sequential(nn.Conv2d(1, 4, 3), one, nn.ReLU()))
        assert isinstance(layer[0], TaskConv2d)
        assert type(layer[1]) is type(one)
        assert not takes_tasks(layer)
    whole = with_task_layers(with_episode_norms(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten())))
    assert takes_tasks(whole)
    rows = drawn(2, 1, 5, 5)
    assert torch.equal(whole.double()[0](rows), F.conv2d(rows, *whole[0].parameters())), "with the usual weights torch's"
