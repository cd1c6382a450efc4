"""Memory-augmented network: rows and labels pass by one after the other, and an external memory binds them.

Santoro, Bartunov, Botvinick, Wierstra, Lillicrap 2016, "Meta-learning with memory-augmented neural networks": step t shows
a row and the label of the row *before*, so that the answer to a row is never in its own input. The loss is that of every
step, guesses at rows of new classes included. The memory has 128 slots of 40 values, four heads that read and write, and an
LSTM of 200 units as controller (`learners.memory`).

Training makes one sequence of all rows of an episode, support and query (5 classes of 10 rows: --shots 1 --queries 9), and
logs accuracy by instance: ``instance2`` is that of rows whose class has been shown once, ``instance10`` that of the tenth
row of a class, or of its last if it has fewer. Evaluation shows the support, then asks each query from the same state: one
shot is the second instance, nine are the tenth. The report shows the accuracy by instance, too, of sequences of all rows.
The order is a hash of the rows, another in each episode, and labels are dealt anew in each.

--labels strings are five characters of a to e for a class, drawn anew for each episode, for many classes: the loss is
summed over characters, and a class scores the sum of its characters' log-probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from episodes.episode import Episode, Fields
from episodes.errors import ConfigError, SpecError
from episodes.spec import EpisodeSpec
from learners import functional
from learners.charts import Chart, Float, Line
from learners.embedding import EmbeddingLearner, EmbeddingOptions
from learners.intervals import mean_and_interval
from learners.memory import LeastRecentlyUsed, State
from learners.protocol import Inputs, MetaLoss, Predictor, Task, require_queries
from learners.sequences import mixed, support_order

INSTANCES, SHOWN = (1, 2, 5, 10), 10  # logged in training; the most that a report shows
LETTERS, CHARACTERS = 5, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(EmbeddingOptions):
    """What distinguishes one from another."""

    backbone: str = field(default="none", metadata={"help": "conv4, ...; none: the pixels, as in the paper"})
    labels: Literal["onehot", "strings"] = field(
        default="onehot", metadata={"help": "how labels are shown: one of --max-ways, or five characters each"}
    )
    max_ways: int = field(default=5, metadata={"help": "most ways of an episode, where labels are one-hot"})
    units: int = field(default=200, metadata={"help": "of the controller"})
    slots: int = field(default=128, metadata={"help": "of the memory"})
    values: int = field(default=40, metadata={"help": "of a slot"})
    heads: int = field(default=4, metadata={"help": "that read, and as many that write"})
    usage_decay: float = field(default=0.95, metadata={"help": "how much of a slot's usage is left after a step"})

    def __post_init__(self) -> None:
        EmbeddingOptions.__post_init__(self)
        for name, least in (("max_ways", 2), ("units", 1), ("slots", 1), ("values", 1), ("heads", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: expected {least} or more, got {getattr(self, name)}")
        if self.heads > self.slots or not 0 <= self.usage_decay < 1:
            raise ConfigError(
                f"heads, usage_decay: expected at most slots={self.slots} and 0..1, got {self.heads}, {self.usage_decay}"
            )


class Mann(EmbeddingLearner):
    """See the module's docstring."""

    def __init__(self, options: Options, inputs: Inputs) -> None:
        super().__init__(options, inputs)
        self.options = options
        self.width = LETTERS * CHARACTERS if options.labels == "strings" else options.max_ways
        self.memory = LeastRecentlyUsed(
            self.embedding.features + self.width,
            units=options.units,
            slots=options.slots,
            values=options.values,
            heads=options.heads,
            decay=options.usage_decay,
        )
        self.head = nn.Linear(self.memory.outputs, self.width)

    def require(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless there are enough labels for every class, and a query to score."""
        require_queries("mann", spec)
        self.require_training(spec)

    def require_training(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless there are enough labels for every class: any rows are a sequence."""
        self._check(spec.ways.high, f"ways={spec.ways}")

    def _check(self, ways: int, told: str) -> None:
        onehot = self.options.labels == "onehot"
        most = self.options.max_ways if onehot else LETTERS**CHARACTERS
        if ways > most:
            mend = "give --max-ways as many, or --labels strings" if onehot else "give fewer ways"
            raise SpecError(f"mann has {most} labels; {told} are more ({mend})")

    def adapt(self, task: Task) -> Predictor:
        """Read the support; the predictor asks each query from there and gives logits [B, Q, W].

        Raises:
            SpecError: more classes than labels, where the spec did not say how many there are.
        """
        features, statistics = self.embedding.support(task.support.fields)
        codes = self.codes(task.support.rows, task.ways)
        order = support_order(task.support.rows)
        shown = _labelled(codes, task.support.labels.gather(1, order))
        _, state = self.read(features.take_along_dim(order.unsqueeze(-1), 1), shown)
        last = shown[:, -1] if shown.shape[1] else shown.new_zeros(len(shown), self.width)

        def predict(fields: Fields[Tensor]) -> Tensor:
            queries = self.embedding.query(fields, statistics)
            num = queries.shape[1]
            inputs = torch.cat([queries, last.unsqueeze(1).expand(-1, num, -1)], dim=-1).flatten(0, 1)
            outputs, _ = self.memory(inputs, state.expanded(num))
            return self.scores(self.head(outputs).view(len(queries), num, -1), codes)

        return predict

    def meta_loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Mean loss over all steps of a sequence of all rows, and accuracy by instance."""
        outputs, codes, labels = self._sequence(episode)
        loss = self.loss(outputs, codes, labels)
        with torch.no_grad():
            right = (self.scores(outputs, codes).argmax(-1) == labels).float()
            which = instances(labels, codes.shape[1])
            # The last row of a class stands for those that it lacks: every episode logs the same names.
            rows = which.unsqueeze(1).masked_fill(labels.unsqueeze(1) != labels.unsqueeze(2), 0).amax(-1)  # of its class
            chosen = {k: (which == rows.clamp(max=k)) & (which > 0) for k in INSTANCES}
            values = {f"instance{k}": float(right[rows].mean()) for k, rows in chosen.items()}
        return MetaLoss(loss=loss, values={"accuracy": float(right[which > 0].mean()), **values})

    def charts(self, episodes: Iterable[Episode[Tensor]]) -> list[Chart]:
        """Accuracy by instance over sequences of all rows of an episode, read as in training: the paper's table 1."""
        found, ks = [], torch.arange(1, SHOWN + 1)
        for episode in episodes:
            outputs, codes, labels = self._sequence(episode)
            right = self.scores(outputs, codes).argmax(-1) == labels
            chosen = instances(labels, codes.shape[1]).unsqueeze(-1) == ks.to(labels.device)  # [B, L, SHOWN]
            rows = chosen.sum(1).double()
            found.append(((right.unsqueeze(-1) & chosen).sum(1) / rows).cpu().numpy())  # NaN where there is none
        return [by_instance(np.concatenate(found))]

    def _sequence(self, episode: Episode[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs [B, L, width] of the sequence of all rows of an episode, its codes and labels [B, L], in its order."""
        features = torch.cat(self.embedding.parts(episode)[:2], dim=1)
        rows = torch.cat([episode.support.rows, episode.query.rows], dim=1)
        labels = torch.cat([episode.support.labels, episode.query.labels], dim=1)
        order, codes = support_order(rows), self.codes(rows, episode.class_ids.shape[1])
        labels = labels.gather(1, order)
        outputs, _ = self.read(features.take_along_dim(order.unsqueeze(-1), 1), _labelled(codes, labels))
        return self.head(outputs), codes, labels

    def read(self, features: Tensor, shown: Tensor) -> tuple[Tensor, State]:
        """Outputs [B, L, ...] of a sequence of features [B, L, D] with the labels [B, L, width] of the rows before."""
        before = F.pad(shown, (0, 0, 1, 0))[:, : shown.shape[1]]
        tokens = torch.cat([features, before], dim=-1)
        return self.memory.read(tokens, self.memory.begin(len(tokens), tokens))

    def codes(self, rows: Tensor, ways: int) -> Tensor:
        """How each label of an episode is shown, [B, W, width]: one-hot, or the letters of its string, each one-hot."""
        self._check(ways, f"the {ways} classes of an episode")
        if self.options.labels == "onehot":
            return torch.eye(self.width, device=rows.device)[:ways].expand(len(rows), -1, -1)
        salt = mixed(mixed(rows).sum(1, keepdim=True))  # [B, 1]
        number = LETTERS**CHARACTERS
        # An affine map modulo 5^5, whose factor 5 does not divide, gives different strings to different labels.
        factor = LETTERS * (salt % 625) + 1 + mixed(salt) % (LETTERS - 1)
        strings = (factor * torch.arange(ways, device=rows.device) + mixed(salt + 1)) % number
        letters = strings.unsqueeze(-1) // LETTERS ** torch.arange(CHARACTERS, device=rows.device) % LETTERS
        return F.one_hot(letters, LETTERS).flatten(-2).float()

    def scores(self, outputs: Tensor, codes: Tensor) -> Tensor:
        """Outputs [B, n, width] -> logits of the labels, [B, n, W]."""
        outputs = functional.full(outputs)
        if self.options.labels == "strings":
            outputs = _chances(outputs)
        scores: Tensor = outputs @ codes.to(outputs.dtype).transpose(1, 2)
        return scores

    def loss(self, outputs: Tensor, codes: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over steps; of strings summed over characters. Rows of no class (-1) are left out."""
        outputs = functional.full(outputs)
        if self.options.labels == "onehot":
            logits = self.scores(outputs, codes)
            return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1)
        return -(_chances(outputs) * _labelled(codes, labels)).sum() / (labels >= 0).sum()


def _chances(outputs: Tensor) -> Tensor:
    """Log-probabilities of each character's letters, [..., 25] both."""
    return outputs.view(*outputs.shape[:-1], CHARACTERS, LETTERS).log_softmax(-1).flatten(-2)


def _labelled(codes: Tensor, labels: Tensor) -> Tensor:
    """The codes [B, W, width] of labels [B, n]; zeros for label -1."""
    chosen = codes.take_along_dim(labels.clamp(min=0).unsqueeze(-1), 1)
    return chosen * (labels >= 0).unsqueeze(-1)


def instances(labels: Tensor, ways: int) -> Tensor:
    """The how-manieth row of its class each row of a sequence [B, L] is, from 1; 0 of rows of no class (-1)."""
    known = labels >= 0
    onehot = F.one_hot(labels.clamp(min=0), ways) * known.unsqueeze(-1)
    return onehot.cumsum(1).gather(-1, labels.clamp(min=0).unsqueeze(-1))[..., 0] * known


def by_instance(accuracy: Float) -> Chart:
    """The chart of the accuracy of each episode at each instance, [E, instances]; NaN where it has no such row."""
    means, halves = [], []
    for column in accuracy.T:
        values = column[~np.isnan(column)]
        if not len(values):
            break
        mean, half = mean_and_interval(values)
        means.append(mean)
        halves.append(half if np.isfinite(half) else np.nan)
    y, half_width = np.array(means), np.array(halves)
    line = Line(x=np.arange(1.0, len(y) + 1), y=y, low=y - half_width, high=y + half_width)
    return Chart(
        title="Accuracy by instance",
        x="instance of its class in the sequence",
        y="accuracy",
        lines={"rows": line},
        caption=f"Over sequences of all rows of {len(accuracy):,} episodes, support and query mixed; instance 1 can be "
        "guessed only, and the band is the 95 % interval over episodes.",
    )


def make(options: Options, inputs: Inputs) -> Mann:
    """A MANN for these inputs.

    Raises:
        ConfigError: the store has no such field, or the backbone does not take its rows.
    """
    return Mann(options, inputs)
