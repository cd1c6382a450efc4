"""compile_shards: a finite part of a series -> WebDataset tar shards; the same bytes for the same episodes.

Shards are made one by one, each by one thread (or process, or machine), into ``OUT.partial``: a tar file, the index beside
it, and a note that both are whole. The manifest goes last and one rename makes the set. So a killed compile leaves nothing
that opens, `resume` makes what is missing, and parts may be made anywhere and joined by `finish_shards`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from episodes.engines import Run, local
from episodes.errors import SpecError, StoreError
from episodes.partial import Making, own_suffix
from episodes.protocols import FieldSpec
from episodes.shards.manifest import MANIFEST, EpisodeShard, Payload, ShardManifest
from episodes.shards.members import records
from episodes.shards.record import ShardIndex, parts_of
from episodes.shards.tar import END
from episodes.shards.work import SHARD_BYTES, CompileWork, describe
from episodes.shards.writing import HashedFile, note_of, write_note
from episodes.store.writer import write_whole
from episodes.stream.buffers import Arenas
from episodes.stream.series import SampledEpisodes
from episodes.stream.stream import Stream

_AT_ONCE_BYTES: Final = 4 << 20  # of values gathered in one call

Progress = Callable[[int, int], None]


def compile_shards(
    series: SampledEpisodes,
    out: Path,
    count: int,
    *,
    payload: Payload = "arrays",
    shard_bytes: int = SHARD_BYTES,
    workers: int | None = None,
    engine: Run = local.run,
    only: Collection[int] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    recipe: Mapping[str, Any] | None = None,
    progress: Progress = lambda done, total: None,
) -> ShardManifest | None:
    """Write episodes 0 .. `count` - 1 of `series` as shards at `out`.

    Args:
        series: what to write.
        out: folder to make.
        count: number of episodes.
        payload: ``arrays``: values as delivered, one .npy a field and episode; ``images``: stored pictures as files,
            without loss; ``rows``: row numbers only, for readers that have the store.
        shard_bytes: about how large a shard gets; changes files, not episodes.
        workers: shards made at a time, by default 1, or as many as a cluster can. Changes speed only.
        engine: what makes them: threads, or the ``run`` of another module of `episodes.engines`.
        only: numbers of the shards to make here; others may be making theirs. The set is then completed by
            `finish_shards`.
        overwrite: replace what is at `out`, and drop an unfinished compile unless `resume` is said, too.
        resume: go on with an unfinished compile; if `out` is already complete and the same, do nothing.
        recipe: what makes `series` of its store again, as plain values (`CompileWork.recipe`).
        progress: called with (episodes done, episodes in all).

    Returns:
        The manifest; None where `only` left the set unfinished.

    Raises:
        SpecError: as `CompileWork`; a shard of `only` that there is not; `only` with `overwrite`.
        StoreError: `out` exists; an unfinished compile exists, of other episodes or in use; the disk is full.
    """
    work = CompileWork(series=series, count=count, payload=payload, shard_bytes=shard_bytes, recipe=recipe)
    if only is not None and overwrite:
        raise SpecError(
            "overwrite: makers of single shards work side by side in one folder, which none of them may empty; delete "
            f"{out} and {out}.partial before the first"
        )
    if only is not None and (unknown := [n for n in only if not 0 <= n < work.num_shards]):
        raise SpecError(f"shard {unknown[0]} is not in 0..{work.num_shards - 1}")
    making = work.making(out)
    making.check_target(overwrite=overwrite, resume=resume)
    if resume and not overwrite and out.exists():
        return _complete(work, making)
    shared = only is not None
    with making.open(overwrite=overwrite, resume=resume or shared, together=shared) as partial:
        wanted = range(work.num_shards) if only is None else sorted(only)
        missing = [n for n in wanted if _made(work, partial, n) is None]
        make_shards(work, partial, missing, workers, progress, engine)
        if shared:
            return None
        manifest = _manifest(work, partial, read=False)
        making.finish()
    return manifest


def finish_shards(
    series: SampledEpisodes,
    out: Path,
    count: int,
    *,
    payload: Payload = "arrays",
    shard_bytes: int = SHARD_BYTES,
    recipe: Mapping[str, Any] | None = None,
) -> ShardManifest:
    """Join shards that were made apart (``only``) into a finished set.

    Raises:
        StoreError: a shard is missing or not whole; its number is named.
    """
    work = CompileWork(series=series, count=count, payload=payload, shard_bytes=shard_bytes, recipe=recipe)
    making = work.making(out)
    making.check_target(overwrite=False, resume=False)
    if not making.partial.exists():
        raise StoreError(f"no unfinished compile at {making.partial}; make its shards first")
    with making.open(overwrite=False, resume=True) as partial:
        manifest = _manifest(work, partial, read=True)
        making.finish()
    return manifest


def make_shards(
    work: CompileWork,
    folder: Path,
    numbers: Collection[int],
    workers: int | None,
    progress: Progress = lambda done, total: None,
    engine: Run = local.run,
) -> None:
    """Make shards of `work` in `folder`, some at a time; an error or Ctrl-C ends all of them soon."""
    done = work.count - sum(len(work.indices(n)) for n in numbers)

    def tick(episodes: int) -> None:
        nonlocal done
        done += episodes
        progress(done, work.count)

    engine(functools.partial(make_shard, work), folder, numbers, workers=workers, tick=tick)


def make_shard(work: CompileWork, folder: Path, number: int, tick: Callable[[int], None] = lambda episodes: None) -> None:
    """Make one shard: its tar file, its index, then the note that both are whole. Made again, it is the same bytes."""
    name, indices = f"shard-{number:05d}", work.indices(number)
    begins, counts, columns = [0], [], _Columns([], [], [], [])
    with HashedFile(folder / f"{name}.tar") as file:
        arenas = Arenas(keep=3)  # being filled, written and hashed
        for start in range(0, len(indices), step := max(1, _AT_ONCE_BYTES // max(1, work.series.episode_bytes))):
            some, arena = indices[start : start + step], arenas.take()
            for episode, pieces in records(work.series, work.fields, work.payload, work.series.block(some, arena)):
                file.write(pieces)
                begins.append(file.size)
                counts.append([*(len(p.rows) if (p := getattr(episode, part)) else 0 for part in columns.parts), 0])
                counts[-1][3] = len(episode.class_ids)
                columns.add(episode)
            arenas.give_back(arena)
            tick(len(some))
        file.write([END])
    index = ShardIndex(np.array(begins), np.array(counts), *columns.joined()).to_npy()
    write_whole(folder / f"{name}.index.npy", index, own_suffix())
    write_note(folder, number, EpisodeShard(
        file=f"{name}.tar", first=indices[0], episodes=len(indices), size=file.size, sha256=file.sha256,
        index_file=f"{name}.index.npy", index_sha256=hashlib.sha256(index).hexdigest(),
    ))  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Columns:
    rows: list[Any]
    labels: list[Any]
    class_ids: list[Any]
    variants: list[Any]
    parts = ("support", "query", "unlabeled")

    def add(self, episode: Any) -> None:
        for part in parts_of(episode):
            self.rows.append(part.rows)
            self.labels.append(part.labels)
        self.class_ids.append(episode.class_ids)
        self.variants.append(episode.variants)

    def joined(self) -> Iterator[Any]:
        return (np.concatenate(column) for column in (self.rows, self.labels, self.class_ids, self.variants))


def write_stream(
    series: SampledEpisodes,
    file: BinaryIO,
    *,
    start: int = 0,
    count: int | None = None,
    payload: Payload = "arrays",
    workers: int = 0,
) -> None:
    """Write episodes from `start` on as one tar archive, without end or `count` of them.

    Raises:
        SpecError: as `CompileWork`; `start` is beyond the series.
        StoreError: the disk behind `file` is full, or it cannot be written.
        BrokenPipeError: the reader has closed the pipe.
    """
    most = 2**63 if series.length is None else series.length - start
    if most < 1:
        raise SpecError(f"start={start} is beyond this series of {series.length} episodes")
    work = CompileWork(series=series, count=start + min(most, most if count is None else count), payload=payload)
    try:
        with Stream(series, start=start, workers=workers) as stream:
            for episode in stream:
                if episode.index >= work.count:
                    break
                for _, pieces in records(series, work.fields, payload, [episode]):
                    file.writelines(pieces)
            file.write(END)
            file.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StoreError(f"cannot write the stream: {error.strerror}") from error


def _manifest(work: CompileWork, partial: Path, *, read: bool) -> ShardManifest:
    """Check that every shard is whole, and write the manifest; `read`: with their hashes, unless these were just taken."""
    shards = []
    for number in range(work.num_shards):
        shard = _made(work, partial, number, read=read)
        if shard is None:
            raise StoreError(f"shard {number} of {work.num_shards} is not made yet (make it with --shards {number})")
        shards.append(shard)
    series = work.series
    manifest = ShardManifest(
        payload=work.payload,
        count=work.count,
        per_shard=work.per_shard,
        fields={name: FieldSpec(f.dtype, tuple(f.shape)) for name, f in sorted(work.fields.items())},
        class_fields=dict(sorted(series.class_fields.items())),
        fingerprint=series.fingerprint,
        about=describe(work),
        shards=tuple(shards),
    )
    write_whole(partial / MANIFEST, manifest.to_json())
    return manifest


def _made(work: CompileWork, partial: Path, number: int, *, read: bool = True) -> EpisodeShard | None:
    """The shard, if it is whole and noted as one of this work."""
    shard, indices = note_of(partial, number, read=read), work.indices(number)
    return shard if shard is not None and (shard.first, shard.episodes) == (indices[0], len(indices)) else None


def _complete(work: CompileWork, making: Making) -> ShardManifest:
    """The manifest at `out`, if it is of this very work."""
    out = making.out
    manifest = ShardManifest.from_json((out / MANIFEST).read_bytes(), str(out / MANIFEST))
    same = (manifest.fingerprint, manifest.count, manifest.payload, manifest.per_shard)
    if same != (work.series.fingerprint, work.count, work.payload, work.per_shard):
        raise StoreError(f"{out} was compiled from other episodes; give --overwrite to replace it")
    making.tidy()
    return manifest
