"""EpisodeShards: compiled episodes as a series like any other, mapped; the index beside a shard gives random access."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from episodes.classes import Int
from episodes.episode import Episode, EpisodeBlock
from episodes.errors import CacheFull, ShardCorrupt, SpecError, StateMismatch, StoreError
from episodes.protocols import FieldSpec, SampleStore
from episodes.remote.place import Place, place
from episodes.rng import check_word
from episodes.shards.images import is_picture
from episodes.shards.manifest import MANIFEST, ShardManifest
from episodes.shards.mapped import OpenShard, array_at, open_shard, pictures_at
from episodes.shards.tar import read_header
from episodes.spec import EpisodeSpec
from episodes.store._past import copy_arrays
from episodes.stream.buffers import Arena

_PARTS: Final = np.arange(3, dtype=np.int8)
_LABEL: Final = FieldSpec("int64", ())
_Arrays = Mapping[str, NDArray[Any]]
_Pieces = list[tuple[NDArray[Any], NDArray[Any]]]  # where to, where from: contiguous


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
        self._open: dict[int, OpenShard] = {}

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
    def class_fields(self) -> Mapping[str, FieldSpec]:
        """Type and shape, of one class, of each class field."""
        return self.manifest.class_fields

    @property
    def spec(self) -> EpisodeSpec:
        """Sizes of an episode."""
        return EpisodeSpec.from_table(self.manifest.about["spec"])

    @cached_property
    def episode_bytes(self) -> int:
        """Bytes of a usual episode's values."""
        counts = self._shard(0).index.counts
        size = counts[:, :3].sum() * sum(field.row_bytes for field in self.fields.values())
        size += counts[:, 3].sum() * sum(field.row_bytes for field in self.class_fields.values())
        return int(size // len(counts))

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
        class_fields = dict(self._class_values(shard, at, num, len(class_ids)))
        offsets = np.stack([np.array([0, *counts[:2].cumsum(), 0]), np.array([*counts[:3].cumsum(), counts[3]])], axis=1)
        return EpisodeBlock(
            indices=[index],
            fields=fields,
            labels=labels,
            rows=rows,
            class_ids=class_ids,
            variants=variants,
            offsets=offsets,
            class_fields=class_fields,
        )[0]

    def block(self, indices: Sequence[int], arena: Arena) -> EpisodeBlock:
        """The episodes `indices`, in arrays of `arena`."""
        places = [self._place(index) for index in indices]
        counts = np.array([shard.index.counts[k] for shard, k in places]).T  # [4, B]
        offsets = np.zeros((4, len(places) + 1), np.int64)
        np.cumsum(counts, axis=1, out=offsets[:, 1:])
        offsets[1] += offsets[0, -1]
        offsets[2] += offsets[1, -1]
        wanted = [(int(offsets[2, -1]), self.fields), (int(offsets[3, -1]), self.class_fields)]
        arena.reserve([num * field.row_bytes for num, specs in wanted for field in specs.values()])
        fields, class_fields = (
            {name: arena.array((num, *field.shape), field.dtype) for name, field in specs.items()} for num, specs in wanted
        )
        labels, rows, class_ids, variants = (
            np.concatenate(c) for c in zip(*(s.columns(k) for s, k in places), strict=True)
        )
        if len(places) > 1:  # so far episode by episode, but a block begins with the support rows of all
            order = np.argsort(np.repeat(np.tile(_PARTS, len(places)), counts[:3].T.reshape(-1)), kind="stable")
            labels, rows = labels[order], rows[order]
        if self.manifest.payload != "rows":
            ends = offsets.T.tolist()
            copied: _Pieces = []
            for (shard, k), begin, end in zip(places, ends, ends[1:], strict=False):
                copied += self._pieces(shard, k, fields, class_fields, begin, end)
            copy_arrays(copied)
        elif self._store is not None:
            self._store.read(rows, fields)
            _turn(fields, labels, variants, offsets)
            for name, out in class_fields.items():
                np.take(self._store.class_fields[name], class_ids, 0, out)
        return EpisodeBlock(
            indices=indices,
            fields=fields,
            labels=labels,
            rows=rows,
            class_ids=class_ids,
            variants=variants,
            offsets=offsets,
            class_fields=class_fields,
        )

    def _place(self, index: int) -> tuple[OpenShard, int]:
        index = check_word("index", index)
        if index >= self.length:
            raise SpecError(f"index {index} is beyond these {self.length} episodes")
        number = self.manifest.shard_of(index)
        return self._shard(number), index - self.manifest.shards[number].first

    def _shard(self, number: int) -> OpenShard:
        shard = self._open.get(number)
        if shard is None:
            about = self.manifest.shards[number]
            try:
                shard = open_shard(self.path, about)
            except CacheFull:  # what this series has in use may be what fills it
                self._open.clear()
                shard = open_shard(self.path, about)
            self._open[number] = shard
        return shard

    def _pieces(
        self, shard: OpenShard, k: int, fields: _Arrays, class_fields: _Arrays, begin: list[int], end: list[int]
    ) -> _Pieces:
        """Values of one episode and their places: by part, and of its classes, `begin` to `end` in the arrays of fields."""
        num, at, out = sum(end[:3]) - sum(begin[:3]), int(shard.index.begins[k]), []
        for name, spec in self._in_order:
            values, at = self._values(shard, at, num, spec)
            first = 0
            for start, stop in zip(begin[:3], end[:3], strict=True):
                if stop > start:
                    out.append((fields[name][start:stop], values[first : first + stop - start]))
                    first += stop - start
        for name, values in self._class_values(shard, at, num, end[3] - begin[3]):
            out.append((class_fields[name][begin[3] : end[3]], values))
        return out

    @cached_property
    def _in_order(self) -> list[tuple[str, FieldSpec]]:
        return sorted(self.fields.items())

    def _values(self, shard: OpenShard, at: int, num: int, spec: FieldSpec) -> tuple[NDArray[Any], int]:
        """All `num` rows of a field, the first of whose members is at byte `at`; and where the next field's is."""
        if self.manifest.payload == "images" and is_picture(spec):
            return pictures_at(shard, at, num, spec)
        return array_at(shard, at, num, spec)

    def _class_values(self, shard: OpenShard, at: int, num: int, ways: int) -> Iterator[tuple[str, NDArray[Any]]]:
        """Each class field, [ways, ...]; `at` is the byte of what follows the fields, the labels of `num` rows."""
        if self.class_fields:
            _, at = array_at(shard, at, num, _LABEL)
        for name, spec in sorted(self.class_fields.items()):
            values, at = array_at(shard, at, ways, spec)
            yield name, values


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
