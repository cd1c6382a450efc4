"""Prototypical Networks: a class is the mean of its support's features, a query goes to the nearest.

Snell, Swersky, Zemel 2017, "Prototypical networks for few-shot learning":
``p(y = k | x) ~ exp(-d(f(x), c_k))`` with ``c_k`` the mean of ``f`` over the support of class k and d the squared Euclidean
distance (summed over features, neither averaged nor rooted). The cosine variant multiplies cosines by a fixed scale: bare
cosines lie in [-1, 1] and cannot fit many ways. Support and query pass the backbone together in training, as in the
released code; in evaluation batch norm uses its running statistics, so the method is not transductive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from episodes.episode import Episode, Fields, Part
from episodes.errors import ConfigError, SpecError
from episodes.protocols import FieldSpec
from episodes.spec import EpisodeSpec
from learners import functional
from learners.backbones import Conv4
from learners.protocol import MetaLoss, Predictor


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What distinguishes one ProtoNet from another."""

    distance: Literal["euclidean", "cosine"] = field(
        default="euclidean", metadata={"help": "squared Euclidean distance, or cosine similarity times --scale"}
    )
    scale: float = field(default=10.0, metadata={"help": "factor of the cosine"})
    width: int = field(default=64, metadata={"help": "channels of the Conv-4 backbone"})
    image: str = field(default="image", metadata={"help": "store field that holds the input"})

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"width: expected 1 or more, got {self.width}")
        if self.scale <= 0:
            raise ConfigError(f"scale: expected a number above 0, got {self.scale}")


class ProtoNet(nn.Module):
    """See the module's docstring."""

    transductive = False
    batch_norm = "running"

    def __init__(self, backbone: nn.Module, options: Options) -> None:
        super().__init__()
        self.backbone = backbone
        self.options = options

    def require(self, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every class has a shot to make its prototype of, and there is a query to score."""
        if spec.shots.low < 1 and spec.shots.kind != "variable":
            raise SpecError(f"protonet makes prototypes of shots; shots={spec.shots} must be 1 or more")
        if spec.queries.high < 1 and spec.queries.kind in ("range", "weights"):
            raise SpecError(f"protonet is scored by its queries; queries={spec.queries} must be 1 or more")

    def adapt(self, support: Part[Tensor], ways: int, unlabeled: Fields[Tensor] | None = None) -> Predictor:
        """Prototypes of the support; the predictor gives logits [B, Q, W]."""
        del unlabeled  # plain ProtoNet has no use for it
        prototypes = functional.class_means(self._embed(support.fields), support.labels, ways)
        return lambda fields: self._logits(self._embed(fields), prototypes)

    def meta_loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Mean cross-entropy of the queries."""
        support, query, ways = episode.support, episode.query, episode.class_ids.shape[1]
        name, shots = self.options.image, episode.support.labels.shape[1]
        features = self._embed({name: torch.cat([support.fields[name], query.fields[name]], dim=1)})
        prototypes = functional.class_means(features[:, :shots], support.labels, ways)
        logits = self._logits(features[:, shots:], prototypes)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), query.labels.flatten(), ignore_index=-1)
        return MetaLoss(loss, {"accuracy": float(functional.accuracy(logits.detach(), query.labels).mean())})

    def _embed(self, fields: Fields[Tensor]) -> Tensor:
        images = functional.to_float(fields[self.options.image])
        features: Tensor = self.backbone(images.flatten(0, 1))
        return features.reshape(*images.shape[:2], -1)

    def _logits(self, queries: Tensor, prototypes: Tensor) -> Tensor:
        if self.options.distance == "cosine":
            return self.options.scale * functional.cosine_similarities(queries, prototypes)
        return -functional.squared_distances(queries, prototypes)


def make(options: Options, fields: Mapping[str, FieldSpec]) -> ProtoNet:
    """A ProtoNet on Conv-4 for the store's images.

    Raises:
        ConfigError: the store has no such field, or its images are too small.
    """
    if options.image not in fields:
        raise ConfigError(f"image: the store has no field '{options.image}'; it has {', '.join(sorted(fields))}")
    return ProtoNet(Conv4(fields[options.image].shape, options.width), options)
