"""Splits and groups from files, and splits drawn by a seed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

from episodes.errors import ConfigError, ReaderError

PARTS = ("train", "val", "test")
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def read_splits(path: Path) -> dict[str, list[str]]:
    """split -> classes of a JSON object ``{"train": ["cat", ...]}`` or of a CSV with the header ``class,split``.

    Names that folders of splits may have mean the same here: Train is ``train``, validation is ``val``.

    Raises:
        ReaderError: unreadable, or of another form; the place is named.
    """
    if path.suffix.lower() == ".csv":
        written: dict[str, list[str]] = {}
        for name, split in _pairs(path, "class", "split"):
            written.setdefault(split, []).append(name)
    else:
        written = {split: _names(path, split, names) for split, names in _object(path).items()}
    if not written:
        raise ReaderError(f"{path} names no split; give it one, such as train")
    found: dict[str, list[str]] = {}
    for split, names in written.items():
        if not split or "/" in split or "+" in split:  # a split is asked for as list/one+other
            raise ReaderError(f"{path}: '{split}' cannot be a split's name; use one without / and +, such as train")
        known = SPLIT_NAMES.get(split.lower(), split)
        if known in found:
            raise ReaderError(f"{path} names split '{known}' twice, once as '{split}'; write it once")
        found[known] = names
    return found


def read_groups(path: Path) -> dict[str, str]:
    """class -> group of a JSON object or of a CSV with the header ``class,group``.

    Raises:
        ReaderError: unreadable, of another form, or a class in two groups; the place is named.
    """
    pairs = _pairs(path, "class", "group") if path.suffix.lower() == ".csv" else list(_object(path).items())
    found: dict[str, str] = {}
    for name, group in pairs:
        if not isinstance(group, str) or not group:
            raise ReaderError(f"{path}: the group of class '{name}' is {group!r}, not a name")
        if found.setdefault(name, group) != group:
            raise ReaderError(f"{path}: class '{name}' is in group '{found[name]}' and in '{group}'")
    return found


def shares(text: str) -> tuple[float, float, float]:
    """Three shares that add up to 1, of ``0.64,0.16,0.2``.

    Raises:
        ConfigError: they are not.
    """
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"draw_splits: expected three numbers as 0.64,0.16,0.2 (train,val,test), got '{text}'") from None
    if not all(math.isfinite(s) and s >= 0 for s in (train, val, test)) or abs(train + val + test - 1) > 1e-6:
        raise ConfigError(f"draw_splits: expected shares of 0 or more that add up to 1, got '{text}'")
    return train, val, test


def drawn_splits(names: Sequence[str], parts: tuple[float, float, float], seed: int) -> dict[str, list[str]]:
    """Classes in an order that hashes (seed, name), cut at the rounded-down cumulative shares; empty parts are left out.

    Raises:
        ConfigError: a share above 0 that gets no class.
    """
    order = sorted(names, key=lambda name: (hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), name))
    # Divided by their sum, which may miss 1 a little: a last share of 0 gets no class through rounding.
    ends = [sum(parts[: i + 1]) / sum(parts) for i in range(2)]
    cuts = [0, *(math.floor(end * len(order) + 1e-9) for end in ends), len(order)]
    found = {split: sorted(order[cuts[i] : cuts[i + 1]]) for i, split in enumerate(PARTS)}
    for split, share in zip(PARTS, parts, strict=True):
        if share > 0 and not found[split]:
            raise ConfigError(f"draw_splits: a share of {share} of {len(names)} classes leaves '{split}' without any")
    return {split: members for split, members in found.items() if members}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ReaderError(f"cannot read {path}: {error}") from error


def _object(path: Path) -> dict[str, object]:
    try:
        table = json.loads(_text(path), object_pairs_hook=lambda pairs: _unique(path, pairs))
    except (ValueError, RecursionError) as error:  # ValueError: JSONDecodeError, and numbers too long to convert
        raise ReaderError(f"{path} is not JSON: {error}") from error
    if not isinstance(table, dict):
        raise ReaderError(f"{path} is not a JSON object")
    return table


def _unique(path: Path, pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) < len(pairs):  # JSON allows it and all but the last would be lost
        names = [name for name, _ in pairs]
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ReaderError(f"{path} has the name '{twice}' twice in one object; write it once")
    return table


def _names(path: Path, split: str, names: object) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ReaderError(f"{path}: '{split}' is not a list of class names")
    return names


def csv_rows(path: Path) -> list[tuple[int, list[str]]]:
    """(line number, cells) of each row of a CSV, without blank lines; a row that spans lines has the number of its last.

    Raises:
        ReaderError: it cannot be read, or is no CSV.
    """
    lines = csv.reader(io.StringIO(_text(path), newline=""))
    try:
        return [(lines.line_num, [cell.strip() for cell in row]) for row in lines if row]
    except csv.Error as error:
        raise ReaderError(f"{path}: line {lines.line_num}: {error}") from error


def _pairs(path: Path, first: str, second: str) -> list[tuple[str, str]]:
    rows = csv_rows(path)
    if not rows or rows[0][1] != [first, second]:
        raise ReaderError(f"{path}: line 1 must be the header {first},{second}")
    for number, row in rows[1:]:
        if len(row) != 2:
            raise ReaderError(f"{path}: line {number} has {len(row)} columns, not 2")
        if not all(row):
            raise ReaderError(f"{path}: line {number} has an empty cell; give {first} and {second}")
    return [(row[0], row[1]) for _, row in rows[1:]]
