"""Frozen lists: episodes written down as store rows, one JSON object a line, tied to a store by its fingerprint.

The first line is ``{"count":n,"fingerprint":"..","format":1,"keys":"..","seed":s}``; then one line per episode, keys
sorted, no spaces, ``i`` counting from 0:

    {"class_ids":[..],"i":0,"queries":[..],"query":[rows],"shots":[..],"source":"omniglot","support":[rows],
     "unlabeled":[rows],"unlabeled_labels":[..]}

Rows are class by class, ``shots[k]`` and ``queries[k]`` of label k; query rows beyond the queries are of distractor
classes. ``turns`` (quarter turns of the classes) and ``distractor_ids`` are there where an episode has any. The hash of a
list is the SHA-256 of its bytes; ``keys`` in the header is the SHA-256 over sample keys instead of rows, so that lists over
two stores of the same raw data can be compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from episodes.classes import EMPTY, ClassIndex, Int
from episodes.episode import EpisodePlan
from episodes.errors import EpisodesError, SpecError, StateMismatch

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
        overwrite: replace `path`.

    Raises:
        SpecError: a part whose rows are not class by class.
        EpisodesError: `path` exists, or cannot be written.
    """
    if path.exists() and not overwrite:
        raise EpisodesError(f"{path} exists; give --overwrite to replace it, or another name")
    named, lines = hashlib.sha256(), []
    for i, plan in enumerate(plans):
        lines.append(_line(_entry(plan, i, source)))
        for rows in (plan.support, plan.query, plan.unlabeled):
            named.update("\x1e".join(keys(rows)).encode() + b"\x1d")
    header = {"count": len(lines), "fingerprint": fingerprint, "format": FORMAT, "keys": named.hexdigest(), "seed": seed}
    data = _line(header) + b"".join(lines)
    aside = path.with_name(path.name + ".tmp")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise EpisodesError(f"cannot write {path}: {error.strerror}") from error
    return hashlib.sha256(data).hexdigest()


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def _entry(plan: EpisodePlan, i: int, source: str) -> dict[str, Any]:
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
    lines = data.decode("utf-8", "replace").splitlines()
    header = _parsed(path, 1, lines[0] if lines else "")
    for name, wanted in (("format", FORMAT), ("fingerprint", fingerprint), ("count", len(lines) - 1)):
        if header.get(name) != wanted:
            raise StateMismatch(f"{path} has {name} {header.get(name)}; expected {wanted}")
    check = _Checks(path, classes)
    plans = tuple(check.plan(_parsed(path, n + 2, line), n) for n, line in enumerate(lines[1:]))
    source = str(_parsed(path, 2, lines[1]).get("source", "")) if plans else ""
    return FrozenList(
        path=path,
        list_hash=list_hash,
        key_hash=str(header.get("keys", "")),
        source=source,
        seed=int(header.get("seed", 0)),
        plans=plans,
    )


def _parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise SpecError(f"{path}: line {number} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise SpecError(f"{path}: line {number} is not an object")
    return value


class _Checks:
    """Laws I1 to I4 of an episode, with the tables that make checking quick."""

    def __init__(self, path: Path, classes: ClassIndex) -> None:
        self.path, self.classes = path, classes
        pairs = zip(classes.ids.tolist(), classes.variants.tolist(), strict=True)
        self.place = {pair: p for p, pair in enumerate(pairs)}

    def plan(self, entry: dict[str, Any], index: int) -> EpisodePlan:
        where = f"{self.path}: episode {index}"
        try:
            arrays = {
                name: np.array(entry.get(name, []), np.int64).reshape(-1)
                for name in ("class_ids", "support", "query", "unlabeled", "unlabeled_labels", "shots", "queries", "turns",
                             "distractor_ids")
            }  # fmt: skip
            ways = len(arrays["class_ids"])
            turns = arrays["turns"] if "turns" in entry else np.zeros(ways, np.int64)
            if entry["i"] != index:
                raise SpecError(f"{where}: its index is {entry['i']}")
            labels = np.repeat(np.arange(ways), arrays["shots"]), np.repeat(np.arange(ways), arrays["queries"])
            extra = len(arrays["query"]) - len(labels[1])
            if len(labels[0]) != len(arrays["support"]) or extra < 0 or len(turns) != ways:
                raise ValueError("counts and rows do not match")
            if len(arrays["unlabeled"]) != len(arrays["unlabeled_labels"]):
                raise ValueError("unlabeled rows and labels do not match")
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise SpecError(f"{where} is not an episode ({error})") from error
        plan = EpisodePlan(
            index=index,
            class_ids=arrays["class_ids"],
            variants=turns,
            support=arrays["support"],
            support_labels=labels[0],
            query=arrays["query"],
            query_labels=np.concatenate([labels[1], np.full(extra, -1)]),
            unlabeled=arrays["unlabeled"],
            unlabeled_labels=arrays["unlabeled_labels"],
            distractor_ids=arrays["distractor_ids"] if "distractor_ids" in entry else EMPTY,
        )
        self._laws(plan, where)
        return plan

    def _laws(self, plan: EpisodePlan, where: str) -> None:
        pairs = list(zip(plan.class_ids.tolist(), plan.variants.tolist(), strict=True))
        if len(set(pairs)) < len(pairs):
            raise SpecError(f"{where} has class {_twice(pairs)[0]} twice")
        if both := set(plan.distractor_ids.tolist()) & set(plan.class_ids.tolist()):
            raise SpecError(f"{where}: class {min(both)} is one of its classes and a distractor")
        try:
            rows_of = [self.classes.rows(self.place[pair]) for pair in pairs]
            others = [self.classes.rows(self.place[c, 0]) for c in plan.distractor_ids.tolist()]
        except KeyError as error:
            raise SpecError(f"{where} has class {error.args[0][0]}, which split '{self.classes.split}' has not") from error
        rest = np.concatenate(others) if others else EMPTY
        used: list[tuple[int, int]] = []
        parts = (
            (plan.support, plan.support_labels),
            (plan.query, plan.query_labels),
            (plan.unlabeled, plan.unlabeled_labels),
        )
        for rows, labels in parts:
            if len(labels) and not -1 <= labels.min() <= labels.max() < len(pairs):
                raise SpecError(f"{where} has a label outside -1..{len(pairs) - 1}")
            for label in np.unique(labels).tolist():
                own = rows[labels == label]
                if len(wrong := own[~np.isin(own, rows_of[label] if label >= 0 else rest)]):
                    name = f"class {plan.class_ids[label]}" if label >= 0 else "any of its distractor classes"
                    raise SpecError(f"{where}: row {wrong[0]} is not a row of {name}")
            used += zip(rows.tolist(), labels.tolist(), strict=True)
        if len(set(used)) < len(used):
            raise SpecError(f"{where} has row {_twice(used)[0]} twice among support, query and unlabeled rows")


def _twice(pairs: list[tuple[int, int]]) -> tuple[int, int]:
    return next(pair for n, pair in enumerate(pairs) if pair in pairs[:n])
