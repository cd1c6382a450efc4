"""SNAIL: nothing depends on what comes later, every block has the paper's width, and a toy task is learned."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import episodes
from episodes.adapters.pytorch import to_torch
from episodes.errors import SpecError
from episodes.store.memory import MemoryStore
from episodes.stream.stream import Stream
from learners.causal import AttentionBlock, CausalConv, DenseBlock, TemporalBlock
from learners.methods import snail
from learners.origin import inputs_of
from learners.protocol import Inputs, adapted, single, task_of
from learners.report import evaluate
from learners.sequences import longest_support
from learners.testing import separable_world

WORLD = separable_world()
SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=4)
INPUTS = Inputs(fields=WORLD.fields)


def learner(**options):
    torch.manual_seed(0)
    return snail.make(snail.Options(**{"width": 16, "max_ways": 3, "max_support": 6, "filters": 16} | options), INPUTS)


@pytest.mark.parametrize(
    "block",
    [CausalConv(4, 5, 2), DenseBlock(4, 5, 1), TemporalBlock(4, 9, 5), TemporalBlock(4, 9, 5, 1), AttentionBlock(4, 3, 6)],
    ids=lambda block: type(block).__name__,
)
def test_no_output_depends_on_a_later_position(block):
    torch.manual_seed(0)
    values = torch.randn(2, 9, 4)
    before = block(values)
    for position in range(9):
        changed = values.clone()
        changed[:, position:] += torch.randn(2, 9 - position, 4)
        after = block(changed)
        assert torch.equal(after[:, :position], before[:, :position])
        assert not torch.allclose(after[:, position], before[:, position])


@pytest.mark.parametrize("shown", [1, 2, 5, 9])
@pytest.mark.parametrize(
    "block",
    [
        CausalConv(4, 5, 2),
        DenseBlock(4, 5, 1),
        TemporalBlock(4, 10, 5),
        TemporalBlock(4, 10, 5, 1),
        AttentionBlock(4, 3, 6),
    ],
    ids=lambda block: type(block).__name__,
)
def test_sequences_that_differ_in_their_end_are_what_each_is_by_itself(block, shown):
    torch.manual_seed(shown)
    block = copy.deepcopy(block).double()
    begin = torch.randn(2, shown, 4, dtype=torch.float64, requires_grad=True)
    ends = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    sequences = torch.cat([begin[:, None].expand(-1, 3, -1, -1), ends[:, :, None]], dim=2).flatten(0, 1)
    each = block(sequences).unflatten(0, (2, 3))
    of_shown, of_ends = block.ends(begin, ends)
    assert torch.allclose(of_ends, each[:, :, -1])
    for e in range(3):
        assert torch.allclose(of_shown, each[:, e, :-1])
    inputs = (begin, ends, *block.parameters())
    slopes = torch.autograd.grad(each[:, :, -1].square().sum(), inputs)
    found = torch.autograd.grad(of_ends.square().sum(), inputs, allow_unused=True)
    for slope, expected in zip(found, slopes, strict=True):
        assert torch.allclose(torch.zeros_like(expected) if slope is None else slope, expected)


def test_the_convolution_is_torchs():
    torch.manual_seed(0)
    for dilation, length in itertools.product((1, 2, 8), (1, 2, 7, 20)):
        block, values = CausalConv(4, 5, dilation), torch.randn(2, length, 4)
        padded = torch.nn.functional.pad(values.transpose(1, 2), (dilation, 0))
        assert torch.allclose(block(values), block.conv(padded).transpose(1, 2), atol=1e-6)


@pytest.mark.parametrize(("first", "reached"), [(1, set(range(8))), (2, {0, 2, 4, 6, 8, 10, 12, 14})])
def test_dilations_reach_the_offsets_that_are_said(first, reached):
    block, length = TemporalBlock(1, 8, 2, first).double(), 16
    values = torch.randn(1, length, 1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(block(values)[0, -1].sum(), values)
    assert {length - 1 - int(i) for i in slope[0, :, 0].nonzero()} == reached


def test_attention_is_a_softmax_over_keys_up_to_the_position():
    block = AttentionBlock(3, 4, 5).double()
    values = torch.randn(1, 6, 3, dtype=torch.float64)
    q, k, v = block.query(values)[0], block.key(values)[0], block.value(values)[0]
    for t in range(6):
        weights = torch.stack([q[t] @ k[s] / 2 for s in range(t + 1)]).softmax(0)
        read = sum(weights[s] * v[s] for s in range(t + 1))
        assert torch.allclose(block(values)[0, t], torch.cat([values[0, t], read]))


@pytest.mark.parametrize(
    ("ways", "shots", "widths"), [(5, 1, [101, 485, 613, 997, 1253]), (20, 5, [116, 1012, 1140, 2036, 2292])]
)
def test_blocks_are_as_wide_as_in_the_paper(ways, shots, widths):
    store = MemoryStore({"image": np.zeros((2, 1, 28, 28), np.uint8)}, {"a": 1, "b": 1})
    model = snail.make(snail.Options(max_ways=ways, max_support=ways * shots), Inputs(fields=store.fields))
    assert [block.channels for block in model.blocks] == widths
    assert (model.head.in_features, model.head.out_features) == (widths[-1], ways)


def test_the_support_may_be_listed_in_any_order_and_queries_are_read_alone():
    model, episode = learner().eval(), to_torch(next(Stream(episodes.sample(WORLD, "test", SPEC), block=3)))
    with torch.no_grad():
        logits = adapted(model, episode)(episode.query.fields)
        order = torch.randperm(6)
        support = replace(
            episode.support,
            fields={"image": episode.support.fields["image"][:, order]},
            labels=episode.support.labels[:, order],
            rows=episode.support.rows[:, order],
        )
        turned = model.adapt(replace(task_of(episode), support=support))(episode.query.fields)
        assert torch.allclose(turned, logits, atol=1e-5)
        for b in range(3):
            one = single(episode, b)
            assert torch.allclose(adapted(model, one)(one.query.fields), logits[b : b + 1], atol=1e-5)
            last = {"image": one.query.fields["image"][:, -1:]}
            assert torch.allclose(adapted(model, one)(last)[:, 0], logits[b : b + 1, -1], atol=1e-5)


def test_what_reads_no_other_token_is_at_chance():
    model, series = learner(), episodes.sample(WORLD, "test", SPEC, length=100)
    with torch.no_grad():
        for block in model.blocks:
            for name, parameter in block.named_parameters():
                if "value" in name:
                    parameter.zero_()
    assert abs(evaluate(model, series, method="snail").mean - 1 / 3) < 0.05


def test_two_clouds_are_told_apart_after_one_row_of_each():
    bits = np.random.default_rng(0)
    means = bits.normal(size=(200, 2)) * 3
    rows = (means[:, None] + 0.1 * bits.normal(size=(200, 6, 2))).astype(np.float32).reshape(1200, 2)
    names = [f"c{i:03d}" for i in range(200)]
    splits = {"s": {"train": names[:150], "test": names[150:]}}
    store = MemoryStore({"image": rows}, dict.fromkeys(names, 6), splits=splits)
    spec = episodes.EpisodeSpec(ways=2, shots=1, queries=2)
    train = episodes.sample(store, "train", spec)
    torch.manual_seed(0)
    model = snail.make(snail.Options(max_ways=2, max_support=2, filters=32), inputs_of(train))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for block, _ in zip(Stream(train, block=32), range(150), strict=False):
        optimizer.zero_grad()
        model.meta_loss(to_torch(block)).loss.backward()
        optimizer.step()
    report = evaluate(model, episodes.sample(store, "test", spec, length=500), method="snail")
    assert report.mean > 0.9, "clouds that lie upon each other cannot be told apart"
    assert report.audit.passed
    twin = snail.make(model.options, inputs_of(train)).eval()
    twin.load_state_dict(model.state_dict())
    episode = to_torch(train[0])
    assert torch.equal(adapted(twin, episode)(episode.query.fields), adapted(model.eval(), episode)(episode.query.fields))


def test_what_it_cannot_read_is_refused_by_name():
    with pytest.raises(SpecError, match="the head has 3 outputs; ways=4 needs --max-ways"):
        learner().require(replace(SPEC, ways=4))
    with pytest.raises(SpecError, match=r"reads supports of 1 to 6 rows; ways=3, shots=3 are up to 9 \(give --max-support"):
        learner().require(replace(SPEC, shots=3))
    with pytest.raises(SpecError, match=r"ways=3, shots=0 are up to 0 \(give a shot or more\)"):
        learner().require(replace(SPEC, shots=0))
    with pytest.raises(SpecError, match="snail is scored by its queries; queries=0 must be 1 or more"):
        learner().require(replace(SPEC, queries=0))


@pytest.mark.parametrize(
    ("ways", "shots", "rows"),
    [
        (3, 2, 6),
        ("2..4", "1..3", 12),
        (3, "1..3 per class", 9),
        (3, [1, 4, 2], 7),
        (3, "[1, 4, 2] permuted", 7),
        (5, "linear(5, 5)", 15),
        (4, "step(5, 5, 0.5)", 12),
        ("2..4", "long-tail(8, 4)", 18),
        ({2: 0.5, 6: 0.5}, 2, 12),
        (3, "variable", 0),
    ],
)
def test_the_longest_support_is_that_of_the_largest_episode(ways, shots, rows):
    spec = episodes.EpisodeSpec(ways=ways, shots=shots, queries=1)
    assert longest_support(spec) == rows


@settings(max_examples=60, deadline=None)
@given(
    ways=st.integers(2, 5),
    shots=st.sampled_from(
        ["1..3", "1..4 per class", "linear(6, 3)", "step(5, 5, 0.5)", "long-tail(6, 3)", "{1: 0.5, 4: 0.5}"]
    ),
    index=st.integers(0, 10**6),
)
def test_no_support_is_longer_than_the_longest(ways, shots, index):
    spec = episodes.EpisodeSpec(ways=f"2..{ways}", shots=shots, queries=1)
    assert len(episodes.sample(WORLD, "test", spec)[index].support.rows) <= longest_support(spec)


def test_what_a_spec_does_not_say_is_refused_by_the_episode():
    unknown = episodes.EpisodeSpec(ways="variable", shots="variable", queries="variable")
    learner().require(unknown)
    for spec, words in (
        (replace(SPEC, ways=4, shots=1), "has 4 classes and 4 support rows; the network takes up to 3 and 6"),
        (replace(SPEC, shots=3), r"has 3 classes and 9 support rows; .* \(give --max-ways and --max-support as many\)"),
    ):
        episode = to_torch(episodes.sample(WORLD, "test", spec)[0])
        with pytest.raises(SpecError, match=words):
            adapted(learner(), episode)
        with pytest.raises(SpecError, match=words):
            learner().meta_loss(episode)
