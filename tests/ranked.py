"""A training that writes down which episodes each rank took: ``python ranked.py RUN STOP``, alone or under torchrun."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import episodes
from episodes.errors import ConfigError
from learners import ranks
from learners.charts import Chart, Line
from learners.methods import protonet
from learners.protocol import Inputs
from learners.report import evaluate
from learners.settings import TrainConfig
from learners.testing import separable_world
from learners.trainer import Trainer

SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=4)
CONFIG = TrainConfig(steps=9, meta_batch=6, validate_every=3, checkpoint_every=1, lr=1e-3, accelerator="cpu")


class Watched(protonet.ProtoNet):
    """Keeps the indices of its training episodes. One of its parameters is in the loss of every fifth episode only, one
    in none."""

    def __init__(self) -> None:
        super().__init__(protonet.Options(width=8), Inputs(fields=separable_world().fields))
        self.sometimes, self.never = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
        self.seen: list[int] = []
        self.register_buffer("middle", torch.zeros(1))

    def meta_loss(self, episode):
        self.seen.append(episode.index)
        result = super().meta_loss(episode)
        loss = result.loss + self.sometimes.square().sum() if episode.index % 5 == 0 else result.loss
        return type(result)(loss=loss, values=result.values)

    def end_step(self) -> None:
        """The mean index of the step's episodes, of all ranks."""
        each = CONFIG.meta_batch // ranks.world()
        self.middle.copy_(*ranks.average([torch.tensor(self.seen[-each:]).float().mean()]))

    def charts(self, episodes):
        """The first query of each episode it is shown."""
        y = [int(row) for episode in episodes for row in episode.query.rows[:, 0]]
        return [Chart(title="seen", x="episode", y="row", lines={"query": Line(x=range(len(y)), y=y)}, caption="")]


def train(run: Path, stop: int | None, config: TrainConfig = CONFIG) -> dict[str, object]:
    """Go on with the run, or begin it; up to `stop`."""
    torch.manual_seed(0)
    world, learner = separable_world(), Watched()
    trainer = Trainer(learner, "protonet", config, run)
    series = episodes.sample(world, "test", SPEC, length=7)
    stopped = False

    def progress(step: int, steps: int, note: str) -> None:
        if step == stop:
            raise InterruptedError

    stream = episodes.Stream(episodes.sample(world, "train", SPEC))
    try:
        trainer.fit(
            stream,
            lambda module: evaluate(module, series, method="protonet"),
            resume=(run / "last.ckpt").exists(),
            progress=progress,
        )
    except InterruptedError:
        stopped = True
    report = evaluate(learner, series, method="protonet")
    return {
        "rank": ranks.rank(),
        "world": ranks.world(),
        "stopped": stopped,
        "seen": learner.seen,
        "per_episode": report.per_episode.tolist(),
        "audited": report.audit.queries,
        "charts": [chart.to_table() for chart in report.charts],
        "never": learner.never.grad is None,
    }


def statistics() -> list[list[float]]:
    """Mean, variance and count of a batch norm whose batches these ranks share, and of one that sees all in turn."""
    norm, twin = (torch.nn.BatchNorm1d(1, momentum=0.3) for _ in range(2))
    shared, each = ranks.RunningStatistics(norm), 2
    batches = [torch.arange(4.0)[:, None] * (1 + i) + 10 * i for i in range(2 * each * ranks.world())]
    for batch in batches:
        twin(batch), twin(batch + 1)  # two updates an episode
    for step in range(2):
        with shared.step():
            for turn in range(each):
                with shared.episode():
                    batch = batches[(step * each + turn) * ranks.world() + ranks.rank()]
                    norm(batch), norm(batch + 1)
    return [[float(values) for values in one.buffers()] for one in (norm, twin)]


def refused(run: Path) -> str:
    """Why a meta-batch of 5 episodes cannot be shared by these ranks."""
    from dataclasses import replace

    try:
        Trainer(Watched(), "protonet", replace(CONFIG, meta_batch=5), run)
    except ConfigError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    directory, until = Path(sys.argv[1]), int(sys.argv[2])
    found = {**train(directory, until), "refused": refused(directory), "statistics": statistics()}
    (directory / f"{until}-{found['rank']}.json").write_text(json.dumps(found))
    ranks.close()
