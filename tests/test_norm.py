"""Batch norm by episodes: the policies, and that episodes together give what they give one after the other."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

import episodes
from episodes.adapters.pytorch import to_torch
from episodes.errors import ConfigError
from episodes.stream.stream import Stream
from learners import metrics
from learners.backbones import make_backbone
from learners.embedding import Embedding, EmbeddingOptions
from learners.methods import protonet
from learners.norm import EpisodeNorm, Pass, Statistics, passing, with_episode_norms
from learners.protocol import Inputs, single
from learners.report import evaluate
from learners.residual import ResNet12
from learners.settings import TrainConfig
from learners.testing import check_learner, separable_world
from learners.trainer import Trainer

WORLD = separable_world()
SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=4)
INPUTS = Inputs(fields=WORLD.fields)


class Outside(nn.Module):
    """A backbone as a user might bring it: batch norms of two kinds, one without parameters, a shape of its own."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6, momentum=None), nn.ReLU(), nn.AvgPool2d(5))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(24, 9), nn.BatchNorm1d(9, affine=False))

    def forward(self, images):
        return self.head(self.body(images)).view(-1, 3, 3)


def block(size=3, split="train"):
    return to_torch(next(Stream(episodes.sample(WORLD, split, SPEC), block=size)))


@pytest.mark.parametrize("name", ["conv4", "resnet12", f"{__name__}:Outside"])
def test_episodes_together_are_what_they_are_one_after_the_other(name):
    torch.manual_seed(0)
    one = Embedding(EmbeddingOptions(backbone=name, width=8), INPUTS)
    many = copy.deepcopy(one)
    episode = block()
    together = many.parts(episode)
    for b in range(3):
        alone = one.parts(single(episode, b))
        for part, expected in zip(together[:2], alone[:2], strict=True):
            assert torch.allclose(part[b : b + 1], expected, atol=1e-4)
    for name, value in one.state_dict().items():
        assert torch.allclose(value.float(), many.state_dict()[name].float(), atol=1e-5), name
    loss = sum(part.square().sum() for part in together[:2])
    loss.backward()
    assert all(p.grad is not None for p in many.parameters())


def test_gradients_of_episodes_together_are_the_sums_of_theirs():
    torch.manual_seed(0)
    learner = protonet.make(protonet.Options(width=8), INPUTS).double()
    twin = copy.deepcopy(learner)
    episode = block()
    for part in (episode.support, episode.query):
        part.fields = {"image": part.fields["image"].double() / 255}
    learner.meta_loss(episode).loss.backward()
    for b in range(3):
        (twin.meta_loss(single(episode, b)).loss / 3).backward()
    for (name, p), q in zip(learner.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, atol=1e-9), name


def test_a_norm_with_its_own_statistics_is_that_of_torch():
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(5)
    nn.init.normal_(plain.weight)
    ours = with_episode_norms(copy.deepcopy(plain))
    assert isinstance(ours, EpisodeNorm)
    values = torch.randn(12, 5, 4, 4)
    assert torch.allclose(ours(values), plain(values), atol=1e-6)
    with passing([ours], Pass(episodes=2)):
        both = ours(values)
    assert torch.allclose(both, torch.cat([plain(values[:6]), plain(values[6:])]), atol=1e-5)
    assert torch.allclose(ours.running_var, plain.running_var, atol=1e-6)
    assert ours.num_batches_tracked == plain.num_batches_tracked == 3
    ours.eval(), plain.eval()
    assert torch.allclose(ours(values), plain(values), atol=1e-6)


def test_queries_are_normalised_with_the_statistics_of_the_support():
    norm = with_episode_norms(nn.BatchNorm1d(2)).eval()
    support, query = torch.tensor([[1.0, 0.0], [3.0, 8.0]]), torch.tensor([[2.0, 4.0], [4.0, 4.0]])
    kept = Statistics()
    with passing([norm], Pass(own=True, keep=kept)):
        assert norm(support).abs().allclose(torch.ones(2, 2), atol=1e-4)
    with passing([norm], Pass(given=kept)):
        assert norm(query).allclose(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), atol=1e-4)
    assert norm.running_mean.tolist() == [0, 0], "evaluation changes nothing"


@pytest.mark.parametrize(("policy", "leaks"), [("running", False), ("support", False), ("transductive", True)])
def test_the_audit_and_the_report_know_the_policy(policy, leaks):
    torch.manual_seed(0)
    learner = protonet.make(protonet.Options(width=8, batch_norm=policy), INPUTS)
    report = evaluate(learner, episodes.sample(WORLD, "test", SPEC, length=4), method="protonet")
    assert (report.batch_norm, report.transductive) == (policy, leaks)
    assert report.audit.passed
    assert (report.audit.largest_difference > 0.01) == leaks


@pytest.mark.parametrize("policy", ["support", "transductive"])
def test_a_policy_learns(policy):
    if policy == "support":
        check_learner(lambda inputs: protonet.make(protonet.Options(width=16, batch_norm=policy), inputs))
    learner = protonet.make(protonet.Options(width=8, batch_norm=policy), INPUTS)
    assert learner.meta_loss(block()).loss.isfinite()


def test_what_a_policy_predicts_does_not_depend_on_the_episodes_it_is_computed_with():
    for policy in ("running", "support", "transductive"):
        torch.manual_seed(0)
        learner = protonet.make(protonet.Options(width=8, batch_norm=policy), INPUTS)
        series = episodes.sample(WORLD, "test", SPEC, length=6)
        together = evaluate(learner, series, method="protonet").per_episode
        uneven = replace(series, then=_same)  # another road: still blocks, of arrays of its own
        assert evaluate(learner, uneven, method="protonet").per_episode == pytest.approx(together)


def _same(fields, generator):
    return dict(fields)


def test_a_backbone_without_batch_norm_says_so():
    embedding = Embedding(EmbeddingOptions(backbone="linear", width=5), INPUTS)
    assert (embedding.batch_norm, embedding.transductive, embedding.features) == ("none", False, 5)
    assert make_backbone("auto", (7,)).features == 7
    assert make_backbone("none", (1, 4, 4)).features == 16


def test_resnet12_has_the_published_parameters():
    backbone = ResNet12((3, 84, 84))
    assert backbone.features == 640
    assert sum(p.numel() for p in backbone.parameters()) == 12_424_320
    assert backbone(torch.zeros(2, 3, 84, 84)).shape == (2, 640)


def test_the_residual_backbone_of_snail_has_the_channels_of_its_paper():
    backbone = make_backbone("resnet-snail", (3, 84, 84))
    widths = (3, 64, 96, 128, 256)
    blocks = sum(9 * a * b + 18 * b * b + 6 * b + a * b + b for a, b in itertools.pairwise(widths))
    assert sum(p.numel() for p in backbone.parameters()) == blocks + 257 * 2048 + 2049 * 384
    assert backbone.features == 384
    backbone.eval()
    images = torch.rand(2, 3, 84, 84)
    assert backbone(images).shape == (2, 384)
    assert torch.equal(backbone(images), backbone(images)), "nothing is dropped in evaluation"
    backbone.train()
    assert not torch.equal(backbone(images), backbone(images))
    with pytest.raises(ConfigError, match="resnet-snail needs images of 16 x 16"):
        make_backbone("resnet-snail", (3, 8, 8))


def test_backbones_that_do_not_fit_are_refused_by_name():
    with pytest.raises(ConfigError, match="unknown backbone 'conv5'; did you mean 'conv4'"):
        make_backbone("conv5", (1, 28, 28))
    with pytest.raises(ConfigError, match="'torch.nn:Linear' cannot be called without arguments .*in_features"):
        make_backbone("torch.nn:Linear", (1, 28, 28), 64)
    with pytest.raises(ConfigError, match="'os:path' cannot be called"):
        make_backbone("os:path", (1, 28, 28), 64)
    with pytest.raises(ConfigError, match="cannot import 'nowhere:Net'"):
        make_backbone("nowhere:Net", (1, 28, 28))
    with pytest.raises(ConfigError, match=r"does not take float rows of shape \(3, 28, 28\)"):
        make_backbone(f"{__name__}:Outside", (3, 28, 28))
    with pytest.raises(ConfigError, match="is dict; expected a torch.nn.Module"):
        make_backbone("builtins:dict", (1, 28, 28))
    assert make_backbone(f"{__name__}:Outside", (1, 16, 16)).features == 9


def test_a_step_of_several_episodes_is_one_pass(tmp_path):
    losses, tested = {}, episodes.sample(WORLD, "test", SPEC, length=2)
    for together in (1, 2, None):
        torch.manual_seed(0)
        learner = protonet.make(protonet.Options(width=8), INPUTS)
        sizes = []
        plain = learner.meta_loss
        learner.meta_loss = lambda episode, plain=plain, sizes=sizes: sizes.append(len(episode.class_ids)) or plain(episode)
        config = TrainConfig(steps=3, meta_batch=4, together=together, validate_every=3, accelerator="cpu")
        trainer = Trainer(learner, "protonet", config, tmp_path / str(together))
        (tmp_path / str(together)).mkdir()
        with trainer.stream(episodes.sample(WORLD, "train", SPEC)) as stream:
            trainer.fit(stream, lambda module: evaluate(module, tested, method="protonet"))
        losses[together] = [line["loss"] for line in metrics.read(tmp_path / str(together), "train")]
        assert sizes == [together or 4] * (12 // (together or 4))
    assert losses[1] == pytest.approx(losses[None], rel=1e-4)
    assert losses[2] == pytest.approx(losses[None], rel=1e-4)
