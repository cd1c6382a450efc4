"""Resident mode: the rows of a split in device memory; for each block of episodes the host sends row numbers only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from episodes.adapters._device_stream import DeviceStream
from episodes.adapters._torch_bus import Bus, device_of
from episodes.adapters._torch_transform import apply
from episodes.adapters.each import each_with_axis
from episodes.classes import TURNS, ClassIndex, Int
from episodes.episode import Episode, EpisodeBlock
from episodes.errors import StoreError, StreamError
from episodes.plans import FlatPlans
from episodes.protocols import FieldSpec, SampleStore
from episodes.store._cache import available_bytes
from episodes.stream.series import SampledEpisodes
from episodes.stream.stream import Stream
from episodes.transforms import Transform

_COPY_BYTES = 32 << 20  # of the store, in one go
_TRANSFERS = 4  # blocks whose numbers may be on their way: a host that is ahead is not held up
_CARRIERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes; not every type can be gathered


def resident(
    series: SampledEpisodes,
    device: torch.device | str,
    *,
    block: int | None = None,
    start: int = 0,
    rank: int | None = None,
    world: int | None = None,
) -> DeviceStream[Episode[Tensor]]:
    """Episodes made on `device`, ``[1, n, ...]`` or ``[B, n, ...]``, of rows that lie there.

    The rows that the split uses are copied once, as they are stored. For a block of episodes the host draws the plans and
    sends rows, labels and the numbers of the transforms in one copy; the device gathers, moves, tints and normalises. The
    values are those of `Stream` and `to_torch`, bit by bit, and so is the state: one continues the other. On a GPU all of
    it runs on the stream that is current in ``next``; take every episode on the same one.

    Args:
        series: what to draw.
        device: where to.
        block: episodes made and stacked together; the more, the better a GPU is used. Episodes of different sizes cannot
            be stacked; leave it out for them.
        start: first index.
        rank: as of `Stream`.
        world: as of `Stream`.

    Raises:
        StreamError: the rows do not fit in the memory that is free on the device; the series has a function of one's own
            (`then`), which cannot run there, or is no `SampledEpisodes`; an option out of range.
        WorkerFailed, SpecError: from ``next``, as `Stream` and `to_torch`.
    """
    held = _Resident(series, device_of(device))
    options: Any = {"start": start, "block": block, "rank": rank, "world": world}
    stream: Stream[Any] = Stream(held, **options)
    return DeviceStream(stream, _stacked, ahead=0)


def _stacked(item: Any) -> Callable[[], Episode[Tensor]]:
    return partial(each_with_axis, item, lambda values: values)


class _Resident:
    """`series` with its rows on `device`: blocks of the same episodes, of tensors."""

    def __init__(self, series: SampledEpisodes, device: torch.device) -> None:
        if not isinstance(series, SampledEpisodes):
            raise StreamError(f"a {type(series).__name__} has no rows of one store to hold on a device; use prefetch")
        if series.then is not None:
            raise StreamError("`then` is Python and cannot run on a device; leave it out, or use prefetch")
        self._series, self._device = series, device
        self._bus = Bus(device, _TRANSFERS)
        self._rows = _rows_of(series.classes)
        self._fields = _hold(series.store, self._rows, device, series.classes.split)
        self._class_fields = _hold_class_fields(series.store, device)
        self._transforms = {transform.field: transform for transform in series.transforms}

    @property
    def fingerprint(self) -> str:
        return self._series.fingerprint

    @property
    def length(self) -> int | None:
        return self._series.length

    @property
    def episode_bytes(self) -> int:
        return self._series.episode_bytes

    def __getitem__(self, index: int) -> Episode[Any]:
        return self.block([index])[0]

    def block(self, indices: Sequence[int], arena: object = None) -> EpisodeBlock:
        """An `EpisodeBlock` whose arrays are tensors on the device, fresh ones; an arena is not needed."""
        flat = self._series.flat(indices)
        places = np.searchsorted(self._rows, flat.rows)
        missing = self._rows[np.minimum(places, len(self._rows) - 1)] != flat.rows
        if missing.any():
            raise StoreError(f"row {flat.rows[missing][0]} is not among those of split '{self._series.classes.split}'")
        chosen, drawn = self._transforms_of(flat), {}
        for name, transform in chosen.items():
            per_row = flat.per_row if transform.draws or len(flat.turns) else np.empty(0, np.uint64)
            drawn[name] = transform.draw(
                self._series.store.fields[name], *self._series.transform_key, per_row, flat.slots, flat.turns
            )
        tensors = self._bus.deliver(
            [flat.rows, flat.labels, flat.class_ids, flat.variants, flat.turns, places, *drawn.values()]
        )
        rows, labels, class_ids, variants, turns, at = tensors[:6]
        numbers = dict(zip(drawn, tensors[6:], strict=True))
        fields = {}
        for name, values in self._fields.items():
            if name in chosen:
                fields[name] = apply(values, numbers[name], chosen[name], at)
            else:
                values = _chosen(values, at)
                fields[name] = _turned(values, turns) if len(turns) and values.ndim > 2 else values
        class_fields = {name: _chosen(values, class_ids) for name, values in self._class_fields.items()}
        # A block cuts and stacks tensors as it does arrays.
        arrays: Any = {"fields": fields, "labels": labels, "rows": rows, "class_ids": class_ids, "variants": variants}
        arrays["class_fields"] = class_fields
        return EpisodeBlock(indices=indices, offsets=flat.offsets, **arrays)

    def _transforms_of(self, flat: FlatPlans) -> Mapping[str, Transform]:
        """By field; a turned image without a transform is turned by a plain one."""
        if not len(flat.turns):
            return self._transforms
        images = [
            name for name, spec in self._series.store.fields.items() if spec.dtype == "uint8" and len(spec.shape) == 3
        ]
        return {name: Transform(field=name) for name in images} | self._transforms


def _rows_of(classes: ClassIndex) -> Int:
    """Store rows of all classes, sorted, each once."""
    starts, counts = np.unique(classes.extents, axis=0).T  # turns of a class have the same
    first = np.repeat(starts - np.cumsum(counts) + counts, counts)
    places = first + np.arange(len(first))
    return np.unique(classes.order[places] if len(classes.order) else places)


def _hold(store: SampleStore, rows: Int, device: torch.device, split: str) -> dict[str, Tensor]:
    """Field -> [rows, ...] on the device."""
    size, free = len(rows) * sum(spec.row_bytes for spec in store.fields.values()), _free_bytes(device)
    if free is not None and size > free:
        raise StreamError(
            f"the {len(rows)} rows of split '{split}' take {size} bytes; {device} has {free} free; use prefetch"
        )
    bus = Bus(device, slots=2)
    held = {name: _column(store, name, spec, rows, bus) for name, spec in store.fields.items()}
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # whatever stream reads them
    return held


def _hold_class_fields(store: SampleStore, device: torch.device) -> dict[str, Tensor]:
    """Class field -> [C, ...] on the device, of all classes: they are few."""
    return {name: torch.from_numpy(values.copy()).to(device) for name, values in store.class_fields.items()}


def _column(store: SampleStore, name: str, spec: FieldSpec, rows: Int, bus: Bus) -> Tensor:
    values, memory = bus.empty(spec.dtype, (len(rows), *spec.shape))
    step = max(1, _COPY_BYTES // max(1, spec.row_bytes))
    for begin in range(0, len(rows), step):
        some = rows[begin : begin + step]
        room = bus.room(len(some) * spec.row_bytes)
        store.read(some, {name: room.view(spec.dtype).reshape(len(some), *spec.shape)})
        bus.send(memory[begin * spec.row_bytes :][: len(room)])
    return values


def _free_bytes(device: torch.device) -> int | None:
    """Memory that can be had on the device, torch's own reserve included; None: not known."""
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserve
    return available_bytes() if device.type == "cpu" else None


def _chosen(values: Tensor, at: Tensor) -> Tensor:
    """Rows `at` of values of any type."""
    carrier = _CARRIERS.get(values.element_size(), values.dtype)
    return values.view(carrier).index_select(0, at).view(values.dtype)


def _turned(values: Tensor, turns: Tensor) -> Tensor:
    """``values[i]`` [..., size, size], of any type, turned by ``turns[i]`` quarter turns, as `transforms.quarter_turn`."""
    size = values.shape[-1]
    source = _sources(size, values.device).index_select(0, turns)  # [n, size * size]
    carrier = _CARRIERS.get(values.element_size(), values.dtype)
    planes = values.view(carrier).reshape(len(values), -1, size * size)
    turned = planes.gather(2, source[:, None].expand(-1, planes.shape[1], -1))
    return turned.view(values.dtype).view(values.shape)


@lru_cache(maxsize=64)
def _sources(size: int, device: torch.device) -> Tensor:
    """[4, size * size] place that each pixel of an image turned 0, 1, 2, 3 times shows; kept, as a copy waits."""
    image = np.arange(size * size).reshape(size, size)
    return torch.from_numpy(np.stack([np.rot90(image, turn).ravel() for turn in range(TURNS)])).to(device)
