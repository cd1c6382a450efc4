"""Meta-Learner LSTM: the update rule of the learner's weights is an LSTM cell, shared by all of them.

Ravi, Larochelle 2017, "Optimization as a model for few-shot learning": with the weights w as its state, the cell's update
``w <- sigmoid(f) w - sigmoid(i) g`` is gradient descent with a rate and a decay of each weight's own. The gates f and i
come from the gradient g, the loss, the weight and the gate before; the first w is learned, too. An LSTM of 20 units reads
loss and gradient, each as ``(log|x| / 10, sign x)``, or ``(-1, e^10 x)`` where it is tiny. The gates see its output, w and
their own value before the sigmoid. As in the released code g is the gradient of the mean loss divided once more by the
number of rows, and gates begin at a decay of 0.99 and a rate of 0.01.

Neither g nor the loss carries a gradient to the outer loop (--second-order lets them). --inner-steps updates are made with
the whole support: 12 for one shot, 5 for five in the paper, 8 in its code.

The report shows both gates over the updates, layer by layer, as in figure 2.

Queries are normalised with the statistics of the support under the last weights, in training as in evaluation. (So does the
released code in evaluation, by running statistics reset at each episode; it trains with those of the queries.) Batch norm
adds 1e-5 to variances, as everywhere here, where the released code adds 1e-3.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from episodes.episode import Episode
from episodes.errors import ConfigError
from learners.charts import Chart, Float, Line
from learners.fast import FastLearner, FastOptions
from learners.net import Weights, gradient, mean_loss
from learners.protocol import Inputs, MetaLoss, Predictor, Task, classified, task_of

P = 10.0  # of `preprocessed`
UNITS = 20
SHOWN, COORDINATES = 50, 2000  # episodes whose gates are charted, and weights of a layer that its band is made of
Gates = list[tuple[Tensor, Tensor]]
"""Forget and input gate at each update, [M] both."""
GATES = (("Forget gate", "part of a weight that is kept"), ("Input gate", "rate of the gradient"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(FastOptions):
    """What distinguishes one from another."""

    width: int = field(default=32, metadata={"help": "channels of the backbone's first block"})
    inner_steps: int = field(default=12, metadata={"help": "updates with the support"})
    second_order: bool = field(default=False, metadata={"help": "let gradients and losses carry gradients"})

    def __post_init__(self) -> None:
        FastOptions.__post_init__(self)
        if self.inner_steps < 0:
            raise ConfigError(f"inner_steps: expected 0 or more, got {self.inner_steps}")


class UpdateRule(nn.Module):
    """One update of M weights, of one task or of several, [..., M]; the coordinates are the batch. 2,046 parameters.

    They are the last axis everywhere, so that each of the twenty units is one piece of memory: 0.75 of the time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(4 + UNITS, 4 * UNITS)  # an LSTM's four gates, with one bias
        self.forget, self.input = nn.Linear(UNITS + 2, 1), nn.Linear(UNITS + 2, 1)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.01, 0.01)
        nn.init.uniform_(self.forget.bias, 4, 5)
        nn.init.uniform_(self.input.bias, -5, -4)

    def begin(self, weights: Tensor) -> tuple[Tensor, ...]:
        """The state before the first update of weights [..., M]: h and c [20, ..., M], both gates [2, ..., M]."""
        units = weights.new_zeros(UNITS, *weights.shape)
        return units, units, weights.new_zeros(2, *weights.shape)

    def forward(
        self, weights: Tensor, slope: Tensor, loss: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Weights [..., M] after an update, and the state; its gates are before the sigmoid. The loss is [...]."""
        h, c, gates = state
        of_loss = preprocessed(loss).unsqueeze(-1).expand(2, *weights.shape)
        seen = torch.cat([of_loss, preprocessed(slope), h]).flatten(1)
        read = torch.addmm(self.read.bias.unsqueeze(1), self.read.weight, seen).view(4 * UNITS, *weights.shape)
        opened, candidate = torch.split(read, [3 * UNITS, UNITS])  # not sliced: that gradient fills with zeros
        i, f, o = torch.sigmoid(opened).chunk(3)
        c = torch.addcmul(f * c, i, torch.tanh(candidate))
        h = o * torch.tanh(c)
        matrix = torch.cat([self.forget.weight, self.input.weight])
        bias = torch.cat([self.forget.bias, self.input.bias])
        of_weight, of_gate = (column.view(2, *(1 for _ in weights.shape)) for column in matrix[:, UNITS:].unbind(1))
        shown = torch.addmm(bias.unsqueeze(1), matrix[:, :UNITS], h.flatten(1)).view(2, *weights.shape)
        gates = torch.addcmul(torch.addcmul(shown, of_weight, weights), of_gate, gates)
        forget, rate = torch.sigmoid(gates)
        return forget * weights - rate * slope, (h, c, gates)


def preprocessed(values: Tensor) -> Tensor:
    """[...] -> [2, ...]: ``(log|x| / p, sign x)`` where |x| is e^-p or more, else ``(-1, e^p x)``; p = 10.

    Source: Andrychowicz et al. 2016, appendix A. Written without a branch, with the same values.
    """
    size = torch.log(values.abs() + 1e-30) / P
    return torch.stack([size.clamp(min=-1), (values * torch.e**P).clamp(-1, 1)])


class MetaLSTM(FastLearner):
    """See the module's docstring."""

    def __init__(self, options: Options, inputs: Inputs) -> None:
        super().__init__(options, inputs)
        self.options = options
        self.rule = UpdateRule()

    def adapt(self, task: Task) -> Predictor:
        """Update the weights on the support; the predictor gives logits [B, Q, W]."""
        self.require_outputs(task.ways)
        support, ways = self.rows(task.support.fields), task.ways

        def update(rows: Tensor, labels: Tensor) -> Weights:
            return self.updated(rows, labels, ways)[0]

        weights: Weights = self.over_tasks(update, support, task.support.labels)
        return self.predictor(weights, support, ways)

    def meta_loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Mean cross-entropy of the queries under the last weights."""
        return classified(self.adapt(task_of(episode))(episode.query.fields), episode.query.labels)

    def updated(self, rows: Tensor, labels: Tensor, ways: int) -> tuple[Weights, Gates]:
        """Weights after the updates on a support [n, ...], and what the two gates [M] were at each; or on those of B tasks,
        with an axis in front of all."""
        start = self.net.weights()

        def loss(at: Weights) -> Tensor:
            return mean_loss(self.net.call(cut(at["flat"], start), rows)[..., :ways], labels)

        flat = torch.cat([values.flatten() for values in start.values()]).expand(*labels.shape[:-1], -1)
        state, gates = self.rule.begin(flat), []
        attached = self.options.second_order and torch.is_grad_enabled()
        for _ in range(self.options.inner_steps):
            slopes, value = gradient(loss, {"flat": flat}, attached=attached)
            flat, state = self.rule(flat, slopes["flat"] / labels.shape[-1], value, state)
            forget, rate = torch.sigmoid(state[2])
            gates.append((forget, rate))
        return cut(flat, start), gates

    def charts(self, episodes: Iterable[Episode[Tensor]]) -> list[Chart]:
        """Both gates of each layer over the updates of the first 50 episodes: the paper's figure 2."""
        if not self.options.inner_steps:
            return []
        places = coordinates(self.net.weights())
        seen = [_of_layers(gates, places) for gates in itertools.islice(self._gates(episodes), SHOWN)]
        caption = (
            f"Mean over the weights of a layer and the first {len(seen)} episodes, with the 10th and the 90th percentile; "
            f"of layers of more than {COORDINATES:,} weights the percentiles are those of evenly spaced ones."
        )
        steps, charts = np.arange(1.0, self.options.inner_steps + 1), []
        for gate, (title, y) in enumerate(GATES):
            lines = {}
            for layer in places:
                mean = np.mean([one[layer][0][:, gate] for one in seen], axis=0)
                some = np.concatenate([one[layer][1][:, gate] for one in seen], axis=-1)
                low, high = np.quantile(some, (0.1, 0.9), axis=-1)
                lines[layer] = Line(x=steps, y=mean, low=low, high=high)
            charts.append(Chart(title=title, x="update", y=y, lines=lines, caption=caption))
        return charts

    def _gates(self, episodes: Iterable[Episode[Tensor]]) -> Iterator[Gates]:
        """Of each episode, both gates of every weight at each update."""
        for episode in episodes:
            ways = episode.class_ids.shape[1]
            for rows, labels in zip(self.rows(episode.support.fields), episode.support.labels, strict=True):
                yield self.updated(rows, labels, ways)[1]


def coordinates(weights: Weights) -> dict[str, Tensor]:
    """Layer -> the places of its parameters in the flat vector; a layer is ``blocks.0``, ``blocks.1``, ..., ``head``."""
    places: dict[str, list[int]] = {}
    begin = 0
    for name, values in weights.items():
        places.setdefault(_layer(name), []).extend(range(begin, begin + values.numel()))
        begin += values.numel()
    return {layer: torch.tensor(its, device=values.device) for layer, its in places.items()}


def _layer(name: str) -> str:
    """Where a parameter is: its path as far as the first number, or without one the module's name."""
    path = name.removeprefix("backbone.").split(".")
    numbers = [i for i, part in enumerate(path) if part.isdigit()]
    return ".".join(path[: numbers[0] + 1] if numbers else path[:1])


def _of_layers(gates: Gates, places: Mapping[str, Tensor]) -> dict[str, tuple[Float, Float]]:
    """For each layer the mean of its gates, [steps, 2], and the gates of some of its weights, [steps, 2, n]."""
    found = {}
    for layer, at in places.items():
        its = torch.stack([torch.stack([gate[at] for gate in pair]) for pair in gates])
        some = its[..., :: -(-len(at) // COORDINATES)]
        found[layer] = its.mean(-1, dtype=torch.float64).cpu().numpy(), some.double().cpu().numpy()
    return found


def cut(flat: Tensor, like: Weights) -> Weights:
    """The pieces of a vector [..., M], in the order and the shapes of `like`."""
    pieces = torch.split(flat, [values.numel() for values in like.values()], dim=-1)
    shapes = ((*flat.shape[:-1], *values.shape) for values in like.values())
    return {name: piece.reshape(shape) for name, piece, shape in zip(like, pieces, shapes, strict=True)}


def make(options: Options, inputs: Inputs) -> MetaLSTM:
    """A Meta-Learner LSTM for these inputs.

    Raises:
        ConfigError: the store has no such field, or the backbone does not take its rows.
    """
    return MetaLSTM(options, inputs)
