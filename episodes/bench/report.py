"""What was measured, and on what, as text and as a picture."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

from episodes.bench import REFERENCES

WIDE, LEFT, RIGHT, LINE = 900, 300, 130, 22  # pixels
COLOURS: Final = {"stream": "#4477aa", "kernel": "#228833", "np.take": "#ccbb44", "memcpy": "#bbbbbb"}


def machine() -> dict[str, Any]:
    """What the figures were measured on: processor, versions, date."""
    packages = ("numpy", "numba", "torch")
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "episodes": _version("episodes"),
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def text(result: Mapping[str, Any]) -> str:
    """The result as lines: what was measured, on what, and a table."""
    about, titles = result["about"], [*REFERENCES.values()]
    titles = [title for title in titles if any(title in one["ratios"] for one in result["cases"].values())]
    rows = [["", "episodes/s", "images/s", "GB/s", *(f"x {title}" for title in titles)]]
    for name, one in result["cases"].items():
        ratios = [f"{one['ratios'][title]:.3g}" if title in one["ratios"] else "" for title in titles]
        rows.append(
            [name, f"{one['episodes_per_s']:,.0f}", f"{one['images_per_s']:,.0f}", f"{one['gb_per_s']:.3g}", *ratios]
        )
    clock = "second" if result["clock"] == "wall" else "second of processor time"
    return "\n".join(
        [
            f"{result['images_per_episode']:,.1f} rows an episode, field '{result['field']}' of "
            f"{result['bytes_per_image']:,} bytes a row; consumer: {result['consumer']}",
            f"medians of {result['rounds']} rounds of {result['seconds']:g} s, all cases in turns; rates a {clock}",
            described(about),
            *(f"note: {note}" for note in result["notes"]),
            "",
            *aligned(rows),
        ]
    )


def described(about: Mapping[str, Any]) -> str:
    """The machine in one line."""
    return (
        f"{about['cpu']}, {about['cores']} cores, load {about['load']}; Python {about['python']}, NumPy {about['numpy']}, "
        f"numba {about['numba']}, torch {about['torch'] or 'not installed'}; {about['date']}"
    )


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def picture(title: str, values: Mapping[str, float], unit: str) -> Image.Image:
    """Bars of different lengths, one a name, on a scale of powers of ten."""
    font = ImageFont.load_default(12)
    low = math.floor(math.log10(max(min(values.values()), 1e-9)))
    high = max(low + 1, math.ceil(math.log10(max(*values.values(), 1e-9))))
    sheet = Image.new("RGB", (WIDE, LINE * (len(values) + 3)), "white")
    pen, span = ImageDraw.Draw(sheet), (WIDE - LEFT - RIGHT) / (high - low)
    pen.text((8, 6), title, fill="black", font=font)
    bottom = LINE * (len(values) + 2)
    for power in range(low, high + 1):
        x = LEFT + (power - low) * span
        pen.line((x, LINE * 2 - 6, x, bottom), fill="#dddddd")
        pen.text((x - 12, bottom + 2), f"{10.0**power:g}", fill="black", font=font)
    for n, (name, value) in enumerate(values.items()):
        top, length = LINE * (n + 2), (math.log10(max(value, 10.0**low)) - low) * span
        colour = next((c for start, c in COLOURS.items() if name.startswith(start)), "#cc6677")
        pen.text((8, top), name, fill="black", font=font)
        pen.rectangle((LEFT, top - 1, LEFT + length, top + LINE - 7), fill=colour)
        pen.text(
            (LEFT + length + 6, top),
            f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}",
            fill="black",
            font=font,
        )
    return sheet
