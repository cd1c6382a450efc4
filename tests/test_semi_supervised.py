"""Prototypes refined with unlabeled rows: slow twins, the identities between the refiners and ProtoNet, what they learn."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import episodes
from episodes.adapters.pytorch import to_torch
from episodes.episode import Part
from episodes.errors import ConfigError, SpecError
from episodes.stream.stream import Stream
from learners import functional, refine
from learners.methods import masked_soft_kmeans, protonet, soft_kmeans, soft_kmeans_cluster
from learners.protocol import Inputs, Task, adapted, single, task_of
from learners.report import evaluate
from learners.testing import check_learner, separable_world

WORLD = separable_world()
INPUTS = Inputs(fields=WORLD.fields)
SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=4, unlabeled=3, distractors=2)
METHODS = {"plain": soft_kmeans, "cluster": soft_kmeans_cluster, "masked": masked_soft_kmeans}
every = pytest.mark.parametrize("name", METHODS)


def learner(name, backbone="conv4", **options):
    torch.manual_seed(0)
    module = METHODS[name]
    return module.make(module.Options(width=8, backbone=backbone, **options), INPUTS)


def opinionated(name, **options):
    """In float64, with parameters far from where they begin, so that none of them can be overlooked."""
    one = learner(name, backbone="none", **options).double()
    torch.manual_seed(1)
    with torch.no_grad():
        for p in one.parameters():
            p.copy_(torch.randn_like(p) * 0.3)
    return one


def features(ways=3, shots=2, unlabeled=7, dims=4, batch=1, scale=1.0, seed=0):
    """(support, its labels in no order, unlabeled rows, queries), float64."""
    torch.manual_seed(seed)
    rows = [torch.rand(batch, n, dims).double() * scale for n in (ways * shots, unlabeled, 5)]
    labels = torch.stack([torch.randperm(ways * shots) % ways for _ in range(batch)])
    return rows[0], labels, rows[1], rows[2]


# Slow twins: one episode, lists of numbers.


def distance(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def softmax(values):
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def means(support, labels, ways):
    chosen = [[row for row, label in zip(support, labels, strict=True) if label == c] for c in range(ways)]
    return [[sum(column) / len(rows) for column in zip(*rows, strict=True)] for rows in chosen]


def averaged(support, labels, unlabeled, weights, clusters):
    centres = []
    for c in range(clusters):
        rows = [(row, 1.0) for row, label in zip(support, labels, strict=True) if label == c]
        rows += [(row, weight[c]) for row, weight in zip(unlabeled, weights, strict=True)]
        mass = sum(weight for _, weight in rows)
        centres.append([sum(weight * row[k] for row, weight in rows) / mass for k in range(len(unlabeled[0]))])
    return centres


def plain_twin(model, support, labels, unlabeled, queries, ways):
    centres = means(support, labels, ways)
    for _ in range(model.options.refine_steps):
        weights = [softmax([-distance(row, centre) for centre in centres]) for row in unlabeled]
        centres = averaged(support, labels, unlabeled, weights, ways)
    return [[-distance(row, centre) for centre in centres] for row in queries]


def cluster_twin(model, support, labels, unlabeled, queries, ways):
    radii = [1.0] * ways + [model.radius]
    centres = [*means(support, labels, ways), [0.0] * len(support[0])]

    def scores(row):
        pairs = zip(centres, radii, strict=True)
        return [-distance(row, p) / (2 * r * r) - (0.5 * math.log(2 * math.pi) + math.log(r)) for p, r in pairs]

    for _ in range(model.options.refine_steps):
        centres = averaged(support, labels, unlabeled, [softmax(scores(row)) for row in unlabeled], ways + 1)
    return [scores(row) for row in queries]


def masked_twin(model, support, labels, unlabeled, queries, ways):
    first, second = ([p.tolist() for p in layer.parameters()] for layer in (model.network[0], model.network[2]))
    centres = means(support, labels, ways)
    for _ in range(model.options.refine_steps):
        weights = [softmax([-distance(row, centre) for centre in centres]) for row in unlabeled]
        for c in range(ways):
            far = [distance(row, centres[c]) for row in unlabeled]
            far = [one * len(far) / sum(far) for one in far]
            mean = sum(far) / len(far)
            moment = {k: sum((one - mean) ** k for one in far) / len(far) for k in (2, 3, 4)}
            told = [min(far), max(far), moment[2], moment[3] / moment[2] ** 1.5, moment[4] / moment[2] ** 2 - 3]
            hidden = [math.tanh(dot(told, row) + bias) for row, bias in zip(*first, strict=True)]
            out = [dot(hidden, row) + bias for row, bias in zip(*second, strict=True)]
            for j, one in enumerate(far):
                mask = 1 / (1 + math.exp(math.exp(out[2]) * (one - math.exp(out[0]))))
                weights[j][c] *= mask**model.mask_power
        centres = averaged(support, labels, unlabeled, weights, ways)
    return [[-distance(row, centre) for centre in centres] for row in queries]


TWINS = {"plain": plain_twin, "cluster": cluster_twin, "masked": masked_twin}


@every
@settings(max_examples=20, deadline=None)
@given(ways=st.integers(2, 4), unlabeled=st.integers(2, 6), steps=st.integers(1, 3), seed=st.integers(0, 1000))
def test_a_refiner_is_its_slow_twin(name, ways, unlabeled, steps, seed):
    model = opinionated(name, refine_steps=steps, **({"mask_power": 2.0} if name == "masked" and seed % 2 else {}))
    support, labels, rows, queries = features(ways, 2, unlabeled, seed=seed)
    with torch.no_grad():
        logits = model.logits(queries, model.refined(support, labels, rows, ways), ways)
    twin = TWINS[name](model, *(part[0].tolist() for part in (support, labels, rows, queries)), ways)
    assert torch.allclose(logits[0], torch.tensor(twin, dtype=torch.float64), atol=1e-9)
    assert logits.shape[2] == ways + (name == "cluster")


@every
@pytest.mark.parametrize("without", ["rows", "steps"])
def test_without_unlabeled_rows_or_steps_it_is_protonet(name, without):
    model = learner(name, refine_steps=int(without == "rows")).eval()
    base = protonet.make(protonet.Options(width=8), INPUTS)
    base.embedding.load_state_dict(model.embedding.state_dict())
    base.eval()
    spec = replace(SPEC, unlabeled=0, distractors=0) if without == "rows" else SPEC
    episode = to_torch(episodes.sample(WORLD, "test", spec)[0])
    assert (episode.unlabeled is None) == (without == "rows")
    with torch.no_grad():
        expected = adapted(base, episode)(episode.query.fields)
        logits = adapted(model, episode)(episode.query.fields)
        assert logits.shape == expected.shape
        if name == "cluster":  # radius 1
            assert torch.allclose(2 * logits + 2 * refine.HALF_LOG_2PI, expected, atol=1e-5)
        else:
            assert torch.equal(logits, expected)
        no_rows = {"image": episode.query.fields["image"][:, :0]}
        empty = model.adapt(replace(task_of(episode), unlabeled=no_rows))(episode.query.fields)
        assert without == "steps" or torch.equal(empty, logits)
    model.train(), base.train()
    if name != "cluster":
        assert model.meta_loss(episode).loss.item() == pytest.approx(base.meta_loss(episode).loss.item(), abs=1e-6)


@every
def test_a_state_of_protonet_has_the_parameters_of_the_embedding(name):
    base = protonet.make(protonet.Options(width=8), INPUTS).state_dict()
    own = learner(name).state_dict()
    assert base.keys() == {key for key in own if key.startswith("embedding.")}


@pytest.mark.parametrize("name", ["plain", "masked"])
def test_unlabeled_rows_at_the_prototypes_leave_them_where_they_are(name):
    model = opinionated(name)
    support, _, _, _ = features(shots=1, scale=100.0)  # classes far apart
    labels = torch.arange(3)[None]
    assert torch.allclose(model.refined(support, labels, support.repeat(1, 2, 1), 3), support, atol=1e-9)


def test_a_mask_of_0_is_protonet_and_of_1_soft_kmeans():
    support, labels, rows, _ = features()
    plain, masked = opinionated("plain"), opinionated("masked")
    with torch.no_grad():
        for p in masked.network.parameters():
            p.zero_()
        masked.network[2].bias[2] = 8.0  # slope e^8
        masked.network[2].bias[0] = -20.0  # threshold about 0: every row is further
        assert torch.allclose(masked.refined(support, labels, rows, 3), functional.class_means(support, labels, 3))
        masked.network[2].bias[0] = 20.0
        assert torch.allclose(masked.refined(support, labels, rows, 3), plain.refined(support, labels, rows, 3))
    assert torch.allclose(
        opinionated("masked", mask_power=0.0).refined(support, labels, rows, 3), plain.refined(support, labels, rows, 3)
    )


def test_the_mask_begins_at_half_at_the_mean_distance():
    model = learner("masked", backbone="none").double()
    assert sum(p.numel() for p in model.network.parameters()) == 5 * 20 + 20 + 20 * 3 + 3
    assert all(p.abs().max() < 0.05 for p in model.network.parameters())
    _, _, rows, queries = features()
    relative = refine.relative_distances(functional.squared_distances(rows, queries))
    assert torch.allclose(model.masks(rows, queries), torch.sigmoid(1 - relative), atol=0.02)


def test_a_distractor_cluster_of_endless_radius_is_soft_kmeans_with_logits_halved():
    model, plain = learner("cluster", backbone="none", init_radius=1e30).double(), opinionated("plain")
    support, labels, rows, queries = features()
    with torch.no_grad():
        # Shares by half the distances: features larger by sqrt(2) have the shares of soft k-means.
        wide = math.sqrt(2)
        centres = model.refined(wide * support, labels, wide * rows, 3)
        assert torch.allclose(centres[:, :3], wide * plain.refined(support, labels, rows, 3))
        shares = model.weights(rows, model.begun(functional.class_means(support, labels, 3)), 3)
        assert shares[..., 3].max() < 1e-25
        logits = model.logits(queries, torch.cat([support[:, :3], support[:, :1]], 1), 3)
        assert torch.allclose(2 * logits[..., :3] + math.log(2 * math.pi), plain.logits(queries, support[:, :3], 3))


def test_the_radius_begins_as_asked_and_weight_decay_pulls_it_there():
    model = learner("cluster", init_radius=50.0)
    assert model.radius == pytest.approx(50)
    model.growth.data += 1
    assert model.radius == pytest.approx(50 * math.e)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.5)
    model.growth.grad = torch.zeros_like(model.growth)
    optimizer.step()
    assert model.radius == pytest.approx(50 * math.exp(0.5))


def test_a_cluster_without_members_is_at_the_origin_and_has_finite_gradients():
    model = learner("cluster", backbone="none", init_radius=1e-3)
    support, labels, rows, queries = (part.float() if part.is_floating_point() else part for part in features())
    rows.requires_grad_()
    centres = model.refined(support, labels, rows, 3)
    assert (centres[:, 3] == 0).all()
    model.logits(queries, centres, 3)[..., :3].sum().backward()
    assert rows.grad.isfinite().all()
    assert model.growth.grad.isfinite().all()


def test_rows_twice_with_half_their_weights_change_nothing():
    support, labels, rows, _ = features()
    weights = torch.rand(1, 7, 4).double()
    once = refine.refined_means(support, labels, rows, weights)
    twice = refine.refined_means(support, labels, rows.repeat(1, 2, 1), weights.repeat(1, 2, 1) / 2)
    assert torch.allclose(once, twice)
    assert torch.allclose(refine.refined_means(support, labels, rows, 0 * weights)[:, 3], torch.zeros(1, 4).double())


@every
@pytest.mark.parametrize("stop", [True, False])
def test_shares_are_constants_for_the_gradient_where_it_is_stopped(name, stop):
    model = opinionated(name, stop_gradient=stop)
    support, labels, rows, queries = features()
    support.requires_grad_(), rows.requires_grad_()
    centres = model.refined(support, labels, rows, 3)
    model.logits(queries, centres, 3).logsumexp(-1).sum().backward()
    found = rows.grad.clone(), support.grad.clone()
    rows.grad = support.grad = None
    with torch.no_grad():
        constant = model.weights(rows, model.begun(functional.class_means(support, labels, 3)), 3)
    model.logits(queries, refine.refined_means(support, labels, rows, constant), 3).logsumexp(-1).sum().backward()
    same = torch.allclose(found[0], rows.grad) and torch.allclose(found[1], support.grad)
    assert same == stop
    assert learner(name).options.stop_gradient == (name == "plain"), "the defaults are those of the released code"


def test_no_gradient_passes_through_the_statistics_of_the_mask():
    model = opinionated("masked")
    _, _, rows, queries = features()
    rows.requires_grad_()
    model.masks(rows, queries).sum().backward()
    relative = refine.relative_distances(functional.squared_distances(rows.detach(), queries))
    with torch.no_grad():
        threshold, _, slope = model.network(refine.spread(relative)).exp().unbind(-1)
    twin = rows.detach().clone().requires_grad_()
    refine.masks(refine.relative_distances(functional.squared_distances(twin, queries)), threshold, slope).sum().backward()
    assert torch.allclose(rows.grad, twin.grad)


def test_moments_are_those_of_the_population():
    found = refine.spread(torch.tensor([0.0, 0.0, 0.0, 4.0]).double().reshape(1, 4, 1)).flatten().tolist()
    variance = (3 * 1 + 9) / 4
    skewness, kurtosis = (3 * -1 + 27) / 4 / variance**1.5, (3 * 1 + 81) / 4 / variance**2 - 3
    assert found == pytest.approx([0.0, 4.0, variance, skewness, kurtosis])


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_that_are_all_alike_have_statistics_and_gradients(rows):
    model = opinionated("masked")
    support, labels, queries, _ = features(unlabeled=1)
    same = queries.repeat(1, rows, 1).requires_grad_()
    relative = refine.relative_distances(functional.squared_distances(same, support[:, :3]))
    assert torch.allclose(refine.spread(relative), torch.tensor([1.0, 1.0, 0.0, 0.0, -3.0]).double())
    model.refined(support, labels, same, 3).sum().backward()
    assert same.grad.isfinite().all()
    at_the_prototype = refine.relative_distances(torch.zeros(1, rows, 2))
    assert torch.equal(at_the_prototype, torch.zeros(1, rows, 2))


@every
def test_renaming_labels_renames_logits(name):
    model = opinionated(name)
    support, labels, rows, queries = features()
    logits = model.logits(queries, model.refined(support, labels, rows, 3), 3)
    turned = model.logits(queries, model.refined(support, (labels + 1) % 3, rows, 3), 3)
    assert torch.allclose(turned[..., :3], logits[..., :3].roll(1, dims=-1))
    assert torch.allclose(turned[..., 3:], logits[..., 3:]), "distractors stay the last cluster"
    order = torch.randperm(rows.shape[1])
    shuffled = model.logits(queries, model.refined(support, labels, rows[:, order], 3), 3)
    assert torch.allclose(shuffled, logits), "unlabeled rows have no order"


@every
def test_episodes_together_are_what_they_are_one_by_one(name):
    one = learner(name).double()
    many = copy.deepcopy(one)
    block = to_torch(next(Stream(episodes.sample(WORLD, "train", SPEC), block=3)))
    for part in (block.support, block.query, block.unlabeled):
        part.fields = {"image": part.fields["image"].double() / 255}
    together = many.meta_loss(block)
    together.loss.backward()
    alone = [one.meta_loss(single(block, b)) for b in range(3)]
    (sum(each.loss for each in alone) / 3).backward()
    assert together.loss.item() == pytest.approx(sum(each.loss.item() for each in alone) / 3)
    for (key, p), q in zip(many.named_parameters(), one.named_parameters(), strict=True):
        assert p.grad is not None, key
        assert torch.allclose(p.grad, q[1].grad, atol=1e-9), key
    one.eval()
    with torch.no_grad():
        logits = adapted(one, block)(block.query.fields)
        for b in range(3):
            own = single(block, b)
            assert torch.allclose(adapted(one, own)(own.query.fields), logits[b : b + 1], atol=1e-9)


@every
def test_a_refiner_keeps_the_laws_of_a_learner(name):
    def make(inputs):
        torch.manual_seed(0)
        return METHODS[name].make(METHODS[name].Options(width=16), inputs)

    check_learner(make)


@every
@pytest.mark.parametrize("policy", ["running", "support"])
def test_a_prediction_depends_on_unlabeled_rows_but_not_on_other_queries(name, policy):
    model = learner(name, batch_norm=policy)
    report = evaluate(model, episodes.sample(WORLD, "test", SPEC, length=4), method=name)
    assert not report.transductive
    assert report.audit.passed
    episode = to_torch(episodes.sample(WORLD, "test", SPEC)[0])
    model.eval()
    with torch.no_grad():
        logits = adapted(model, episode)(episode.query.fields)
        others = {"image": 255 - task_of(episode).unlabeled["image"]}
        changed = model.adapt(replace(task_of(episode), unlabeled=others))(episode.query.fields)
    assert (logits - changed).abs().max() > 1e-7


def noisy(dims, seed=0, ways=4, unlabeled=40, queries=50, batch=40, distractors=0):
    """Support, labels, unlabeled rows, what they are, queries, their labels: classes so close that one shot says little."""
    torch.manual_seed(seed)
    centres = torch.randn(batch, ways + distractors, dims) * 1.6 + 6

    def drawn(n, last):
        labels = torch.arange(last).repeat_interleave(n).expand(batch, -1)
        at = torch.take_along_dim(centres, labels.unsqueeze(-1), 1)
        return at + torch.randn(batch, labels.shape[1], dims), labels

    (support, labels), (queries_, wanted) = drawn(1, ways), drawn(queries, ways)
    rows, kinds = drawn(unlabeled, ways + distractors)
    return support, labels, rows, torch.where(kinds < ways, kinds, -1), queries_, wanted


@every
def test_unlabeled_rows_help_where_a_shot_says_little(name):
    model = learner(name, backbone="none")
    support, labels, rows, _, queries, wanted = noisy(dims=8)

    def accuracy(unlabeled):
        with torch.no_grad():
            centres = model.refined(support, labels, unlabeled, 4)
            return float(functional.accuracy(model.logits(queries, centres, 4)[..., :4], wanted).mean())

    none, few, many = accuracy(rows[:, :0]), accuracy(rows[:, ::8]), accuracy(rows)
    assert none + 0.02 < few < many


def test_a_query_that_goes_to_the_distractors_is_an_error():
    logits = torch.tensor([[[1.0, 0.0, 5.0], [1.0, 0.0, -5.0]]])
    assert functional.accuracy(logits, torch.tensor([[0, 0]])).tolist() == [0.5]


def test_distractors_are_found_and_counted():
    found, labels = torch.tensor([[True, True, False, False, True]]), torch.tensor([[-1, 0, -1, 2, -1]])
    assert refine.detection(found, labels) == pytest.approx({"accuracy": 3 / 5, "recall": 2 / 3, "precision": 2 / 3})
    assert refine.detection(~found, labels) == pytest.approx({"accuracy": 2 / 5, "recall": 1 / 3, "precision": 1 / 2})
    nothing = refine.detection(torch.zeros_like(found), labels.abs())
    assert nothing == {"accuracy": 1.0, "recall": 0.0, "precision": 0.0}


@pytest.mark.parametrize("name", ["cluster", "masked"])
def test_rows_far_from_every_class_are_taken_for_distractors(name):
    model = learner(name, backbone="none", **({"init_radius": 1e6} if name == "cluster" else {}))
    support, labels, rows, kinds, _, _ = noisy(dims=8, distractors=3, unlabeled=6)
    side = math.isqrt(WORLD.fields["image"].row_bytes)

    def images(values):  # the backbone is none: features are the pixels
        flat = torch.zeros(*values.shape[:2], side * side)
        flat[..., : values.shape[-1]] = values
        return {"image": flat.unflatten(-1, (1, side, side))}

    task = Task(support=Part(fields=images(support), labels=labels, rows=labels), ways=4, unlabeled=images(rows))
    found = model.distractors(task)
    scores = refine.detection(found, kinds)
    chance = float((kinds < 0).float().mean())
    assert scores["precision"] > chance + 0.2
    assert scores["recall"] > 0.5
    with pytest.raises(SpecError, match="expected a task with unlabeled rows"):
        model.distractors(replace(task, unlabeled=None))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("plain", {"refine_steps": -1}, "refine_steps: expected 0 or more, got -1"),
        ("cluster", {"init_radius": 0.0}, "init_radius: expected a number above 0, got 0.0"),
        ("cluster", {"refine_steps": -1}, "refine_steps: expected 0 or more"),
        ("masked", {"mask_power": -1.0}, "mask_power: expected 0 or more, got -1.0"),
    ],
)
def test_what_is_no_refiner_is_refused(name, options, words):
    with pytest.raises(ConfigError, match=words):
        learner(name, **options)


@every
def test_a_refiner_refuses_what_it_cannot_learn_from(name):
    with pytest.raises(SpecError, match="shots=0 must be 1 or more"):
        learner(name).require(replace(SPEC, shots=0))
    with pytest.raises(SpecError, match="queries=0 must be 1 or more"):
        learner(name).require(replace(SPEC, queries=0))
    learner(name).require(SPEC)
