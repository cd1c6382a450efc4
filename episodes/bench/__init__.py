"""How fast episodes come: a stream and other ways to the same samples, measured in turns in one run.

Rates of a busy machine move by a factor of two from minute to minute, their ratios hardly. So all cases run round by round,
in an order that rotates, and every ratio is the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from episodes.errors import ConfigError
from episodes.stream.series import SampledEpisodes

Role = Literal["stream", "kernel", "take", "memcpy", "numpy", "loader", "consumer"]
Message = Literal["one", "block"]
Clock = Literal["wall", "cpu"]
Consumer = Literal["null", "python", "compute"]
REFERENCES: Final[Mapping[Role, str]] = {
    "kernel": "kernel", "take": "np.take", "memcpy": "memcpy", "numpy": "NumPy", "loader": "DataLoader",
    "consumer": "consumer",
}  # fmt: skip
_WARM_SHARE: Final = 0.1  # of a round, to find out how many calls fill one
_PATIENCE: Final = 10  # rounds of time that passes until it is said how many calls fill one


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to get samples."""

    name: str
    role: Role
    run: Callable[[int], int]
    """So many calls; returns the rows that came."""
    message: Message | None = None
    """What a call gives; ratios are to references of the same message, where there are any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Rates of a case."""

    images_per_s: float
    """Median of the rounds."""
    rounds: tuple[float, ...]
    """Images a second of each round."""
    ratios: Mapping[str, float]
    """To each reference: median over rounds of the ratio within a round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to measure."""

    rounds: int = field(default=7, metadata={"help": "Rounds; figures are medians over them."})
    seconds: float = field(default=1.0, metadata={"help": "Seconds of a case in a round."})
    workers: tuple[int, ...] = (0, 1, 2)
    block: int = field(default=16, metadata={"help": "Episodes of a block."})
    consumer: Consumer = field(
        default="null",
        metadata={"help": "What happens to an episode: nothing, 50 us of Python, or a torch product on all cores."},
    )
    clock: Clock = field(
        default="wall", metadata={"help": "wall: time that passes; cpu: processor time of all threads and workers."}
    )
    memory_gb: float = field(default=4.0, metadata={"help": "Most that baselines load into memory."})

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("block", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: expected {least} or more, got {getattr(self, name)}")
        for name in ("seconds", "memory_gb"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: expected more than 0, got {getattr(self, name)}")
        if not self.workers or min(self.workers) < 0 or len(set(self.workers)) < len(self.workers):
            raise ConfigError(f"workers: expected different numbers of 0 or more, got {list(self.workers)}")


def bench(
    series: SampledEpisodes, settings: Settings, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Measure `series` in every way; returns plain values, as ``episodes bench --json`` prints them.

    Args:
        series: of any store, spec and policy; baselines draw episodes of the same sizes, classes and rows uniformly.
        settings: what to measure.
        progress: called with (rounds done, rounds in all).

    Raises:
        ConfigError: the largest field takes more memory than baselines may load; a consumer that needs torch without it.
    """
    from episodes.bench import _cases
    from episodes.bench.report import machine

    with ExitStack() as stack:
        made = _cases.build(series, settings, stack)
        measured = measure(made.cases, settings.rounds, settings.seconds, settings.clock, progress)
    return {
        "about": machine(),
        "field": made.field,
        "images_per_episode": made.images,
        "bytes_per_image": made.row_bytes,
        "rounds": settings.rounds,
        "seconds": settings.seconds,
        "consumer": settings.consumer,
        "clock": settings.clock,
        "notes": made.notes,
        "cases": {
            name: {
                "episodes_per_s": one.images_per_s / made.images,
                "images_per_s": one.images_per_s,
                "gb_per_s": one.images_per_s * made.row_bytes / 1e9,
                "ratios": dict(one.ratios),
                "rounds": list(one.rounds),
            }
            for name, one in measured.items()
        },
    }


def measure(
    cases: Sequence[Case],
    rounds: int,
    seconds: float,
    clock: Clock = "wall",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Measured]:
    """Run all cases in turns; name -> rates.

    Args:
        cases: with different names.
        rounds: how many; the case that begins changes from round to round.
        seconds: about how long a case takes in a round.
        clock: what rates are by.
        progress: called with (rounds done, rounds in all).
    """
    calls = {case.name: _calls(case, seconds, clock) for case in cases}
    rates: dict[str, list[float]] = {case.name: [] for case in cases}
    for done in range(rounds):
        first = done % len(cases)
        for case in (*cases[first:], *cases[:first]):
            begin = now(clock)
            rows = case.run(calls[case.name])
            # A clock of 10 ms ticks may not have moved in a very short round.
            rates[case.name].append(rows / max(now(clock) - begin, 1e-9))
        progress(done + 1, rounds)
    return {
        case.name: Measured(
            images_per_s=statistics.median(rates[case.name]),
            rounds=tuple(rates[case.name]),
            ratios=_ratios(case, cases, rates),
        )
        for case in cases
    }


def _calls(case: Case, seconds: float, clock: Clock) -> int:
    """Calls that fill a round; the first may compile and is not counted.

    By the clock of the rates: where others use the machine, a call that waited for it would make all rounds too short,
    and of a short round much was made ahead of it.
    """
    case.run(1)
    count, begin, patience = 0, now(clock), time.perf_counter() + _PATIENCE * seconds
    while (passed := now(clock) - begin) < _WARM_SHARE * seconds:
        if time.perf_counter() > patience:  # it waits more than it computes
            return max(1, count)
        case.run(max(1, count // 2))
        count += max(1, count // 2)
    return max(1, round(count * seconds / passed)) if count else 1


def _ratios(case: Case, cases: Sequence[Case], rates: Mapping[str, Sequence[float]]) -> dict[str, float]:
    out = {}
    for role, title in REFERENCES.items():
        others = [other for other in cases if other.role == role]
        others = [other for other in others if other.message == case.message] or others
        if others and role != case.role:
            best = [max(values) for values in zip(*(rates[other.name] for other in others), strict=True)]
            out[title] = statistics.median(mine / one for mine, one in zip(rates[case.name], best, strict=True))
    return out


def now(clock: Clock) -> float:
    """Seconds; of processor time, of this process with all threads and of its worker processes (these on Linux only)."""
    if clock == "wall":
        return time.perf_counter()
    seconds = time.process_time()
    for child in multiprocessing.active_children():
        stat = Path(f"/proc/{child.pid}/stat")
        if stat.exists():
            user, system = stat.read_text().rpartition(")")[2].split()[11:13]
            seconds += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return seconds
