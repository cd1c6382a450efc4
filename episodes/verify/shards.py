"""Every fault of a set of episode shards: manifest, files, indexes, the plan and the members of every episode."""

from __future__ import annotations

import mmap
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from episodes.errors import ShardCorrupt, StateMismatch
from episodes.protocols import SampleStore
from episodes.shards.manifest import MANIFEST, EpisodeShard, ShardManifest
from episodes.shards.record import ShardIndex
from episodes.stream.series import SampledEpisodes
from episodes.verify import Fault, Findings, Progress
from episodes.verify.files import fault_of, strays
from episodes.verify.members import Members
from episodes.verify.plans import Laws, WrittenPlan, plans_of


def verify_shards(path: Path, store: SampleStore | None, series: SampledEpisodes | None, progress: Progress) -> Findings:
    """See `episodes.verify.verify`."""
    try:
        manifest = ShardManifest.from_json((path / MANIFEST).read_bytes(), str(path / MANIFEST))
        _check_plain(manifest)
    except (FileNotFoundError, ShardCorrupt) as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else str(error).removeprefix(f"{path / MANIFEST} ")
        again = f"episodes compile STORE -o {shlex.quote(str(path))} --overwrite"
        return Findings(path=path, kind="episode shards", faults=(Fault(where=MANIFEST, what=what, mend=again),))
    _check_source(path, manifest, store, series)
    total, done = 2 * sum(shard.size for shard in manifest.shards), 0  # hashed, then looked into

    def tick(num: int) -> None:
        nonlocal done
        done += num
        progress(min(done, total), total)

    look = _Look(path, manifest, store, series, tick)
    faults = [fault for number in range(len(manifest.shards)) for fault in look.faults(number)]
    progress(total, total)  # what was damaged was not looked into
    known = {MANIFEST, *(name for shard in manifest.shards for name in (shard.file, shard.index_file))}
    others = strays(path, known)
    # Programs that take all *.tar of the folder would read it as episodes.
    tars = [name for name in others if name.endswith(".tar")]
    remove = [Fault(where=n, what="is no shard of this set", mend=f"rm {shlex.quote(str(path / n))}") for n in tars]
    notes = [f"{name} is no file of this set; nothing reads it" for name in others if name not in tars]
    if store is None:
        notes.append("rows and values were not compared with the store; give it with --store")
    elif series is None:
        notes.append("plans were not drawn again: the manifest does not say how, or not for this software")
    return Findings(
        path=path,
        kind="episode shards",
        faults=(*faults, *remove),
        notes=tuple(notes),
        checked={"files": len(known), "bytes": total // 2, "episodes": manifest.count},
    )


def _check_plain(manifest: ShardManifest) -> None:
    """Refuse a manifest whose shards do not follow each other, or lie elsewhere."""
    first, names = 0, set()
    for shard in manifest.shards:
        names |= {shard.file, shard.index_file}
        if shard.first != first or shard.episodes < 1 or any(Path(n).name != n for n in (shard.file, shard.index_file)):
            raise ShardCorrupt(f"says that {shard.file} has {shard.episodes} episodes from {shard.first} on, after {first}")
        first += shard.episodes
    if first != manifest.count or len(names) != 2 * len(manifest.shards):
        raise ShardCorrupt(
            f"has {first} episodes in {len(manifest.shards)} shards, and says that there are {manifest.count}"
        )


def _check_source(path: Path, manifest: ShardManifest, store: SampleStore | None, series: SampledEpisodes | None) -> None:
    source = manifest.about.get("store")
    if store is not None and store.fingerprint != source:
        raise StateMismatch(f"{path} was compiled from store {source}; this store is {store.fingerprint}")
    if series is not None and series.fingerprint != manifest.fingerprint:
        raise StateMismatch(f"{path} holds episodes {manifest.fingerprint}; these are {series.fingerprint}")


class _Look:
    """One pass over a set, shard by shard; what is learned of one is held against the next."""

    def __init__(
        self,
        path: Path,
        manifest: ShardManifest,
        store: SampleStore | None,
        series: SampledEpisodes | None,
        tick: Callable[[int], None],
    ) -> None:
        self._path, self._manifest, self._series, self._tick = path, manifest, series, tick
        about = manifest.about
        self._laws = Laws(
            store,
            None if series is None else series.classes,
            repeats_rows=about.get("sampler", {}).get("name") == "self_supervised",
            turned=bool(about.get("rotations")),
        )
        self._members = Members(manifest, store, series)
        where = shlex.quote(str(getattr(store, "path", "STORE")))
        self._repair = f"episodes verify {shlex.quote(str(path))} --repair --store {where}"
        self._again = f"episodes compile {where} -o {shlex.quote(str(path))} --overwrite"

    def faults(self, number: int) -> Iterator[Fault]:
        """Those of one shard: of its files; or, where they have their hashes, of what is written in them."""
        shard = self._manifest.shards[number]
        index, wrong = self._index(shard)
        if wrong is not None:
            yield Fault(where=shard.index_file, what=wrong, mend=self._repair, shard=number)
        damaged = fault_of(self._path / shard.file, shard.size, shard.sha256, self._tick)
        inside = () if index is None else self._inside(shard, index)
        if damaged is not None:
            # The first place that is wrong tells which episodes still are what they were.
            first = "" if damaged == "is missing" else next(iter(inside), "")
            yield Fault(
                where=shard.file, what=damaged + (f"; first, {first}" if first else ""), mend=self._repair, shard=number
            )
        else:
            for what in inside:
                yield Fault(where=shard.file, what=what, mend=self._again)

    def _index(self, shard: EpisodeShard) -> tuple[ShardIndex | None, str | None]:
        path = self._path / shard.index_file
        if damaged := fault_of(path, None, shard.index_sha256):
            return None, damaged
        try:
            index = ShardIndex.from_npy(path.read_bytes())
        except (ValueError, IndexError) as error:
            return None, f"is no index ({error})"
        if len(index.counts) != shard.episodes or index.begins[0] != 0 or (index.counts < 0).any():
            return None, f"is the index of {len(index.counts)} episodes, the manifest says {shard.episodes}"
        return index, None

    def _inside(self, shard: EpisodeShard, index: ShardIndex) -> Iterator[str]:
        """What is wrong with each episode of a shard."""
        try:
            with (self._path / shard.file).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            yield f"it cannot be mapped: {error}"
            return
        with memoryview(mapped) as data:
            begins = index.begins.tolist()
            for k, plan in enumerate(plans_of(index)):
                i = shard.first + k
                broken = self._laws.broken_by(plan) or self._drawn_otherwise(i, plan)
                broken = broken or self._members.broken(data, begins[k], begins[k + 1], i, plan)
                if broken:
                    yield f"episode {i}: {broken}"
                self._tick(max(0, begins[k + 1] - begins[k]))
            if bytes(data[begins[-1] :]) != bytes(1024):
                yield f"it does not end with two empty blocks at byte {begins[-1]}"
        mapped.close()

    def _drawn_otherwise(self, index: int, plan: WrittenPlan) -> str | None:
        """Whether the series has another plan of this index."""
        if self._series is None:
            return None
        drawn = self._series.plan(index)
        rows = np.concatenate([drawn.support, drawn.query, drawn.unlabeled])
        labels = np.concatenate([drawn.support_labels, drawn.query_labels, drawn.unlabeled_labels])
        columns = {"rows": rows, "labels": labels, "class_ids": drawn.class_ids, "variants": drawn.variants}
        for name, values in columns.items():
            if not np.array_equal(values, getattr(plan, name)):
                return f"its {name} are not those that its policy draws"
        return None
