"""One shard of episodes, mapped, with its index: where the arrays and the pictures of its members lie."""

from __future__ import annotations

import hashlib
import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from episodes.classes import Int
from episodes.errors import ShardCorrupt
from episodes.protocols import FieldSpec
from episodes.remote.place import Place, Remote, held
from episodes.shards.images import read_picture
from episodes.shards.manifest import EpisodeShard
from episodes.shards.record import ShardIndex, npy_header
from episodes.shards.tar import BLOCK, read_header


@dataclass(frozen=True, slots=True, eq=False)
class OpenShard:
    """A shard that is mapped."""

    where: str
    data: memoryview
    index: ShardIndex
    rows_before: Int
    """[E + 1] rows of the episodes before each."""
    classes_before: Int

    def columns(self, k: int) -> tuple[Int, Int, Int, Int]:
        """Labels, rows, class numbers and turns of the k-th episode."""
        index, row, clas = self.index, self.rows_before, self.classes_before
        one, two = slice(row[k], row[k + 1]), slice(clas[k], clas[k + 1])
        return index.labels[one], index.rows[one], index.class_ids[two], index.variants[two]


def open_shard(folder: Place, shard: EpisodeShard) -> OpenShard:
    """A shard, mapped, with its index."""
    path, index_path = folder / shard.file, folder / shard.index_file
    mend = f"compile again with --resume, or `episodes verify {folder} --repair`"
    if isinstance(folder, Remote):
        mend = "upload it again"
    try:
        with held(path, shard.sha256, shard.size, ShardCorrupt) as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        with held(index_path, shard.index_sha256, None, ShardCorrupt) as file:
            raw = file.read()
    except (OSError, ValueError) as error:
        raise ShardCorrupt(f"{path} or its index cannot be read: {error} ({mend})") from error
    if len(data) != shard.size:
        raise ShardCorrupt(f"{path} has {len(data)} bytes; the manifest says {shard.size} ({mend})")
    if hashlib.sha256(raw).hexdigest() != shard.index_sha256:
        raise ShardCorrupt(f"{index_path} was altered: its hash is not that of the manifest ({mend})")
    index = ShardIndex.from_npy(raw)
    zero = np.zeros(1, np.int64)
    rows_before = np.concatenate([zero, np.cumsum(index.counts[:, :3].sum(axis=1))])
    classes_before = np.concatenate([zero, np.cumsum(index.counts[:, 3])])
    return OpenShard(str(path), data, index, rows_before, classes_before)


def array_at(shard: OpenShard, at: int, num: int, spec: FieldSpec) -> tuple[NDArray[Any], int]:
    """The values of the .npy member at byte `at`; and where the next member is."""
    shape = (num, *spec.shape)
    start = at + BLOCK + len(npy_header(spec.dtype, shape))
    values: NDArray[Any] = np.ndarray(shape, spec.dtype, shard.data, start)
    return values, start + values.nbytes + -(start + values.nbytes) % BLOCK


def pictures_at(shard: OpenShard, at: int, num: int, spec: FieldSpec) -> tuple[NDArray[Any], int]:
    """All `num` rows of a field that is kept as pictures, the first at byte `at`; and where the next member is."""
    values = np.empty((num, *spec.shape), np.uint8)
    for i in range(num):
        member = read_header(shard.data, at, shard.where)
        if member is None:
            raise ShardCorrupt(f"{shard.where} ends before picture {i} of an episode at byte {at}")
        try:
            read_picture(member.name, bytes(shard.data[member.start : member.start + member.size]), values[i])
        except ValueError as error:
            raise ShardCorrupt(f"{shard.where}: picture '{member.name}' is damaged ({error})") from error
        at = member.end
    return values, at
