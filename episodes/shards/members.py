"""What is written for an episode: its values, labels and plan as members of a tar, by payload."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from episodes.classes import Int
from episodes.episode import Episode, EpisodeBlock
from episodes.errors import SpecError
from episodes.protocols import FieldSpec
from episodes.shards.images import is_picture, kept_bytes, picture_members
from episodes.shards.manifest import Payload
from episodes.shards.record import Buffer, class_member, key_of, npy_member, parts_of, plan_member
from episodes.stream.series import SampledEpisodes

Arrays = Episode[NDArray[Any]]


Record = tuple[Arrays, Iterator[Buffer]]


def records(
    series: SampledEpisodes, fields: Mapping[str, FieldSpec], payload: Payload, block: Sequence[Arrays]
) -> Iterator[Record]:
    """Each episode of `block` with all its members (see `episodes.shards.record`).

    Args:
        series: what they are of.
        fields: type and shape of each field of every episode.
        payload: what becomes of values.
        block: some episodes.

    Raises:
        SpecError: a function of one's own made other fields of an episode.
    """
    for episode, keys in zip(block, _keys(series, block), strict=True):
        if series.then is not None:
            _check(fields, episode)
        yield episode, _members(series, fields, payload, episode, keys)


def _check(fields: Mapping[str, FieldSpec], episode: Arrays) -> None:
    for part in parts_of(episode):
        found = {name: FieldSpec(str(values.dtype), values.shape[1:]) for name, values in part.fields.items()}
        if found != fields:
            raise SpecError(
                f"episode {episode.index}: its fields are {found}, those of the first episode {dict(fields)}; "
                "shards hold fields of one type and shape"
            )


def _keys(series: SampledEpisodes, block: Sequence[Arrays]) -> Iterator[list[str] | None]:
    """Sample keys of each episode's rows, asked for all at once; None of a store that knows none."""
    store: Any = series.store
    if not hasattr(store, "keys"):
        yield from (None for _ in block)
        return
    if not isinstance(block, EpisodeBlock):
        yield from (store.keys(_rows(episode)) for episode in block)
        return
    start, stop = block.offsets[0, 0], block.offsets[2, -1]
    keys = store.keys(block.rows[start:stop])
    ends = (block.offsets[:3].T - start).tolist()
    for begin, end in itertools.pairwise(ends):
        yield [key for one, two in zip(begin, end, strict=True) for key in keys[one:two]]


def _rows(episode: Arrays) -> Int:
    return np.concatenate([part.rows for part in parts_of(episode)])


def _members(
    series: SampledEpisodes, fields: Mapping[str, FieldSpec], payload: Payload, episode: Arrays, keys: list[str] | None
) -> Iterator[Buffer]:
    key, parts = key_of(episode.index), parts_of(episode)
    if payload != "rows":
        for name, spec in sorted(fields.items()):
            values = [part.fields[name] for part in parts]
            if payload == "images" and is_picture(spec):
                kept = None if series.classes.turned else kept_bytes(series.store, name, _rows(episode))
                yield from picture_members(key, name, np.concatenate(values), kept)
            else:
                yield from npy_member(f"{key}.{name}", *values)
        yield from npy_member(f"{key}.labels", *(part.labels for part in parts))
        for name, values_of in sorted(episode.class_fields.items()):
            yield from npy_member(class_member(key, name), values_of)
    classes = zip(episode.class_ids.tolist(), episode.variants.tolist(), strict=True)
    yield from plan_member(episode, [series.name_of(c, turn) for c, turn in classes], keys, series.seed)
