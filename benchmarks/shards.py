"""Episode shards against raw bytes, ``tarfile`` and webdataset, written and read in turns in one run.

    python benchmarks/shards.py [--quick] [--folder DIR] [--clock cpu] [--json]

What is compared is told in `shard_ways`. Figures are medians of rounds, ratios medians of the ratios within a round. Needs
webdataset. `targets` is the part of it that ``make benchmark`` runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import stores
from delivery import FIXED, PHOTO, SMALL, Rows, Run
from shard_ways import BYTES, Ways, World, by_webdataset, compiling, reading, writing

import episodes
from episodes.bench import Case, Clock, Measured, measure
from episodes.bench.report import aligned, described, machine
from episodes.store.mapped import MappedStore

SHAPES = {"28x28": SMALL, "84x84x3": PHOTO}
TARGETS = {  # group -> (way, reference, least ratio)
    "write": [
        ("shard, with its SHA-256", "webdataset's writer", 1.5),
        ("shard, with its SHA-256", "webdataset's writer, then SHA-256", None),
        ("shard, with its SHA-256", "tarfile", None),
        ("shard, with its SHA-256", "raw values", None),
    ],
    "compile": [
        ("compile, 1 worker", "series and webdataset's writer", None),
        ("compile, 2 workers", "series and webdataset's writer", 1.5),
    ],
    "read": [
        ("views of the mapped file", "webdataset", 8),
        ("views, every byte then copied", "webdataset, every byte then copied", None),
        ("stream", "webdataset", None),
        ("stream, blocks of 16", "webdataset", None),
        ("by index, in random order", "webdataset", None),
        ("the store, stream", "stream", None),
    ],
}
GROUPS = {"write": writing, "compile": compiling, "read": reading}


def targets(run: Run) -> Rows:
    """Compiling and reading one shard of 84 x 84 x 3, from the store and in the page cache."""
    if find_spec("webdataset") is None:
        run.notes.append("webdataset is not installed: nothing to compare episode shards with")
        return []
    world, one = _world(run.store(PHOTO, 64, 150), PHOTO, run.quick, run.folder / "shards"), run.settings
    out: Rows = []
    for title, ways, way, other, least in [
        (
            "writing episode shards, to webdataset's writer",
            compiling,
            "compile, 1 worker",
            "series and webdataset's writer",
            1.5,
        ),
        ("reading episode shards, to webdataset's reader", reading, "stream", "webdataset", 8),
    ]:
        pair = {name: call for name, call in ways(world).items() if name in (way, other)}
        measured = _measured(pair, world.count, one.rounds, one.seconds, one.clock)
        out.append((f"84x84x3, {title}", ratio(measured, way, other), least))
    held = sizes(world)
    size = held["shard"] / held["raw values"]
    return [*out, ("84x84x3, bytes of episode shards, to those of the values", size, 1.01, "x", False)]


def _world(store: MappedStore, shape: tuple[int, ...], quick: bool, folder: Path) -> World:
    series = episodes.sample(store, "train", FIXED)
    return World(series, max(2, BYTES // (20 if quick else 1) // (80 * math.prod(shape))), folder)


def _measured(ways: Ways, count: int, rounds: int, seconds: float, clock: Clock) -> dict[str, Measured]:
    cases = [Case(name=name, role="stream", run=_calls(call, count)) for name, call in ways.items()]
    return measure(cases, rounds, seconds, clock)


def ratio(measured: dict[str, Measured], one: str, other: str) -> float:
    """Median over rounds of the ratio within a round."""
    pairs = zip(measured[one].rounds, measured[other].rounds, strict=True)
    return statistics.median(a / b for a, b in pairs)


def sizes(world: World) -> dict[str, float]:
    """Bytes of an episode: of its values, of a shard, of webdataset's file."""
    size = world.shards.manifest.shards[0].size / world.shards.manifest.shards[0].episodes
    by_webdataset(world, path := world.folder / "written", world.ready)
    return {"raw values": world.series.episode_bytes, "shard": size, "webdataset": path.stat().st_size / world.count}


def run(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All that was measured."""
    out: dict[str, Any] = {}
    rounds, seconds = (2, 0.02) if given.quick else (given.rounds, 1.0)
    for title, shape in SHAPES.items():
        store = episodes.open(stores.write(folder / title / "store", shape, 100, 20))
        world = _world(store, shape, given.quick, folder / title)
        out[title] = {"bytes": sizes(world)}
        for name, ways in GROUPS.items():
            print(f"{title}: {name} ...", file=sys.stderr, flush=True)
            measured = _measured(ways(world), world.count, rounds, seconds, given.clock)
            out[title][name] = {n: one.images_per_s for n, one in measured.items()}
            out[title][f"{name} ratios"] = [[*t, ratio(measured, t[0], t[1])] for t in TARGETS[name]]
            gc.collect()
    return out


def _calls(call: Callable[[], object], count: int) -> Callable[[int], int]:
    def several(calls: int) -> int:
        for _ in range(calls):
            call()
        return calls * count

    return several


def table(found: dict[str, Any]) -> list[str]:
    """As lines."""
    lines: list[str] = []
    for title, one in found.items():
        held = one["bytes"]
        rows = [[f"{title}: bytes of an episode", "", "to raw values"]]
        rows += [[f"  {name}", f"{size:,.0f}", f"{size / held['raw values']:.4f}"] for name, size in held.items()]
        for name in GROUPS:
            rows += [["", "", ""], [f"{title}: {name}", "episodes/s", "MB/s"]]
            rows += [
                [f"  {way}", f"{rate:,.0f}", f"{rate * held['raw values'] / 1e6:,.0f}"] for way, rate in one[name].items()
            ]
            for way, other, least, value in one[f"{name} ratios"]:
                bound = "" if least is None else f">= {least:g}: {'met' if value >= least else 'not met'}"
                rows.append([f"  {way} / {other}", f"{value:.2f}", bound])
        lines += [*aligned(rows), ""]
    return lines


def main() -> int:
    """Measure and print; exit code 0 whatever was met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="hardly more than whether it runs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: by processor time of all threads")
    parser.add_argument("--folder", type=Path, help="where files are written; the system's temporary folder by default")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore", ResourceWarning)
    with tempfile.TemporaryDirectory(prefix="episodes-bench-", dir=given.folder) as folder:
        found = run(given, Path(folder))
    about = machine() | {"clock": given.clock, "webdataset": version("webdataset")}
    if given.json:
        print(json.dumps({"about": about, "found": found}))
    else:
        print("\n".join([f"{described(about)}; webdataset {about['webdataset']}; clock {given.clock}", "", *table(found)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
