"""What the trainer costs beside a plain PyTorch loop, and how fast precomputed vectors are scored.

    python benchmarks/training.py [--quick] [--clock cpu] [--json FILE]

The plain loop is what one writes without this library: images as one tensor in memory, rows by ``randperm`` and an index,
the same backbone, loss and Adam, nothing logged. It runs within the trainer's own loop, a step of one after a step of the
other, so that both meet the same machine; a ratio is the median over such pairs. The trainer's step has everything that a
run has: drawing and gathering episodes, batch norm episode by episode, the log in two formats. Evaluation scores ProtoNet
on vectors of 64 numbers, with everything a report holds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import stores
import torch
from torch import nn

import episodes
from episodes.bench import now
from episodes.bench.report import aligned, described, machine
from episodes.store.memory import MemoryStore
from learners.backbones import Conv4
from learners.methods import protonet
from learners.origin import inputs_of
from learners.report import evaluate
from learners.settings import TrainConfig
from learners.trainer import Trainer

ROWS = 20  # of a class
MOST_RATIO, MOST_SHARE, LEAST_RATE = 1.1, 0.02, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A size of step."""

    name: str
    shape: tuple[int, ...]
    classes: int
    spec: episodes.EpisodeSpec
    steps: int


CASES = (
    Case(
        name="28x28, 5-way 1-shot 15-query",
        shape=(1, 28, 28),
        classes=1000,
        spec=episodes.EpisodeSpec(ways=5, shots=1, queries=15),
        steps=150,
    ),
    Case(
        name="28x28, 60-way 1-shot 5-query",
        shape=(1, 28, 28),
        classes=1000,
        spec=episodes.EpisodeSpec(ways=60, shots=1, queries=5),
        steps=40,
    ),
    Case(
        name="84x84x3, 5-way 5-shot 15-query",
        shape=(3, 84, 84),
        classes=64,
        spec=episodes.EpisodeSpec(ways=5, shots=5, queries=15),
        steps=20,
    ),
)


def plain_loop(images: torch.Tensor, spec: episodes.EpisodeSpec) -> Callable[[], None]:
    """One step of ProtoNet on Conv-4 as it is written by hand; `images` [classes, ROWS, C, H, W] uint8."""
    backbone = Conv4(tuple(images.shape[2:])).train()
    optimizer = torch.optim.Adam(backbone.parameters(), lr=1e-3)
    ways, shots, queries = spec.ways.low, spec.shots.low, spec.queries.low
    labels = torch.arange(ways).repeat_interleave(queries)

    def step() -> None:
        classes = torch.randperm(len(images))[:ways]
        rows = torch.stack([torch.randperm(ROWS)[: shots + queries] for _ in range(ways)])
        inputs = images[classes[:, None], rows].flatten(0, 1).float() / 255
        features = backbone(inputs).view(ways, shots + queries, -1)
        prototypes, asked = features[:, :shots].mean(1), features[:, shots:].flatten(0, 1)
        logits = -((asked[:, None] - prototypes[None]) ** 2).sum(-1)
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def pairs(case: Case, folder: Path, clock: Any) -> dict[str, float]:
    """Steps of both in turns: seconds of each, the ratio, and the share that the trainer waited for data."""
    pixels = stores.pixels(case.shape, case.classes * ROWS)
    names = [f"class{c:04d}" for c in range(case.classes)]
    store = MemoryStore({"image": pixels}, dict.fromkeys(names, ROWS), splits={"bench": {"train": names}})
    series = episodes.sample(store, "train", case.spec)
    plain = plain_loop(torch.from_numpy(pixels).view(case.classes, ROWS, *case.shape), case.spec)
    config = TrainConfig(
        steps=case.steps + 3, validate_every=10**6, checkpoint_every=10**6, accelerator="cpu", schedule="constant"
    )
    trainer = Trainer(protonet.make(protonet.Options(), inputs_of(series)), "protonet", config, folder)
    times: list[tuple[float, float]] = []
    last = [0.0]

    def between(step: int, steps: int, note: str) -> None:
        middle = now(clock)
        plain()
        end = now(clock)
        if 2 < step < steps:  # the first steps warm up, the last one validates and saves
            times.append((middle - last[0], end - middle))
        last[0] = now(clock)

    validated = episodes.sample(store, "train", case.spec, length=2)
    with trainer.stream(series) as stream:
        trainer.fit(stream, lambda module: evaluate(module, validated, method="protonet"), progress=between)
    ours, theirs = np.array(times).T
    return {
        "trainer_ms": 1000 * float(np.median(ours)),
        "plain_ms": 1000 * float(np.median(theirs)),
        "ratio": float(np.median(ours / theirs)),
        "data_share": trainer.data_share,
        "steps": len(times),
    }


def vectors(num: int, rounds: int, clock: Any) -> dict[str, float]:
    """Scoring ProtoNet on vectors, 5-way 1-shot 15-query: episodes a second, as a whole and of the method alone."""
    rng = np.random.Generator(np.random.Philox(5))
    classes, rows, dims = 20, 600, 64
    means = rng.normal(0, 0.5, (classes, 1, dims))
    values = (means + rng.normal(0, 1, (classes, rows, dims))).astype(np.float32).reshape(-1, dims)
    names = [f"class{c:02d}" for c in range(classes)]
    store = MemoryStore({"image": values}, dict.fromkeys(names, rows), splits={"bench": {"test": names}})
    series = episodes.sample(store, "test", episodes.EpisodeSpec(ways=5, shots=1, queries=15), length=num)
    learner = protonet.make(protonet.Options(), inputs_of(series))
    rates, head = [], []
    for _ in range(rounds + 1):
        begin = now(clock)
        report = evaluate(learner, series, method="protonet")
        rates.append(num / (now(clock) - begin))
        head.append(1 / (report.timing.adapt_seconds + report.timing.predict_seconds))
    return {"episodes_per_s": float(np.median(rates[1:])), "method_episodes_per_s": float(np.median(head[1:]))}


def main() -> int:
    """Measure, print a table; exit code 0 whatever was met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="hardly more than whether it runs")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: by processor time")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--json", type=Path, help="file to write, one JSON object")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    begin, found = time.perf_counter(), {}
    for case in CASES:
        print(f"{case.name} ...", file=sys.stderr, flush=True)
        few = replace(case, steps=3) if given.quick else case
        with tempfile.TemporaryDirectory(prefix="episodes-bench-") as folder:
            found[case.name] = pairs(few, Path(folder), given.clock)
    scored = vectors(200 if given.quick else 10_000, 1 if given.quick else 5, given.clock)
    about = machine() | {"clock": given.clock, "threads": given.threads, "quick": given.quick}
    print(table(found, scored, about))
    if given.json:
        result = {"about": about, "training": found, "vectors": scored, "seconds": time.perf_counter() - begin}
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def table(found: dict[str, dict[str, float]], scored: dict[str, float], about: dict[str, Any]) -> str:
    """What was measured, as lines."""
    rows = [["", "trainer, ms", "plain, ms", "ratio", "target", "waiting for data", "target"]]
    for name, one in found.items():
        share = f"{100 * one['data_share']:.2f} %"
        times = [f"{one['trainer_ms']:.1f}", f"{one['plain_ms']:.1f}", f"{one['ratio']:.2f}x", f"<= {MOST_RATIO:g}x"]
        rows.append([name, *times, share, f"<= {100 * MOST_SHARE:g} %"])
    lines = [
        f"scoring vectors, 5-way 1-shot 15-query: {scored['episodes_per_s']:,.0f} episodes/s (target {LEAST_RATE:,}); "
        f"adapting and predicting alone {scored['method_episodes_per_s']:,.0f}"
    ]
    clock = "" if about["clock"] == "wall" else "; by processor time"
    return "\n".join([f"{described(about)}; torch threads {about['threads']}{clock}", "", *aligned(rows), "", *lines])


if __name__ == "__main__":
    sys.exit(main())
