"""Lines of a frozen list as plans, each checked against the laws of an episode (sampling I1 to I4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from episodes.classes import EMPTY, ClassIndex
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.selection import Selection


class LineChecks:
    """Laws I1 to I4 of an episode, with the tables that make checking quick."""

    def __init__(self, path: Path, classes: ClassIndex, selection: Selection | None) -> None:
        self.path, self.classes, self.selection = path, classes, selection
        pairs = zip(classes.ids.tolist(), classes.variants.tolist(), strict=True)
        self.place = {pair: p for p, pair in enumerate(pairs)}

    def plan(self, entry: dict[str, Any], index: int) -> EpisodePlan:
        """The plan that a line stands for; `SpecError` with its index, and the row or class, if it stands for none."""
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
            of = f" (the list is over '{self.selection.split}')" if self.selection else ""
            raise SpecError(
                f"{where} has class {error.args[0][0]}, which split '{self.classes.split}' has not{of}"
            ) from error
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
