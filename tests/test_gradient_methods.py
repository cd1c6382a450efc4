"""MAML and Reptile: exact gradients through adaptation, the identities of their papers, tasks together and one by one."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import episodes
from episodes.adapters.pytorch import to_torch
from episodes.errors import ConfigError, SpecError
from episodes.stream.stream import Stream
from learners import functional
from learners.methods import maml, meta_lstm, proto_maml, reptile
from learners.origin import inputs_of
from learners.protocol import Inputs, adapted, single
from learners.report import evaluate
from learners.settings import TrainConfig
from learners.testing import check_learner, separable_world
from learners.trainer import Trainer

WORLD = separable_world()
SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=4)
INPUTS = Inputs(fields=WORLD.fields)
SMALL = {"backbone": "conv4-stride-mean", "width": 4, "max_ways": 3}


class Grouped(nn.Module):
    """A backbone with a layer that takes weights of one task only."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, stride=4), nn.GroupNorm(2, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, images):
        return self.body(images)


class Dropped(nn.Module):
    """A backbone that drops features, known to every way of computing tasks."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 32, 3, stride=4), nn.AdaptiveAvgPool2d(1), nn.Dropout(0.5))

    def forward(self, images):
        return self.body(images)


def block(size=3):
    """Episodes of float64, in which gradients can be checked."""
    episode = to_torch(next(Stream(episodes.sample(WORLD, "train", SPEC), block=size)))
    for part in (episode.support, episode.query):
        part.fields = {"image": part.fields["image"].double() / 255}
    return episode


def learner(module=maml, **options):
    torch.manual_seed(0)
    return module.make(module.Options(**SMALL | options), INPUTS).double()


def gradients(model, episode):
    model.zero_grad()
    model.meta_loss(episode).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(a, b, tolerance=1e-9):
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], atol=tolerance) for name in a)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"inner_steps": 2, "first_order": True},
        {"inner_rates": "tensor", "bias_values": 3, "tasks": "vmap"},
        {"batch_norm": "transductive"},
    ],
    ids=str,
)
def test_maml_keeps_the_laws_of_a_learner(options):
    def make(inputs):
        torch.manual_seed(0)
        wide = {"backbone": "conv4-stride-mean", "width": 16, "max_ways": 3, "inner_rate": 0.1}
        return maml.make(maml.Options(**wide | options), inputs)

    if options.get("batch_norm") == "transductive":
        report = evaluate(make(INPUTS), episodes.sample(WORLD, "test", SPEC, length=4), method="maml")
        assert (report.transductive, report.audit.passed) == (True, True)
        assert report.audit.largest_difference > 0.01
    else:
        check_learner(make, steps=40, equivariant=False)


@pytest.mark.parametrize("first_order", [False, True])
def test_the_meta_gradient_is_exact_in_second_order_and_not_in_first(first_order):
    model, episode = learner(inner_steps=2, inner_rate=0.5, first_order=first_order), block(2)
    found = gradients(model, episode)
    torch.manual_seed(1)
    direction = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    slope = sum(float((found[name] * d).sum()) for name, d in direction.items())

    def moved(step):
        with torch.no_grad():
            for name, p in model.named_parameters():
                p += step * direction[name]
            loss = float(model.meta_loss(episode).loss)
            for name, p in model.named_parameters():
                p -= step * direction[name]
        return loss

    # The loss at moved parameters is of the same function whether gradients are kept or not.
    numeric = (moved(1e-7) - moved(-1e-7)) / 2e-7  # a smaller step, for there are kinks in the network
    if first_order:
        assert abs(numeric - slope) > 1e-3 * abs(numeric)
    else:
        assert slope == pytest.approx(numeric, rel=1e-6)


@pytest.mark.parametrize("options", [{"inner_steps": 0}, {"inner_rate": 0.0, "inner_steps": 3}], ids=str)
def test_without_adaptation_the_gradient_is_that_of_the_queries(options):
    model, episode = learner(batch_norm="transductive", **options), block(1)
    logits = model.net.call(model.net.weights(), episode.query.fields["image"][0])
    loss = nn.functional.cross_entropy(logits, episode.query.labels[0])
    plain = dict(zip(model.net.weights(), torch.autograd.grad(loss, list(model.net.parameters())), strict=True))
    assert same({f"net.{name}": value for name, value in plain.items()}, gradients(model, episode))


@pytest.mark.parametrize("first_order", [False, True])
def test_of_a_quadratic_the_meta_gradient_is_the_formula(first_order):
    """L_S = (w - a)' H (w - a) / 2, L_Q = (w - q)' H (w - q) / 2: (I - rate H) H (w' - q), or H (w' - q)."""
    torch.manual_seed(0)
    root = torch.randn(3, 3, dtype=torch.float64)
    hessian, a, q, rate = root @ root.T, torch.randn(3).double(), torch.randn(3).double(), 0.1
    model = learner(first_order=first_order, inner_rate=rate)
    weights = {"w": torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)}

    class Bowl(nn.Module):
        """Logits whose cross-entropy, times ways, is L_S."""

        @staticmethod
        def call(now, rows, passed=None):
            value = (now["w"] - a) @ hessian @ (now["w"] - a) / 2
            # Of two classes with logits (0, x) the cross-entropy of the first is log(1 + e^x).
            return torch.stack([torch.zeros_like(value), torch.log(torch.expm1(value / 2))])[None]

    model.net = Bowl()
    fast = model.descended(weights, torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), 2, 1)["w"]
    assert torch.allclose(fast, weights["w"] - rate * hessian @ (weights["w"] - a))
    ((fast - q) @ hessian @ (fast - q) / 2).backward()
    curved = torch.eye(3, dtype=torch.float64) - (0 if first_order else rate) * hessian
    assert torch.allclose(weights["w"].grad, curved @ hessian @ (fast.detach() - q))


def test_one_step_is_one_of_gradient_descent_on_ways_times_the_mean_loss():
    model, episode = learner(inner_rate=0.3), block(1)
    rows, labels = episode.support.fields["image"][0], episode.support.labels[0]
    loss = nn.functional.cross_entropy(model.net.call(model.net.weights(), rows), labels)
    plain = torch.autograd.grad(3 * loss, list(model.net.parameters()))
    stepped = model.descended(model.net.weights(), rows, labels, 3, 1)
    for (name, p), g in zip(model.net.named_parameters(), plain, strict=True):
        assert torch.allclose(stepped[name], p - 0.3 * g, atol=1e-12), name


@pytest.mark.parametrize(
    "options", [{}, {"batch_norm": "transductive"}, {"first_order": True}, {"inner_rates": "value"}], ids=str
)
def test_tasks_together_are_what_they_are_one_by_one(options):
    episode, results = block(3), []
    for tasks in ("loop", "vmap", "block"):
        model = learner(tasks=tasks, inner_steps=2, **options)
        results.append((adapted(model, episode)(episode.query.fields), gradients(model, episode)))
    for other in results[1:]:
        assert torch.allclose(results[0][0], other[0], atol=1e-9)
        assert same(results[0][1], other[1])
    alone = adapted(model, single(episode, 1))(single(episode, 1).query.fields)
    assert torch.allclose(alone[0], results[0][0][1], atol=1e-9)


@pytest.mark.parametrize("module", [maml, reptile])
def test_blocks_of_any_size_give_the_same(module, monkeypatch):
    episode, results = block(5), []
    for size in (2**40, 3 * 12 * 6**2 * 4, 1):  # all tasks, some, one by one
        monkeypatch.setattr("learners.fast.BLOCK_BYTES", size)
        model = learner(module, tasks="block")
        torch.manual_seed(7)
        results.append((adapted(model, episode)(episode.query.fields), gradients(model, episode)))
    for logits, found in results[1:]:
        assert torch.allclose(results[0][0], logits, atol=1e-9)
        assert same(results[0][1], found)


def test_a_network_of_other_layers_goes_task_by_task():
    backbone = f"{__name__}:Grouped"
    model, episode = learner(backbone=backbone), block(3)
    assert (model.way(episode.support.rows), learner().way(episode.support.rows)) == ("loop", "block")
    together = learner(backbone=backbone, tasks="vmap")
    logits = [adapted(one, episode)(episode.query.fields) for one in (model, together)]
    assert torch.allclose(*logits, atol=1e-9)
    assert same(gradients(model, episode), gradients(together, episode))
    with pytest.raises(ConfigError, match="Grouped' has layers that take weights of one task only; take loop or vmap"):
        learner(backbone=backbone, tasks="block")


def test_on_an_accelerator_too():
    there = torch.zeros(1, device="meta")
    assert (learner(backbone=f"{__name__}:Grouped").way(there), learner().way(there)) == ("loop", "vmap")


@pytest.mark.parametrize("tasks", ["loop", "vmap"])
def test_what_is_dropped_is_drawn_anew_for_each_task(tasks):
    model, episode = (
        learner(backbone=f"{__name__}:Dropped", tasks=tasks, inner_steps=0, batch_norm="transductive"),
        block(1),
    )
    two = to_torch(next(Stream(episodes.sample(WORLD, "train", SPEC), block=2)))
    for of in ("support", "query"):
        part, one = getattr(two, of), getattr(episode, of)
        part.fields = {"image": one.fields["image"].expand(2, *one.fields["image"].shape[1:])}
        part.labels = one.labels.expand(2, -1)
    logits = adapted(model.train(), two)(two.query.fields)
    assert not torch.allclose(logits[0], logits[1])


@pytest.mark.parametrize("module", [maml, reptile, meta_lstm, proto_maml])
def test_an_episode_of_more_ways_than_the_head_is_refused(module):
    """Where the spec did not say how many there are."""
    spec = episodes.EpisodeSpec(ways="variable", shots="variable", queries="variable")
    options = SMALL | ({} if module is meta_lstm else {"inner_rate": 0.1})
    model = module.make(module.Options(**options), INPUTS)
    model.require(spec)
    episode = to_torch(episodes.sample(WORLD, "train", replace(SPEC, ways=4))[0])
    for call in (lambda: adapted(model, episode), lambda: model.meta_loss(episode)):
        with pytest.raises(SpecError, match="the head has 3 outputs; an episode of 4 ways needs --max-ways as many"):
            call()


def test_an_episode_without_queries_is_named():
    model, episode = learner(), block(2)
    episode.query.fields = {"image": episode.query.fields["image"][:, :0]}
    episode.query.labels = episode.query.labels[:, :0]
    assert adapted(model, episode)(episode.query.fields).shape == (2, 0, 3)
    with pytest.raises(SpecError, match="an episode has no query to learn from; raise queries"):
        model.meta_loss(episode)


def test_mixed_precision_goes_task_by_task():
    model, episode = learner().float(), to_torch(next(Stream(episodes.sample(WORLD, "train", SPEC), block=2)))
    with torch.autocast("cpu", torch.bfloat16):
        assert model.way(episode.support.rows) == "loop"
        loss = model.meta_loss(episode).loss
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(model.meta_loss(episode).loss.detach()), rel=0.05)


@pytest.mark.parametrize("tasks", ["loop", "block"])
def test_evaluation_keeps_no_graph_of_its_steps(tasks, monkeypatch):
    kept, grad = [], torch.autograd.grad

    def noted(*args, **flags):
        kept.append(flags["create_graph"])
        return grad(*args, **flags)

    monkeypatch.setattr(torch.autograd, "grad", noted)
    model, episode = learner(tasks=tasks, test_steps=3).eval(), block(1)
    with torch.no_grad():
        logits = adapted(model, episode)(episode.query.fields)
    assert (kept, logits.requires_grad) == ([False] * 3, False)
    model.train().meta_loss(episode)
    assert kept[3:] == [True]


def test_learned_rates_get_gradients_and_are_where_they_began():
    for rates, shape in (("value", (3, 4)), ("tensor", ())):
        model = learner(inner_rates=rates, inner_rate=0.2)
        assert model.rates["head-weight"].shape == shape
        assert torch.allclose(gradients(model, block(2))["rates.head-bias"] * 0, torch.zeros(()).double())
        plain = learner(inner_rate=0.2)
        episode = block(2)
        both = [adapted(one, episode)(episode.query.fields) for one in (model, plain)]
        assert torch.allclose(*both, atol=1e-6)


def test_the_bias_transformation_changes_nothing_before_adaptation_and_something_after():
    episode = block(1)
    image = episode.query.fields["image"][0]
    model = learner(bias_values=4)
    plain = learner()
    plain.load_state_dict(
        {n: v for n, v in model.state_dict().items() if n != "net.bias_values"}
        | {"net.head.weight": model.net.head.weight[:, :4]}
    )
    assert torch.allclose(model.net.call(model.net.weights(), image), plain.net.call(plain.net.weights(), image))
    both = [adapted(one, episode)(episode.query.fields) for one in (model, plain)]
    assert not torch.allclose(*both, atol=1e-6)
    with torch.no_grad():
        model.net.bias_values.zero_()
    nothing = adapted(model, episode)(episode.query.fields)
    assert torch.allclose(nothing, both[1]), "a vector of zeros has no effect on one step"


@pytest.mark.parametrize(("tasks", "node"), [("loop", "ConvolutionBackwardBackward0"), ("block", "_ToWeightBackward")])
def test_first_order_takes_no_second_derivatives(tasks, node):
    def seconds(**options):
        model = learner(tasks=tasks, **options)
        seen, todo = set(), [model.meta_loss(block(1)).loss.grad_fn]
        while todo:
            found = todo.pop()
            if found is not None and found not in seen:
                seen.add(found)
                todo += [parent for parent, _ in found.next_functions]
        return sum(type(found).__name__ == node for found in seen)

    assert seconds(first_order=True, inner_steps=2) == 0
    assert seconds(inner_steps=2) > seconds(inner_steps=1) > 0


def test_more_test_steps_fit_the_support_better():
    episode = single(block(1), 0)
    losses = []
    for steps in (0, 1, 20):
        model = learner(test_steps=steps, inner_rate=0.05).eval()
        with torch.no_grad():
            logits = adapted(model, episode)(episode.support.fields)
        losses.append(float(nn.functional.cross_entropy(logits[0], episode.support.labels[0])))
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize("module", [maml, reptile])
def test_what_they_cannot_do_is_refused_by_name(module):
    model = learner(module)
    with pytest.raises(SpecError, match="the head has 3 outputs; ways=4 needs --max-ways as many"):
        model.require(replace(SPEC, ways=4))
    with pytest.raises(SpecError, match="shots=0 must be 1 or more"):
        model.require(replace(SPEC, shots=0))
    with pytest.raises(SpecError, match="is scored by its queries; queries=0 must be 1 or more"):
        model.require(replace(SPEC, queries=0))
    if module is reptile:
        model.require_training(replace(SPEC, queries=0))
    with pytest.raises(ConfigError, match="'running' statistics do not fit adapted weights"):
        module.Options(batch_norm="running")
    with pytest.raises(ConfigError, match="max_ways: expected"):
        module.Options(max_ways=0)


def test_one_step_of_reptile_is_one_of_joint_training():
    """With Adam's first step, g / |g|, in place of a gradient: beta1 is 0."""
    model = learner(reptile, inner_steps=1, inner_batch=6, inner_rate=0.01)
    episode = block(2)
    before = {name: p.detach().clone() for name, p in model.net.named_parameters()}
    model.meta_loss(episode).loss.backward()
    expected = {name: torch.zeros_like(p) for name, p in before.items()}
    for b in range(2):
        rows, labels = episode.support.fields["image"][b], episode.support.labels[b]
        loss = nn.functional.cross_entropy(model.net.call(model.net.weights(), rows), labels)
        for name, g in zip(before, torch.autograd.grad(loss, list(model.net.parameters())), strict=True):
            expected[name] += 0.01 * g / (g.abs() + 1e-8) / 2
    for name, p in model.net.named_parameters():
        assert torch.allclose(p.grad, expected[name], atol=1e-5), name


def test_reptile_with_rate_one_and_one_task_becomes_the_tasks_solution():
    model, episode = learner(reptile, inner_steps=3, inner_batch=4, inner_rate=0.01), block(1)
    torch.manual_seed(5)
    model.meta_loss(episode).loss.backward()
    with torch.no_grad():
        for p in model.net.parameters():
            p -= p.grad
    twin = learner(reptile)
    optimizer = torch.optim.Adam(twin.net.parameters(), lr=0.01, betas=(0.0, 0.999))
    torch.manual_seed(5)
    order = torch.cat([torch.randperm(6), torch.randperm(6)])[:12].view(3, 4)
    for chosen in order:
        logits = twin.net.call(twin.net.weights(), episode.support.fields["image"][0][chosen])
        loss = nn.functional.cross_entropy(logits, episode.support.labels[0][chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for (name, p), q in zip(model.net.named_parameters(), twin.net.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-9), name
    model.end_step()
    kept = {name: optimizer.state[p]["exp_avg_sq"] for name, p in twin.net.named_parameters()}
    for name, moment in kept.items():
        assert torch.allclose(model.get_buffer("moment-" + name.replace(".", "-")), moment), "second moments are kept"
    assert int(model.count) == 3


def test_reptile_is_the_same_however_an_outer_step_is_split():
    """Batches are of the whole support, so that their order is only rounding; and the second step shows the moments."""
    episode, results = block(4), []
    for parts in ([episode], [single(episode, b) for b in range(4)]):
        model = learner(reptile, inner_steps=3, inner_batch=6, inner_rate=0.01)
        for _ in range(2):
            model.zero_grad()
            for part in parts:
                (model.meta_loss(part).loss / len(parts)).backward()
            model.end_step()
        moments = {name: values for name, values in model.named_buffers() if name.startswith("moment")}
        results.append(({name: p.grad for name, p in model.named_parameters()}, moments))
        assert int(model.count) == 6
    assert same(results[0][0], results[1][0])
    assert same(results[0][1], results[1][1], 1e-12)


def test_reptile_learns_and_its_evaluation_changes_nothing(tmp_path):
    torch.manual_seed(0)
    train = episodes.sample(WORLD, "train", episodes.EpisodeSpec(ways=3, shots=6, queries=0))
    test = episodes.sample(WORLD, "test", SPEC, length=20)
    options = {"backbone": "conv4-stride", "width": 16, "max_ways": 3, "inner_steps": 4, "inner_rate": 3e-3}
    model = reptile.make(reptile.Options(test_steps=10, test_batch=6, **options), inputs_of(train))
    flags = {"lr": 1.0, "optimizer": "sgd", "schedule": "linear", "accelerator": "cpu"}
    trainer = Trainer(model, "reptile", TrainConfig(steps=25, meta_batch=3, validate_every=25, **flags), tmp_path)
    with trainer.stream(train) as stream:
        report = trainer.fit(stream, lambda module: evaluate(module, test, method="reptile"))
    assert report.mean > 0.9
    assert report.audit.passed
    before = {name: value.clone() for name, value in model.state_dict().items()}
    again = evaluate(model, test, method="reptile")
    assert again.per_episode.tolist() == report.per_episode.tolist()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_reptile_tasks_together_are_what_they_are_one_by_one():
    episode, results = block(3), []
    for tasks in ("loop", "vmap", "block"):
        model = learner(reptile, tasks=tasks, inner_steps=3, inner_batch=4).eval()
        results.append(adapted(model, episode)(episode.query.fields))
    assert torch.allclose(results[0], results[1], atol=1e-8)
    assert torch.allclose(results[0], results[2], atol=1e-8)
    assert functional.full(results[0]).shape == (3, 12, 3)
