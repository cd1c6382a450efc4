"""What the tests of a compile's faults run in processes of their own, which are killed, starved and locked out."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from worlds import memory_store

import episodes
from episodes.errors import EpisodesError
from episodes.shards.compile import compile_shards

SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=2)
STEPS = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir")


def make(out: Path, count: int = 20, seed: int = 0, shard_bytes: int = 20_000, **options: Any) -> None:
    """Compile a small set: by default three shards of some episodes each."""
    series = episodes.sample(memory_store([6, 7, 8, 9, 6, 7]), "train", SPEC, seed=seed)
    compile_shards(series, out, count, **{"shard_bytes": shard_bytes} | options)


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones, too: path -> SHA-256."""
    paths = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def forked(act: Callable[[], object]) -> int:
    """Do something in a child process."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        act()
        code = 0
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """How a child ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(step: int, folder: Path) -> None:
    """Die of SIGKILL before the `step`-th thing that this process does to files below `folder`."""
    left = step

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        if event in STEPS and str(args[0]).startswith(str(folder)):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def at_every_step(folder: Path, over: bool) -> None:
    """Kill a compile at its first step, then one at its second ...; go on with each, and compare."""
    options = {"overwrite": True, "resume": True} if over else {"resume": True}
    alone, wrong, step, code = folder / "alone", [], 0, 1
    make(alone / "s")
    make(folder / "old" / "s", seed=1)
    wanted, old = tree(alone), tree(folder / "old")
    while code:
        step += 1
        here = folder / f"step{step}"
        here.mkdir()
        if over:
            make(here / "s", seed=1)

        def cut(step: int = step, here: Path = here) -> None:
            killed_at(step, here)
            make(here / "s", overwrite=over)

        code = ended(forked(cut))
        after = tree(here)
        finished = {name: value for name, value in after.items() if name.startswith("s/")}
        whole = finished.items() >= wanted.items()  # it may have notes that are not tidied away yet
        if (here / "s").exists() and not whole and finished != old:
            wrong.append(f"step {step}: neither the old set nor the new one")
        if not (here / "s").exists() and over and {f"s/{Path(n).name}" for n in after if ".replaced/" in n} != old.keys():
            wrong.append(f"step {step}: the old set is lost")
        if (second := ended(forked(lambda here=here: make(here / "s", **options)))) != 0 or tree(here) != wanted:
            wrong.append(f"step {step}: gone on with, exit code {second}, files {sorted(tree(here))}")
    print(json.dumps({"steps": step, "wrong": wrong}))


def at_random(folder: Path, kills: int, workers: int) -> None:
    """Kill compiles at random moments, going on each time, until `kills` are done; compare each finished set."""
    rng, size = np.random.Generator(np.random.Philox(workers)), {"count": 400, "shard_bytes": 20_000}
    make(folder / "alone" / "s", **size)
    wanted, done, sets, wrong, began = tree(folder / "alone"), 0, 0, [], time.monotonic()
    ended(forked(lambda: make(folder / "timed" / "s", **size)))
    whole = time.monotonic() - began
    while done < kills:
        here = folder / f"set{sets}"
        here.mkdir()
        code = -signal.SIGKILL
        while code == -signal.SIGKILL:
            child = forked(lambda here=here: make(here / "s", **size, workers=workers, resume=True))
            if done < kills:
                time.sleep(rng.uniform(0, whole / 4))
                os.kill(child, signal.SIGKILL)
            code = ended(child)
            done += code == -signal.SIGKILL
        sets += 1
        if code or tree(here) != wanted:
            wrong.append(f"set {sets}: exit code {code}, files {sorted(tree(here))}")
    print(json.dumps({"kills": done, "sets": sets, "wrong": wrong}))


def attempt(out: Path, **options: Any) -> str:
    """Compile; the error, or nothing."""
    try:
        make(out, **options)
    except EpisodesError as error:
        return str(error)
    return ""


def _mounted(place: Path, size: str, *flags: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *flags]), "tmpfs", place], check=True)


def _again(place: Path, *flags: str) -> None:
    subprocess.run(["mount", "-o", ",".join(["remount", *flags]), place], check=True)


def full_disks(folder: Path) -> None:
    """Compile to disks of one page, two pages ..., each time going on when there is room; in a mount namespace."""
    make(folder / "alone" / "s")
    wanted, errors, wrong = tree(folder / "alone"), [], []
    for pages in range(1, 100):
        disk = folder / f"disk{pages}"
        disk.mkdir()
        _mounted(disk, f"{4 * pages}k")
        error = attempt(disk / "s")
        if error:
            errors.append(error.replace(str(disk), "DISK"))
            if (disk / "s").exists():
                wrong.append(f"{pages} pages: something is there")
            _again(disk, "size=10m")
            if (error := attempt(disk / "s", resume=True)) or tree(disk) != wanted:
                wrong.append(f"{pages} pages: {error}, files {sorted(tree(disk))}")
        elif tree(disk) != wanted:
            wrong.append(f"{pages} pages: other files")
        else:
            break
    print(json.dumps({"pages": pages, "errors": sorted(set(errors)), "wrong": wrong}))


def read_only(folder: Path) -> None:
    """Compile to, go on on, and replace on a disk that cannot be written; in a mount namespace."""
    make(folder / "alone" / "s")
    disk = folder / "disk"
    disk.mkdir()
    _mounted(disk, "10m")
    make(disk / "whole", seed=1)
    make(disk / "s", only=[1])
    before = tree(disk)
    _again(disk, "ro")
    errors = [
        attempt(disk / "new"), attempt(disk / "s", resume=True), attempt(disk / "s", only=[0]),
        attempt(disk / "whole", overwrite=True),
    ]  # fmt: skip
    same = tree(disk) == before
    _again(disk, "rw")
    error = attempt(disk / "s", resume=True)
    whole = {name: value for name, value in tree(disk).items() if name.startswith("s/")} == tree(folder / "alone")
    print(
        json.dumps({"errors": [e.replace(str(disk), "DISK") for e in errors], "same": same, "end": error, "whole": whole})
    )


def hold(out: Path, options: dict[str, Any]) -> None:
    """Begin a compile, say so when some episodes are made, and wait for a line before going on."""
    begun: list[int] = []

    def progress(done: int, total: int) -> None:
        if not begun:
            begun.append(done)
            print("begun", flush=True)
            sys.stdin.readline()

    make(out, progress=progress, **options)


def _main(act: str, folder: str, *rest: str) -> None:
    acts: dict[str, Callable[..., None]] = {
        one.__name__: one for one in (at_every_step, at_random, full_disks, read_only, hold)
    }
    acts[act](Path(folder), *map(json.loads, rest))


def commands(act: str, folder: Path, *rest: Any) -> list[str]:
    """The command that does one of these in a process of its own."""
    return [sys.executable, __file__, act, str(folder), *map(json.dumps, rest)]


if __name__ == "__main__":
    _main(*sys.argv[1:])
