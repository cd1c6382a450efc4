"""Decoding samples in parallel, straight into the columns of a shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from episodes.errors import ReaderError
from episodes.ingest._encode import encode_image, join_images
from episodes.ingest._work import Work
from episodes.protocols import Arrays, FieldSpec, RawSample
from episodes.store.manifest import DIGEST, KEY, Skipped, row_digest

_BLOCK: Final = 16  # samples a decoding thread takes at a time


def fill(
    work: Work, start: int, pool: ThreadPoolExecutor, progress: Callable[[int, int], None]
) -> tuple[dict[str, NDArray[Any]], list[Skipped], int]:
    """Decode samples from `start` on until a shard is full: its columns, what was skipped, the next sample."""
    total = len(work.samples)
    room = min(work.rows_per_shard, total - start)
    columns = {name: np.zeros((room, *spec.shape), spec.dtype) for name, spec in work.columns.items()}
    columns |= {name: np.empty(room, object) for name in work.encodings}  # the bytes of one image each
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
    columns = {name: values[:filled] for name, values in columns.items()}
    for name in work.encodings:
        columns |= join_images(name, columns[name])
    return columns, skipped, position


def _decode_block(
    work: Work, columns: Mapping[str, NDArray[Any]], first: int, slot: int, size: int
) -> list[tuple[int, Skipped]]:
    """Decode `size` samples from `first` on straight into their rows from `slot` on; the broken ones come back."""
    broken = []
    for i in range(size):
        sample = work.samples[first + i]
        try:
            _decode(sample, work, columns, slot + i)
        except ReaderError as error:
            if not work.skip_broken:
                raise
            broken.append((slot + i, Skipped(class_name=sample.class_name, key=sample.key, reason=str(error))))
    return broken


def _decode(sample: RawSample, work: Work, columns: Mapping[str, NDArray[Any]], row: int) -> None:
    values = dict(sample.load())
    _check_values(sample, work.listing.fields, values)
    for name, value in values.items():
        if name in work.encodings:
            columns[name][row], values[name] = encode_image(sample, name, value, work.encodings[name])
        else:
            columns[name][row] = value
    columns[KEY][row] = sample.key.encode()
    columns[DIGEST][row] = np.frombuffer(row_digest(values), np.uint8)


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
