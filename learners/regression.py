"""Regression: what methods share that predict a field of real values: options, network, descent, score, pictures.

A task is one function: episodes have one class, whose rows are points of it. The network is a perceptron, and its weights
may be those of each task, [B, ...]: every layer is then one batched matrix product. On one core a step of MAML with 25
tasks of 10 points takes 1.3 ms so, 2.6 ms by `torch.func.vmap`, and 15 ms in a loop over tasks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from episodes.episode import Episode, Fields, Part
from episodes.errors import ConfigError, SpecError
from episodes.protocols import FieldSpec
from episodes.spec import EpisodeSpec
from learners import functional
from learners.charts import Chart, Line
from learners.intervals import mean_and_interval
from learners.net import Weights
from learners.protocol import Inputs, MetaLoss, Predictor, Task, check_queries, require_support, task_of
from learners.scoring import Scoring

STANDARD = 0.01  # of the weights at the beginning: truncated normal, as in MAML's released code; biases begin at 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressionOptions:
    """The options of every method of regression; a method's ``Options`` extend them."""

    input: str = field(default="x", metadata={"help": "store field that holds the input"})
    target: str = field(default="y", metadata={"help": "store field that is predicted"})
    layers: int = field(default=2, metadata={"help": "hidden layers"})
    width: int = field(default=40, metadata={"help": "units of each"})

    def __post_init__(self) -> None:
        for name, least in (("layers", 0), ("width", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: expected {least} or more, got {getattr(self, name)}")
        if self.input == self.target:
            raise ConfigError(f"target: field '{self.target}' is the input, too; predict another")


class Perceptron(nn.Module):
    """Linear layers with ReLU between them, without norms.

    Args:
        sizes: of input, hidden layers and output.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.depth = len(sizes) - 1
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            weight = torch.empty(fan_in, fan_out)
            nn.init.trunc_normal_(weight, std=STANDARD, a=-2 * STANDARD, b=2 * STANDARD)
            self.register_parameter(f"weight{i}", nn.Parameter(weight))
            self.register_parameter(f"bias{i}", nn.Parameter(torch.zeros(fan_out)))

    def weights(self) -> dict[str, Tensor]:
        """The parameters by name."""
        return dict(self.named_parameters())

    def call(self, weights: Weights, rows: Tensor) -> Tensor:
        """Outputs [B, n, O] of rows [B, n, D] with these weights, which all tasks share, or of each task, [B, ...]."""
        for i in range(self.depth):
            bias, weight = weights[f"bias{i}"], weights[f"weight{i}"]
            rows = torch.baddbmm(bias.unsqueeze(1), rows, weight) if weight.ndim == 3 else rows @ weight + bias
            rows = rows.relu() if i < self.depth - 1 else rows
        return rows


def descended(
    net: Perceptron, rows: Tensor, targets: Tensor, rates: Sequence[float], *, first_order: bool = False
) -> list[Weights]:
    """Weights of each task, [B, ...], after 0, 1, ... T gradient steps on the mean squared error of its rows.

    The graph leads back to the network's parameters, unless gradients are off.

    Args:
        net: its parameters are where every task begins.
        rows: [B, n, D].
        targets: [B, n, O].
        rates: [T] of each step.
        first_order: take the gradients for constants.
    """
    constant = first_order or not torch.is_grad_enabled()
    found: list[Weights] = [{name: values.expand(len(rows), *values.shape) for name, values in net.weights().items()}]
    for rate in rates:
        now = found[-1]
        at = {name: values.detach().requires_grad_() for name, values in now.items()} if constant else dict(now)
        with torch.enable_grad():
            # Summed over tasks, for each has weights of its own: their gradients do not mix.
            loss = (net.call(at, rows) - targets).square().mean((1, 2)).sum()
            gradients = torch.autograd.grad(loss, list(at.values()), create_graph=not constant)
        found.append({name: now[name] - rate * gradient for name, gradient in zip(at, gradients, strict=True)})
    return found


def require_one_function(spec: EpisodeSpec) -> None:
    """Raise `SpecError` unless a task is one function."""
    if spec.ways.high > 1:
        raise SpecError(f"a task of regression is one function, a class of the store; ways={spec.ways} must be 1")


class Regressor(nn.Module, ABC):
    """What methods of regression share. Predictions are [B, Q, T + 1, O]: after each of T steps, the last one counts.

    Args:
        options: fields and network.
        inputs: what the learner is made for.
        extra: values beside the input that the network gets.

    Raises:
        ConfigError: the store has no such field.
    """

    transductive, batch_norm = False, "none"

    def __init__(self, options: RegressionOptions, inputs: Inputs, extra: int = 0) -> None:
        super().__init__()
        self.input, self.target = options.input, options.target
        sizes = [_size(inputs.fields, name, value) for name, value in (("input", self.input), ("target", self.target))]
        self.net = Perceptron([sizes[0] + extra, *[options.width] * options.layers, sizes[1]])

    @property
    def scoring(self) -> Scoring:
        """Mean squared error, and what it is after the first steps."""
        return Scoring(metric="mse", scores=self._scores, lower_is_better=True)

    def require(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless a task is one function, with points to learn it from and others to score."""
        require_one_function(spec)
        require_support("regression", spec)

    def rows(self, fields: Fields[Tensor]) -> Tensor:
        """The input of a part, [B, n, D] float."""
        return functional.vectors(fields[self.input])

    def targets(self, fields: Fields[Tensor]) -> Tensor:
        """What is predicted, [B, n, O] float."""
        return functional.vectors(fields[self.target])

    @abstractmethod
    def adapt(self, task: Task) -> Predictor:
        """Learn the function; each method its own way."""

    def meta_loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Mean squared error of the queries, once the function is learned."""
        check_queries(episode.query.labels)
        predictions = self.adapt(task_of(episode))(episode.query.fields)
        return MetaLoss(loss=(predictions[:, :, -1] - self.targets(episode.query.fields)).square().mean())

    def predictor(self, after: Sequence[Weights]) -> Predictor:
        """Predictions by the weights of each task [B, ...] after each step."""

        def predict(fields: Fields[Tensor]) -> Tensor:
            rows = self.rows(fields)
            return torch.stack([self.net.call(weights, rows) for weights in after], dim=2)

        return predict

    def errors(self, predictions: Tensor, queries: Part[Tensor]) -> Tensor:
        """Squared error of each query after each step, [B, Q, T + 1], mean over the values of the target."""
        return (predictions - self.targets(queries.fields).unsqueeze(2)).square().mean(-1)

    def _scores(self, predictions: Tensor, queries: Part[Tensor]) -> Mapping[str, Tensor]:
        after = self.errors(predictions, queries).unbind(-1)
        early = {f"mse {_after(step)}": after[step] for step in (0, 1) if step < len(after) - 1}
        return {"mse": after[-1], **early}

    def charts(self, episodes: Iterable[Episode[Tensor]]) -> list[Chart]:
        """Error by steps, and, where input and target are single numbers, the curves of the first function."""
        found: list[NDArray[np.float64]] = []
        curves: list[Chart] = []
        for episode in episodes:
            predictions = self.adapt(task_of(episode))(episode.query.fields)
            if not found:
                curves = self._curves(episode, predictions)
            found.append(self.errors(predictions, episode.query).mean(1).double().cpu().numpy())
        errors = np.concatenate(found)
        return [*([_by_steps(errors)] if errors.shape[1] > 1 else []), *curves]

    def _curves(self, episode: Episode[Tensor], predictions: Tensor) -> list[Chart]:
        """The first of the episodes, at its queries in order of their x."""
        x, y = self.rows(episode.query.fields)[0], self.targets(episode.query.fields)[0]
        if x.shape[1] != 1 or y.shape[1] != 1:
            return []
        order = x[:, 0].argsort()
        at, last = x[order, 0].cpu().numpy(), predictions.shape[2] - 1
        support = [of(episode.support.fields)[0, :, 0].cpu().numpy() for of in (self.rows, self.targets)]
        lines = {"truth": Line(x=at, y=y[order, 0].cpu().numpy())}
        for step in sorted({0, min(1, last), last}):
            lines[_after(step)] = Line(x=at, y=predictions[0, order, step, 0].cpu().numpy())
        lines["support"] = Line(x=support[0], y=support[1], points=True)
        caption = f"The function of episode {episode.index}, at its {len(at)} queries; dots: what it was learned from."
        return [Chart(title="One function", x=self.input, y=self.target, lines=lines, caption=caption)]


def _by_steps(errors: NDArray[np.float64]) -> Chart:
    """Of [E, T + 1]."""
    means, halves = (np.array(values) for values in zip(*(mean_and_interval(one) for one in errors.T), strict=True))
    line = Line(x=np.arange(errors.shape[1], dtype=np.float64), y=means, low=means - halves, high=means + halves)
    caption = f"Mean over the queries of {len(errors):,} functions; the band is the 95 % interval over functions."
    return Chart(title="Error by gradient steps", x="gradient steps", y="mse", lines={"mse": line}, caption=caption)


def _after(step: int) -> str:
    return f"after {step} step" + ("" if step == 1 else "s")


def _size(fields: Mapping[str, FieldSpec], option: str, name: str) -> int:
    """Values of a field of one row."""
    if name not in fields:
        raise ConfigError(f"{option}: the store has no field '{name}'; it has {', '.join(sorted(fields))}")
    return math.prod(fields[name].shape)
