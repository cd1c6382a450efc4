"""ingest: raw samples -> store, in parallel, interruptible and resumable; the same bytes for the same input.

Classes are numbered by sorted name; rows of a class are ordered by the hash of their key, so that any prefix of a class
is a fair and stable subset. Shards are written one after the other into ``STORE.partial``, each whole or absent and with
a note of what it used up; the manifest goes last and one rename makes the store. A killed ingest therefore leaves nothing
that opens as a store, and ``resume`` goes on after the last whole shard.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from episodes.errors import ReaderError, StoreError
from episodes.protocols import Arrays, FieldSpec, Listing, RawSample, Reader
from episodes.store.manifest import (
    CLASSES,
    DIGEST,
    DIGEST_BYTES,
    KEY,
    MANIFEST,
    Manifest,
    Shard,
    Skipped,
    canonical,
)
from episodes.store.table import ClassTable
from episodes.store.writer import write_shard, write_whole

SHARD_BYTES: Final = 16 << 20  # at most some seconds of decoding are lost to a kill, and a shard fits in memory easily
_WORK = "work.json"
_BLOCK = 16  # samples a decoding thread takes at a time


def ingest(
    reader: Reader,
    out: Path,
    *,
    options: Any = None,
    shard_bytes: int = SHARD_BYTES,
    workers: int | None = None,
    skip_broken: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Write everything `reader` lists as a store at `out`.

    Args:
        reader: where samples come from.
        out: folder to make.
        options: the reader's options, recorded in the manifest.
        shard_bytes: size of a shard's rows; changes files, not episodes.
        workers: decoding threads; default one a core. Changes speed only.
        skip_broken: leave out samples that cannot be decoded and record them in the manifest, instead of stopping.
        overwrite: replace the store at `out`, and drop an unfinished one.
        resume: go on with an unfinished ingest; if `out` is already complete from this very source, do nothing.
        progress: called with (samples done, samples in all).

    Raises:
        ReaderError: the source cannot be read; a sample is broken (and `skip_broken` is off) or not as declared.
        SpecError: an empty class, or splits that share classes.
        StoreError: `out` exists; an unfinished ingest exists and neither `resume` nor `overwrite` was said, or belongs to
            another source; the disk is full.
    """
    if out.exists() and not (overwrite or resume):
        raise StoreError(f"{out} exists; give --overwrite to replace it, or another path")
    if out.exists() and not (out / MANIFEST).is_file():
        raise StoreError(f"{out} exists and is not a store; it is not replaced (choose another path)")
    work = _Work.plan(reader, reader.listing(), options, shard_bytes, skip_broken)
    if resume and not overwrite and out.exists():
        finished = Manifest.from_json((out / MANIFEST).read_bytes(), str(out / MANIFEST))
        if finished.source == work.source:
            return finished
        raise StoreError(f"{out} was made from another source or other options; give --overwrite to replace it")
    partial = out.with_name(out.name + ".partial")
    _open_partial(partial, work, overwrite=overwrite, resume=resume)
    done = _finished_shards(partial)
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
    try:
        done.extend(_write_shards(partial, work, done, pool, progress))
    finally:
        pool.shutdown(cancel_futures=True)  # an error or Ctrl-C does not wait for what is queued
    manifest = _finish(partial, work, done)
    _swap_in(partial, out)
    return manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """An ingest as decided before anything is decoded."""

    samples: Sequence[RawSample]  # in row order
    listing: Listing
    columns: Mapping[str, FieldSpec]
    rows_per_shard: int
    skip_broken: bool
    reader: Mapping[str, Any]
    source: str

    @classmethod
    def plan(cls, reader: Reader, listing: Listing, options: Any, shard_bytes: int, skip_broken: bool) -> _Work:
        if not listing.samples:
            raise ReaderError(f"reader '{reader.name}' found no samples in the source")
        ordered = sorted(listing.samples, key=lambda s: (s.class_name, _key_hash(s.key), s.key))
        for one, two in itertools.pairwise(ordered):
            if (one.class_name, one.key) == (two.class_name, two.key):
                raise StoreError(f"class '{one.class_name}' has two samples with the key '{one.key}'; keys must differ")
        # Everything that can be refused before decoding is refused here: splits, groups, empty classes.
        ClassTable.build(_count(ordered), listing.groups, listing.splits)
        key_bytes = max(len(sample.key.encode()) for sample in ordered)
        columns = {
            **dict(sorted(listing.fields.items())),
            KEY: FieldSpec(f"S{key_bytes}", ()),
            DIGEST: FieldSpec("uint8", (DIGEST_BYTES,)),
        }
        row_bytes = sum(spec.row_bytes for spec in columns.values())
        rows_per_shard = max(1, shard_bytes // row_bytes)
        about = {"name": reader.name, "version": reader.version, "options": _plain(options)}
        decisive = {
            "reader": about,
            "columns": {name: asdict(spec) for name, spec in columns.items()},
            "rows_per_shard": rows_per_shard,
            "skip_broken": skip_broken,
            "groups": dict(listing.groups),
            "splits": {one: {k: list(v) for k, v in parts.items()} for one, parts in listing.splits.items()},
        }
        digest = hashlib.sha256(canonical(decisive))
        for sample in ordered:
            digest.update(f"{sample.class_name}\x1f{sample.key}\x1e".encode())
        return cls(
            samples=ordered,
            listing=listing,
            columns=columns,
            rows_per_shard=rows_per_shard,
            skip_broken=skip_broken,
            reader=about,
            source=digest.hexdigest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """A finished shard, and what of the source it used up."""

    shard: Shard | None
    """None: every sample left at the end was broken."""
    consumed: int
    """Samples used up by this shard and all before it, skipped ones included."""
    skipped: tuple[Skipped, ...]

    def to_json(self) -> bytes:
        return canonical(asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> _Done:
        table = json.loads(data)
        return cls(
            shard=Shard(**table["shard"]) if table["shard"] else None,
            consumed=table["consumed"],
            skipped=tuple(Skipped(**one) for one in table["skipped"]),
        )


def _key_hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=8).digest()


def _count(samples: Sequence[RawSample]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for sample in samples:
        counts[sample.class_name] = counts.get(sample.class_name, 0) + 1
    return counts


def _plain(options: Any) -> dict[str, Any]:
    """Options as JSON values; of a path only the name, for the place of a file must not change the store's bytes."""
    if not is_dataclass(options):
        return {}
    values = {f.name: getattr(options, f.name) for f in fields(options)}
    return {name: value.name if isinstance(value, Path) else value for name, value in values.items()}


def _open_partial(partial: Path, work: _Work, *, overwrite: bool, resume: bool) -> None:
    note = canonical({"source": work.source})
    if partial.exists() and overwrite:
        shutil.rmtree(partial)
    if partial.exists():
        if not resume:
            raise StoreError(f"an unfinished ingest is at {partial}; go on with --resume, or start over with --overwrite")
        written = (partial / _WORK).read_bytes() if (partial / _WORK).exists() else note
        if written != note:
            raise StoreError(f"{partial} was begun from another source or with other options; start over with --overwrite")
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make {partial}: {error.strerror}") from error
    write_whole(partial / _WORK, note)
    (partial / MANIFEST).unlink(missing_ok=True)  # killed just before the rename: not a store until it is in its place


def _finished_shards(partial: Path) -> list[_Done]:
    """Shards of an earlier run that are whole, up to the first that is not."""
    done: list[_Done] = []
    for number in itertools.count():
        note = partial / f"{_name(number)}.json"
        if not note.exists():
            return done
        one = _Done.from_json(note.read_bytes())
        if one.shard:
            file = partial / one.shard.file
            if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != one.shard.sha256:
                return done
        done.append(one)
    raise AssertionError


def _name(number: int) -> str:
    return f"shard-{number:05d}"


def _write_shards(
    partial: Path, work: _Work, done: Sequence[_Done], pool: ThreadPoolExecutor, progress: Callable[[int, int], None]
) -> Iterator[_Done]:
    consumed, total = done[-1].consumed if done else 0, len(work.samples)
    for number in itertools.count(len(done)):
        if consumed >= total:
            return
        columns, skipped, consumed = _fill(work, consumed, pool, progress)
        shard = write_shard(partial / f"{_name(number)}.h5", columns) if len(columns[KEY]) else None
        one = _Done(shard=shard, consumed=consumed, skipped=tuple(skipped))
        write_whole(partial / f"{_name(number)}.json", one.to_json())
        yield one


def _fill(
    work: _Work, start: int, pool: ThreadPoolExecutor, progress: Callable[[int, int], None]
) -> tuple[dict[str, NDArray[Any]], list[Skipped], int]:
    """Decode samples from `start` on until a shard is full: its columns, what was skipped, the next sample."""
    total = len(work.samples)
    room = min(work.rows_per_shard, total - start)
    columns = {name: np.zeros((room, *spec.shape), spec.dtype) for name, spec in work.columns.items()}
    skipped: list[Skipped] = []
    filled, position = 0, start
    while filled < room and position < total:
        count = min(room - filled, total - position)
        blocks = [(position + i, filled + i, min(_BLOCK, count - i)) for i in range(0, count, _BLOCK)]
        good = np.ones(room, bool)
        good[filled + count :] = False
        for (first, _, size), broken in zip(
            blocks, pool.map(lambda block: _decode_block(work, columns, *block), blocks), strict=True
        ):
            for slot, one in broken:
                good[slot] = False
                skipped.append(one)
            progress(first + size, total)
        filled = int(good.sum())
        for values in columns.values():
            values[:filled] = values[good]
        position += count
    return {name: values[:filled] for name, values in columns.items()}, skipped, position


def _decode_block(
    work: _Work, columns: Mapping[str, NDArray[Any]], first: int, slot: int, size: int
) -> list[tuple[int, Skipped]]:
    """Decode `size` samples from `first` on straight into their rows from `slot` on; the broken ones come back."""
    broken = []
    for i in range(size):
        sample = work.samples[first + i]
        try:
            _decode(sample, work.listing.fields, columns, slot + i)
        except ReaderError as error:
            if not work.skip_broken:
                raise
            broken.append((slot + i, Skipped(class_name=sample.class_name, key=sample.key, reason=str(error))))
    return broken


def _decode(sample: RawSample, specs: Mapping[str, FieldSpec], columns: Mapping[str, NDArray[Any]], row: int) -> None:
    values = sample.load()
    _check_values(sample, specs, values)
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for name in sorted(specs):
        columns[name][row] = values[name]
        digest.update(columns[name][row].tobytes())
    columns[KEY][row] = sample.key.encode()
    columns[DIGEST][row] = np.frombuffer(digest.digest(), np.uint8)


def _check_values(sample: RawSample, specs: Mapping[str, FieldSpec], values: Arrays) -> None:
    where = f"sample '{sample.key}' of class '{sample.class_name}'"
    if values.keys() != specs.keys():
        raise ReaderError(f"{where} has fields {sorted(values)}; the reader declared {sorted(specs)}")
    for name, spec in specs.items():
        value = values[name]
        if value.shape != spec.shape or value.dtype != np.dtype(spec.dtype):
            raise ReaderError(
                f"{where}: field '{name}' is {value.dtype} {value.shape}; the reader declared {spec.dtype} {spec.shape}"
            )
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ReaderError(f"{where}: field '{name}' holds NaN or infinity")


def _finish(partial: Path, work: _Work, done: Sequence[_Done]) -> Manifest:
    """Write classes and manifest, and remove the notes of the shards."""
    shards = tuple(one.shard for one in done if one.shard)
    skipped = tuple(s for one in done for s in one.skipped)
    counts = _count(work.samples)
    for one in skipped:
        counts[one.class_name] -= 1
        if not counts[one.class_name]:
            raise ReaderError(f"no sample of class '{one.class_name}' could be read (the last: {one.reason})")
    table = ClassTable.build(counts, work.listing.groups, work.listing.splits).to_json()
    manifest = Manifest(
        fields=dict(sorted(work.listing.fields.items())),
        columns=work.columns,
        num_rows=sum(shard.rows for shard in shards),
        rows_per_shard=work.rows_per_shard,
        shards=shards,
        classes_sha256=hashlib.sha256(table).hexdigest(),
        content=_content(partial, shards),
        source=work.source,
        reader=work.reader,
        skipped=skipped,
    )
    write_whole(partial / CLASSES, table)
    for number in range(len(done)):
        (partial / f"{_name(number)}.json").unlink()
    (partial / _WORK).unlink()
    write_whole(partial / MANIFEST, manifest.to_json())
    return manifest


def _content(partial: Path, shards: Sequence[Shard]) -> str:
    content = hashlib.sha256()
    for shard in shards:
        with (partial / shard.file).open("rb") as file:
            file.seek(shard.offsets[DIGEST])
            content.update(file.read(shard.rows * DIGEST_BYTES))
    return content.hexdigest()


def _swap_in(partial: Path, out: Path) -> None:
    """Put the finished store in its place; a store already there is moved aside first, then deleted."""
    old = out.with_name(out.name + ".old")
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    partial.rename(out)
    if old.exists():
        shutil.rmtree(old)
