"""Manifest: what is in a store, which files hold it, and their hashes; the content of ``manifest.json``.

The written specification is docs/store-format.md; a change here is a change there, and a new format version if an old
reader would misread the files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from numpy.typing import NDArray

from episodes.errors import StoreCorrupt, StoreVersion
from episodes.protocols import FieldSpec

FORMAT: Final = 1  # every field raw: a column of equally long rows
FORMAT_ENCODED: Final = 2  # some fields encoded: a program that knows only format 1 must not guess at them
VALUES: Final = 1  # what digests are taken over; the same in both formats, for so are the values
MANIFEST, CLASSES = "manifest.json", "classes.json"
KEY, DIGEST = "_key", "_digest"  # columns of every shard beside its fields
SPAN: Final = "_span."  # + an encoded field: column of (first byte, length) in that field's bytes
DIGEST_BYTES: Final = 16
JPEG: Final = "jpeg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of rows."""

    file: str
    rows: int
    size: int
    """Bytes of the file."""
    sha256: str
    offsets: Mapping[str, int]
    """column -> byte of the file at which its contiguous values begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A sample that could not be decoded and was left out on request."""

    class_name: str
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the rows of an encoded field are kept."""

    codec: str
    """``jpeg``."""
    quality: int
    """Of images that were encoded at ingest; those that came as fitting JPEGs are kept as they were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is in a store. Row r lies in shard ``r // rows_per_shard`` at place ``r % rows_per_shard``."""

    fields: Mapping[str, FieldSpec]
    columns: Mapping[str, FieldSpec]
    """The raw fields, and ``_key`` (sample keys, UTF-8), ``_digest`` (BLAKE2b-128 of each row) and for each encoded field
    ``_span.<field>`` (where in the shard's bytes of that field a row begins, and its length)."""
    num_rows: int
    rows_per_shard: int
    shards: tuple[Shard, ...]
    classes_sha256: str
    content: str
    """SHA-256 over the rows' digests in row order: the samples' values, however they are cut into shards."""
    source: str
    """Hash of the source's listing and of the reader's settings; decides whether an unfinished ingest may go on."""
    reader: Mapping[str, Any]
    """Name, version and options of the reader that gave the samples."""
    skipped: tuple[Skipped, ...] = ()
    encodings: Mapping[str, Encoding] = field(default_factory=dict)
    """The fields that are encoded; `fields` has the type and shape they decode to."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what can change an episode: format, fields, classes, splits, values."""
        decisive = {
            "format": VALUES,
            "fields": {name: asdict(spec) for name, spec in sorted(self.fields.items())},
            "classes": self.classes_sha256,
            "content": self.content,
        }
        return hashlib.sha256(canonical(decisive)).hexdigest()

    def to_json(self) -> bytes:
        """Canonical bytes: the same manifest gives the same bytes."""
        table = {"format": FORMAT_ENCODED if self.encodings else FORMAT, "fingerprint": self.fingerprint, **asdict(self)}
        if not self.encodings:
            del table["encodings"]
        table["checksum"] = hashlib.sha256(canonical(table)).hexdigest()
        return json.dumps(table, ensure_ascii=False, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Manifest:
        """The manifest that `to_json` wrote; `where` names the file in errors.

        Raises:
            StoreVersion: written in another format.
            StoreCorrupt: not a manifest, or not as it was written.
        """
        try:
            table: dict[str, Any] = json.loads(data)
            version = table["format"]
            if version not in (FORMAT, FORMAT_ENCODED):
                raise StoreVersion(
                    f"{where} has store format {version}; this program reads format {FORMAT} and {FORMAT_ENCODED} "
                    "(ingest the source again)"
                )
            if table.pop("checksum") != hashlib.sha256(canonical(table)).hexdigest():
                raise StoreCorrupt(f"{where} was altered: its checksum is not that of its content")
            del table["format"], table["fingerprint"]
            table["fields"] = {name: _field(spec) for name, spec in table["fields"].items()}
            table["columns"] = {name: _field(spec) for name, spec in table["columns"].items()}
            table["shards"] = tuple(Shard(**shard) for shard in table["shards"])
            table["skipped"] = tuple(Skipped(**one) for one in table["skipped"])
            if (version == FORMAT_ENCODED) != ("encodings" in table):
                raise StoreCorrupt(f"{where} was altered: only a store of format {FORMAT_ENCODED} has encoded fields")
            table["encodings"] = {name: Encoding(**one) for name, one in table.get("encodings", {}).items()}
            manifest = cls(**table)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreCorrupt(f"{where} is not a store manifest ({error})") from error
        for name, encoding in manifest.encodings.items():
            if encoding.codec != JPEG:
                raise StoreVersion(
                    f"{where}: field '{name}' is encoded as '{encoding.codec}'; this program reads {JPEG} "
                    "(ingest the source again)"
                )
        return manifest


def row_digest(values: Mapping[str, NDArray[Any]]) -> bytes:
    """BLAKE2b-128 over the fields of one row, in the order of their names."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for _, value in sorted(values.items()):
        digest.update(value.tobytes())
    return digest.digest()


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: the form that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _field(table: Mapping[str, Any]) -> FieldSpec:
    return FieldSpec(dtype=table["dtype"], shape=tuple(table["shape"]))
