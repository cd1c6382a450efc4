"""Every target of speed and memory, measured in one run: what ``make benchmark`` prints.

    python benchmarks/targets.py [--quick] [--only GROUP] [--json FILE] [-o targets.png]

Ratios are medians of rounds in which all ways are measured in turns (see `episodes.bench`); a target is met or not met by
them alone. Synthetic stores are written to a temporary folder and removed. ``--quick`` takes less than a minute and is good
for finding out whether everything runs, not for figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import delivery
import shards
import work

from episodes.bench.report import aligned, described, machine, picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A target and what was measured."""

    name: str
    value: float
    target: float
    unit: str = "x"
    least: bool = True
    """Whether the target is a lower bound."""

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.value >= self.target if self.least else self.value <= self.target

    @property
    def share(self) -> float:
        """How far: 1 is the target, more is better."""
        return self.value / self.target if self.least else self.target / max(self.value, 1e-9)


GROUPS: dict[str, Callable[[delivery.Run], delivery.Rows]] = {
    "drawing": work.drawing,
    "gather": delivery.gathers,
    "small": delivery.small,
    "large": delivery.large,
    "sizes": delivery.sizes,
    "files": delivery.mapped,
    "float32": work.floats,
    "ingest": work.ingest,
    "shards": shards.targets,
    "memory": work.memory,
    "first": work.first,
}


def main() -> int:
    """Measure, print a table; exit code 0 whatever was met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=list(GROUPS), action="append", help="a group of targets; may be repeated")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: by processor time, on a busy machine"
    )
    parser.add_argument("--json", type=Path, help="file to write, one JSON object")
    parser.add_argument("-o", "--output", type=Path, help="picture to write, .png")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="episodes-bench-") as folder:
        run = delivery.Run(folder=Path(folder), quick=given.quick, clock=given.clock)
        for name in given.only or GROUPS:
            print(f"{name} ...", file=sys.stderr, flush=True)
            for title, value, *bound in GROUPS[name](run):
                names = ("target", "unit", "least")
                rows.append(row := Row(name=title, value=float(value), **dict(zip(names, bound, strict=False))))
                print(f"  {row.name}: {row.value:.3g} {row.unit}", file=sys.stderr, flush=True)
    about = machine() | {"quick": given.quick, "clock": given.clock}
    print(table(rows, about, run.notes))
    if given.json:
        found = {"about": about, "targets": [asdict(row) | {"met": row.met} for row in rows], "notes": run.notes}
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if given.output:
        title = f"Share of each target (1 is met); {described(about)}"
        picture(title, {row.name: row.share for row in rows}, "").save(given.output)
    return 0


def table(rows: list[Row], about: dict[str, object], notes: list[str]) -> str:
    """Targets as lines."""
    cells = [["", "measured", "target", ""]]
    for row in rows:
        sign, unit = ">=" if row.least else "<=", row.unit if row.unit == "x" else f" {row.unit}".rstrip()
        bound = f"{sign} {row.target:g}{unit}"
        cells.append([row.name, f"{row.value:.3g}{unit}", bound, "met" if row.met else "not met"])
    clock = "" if about["clock"] == "wall" else "; by processor time"
    return "\n".join([described(about) + clock, *(f"note: {note}" for note in notes), "", *aligned(cells)])


if __name__ == "__main__":
    sys.exit(main())
