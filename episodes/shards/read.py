"""EpisodeShards: compiled episodes as a series like any other, mapped; the index beside a shard gives random access."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from episodes.classes import Int
from episodes.episode import Episode, EpisodeBlock
from episodes.errors import CacheFull, ShardCorrupt, SpecError, StateMismatch, StoreError
from episodes.protocols import FieldSpec, SampleStore
from episodes.remote.place import Place, Remote, held, place
from episodes.rng import check_word
from episodes.shards.images import is_picture, read_picture
from episodes.shards.manifest import MANIFEST, EpisodeShard, ShardManifest
from episodes.shards.record import ShardIndex, npy_header
from episodes.shards.tar import BLOCK, read_header
from episodes.spec import EpisodeSpec
from episodes.stream.buffers import Arena

_PARTS: Final = np.arange(3, dtype=np.int8)


@dataclass(frozen=True, slots=True, eq=False)
class _Open:
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


class EpisodeShards:
    """Compiled episodes. ``shards[i]`` is what the series they were compiled from gives, bit by bit.

    Opening reads the manifest only; a shard is mapped, and its index read, when it is first needed. Safe for any number of
    threads. Its fingerprint is that of the series, so a stream's state goes from one to the other.

    Args:
        path: the folder, or its url: shards are then fetched into the cache when they are first needed.
        store: for payload ``rows``, the store that the episodes were compiled from.

    Raises:
        StoreError: there are no shards at `path`, or payload ``rows`` came without its store.
        StoreVersion: they were written in another format.
        StateMismatch: `store` is not the one they were compiled from.
        ShardCorrupt: the manifest was altered; at access, a shard that is missing, cut short or damaged.
    """

    def __init__(self, path: Place | str, store: SampleStore | None = None) -> None:
        self.path = place(path)
        try:
            data = (self.path / MANIFEST).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise StoreError(f"no episode shards at {path} (make some with `episodes compile`)") from None
        except OSError as error:
            raise StoreError(f"cannot read {self.path / MANIFEST}: {error.strerror}") from error
        self.manifest = ShardManifest.from_json(data, str(self.path / MANIFEST))
        self._store = self._checked(store)
        self._open: dict[int, _Open] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: nothing that is mapped; another process on this machine maps the files anew."""
        return {**self.__dict__, "_open": {}}

    def _checked(self, store: SampleStore | None) -> SampleStore | None:
        compiled_from = self.manifest.about["store"]
        if store is not None and store.fingerprint != compiled_from:
            raise StateMismatch(f"{self.path} was compiled from store {compiled_from}; this store is {store.fingerprint}")
        if store is None and self.manifest.payload == "rows":
            raise StoreError(f"{self.path} holds row numbers only; open it with the store it was compiled from")
        return store

    @property
    def fingerprint(self) -> str:
        """Of the series that was compiled."""
        return self.manifest.fingerprint

    @property
    def length(self) -> int:
        """Number of episodes."""
        return self.manifest.count

    @property
    def fields(self) -> Mapping[str, FieldSpec]:
        """Type and shape of each field."""
        return self.manifest.fields

    @property
    def spec(self) -> EpisodeSpec:
        """Sizes of an episode."""
        return EpisodeSpec.from_table(self.manifest.about["spec"])

    @cached_property
    def episode_bytes(self) -> int:
        """Bytes of a usual episode's values."""
        counts = self._shard(0).index.counts[:, :3]
        return int(counts.sum() * sum(field.row_bytes for field in self.fields.values()) // len(counts))

    def __getitem__(self, index: int) -> Episode[NDArray[Any]]:
        """Episode `index`, in arrays of its own."""
        return self.block([index], Arena())[0]

    def class_names(self, index: int) -> list[str]:
        """Names of the classes of episode `index`, in order of their labels; variants carry their turn."""
        shard, k = self._place(index)
        at, end = shard.index.begins[k : k + 2].tolist()
        while at < end and (member := read_header(shard.data, at, shard.where)):
            if member.name.endswith(".plan.json"):
                names: list[str] = json.loads(bytes(shard.data[member.start : member.start + member.size]))["class_names"]
                return names
            at = member.end
        raise ShardCorrupt(f"{shard.where}: episode {index} has no plan")

    def view(self, index: int) -> Episode[NDArray[Any]]:
        """Episode `index` in read-only arrays over the mapped file: nothing is copied, and nothing read until it is used.

        Raises:
            SpecError: the payload is not ``arrays``.
        """
        if self.manifest.payload != "arrays":
            raise SpecError(f"{self.path} holds {self.manifest.payload}, which are no arrays to look at; take shards[i]")
        shard, k = self._place(index)
        counts = shard.index.counts[k]
        labels, rows, class_ids, variants = shard.columns(k)
        num, at, fields = len(rows), int(shard.index.begins[k]), {}
        for name, spec in self._in_order:
            fields[name], at = self._values(shard, at, num, spec)
        offsets = np.stack([np.array([0, *counts[:2].cumsum(), 0]), np.array([*counts[:3].cumsum(), counts[3]])], axis=1)
        return EpisodeBlock(
            indices=[index],
            fields=fields,
            labels=labels,
            rows=rows,
            class_ids=class_ids,
            variants=variants,
            offsets=offsets,
        )[0]

    def block(self, indices: Sequence[int], arena: Arena) -> EpisodeBlock:
        """The episodes `indices`, in arrays of `arena`."""
        places = [self._place(index) for index in indices]
        counts = np.array([shard.index.counts[k] for shard, k in places]).T  # [4, B]
        offsets = np.zeros((4, len(places) + 1), np.int64)
        np.cumsum(counts, axis=1, out=offsets[:, 1:])
        offsets[1] += offsets[0, -1]
        offsets[2] += offsets[1, -1]
        num = int(offsets[2, -1])
        arena.reserve([num * field.row_bytes for field in self.fields.values()])
        fields = {name: arena.array((num, *field.shape), field.dtype) for name, field in self.fields.items()}
        labels, rows, class_ids, variants = (
            np.concatenate(c) for c in zip(*(s.columns(k) for s, k in places), strict=True)
        )
        if len(places) > 1:  # so far episode by episode, but a block begins with the support rows of all
            order = np.argsort(np.repeat(np.tile(_PARTS, len(places)), counts[:3].T.reshape(-1)), kind="stable")
            labels, rows = labels[order], rows[order]
        if self.manifest.payload != "rows":
            ends = offsets[:3].T.tolist()
            for (shard, k), begin, end in zip(places, ends, ends[1:], strict=False):
                self._fill(shard, k, fields, begin, end)
        elif self._store is not None:
            self._store.read(rows, fields)
            _turn(fields, labels, variants, offsets)
        return EpisodeBlock(
            indices=indices,
            fields=fields,
            labels=labels,
            rows=rows,
            class_ids=class_ids,
            variants=variants,
            offsets=offsets,
        )

    def _place(self, index: int) -> tuple[_Open, int]:
        index = check_word("index", index)
        if index >= self.length:
            raise SpecError(f"index {index} is beyond these {self.length} episodes")
        number = self.manifest.shard_of(index)
        return self._shard(number), index - self.manifest.shards[number].first

    def _shard(self, number: int) -> _Open:
        shard = self._open.get(number)
        if shard is None:
            about = self.manifest.shards[number]
            try:
                shard = _opened(self.path, about)
            except CacheFull:  # what this series has in use may be what fills it
                self._open.clear()
                shard = _opened(self.path, about)
            self._open[number] = shard
        return shard

    def _fill(self, shard: _Open, k: int, fields: Mapping[str, NDArray[Any]], begin: list[int], end: list[int]) -> None:
        """Values of one episode into its places: by part, `begin` to `end` in the arrays of `fields`."""
        num, at = sum(end) - sum(begin), int(shard.index.begins[k])
        for name, spec in self._in_order:
            values, at = self._values(shard, at, num, spec)
            first, out = 0, fields[name]
            for start, stop in zip(begin, end, strict=True):
                if stop > start:
                    out[start:stop] = values[first : first + stop - start]
                    first += stop - start

    @cached_property
    def _in_order(self) -> list[tuple[str, FieldSpec]]:
        return sorted(self.fields.items())

    def _values(self, shard: _Open, at: int, num: int, spec: FieldSpec) -> tuple[NDArray[Any], int]:
        """All `num` rows of a field, the first of whose members is at byte `at`; and where the next field's is."""
        if self.manifest.payload == "images" and is_picture(spec):
            return _pictures(shard, at, num, spec)
        shape = (num, *spec.shape)
        start = at + BLOCK + len(npy_header(spec.dtype, shape))
        values: NDArray[Any] = np.ndarray(shape, spec.dtype, shard.data, start)
        return values, start + values.nbytes + -(start + values.nbytes) % BLOCK


def _pictures(shard: _Open, at: int, num: int, spec: FieldSpec) -> tuple[NDArray[Any], int]:
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


def _turn(fields: Mapping[str, NDArray[Any]], labels: Int, variants: Int, offsets: Int) -> None:
    """Quarter turns of the classes, for rows read from a store."""
    if not variants.any():
        return
    from episodes.transforms import quarter_turn

    turns = np.zeros(len(labels), np.int64)
    for b in range(offsets.shape[1] - 1):
        own = variants[offsets[3, b] : offsets[3, b + 1]]
        for part in range(3):
            place = slice(offsets[part, b], offsets[part, b + 1])
            turns[place] = np.where(labels[place] < 0, 0, own[labels[place]])
    for values in fields.values():
        if values.ndim > 2:
            quarter_turn(values, turns)


def _opened(folder: Place, shard: EpisodeShard) -> _Open:
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
    return _Open(str(path), data, index, rows_before, classes_before)
