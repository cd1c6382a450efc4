"""Frozen lists: episodes written down as store rows, one JSON object a line, tied to a store by its fingerprint.

The first line is ``{"count":n,"fingerprint":"..","format":1,"keys":"..","seed":s,"selection":{"split":".."}}``; then one
line per episode, keys sorted, no spaces, ``i`` counting from 0:

    {"class_ids":[..],"i":0,"queries":[..],"query":[rows],"shots":[..],"source":"omniglot","support":[rows],
     "unlabeled":[rows],"unlabeled_labels":[..]}

Rows are class by class, ``shots[k]`` and ``queries[k]`` of label k; query rows beyond the queries are of distractor
classes. ``turns`` (quarter turns of the classes) and ``distractor_ids`` are there where an episode has any. The hash of a
list is the SHA-256 of its bytes; ``keys`` in the header is the SHA-256 over sample keys instead of rows, so that lists over
two stores of the same raw data can be compared. ``selection`` has what the classes were drawn from (`Selection`, without
what is as by default); it says which classes a list is over to who reads it without saying so. Older lists have none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from episodes import config
from episodes._list_checks import LineChecks
from episodes.classes import ClassIndex, Int
from episodes.episode import EpisodePlan
from episodes.errors import ConfigError, EpisodesError, SpecError, StateMismatch
from episodes.selection import Selection

FORMAT: Final = 1


@dataclass(frozen=True, slots=False, kw_only=True, eq=False)
class FrozenList:
    """The plans of a file, checked. See the module's docstring."""

    path: Path
    list_hash: str
    """SHA-256 of the file's bytes."""
    key_hash: str
    """SHA-256 over the sample keys of all rows, in order."""
    source: str
    seed: int
    selection: Selection | None
    """What the classes were drawn from; None: an older list, which does not say."""
    plans: tuple[EpisodePlan, ...]

    def __len__(self) -> int:
        return len(self.plans)

    @cached_property
    def summary(self) -> str:
        """One line: how many episodes, and the hash."""
        return f"{self.path}: {len(self)} episodes, sha256 {self.list_hash}"


def write(
    path: Path,
    plans: Iterable[EpisodePlan],
    *,
    fingerprint: str,
    seed: int,
    source: str,
    keys: Callable[[Int], Sequence[str]],
    selection: Selection | None = None,
    overwrite: bool = False,
) -> str:
    """Write plans to `path`, aside and renamed whole; returns the hash of the list.

    Args:
        path: file to make.
        plans: plans over one store, in order; they are numbered from 0.
        fingerprint: of the store.
        seed: they were drawn with.
        source: name of the data.
        keys: sample keys of store rows (`MappedStore.keys`).
        selection: what the classes were drawn from; whoever reads the list need not say it then.
        overwrite: replace `path`.

    Raises:
        SpecError: a part whose rows are not class by class; queries that are support rows again.
        EpisodesError: `path` exists, or cannot be written.
    """
    if path.exists() and not overwrite:
        raise EpisodesError(f"{path} exists; give --overwrite to replace it, or another name")
    named, lines = hashlib.sha256(), []
    for i, plan in enumerate(plans):
        lines.append(_line(_entry(plan, i, source)))
        for rows in (plan.support, plan.query, plan.unlabeled):
            named.update("\x1e".join(keys(rows)).encode() + b"\x1d")
    header: dict[str, Any] = {
        "count": len(lines),
        "fingerprint": fingerprint,
        "format": FORMAT,
        "keys": named.hexdigest(),
        "seed": seed,
    }
    if selection is not None:
        header["selection"] = _chosen(selection)
    data = _line(header) + b"".join(lines)
    aside = path.with_name(path.name + ".tmp")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise EpisodesError(f"cannot write {path}: {error.strerror}") from error
    return hashlib.sha256(data).hexdigest()


def _chosen(selection: Selection) -> dict[str, Any]:
    """The split, and what else is not as by default."""
    defaults = {f.name: f.default for f in fields(Selection)}
    return {name: v for name, v in config.to_table(selection).items() if name == "split" or v != defaults[name]}


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def _entry(plan: EpisodePlan, i: int, source: str) -> dict[str, Any]:
    if plan.query_views is not None:
        raise SpecError(
            f"episode {plan.index}: its queries are support rows again, made different by transforms; a frozen list holds "
            "rows and no transforms (freeze the episodes of the policy itself, or with probability=0)"
        )
    for part, labels in (("support", plan.support_labels), ("query", plan.query_labels)):
        known = np.where(labels < 0, len(plan.class_ids), labels)
        if (np.diff(known) < 0).any():
            raise SpecError(f"episode {plan.index}: its {part} rows are not class by class; a frozen list keeps them so")
    entry = {
        "class_ids": plan.class_ids.tolist(),
        "i": i,
        "queries": plan.counts(plan.query_labels),
        "query": plan.query.tolist(),
        "shots": plan.counts(plan.support_labels),
        "source": source,
        "support": plan.support.tolist(),
        "unlabeled": plan.unlabeled.tolist(),
        "unlabeled_labels": plan.unlabeled_labels.tolist(),
    }
    if plan.variants.any():
        entry["turns"] = plan.variants.tolist()
    if len(plan.distractor_ids):
        if plan.query_turns is not None:
            raise SpecError(f"episode {plan.index}: distractors that are quarter turns cannot be written down")
        entry["distractor_ids"] = plan.distractor_ids.tolist()
    return entry


def load(path: Path, classes: ClassIndex, fingerprint: str, expected: str | None = None) -> FrozenList:
    """The list at `path`, every line checked against the laws of an episode.

    Args:
        path: what `write` made.
        classes: which the episodes may use.
        fingerprint: of the store at hand.
        expected: hash that the list must have.

    Raises:
        StateMismatch: another format, store, count or hash; both values are shown.
        SpecError: a line that is no episode of these classes; its index and the row are named.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SpecError(f"cannot read frozen list {path}: {error.strerror}") from error
    list_hash = hashlib.sha256(data).hexdigest()
    if expected is not None and list_hash != expected:
        raise StateMismatch(f"{path} has hash {list_hash}; expected {expected}")
    lines = data.decode("utf-8", "replace").removesuffix("\n").split("\n")  # names may hold other line ends
    header = _parsed(path, 1, lines[0])
    for name, wanted in (("format", FORMAT), ("fingerprint", fingerprint), ("count", len(lines) - 1)):
        if header.get(name) != wanted:
            raise StateMismatch(f"{path} has {name} {header.get(name)}; expected {wanted}")
    selection = _selection(path, header)
    check = LineChecks(path, classes, selection)
    plans = tuple(check.plan(_parsed(path, n + 2, line), n) for n, line in enumerate(lines[1:]))
    source = str(_parsed(path, 2, lines[1]).get("source", "")) if plans else ""
    return FrozenList(
        path=path,
        list_hash=list_hash,
        key_hash=str(header.get("keys", "")),
        source=source,
        selection=selection,
        seed=int(header.get("seed", 0)),
        plans=plans,
    )


def selection_of(path: Path) -> Selection | None:
    """What the classes of the list at `path` were drawn from, by its header; None where that does not say.

    Raises:
        SpecError: unreadable, or a selection that is none.
    """
    try:
        with path.open("rb") as file:
            line = file.readline().decode("utf-8", "replace")
    except OSError as error:
        raise SpecError(f"cannot read frozen list {path}: {error.strerror}") from error
    return _selection(path, _parsed(path, 1, line))


def _selection(path: Path, header: dict[str, Any]) -> Selection | None:
    if "selection" not in header:
        return None
    try:
        return config.from_table(Selection, header["selection"], "selection")
    except ConfigError as error:
        raise SpecError(f"{path}: line 1: {error}") from error


def _parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise SpecError(f"{path}: line {number} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise SpecError(f"{path}: line {number} is not an object")
    return value
