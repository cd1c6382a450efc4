"""Zero-shot Prototypical Networks: a class is what is known of it, its attributes, and not its rows.

Snell, Swersky, Zemel 2017, "Prototypical networks for few-shot learning": the prototype of class k is
``c_k = g(v_k) / |g(v_k)|``, with v_k the class's attributes and g linear, and ``p(y = k | x) ~ exp(-|f(x) - c_k|^2)``.
Queries are not normalised. Episodes have no support (--shots 0), in training neither.

In the paper f is a linear map of features computed before (--backbone linear --width 1024); any backbone does here, and g
may have a hidden layer (--hidden). Two turns of one class have the same attributes: --rotations is refused. Queries pass
the backbone together in training; in evaluation batch norm uses its running statistics, so the method is not transductive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from episodes.episode import Episode, Fields
from episodes.errors import ConfigError, SpecError
from episodes.spec import EpisodeSpec
from learners import functional
from learners.embedding import EmbeddingLearner, EmbeddingOptions
from learners.protocol import Inputs, MetaLoss, Predictor, Task, classified


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(EmbeddingOptions):
    """What distinguishes one zero-shot ProtoNet from another."""

    attributes: str = field(default="attributes", metadata={"help": "class field that says what is known of each class"})
    hidden: int = field(default=0, metadata={"help": "units of a hidden layer of the map of attributes; 0: it is linear"})

    def __post_init__(self) -> None:
        EmbeddingOptions.__post_init__(self)
        if self.hidden < 0:
            raise ConfigError(f"hidden: expected 0 or more, got {self.hidden}")
        if self.batch_norm == "support":
            raise ConfigError("batch_norm: there is no support to take statistics of; take running or transductive")


class ZeroShotProtoNet(EmbeddingLearner):
    """See the module's docstring."""

    def __init__(self, options: Options, inputs: Inputs) -> None:
        super().__init__(options, inputs)
        if options.attributes not in inputs.class_fields:
            has = ", ".join(sorted(inputs.class_fields)) or "none"
            raise ConfigError(f"attributes: the store has no class field '{options.attributes}'; it has {has}")
        if any(turns for _, turns in inputs.classes or ()):
            raise ConfigError("attributes: all turns of a class have the same; train without rotations as classes")
        self.options = options
        known = math.prod(inputs.class_fields[options.attributes].shape)
        hidden = [nn.Linear(known, options.hidden), nn.ReLU()] if options.hidden else []
        self.map = nn.Sequential(*hidden, nn.Linear(options.hidden or known, self.embedding.features))

    def require(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` if episodes have shots, which would be left out; without them they must have queries."""
        if spec.shots.high or not spec.shots.fixed:
            raise SpecError(
                f"protonet_zero_shot makes prototypes of class field '{self.options.attributes}', not of shots; "
                f"shots={spec.shots} must be 0"
            )

    def adapt(self, task: Task) -> Predictor:
        """Prototypes of what is known of the classes; the predictor gives logits [B, Q, W]."""
        prototypes = self.prototypes(task.class_fields)
        _, statistics = self.embedding.support(task.support.fields)
        return lambda fields: _logits(self.embedding.query(fields, statistics), prototypes)

    def meta_loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Mean cross-entropy of the queries."""
        _, queries, _ = self.embedding.parts(episode)
        return classified(_logits(queries, self.prototypes(episode.class_fields)), episode.query.labels)

    def prototypes(self, class_fields: Fields[Tensor]) -> Tensor:
        """Of length 1, [B, W, D].

        Raises:
            SpecError: the episode lacks the class field.
        """
        name = self.options.attributes
        if name not in class_fields:
            raise SpecError(f"class field '{name}' is missing; the episode has {', '.join(sorted(class_fields)) or 'none'}")
        mapped: Tensor = self.map(functional.full(class_fields[name]).flatten(2))
        return F.normalize(functional.full(mapped), dim=-1)


def _logits(queries: Tensor, prototypes: Tensor) -> Tensor:
    return -functional.squared_distances(queries, prototypes)


def make(options: Options, inputs: Inputs) -> ZeroShotProtoNet:
    """A zero-shot ProtoNet for these inputs.

    Raises:
        ConfigError: the store has no such field or class field, training has turns of classes as classes, or the backbone
            does not take the rows.
    """
    return ZeroShotProtoNet(options, inputs)
