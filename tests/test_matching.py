"""Matching Networks: slow references in float64, the identities of their dossier, order and shape of the support."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import episodes
from episodes.adapters.pytorch import to_torch
from episodes.errors import ConfigError, SpecError
from episodes.stream.stream import Stream
from learners import sequences
from learners.fabric import make_fabric
from learners.methods import matching, matching_fce, protonet
from learners.protocol import Inputs, adapted, single, task_of
from learners.testing import check_learner, separable_world

WORLD = separable_world()
INPUTS = Inputs(fields=WORLD.fields)
SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=4)
UNEQUAL = episodes.EpisodeSpec(ways=3, shots=[3, 1, 2], queries=4)
BOTH = pytest.mark.parametrize("module", [matching, matching_fce], ids=["matching", "matching_fce"])


def block(spec=SPEC, size=2, start=0):
    """Episodes in float64."""
    episode = to_torch(next(Stream(episodes.sample(WORLD, "train", spec), block=size, start=start)))
    for part in (episode.support, episode.query):
        part.fields = {"image": part.fields["image"].double() / 255}
    return episode


def learner(module=matching, **options):
    """Random features are nearly alike: of pixels, the features differ, and so do the predictions."""
    torch.manual_seed(0)
    options = {"backbone": "linear", "width": 8} | options
    return module.make(module.Options(**options), INPUTS).double().eval()


def logits_of(model, episode):
    return adapted(model, episode)(episode.query.fields)


def reordered(episode, order):
    """The same episodes with the rows of the support in another order."""
    part = episode.support
    fields = {name: values[:, order] for name, values in part.fields.items()}
    support = replace(part, fields=fields, labels=part.labels[:, order], rows=part.rows[:, order])
    return replace(episode, support=support)


def similarity(kind, relu, a, b):
    if kind == "euclidean":
        return -sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    cosine = dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))
    return max(cosine, 0.0) if relu else cosine


def slow(options, queries, support, labels, ways):
    """Probabilities of one episode's queries, by loops over queries and support."""
    result = []
    support = [row.tolist() for row in support]
    for query in (row.tolist() for row in queries):
        scores = [options.first_scale * similarity(options.similarity, options.relu, query, row) for row in support]
        if options.attention == "class":
            scores = [sum(s for s, label in zip(scores, labels, strict=True) if label == c) for c in range(ways)]
        top = max(scores)
        shares = [math.exp(score - top) for score in scores]
        if options.attention == "support":
            shares = [sum(a for a, label in zip(shares, labels, strict=True) if label == c) for c in range(ways)]
        result.append([share / sum(shares) for share in shares])
    return torch.tensor(result, dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(
    shots=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    attention=st.sampled_from(["support", "class"]),
    kind=st.sampled_from(["cosine", "euclidean"]),
    relu=st.booleans(),
    scale=st.sampled_from([None, 0.5, 20.0]),
    seed=st.integers(0, 1000),
)
def test_attention_is_that_of_the_slow_twin(shots, attention, kind, relu, scale, seed):
    options = matching.Options(attention=attention, similarity=kind, relu=relu and kind == "cosine", scale=scale)
    torch.manual_seed(seed)
    ways, labels = len(shots), torch.tensor([[c for c, k in enumerate(shots) for _ in range(k)]] * 2)
    order = torch.randperm(sum(shots))  # nothing says in which order the rows of a support stand
    labels = labels[:, order]
    queries, support = torch.randn(2, 3, 4).double(), torch.randn(2, sum(shots), 4).double()
    found = matching.Attention(options).double().logits(queries, support, labels, ways).exp()
    for b in range(2):
        assert torch.allclose(found[b], slow(options, queries[b], support[b], labels[b].tolist(), ways), atol=1e-9)


@pytest.mark.parametrize("spec", [SPEC, UNEQUAL], ids=["2 shots", "3, 1 and 2 shots"])
@pytest.mark.parametrize("attention", ["support", "class"])
def test_a_prediction_is_that_of_the_slow_twin(attention, spec):
    model, episode = learner(attention=attention), block(spec)
    found = logits_of(model, episode)
    for b in range(2):
        support, queries = (model.embedding.backbone(part.fields["image"][b]) for part in (episode.support, episode.query))
        expected = slow(model.attention.options, queries, support, episode.support.labels[b].tolist(), 3)
        assert torch.allclose(found[b].exp(), expected, atol=1e-9)
    assert torch.allclose(found.exp().sum(-1), torch.ones(2, 12).double())


@BOTH
@pytest.mark.parametrize(
    "options", [{}, {"learn_scale": True}, {"attention": "class"}, {"similarity": "euclidean"}], ids=str
)
def test_it_keeps_the_laws_of_a_learner(module, options):
    def make(inputs):
        torch.manual_seed(0)
        return module.make(module.Options(width=16, **options), inputs)

    check_learner(make)


@BOTH
def test_with_one_shot_both_readings_are_the_same_and_with_two_they_are_not(module):
    models = [learner(module, attention=attention) for attention in ("support", "class")]
    one = block(replace(SPEC, shots=1))
    assert torch.allclose(*(logits_of(model, one) for model in models), atol=1e-9)
    assert not torch.allclose(*(logits_of(model, block()) for model in models), atol=1e-2)


def test_with_copies_as_shots_the_second_reading_has_the_scale_times_as_large():
    episode = block(replace(SPEC, shots=1))
    twice = reordered(episode, [0, 1, 2, 2, 0, 1])
    assert torch.allclose(
        logits_of(learner(attention="class", scale=5.0), twice),
        logits_of(learner(attention="support", scale=10.0), episode),
    )
    assert torch.allclose(logits_of(learner(), twice), logits_of(learner(), episode)), "the first has it as it was"


def test_with_one_shot_and_squared_distances_it_is_protonet():
    episode = block(replace(SPEC, shots=1))
    model = learner(similarity="euclidean")
    twin = protonet.make(protonet.Options(backbone="linear", width=8), INPUTS).double()
    twin.load_state_dict({name: v for name, v in model.state_dict().items() if name.startswith("embedding.")})
    assert torch.allclose(logits_of(model, episode), logits_of(twin, episode).log_softmax(-1), atol=1e-9)
    assert not torch.allclose(logits_of(model, block()), logits_of(twin, block()).log_softmax(-1), atol=1e-3)


@pytest.mark.parametrize("kind", ["cosine", "euclidean"])
def test_of_a_support_of_equal_rows_classes_have_the_probability_of_their_shots(kind):
    attention = matching.Attention(matching.Options(similarity=kind))
    support = torch.randn(1, 1, 5).expand(1, 6, 5)
    found = attention.logits(torch.randn(1, 4, 5), support, torch.tensor([[0, 2, 0, 1, 0, 1]]), 3)
    assert torch.allclose(found.exp(), torch.tensor([3, 2, 1]) / 6, atol=1e-6)


def test_bare_cosines_bound_the_probability_and_a_scale_frees_it():
    for ways, bound in ((5, 0.65), (20, 0.28)):
        support = torch.cat([torch.ones(1, 1, 1), -torch.ones(1, ways - 1, 1)], 1)
        labels, query = torch.arange(ways)[None], torch.ones(1, 1, 1)
        best = [
            float(matching.Attention(matching.Options(scale=scale)).logits(query, support, labels, ways)[0, 0, 0].exp())
            for scale in (1.0, None)
        ]
        assert best[0] == pytest.approx(bound, abs=0.01)
        assert best[1] > 0.999


@BOTH
@pytest.mark.parametrize("attention", ["support", "class"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_scale_of_100_gives_numbers_and_gradients(module, attention, precision):
    torch.manual_seed(0)
    model = module.make(module.Options(width=8, attention=attention, scale=100.0, relu=True), INPUTS)
    with make_fabric("cpu", precision).autocast():
        loss = model.meta_loss(to_torch(next(Stream(episodes.sample(WORLD, "train", SPEC), block=2)))).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert math.isfinite(float(loss.detach()))
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("attention", ["support", "class"])
def test_a_hopeless_query_has_a_finite_loss_and_a_gradient(attention):
    queries = torch.tensor([[[1.0, 0.0]]], requires_grad=True)
    support, labels = torch.tensor([[[1.0, 0.5], [-1.0, 0.1]]]), torch.tensor([[0, 1]])
    loss = -matching.Attention(matching.Options(scale=1e3, attention=attention)).logits(queries, support, labels, 2)[
        0, 0, 1
    ]
    loss.backward()
    assert 1800 < float(loss.detach()) < 2000, "the probability itself is 0 in float32"
    assert float(queries.grad.abs().max()) > 1


@BOTH
@pytest.mark.parametrize("attention", ["support", "class"])
@pytest.mark.parametrize("spec", [SPEC, UNEQUAL], ids=["2 shots", "3, 1 and 2 shots"])
def test_the_order_of_the_support_does_not_matter(module, attention, spec):
    model, episode = learner(module, attention=attention), block(spec)
    torch.manual_seed(3)
    turned = reordered(episode, torch.randperm(6))
    assert torch.allclose(logits_of(model, turned), logits_of(model, episode), atol=1e-9)
    assert torch.allclose(model.train().meta_loss(turned).loss, model.meta_loss(episode).loss), "nor in training"


def test_the_context_depends_on_the_order_of_reading_unless_the_lstm_is_zero():
    model, episode = learner(matching_fce), block()
    other = replace(episode, support=replace(episode.support, rows=episode.support.rows + 1000))
    assert not torch.allclose(logits_of(model, other), logits_of(model, episode), atol=1e-6)
    zero(model)
    assert torch.allclose(logits_of(model, other), logits_of(model, episode), atol=1e-9)


def zero(model):
    with torch.no_grad():
        for lstm in (model.support_context, model.query_context):
            for p in lstm.parameters():
                p.zero_()


@pytest.mark.parametrize("options", [{}, {"similarity": "euclidean"}, {"attention_steps": 1}], ids=str)
def test_with_lstms_of_zeros_full_context_is_the_basic_network(options):
    model = learner(matching_fce, **options)
    basic = learner(**{name: value for name, value in options.items() if name != "attention_steps"})
    basic.load_state_dict({name: v for name, v in model.state_dict().items() if "context" not in name})
    episode = block(UNEQUAL)
    assert not torch.allclose(logits_of(model, episode), logits_of(basic, episode), atol=1e-4)
    zero(model)
    assert torch.allclose(logits_of(model, episode), logits_of(basic, episode), atol=1e-9)


def lstm_step(weights, suffix, inputs, state, cell):
    """One step for one row, gate by gate (input, forget, cell, output, as torch has them)."""
    w, u, b, d = (weights[f"{name}{suffix}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    i, f, g, o = (w @ inputs + b + u @ state + d).chunk(4)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


@pytest.mark.parametrize("steps", [1, 3])
def test_full_context_is_that_of_the_slow_twin(steps):
    model, episode = learner(matching_fce, attention_steps=steps), block(UNEQUAL)
    found = logits_of(model, episode)
    biread, attended = (
        dict(model.support_context.lstm.named_parameters()),
        dict(model.query_context.cell.named_parameters()),
    )
    zeros = torch.zeros(8).double()
    for b in range(2):
        plain = model.embedding.backbone(episode.support.fields["image"][b])
        order, context = slow_order(episode.support.rows[b].tolist()), plain.clone()
        for suffix, sequence in (("_l0", order), ("_l0_reverse", order[::-1])):
            state, cell = zeros, zeros
            for i in sequence:
                state, cell = lstm_step(biread, suffix, plain[i], state, cell)
                context[i] = context[i] + state
        queries = []
        for query in model.embedding.backbone(episode.query.fields["image"][b]):
            state, cell, read = zeros, zeros, context.mean(0)
            for _ in range(steps):
                state, cell = lstm_step(attended, "", torch.cat([query, read]), state, cell)
                state = state + query
                shares = torch.stack([state @ row for row in context]).softmax(0)
                read = sum(share * row for share, row in zip(shares, context, strict=True))
            queries.append(state)
        expected = slow(model.attention.options, queries, context, episode.support.labels[b].tolist(), 3)
        assert torch.allclose(found[b].exp(), expected, atol=1e-8)


def slow_mixed(word):
    """SplitMix64's output function in Python's whole numbers, as an unsigned 64-bit word."""
    word %= 2**64
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
    return word ^ (word >> 31)


def signed(word):
    return word - 2**64 if word >= 2**63 else word


def slow_order(rows):
    hashes = [slow_mixed(row) for row in rows]
    salt = slow_mixed(sum(hashes))
    return sorted(range(len(rows)), key=lambda i: (signed(slow_mixed(hashes[i] ^ salt)), i))


@given(rows=st.lists(st.integers(0, 2**40), min_size=1, max_size=12))
def test_the_order_of_reading_is_that_of_the_slow_twin(rows):
    assert sequences.support_order(torch.tensor([rows, rows])).tolist() == [slow_order(rows)] * 2


def test_words_are_mixed_as_splitmix64_does():
    golden = 0x9E3779B97F4A7C15  # the published generator adds it to its seed, here 0, before each output
    outputs = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [slow_mixed(golden * n) for n in (1, 2, 3)] == outputs
    words = torch.tensor([signed(golden * n % 2**64) for n in (1, 2, 3)])
    assert sequences.mixed(words).tolist() == [signed(word) for word in outputs]


def test_every_place_of_the_order_is_as_likely_for_every_row():
    """Else the LSTM could tell rows apart by where they are read, and so, with a fixed order, labels."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.stack([torch.randperm(400, generator=generator)[:5] for _ in range(4000)])
    rows[:, 0] = 7  # the row watched; the others are another set in each episode
    places = sequences.support_order(rows).eq(0).int().argmax(1).bincount(minlength=5)
    assert float(((places - 800) ** 2 / 800).sum()) < 18.5, "chi-square of 4 degrees, p = 0.001"


@BOTH
@pytest.mark.parametrize("attention", ["support", "class"])
def test_renaming_labels_renames_the_logits(module, attention):
    model, episode = learner(module, attention=attention), block(UNEQUAL)
    renamed = replace(episode.support, labels=(episode.support.labels + 1) % 3)
    turned = model.adapt(replace(task_of(episode), support=renamed))(episode.query.fields)
    assert torch.allclose(turned, logits_of(model, episode).roll(1, dims=-1), atol=1e-9)


@BOTH
def test_episodes_together_are_what_they_are_one_by_one(module):
    for training in (False, True):
        model, episode = learner(module, backbone="conv4", width=4).train(training), block(UNEQUAL, size=3)
        ones = [single(episode, b) for b in range(3)]
        assert torch.allclose(
            logits_of(model.eval(), episode), torch.cat([logits_of(model, one) for one in ones]), atol=1e-9
        )
        model.train(training)
        together, alone = model.meta_loss(episode), [model.meta_loss(one) for one in ones]
        assert torch.allclose(together.loss, torch.stack([one.loss for one in alone]).mean())
        assert together.values["accuracy"] == pytest.approx(sum(one.values["accuracy"] for one in alone) / 3)


@BOTH
def test_queries_do_not_see_each_other(module):
    model, episode = learner(module), block()
    alone = adapted(model, episode)({"image": episode.query.fields["image"][:, 5:6]})
    assert torch.allclose(alone[:, 0], logits_of(model, episode)[:, 5], atol=1e-9)
    assert not model.transductive


@BOTH
@pytest.mark.parametrize("attention", ["support", "class"])
def test_the_gradient_reaches_everything_and_both_sides(module, attention):
    model, episode = learner(module, backbone="conv4", learn_scale=True, attention=attention).train(), block()
    model.meta_loss(episode).loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        if not (name.endswith("0.bias") and "blocks" in name):  # a bias before batch norm has no effect
            assert float(p.grad.abs().max()) > 1e-9, name

    images = {part: getattr(episode, part).fields["image"].requires_grad_() for part in ("support", "query")}
    predicted = adapted(model.eval(), episode)({"image": images["query"]})
    nn.functional.cross_entropy(predicted[0], episode.query.labels[0]).backward()
    assert all(float(values.grad[0].abs().max()) > 0 for values in images.values())
    assert all(float(values.grad[1].abs().max()) == 0 for values in images.values()), "episodes do not see each other"


@BOTH
def test_the_scale_begins_where_it_is_said_to_and_is_learned_if_asked(module):
    for options, first in (({}, 30), ({"similarity": "euclidean"}, 1), ({"scale": 25.0}, 25)):
        for learned in (False, True):
            model = learner(module, learn_scale=learned, **options)
            assert float(model.attention.log_scale.detach().exp()) == pytest.approx(first)
            assert ("attention.log_scale" in dict(model.named_parameters())) == learned
            assert "attention.log_scale" in model.state_dict()
            values = model.train().meta_loss(block()).values
            assert values.get("scale") == (pytest.approx(first) if learned else None)


def test_the_lstms_have_the_weights_of_the_dossier():
    for features, read, attended in ((64, 66_560, 49_664), (1600, 40_985_600, 30_732_800)):
        with torch.device("meta"):
            contexts = matching_fce.SupportContext(features), matching_fce.QueryContext(features, 3)
        assert [sum(p.numel() for p in context.parameters()) for context in contexts] == [read, attended]


@BOTH
def test_what_it_cannot_do_is_refused_by_name(module):
    model = learner(module)
    for spec, words in (
        (replace(SPEC, shots=0), "learns from the support; shots=0 must be 1 or more"),
        (replace(SPEC, queries=0), "queries=0 must be 1 or more"),
    ):
        with pytest.raises(SpecError, match=words):
            model.require(spec)
    model.require(UNEQUAL)
    for scale in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="scale: expected a number above 0, got"):
            module.Options(scale=scale)
    with pytest.raises(ConfigError, match="relu: distances are never below 0"):
        module.Options(relu=True, similarity="euclidean")
    with pytest.raises(ConfigError, match="no field 'picture'; it has image"):
        module.make(module.Options(image="picture"), INPUTS)
    with pytest.raises(ConfigError, match="attention_steps: expected 1 or more, got 0"):
        matching_fce.Options(attention_steps=0)
