"""What a step of MAML costs beside a plain loop over tasks, in time and in memory.

    python benchmarks/gradient.py [--quick] [--clock cpu] [--threads N] [--device cuda] [--json FILE]

The plain loop is what one writes without this library: a Conv-4 as `nn.Sequential`, `torch.func.functional_call`, the inner
gradient by `torch.autograd.grad(create_graph=True)` task by task, torch's own convolution and batch norm, one `backward`
of the mean loss. Both have the same weights and the same tasks, and are checked to give the same loss and gradients before
they are timed. They take turns; a ratio is the median over such rounds. Memory is the highest of a step beyond what the
process had before it, in a process of its own (Linux).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain_maml import LARGE, WAYS, Case, Step, plain_loop, plain_net
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from episodes.bench import now
from episodes.bench.report import aligned, described, machine
from episodes.episode import Episode, Part
from episodes.protocols import FieldSpec
from learners.methods import maml
from learners.protocol import Inputs, adapted

CASES = (
    Case(name="28x28, strided", tasks=4),
    Case(name="28x28, strided", tasks=8),
    Case(name="28x28, strided", tasks=16, ways=("auto", "loop", "vmap")),
    Case(name="28x28, strided", tasks=32),
    Case(name="28x28, strided, first order", first_order=True),
    Case(name="28x28, strided, 5 inner steps", steps=5),
    Case(name="28x28, strided, support's statistics", tasks=4, batch_norm="support"),
    Case(name="28x28, strided, support's statistics", batch_norm="support"),
    Case(name="28x28, strided, evaluation, 10 steps", steps=10, evaluation=True),
    Case(name="84x84x3, max-pooling", shape=LARGE, tasks=4, ways=("auto", "loop", "vmap")),
    Case(name="84x84x3, max-pooling", shape=LARGE, tasks=8),
    Case(name="84x84x3, max-pooling, first order", shape=LARGE, tasks=4, first_order=True),
    Case(name="84x84x3, max-pooling, 5 inner steps", shape=LARGE, tasks=4, steps=5),
)
PEAKS = (
    Case(name="28x28, strided"),
    Case(name="28x28, strided, 5 inner steps", steps=5),
    Case(name="84x84x3, max-pooling", shape=LARGE, tasks=4),
    Case(name="84x84x3, max-pooling, 5 inner steps", shape=LARGE, tasks=4, steps=5),
)


def our_step(learner: maml.MAML, case: Case, episode: Episode[Tensor]) -> Callable[[], Tensor]:
    """The same by this library."""
    learner.train(not case.evaluation)

    def step() -> Tensor:
        if case.evaluation:
            with torch.no_grad():
                logits = adapted(learner, episode)(episode.query.fields)
                return F.cross_entropy(logits.flatten(0, 1), episode.query.labels.flatten())
        learner.zero_grad()
        loss = learner.meta_loss(episode).loss
        loss.backward()
        return loss.detach()

    return step


def steps_of(case: Case, device: str, dtype: torch.dtype = torch.float32) -> dict[str, tuple[nn.Module, Step]]:
    """Plain loop and this library's ways, with the same weights and tasks: the network, and a step of it."""
    torch.manual_seed(0)
    rate, queries = 0.1, 3
    rows = torch.rand(case.tasks, WAYS * (1 + queries), *case.shape).to(device, dtype)
    labels = torch.arange(WAYS, device=device).repeat(1 + queries).expand(case.tasks, -1).contiguous()
    parts = [
        Part(fields={"image": rows[:, at]}, labels=labels[:, at].contiguous(), rows=labels[:, at])
        for at in (slice(WAYS), slice(WAYS, None))
    ]
    ids = torch.zeros(case.tasks, WAYS, dtype=torch.int64)
    episode = Episode(index=0, class_ids=ids, variants=ids, support=parts[0], query=parts[1])
    net = plain_net(case).to(device, dtype)
    found: dict[str, tuple[nn.Module, Step]] = {"plain": (net, plain_loop(net, case, episode, rate))}
    for tasks in case.ways:
        options = maml.Options(
            backbone="conv4-stride-mean" if case.strided else "conv4",
            inner_steps=case.steps,
            test_steps=case.steps,
            inner_rate=rate,
            first_order=case.first_order,
            batch_norm=case.batch_norm,
            tasks=tasks,
        )
        learner = maml.make(options, Inputs(fields={"image": FieldSpec("float32", case.shape)})).to(device, dtype)
        with torch.no_grad():
            for ours, theirs in zip(learner.net.parameters(), net.parameters(), strict=True):
                ours.copy_(theirs)
        found[tasks] = learner.net, our_step(learner, case, episode)
    return found


def check(case: Case, device: str) -> None:
    """Raise unless all ways give the loss and the gradients of the plain loop, in float64, where rounding is no excuse."""
    found = steps_of(replace(case, tasks=2), device, torch.float64)
    results = []
    for net, step in found.values():
        loss = step()
        results.append([loss, *(p.grad for p in net.parameters() if p.grad is not None)])
    for way, result in zip(found, results, strict=True):
        for p, q in zip(results[0], result, strict=True):
            if not torch.allclose(p, q, rtol=1e-6, atol=1e-8):
                raise RuntimeError(f"{case}: {way} and the plain loop differ by {float((p - q).abs().max())}")


def measured(case: Case, rounds: int, clock: Any, device: str) -> dict[str, Any]:
    """Milliseconds of each way and its ratio to the plain loop, medians over rounds."""
    check(case, device)
    steps = {name: step for name, (_, step) in steps_of(case, device).items()}
    times = []
    for _ in range(rounds + 1):
        row = []
        for step in steps.values():
            begin = now(clock)
            step()
            if device != "cpu":
                torch.cuda.synchronize()
            row.append(now(clock) - begin)
        times.append(row)
    taken = np.array(times[1:])  # the first round warms up
    ratios = np.median(taken / taken[:, :1], axis=0)
    ms = 1000 * np.median(taken, axis=0)
    return {name: {"ms": float(t), "ratio": float(r)} for name, t, r in zip(steps, ms, ratios, strict=True)}


def peak(case: Case, way: str) -> float:
    """Highest memory of one step, MB, beyond that of the process before it."""
    done = subprocess.run(
        [sys.executable, __file__, "--peak", json.dumps(asdict(case)), way], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def _peak(case: Case, way: str) -> float:
    _, step = steps_of(replace(case, ways=(way,) if way != "plain" else ()), "cpu")[way]
    steps_of(replace(case, tasks=1), "cpu")["plain"][1]()  # what is loaded and set up once

    def resident(key: str) -> int:
        found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
        return int(found[1]) if found else 0

    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the highest so far is forgotten
    before = resident("VmRSS")
    step()
    return (resident("VmHWM") - before) / 1000


def main() -> int:
    """Measure, print tables; exit code 0 whatever was met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="hardly more than whether it runs")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: by processor time")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    parser.add_argument("--json", type=Path, help="file to write, one JSON object")
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "WAY"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.peak:
        values = json.loads(given.peak[0])
        print(_peak(Case(**values | {"shape": tuple(values["shape"])}), given.peak[1]))
        return 0
    begin, found = time.perf_counter(), []
    for case in CASES:
        case = replace(case, tasks=2) if given.quick else case
        print(f"{case.name}, {case.tasks} tasks ...", file=sys.stderr, flush=True)
        found.append((case, measured(case, 1 if given.quick else 7, given.clock, given.device)))
    peaks = []
    if sys.platform.startswith("linux") and given.device == "cpu":
        for case in PEAKS[: 1 if given.quick else None]:
            both = (case, replace(case, first_order=True))
            peaks.append((case, {way: [peak(one, way) for one in both] for way in ("plain", "auto")}))
    about = machine() | {"clock": given.clock, "threads": given.threads, "quick": given.quick, "device": given.device}
    print(table(found, peaks, about))
    if given.json:
        result = {
            "about": about,
            "steps": [asdict(case) | {"found": one} for case, one in found],
            "memory_mb": [asdict(case) | {"found": one} for case, one in peaks],
            "seconds": time.perf_counter() - begin,
        }
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def table(found: list[tuple[Case, Any]], peaks: list[tuple[Case, Any]], about: dict[str, Any]) -> str:
    """What was measured, as lines."""
    rows = [["", "tasks", "plain, ms", "here, ms", "ratio", "loop", "vmap"]]
    for case, one in found:
        others = [f"{one[way]['ratio']:.2f}x" if way in one else "" for way in ("loop", "vmap")]
        times = [f"{one[way]['ms']:,.0f}" for way in ("plain", "auto")]
        rows.append([case.name, str(case.tasks), *times, f"{one['auto']['ratio']:.2f}x", *others])
    memory = [["memory of a step, MB: second, first order", "tasks", "plain", "here"]]
    for case, one in peaks:
        memory.append([case.name, str(case.tasks), *(", ".join(f"{mb:,.0f}" for mb in both) for both in one.values())])
    clock = "" if about["clock"] == "wall" else "; by processor time"
    lines = [f"{described(about)}; torch threads {about['threads']}{clock}", "", *aligned(rows)]
    return "\n".join([*lines, "", *aligned(memory)] if peaks else lines)


if __name__ == "__main__":
    sys.exit(main())
