"""Trainer: the loop of meta-training, readable top to bottom. Devices and precision come from Lightning Fabric."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from episodes.adapters.pytorch import DeviceStream, prefetch, resident, to_torch
from episodes.episode import Episode
from episodes.errors import CheckpointError, ConfigError, StreamError
from episodes.rng import stream_key
from episodes.stream.series import SampledEpisodes
from episodes.stream.stream import Stream
from learners import checkpoint, ranks, units
from learners.fabric import make_fabric
from learners.metrics import MetricsLog
from learners.report import Report
from learners.scoring import scoring_of
from learners.settings import TrainConfig

TrainStream = Stream[Episode[NDArray[Any]]] | DeviceStream[Episode[Tensor]]
LAST, BEST = "last.ckpt", "best.ckpt"


class _MetaLoss(nn.Module):
    """`meta_loss` as the forward pass of a module, for Fabric takes care of the precision of these."""

    def __init__(self, learner: Any) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, episode: Episode[Tensor]) -> tuple[Tensor, dict[str, float]]:
        result = self.learner.meta_loss(episode)
        return result.loss, dict(result.values)


class Trainer:
    """Trains one learner in one run directory; an interrupted run goes on exactly where its last checkpoint stood.

    Writes ``metrics.jsonl`` (one object a step, one a validation), ``tensorboard/``, ``last.ckpt`` and ``best.ckpt`` (by
    validation). A checkpoint holds learner, optimizer, stream position, step, best score and torch's generators.

    Started by ``torchrun``, the processes share the episodes of every step, and rank 0 writes. Make the trainer before the
    stream, which then takes its rank from it. The number of processes may change on resume.

    Args:
        learner: an ``nn.Module`` that is a `MetaLearner`; moved to the device.
        method: its name, kept in checkpoints.
        config: settings.
        run: directory of the run.

    Raises:
        ConfigError: accelerator or precision cannot be used here; `meta_batch` is no multiple of the number of processes.
    """

    def __init__(self, learner: Any, method: str, config: TrainConfig, run: Path) -> None:
        self.config, self.method, self.run = config, method, run
        self.fabric = make_fabric(config.accelerator, config.precision)
        if config.meta_batch % ranks.world():
            raise ConfigError(
                f"meta_batch: expected a multiple of the {ranks.world()} processes, got {config.meta_batch} (it counts the "
                "episodes of an outer step over all of them)"
            )
        self.learner = learner
        kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.SGD
        optimizer = kind(learner.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self._loss, self.optimizer = self.fabric.setup(_MetaLoss(learner), optimizer)
        ranks.same_parameters(learner)
        self._statistics = ranks.RunningStatistics(learner)
        self.step = 0
        scoring = scoring_of(learner)
        self._lower_is_better = scoring is not None and scoring.lower_is_better
        self.best, self.best_step, self.worse = (math.inf if self._lower_is_better else -math.inf), 0, 0
        self._seconds, self._waited = 0.0, 0.0  # of the steps since `fit` began

    @property
    def workers(self) -> int:
        """Threads of the stream: as configured, else one where an accelerator leaves the CPU free."""
        return int(self.fabric.device.type != "cpu") if self.config.workers is None else self.config.workers

    def stream(self, series: Any) -> TrainStream:
        """The episodes of `series` for `fit`, made where the configuration says; close it after use.

        Raises:
            StreamError: the split does not fit on the device, or cannot be made there (``data="resident"``).
        """
        kind, device, block = self.config.data, self.fabric.device, self._together(series)
        if kind == "resident":
            return resident(series, device, block=block)
        if kind == "prefetch" or (kind == "auto" and device.type != "cpu"):
            return prefetch(series, device, workers=self.workers, block=block)
        return Stream(series, workers=self.workers, block=block)

    def _together(self, series: Any) -> int | None:
        """Episodes in one pass, None: one by one. Those of several sizes cannot be stacked; and ranks take turns episode
        by episode, so where batch norm keeps running statistics each must pass alone (`ranks.RunningStatistics`)."""
        each, most = self.config.meta_batch // ranks.world(), self.config.together
        alone = ranks.world() > 1 and self._statistics.kept
        even = isinstance(series, SampledEpisodes) and series.spec.fixed
        size = math.gcd(each, most or each)
        return size if even and not alone and size > 1 else None

    def fit(
        self,
        train: TrainStream,
        validate: Callable[[nn.Module], Report],
        *,
        resume: bool = False,
        progress: Callable[[int, int, str], None] = lambda step, steps, note: None,
    ) -> Report:
        """Train to the last step or until validation stops improving; returns the best validation report.

        The learner holds the best parameters afterwards.

        Raises:
            CheckpointError: `resume` without a readable checkpoint of this method; a loss that is not finite.
            ConfigError: the stream ends before the last step.
            StateMismatch: the checkpoint's stream drew other episodes.
            StreamError: the stream was made for another number of ranks.
        """
        config = self.config
        if resume:
            self._resume(train)
        self._check_length(train)
        log = MetricsLog(self.run if ranks.rank() == 0 else None, self.step)
        note, begin = "", time.perf_counter()
        if self.step < config.steps:
            train.series[_position(train)]  # kernels are compiled or loaded here, once, and not while a step is timed
        warm = time.perf_counter() - begin
        with log:
            while self.step < config.steps and not self._out_of_patience:
                values = self._step(train)
                log.write("train", self.step, {**values, "rate": config.rate(self.step - 1)})
                if self.step % config.validate_every == 0 or self.step == config.steps:
                    report = validate(self.learner)
                    self._validated(report, train)
                    log.write("val", self.step, {report.metric: report.mean, "interval95": report.interval95})
                    note = f"val {units.text(report.metric, report.mean)}"
                if self.step % config.checkpoint_every == 0 or self.step == config.steps or self._out_of_patience:
                    self._save(LAST, train)
                progress(self.step, config.steps, f"loss {values['loss']:.3f}  data {100 * self.data_share:.1f} %  {note}")
            spent = {"seconds": time.perf_counter() - begin, "warm_seconds": warm}
            log.write("time", self.step, {**spent, "data_share": self.data_share})
        state = ranks.first(lambda: checkpoint.load(self.run / BEST, self.method))
        self.learner.load_state_dict(state["learner"])
        return validate(self.learner)

    @property
    def data_share(self) -> float:
        """Share of the steps' time, since `fit` began, between asking for an episode and having it on the device."""
        return self._waited / self._seconds if self._seconds else 0.0

    def _step(self, train: TrainStream) -> dict[str, float]:
        """One outer step: the mean loss over a meta-batch, its gradient, an update."""
        begin, index, each = time.perf_counter(), _position(train), self.config.meta_batch // ranks.world()
        self.learner.train()
        if ranks.rank():  # noise of its own, by the step; rank 0 goes on as a single process does
            torch.manual_seed(stream_key("rank", self.config.seed, self.step, ranks.rank()) >> 1)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.step)
        self.optimizer.zero_grad()
        totals = {"data_seconds": 0.0}
        with self._statistics.step():
            done = 0
            while done < each:
                asked = time.perf_counter()
                episode = next(train) if isinstance(train, DeviceStream) else to_torch(next(train), self.fabric.device)
                totals["data_seconds"] += time.perf_counter() - asked
                share = len(episode.class_ids) / each
                done += len(episode.class_ids)
                with self._statistics.episode():
                    loss, values = self._loss(episode)
                self.fabric.backward(loss * share)
                for name, value in {"loss": float(loss.detach()), **values}.items():
                    totals[name] = totals.get(name, 0.0) + value * share
        if _position(train) != index + self.config.meta_batch:
            raise StreamError(
                f"the stream is not one of {ranks.world()} ranks; make it after the trainer, without rank, world"
            )
        totals = ranks.averaged(totals, self.fabric.device)
        if not math.isfinite(totals["loss"]):
            raise CheckpointError(
                f"loss is {totals['loss']} at step {self.step}; lower lr, or set clip_norm (run {self.run})"
            )
        self._update()
        seconds, waited = time.perf_counter() - begin, totals.pop("data_seconds")
        self._seconds, self._waited = self._seconds + seconds, self._waited + waited
        taken = {"first_index": index, "episodes": self.config.meta_batch}
        return {**totals, **taken, "seconds": seconds, "data_share": waited / seconds}

    def _update(self) -> None:
        ranks.average_gradients(list(self.learner.parameters()))
        if self.config.clip_norm is not None:
            self.fabric.clip_gradients(self._loss, self.optimizer, max_norm=self.config.clip_norm)
        self.optimizer.step()
        getattr(self.learner, "end_step", lambda: None)()
        self.step += 1
        if self.fabric.device.type == "cuda":  # or what is left of this step would look like waiting for the next data
            torch.cuda.synchronize(self.fabric.device)

    def _check_length(self, train: TrainStream) -> None:
        """Refuse a series that ends within the training."""
        length, left = getattr(train.series, "length", None), self.config.steps - self.step
        needed = _position(train) + left * self.config.meta_batch
        if length is not None and needed > length:
            raise ConfigError(
                f"steps: {self.config.steps} steps of {self.config.meta_batch} episodes need {needed} episodes, and the "
                f"series has {length} (lower steps or meta_batch, or take a policy without end)"
            )

    @property
    def _out_of_patience(self) -> bool:
        return self.config.patience is not None and self.worse >= self.config.patience

    def _validated(self, report: Report, train: TrainStream) -> None:
        """Keep the parameters if they are the best so far."""
        if self._is_best(report.mean):
            self.best, self.best_step, self.worse = report.mean, self.step, 0
            self._save(BEST, train)
        else:
            self.worse += 1

    def _is_best(self, mean: float) -> bool:
        if not self.best_step or math.isnan(self.best):  # an error may be no number until a method is past its beginning
            return True
        return mean < self.best if self._lower_is_better else mean > self.best

    def _save(self, name: str, train: TrainStream) -> None:
        state = {
            "method": self.method,
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "stream": train.state_dict(),
            "step": self.step,
            "best": self.best,
            "best_step": self.best_step,
            "worse": self.worse,
            "generator": torch.get_rng_state(),
            "device_generator": torch.cuda.get_rng_state(device) if (device := self.fabric.device).type == "cuda" else None,
        }
        ranks.first(lambda: checkpoint.save(self.run / name, state))

    def _resume(self, train: TrainStream) -> None:
        state = ranks.first(lambda: checkpoint.load(self.run / LAST, self.method))
        train.load_state_dict(state["stream"])
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best = state["step"], state["best"]
        self.best_step, self.worse = state["best_step"], state["worse"]
        torch.set_rng_state(state["generator"])
        if self.fabric.device.type == "cuda" and state["device_generator"] is not None:  # none of a run on a CPU
            torch.cuda.set_rng_state(state["device_generator"], self.fabric.device)


def _position(train: TrainStream) -> int:
    """The index that comes next over all ranks."""
    return int(train.state_dict()["next_index"])
