"""Is a store what its manifest says? Bytes against the hashes of shards, encoded images against the digests of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from episodes.classes import Int
from episodes.errors import StoreCorrupt
from episodes.store.manifest import MANIFEST, row_digest

if TYPE_CHECKING:
    from episodes.store.mapped import MappedStore

_BLOCK: Final = 256  # rows decoded at a time


def verify_store(store: MappedStore, progress: Callable[[int, int], None]) -> None:
    """See `MappedStore.verify`."""
    row_bytes = sum(spec.row_bytes for spec in store.fields.values()) if store.manifest.encodings else 0
    total, done = sum(shard.size for shard in store.manifest.shards) + store.num_rows * row_bytes, 0
    for shard in store.manifest.shards:
        digest = hashlib.sha256()
        with (store.path / shard.file).open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
                done += len(block)
                progress(done, total)
        if digest.hexdigest() != shard.sha256:
            raise StoreCorrupt(
                f"{store.path / shard.file} is damaged: its SHA-256 is {digest.hexdigest()}, "
                f"the manifest says {shard.sha256} (ingest the source again)"
            )
    if fault := content_fault(store):
        raise StoreCorrupt(f"{store.path / MANIFEST} {fault}")
    if store.manifest.encodings:
        for where, fault in value_faults(store, lambda rows: progress(done + rows * row_bytes, total)):
            raise StoreCorrupt(f"{store.path}: {where} {fault} (ingest the source again)")


def content_fault(store: MappedStore) -> str | None:
    """What is wrong with the content hash of the manifest; None: nothing."""
    content = hashlib.sha256(store.digests(np.arange(store.num_rows)).tobytes()).hexdigest()
    return None if content == store.manifest.content else "was altered: its content hash is not that of the shards"


def value_faults(store: MappedStore, progress: Callable[[int], None]) -> Iterator[tuple[str, str]]:
    """Rows whose values are not those of their digests: (which, what); ``progress(rows done)`` is called on the way."""
    for start in range(0, store.num_rows, _BLOCK):
        end = min(start + _BLOCK, store.num_rows)
        yield from _block_faults(store, np.arange(start, end))
        progress(end)


def _block_faults(store: MappedStore, rows: Int) -> Iterator[tuple[str, str]]:
    where = f"row {rows[0]}, sample '{store.keys(rows[:1])[0]}',"
    try:
        values, digests = store.read(rows), store.digests(rows)
    except StoreCorrupt as error:
        if len(rows) == 1:
            yield where, f"cannot be decoded: {error}"
        for i in range(len(rows) if len(rows) > 1 else 0):
            yield from _block_faults(store, rows[i : i + 1])
        return
    for i in range(len(rows)):
        if row_digest({name: column[i] for name, column in values.items()}) != digests[i].tobytes():
            where = f"row {rows[i]}, sample '{store.keys(rows[i : i + 1])[0]}',"
            yield where, "decodes to other values than at ingest: either the store was altered or this JPEG decoder differs"
