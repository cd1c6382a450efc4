"""Synthetic stores for benchmarks: random pixels in as many rows as wanted, written in seconds."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np

from episodes.protocols import FieldSpec
from episodes.store.manifest import CLASSES, DIGEST, DIGEST_BYTES, KEY, MANIFEST, Manifest, row_digest
from episodes.store.table import ClassTable
from episodes.store.writer import write_shard, write_whole

SHARD_BYTES, RANDOM_BYTES = 16 << 20, 64 << 20


def pixels(shape: tuple[int, ...], num: int, seed: int = 0) -> np.ndarray:
    """[num, *shape] uint8; beyond 64 MiB rows repeat, for drawing them takes longer than writing."""
    different = max(1, min(num, RANDOM_BYTES // math.prod(shape)))
    rows = np.random.Generator(np.random.Philox(seed)).integers(0, 256, (different, *shape), np.uint8)
    return rows if different == num else np.resize(rows, (num, *shape))


def write(path: Path, shape: tuple[int, ...], classes: int, rows: int) -> Path:
    """A store of `classes` classes of `rows` images each, all in the split ``train``."""
    path.mkdir(parents=True)
    different = pixels(shape, max(1, min(classes * rows, RANDOM_BYTES // math.prod(shape))))
    digests = np.stack([np.frombuffer(row_digest({"image": image}), np.uint8) for image in different])
    columns = {"image": FieldSpec("uint8", shape), KEY: FieldSpec("S8", ()), DIGEST: FieldSpec("uint8", (DIGEST_BYTES,))}
    num, each, shards = classes * rows, SHARD_BYTES // sum(spec.row_bytes for spec in columns.values()), []
    content = hashlib.sha256()
    for first in range(0, num, each):
        some = np.arange(first, min(num, first + each))
        held = {"image": different[some % len(different)], KEY: np.char.zfill(some.astype("S8"), 8)}
        held[DIGEST] = digests[some % len(different)]
        content.update(held[DIGEST].tobytes())
        shards.append(write_shard(path / f"shard-{len(shards):05d}.h5", held))
    names = [f"class{c:05d}" for c in range(classes)]
    table = ClassTable.build(dict.fromkeys(names, rows), splits={"bench": {"train": names}}).to_json()
    manifest = Manifest(
        fields={"image": columns["image"]},
        columns=columns,
        num_rows=num,
        rows_per_shard=each,
        shards=tuple(shards),
        classes_sha256=hashlib.sha256(table).hexdigest(),
        content=content.hexdigest(),
        source="synthetic",
        reader={"name": "synthetic", "version": 1, "options": {}},
    )
    write_whole(path / CLASSES, table)
    write_whole(path / MANIFEST, manifest.to_json())
    return path
