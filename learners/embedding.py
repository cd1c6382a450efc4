"""Embedding: the rows of B episodes through a backbone, normalised as the batch-norm policy says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from episodes.episode import Episode, Fields
from episodes.errors import ConfigError
from learners import functional
from learners.backbones import make_backbone
from learners.norm import Pass, Policy, Statistics, norms, passing
from learners.once import Seen
from learners.protocol import Inputs

_PIECE = 32  # rows; Conv-4 on 28 x 28 then takes two thirds of the time that 320 together take


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingOptions:
    """The options of every method that embeds rows one by one; a method's ``Options`` extend them."""

    backbone: str = field(
        default="auto",
        metadata={
            "help": "conv4, resnet12, linear, none, package.module:attribute; auto: conv4 of images, none of vectors"
        },
    )
    width: int = field(default=64, metadata={"help": "channels of the backbone's first block"})
    batch_norm: Policy = field(
        default="running",
        metadata={
            "help": "statistics at evaluation: of meta-training, of the support, or of the queries too (transductive)"
        },
    )
    image: str = field(default="image", metadata={"help": "store field that holds the input"})

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"width: expected 1 or more, got {self.width}")


def field_of(options: EmbeddingOptions, inputs: Inputs) -> tuple[str, tuple[int, ...]]:
    """Name and shape of the field that holds the input: the one field of a store that has no ``image``, as of features.

    Raises:
        ConfigError: the store has no such field, or it is of single numbers.
    """
    name = options.image
    if name == "image" and name not in inputs.fields and len(inputs.fields) == 1:
        (name,) = inputs.fields
    if name not in inputs.fields:
        raise ConfigError(f"image: the store has no field '{name}'; it has {', '.join(sorted(inputs.fields))}")
    shape = inputs.fields[name].shape
    if not shape:
        raise ConfigError(f"image: field '{name}' is one number a row; learners take vectors and images")
    return name, shape


class Embedding(nn.Module):
    """Rows -> features, [B, n, ...] -> [B, n, D].

    Args:
        options: backbone and policy.
        inputs: what the learner is made for.

    Raises:
        ConfigError: the store has no such field, or the backbone does not take its rows.
    """

    def __init__(self, options: EmbeddingOptions, inputs: Inputs) -> None:
        super().__init__()
        name, shape = field_of(options, inputs)
        self.backbone = make_backbone(options.backbone, shape, options.width)
        self.features: int = self.backbone.features  # type: ignore[assignment]  # torch types attributes as modules
        self.field, self.policy = name, options.batch_norm
        self._norms = norms(self.backbone)
        self._seen: Seen | None = None

    @property
    def batch_norm(self) -> str:
        """The policy, or ``none`` of a backbone without batch norm."""
        return self.policy if self._norms else "none"

    @property
    def transductive(self) -> bool:
        """Whether features depend on the rows they are computed with."""
        return self.batch_norm == "transductive"

    def support(self, fields: Fields[Tensor]) -> tuple[Tensor, Statistics]:
        """Features of the support, [B, S, D], and the statistics with which `query` normalises under policy ``support``."""
        kept = Statistics()
        if self.batch_norm == "support":
            return self._rows(fields, Pass(own=True, keep=kept)), kept
        return self.query(fields, kept), kept

    def query(self, fields: Fields[Tensor], statistics: Statistics) -> Tensor:
        """Features of queries or unlabeled rows, [B, Q, D]."""
        given = statistics if self.batch_norm == "support" else None
        return self._rows(fields, Pass(own=self.transductive, given=given))

    def parts(self, episode: Episode[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features of support, query and unlabeled rows, of one pass where the policy lets them share it.

        In training they then share the statistics of the batch, as in the released code of the metric methods.
        """
        parts = [episode.support, episode.query, *([] if episode.unlabeled is None else [episode.unlabeled])]
        if self.batch_norm == "support" and parts[0].labels.shape[1]:
            first, kept = self.support(parts[0].fields)
            rest = functional.cat_fields([part.fields for part in parts[1:]])
            features = [first, *torch.split(self.query(rest, kept), [part.labels.shape[1] for part in parts[1:]], dim=1)]
        else:
            together = self._rows(functional.cat_fields([part.fields for part in parts]), Pass(own=self.transductive))
            features = list(torch.split(together, [part.labels.shape[1] for part in parts], dim=1))
        return features[0], features[1], features[2] if len(features) > 2 else None

    def _rows(self, fields: Fields[Tensor], now: Pass) -> Tensor:
        rows = fields[self.field]
        shape = rows.shape[:2]
        if not shape[1]:
            return functional.to_float(rows).new_zeros(*shape, self.features)
        now.episodes, flat = len(rows), rows.flatten(0, 1)
        alone = not (self.training or now.own or now.given or torch.is_grad_enabled() or flat.is_cuda) and flat.ndim > 2
        with passing(self._norms, now):
            if alone and self._seen is not None:
                features = self._seen.features(flat, self._in_pieces)
            else:
                features = self._in_pieces(flat) if alone else self.backbone(functional.to_float(flat))
        return functional.full(features).view(*shape, -1)

    def _in_pieces(self, rows: Tensor) -> Tensor:
        """Features of images that do not depend on each other, few at a time: what layers hand on stays in the cache."""
        features: list[Tensor] = [self.backbone(piece) for piece in torch.split(functional.to_float(rows), _PIECE)]
        return torch.cat(features) if len(features) > 1 else features[0]


class EmbeddingLearner(nn.Module):
    """What methods that embed rows one by one share: the embedding, and what is to be said of its batch norm.

    Made as an `Embedding` is, and raises what that raises.
    """

    def __init__(self, options: EmbeddingOptions, inputs: Inputs) -> None:
        super().__init__()
        self.embedding = Embedding(options, inputs)

    @property
    def transductive(self) -> bool:
        """By its batch norm only."""
        return self.embedding.transductive

    @property
    def batch_norm(self) -> str:
        """As the options say, or ``none`` of a backbone without batch norm."""
        return self.embedding.batch_norm


@contextmanager
def each_row_once(learner: nn.Module) -> Iterator[None]:
    """Within, images whose features depend on nothing beside them are embedded once; the parameters must not change.

    On the CPU: an accelerator embeds them in less time than it takes to tell whether they are known.
    """
    found = [module for module in learner.modules() if isinstance(module, Embedding)]
    for module in found:
        module._seen = Seen()
    try:
        yield
    finally:
        for module in found:
            module._seen = None
