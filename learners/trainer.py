"""Trainer: the loop of meta-training, readable top to bottom. Devices and precision come from Lightning Fabric."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from episodes.adapters.pytorch import to_torch
from episodes.episode import Episode
from episodes.errors import CheckpointError, ConfigError
from episodes.stream.stream import Stream
from learners import checkpoint
from learners.report import Report

LAST, BEST = "last.ckpt", "best.ckpt"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of the outer loop."""

    steps: int = field(default=2000, metadata={"help": "outer steps"})
    meta_batch: int = field(default=1, metadata={"help": "episodes per outer step"})
    lr: float = field(default=1e-3, metadata={"help": "learning rate of Adam"})
    schedule: Literal["constant", "halve", "cosine"] = field(
        default="cosine", metadata={"help": "constant rate, halved every --halve-every steps, or cosine down to 0"}
    )
    halve_every: int = field(default=2000, metadata={"help": "steps between halvings"})
    weight_decay: float = field(default=0.0, metadata={"help": "weight decay of Adam"})
    clip_norm: float | None = field(default=None, metadata={"help": "largest norm of the gradient"})
    validate_every: int = field(default=500, metadata={"help": "steps between validations"})
    patience: int | None = field(default=None, metadata={"help": "validations without a better one before stopping early"})
    checkpoint_every: int = field(default=100, metadata={"help": "steps between checkpoints"})
    seed: int = field(default=0, metadata={"help": "of the initial weights"})
    accelerator: str = field(default="auto", metadata={"help": "cpu, cuda, mps or auto"})
    precision: str = field(default="32-true", metadata={"help": "32-true, bf16-mixed, 16-mixed, ..."})

    def __post_init__(self) -> None:
        for name in ("steps", "meta_batch", "halve_every", "validate_every", "checkpoint_every", "patience"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name}: expected 1 or more, got {value}")
        if self.lr <= 0 or (self.clip_norm is not None and self.clip_norm <= 0):
            raise ConfigError(f"lr and clip_norm: expected numbers above 0, got {self.lr} and {self.clip_norm}")
        if self.weight_decay < 0 or not 0 <= self.seed < 2**64:
            raise ConfigError(f"weight_decay and seed: expected 0 or more, got {self.weight_decay} and {self.seed}")

    def rate(self, step: int) -> float:
        """Learning rate of outer step `step`, 0-based."""
        if self.schedule == "halve":
            return self.lr * 0.5 ** (step // self.halve_every)
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.lr


class Trainer:
    """Trains one learner in one run directory; an interrupted run goes on exactly where its last checkpoint stood.

    Writes ``metrics.jsonl`` (one object a step, one a validation), ``tensorboard/``, ``last.ckpt`` and ``best.ckpt`` (by
    validation). A checkpoint holds learner, optimizer, stream position, step, best score and torch's generator.

    Args:
        learner: an ``nn.Module`` that is a `MetaLearner`; moved to the device.
        method: its name, kept in checkpoints.
        config: settings.
        run: directory of the run.
    """

    def __init__(self, learner: Any, method: str, config: TrainConfig, run: Path) -> None:
        self.config, self.method, self.run = config, method, run
        self.fabric = make_fabric(config.accelerator, config.precision)
        optimizer = torch.optim.Adam(learner.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.learner, self.optimizer = self.fabric.setup(learner, optimizer)
        self.learner.mark_forward_method("meta_loss")  # so that precision and gradients go through Fabric
        self.step = 0
        self.best, self.best_step, self.worse = -math.inf, 0, 0

    def fit(
        self,
        train: Stream[Episode[NDArray[Any]]],
        validate: Callable[[nn.Module], Report],
        *,
        resume: bool = False,
        progress: Callable[[int, int, str], None] = lambda step, steps, note: None,
    ) -> Report:
        """Train to the last step or until validation stops improving; returns the best validation report.

        The learner holds the best parameters afterwards.

        Raises:
            CheckpointError: `resume` without a readable checkpoint of this method; a loss that is not finite.
            StateMismatch: the checkpoint's stream drew other episodes.
        """
        config = self.config
        if resume:
            self._resume(train)
        log = MetricsLog(self.run, self.step)
        note, begin = "", time.perf_counter()
        with log:
            while self.step < config.steps:
                values = self._step(train)
                log.write("train", self.step, {**values, "rate": config.rate(self.step - 1)})
                stopped = False
                if self.step % config.validate_every == 0 or self.step == config.steps:
                    report = validate(self.learner.module)
                    stopped = self._validated(report, train)
                    log.write("val", self.step, {"accuracy": report.mean, "interval95": report.interval95})
                    note = f"val {100 * report.mean:.2f} %"
                if self.step % config.checkpoint_every == 0 or self.step == config.steps or stopped:
                    self._save(LAST, train)
                progress(self.step, config.steps, f"loss {values['loss']:.3f}  {note}")
                if stopped:
                    break
            log.write("time", self.step, {"seconds": time.perf_counter() - begin})
        self.learner.module.load_state_dict(checkpoint.load(self.run / BEST, self.method)["learner"])
        return validate(self.learner.module)

    def _step(self, train: Stream[Episode[NDArray[Any]]]) -> dict[str, float]:
        """One outer step: the mean loss over a meta-batch, its gradient, an update."""
        self.learner.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.step)
        self.optimizer.zero_grad()
        totals: dict[str, float] = {}
        for _ in range(self.config.meta_batch):
            result = self.learner.meta_loss(to_torch(next(train), self.fabric.device))
            loss = float(result.loss.detach())
            if not math.isfinite(loss):
                raise CheckpointError(f"loss is {loss} at step {self.step}; lower lr, or set clip_norm (run {self.run})")
            self.fabric.backward(result.loss / self.config.meta_batch)
            for name, value in {"loss": loss, **result.values}.items():
                totals[name] = totals.get(name, 0.0) + value / self.config.meta_batch
        if self.config.clip_norm is not None:
            self.fabric.clip_gradients(self.learner, self.optimizer, max_norm=self.config.clip_norm)
        self.optimizer.step()
        self.step += 1
        return totals

    def _validated(self, report: Report, train: Stream[Episode[NDArray[Any]]]) -> bool:
        """Keep the parameters if they are the best so far; True when patience is over."""
        if report.mean > self.best:
            self.best, self.best_step, self.worse = report.mean, self.step, 0
            self._save(BEST, train)
        else:
            self.worse += 1
        return self.config.patience is not None and self.worse >= self.config.patience

    def _save(self, name: str, train: Stream[Episode[NDArray[Any]]]) -> None:
        checkpoint.save(
            self.run / name,
            {
                "method": self.method,
                "learner": self.learner.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "stream": train.state_dict(),
                "step": self.step,
                "best": self.best,
                "best_step": self.best_step,
                "worse": self.worse,
                "generator": torch.get_rng_state(),
            },
        )

    def _resume(self, train: Stream[Episode[NDArray[Any]]]) -> None:
        state = checkpoint.load(self.run / LAST, self.method)
        train.load_state_dict(state["stream"])
        self.learner.module.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best = state["step"], state["best"]
        self.best_step, self.worse = state["best_step"], state["worse"]
        torch.set_rng_state(state["generator"])


class MetricsLog:
    """``metrics.jsonl`` and TensorBoard events of a run; lines after `step`, from before an interruption, are dropped."""

    def __init__(self, run: Path, step: int) -> None:
        path = run / "metrics.jsonl"
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= step] if step else []
        path.write_text("".join(kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """One line: ``{"kind": "train", "step": 1, "loss": ...}``."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(f"{kind}/{name}", value, step)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._events.close()


def _lines(path: Path) -> list[str]:
    """Whole lines of a log; a line cut short by a kill has no newline and is left out."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def make_fabric(accelerator: str, precision: str) -> Fabric:
    """Fabric on one device.

    Raises:
        ConfigError: no such accelerator or precision here.
    """
    try:
        return Fabric(accelerator=accelerator, devices=1, precision=precision)  # type: ignore[arg-type]  # checked by Fabric
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"accelerator '{accelerator}' with precision '{precision}' cannot be used: {error}") from error
