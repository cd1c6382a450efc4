"""Is a store what its manifest says? Bytes against the hashes of shards, encoded images against the digests of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

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
    content = hashlib.sha256(store.digests(np.arange(store.num_rows)).tobytes()).hexdigest()
    if content != store.manifest.content:
        raise StoreCorrupt(f"{store.path / MANIFEST} was altered: its content hash is not that of the shards")
    if store.manifest.encodings:
        for start in range(0, store.num_rows, _BLOCK):
            end = min(start + _BLOCK, store.num_rows)
            _check_values(store, start, end)
            progress(done + end * row_bytes, total)


def _check_values(store: MappedStore, start: int, end: int) -> None:
    rows = np.arange(start, end)
    values, digests = store.read(rows), store.digests(rows)
    for i in range(len(rows)):
        if row_digest({name: column[i] for name, column in values.items()}) != digests[i].tobytes():
            raise StoreCorrupt(
                f"{store.path}: row {rows[i]}, sample '{store.keys(rows[i : i + 1])[0]}', decodes to other values than at "
                "ingest: either the store was altered or this JPEG decoder differs (ingest the source again)"
            )
