"""ingest: raw samples -> store, in parallel, interruptible and resumable; the same bytes for the same input.

Classes are numbered by sorted name; rows of a class are ordered by the hash of their key, so that any prefix of a class
is a fair and stable subset. Shards are written one after the other, or apart by an engine, into ``STORE.partial``, each
whole or absent and with a note of what it used up; the manifest goes last and one rename makes the store. A killed ingest
therefore leaves nothing that opens as a store, and ``resume`` goes on after the last whole shard.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from episodes.engines import Run
from episodes.errors import ReaderError, StoreError
from episodes.ingest._apart import Recipe, make_apart
from episodes.ingest._duplicates import OnDuplicates, check_duplicates
from episodes.ingest._encode import QUALITY, Kept, encodings_of
from episodes.ingest._shards import Done, finished_shards, write_shards
from episodes.ingest._work import Work, count_classes
from episodes.partial import Making
from episodes.protocols import Reader
from episodes.store.manifest import CLASSES, DIGEST, DIGEST_BYTES, KEY, MANIFEST, Manifest, Shard, canonical
from episodes.store.table import ClassTable
from episodes.store.writer import write_whole

SHARD_BYTES: Final = 16 << 20  # at most some seconds of decoding are lost to a kill, and a shard fits in memory easily


def ingest(
    reader: Reader,
    out: Path,
    *,
    options: Any = None,
    is_a: Sequence[tuple[str, str]] = (),
    encoding: Kept = "raw",
    quality: int = QUALITY,
    shard_bytes: int = SHARD_BYTES,
    workers: int | None = None,
    engine: Run | None = None,
    skip_broken: bool = False,
    duplicates: OnDuplicates = "warn",
    overwrite: bool = False,
    resume: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Write everything `reader` lists as a store at `out`.

    Args:
        reader: where samples come from.
        out: folder to make.
        options: the reader's options, recorded in the manifest.
        is_a: (parent, child) pairs of a hierarchy above the classes, where the reader has none.
        encoding: ``raw`` keeps decoded values; ``jpeg`` keeps images encoded, for stores that would not fit: a picture that
            is a fitting JPEG already untouched, others encoded again, which loses a little. Other fields stay raw.
        quality: of images that are encoded, 1..100.
        shard_bytes: size of a shard's rows; changes files, not episodes.
        workers: decoding threads; default one a core. With an `engine`, shards made at a time. Changes speed only.
        engine: what makes shards apart, in any order: the ``run`` of a module of `episodes.engines`. None makes them one
            after the other.
        skip_broken: leave out samples that cannot be decoded and record them in the manifest, instead of stopping. What is
            left out moves the rows after it, so that shards are made one after the other, whatever the engine.
        duplicates: equal samples in two classes of a split: ``warn`` with their number, or ``error``. In two splits of
            a list they are always refused.
        overwrite: replace the store at `out`, and drop an unfinished one.
        resume: go on with an unfinished ingest; if `out` is already complete from this very source, do nothing.
        progress: called with (samples done, samples in all).

    Raises:
        ConfigError: an unknown encoding or quality, or no field that can be encoded.
        ReaderError: the source cannot be read; a sample is broken (and `skip_broken` is off) or not as declared; the reader
            cannot be pickled for the engine.
        SpecError: an empty class, or splits that share classes.
        StoreError: `out` exists; an unfinished ingest exists and neither `resume` nor `overwrite` was said, or belongs to
            another source; the disk is full; a class field that a class lacks, or has in another type or shape.
    """
    making = Making(out, MANIFEST, b"", "ingest", "store")
    making.check_target(overwrite=overwrite, resume=resume)
    listing = reader.listing()
    if is_a:
        listing = replace(listing, is_a=is_a)
    encodings = encodings_of(reader, listing, encoding, quality)
    work = Work.plan(reader, listing, options, encodings, shard_bytes, skip_broken)
    if resume and not overwrite and out.exists():
        finished = Manifest.from_json((out / MANIFEST).read_bytes(), str(out / MANIFEST))
        if finished.source == work.source:
            making.tidy()
            return finished
        raise StoreError(f"{out} was made from another source or other options; give --overwrite to replace it")
    making = replace(making, work=canonical({"source": work.source}))
    if engine is not None and skip_broken:
        warnings.warn("skip_broken: shards are made one after the other, on this machine alone", stacklevel=2)
    with making.open(overwrite=overwrite, resume=resume) as partial:
        if engine is None or skip_broken:
            done = _in_turn(partial, work, workers, progress)
        else:
            recipe = Recipe(
                reader=reader, options=options, is_a=is_a, encodings=encodings, shard_bytes=shard_bytes, source=work.source
            )
            done = make_apart(partial, work, recipe, engine, workers, progress)
        manifest = _finish(partial, work, done, duplicates)
        making.finish()
    return manifest


def _in_turn(partial: Path, work: Work, workers: int | None, progress: Callable[[int, int], None]) -> list[Done]:
    """Go on after the last whole shard, one shard after the other; the samples of each are decoded by threads."""
    done = finished_shards(partial)
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
    try:
        done.extend(write_shards(partial, work, done, pool, progress))
    finally:
        pool.shutdown(cancel_futures=True)  # an error or Ctrl-C does not wait for what is queued
    return done


def _finish(partial: Path, work: Work, done: Sequence[Done], duplicates: OnDuplicates) -> Manifest:
    """Write classes and manifest."""
    shards = tuple(one.shard for one in done if one.shard)
    skipped = tuple(s for one in done for s in one.skipped)
    counts, width = count_classes(work.samples), work.columns[KEY].row_bytes
    for one in skipped:
        counts[one.class_name] -= 1
        if not counts[one.class_name]:
            raise ReaderError(f"no sample of class '{one.class_name}' could be read (the last: {one.reason})")
    listing = work.listing
    classes = ClassTable.build(counts, listing.groups, listing.splits, listing.is_a, listing.class_fields)
    digests = b"".join(_column(partial, shard, DIGEST, DIGEST_BYTES) for shard in shards)
    keys = np.concatenate([np.frombuffer(_column(partial, s, KEY, width), f"S{width}") for s in shards])
    check_duplicates(
        np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES), classes, lambda row: keys[row].decode(), duplicates
    )
    table = classes.to_json()
    manifest = Manifest(
        fields=dict(sorted(listing.fields.items())),
        columns=work.columns,
        num_rows=sum(shard.rows for shard in shards),
        rows_per_shard=work.rows_per_shard,
        shards=shards,
        classes_sha256=hashlib.sha256(table).hexdigest(),
        content=hashlib.sha256(digests).hexdigest(),
        source=work.source,
        reader=work.reader,
        skipped=skipped,
        encodings=work.encodings,
    )
    write_whole(partial / CLASSES, table)
    write_whole(partial / MANIFEST, manifest.to_json())
    return manifest


def _column(partial: Path, shard: Shard, name: str, row_bytes: int) -> bytes:
    with (partial / shard.file).open("rb") as file:
        file.seek(shard.offsets[name])
        return file.read(shard.rows * row_bytes)
