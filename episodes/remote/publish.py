"""A finished store or set of episode shards -> a url: file by file, the manifest last; interrupted, it is gone on with.

A reader opens the manifest, so what has none is not there. Until then a note at the url tells which manifest is on its way:
a second run skips files that arrived whole under the same note, and refuses to go on with what was begun by another.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from episodes.errors import StoreError
from episodes.remote.place import Place, Remote

MANIFEST: Final = "manifest.json"  # of stores and of episode shards
NOTE: Final = "upload.json"
_PARTS: Final = "shard-"  # how names of files begin that an older set may have left over
_BLOCK: Final = 4 << 20
_MEND: Final = "go on with --resume, or start over with --overwrite"

Progress = Callable[[int, int], None]


def publish(
    folder: Path,
    target: Remote,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = lambda done, total: None,
) -> None:
    """Upload the finished store or set of episode shards at `folder`. Each file is read and compared with its hash first.

    Args:
        folder: what to upload.
        target: folder to make.
        overwrite: replace what is there. Unlike on a disk, nothing is there from the first file to the last.
        resume: go on with an unfinished upload; if `target` is already complete and the same, do nothing.
        progress: called with (bytes done, bytes in all).

    Raises:
        StoreError: there is nothing finished at `folder`; `target` exists; an unfinished upload is there, and neither was
            said, or it is of other content; the place does not answer, or refuses.
    """
    manifest, files = _contents(folder)
    upload = _Upload(target, manifest, hashlib.sha256(manifest).hexdigest().encode())
    if upload.check(overwrite=overwrite, resume=resume):
        return
    arrived = upload.begin(overwrite) and (resume or not overwrite)
    total, done = sum(one.size for one in files), 0
    for one in files:
        if not (arrived and (target / one.name).size() == one.size):
            (target / one.name).put(one.checked(folder))
        done += one.size
        progress(done, total)
    upload.end({one.name for one in files})


@contextmanager
def made_here(
    out: Place, *, overwrite: bool, resume: bool, progress: Progress = lambda done, total: None
) -> Iterator[Path]:
    """The folder of this machine to make `out` in; where `out` is remote, it is uploaded at the end and then deleted.

    Object stores cannot rename, so what is in the making cannot lie there. It lies under the cache's folder, where `resume`
    finds it, and is not counted to its limit. Where `out` is complete already, `resume` gives a folder with its manifest
    only: enough to see whether it is the same.

    Raises:
        StoreError: as `publish`.
    """
    if isinstance(out, Path):
        yield out
        return
    out.check_writable()
    there = _bytes_at(out / MANIFEST)
    work = out.cache.folder / "making" / hashlib.sha256(out.url.encode()).hexdigest()[:16]
    folder = work / out.name
    if not (overwrite or resume):
        if there is not None:
            raise StoreError(f"{out} exists; give --overwrite to replace it, or another url")
        if folder.exists():
            raise StoreError(f"an unfinished upload to {out} is at {folder}; {_MEND}")
    if there is not None and not overwrite and not folder.exists():
        with _only_manifest(out, there) as shown:
            yield shown
        return
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make {work}: {error.strerror} (set EPISODES_CACHE)") from error
    yield folder
    publish(folder, out, overwrite=overwrite, resume=True, progress=progress)
    shutil.rmtree(work)


@contextmanager
def _only_manifest(out: Remote, manifest: bytes) -> Iterator[Path]:
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / out.name
        folder.mkdir()
        (folder / MANIFEST).write_bytes(manifest)
        try:
            yield folder
        except StoreError as error:
            raise StoreError(str(error).replace(str(folder), str(out))) from error


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    size: int
    sha256: str

    def checked(self, folder: Path) -> Path:
        """Where it is, after a look at whether it is what the manifest says."""
        path, digest = folder / self.name, hashlib.sha256()
        try:
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from error
        if digest.hexdigest() != self.sha256:
            raise StoreError(
                f"{path} is not what its manifest says and is not uploaded (its SHA-256 is {digest.hexdigest()})"
            )
        return path


@dataclass(frozen=True, slots=True)
class _Upload:
    target: Remote
    manifest: bytes
    note: bytes

    def check(self, *, overwrite: bool, resume: bool) -> bool:
        """Refuse what must not be replaced; whether everything is there already."""
        self.target.check_writable()
        there, note, url = _bytes_at(self.target / MANIFEST), _bytes_at(self.target / NOTE), self.target.url
        if there is None and note is None and (others := self.target.names()):
            raise StoreError(
                f"{url} exists and holds other things ('{others[0]}'); nothing is put there (choose another url)"
            )
        if there is not None and not (overwrite or resume):
            raise StoreError(f"{url} exists; give --overwrite to replace it, or another url")
        if there is not None and _kind(there) != _kind(self.manifest):
            raise StoreError(
                f"{url} is another kind of thing than what is uploaded; it is not replaced (choose another url)"
            )
        if there is None and note is not None and not (overwrite or resume):
            raise StoreError(f"an unfinished upload is at {url}; {_MEND}")
        if overwrite:
            return False
        if there is not None and there != self.manifest:
            raise StoreError(f"{url} has other content; give --overwrite to replace it")
        if there is None and note is not None and note != self.note:
            raise StoreError(f"the unfinished upload at {url} is of other content; start over with --overwrite")
        if there is not None:
            (self.target / NOTE).unlink(missing_ok=True)  # a kill at the very end may have left it
        return there is not None

    def begin(self, overwrite: bool) -> bool:
        """Take the manifest away and leave the note; whether files are there that arrived under this very note."""
        same = _bytes_at(self.target / NOTE) == self.note
        if overwrite:
            (self.target / MANIFEST).unlink(missing_ok=True)
        if not same:
            (self.target / NOTE).put(self.note)
        return same

    def end(self, names: set[str]) -> None:
        """Put the manifest, take the note away, and what an older set left."""
        for name in self.target.names():
            if name.startswith(_PARTS) and name not in names:
                (self.target / name).unlink(missing_ok=True)
        (self.target / MANIFEST).put(self.manifest)
        (self.target / NOTE).unlink(missing_ok=True)


def _contents(folder: Path) -> tuple[bytes, list[_File]]:
    """The manifest, and every file it speaks of."""
    try:
        manifest = (folder / MANIFEST).read_bytes()
        table: dict[str, Any] = json.loads(manifest)
        shards, files = table["shards"], []
        for shard in shards:
            files.append(_File(shard["file"], shard["size"], shard["sha256"]))
            if "index_file" in shard:
                name = shard["index_file"]
                files.append(_File(name, (folder / name).stat().st_size, shard["index_sha256"]))
        if "classes_sha256" in table:
            files.append(_File("classes.json", (folder / "classes.json").stat().st_size, table["classes_sha256"]))
    except OSError as error:
        raise StoreError(f"{folder} is no finished store or set of episode shards: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder / MANIFEST} is no manifest ({error})") from error
    return manifest, files


def _bytes_at(file: Remote) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def _kind(manifest: bytes) -> str | None:
    try:
        table = json.loads(manifest)
    except ValueError:
        return None
    return table.get("kind") if isinstance(table, dict) else None
