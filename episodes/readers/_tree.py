"""A read-only tree of files: a folder, or a zip read in place. Links are followed, except back to a folder on the way."""

from __future__ import annotations

import lzma
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from episodes.errors import ReaderError

_NOISE = {"__MACOSX", "Thumbs.db", "desktop.ini"}


@dataclass(frozen=True, slots=True)
class Tree:
    """Files below one root. `read` may be called from any number of threads."""

    source: Path
    files: tuple[PurePosixPath, ...]
    """Sorted; hidden files and what file managers leave behind are left out."""
    folders: tuple[PurePosixPath, ...]
    """Sorted, empty ones included."""
    read: Callable[[PurePosixPath], bytes]
    """Bytes of a file. Raises `ReaderError` naming it."""
    size: Callable[[PurePosixPath], int]
    """How many bytes a file has, without reading it; 0 where that cannot be told (`read` will say why)."""

    def below(self, folder: str) -> Tree:
        """The tree at a top-level folder of this one."""
        root = PurePosixPath(folder)
        return Tree(
            source=self.source,
            files=tuple(f.relative_to(root) for f in self.files if f.is_relative_to(root) and f != root),
            folders=tuple(f.relative_to(root) for f in self.folders if f.is_relative_to(root) and f != root),
            read=lambda path: self.read(root / path),
            size=lambda path: self.size(root / path),
        )


def open_tree(source: Path) -> Tree:
    """The tree of a folder or of a zip.

    Raises:
        ReaderError: it is neither, or cannot be read.
    """
    if source.is_dir():
        return _folder(source)
    if not source.exists():
        raise ReaderError(f"source {source} does not exist")
    if not zipfile.is_zipfile(source):
        raise ReaderError(f"source {source} is neither a folder nor a readable zip (is it truncated?)")
    return _zip(source)


def _folder(source: Path) -> Tree:
    files, folders = [], []
    for root, names, leaves in os.walk(source, onerror=_raise, followlinks=True):
        names[:] = sorted(name for name in names if _kept(name) and not _loops(source, Path(root, name)))
        here = PurePosixPath(Path(root).relative_to(source).as_posix())
        folders += [here / name for name in names]
        files += [here / leaf for leaf in leaves if _kept(leaf)]
        for name in (*names, *leaves):
            _check_name(name, root)

    def read(path: PurePosixPath) -> bytes:
        try:
            return (source / path).read_bytes()
        except OSError as error:
            raise ReaderError(f"cannot read {source / path}: {error.strerror}") from error

    def size(path: PurePosixPath) -> int:
        try:
            return (source / path).stat().st_size
        except OSError:
            return 0

    return Tree(source, tuple(sorted(files)), tuple(sorted(folders)), read, size)


def _zip(source: Path) -> Tree:
    try:
        # Left open for the life of the tree: ZipFile locks around its shared position and inflates outside the lock.
        archive = zipfile.ZipFile(source)
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ReaderError(f"cannot read zip {source}: {error}") from error
    files: dict[PurePosixPath, zipfile.ZipInfo] = {}
    folders: set[PurePosixPath] = set()
    for member in archive.infolist():
        # Some Windows programs write their own separator, and a name may begin with the root.
        named = member.filename.replace("\\", "/")
        path = PurePosixPath(named.lstrip("/"))
        if ".." in path.parts:
            raise ReaderError(f"zip {source} has a member outside itself, {member.filename}; pack it again without '..'")
        if path.parts and all(_kept(part) for part in path.parts):
            folders.update(parent for parent in path.parents if parent.parts)
            if named.endswith("/"):
                folders.add(path)
            else:
                files[path] = member

    def read(path: PurePosixPath) -> bytes:
        try:
            return archive.read(files[path])
        except (OSError, EOFError, RuntimeError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
            raise ReaderError(f"cannot read {path} in {source}: {error}") from error

    return Tree(source, tuple(sorted(files)), tuple(sorted(folders)), read, lambda path: files[path].file_size)


def _kept(name: str) -> bool:
    return not name.startswith(".") and name not in _NOISE


def _loops(source: Path, folder: Path) -> bool:
    """Whether `folder` is a link to something that holds the way to it from `source`."""
    if not folder.is_symlink():
        return False
    target = folder.resolve()
    way = [p for p in folder.parents if p == source or p.is_relative_to(source)]
    return any(p.resolve().is_relative_to(target) for p in way)


def _check_name(name: str, root: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ReaderError(f"the name {name!a} in {root!a} is not UTF-8; rename it") from error


def _raise(error: OSError) -> None:
    raise ReaderError(f"cannot read folder {error.filename}: {error.strerror}") from error
