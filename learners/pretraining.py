"""Pre-training: an ordinary classifier of all classes of meta-training, learned from batches and not from tasks.

A batch is an episode of many ways without support (``ways=64, shots=0, queries=1``), so it needs no second data path: label
k of an episode is class ``class_ids[k]``, turned by ``variants[k]``, and that has a row of its own in the head. Rows of a
support, if there are any, count as rows of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from episodes.classes import TURNS
from episodes.episode import Episode
from episodes.errors import ConfigError, SpecError
from learners import functional
from learners.embedding import Embedding, EmbeddingOptions
from learners.protocol import Inputs, MetaLoss, classified

Kind = Literal["linear", "cosine"]
Weights = Mapping[str, Tensor]
"""Of a head: ``weight`` [C, D], and ``bias`` [C] of a linear or ``norm`` [C] of a cosine one; all may have axes before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingOptions(EmbeddingOptions):
    """The options of every method that is pre-trained so; a method's ``Options`` extend them."""

    head: Kind = field(
        default="linear", metadata={"help": "linear, or scaled cosines to class vectors times a learned norm of each"}
    )
    scale: float | None = field(
        default=None, metadata={"help": "factor of the cosines  [default: 2 for up to 200 classes, else 10]"}
    )

    def __post_init__(self) -> None:
        EmbeddingOptions.__post_init__(self)
        if self.scale is not None and self.scale <= 0:
            raise ConfigError(f"scale: expected a number above 0, got {self.scale}")


def fresh_head(kind: Kind, outputs: int, features: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Weights as torch's linear layer begins with, uniform in ±1/√D; norms of a cosine head are those of its vectors."""
    bound = 1 / math.sqrt(features)
    weight = torch.empty(outputs, features).uniform_(-bound, bound, generator=generator)
    if kind == "cosine":
        return {"weight": weight, "norm": weight.norm(dim=-1)}
    return {"weight": weight, "bias": torch.empty(outputs).uniform_(-bound, bound, generator=generator)}


def scores(features: Tensor, head: Weights, scale: float | None) -> Tensor:
    """Logits [..., n, C] of features [..., n, D].

    A cosine head gives ``s g_c cos(z, w_c)``: Chen et al. 2019 print a cosine, their code learns a norm g_c of each class,
    too (weight normalisation), and so does this. `scale` None: 2 of up to 200 outputs, else 10, as in their code.
    """
    head = {name: values.to(features.dtype) for name, values in head.items()}
    weight = head["weight"]
    with torch.autocast(features.device.type, enabled=False):  # a batch's product is small, half precision would show
        if "bias" in head:
            return features @ weight.transpose(-1, -2) + head["bias"].unsqueeze(-2)
        unit = features / (features.norm(dim=-1, keepdim=True) + 1e-5)
        classes = F.normalize(weight, dim=-1) * head["norm"].unsqueeze(-1)
        factor = (2.0 if weight.shape[-2] <= 200 else 10.0) if scale is None else scale
        cosines: Tensor = unit @ classes.transpose(-1, -2)
        return factor * cosines


class Classifier(nn.Module):
    """A backbone and a head over all classes of meta-training.

    Which class has which row of the head is part of the state: it holds after loading, whatever the order of the classes
    that the learner was made with.

    Args:
        options: backbone and head.
        inputs: what the learner is made for.

    Raises:
        ConfigError: the classes of meta-training are not known; the store has no such field, or the backbone does not take
            its rows.
    """

    codes: Tensor

    def __init__(self, options: PretrainingOptions, inputs: Inputs) -> None:
        super().__init__()
        if not inputs.classes:
            raise ConfigError(
                "store: a head over all classes needs the classes of one store; of several stores, or of episode shards, "
                "they are not known (train on one store, without --mix)"
            )
        self.embedding = Embedding(options, inputs)
        self.scale = options.scale
        head = fresh_head(options.head, len(inputs.classes), self.embedding.features)
        self.head = nn.ParameterDict({name: nn.Parameter(values) for name, values in head.items()})
        numbers, turns = torch.tensor(list(inputs.classes)).unbind(-1)
        self.register_buffer("codes", _codes(numbers, turns))

    def places(self, episode: Episode[Tensor]) -> Tensor:
        """Row of the head of each label, [B, W].

        Raises:
            SpecError: a class that is none of meta-training.
        """
        same_BWC = _codes(episode.class_ids, episode.variants).unsqueeze(-1) == self.codes
        known_BW = same_BWC.any(-1)
        if not known_BW.all():
            first = int(episode.class_ids[~known_BW][0])
            raise SpecError(
                f"class number {first} is none of the {len(self.codes)} classes that the head was made for; train on the "
                "split and rotations that it was made with"
            )
        return same_BWC.int().argmax(-1)

    def loss(self, episode: Episode[Tensor]) -> MetaLoss:
        """Mean cross-entropy of all rows among all classes of meta-training; those of a distractor are left out."""
        labels = torch.cat([episode.support.labels, episode.query.labels], dim=1)
        places = self.places(episode).gather(1, labels.clamp(min=0)).masked_fill(labels < 0, -1)
        rows = functional.cat_fields([episode.support.fields, episode.query.fields])
        features, _ = self.embedding.support(rows)
        return classified(scores(features, dict(self.head.items()), self.scale), places)


def _codes(numbers: Tensor, turns: Tensor) -> Tensor:
    return numbers * TURNS + turns
