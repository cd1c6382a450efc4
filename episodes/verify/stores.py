"""Every fault of a store: its manifest, its files, its classes, the values of its rows, equal samples in two splits."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np

from episodes import plugins
from episodes.errors import PluginNotFound, StoreCorrupt
from episodes.ingest._duplicates import across_splits, equal_pairs, named
from episodes.store._verify import content_fault, value_faults
from episodes.store.manifest import CLASSES, MANIFEST, Manifest
from episodes.store.mapped import MappedStore
from episodes.store.table import ClassTable
from episodes.verify import Fault, Findings, Progress
from episodes.verify.files import fault_of, strays


def verify_store(path: Path, progress: Progress) -> Findings:
    """See `episodes.verify.verify`."""
    try:
        manifest = Manifest.from_json((path / MANIFEST).read_bytes(), str(path / MANIFEST))
    except (FileNotFoundError, StoreCorrupt) as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else str(error).removeprefix(f"{path / MANIFEST} ")
        again = f"episodes ingest READER SOURCE {shlex.quote(str(path))} --overwrite"
        return Findings(path=path, kind="store", faults=(Fault(where=MANIFEST, what=what, mend=again),))
    again = _ingest(manifest, path)
    row_bytes = sum(spec.row_bytes for spec in manifest.fields.values()) if manifest.encodings else 0
    size = sum(shard.size for shard in manifest.shards)
    total, done = size + manifest.num_rows * row_bytes, 0

    def tick(num: int) -> None:
        nonlocal done
        done += num
        progress(done, total)

    looked = [(CLASSES, fault_of(path / CLASSES, None, manifest.classes_sha256))]
    looked += [(shard.file, fault_of(path / shard.file, shard.size, shard.sha256, tick)) for shard in manifest.shards]
    found, notes = [(name, what) for name, what in looked if what is not None], []
    if found:
        notes.append("classes and values are looked at when all files are whole")
    elif (store := _opened(path, found)) is not None:
        found += [(CLASSES, what) for what in _class_faults(store.table, store.num_rows)]
        if altered := content_fault(store):
            found.append((MANIFEST, altered))
        if manifest.encodings:
            found += value_faults(store, lambda rows: progress(size + rows * row_bytes, total))
        if sum(store.table.counts) == store.num_rows:  # else no row has a class
            found += _equal_samples(store, notes)
    known = {MANIFEST, CLASSES, *(shard.file for shard in manifest.shards)}
    notes += [f"{name} is no file of this store; nothing reads it" for name in strays(path, known)]
    return Findings(
        path=path,
        kind="store",
        faults=tuple(Fault(where=where, what=what, mend=again) for where, what in found),
        notes=tuple(notes),
        checked={"files": len(known), "bytes": size, "samples": manifest.num_rows},
    )


def _opened(path: Path, found: list[tuple[str, str]]) -> MappedStore | None:
    """The store, all of whose files are whole; None, with a fault more, where its classes are no class table."""
    try:
        return MappedStore(path)
    except StoreCorrupt as error:
        found.append((CLASSES, str(error).removeprefix(f"{CLASSES} ")))
        return None


def _ingest(manifest: Manifest, path: Path) -> str:
    """The command that makes a store again; of a file among its options only the name is known."""
    name, given = manifest.reader["name"], dict(manifest.reader.get("options", {}))
    words = ["episodes", "ingest", name, "SOURCE", str(path)]
    try:
        module = plugins.find(plugins.READERS, name)
    except PluginNotFound:  # of another program that uses this library
        return shlex.join([*words, "--overwrite"])
    if module.SOURCE is None:
        words.remove("SOURCE")
    for option in fields(module.Options):
        value, flag = given.get(option.name), option.name.replace("_", "-")
        if value is not None and value != option.default:
            words += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    for encoding in list(manifest.encodings.values())[:1]:
        words += ["--encoding", encoding.codec, "--quality", str(encoding.quality)]
    return shlex.join([*words, "--overwrite"])


def _class_faults(table: ClassTable, num_rows: int) -> Iterator[str]:
    """Classes that do not fit the rows or each other."""
    if sum(table.counts) != num_rows:
        yield f"its classes have {sum(table.counts)} rows, the manifest says {num_rows}"
    for listing, parts in table.splits.items():
        for (one, here), (two, there) in itertools.combinations(parts.items(), 2):
            if both := sorted(set(here) & set(there)):
                yield f"class '{table.names[both[0]]}' is in splits '{one}' and '{two}' of list '{listing}'"


def _equal_samples(store: MappedStore, notes: list[str]) -> Iterator[tuple[str, str]]:
    """Equal samples in two splits; of those in two classes of one split only a note is made, as at ingest."""
    pairs = equal_pairs(store.digests(np.arange(store.num_rows)), store.table)

    def key(row: int) -> str:
        return store.keys(np.array([row]))[0]

    for one, two, splits, listing in across_splits(pairs, store.table):
        name = [named(row, store.table, key) for row in (one, two)]
        yield (
            f"row {two}",
            f"samples {name[0]} and {name[1]} are equal, in splits '{splits[0]}' and '{splits[1]}' of list '{listing}'",
        )
    if pairs:
        name = [named(row, store.table, key) for row in pairs[0]]
        notes.append(f"samples {name[0]} and {name[1]} are equal ({len(pairs)} such pairs of classes)")
