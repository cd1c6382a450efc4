"""MANN: the invariants of its memory, labels that come a step late, strings as labels, and a task that it learns."""

import json
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import episodes
from episodes.adapters.pytorch import to_torch
from episodes.errors import ConfigError, SpecError
from episodes.protocols import FieldSpec
from episodes.stream.stream import Stream
from learners.memory import LeastRecentlyUsed
from learners.methods import mann
from learners.protocol import Inputs, adapted, single, task_of
from learners.report import evaluate
from learners.sequences import support_order
from learners.testing import separable_world

WORLD = separable_world()
SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=4)
INPUTS = Inputs(fields=WORLD.fields)


def learner(**options):
    torch.manual_seed(0)
    small = {"max_ways": 3, "units": 16, "slots": 12, "values": 6, "heads": 2}
    return mann.make(mann.Options(**small | options), INPUTS)


def block(size=3):
    return to_torch(next(Stream(episodes.sample(WORLD, "train", SPEC), block=size)))


def memory(gate=None, **sizes):
    torch.manual_seed(0)
    cell = LeastRecentlyUsed(5, **{"units": 8, "slots": 16, "values": 4, "heads": 3} | sizes).double()
    if gate is not None:
        torch.nn.init.zeros_(cell.gate.weight)
        torch.nn.init.constant_(cell.gate.bias, gate)
    return cell


def states(cell, steps, num=2):
    torch.manual_seed(1)
    inputs = torch.randn(steps, num, 5).double()
    found = [cell.begin(num, inputs)]
    for values in inputs:
        found.append(cell(values, found[-1])[1])
    return found


def test_weights_keep_their_sums():
    cell = memory()
    for before, after in zip(*[states(cell, 9)[i:] for i in (0, 1)], strict=False):
        assert torch.allclose(after.read_weights.sum(-1), torch.ones(2, 3).double())
        # Three heads that read and three that write add one each to what is left of the usage before.
        assert torch.allclose(after.usage.sum(-1), 0.95 * before.usage.sum(-1) + 6)
        assert (after.read_weights >= 0).all()
        assert (after.usage >= 0).all()


def twin(cell, values, state):
    """A step as the paper writes it, with the layers one by one."""
    heads, seen = (len(values), cell.heads, -1), torch.cat([values, state.read.flatten(1)], dim=-1)
    hidden, after = cell.controller(seen, (state.hidden, state.cell))
    keys, added = torch.tanh(cell.key(hidden)).view(heads), torch.tanh(cell.add(hidden)).view(heads)
    least = state.usage.argsort(dim=-1, stable=True)[:, : cell.heads]
    unused, gate = torch.nn.functional.one_hot(least, cell.slots).double(), torch.sigmoid(cell.gate(hidden)).unsqueeze(-1)
    write = gate * state.read_weights + (1 - gate) * unused
    memory = state.memory.clone()
    for b, slot in enumerate(least[:, 0]):
        memory[b, slot] = 0.0
    memory = memory + torch.einsum("brn,brm->bnm", write, added)
    size = torch.einsum("brm,brm->br", keys, keys)[..., None] * torch.einsum("bnm,bnm->bn", memory, memory)[:, None]
    weights = (torch.einsum("brm,bnm->brn", keys, memory) / torch.sqrt(size + 1e-6)).softmax(-1)
    read, usage = torch.einsum("brn,bnm->brm", weights, memory), 0.95 * state.usage + (weights + write).sum(1)
    return type(state)(hidden=hidden, cell=after, memory=memory, read=read, read_weights=weights, usage=usage)


def test_a_sequence_is_its_steps_and_their_gradients_too():
    cell = memory()
    for bias in (cell.controller.bias_ih, cell.key.bias, cell.add.bias, cell.gate.bias):
        torch.nn.init.normal_(bias)
    inputs = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    outputs, last = cell.read(inputs, cell.begin(2, inputs))
    slopes = torch.autograd.grad(outputs.pow(2).sum() + last.memory.sum(), list(cell.parameters()))
    state, found = cell.begin(2, inputs), []
    for values in inputs.unbind(1):
        state = twin(cell, values, state)
        found.append(torch.cat([state.hidden, state.read.flatten(1)], dim=-1))
    assert torch.allclose(outputs, torch.stack(found, dim=1))
    for name in last.__slots__:
        assert torch.allclose(getattr(last, name), getattr(state, name)), name
    expected = torch.autograd.grad(torch.stack(found).pow(2).sum() + state.memory.sum(), list(cell.parameters()))
    for one, other in zip(slopes, expected, strict=True):
        assert torch.allclose(one, other)
    step, _ = cell(inputs[:, 0], cell.begin(2, inputs))
    assert torch.allclose(step, outputs[:, 0])


def test_usage_tends_to_its_limit():
    assert states(memory(slots=128, heads=4), 300)[-1].usage.sum(-1).tolist() == pytest.approx([2 * 4 / 0.05] * 2, rel=1e-5)


def test_with_the_gate_shut_the_first_writes_are_into_different_slots():
    seen = states(memory(gate=-50.0), 5)
    for step, state in enumerate(seen[1:], 1):
        assert ((state.memory.abs() > 1e-3).any(-1).sum(-1) == 3 * step).all(), "three heads wrote into unused slots"


def test_with_the_gate_open_what_was_read_last_is_written_to():
    cell = memory(gate=50.0)
    torch.nn.init.zeros_(cell.key.weight)
    torch.nn.init.zeros_(cell.key.bias)
    *_, before, after = states(cell, 4)
    least = before.usage.argsort(dim=-1, stable=True)[:, 0]
    for b in range(2):
        kept = before.memory[b].clone()
        kept[least[b]] = 0
        written = (after.memory[b] - kept).abs().sum(-1) > 1e-9
        assert torch.equal(written, (before.read_weights[b] > 0).any(0))


def test_nothing_added_leaves_memory_as_it_was_but_for_the_erased_slot():
    cell = memory()
    for parameter in cell.add.parameters():
        torch.nn.init.zeros_(parameter)
    before, after = states(cell, 1)
    changed = (after.memory != before.memory).any(-1)
    least = before.usage.argsort(dim=-1, stable=True)[:, 0]
    assert torch.equal(changed, torch.nn.functional.one_hot(least, 16).bool())
    assert torch.isfinite(after.read).all(), "slots of zeros have a cosine"


def test_every_parameter_gets_a_gradient():
    model = learner()
    model.meta_loss(block()).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_label_is_shown_a_step_after_its_row_and_to_no_earlier_answer():
    model = learner().double()
    features, shown = torch.randn(1, 6, 256).double(), torch.zeros(1, 6, 3).double()
    before, _ = model.read(features, shown)
    for position in range(6):
        changed = shown.clone()
        changed[0, position, 1] = 1
        after, _ = model.read(features, changed)
        same = (after == before).all(-1)[0].tolist()
        assert same[: position + 1] == [True] * (position + 1), "its own answer, too, does not see it"
        assert not any(same[position + 1 :])


def test_queries_are_asked_after_the_support_and_apart_from_each_other():
    model, episode = learner().eval(), block()
    with torch.no_grad():
        logits = adapted(model, episode)(episode.query.fields)
        last = {"image": episode.query.fields["image"][:, -1:]}
        assert torch.allclose(adapted(model, episode)(last)[:, 0], logits[:, -1], atol=1e-5)
        order = torch.randperm(6)
        support = replace(
            episode.support,
            fields={"image": episode.support.fields["image"][:, order]},
            labels=episode.support.labels[:, order],
            rows=episode.support.rows[:, order],
        )
        turned = model.adapt(replace(task_of(episode), support=support))(episode.query.fields)
        assert torch.allclose(turned, logits, atol=1e-5)
        one = single(episode, 1)
        assert torch.allclose(adapted(model, one)(one.query.fields)[0], logits[1], atol=1e-5)


def test_instances_are_counted_within_their_class():
    assert mann.instances(torch.tensor([[0, 1, 0, 0, 2, 1]]), 3).tolist() == [[1, 1, 2, 3, 1, 2]]
    assert mann.instances(torch.tensor([[-1, 0, -1, 0, 1]]), 2).tolist() == [[0, 1, 0, 2, 1]], "a row of no class has none"


def walked(model, episode):
    """{instance: [right or not]} of one episode, row by row, and the accuracy of each instance."""
    rows = episode.support.rows.tolist() + episode.query.rows.tolist()
    labels = episode.support.labels.tolist() + episode.query.labels.tolist()
    images = np.concatenate([part.fields["image"] for part in (episode.support, episode.query)])
    codes = model.codes(torch.tensor([rows]), len(episode.class_ids))[0]
    order = support_order(torch.tensor([rows]))[0].tolist()
    state, shown, seen, right = model.memory.begin(1, codes), torch.zeros(model.width), {}, {}
    for place in order:
        pixels = torch.from_numpy(images[place]).flatten().float() / 255
        output, state = model.memory(torch.cat([pixels, shown])[None], state)
        label = labels[place]
        shown = codes[label] if label >= 0 else torch.zeros(model.width)
        if label >= 0:
            seen[label] = seen.get(label, 0) + 1
            guess = int(model.scores(model.head(output)[None], codes[None]).argmax())
            right.setdefault(seen[label], []).append(guess == label)
    return {k: sum(each) / len(each) for k, each in right.items()}


UNEVEN = episodes.EpisodeSpec(ways="2..3", shots="1..4 per class", queries=3, distractors=1, distractor_queries=2)


@pytest.mark.parametrize("labels", ["onehot", "strings"])
@pytest.mark.parametrize("spec", [SPEC, UNEVEN], ids=["even", "uneven"])
def test_accuracy_by_instance_is_that_of_a_walk_along_the_sequence(spec, labels):
    model, series = learner(labels=labels), episodes.sample(WORLD, "test", spec, length=12)
    report = evaluate(model, series, method="mann")
    (chart,) = report.charts
    with torch.no_grad():
        each = [walked(model.eval(), series[i]) for i in range(12)]
    most = max(max(one) for one in each)
    line = chart.lines["rows"]
    assert line.x.tolist() == list(range(1, most + 1))
    assert most == (6 if spec is SPEC else 7)
    for k in range(1, most + 1):
        values = [one[k] for one in each if k in one]
        half = 1.96 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan
        assert line.y[k - 1] == pytest.approx(sum(values) / len(values))
        assert line.high[k - 1] - line.y[k - 1] == pytest.approx(half, nan_ok=True)
        assert line.y[k - 1] - line.low[k - 1] == pytest.approx(half, nan_ok=True)
    json.dumps(report.to_table(), allow_nan=False)


def test_training_logs_the_same_instances_of_every_episode():
    model = learner().eval()
    for index in range(5):
        episode = to_torch(episodes.sample(WORLD, "test", UNEVEN)[index])
        outputs, codes, labels = model._sequence(episode)
        guesses, seen, right = model.scores(outputs, codes)[0].argmax(-1).tolist(), {}, []
        for label, guess in zip(labels[0].tolist(), guesses, strict=True):
            if label >= 0:
                seen.setdefault(label, []).append(guess == label)
                right.append(guess == label)
        wanted = {
            f"instance{k}": statistics.mean(own[min(k, len(own)) - 1] for own in seen.values()) for k in (1, 2, 5, 10)
        }
        assert model.meta_loss(episode).values == pytest.approx({"accuracy": statistics.mean(right), **wanted})


def test_no_more_than_ten_instances_are_charted():
    spec = episodes.EpisodeSpec(ways=2, shots=8, queries=5)
    (chart,) = evaluate(learner(), episodes.sample(WORLD, "test", spec, length=2), method="mann").charts
    assert chart.lines["rows"].x.tolist() == list(range(1, 11))
    assert "of 2 episodes" in chart.caption


@settings(max_examples=50, deadline=None)
@given(ways=st.integers(1, 120), row=st.integers(0, 2**40))
def test_strings_are_different_letters_for_different_labels(ways, row):
    model = learner(labels="strings")
    codes = model.codes(torch.tensor([[row, row + 1], [row + 5, row + 9]]), ways)
    assert codes.shape == (2, ways, 25)
    assert (codes.view(2, ways, 5, 5).sum(-1) == 1).all()
    assert len({tuple(code) for code in codes[0].tolist()}) == ways


def test_strings_score_by_the_sum_of_their_letters():
    model = learner(labels="strings")
    outputs, codes = torch.randn(1, 4, 25), model.codes(torch.arange(6)[None], 7)
    letters = codes[0].view(7, 5, 5).argmax(-1)
    scores = model.scores(outputs, codes)
    for n in range(4):
        chances = outputs[0, n].view(5, 5).log_softmax(-1)
        for w in range(7):
            assert float(scores[0, n, w]) == pytest.approx(
                float(sum(chances[i, letters[w, i]] for i in range(5))), abs=1e-5
            )
    labels = torch.tensor([[3, 0, 6, 2]])
    expected = -sum(float(scores[0, n, labels[0, n]]) for n in range(4)) / 4
    assert float(model.loss(outputs, codes, labels)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("labels", ["onehot", "strings"])
def test_the_state_makes_a_round_trip_and_the_loss_has_its_values(labels):
    model, episode = learner(labels=labels), block()
    result = model.meta_loss(episode)
    assert set(result.values) == {"accuracy", "instance1", "instance2", "instance5", "instance10"}
    assert result.loss.isfinite()
    twin = learner(labels=labels)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(
        adapted(twin.eval(), episode)(episode.query.fields), adapted(model.eval(), episode)(episode.query.fields)
    )


def test_it_learns_to_bind_a_row_to_its_label():
    """Two classes whose rows are two vectors, others in each sequence: only the labels before tell which is which."""
    torch.manual_seed(0)
    vectors = Inputs(fields={"v": FieldSpec("float32", (16,))})
    model = mann.make(mann.Options(max_ways=2, units=32, slots=8, values=16, heads=1, image="v"), vectors)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def answered(num):
        labels = torch.stack([torch.randperm(4) % 2 for _ in range(num)])
        rows = torch.randn(num, 2, 16).take_along_dim(labels.unsqueeze(-1), 1)
        codes = model.codes(labels, 2)
        outputs, _ = model.read(rows, mann._labelled(codes, labels))
        return model.head(outputs), codes, labels

    for _ in range(400):
        optimizer.zero_grad()
        model.loss(*answered(32)).backward()
        optimizer.step()
    with torch.no_grad():
        outputs, _, labels = answered(500)
    right, which = (outputs.argmax(-1) == labels).float(), mann.instances(labels, 2)
    assert float(right[which == 2].mean()) > 0.85
    assert float(right[:, 0].mean()) < 0.6, "the first row of all can only be guessed"


@pytest.mark.parametrize("labels", ["onehot", "strings"])
def test_it_trains_in_mixed_precision(labels):
    model, episode = learner(labels=labels), block(2)
    whole = float(model.meta_loss(episode).loss.detach())
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.meta_loss(episode).loss
    loss.backward()
    assert float(loss.detach()) == pytest.approx(whole, rel=0.05)


def test_what_it_cannot_do_is_refused_by_name():
    with pytest.raises(SpecError, match="mann is scored by its queries; queries=0 must be 1 or more"):
        learner().require(replace(SPEC, queries=0))
    learner().require_training(replace(SPEC, queries=0))
    with pytest.raises(SpecError, match="mann has 3 labels; ways=4 are more"):
        learner().require(replace(SPEC, ways=4))
    learner(labels="strings").require(replace(SPEC, ways=4))
    learner().require(episodes.EpisodeSpec(ways="variable", shots="variable", queries="variable"))
    episode = to_torch(episodes.sample(WORLD, "test", replace(SPEC, ways=4))[0])
    with pytest.raises(SpecError, match="mann has 3 labels; the 4 classes of an episode are more .give --max-ways"):
        adapted(learner(), episode)
    with pytest.raises(ConfigError, match="heads, usage_decay: expected at most slots=2"):
        mann.Options(slots=2)
