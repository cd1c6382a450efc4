"""MAML as a loop over tasks in plain PyTorch, for `gradient.py` to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from episodes.episode import Episode

Step = Callable[[], Tensor]
WAYS = 5
SMALL, LARGE = (1, 28, 28), (3, 84, 84)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A size of step: 5-way 1-shot, three queries a class, as the recipe for Omniglot."""

    name: str
    shape: tuple[int, ...] = SMALL
    tasks: int = 16
    steps: int = 1
    first_order: bool = False
    batch_norm: str = "transductive"
    evaluation: bool = False
    ways: tuple[str, ...] = ("auto",)
    """How tasks are computed here: the values of --tasks."""

    @property
    def strided(self) -> bool:
        """Strided convolutions and a mean, as for Omniglot, or max-pooling."""
        return self.shape == SMALL


class Norm(nn.Module):
    """Batch norm by the statistics of a batch, which it can keep for the next one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.mode, self.kept = "own", (torch.zeros(()), torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        """[n, C, H, W]."""
        if self.mode == "given":
            mean, scale = self.kept
            return (values - mean) * (scale * self.weight[:, None, None]) + self.bias[:, None, None]
        if self.mode == "keep":
            mean = values.mean((0, 2, 3), keepdim=True)
            self.kept = mean, torch.rsqrt((values - mean).square().mean((0, 2, 3), keepdim=True) + 1e-5)
        return F.batch_norm(values, None, None, self.weight, self.bias, True)


class Mean(nn.Module):
    """[n, C, H, W] -> [n, C]."""

    def forward(self, values: Tensor) -> Tensor:
        """Over positions."""
        return values.mean((2, 3))


def plain_net(case: Case) -> nn.Sequential:
    """Conv-4-64 and a linear head."""
    layers: list[nn.Module] = []
    for i in range(4):
        channels = case.shape[0] if i == 0 else 64
        if case.strided:
            layers += [nn.Conv2d(channels, 64, 3, stride=2, padding=1), Norm(64), nn.ReLU()]
        else:
            layers += [nn.Conv2d(channels, 64, 3, padding=1), Norm(64), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [Mean(), nn.Linear(64, WAYS)] if case.strided else [nn.Flatten(), nn.Linear(1600, WAYS)]
    return nn.Sequential(*layers)


def plain_loop(net: nn.Sequential, case: Case, episode: Episode[Tensor], rate: float) -> Step:
    """A step as it is written by hand: the gradient of the mean loss; in evaluation the loss only."""
    norms = [one for one in net if isinstance(one, Norm)]
    parts = [(part.fields["image"], part.labels) for part in (episode.support, episode.query)]

    def call(weights: dict[str, Tensor], rows: Tensor, mode: str = "own") -> Tensor:
        for norm in norms:
            norm.mode = mode
        logits: Tensor = functional_call(net, weights, (rows,))
        return logits

    def task(support: Tensor, labels: Tensor, queries: Tensor, asked: Tensor) -> Tensor:
        weights: dict[str, Tensor] = dict(net.named_parameters())
        for _ in range(case.steps):
            loss = WAYS * F.cross_entropy(call(weights, support), labels)
            slopes = torch.autograd.grad(
                loss, list(weights.values()), create_graph=not (case.first_order or case.evaluation)
            )
            weights = {name: w - rate * g for (name, w), g in zip(weights.items(), slopes, strict=True)}
            if case.evaluation:
                weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
        with torch.set_grad_enabled(not case.evaluation):
            if case.batch_norm == "support":
                call(weights, support, "keep")
            return F.cross_entropy(call(weights, queries, "given" if case.batch_norm == "support" else "own"), asked)

    def step() -> Tensor:
        (rows, labels), (queries, asked) = parts
        loss = torch.stack([task(*one) for one in zip(rows, labels, queries, asked, strict=True)]).mean()
        if not case.evaluation:
            net.zero_grad()
            loss.backward()
        return loss.detach()

    return step
