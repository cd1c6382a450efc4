"""What an ingest will write, decided and checked before anything is decoded."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from episodes.errors import ReaderError, StoreError
from episodes.protocols import FieldSpec, Listing, RawSample, Reader
from episodes.store._class_fields import to_table
from episodes.store.manifest import DIGEST, DIGEST_BYTES, KEY, SPAN, Encoding, canonical
from episodes.store.table import ClassTable

# Photographs take 1/4 to 1/10. A fixed share, for rows are cut into shards before any is encoded.
_ENCODED_SHARE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """An ingest as decided before anything is decoded."""

    samples: Sequence[RawSample]  # in row order
    listing: Listing
    columns: Mapping[str, FieldSpec]
    encodings: Mapping[str, Encoding]
    rows_per_shard: int
    skip_broken: bool
    reader: Mapping[str, Any]
    source: str

    @classmethod
    def plan(
        cls,
        reader: Reader,
        listing: Listing,
        options: Any,
        encodings: Mapping[str, Encoding],
        shard_bytes: int,
        skip_broken: bool,
    ) -> Work:
        if not listing.samples:
            raise ReaderError(f"reader '{reader.name}' found no samples in the source")
        ordered = sorted(listing.samples, key=lambda s: (s.class_name, _key_hash(s.key), s.key))
        for one, two in itertools.pairwise(ordered):
            if (one.class_name, one.key) == (two.class_name, two.key):
                raise StoreError(f"class '{one.class_name}' has two samples with the key '{one.key}'; keys must differ")
        # Everything that can be refused before decoding is refused here: splits, groups, empty classes, class fields.
        classes = ClassTable.build(
            count_classes(ordered), listing.groups, listing.splits, listing.is_a, listing.class_fields
        )
        columns = _columns(listing, ordered, encodings)
        row_bytes = sum(spec.row_bytes for spec in columns.values())
        row_bytes += sum(listing.fields[name].row_bytes // _ENCODED_SHARE for name in encodings)
        rows_per_shard = max(1, shard_bytes // row_bytes)
        about = {"name": reader.name, "version": reader.version, "options": _plain(options)}
        decisive = {
            "reader": about,
            "columns": {name: asdict(spec) for name, spec in columns.items()},
            "rows_per_shard": rows_per_shard,
            "skip_broken": skip_broken,
            **_decisive(listing, classes, encodings),
        }
        return cls(
            samples=ordered,
            listing=listing,
            columns=columns,
            encodings=encodings,
            rows_per_shard=rows_per_shard,
            skip_broken=skip_broken,
            reader=about,
            source=_digest(decisive, ordered),
        )


def _columns(listing: Listing, samples: Sequence[RawSample], encodings: Mapping[str, Encoding]) -> dict[str, FieldSpec]:
    """What a shard holds of a row: fields, key, digest, and where its encoded images are."""
    key_bytes = max(len(sample.key.encode()) for sample in samples)
    return {
        **{name: spec for name, spec in sorted(listing.fields.items()) if name not in encodings},
        KEY: FieldSpec(f"S{key_bytes}", ()),
        DIGEST: FieldSpec("uint8", (DIGEST_BYTES,)),
        **{SPAN + name: FieldSpec("int64", (2,)) for name in encodings},
    }


def _decisive(listing: Listing, classes: ClassTable, encodings: Mapping[str, Encoding]) -> dict[str, Any]:
    """What of a listing decides a store, beside its samples."""
    table: dict[str, Any] = {
        "groups": dict(listing.groups),
        "is_a": list(listing.is_a),
        # Lists, for their order counts: the first list is the store's default.
        "splits": [[one, [[k, list(v)] for k, v in parts.items()]] for one, parts in listing.splits.items()],
    }
    if classes.class_fields:
        table["class_fields"] = to_table(classes.class_fields)
    if encodings:
        table["encodings"] = {name: asdict(one) for name, one in encodings.items()}
        table["fields"] = {name: asdict(spec) for name, spec in listing.fields.items()}
    return table


def _digest(decisive: Mapping[str, Any], samples: Sequence[RawSample]) -> str:
    digest = hashlib.sha256(canonical(decisive))
    for sample in samples:
        digest.update(f"{sample.class_name}\x1f{sample.key}\x1f{sample.size}\x1e".encode())
    return digest.hexdigest()


def _key_hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=8).digest()


def count_classes(samples: Sequence[RawSample]) -> dict[str, int]:
    """Class name -> number of its samples, in order of first sight."""
    counts: dict[str, int] = {}
    for sample in samples:
        counts[sample.class_name] = counts.get(sample.class_name, 0) + 1
    return counts


def _plain(options: Any) -> dict[str, Any]:
    """Options as JSON values; of a path only the name, for the place of a file must not change the store's bytes."""
    if not is_dataclass(options):
        return {}
    values = {f.name: getattr(options, f.name) for f in fields(options)}
    return {name: value.name if isinstance(value, Path) else value for name, value in values.items()}
