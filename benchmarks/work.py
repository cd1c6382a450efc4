"""Targets of drawing, conversion, ingest, memory and the first episode."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import sampling
import stores
import torch
import transforms
from delivery import PHOTO, Rows, Run
from PIL import Image

from episodes.bench import Case
from episodes.readers import folder
from episodes.store._cache import available_bytes

FIRST = """
import sys, time
clock = getattr(time, sys.argv[2])
begin = clock()
import episodes
light = clock() - begin
from episodes.stream.stream import Stream
from episodes.stream import series
from episodes.sampling import uniform
imported = clock() - begin
begin = clock()
from numba.core.registry import cpu_target
cpu_target.typing_context.refresh()
cpu_target.target_context.refresh()
put_off = clock() - begin
times = []
for _ in range(2):
    begin = clock()
    store = episodes.open(sys.argv[1])
    one = episodes.sample(store, "train", episodes.EpisodeSpec(ways=5, shots=1, queries=15))
    with Stream(one) as stream:
        next(stream).query.fields["image"].sum()
    times.append(clock() - begin)
print(light, imported, put_off, *times)
"""
SMALLER, FULL = 2_000_000_000, 10_000_000_000  # bytes of a store to open; the larger where there is room for it


def drawing(run: Run) -> Rows:
    """Philox against ``Generator.choice``."""
    with redirect_stdout(sys.stderr):
        found = sampling.main()
    (block, block_numpy, drawn), (single, single_numpy, _) = found["block"], found["single"]
    meta, _, meta_drawn = found["meta-dataset"]
    return [
        ("drawing, block, a drawn index", 1e9 * block / drawn, 9, "ns", False),
        ("drawing, block, to Generator.choice", block_numpy / block, 50),
        ("drawing, one kernel call, to Generator.choice", single_numpy / single, 25),
        ("Meta-Dataset flat with rows, a drawn index", 1e9 * meta / meta_drawn, 10, "ns", False),
    ]


def floats(run: Run) -> Rows:
    """Fused float32 against the gather alone and against torch; by processor time of the thread."""
    threads, rounds = torch.get_num_threads(), transforms.ROUNDS
    torch.set_num_threads(1)
    transforms.ROUNDS = 2 if run.quick else 9
    out: Rows = []
    for num in (80, 320):
        case = transforms.Case(PHOTO, num)
        fused = case.fused(transforms.CASES[transforms.FLOAT])
        calls: dict[str, Callable[[Any], Any]] = {"gather": case.gather, "fused": fused}
        times = transforms.medians(calls | {"reused": case.reused, "fresh": case.fresh}, case.batches)
        title = f"84x84x3, {num} a message, float32"
        out.append((f"{title}, to the uint8 gather", times["gather"] / times["fused"], 0.5))
        out.append((f"{title}, to torch in reused memory", times["reused"] / times["fused"], 1.7))
        out.append((f"{title}, to torch in fresh memory", times["fresh"] / times["fused"], 8))
    transforms.ROUNDS = rounds
    torch.set_num_threads(threads)
    return out


def ingest(run: Run) -> Rows:
    """JPEG files of 64 x 64 to pixels of 84 x 84: what the folder reader does, against Pillow alone."""
    rng, root, files = np.random.Generator(np.random.Philox(6)), run.folder / "jpeg", []
    for i in range(40 if run.quick else 200):
        soft = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        noisy = np.clip(np.asarray(soft) + rng.normal(0, 6, (64, 64, 3)), 0, 255).astype(np.uint8)
        files.append(root / f"class{i % 4}" / f"{i:03d}.jpg")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(files[-1], quality=90, subsampling=2)
    samples = folder.make(root, folder.Options(size=84)).listing().samples

    def read(calls: int) -> int:
        for i in range(calls):
            samples[i % len(samples)].load()
        return calls

    def pillow(calls: int) -> int:
        for i in range(calls):
            image = Image.open(io.BytesIO(files[i % len(files)].read_bytes())).convert("RGB")
            np.ascontiguousarray(np.asarray(image.resize((84, 84), Image.Resampling.BILINEAR)).transpose(2, 0, 1))
        return calls

    cases = [Case(name="reader", role="stream", run=read), Case(name="pillow", role="kernel", run=pillow)]
    return [("ingest, JPEG 64x64 to 84x84, to Pillow", run.measure(cases)["reader"].ratios["kernel"], 4)]


def memory(run: Run) -> Rows:
    """Memory beyond the store over a million episodes, as `soak.py` sees it in a process of its own."""
    if not sys.platform.startswith("linux"):
        run.notes.append("memory is read from /proc: left out on this system")
        return []
    num = 20_000 if run.quick else 1_000_000
    command = [sys.executable, str(Path(__file__).with_name("soak.py")), "--episodes", str(num)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    used = [one["beyond_before_mb"] for one in found]
    slots = [one["slots_mb"] for one in found]
    left = [abs(one[name][2] - one[name][0]) for one in found for name in ("handles", "threads")]
    title = f"{num:,} episodes, worst of {len(found)} streams"
    return [
        (
            f"memory beyond store and slots, {title}",
            max(max(u) - s for u, s in zip(used, slots, strict=True)),
            100,
            "MB",
            False,
        ),
        (f"growth after the first tenth, {title}", max(max(u) - u[0] for u in used), 5, "MB", False),
        (f"handles and threads left, {title}", sum(left), 0, "", False),
    ]


def first(run: Run) -> Rows:
    """From opening a large store to its first episode, in a fresh process with the compiled code on disk."""
    room = min(available_bytes() or 0, shutil.disk_usage(run.folder).free)
    size = SMALLER // 20 if run.quick else FULL if room > 1.5 * FULL else SMALLER
    classes = size // (int(np.prod(PHOTO)) * 500)
    path = stores.write(run.folder / "first.store", PHOTO, classes, 500)
    texts, clock = [], "process_time" if run.clock == "cpu" else "perf_counter"
    for _ in range(3 if run.quick else 7):
        command = [sys.executable, "-c", FIRST, str(path), clock]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        texts.append([float(one) for one in text.split()])
    light, imported, put_off, fresh, again = np.median(texts, axis=0)
    run.notes.append(
        f"first episode: a store of {size / 1e9:.1f} GB; imports before it {imported:.2f} s, of which `import episodes` "
        f"{light:.3f} s, and {put_off:.2f} s that numba puts off until its first call (SciPy's, too, where it is installed)"
    )
    shutil.rmtree(path)
    return [
        ("first episode of a large store, fresh process", float(fresh), 0.3, "s", False),
        ("first episode of a large store, code loaded", float(again), 0.3, "s", False),
    ]
