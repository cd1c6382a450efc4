"""Zero-shot ProtoNet: a slow reference in float64, unseen classes told by their attributes alone, what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import episodes
from episodes.adapters.pytorch import to_torch
from episodes.errors import ConfigError, SpecError
from episodes.store.memory import MemoryStore
from episodes.stream.stream import Stream
from learners.methods import protonet_zero_shot
from learners.origin import inputs_of
from learners.protocol import Inputs, adapted, single, task_of
from learners.report import evaluate

CLASSES, ROWS, CELLS, SIZE = 90, 12, 4, 16
SPEC = episodes.EpisodeSpec(ways=4, shots=0, queries=3)


def world():
    """Noisy pictures of 4 x 4 cells, dark or bright; the cells are what is known of a class, and no two are alike."""
    generator = np.random.default_rng(0)
    bits = np.unique(generator.integers(0, 2, (2 * CLASSES, CELLS, CELLS)), axis=0)[:CLASSES]
    generator.shuffle(bits)
    pictures = bits.repeat(SIZE // CELLS, axis=1).repeat(SIZE // CELLS, axis=2)[:, None, None] * 150
    images = (pictures + generator.integers(0, 105, (CLASSES, ROWS, 1, SIZE, SIZE))).astype(np.uint8)
    names = [f"class{c:02d}" for c in range(CLASSES)]
    splits = {"world": {"train": names[:70], "test": names[70:]}}
    fields = {"image": images.reshape(-1, 1, SIZE, SIZE)}
    cells = dict(zip(names, bits.astype(np.float32), strict=True))
    return MemoryStore(fields, dict.fromkeys(names, ROWS), splits=splits, class_fields={"cells": cells})


WORLD = world()
INPUTS = inputs_of(episodes.sample(WORLD, "train", SPEC))


def learner(**options):
    torch.manual_seed(0)
    options = {"attributes": "cells", "backbone": "linear", "width": 32} | options
    return protonet_zero_shot.make(protonet_zero_shot.Options(**options), INPUTS)


def block(size=2, split="train", start=0):
    return to_torch(next(Stream(episodes.sample(WORLD, split, SPEC), block=size, start=start)))


def double(episode):
    """The same in float64."""
    fields = {"image": episode.query.fields["image"].double() / 255}
    cells = {"cells": episode.class_fields["cells"].double()}
    support = replace(episode.support, fields={"image": episode.support.fields["image"].double()})
    return replace(episode, support=support, query=replace(episode.query, fields=fields), class_fields=cells)


def logits_of(model, episode):
    return adapted(model, episode)(episode.query.fields)


@pytest.mark.parametrize("hidden", [0, 5])
def test_logits_and_loss_are_those_of_the_slow_twin(hidden):
    model, episode = learner(hidden=hidden).double().eval(), double(block())
    found, losses = logits_of(model, episode), []
    layers = [(layer.weight, layer.bias) for layer in model.map if isinstance(layer, torch.nn.Linear)]
    assert len(layers) == (2 if hidden else 1)
    for b in range(2):
        prototypes = []
        for cells in episode.class_fields["cells"][b]:
            values = cells.flatten()
            for i, (weight, bias) in enumerate(layers):
                values = weight @ (values.clamp(min=0) if i else values) + bias
            prototypes.append(values / values.square().sum().sqrt())
        for q, image in enumerate(episode.query.fields["image"][b]):
            query = model.embedding.backbone(image[None])[0]
            expected = torch.stack([-(query - prototype).square().sum() for prototype in prototypes])
            assert torch.allclose(found[b, q], expected, atol=1e-9)
            losses.append(-expected.log_softmax(0)[episode.query.labels[b, q]])
    assert torch.allclose(model.meta_loss(episode).loss, torch.stack(losses).mean())


@pytest.fixture(scope="module", params=[{}, {"hidden": 32}, {"backbone": "conv4", "width": 16}], ids=str)
def trained(request):
    model = learner(**request.param).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    series = episodes.sample(WORLD, "train", replace(SPEC, ways=20))
    for i in range(150):
        optimizer.zero_grad()
        loss = model.meta_loss(to_torch(series[i]))
        loss.loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model, change=lambda episode: episode):
    rights = []
    for i in range(0, 100, 20):
        episode = block(20, "test", i)
        rights.append((logits_of(model, change(episode)).argmax(-1) == episode.query.labels).float())
    return float(torch.cat(rights).mean())


def test_classes_never_seen_are_told_by_their_attributes(trained):
    series = episodes.sample(WORLD, "test", SPEC, length=60)
    report = evaluate(trained, series, method="protonet_zero_shot")
    assert report.mean > 0.85
    assert report.audit.passed
    assert report.audit.queries == 5 * 12
    assert not report.transductive
    assert report.spec.shots == 0


def test_attributes_of_other_classes_give_chance(trained):
    def dealt(episode):
        """To each episode those of the next, whose classes are others."""
        return replace(episode, class_fields={"cells": episode.class_fields["cells"].roll(1, dims=0)})

    assert abs(accuracy(trained, dealt) - 1 / 4) < 0.12

    def alike(episode):
        cells = episode.class_fields["cells"]
        return replace(episode, class_fields={"cells": cells[:, :1].expand_as(cells)})

    assert abs(accuracy(trained, alike) - 1 / 4) < 0.01, "classes of one description are not told apart"


def test_a_state_goes_round(trained):
    twin = protonet_zero_shot.make(trained.options, INPUTS).eval()
    twin.load_state_dict(trained.state_dict())
    episode = block(3, "test")
    assert torch.equal(logits_of(twin, episode), logits_of(trained, episode))


def test_classes_in_another_order_have_their_logits_in_that_order(trained):
    episode, order = block(2, "test"), [2, 0, 3, 1]
    cells = {"cells": episode.class_fields["cells"][:, order]}
    turned = trained.adapt(replace(task_of(episode), class_fields=cells))(episode.query.fields)
    assert torch.allclose(turned, logits_of(trained, episode)[..., order], atol=1e-5)


def test_prototypes_have_length_one_and_queries_keep_theirs():
    model, episode = learner().double().eval(), double(block())
    prototypes, before = model.prototypes(episode.class_fields), logits_of(model, episode)
    assert torch.allclose(prototypes.square().sum(-1), torch.ones(2, 4).double())
    with torch.no_grad():
        for p in model.map.parameters():
            p *= 7
    assert torch.allclose(logits_of(model, episode), before), "the length of what g gives does not matter"
    with torch.no_grad():
        for p in model.embedding.parameters():
            p *= 7
    assert not torch.allclose(logits_of(model, episode), before, atol=0.1), "that of a query's features does"


def test_episodes_together_are_what_they_are_one_by_one():
    model, episode = learner(backbone="conv4", width=4).double(), double(block(3))
    ones = [single(episode, b) for b in range(3)]
    together = model.train().meta_loss(episode).loss
    assert torch.allclose(together, torch.stack([model.meta_loss(one).loss for one in ones]).mean())
    model.eval()
    assert torch.allclose(logits_of(model, episode), torch.cat([logits_of(model, one) for one in ones]), atol=1e-9)


def test_the_gradient_reaches_everything():
    model = learner(backbone="conv4", width=4, hidden=6).train()
    model.meta_loss(block()).loss.backward()
    for name, p in model.named_parameters():
        if not (name.endswith("0.bias") and "blocks" in name):  # a bias before batch norm has no effect
            assert float(p.grad.abs().max()) > 1e-9, name


def test_attributes_may_be_whole_numbers():
    model, episode = learner().eval(), block()
    whole = replace(episode, class_fields={"cells": episode.class_fields["cells"].to(torch.uint8)})
    assert torch.equal(logits_of(model, whole), logits_of(model, episode)), "they are not scaled as images are"


def test_what_it_cannot_do_is_refused_by_name():
    model = learner()
    model.require(SPEC)
    for shots in (1, "0..2", [0, 0, 1, 0]):
        with pytest.raises(SpecError, match=r"class field 'cells', not of shots; shots=.* must be 0"):
            model.require(replace(SPEC, shots=episodes.EpisodeSpec(ways=4, shots=shots, queries=3).shots))
    with pytest.raises(SpecError, match="shots and queries are both 0"):
        replace(SPEC, queries=0)
    with pytest.raises(SpecError, match="class field 'cells' is missing; the episode has none"):
        model.meta_loss(replace(block(), class_fields={}))
    with pytest.raises(ConfigError, match="attributes: the store has no class field 'wings'; it has cells"):
        learner(attributes="wings")
    turned = inputs_of(episodes.sample(WORLD, episodes.Selection(split="train", rotations=True), SPEC))
    with pytest.raises(ConfigError, match="all turns of a class have the same; train without rotations"):
        protonet_zero_shot.make(protonet_zero_shot.Options(attributes="cells"), turned)
    with pytest.raises(ConfigError, match="has no class field 'attributes'; it has none"):
        protonet_zero_shot.make(protonet_zero_shot.Options(), Inputs(fields=WORLD.fields))
    with pytest.raises(ConfigError, match="batch_norm: there is no support to take statistics of"):
        protonet_zero_shot.Options(batch_norm="support")
    with pytest.raises(ConfigError, match="hidden: expected 0 or more, got -1"):
        protonet_zero_shot.Options(hidden=-1)
