"""Proto-MAML: without a step it is a ProtoNet, and gradients reach the features through the head."""

import pytest
import torch

import episodes
from episodes.adapters.pytorch import to_torch
from episodes.errors import ConfigError
from episodes.stream.stream import Stream
from learners import functional
from learners.methods import proto_maml
from learners.protocol import Inputs, adapted
from learners.testing import check_learner, separable_world
from learners.untrained import require_nothing_to_train, require_something_to_train

WORLD = separable_world()
SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=4)


def learner(**options):
    torch.manual_seed(0)
    chosen = {"backbone": "conv4-stride-mean", "width": 16, "max_ways": 4, "inner_rate": 0.01} | options
    return proto_maml.make(proto_maml.Options(**chosen), Inputs(fields=WORLD.fields))


def test_it_keeps_the_laws_of_a_learner():
    check_learner(lambda inputs: learner())


@pytest.mark.parametrize("tasks", ["loop", "vmap"])
def test_without_a_step_it_is_a_protonet(tasks):
    model = learner(inner_steps=0, test_steps=0, batch_norm="transductive", tasks=tasks)
    episode = to_torch(episodes.sample(WORLD, "test", SPEC)[0])
    logits = adapted(model, episode)(episode.query.fields)
    assert logits.shape == (1, 12, 3)
    support, query = (
        model.net.call(model.net.weights() | {"head.weight": torch.eye(16), "head.bias": torch.zeros(16)}, images)[None]
        for images in (functional.to_float(part.fields["image"][0]) for part in (episode.support, episode.query))
    )
    prototypes = functional.class_means(support, episode.support.labels, 3)
    expected = (-functional.squared_distances(query, prototypes)).softmax(-1)
    assert torch.allclose(logits.softmax(-1), expected, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2])
def test_the_three_ways_of_computing_tasks_are_equal(steps):
    episode, results = to_torch(next(Stream(episodes.sample(WORLD, "train", SPEC), block=3))), []
    for part in (episode.support, episode.query):
        part.fields = {"image": part.fields["image"].double() / 255}
    for tasks in ("loop", "vmap", "block"):
        model = learner(inner_steps=steps, inner_rate=0.05, tasks=tasks).double()
        loss = model.meta_loss(episode).loss
        loss.backward()
        results.append((loss, model.net.backbone.blocks[0][0].weight.grad))
    for loss, gradient in results[1:]:
        assert torch.allclose(loss, results[0][0], atol=1e-9)
        assert torch.allclose(gradient, results[0][1], atol=1e-9)


def test_on_features_there_is_nothing_to_train():
    model = learner(backbone="none")
    with pytest.raises(ConfigError, match="'proto_maml' has nothing to train with this backbone"):
        require_something_to_train(model, "proto_maml")
    require_nothing_to_train(model, "proto_maml")
    episode = to_torch(episodes.sample(WORLD, "test", SPEC)[0])
    assert adapted(model.eval(), episode)(episode.query.fields).shape == (1, 12, 3)


def test_gradients_flow_through_the_prototypes():
    model = learner(inner_steps=1)
    model.meta_loss(to_torch(episodes.sample(WORLD, "train", SPEC)[0])).loss.backward()
    assert model.net.backbone.blocks[0][0].weight.grad.abs().sum() > 0
    assert model.net.head.weight.grad is None, "the head of the initialisation is not used"
