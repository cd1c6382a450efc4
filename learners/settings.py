"""TrainConfig: the settings of meta-training. Apart from the trainer, for a recipe is read where there is no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from episodes.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of the outer loop."""

    steps: int = field(default=2000, metadata={"help": "outer steps"})
    meta_batch: int = field(default=1, metadata={"help": "episodes per outer step, of all processes together"})
    together: int | None = field(
        default=None,
        metadata={
            "help": "episodes of one size computed in one pass; bounds memory  [default: all that a process has a step]"
        },
    )
    optimizer: Literal["adam", "sgd"] = field(default="adam", metadata={"help": "of the outer loop"})
    lr: float = field(default=1e-3, metadata={"help": "its learning rate"})
    schedule: Literal["constant", "halve", "cosine", "linear"] = field(
        default="cosine",
        metadata={"help": "constant rate, halved every --halve-every steps, or down to 0 as a cosine or a line"},
    )
    halve_every: int = field(default=2000, metadata={"help": "steps between halvings"})
    weight_decay: float = field(default=0.0, metadata={"help": "weight decay of the optimizer"})
    clip_norm: float | None = field(default=None, metadata={"help": "largest norm of the gradient"})
    validate_every: int = field(default=500, metadata={"help": "steps between validations"})
    patience: int | None = field(default=None, metadata={"help": "validations without a better one before stopping early"})
    checkpoint_every: int = field(default=100, metadata={"help": "steps between checkpoints"})
    seed: int = field(default=0, metadata={"help": "of the initial weights"})
    accelerator: str = field(default="auto", metadata={"help": "cpu, cuda, mps or auto"})
    precision: str = field(default="32-true", metadata={"help": "32-true, bf16-mixed or 16-mixed"})
    workers: int | None = field(
        default=None, metadata={"help": "threads that make episodes ahead  [default: 1 with an accelerator, 0 on the CPU]"}
    )
    data: Literal["auto", "host", "prefetch", "resident"] = field(
        default="auto",
        metadata={
            "help": "where episodes are made: host; there, and copied ahead to the device (prefetch); on the device, which "
            "holds the split (resident); auto: prefetch with an accelerator, else host"
        },
    )

    def __post_init__(self) -> None:
        for name in ("steps", "meta_batch", "together", "halve_every", "validate_every", "checkpoint_every", "patience"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name}: expected 1 or more, got {value}")
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"workers: expected 0 or more, got {self.workers}")
        if self.lr <= 0 or (self.clip_norm is not None and self.clip_norm <= 0):
            raise ConfigError(f"lr and clip_norm: expected numbers above 0, got {self.lr} and {self.clip_norm}")
        if self.weight_decay < 0 or not 0 <= self.seed < 2**64:
            raise ConfigError(f"weight_decay and seed: expected 0 or more, got {self.weight_decay} and {self.seed}")

    def rate(self, step: int) -> float:
        """Learning rate of outer step `step`, 0-based."""
        if self.schedule == "halve":
            return self.lr * 0.5 ** (step // self.halve_every)
        if self.schedule == "linear":
            return self.lr * (1 - step / self.steps)
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.lr
