"""The members of one episode, and the index of a shard.

An episode with key ``000000042`` is, in this order:

- ``000000042.<field>.npy`` for each field by name: ``[N, ...]``, support rows first, then query, then unlabeled rows;
- with payload ``images``, a uint8 image field is ``000000042.0000.<field>.png`` (or ``.jpg``), one for each of the N rows;
- ``000000042.labels.npy``: ``[N]`` int64, -1 for a distractor;
- ``000000042.class.<name>.npy`` for each class field by name: ``[W, ...]``, in order of the labels;
- ``000000042.plan.json``: how many rows each part has, and where everything comes from.

With payload ``rows`` there is only the last.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from episodes.classes import Int
from episodes.episode import Episode
from episodes.shards.tar import header, padding

DIGITS: Final = 9  # of a key; more where an index needs them
PARTS: Final = ("support", "query", "unlabeled")
CLASS: Final = "class."  # before the name of a class field

Buffer = bytes | memoryview
_JSON: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def class_member(key: str, name: str) -> str:
    """Name, without the ending, of the member that holds a class field."""
    return f"{key}.{CLASS}{name}"


def key_of(index: int) -> str:
    """The sample's key: the index, so that keys sort as episodes do."""
    return f"{index:0{DIGITS}d}"


@lru_cache(maxsize=4096)
def npy_header(dtype: str | np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What comes before the values in a .npy file; a multiple of 64 bytes."""
    file = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)
    return file.getvalue()


def member(name: str, *pieces: Buffer) -> Iterator[Buffer]:
    """A member made of `pieces`, with what comes before and after."""
    size = sum(len(piece) if isinstance(piece, bytes) else piece.nbytes for piece in pieces)
    yield header(name, size)
    yield from pieces
    if size % 512:
        yield padding(size)


def npy_member(name: str, *parts: NDArray[Any]) -> Iterator[Buffer]:
    """A .npy member of arrays that follow each other along their first axis."""
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    contiguous = [np.ascontiguousarray(part) for part in parts if part.size]
    yield from member(
        f"{name}.npy",
        npy_header(parts[0].dtype, shape),
        *(part.reshape(-1).view(np.uint8).data for part in contiguous),
    )


def parts_of(episode: Episode[NDArray[Any]]) -> list[Any]:
    """The parts that are there, in the order of a record."""
    return [part for name in PARTS if (part := getattr(episode, name)) is not None]


def plan_member(
    episode: Episode[NDArray[Any]], class_names: Sequence[str], keys: Sequence[str] | None, seed: int
) -> Iterator[Buffer]:
    """The member ``.plan.json``: one object, keys sorted, no spaces."""
    parts = parts_of(episode)
    counts = {name: 0 if (part := getattr(episode, name)) is None else len(part.rows) for name in PARTS}
    plan: dict[str, Any] = {
        "class_ids": episode.class_ids.tolist(),
        "class_names": list(class_names),
        "index": episode.index,
        "labels": [label for part in parts for label in part.labels.tolist()],
        "parts": counts,
        "rows": [row for part in parts for row in part.rows.tolist()],
        "seed": seed,
        "turns": episode.variants.tolist(),
    }
    if keys is not None:
        plan["keys"] = list(keys)
    yield from member(f"{key_of(episode.index)}.plan.json", _JSON.encode(plan).encode())


@dataclass(frozen=True, slots=True, eq=False)
class ShardIndex:
    """Where the episodes of a shard begin, and their plans: the file beside a shard that makes random access fast.

    One .npy of int64: the number of episodes E; ``begins`` [E + 1]; ``counts`` [E, 4]; then ``rows`` and ``labels`` of all
    episodes one after the other, and ``class_ids`` and ``variants`` of all.
    """

    begins: Int
    """[E + 1] byte of each episode's first header; the last: of the end of the archive."""
    counts: Int
    """[E, 4] support, query and unlabeled rows, and classes, of each episode."""
    rows: Int
    labels: Int
    class_ids: Int
    variants: Int

    def to_npy(self) -> bytes:
        """The file's bytes."""
        head = np.array([len(self.counts)], np.int64)
        flat = [head, self.begins, self.counts.reshape(-1), self.rows, self.labels, self.class_ids, self.variants]
        values = np.concatenate(flat).astype("<i8")
        return npy_header("<i8", values.shape) + values.tobytes()

    @classmethod
    def from_npy(cls, data: bytes) -> ShardIndex:
        """The index that `to_npy` wrote.

        Raises:
            ValueError: the bytes are none.
        """
        values: Int = np.load(io.BytesIO(data), allow_pickle=False)
        values.setflags(write=False)
        num = int(values[0])
        begins, counts = values[1 : num + 2], values[num + 2 : 5 * num + 2].reshape(num, 4)
        rows, classes = int(counts[:, :3].sum()), int(counts[:, 3].sum())
        ends = np.cumsum([5 * num + 2, rows, rows, classes, classes])
        if ends[-1] != len(values):
            raise ValueError(f"an index of {num} episodes has {ends[-1]} numbers, this has {len(values)}")
        return cls(begins, counts, *(values[a:b] for a, b in itertools.pairwise(ends.tolist())))
