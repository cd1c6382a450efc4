"""NCA against a double loop over pairs, and what its evaluation centres on."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import episodes
from episodes.adapters.pytorch import to_torch
from episodes.errors import ConfigError, SpecError
from episodes.stream.stream import Stream
from learners import functional
from learners.methods import nca
from learners.methods.nca import log_shares, neighbours
from learners.protocol import Inputs, adapted, single
from learners.report import evaluate
from learners.testing import check_learner, separable_world

WORLD = separable_world()
SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=4)
INPUTS = Inputs(fields=WORLD.fields)


def learner(**options):
    torch.manual_seed(0)
    return nca.make(nca.Options(width=8, **options), INPUTS)


def block(size=3, split="test", spec=SPEC):
    return to_torch(next(Stream(episodes.sample(WORLD, split, spec), block=size)))


@pytest.mark.parametrize(
    "options",
    [{}, {"centre": "support"}, {"centre": "none", "normalise": False}, {"predict": "neighbours", "temperature": 0.5}],
)
def test_nca_keeps_the_laws_of_a_learner(options):
    def make(inputs):
        torch.manual_seed(0)
        return nca.make(nca.Options(width=16, **options), inputs)

    check_learner(make)


@settings(max_examples=40, deadline=None)
@given(
    labels=st.lists(st.integers(-1, 3), min_size=2, max_size=9),
    temperature=st.floats(0.2, 5),
    seed=st.integers(0, 1000),
)
def test_the_loss_is_that_of_a_double_loop(labels, temperature, seed):
    torch.manual_seed(seed)
    features, n = torch.randn(len(labels), 3).double(), len(labels)
    logs, right = [], []
    for i in range(n):
        weights = {j: math.exp(-float(((features[i] - features[j]) ** 2).sum()) / temperature) for j in range(n) if j != i}
        own = [weights[j] for j in weights if labels[j] == labels[i] != -1]
        if own:
            logs.append(math.log(sum(own) / sum(weights.values())))
            right.append(labels[max(weights, key=weights.__getitem__)] == labels[i])
    if not logs:
        with pytest.raises(SpecError, match="no two rows of the batch are of one class"):
            log_shares(features[None], torch.tensor([labels]), temperature)
        return
    found, hits = log_shares(features[None], torch.tensor([labels]), temperature)
    assert found.tolist() == pytest.approx(logs, abs=1e-9)
    assert hits.tolist() == right


def test_support_and_queries_are_one_batch():
    made = learner()
    episode = block(1)
    whole = replace(
        episode,
        support=replace(
            episode.support, fields={"image": episode.support.fields["image"][:, :0]}, labels=torch.zeros(1, 0).long()
        ),
        query=replace(
            episode.query,
            fields=functional.cat_fields([episode.support.fields, episode.query.fields]),
            labels=torch.cat([episode.support.labels, episode.query.labels], 1),
        ),
    )
    assert made.meta_loss(whole).loss == made.meta_loss(episode).loss


def test_batches_together_are_the_mean_of_each():
    episode = block(3, "train")
    together, alone = learner(), learner()
    losses = [float(alone.meta_loss(single(episode, b)).loss.detach()) for b in range(3)]
    assert float(together.meta_loss(episode).loss.detach()) == pytest.approx(np.mean(losses), rel=1e-4)
    assert torch.allclose(together.mean, alone.mean, atol=1e-5)
    assert together.batches == alone.batches == 3


def test_gradients_are_finite_where_a_row_has_no_positive_and_rows_are_equal():
    features = torch.zeros(1, 5, 2, requires_grad=True)
    logs, _ = log_shares(features, torch.tensor([[0, 0, 1, 2, -1]]), 1.0)
    assert logs.tolist() == pytest.approx([math.log(1 / 4)] * 2)
    logs.sum().backward()
    assert features.grad.isfinite().all()


def test_the_mean_of_meta_training_is_that_of_its_batches():
    made = learner().train()
    means = []
    for i in range(4):
        episode = to_torch(episodes.sample(WORLD, "train", SPEC)[i])
        twin = learner().train()
        twin.load_state_dict(made.state_dict())
        rows = functional.cat_fields([episode.support.fields, episode.query.fields])
        means.append(twin.embedding.support(rows)[0].mean((0, 1)))
        made.meta_loss(episode)
    assert torch.allclose(made.mean, torch.stack(means).mean(0), atol=1e-5), "the first hundred weigh alike"
    before = made.mean.clone()
    made.eval()
    episode = block()
    adapted(made, episode)(episode.query.fields)
    assert torch.equal(made.mean, before)


@pytest.mark.parametrize("centre", ["training", "support", "none"])
@pytest.mark.parametrize("normalise", [True, False])
def test_a_query_goes_to_the_nearest_mean_of_placed_features(centre, normalise):
    made = learner(centre=centre, normalise=normalise)
    made.train()
    made.meta_loss(block(1, "train"))
    made.double().eval()
    episode = block()
    for part in (episode.support, episode.query):
        part.fields = {"image": part.fields["image"].double() / 255}
    with torch.no_grad():
        logits = adapted(made, episode)(episode.query.fields)

        def features(part, b):
            return made.embedding.backbone(part.fields["image"][b])

        for b in range(3):
            known, queries = features(episode.support, b), features(episode.query, b)
            middle = {"training": made.mean, "support": known.mean(0), "none": 0.0}[centre]
            known, queries = known - middle, queries - middle
            if normalise:
                known, queries = (one / one.norm(dim=1, keepdim=True) for one in (known, queries))
            means = torch.stack([known[episode.support.labels[b] == c].mean(0) for c in range(3)])
            expected = -torch.stack([((queries - mean) ** 2).sum(1) for mean in means], 1)
            assert torch.allclose(logits[b], expected, atol=1e-10)


def test_soft_neighbours_are_shares_of_the_support():
    closeness = torch.log(torch.tensor([[[1.0, 2, 3, 4]]]))
    shares = neighbours(closeness, torch.tensor([[0, 1, 0, 2]]), 3).softmax(-1)
    assert shares.flatten().tolist() == pytest.approx([0.4, 0.2, 0.4])


def test_with_one_shot_means_and_neighbours_agree():
    episode = block(2, spec=episodes.EpisodeSpec(ways=3, shots=1, queries=4))
    one, other = learner().eval(), learner(predict="neighbours").eval()
    with torch.no_grad():
        assert torch.allclose(
            adapted(one, episode)(episode.query.fields), adapted(other, episode)(episode.query.fields), atol=1e-5
        )


def test_what_cannot_be_learned_from_is_refused():
    made = learner()
    made.require_training(episodes.EpisodeSpec(ways=3, shots=0, queries=2))
    made.require_training(episodes.EpisodeSpec(ways=3, shots=1, queries=1))
    with pytest.raises(SpecError, match="nca learns from pairs; queries=1 and shots=0 must be 2 together, or more"):
        made.require_training(episodes.EpisodeSpec(ways=3, shots=0, queries=1))
    with pytest.raises(SpecError, match="nca learns from the support; shots=0 must be 1 or more"):
        made.require(episodes.EpisodeSpec(ways=3, shots=0, queries=2))
    with pytest.raises(ConfigError, match="temperature: expected a number above 0, got 0"):
        nca.Options(temperature=0.0)


def test_a_report_says_that_it_is_not_transductive():
    report = evaluate(learner(), episodes.sample(WORLD, "test", SPEC, length=3), method="nca")
    assert (report.transductive, report.batch_norm, report.audit.passed) == (False, "running", True)
