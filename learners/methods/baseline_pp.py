"""Baseline and Baseline++: a classifier of all classes, whose features are kept while a new head learns each support.

Chen, Liu, Kira, Wang, Huang 2019, "A closer look at few-shot classification". Both stages have heads of one kind.
--head linear is their Baseline, ``W z + b``; --head cosine is Baseline++, ``s g_c cos(z, w_c)``, with a learned norm g_c of
each class as in the released code, and s = 2 for up to 200 classes, else 10. The head of a task learns for --tune-epochs
passes over the support in mini-batches of 4, by SGD with rate 0.01, momentum and dampening 0.9 and weight decay 1e-3.

Where a head begins, and the order of the rows, come from --tune-seed: a task is predicted the same at every time, and among
others as alone. Training takes plain batches, which are episodes without support (--ways 64 --shots 0 --queries 1). Differs
from the released code: a batch holds different classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from episodes.episode import Episode
from episodes.errors import ConfigError
from episodes.rng import stream_key
from episodes.spec import EpisodeSpec
from learners.pretraining import Classifier, Kind, PretrainingOptions, Weights, fresh_head, scores
from learners.protocol import Inputs, MetaLoss, Predictor, Task, require_support


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(PretrainingOptions):
    """What distinguishes one from another."""

    head: Kind = field(default="cosine", metadata={"help": "of both stages: linear (Baseline) or cosine (Baseline++)"})
    tune_epochs: int = field(default=100, metadata={"help": "passes over the support"})
    tune_batch: int = field(default=4, metadata={"help": "rows of a mini-batch"})
    tune_rate: float = field(default=0.01, metadata={"help": "rate of SGD, with momentum and dampening 0.9"})
    tune_weight_decay: float = field(default=1e-3, metadata={"help": "its weight decay"})
    tune_seed: int = field(default=0, metadata={"help": "of the new head and of the order of rows"})

    def __post_init__(self) -> None:
        PretrainingOptions.__post_init__(self)
        for name, least in (("tune_epochs", 0), ("tune_batch", 1), ("tune_rate", 0), ("tune_weight_decay", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: expected {least} or more, got {getattr(self, name)}")


class BaselinePP(nn.Module):
    """See the module's docstring."""

    def __init__(self, options: Options, inputs: Inputs) -> None:
        super().__init__()
        self.classifier = Classifier(options, inputs)
        self.options = options

    @property
    def transductive(self) -> bool:
        """By its batch norm only."""
        return self.classifier.embedding.transductive

    @property
    def batch_norm(self) -> str:
        """As the options say."""
        return self.classifier.embedding.batch_norm

    def require(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every class has a shot, and there is a query to score."""
        require_support("baseline_pp", spec)

    def require_training(self, spec: EpisodeSpec) -> None:
        """Any episode is a batch."""

    def adapt(self, task: Task) -> Predictor:
        """A head for each of the B supports; the predictor gives logits [B, Q, W]."""
        embedding = self.classifier.embedding
        features, statistics = embedding.support(task.support.fields)
        head = tuned(features.detach(), task.support.labels, task.ways, self.options)
        return lambda fields: scores(embedding.query(fields, statistics), head, self.options.scale)

    def meta_loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Loss of the classifier of all classes."""
        return self.classifier.loss(episode)


def tuned(features_BSD: Tensor, labels_BS: Tensor, ways: int, options: Options) -> Weights:
    """Weights [B, W, D] of heads that learned B supports at once, each as if it were alone: pure function of its arguments.

    Every support sees its rows in the same order, and the sum of their losses has the gradients of each one's own.
    """
    B, S, D = features_BSD.shape
    order = torch.Generator().manual_seed(stream_key("baseline_pp", options.tune_seed) >> 1)
    start = fresh_head(options.head, ways, D, order)
    head = {
        name: values.to(features_BSD).expand(B, *values.shape).clone().requires_grad_() for name, values in start.items()
    }
    weights = list(head.values())
    optimizer = torch.optim.SGD(
        weights, lr=options.tune_rate, momentum=0.9, dampening=0.9, weight_decay=options.tune_weight_decay
    )
    with torch.enable_grad():
        for _ in range(options.tune_epochs):
            rows_S = torch.randperm(S, generator=order).to(labels_BS.device)
            for chosen in torch.split(rows_S, options.tune_batch):
                logits_BnW = scores(features_BSD[:, chosen], head, options.scale)
                loss = F.cross_entropy(logits_BnW.flatten(0, 1), labels_BS[:, chosen].flatten(), reduction="sum")
                for values, gradient in zip(weights, torch.autograd.grad(loss / len(chosen), weights), strict=True):
                    values.grad = gradient
                optimizer.step()
    return {name: values.detach() for name, values in head.items()}


def make(options: Options, inputs: Inputs) -> BaselinePP:
    """One for these inputs.

    Raises:
        ConfigError: the classes of meta-training are not known, the store has no such field, or the backbone does not take
            its rows.
    """
    return BaselinePP(options, inputs)
