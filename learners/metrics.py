"""The log of a run: ``metrics.jsonl`` and TensorBoard events, and what they say about the run as a whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

NAME = "metrics.jsonl"


class MetricsLog:
    """``metrics.jsonl`` and TensorBoard events of a run; lines after `step`, from before an interruption, are dropped.

    Args:
        run: directory of the run; None: nothing is written.
        step: of the checkpoint that training goes on from, 0 at the beginning.
    """

    def __init__(self, run: Path | None, step: int) -> None:
        self._writes = run is not None
        if run is None:
            return
        path = run / NAME
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= step] if step else []
        path.write_text("".join(kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """One line: ``{"kind": "train", "step": 1, "loss": ...}``. Whole numbers are no curves for TensorBoard."""
        if not self._writes:
            return
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, float):
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writes:
            self._file.close()
            self._events.close()


def _lines(path: Path) -> list[str]:
    """Whole lines of a log; a line cut short by a kill has no newline and is left out."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def read(run: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of one kind: ``train`` (one a step), ``val``, ``time``."""
    return [line for line in map(json.loads, _lines(run / NAME)) if line["kind"] == kind]


def metric_of(line: Mapping[str, Any]) -> str:
    """The metric that a line of a validation is of."""
    return next(name for name in line if name not in ("kind", "step", "interval95"))


def summary(run: Path) -> dict[str, float] | None:
    """Steps of a run, seconds they took without validation, and the share of these spent waiting for data.

    None if the run has no log that says so.
    """
    steps = [line for line in read(run, "train") if "data_share" in line]
    seconds = sum(line["seconds"] for line in steps)
    if not seconds:
        return None
    waited = sum(line["seconds"] * line["data_share"] for line in steps)
    return {"steps": len(steps), "seconds": seconds, "data_share": waited / seconds}
