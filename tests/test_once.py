"""A row is embedded once in an evaluation, and nothing else changes."""

import numpy as np
import pytest
import torch
from torch import nn

import episodes
from learners import records
from learners.embedding import Embedding, EmbeddingOptions, each_row_once
from learners.methods import protonet
from learners.once import Seen
from learners.origin import inputs_of
from learners.report import evaluate
from learners.testing import separable_world

SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=4)
WORLD = separable_world()


def series(length=40, **options):
    return episodes.sample(WORLD, "test", SPEC, length=length, **options)


def learner(**options):
    torch.manual_seed(0)
    return protonet.make(protonet.Options(width=8, **options), inputs_of(series())).eval()


class Counted(nn.Module):
    """A backbone that counts what it is asked for."""

    def __init__(self):
        super().__init__()
        self.rows = 0

    def forward(self, rows):
        self.rows += len(rows)
        return rows.flatten(1)[:, :5] + rows.flatten(1)[:, -5:]


def rows(*numbers):
    return torch.tensor(numbers)[:, None].expand(-1, 3).contiguous()


def test_only_rows_that_are_new_are_computed_each_once():
    seen, asked = Seen(), []

    def compute(some):
        asked.append(some[:, 0].tolist())
        return some[:, :2].float() * 10

    assert seen.features(rows(3, 1, 3), compute).tolist() == [[30, 30], [10, 10], [30, 30]]
    assert seen.features(rows(1, 2, 4, 2), compute).tolist() == [[10, 10], [20, 20], [40, 40], [20, 20]]
    assert seen.features(rows(4, 3), compute).tolist() == [[40, 40], [30, 30]]
    assert [sorted(some) for some in asked] == [[1, 3], [2, 4]]


def test_beyond_its_memory_rows_are_computed_again_and_right():
    seen = Seen(most_bytes=3 * 8)

    def compute(some):
        return some[:, :2].float() * 10

    for numbers in ((1, 2), (2, 3, 3), (4, 1, 4), (5, 6, 5), (3, 2, 1)):
        assert seen.features(rows(*numbers), compute)[:, 0].tolist() == [10 * number for number in numbers]


def test_an_evaluation_is_the_same_with_every_row_computed_each_time(monkeypatch):
    one = learner()
    once = evaluate(one, series(), method="protonet")
    monkeypatch.setattr(records, "_TIMED", 10**9)
    again = evaluate(one, series(), method="protonet")
    assert np.array_equal(once.per_episode, again.per_episode)
    assert once.calibration.nll == pytest.approx(again.calibration.nll, rel=1e-5)
    assert min(once.timing.adapt_seconds, once.timing.predict_seconds) > 0


def test_a_long_evaluation_embeds_each_row_once_but_for_what_is_timed(monkeypatch):
    monkeypatch.setattr(records, "_TOGETHER", records._TIMED)  # so that the first pass is what is timed
    one, counted, tested = learner(), Counted(), series(400)
    one.embedding.backbone = counted
    evaluate(one, tested, method="protonet", audited=0)
    plans = [tested.plan(i) for i in range(400)]
    timed, later = plans[: records._TIMED], plans[records._TIMED :]
    distinct = {row for plan in later for row in (*plan.support.tolist(), *plan.query.tolist())}
    assert counted.rows == len(timed) * 18 + len(distinct)


@pytest.mark.parametrize("policy", ["support", "transductive"])
def test_features_that_depend_on_others_are_never_taken_from_before(policy):
    one = Embedding(EmbeddingOptions(width=8, batch_norm=policy), inputs_of(series())).eval()
    fields = {"image": torch.from_numpy(np.stack([series()[0].query.fields["image"]]))}
    with torch.no_grad(), each_row_once(one):
        whole = one.support(fields)[0]
        part = one.support({"image": fields["image"][:, :4]})[0]
    assert not torch.allclose(whole[:, :4], part, atol=1e-4)


def test_parameters_may_change_between_evaluations():
    one = learner()
    fields = {"image": torch.from_numpy(np.stack([series()[0].query.fields["image"]]))}
    found = []
    for _ in range(2):
        with torch.no_grad(), each_row_once(one):
            found.append(one.embedding.support(fields)[0])
        with torch.no_grad():
            for parameter in one.parameters():
                parameter.mul_(1.5)
    assert not torch.allclose(*found)
    one.train()
    with each_row_once(one):
        assert one.embedding.support(fields)[0].requires_grad, "training is left alone"
