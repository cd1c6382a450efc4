"""Proto-MAML: without a step it is a ProtoNet, and gradients reach the features through the head."""

import pytest
import torch

import episodes
from episodes.adapters.pytorch import to_torch
from learners import functional
from learners.methods import proto_maml
from learners.protocol import Inputs, adapted
from learners.testing import check_learner, separable_world

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


def test_gradients_flow_through_the_prototypes():
    model = learner(inner_steps=1)
    model.meta_loss(to_torch(episodes.sample(WORLD, "train", SPEC)[0])).loss.backward()
    assert model.net.backbone.blocks[0][0].weight.grad.abs().sum() > 0
    assert model.net.head.weight.grad is None, "the head of the initialisation is not used"
