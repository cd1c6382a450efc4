"""verify: is a store, or a set of episode shards, what its manifest says? Every fault is found, not the first only.

A fault says where, what and what mends it. `repair` makes damaged shards of episodes again; a store is ingested again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from episodes.errors import StoreError

if TYPE_CHECKING:
    from episodes.protocols import SampleStore
    from episodes.stream.series import SampledEpisodes

Progress = Callable[[int, int], None]
MANIFEST = "manifest.json"  # of both


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that is not as it has to be."""

    where: str
    """File, and the episode, sample or row in it."""
    what: str
    mend: str
    """The command or the step that mends it."""
    shard: int | None = None
    """Number of the shard of episodes that `repair` can make again to mend it."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what} (mend: {self.mend})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What `verify` found."""

    path: Path
    kind: Literal["store", "episode shards"]
    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()
    """What is no fault, but may not be meant."""
    checked: Mapping[str, int] = field(default_factory=dict)
    """How many files, bytes, and samples or episodes were looked at."""

    @property
    def shards(self) -> tuple[int, ...]:
        """Numbers of the shards of episodes that are to be made again."""
        return tuple(sorted({fault.shard for fault in self.faults if fault.shard is not None}))


def verify(
    path: Path | str,
    *,
    store: SampleStore | None = None,
    series: SampledEpisodes | None = None,
    progress: Progress = lambda done, total: None,
) -> Findings:
    """Look at every byte of a store, or of episode shards, and at every plan of these.

    Args:
        path: the folder.
        store: for shards: what they were compiled from. Rows, keys, class names and values are compared with it.
        series: for shards: the episodes they were compiled from. Plans, and values after transforms, are compared with it.
        progress: called with (bytes done, bytes in all).

    Raises:
        StoreError: there is neither a store nor a set of episode shards at `path`, or it cannot be read.
        StoreVersion: it was written in another format.
        StateMismatch: the shards were compiled from another store or other episodes.
    """
    from episodes.verify.shards import verify_shards
    from episodes.verify.stores import verify_store

    path = Path(path)
    if kind_of(path) == "store":
        return verify_store(path, progress)
    return verify_shards(path, store if series is None else series.store, series, progress)


def kind_of(path: Path) -> Literal["store", "episode shards"]:
    """Which of the two lies at `path`; of a manifest that cannot be read, by the files beside it.

    Raises:
        StoreError: neither.
    """
    if not path.is_dir():
        unfinished = path.with_name(path.name + ".partial") if path.name else path
        mend = "an unfinished one is beside it: finish it with --resume" if unfinished.is_dir() else "is the path right?"
        raise StoreError(f"no store and no episode shards at {path} ({mend})")
    try:
        table: Any = json.loads((path / MANIFEST).read_bytes())
        return "episode shards" if isinstance(table, dict) and "kind" in table else "store"
    except (FileNotFoundError, ValueError):
        kinds: dict[str, Literal["store", "episode shards"]] = {"*.tar": "episode shards", "*.h5": "store"}
        for files, kind in kinds.items():
            if any(path.glob(f"shard-{files}")):
                return kind
        raise StoreError(f"no store and no episode shards at {path} (it has no {MANIFEST} of either)") from None
    except OSError as error:
        raise StoreError(f"cannot read {path / MANIFEST}: {error.strerror}") from error
