"""repair: damaged shards of episodes made again, and put in place only where they have the hashes of the manifest."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from episodes.errors import ShardCorrupt, StateMismatch, StoreError
from episodes.partial import Making
from episodes.shards.compile import make_shard
from episodes.shards.manifest import MANIFEST, ShardManifest
from episodes.shards.work import CompileWork
from episodes.shards.writing import note_of
from episodes.stream.series import SampledEpisodes


def repair(
    path: Path | str,
    series: SampledEpisodes,
    numbers: Collection[int],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Make shards `numbers` of the set at `path` again. Until one is whole and the same, the old file stays.

    Args:
        path: the folder.
        series: the episodes that the set was compiled from.
        numbers: which shards.
        progress: called with (shards done, shards in all).

    Raises:
        StateMismatch: `series` has other episodes.
        ShardCorrupt: a shard became other bytes than those of the manifest.
        StoreError: another process repairs it; the place cannot be written.
    """
    path = Path(path)
    manifest = ShardManifest.from_json((path / MANIFEST).read_bytes(), str(path / MANIFEST))
    work = work_of(manifest, series, path)
    making = Making(path.with_name(f"{path.name}.repair"), MANIFEST, work.identity(), "repair", "repaired set")
    with making.open(overwrite=True, resume=False) as folder:
        try:
            for done, number in enumerate(sorted(numbers), 1):
                _make(work, manifest, number, folder, path)
                progress(done, len(numbers))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def work_of(manifest: ShardManifest, series: SampledEpisodes, path: Path) -> CompileWork:
    """The compile that made a set.

    Raises:
        StateMismatch: `series` has other episodes.
    """
    if series.fingerprint != manifest.fingerprint:
        raise StateMismatch(f"{path} holds episodes {manifest.fingerprint}; these are {series.fingerprint}")
    plain = CompileWork(series=series, count=manifest.count, payload=manifest.payload)
    return plain.with_per_shard(manifest.per_shard)


def _make(work: CompileWork, manifest: ShardManifest, number: int, folder: Path, path: Path) -> None:
    wanted = manifest.shards[number]
    make_shard(work, folder, number)
    made = note_of(folder, number)
    if made is None or made != wanted:
        got = "nothing" if made is None else made.sha256 if made.sha256 != wanted.sha256 else made.index_sha256
        raise ShardCorrupt(
            f"{path}: shard {number} made again has SHA-256 {got}, the manifest says {wanted.sha256}: this software, or a "
            "library of it, writes other bytes than the one that compiled the set (compile all of it with --overwrite)"
        )
    try:
        (folder / wanted.index_file).replace(path / wanted.index_file)
        (folder / wanted.file).replace(path / wanted.file)
    except OSError as error:
        raise StoreError(f"cannot write {path / wanted.file}: {error.strerror}") from error
