"""Writing one shard: an HDF5 file of contiguous datasets, the same bytes for the same rows."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from episodes.errors import StoreError
from episodes.store.manifest import KEY, Shard


def write_shard(path: Path, columns: Mapping[str, NDArray[Any]]) -> Shard:
    """Write `columns` (name -> [rows, ...]) as one HDF5 file, aside and then renamed: `path` is whole or absent.

    Every column is a contiguous dataset aligned to a page, so that it can be mapped at its offset. The column of an encoded
    field has its images one after the other, [bytes].

    Raises:
        StoreError: the disk is full or the place cannot be written.
    """
    data, offsets = _image(columns)
    write_whole(path, data)
    return Shard(
        file=path.name,
        rows=len(columns[KEY]),
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        offsets=offsets,
    )


def _image(columns: Mapping[str, NDArray[Any]]) -> tuple[bytes, dict[str, int]]:
    # Built in memory: a shard is small by design, its hash is needed anyway, and a full disk is then met by a plain
    # write with a plain error. The oldest file version keeps bytes the same across HDF5 releases.
    file = h5py.File(
        f"shard-{threading.get_ident()}",  # not written down; two threads may not have the same one open
        "w",
        driver="core",
        backing_store=False,
        libver="earliest",
        alignment_threshold=1,
        alignment_interval=4096,
    )
    with file:
        offsets = {}
        for name, values in columns.items():
            dataset = file.create_dataset(name, data=np.ascontiguousarray(values), track_times=False)
            offsets[name] = dataset.id.get_offset()
        file.flush()
        return bytes(file.id.get_file_image()), offsets


def write_whole(path: Path, data: bytes, suffix: str = ".tmp") -> None:
    """Write `data` to `path` through a file beside it that is then renamed: `path` is whole or absent.

    Args:
        path: file to make.
        data: its bytes.
        suffix: of the file beside it; one of its own where several processes may write `path` at once.

    Raises:
        StoreError: the disk is full or the place cannot be written.
    """
    aside = path.with_name(path.name + suffix)
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise StoreError(
                f"no space left on the disk of {path} ({len(data)} bytes needed); free some and go on with --resume"
            ) from error
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
