"""From planned rows to values: every field of a block in one call of a compiled gather, straight into its memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from episodes.episode import EpisodeBlock
from episodes.errors import StoreError
from episodes.plans import FlatPlans
from episodes.protocols import FieldSpec, Places, SampleStore
from episodes.store._fused import gather_transformed
from episodes.store._gather import gather
from episodes.stream.buffers import Arena
from episodes.transforms import Transform, quarter_turn

NO_INDICES = np.empty(0, np.uint64)


def assemble(
    store: SampleStore,
    transforms: Mapping[str, Transform],
    key: tuple[int, int],
    indices: Sequence[int],
    flat: FlatPlans,
    arena: Arena,
) -> EpisodeBlock:
    """The episodes of `flat` with their values, in arrays of `arena`.

    Args:
        store: where rows are read.
        transforms: by field; a turned image without one is turned by a plain one.
        key: seed and stream of the transforms' numbers.
        indices: of the episodes.
        flat: their rows.
        arena: memory; the arrays of the block are cut out of it.
    """
    num, ways, chosen = len(flat.rows), len(flat.class_ids), {}
    for name, spec in store.fields.items():
        transform = transforms.get(name)
        if transform is None and len(flat.turns) and _is_image(spec):
            transform = Transform(field=name)
        chosen[name] = transform, spec, spec if transform is None else transform.output(spec)
    sizes = [num * delivered.row_bytes for _, _, delivered in chosen.values()]
    arena.reserve([*sizes, *(ways * values[0].nbytes for values in store.class_fields.values())])
    fields, plain = {}, {}
    for name, (transform, spec, delivered) in chosen.items():
        out = fields[name] = arena.array((num, *delivered.shape), delivered.dtype)
        if transform is None:
            plain[name] = out
        else:
            _transformed(store, transform, spec, key, flat, out)
    _plain(store, flat, plain)
    class_fields = {
        name: np.take(values, flat.class_ids, 0, arena.array((ways, *values.shape[1:]), values.dtype))
        for name, values in store.class_fields.items()
    }
    return EpisodeBlock(
        indices=indices,
        fields=fields,
        labels=flat.labels,
        rows=flat.rows,
        offsets=flat.offsets,
        class_ids=flat.class_ids,
        variants=flat.variants,
        class_fields=class_fields,
    )


def _is_image(spec: FieldSpec) -> bool:
    return spec.dtype == "uint8" and len(spec.shape) == 3


def _plain(store: SampleStore, flat: FlatPlans, out: Mapping[str, NDArray[Any]]) -> None:
    """Values as they are stored; other turned pictures than uint8 images (masks, float images) are turned in place."""
    read = {}
    for name, values in out.items():
        places = store.places(name)
        if places is None:
            read[name] = values
            continue
        size = store.fields[name].row_bytes
        _check(store, flat, gather(
            places.addresses, places.rows_per_shard, store.num_rows, size, flat.rows, np.uint64(values.ctypes.data)
        ))  # fmt: skip
    if read:
        store.read(flat.rows, read)  # together: rows that are computed are computed once
    if len(flat.turns):
        for values in out.values():
            if values.ndim > 2:
                quarter_turn(values, flat.turns)


def _transformed(
    store: SampleStore, transform: Transform, spec: FieldSpec, key: tuple[int, int], flat: FlatPlans, out: NDArray[Any]
) -> None:
    size = transform.size(spec)
    indices = flat.per_row if transform.draws or len(flat.turns) else NO_INDICES
    numbers = transform.draw(spec, *key, indices, flat.slots, flat.turns)
    places, rows, num_rows = store.places(transform.field), flat.rows, store.num_rows
    if places is None:  # encoded: decode first, then transform what lies in memory
        decoded = store.read(rows, {transform.field: np.empty((len(rows), *spec.shape), spec.dtype)})[transform.field]
        places = Places(np.array([decoded.ctypes.data], np.uint64), max(1, len(rows)))
        rows, num_rows = np.arange(len(rows)), len(rows)
    _check(store, flat, gather_transformed(
        places.addresses,
        places.rows_per_shard,
        num_rows,
        *size,
        transform.stored == "hwc",
        transform.layout == "hwc",
        rows,
        numbers,
        transform.fill,
        *transform.normaliser(size[0]),
        np.uint64(out.ctypes.data),
    ))  # fmt: skip


def _check(store: SampleStore, flat: FlatPlans, wrong: int) -> None:
    """Refuse a row that the store has not."""
    if wrong != -1:
        raise StoreError(f"row {flat.rows[wrong]} is not in 0..{store.num_rows - 1}")
