"""Pre-training and fine-tuning: the whole network, with a new head, descends on the support of every task.

Ravi, Larochelle 2017, "Optimization as a model for few-shot learning", the baseline "finetune" of Table 1: a classifier of
all classes of meta-training gets a new head for the task, and takes --tune-steps steps of gradient descent on the whole
support, ``w <- w - a / (1 + t d) * grad L(w)``, in all its weights. The new head is drawn once, with the learner, and every
task begins with it. Nothing is differentiated through these steps. --tune head leaves the backbone's weights as they are,
which gives far better 1-shot numbers than the published ones: those are of the whole network, without regularisation.

Batch norm passes the support in training mode, so that its running statistics move towards it, and queries in evaluation
mode: their own statistics play no part. --batch-norm running keeps it in evaluation mode throughout. Training takes plain
batches, which are episodes without support (--ways 64 --shots 0 --queries 1). Differs from the released code: a batch holds
different classes, batch norm has torch's epsilon, and rate and decay are options, which the paper searches on validation
episodes for 1 and 5 shots each (rates 1e-5 to 0.5, decays 0 to 1).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from episodes.episode import Episode, Fields
from episodes.errors import ConfigError, SpecError
from episodes.spec import EpisodeSpec
from learners.embedding import Embedding
from learners.norm import Policy, Statistics
from learners.pretraining import Classifier, PretrainingOptions, Weights, fresh_head, scores
from learners.protocol import Inputs, MetaLoss, Predictor, Task, require_support


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(PretrainingOptions):
    """What distinguishes one from another."""

    batch_norm: Policy = field(
        default="support", metadata={"help": "running statistics of meta-training that move to the support, or that stay"}
    )
    max_ways: int = field(default=50, metadata={"help": "outputs of the new head: the most ways of an episode"})
    tune: Literal["all", "head"] = field(default="all", metadata={"help": "the weights that descend"})
    tune_steps: int = field(default=15, metadata={"help": "gradient steps on the support"})
    tune_rate: float = field(default=0.01, metadata={"help": "rate of these steps"})
    tune_decay: float = field(default=0.0, metadata={"help": "step t, from 0, has the rate divided by 1 + t * this"})

    def __post_init__(self) -> None:
        PretrainingOptions.__post_init__(self)
        for name, least in (("max_ways", 2), ("tune_steps", 0), ("tune_rate", 0), ("tune_decay", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: expected {least} or more, got {getattr(self, name)}")
        if self.batch_norm == "transductive":
            raise ConfigError(
                "batch_norm: queries are not normalised with their own statistics here; take support or running"
            )


class Finetune(nn.Module):
    """See the module's docstring."""

    def __init__(self, options: Options, inputs: Inputs) -> None:
        super().__init__()
        self.options = options
        # The statistics that move are the layers' own running ones: no other policy takes part.
        self.classifier = Classifier(replace(options, batch_norm="running"), inputs)
        new = fresh_head(options.head, options.max_ways, self.classifier.embedding.features)
        for name, values in new.items():
            self.register_buffer(f"new_{name}", values)

    transductive = False

    @property
    def batch_norm(self) -> str:
        """As the options say, or ``none`` of a backbone without batch norm."""
        return "none" if self.classifier.embedding.batch_norm == "none" else self.options.batch_norm

    def require(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every class has a shot and an output of the head, and there is a query to score."""
        require_support("baseline_finetune", spec)
        if spec.ways.high > self.options.max_ways:
            raise SpecError(f"the head has {self.options.max_ways} outputs; ways={spec.ways} needs --max-ways as many")

    def require_training(self, spec: EpisodeSpec) -> None:
        """Any episode is a batch."""

    def adapt(self, task: Task) -> Predictor:
        """A tuned copy of the network for each of the B tasks; the predictor gives logits [B, Q, W]."""
        support = task.support
        tuned = [self._tuned(_one(support.fields, b), support.labels[b], task.ways) for b in range(len(support.labels))]

        def predict(fields: Fields[Tensor]) -> Tensor:
            return torch.cat([self._logits(*one, _one(fields, b)) for b, one in enumerate(tuned)])

        return predict

    def meta_loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Loss of the classifier of all classes."""
        return self.classifier.loss(episode)

    def _tuned(self, rows: Fields[Tensor], labels: Tensor, ways: int) -> tuple[Embedding, Weights]:
        """Backbone, in evaluation mode, and head after the descent on one support, [1, n, ...]."""
        options = self.options
        embedding = copy.deepcopy(self.classifier.embedding).requires_grad_(options.tune == "all")
        embedding.train(options.batch_norm == "support")
        names = [name.removeprefix("new_") for name, _ in self.named_buffers(recurse=False)]
        head = {name: getattr(self, f"new_{name}")[:ways].clone().requires_grad_() for name in names}
        weights = [*head.values(), *(one for one in embedding.parameters() if one.requires_grad)]
        with torch.enable_grad():
            for t in range(options.tune_steps):
                loss = F.cross_entropy(self._logits(embedding, head, rows)[0], labels)
                gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
                with torch.no_grad():
                    for values, gradient in zip(weights, gradients, strict=True):
                        values.sub_(gradient, alpha=options.tune_rate / (1 + t * options.tune_decay))
        return embedding.eval(), head

    def _logits(self, embedding: Embedding, head: Weights, rows: Fields[Tensor]) -> Tensor:
        return scores(embedding.query(rows, Statistics()), head, self.options.scale)


def _one(fields: Fields[Tensor], b: int) -> dict[str, Tensor]:
    return {name: values[b : b + 1] for name, values in fields.items()}


def make(options: Options, inputs: Inputs) -> Finetune:
    """One for these inputs.

    Raises:
        ConfigError: the classes of meta-training are not known, the store has no such field, or the backbone does not take
            its rows.
    """
    return Finetune(options, inputs)
