"""Folder: any tree ``class/image`` or ``split/class/image`` of pictures, or a zip of one.

Everything below a class folder belongs to the class; the key is the path within it. If every top-level folder is named
like a split (train; val, valid, validation; test) they are splits, else they are classes; splits beside classes are
refused. A wrapping folder, or several inside each other, is looked through, whatever files lie beside it. JPEG, PNG, WebP,
BMP and GIF files are samples; other and hidden files are left alone.

Pictures become 8-bit RGB or grey: see the reader's documentation for palettes, transparency, CMYK, 16 bits and rotation.
With ``--size`` they are resized by Pillow's antialiased bilinear filter, without it all must have one size.

Class-level splits come from the tree, from ``--splits FILE`` (JSON ``{"train": ["cat", ...], ...}``, or CSV with the header
``class,split``), or are drawn: ``--draw-splits 0.64,0.16,0.2`` gives train, val and test those shares of the classes, in an
order that hashes ``--split-seed`` and the name. ``--groups FILE`` (JSON ``{"cat": "mammal"}``, or CSV with the header
``class,group``) puts classes into groups. ``--attributes FILE`` (CSV, header ``class`` and the names of attributes, then a
line of numbers for each class) gives the class field ``attributes``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from episodes.errors import ConfigError, ReaderError
from episodes.protocols import FieldSpec, Listing, RawSample
from episodes.readers._attributes import read_attributes
from episodes.readers._images import CHANNELS, SUFFIXES, Fit, Mode, decode, image_size
from episodes.readers._splits import SPLIT_NAMES, drawn_splits, read_groups, read_splits, shares
from episodes.readers._tree import Tree, open_tree

SOURCE: str | None = "folder or zip of pictures, class/image or split/class/image"

_KINDS = ", ".join(sorted(SUFFIXES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is made of the pictures."""

    size: int | None = field(default=None, metadata={"help": "height and width to resize to; without it all must be equal"})
    mode: Mode = field(default="rgb", metadata={"help": "channels to keep"})
    fit: Fit = field(default="crop", metadata={"help": "how a picture that is not square becomes one"})
    splits: Path | None = field(default=None, metadata={"help": "file of class-level splits, JSON or CSV"})
    draw_splits: str | None = field(default=None, metadata={"help": "shares of train,val,test to draw, as 0.64,0.16,0.2"})
    split_seed: int = field(default=0, metadata={"help": "seed of drawn splits"})
    groups: Path | None = field(default=None, metadata={"help": "file that puts classes into groups, JSON or CSV"})
    attributes: Path | None = field(default=None, metadata={"help": "file of numbers for each class, CSV"})

    def __post_init__(self) -> None:
        if self.size is not None and not 1 <= self.size <= 4096:
            raise ConfigError(f"size: expected 1..4096, got {self.size}")
        for name, value, known in (("mode", self.mode, get_args(Mode)), ("fit", self.fit, get_args(Fit))):
            if value not in known:
                raise ConfigError(f"{name}: expected {' or '.join(known)}, got '{value}'")
        if self.draw_splits is not None:
            shares(self.draw_splits)
            if self.splits is not None:
                raise ConfigError("splits: give either a file of splits or shares to draw, not both")


@dataclass(frozen=True, slots=True)
class FolderReader:
    """See the module's docstring."""

    source: Path
    options: Options
    name: str = "folder"
    version: int = 1

    def listing(self) -> Listing:
        """All pictures; only the header of one is read.

        Raises:
            ReaderError: a picture outside any class, a class without pictures, a class in two splits of the tree, or a
                file of splits, groups or attributes that cannot be read or does not fit the classes.
        """
        tree = _unwrapped(open_tree(self.source))
        splits = _by_tree(tree)
        pictures = _pictures(tree)
        if not pictures:
            zips = [path for path in tree.files if path.suffix.lower() == ".zip"]
            mend = f"give the zip itself, {self.source / zips[0]}" if zips else f"read are {_KINDS}"
            raise ReaderError(f"{self.source} has no pictures in class folders; {mend}")
        samples, spec = [], self._spec(tree, pictures)
        for path in pictures:
            place = path.parts[1:] if splits else path.parts
            if len(place) < 2:
                raise ReaderError(f"picture {path} in {self.source} is in no class folder; move it into one")
            key = "/".join(place[1:])
            load, raw = partial(_load, tree, path, spec, self.options), partial(_raw, tree, path)
            samples.append(RawSample(place[0], key, load, tree.size(path), raw))
        _check_empty(tree, {sample.class_name for sample in samples}, bool(splits))
        names = sorted({sample.class_name for sample in samples})
        groups = read_groups(self.options.groups) if self.options.groups else {}
        attributes = {"attributes": read_attributes(self.options.attributes, names)} if self.options.attributes else {}
        return Listing(
            fields={"image": spec},
            samples=samples,
            groups=groups,
            splits=self._splits(splits, names),
            class_fields=attributes,
        )

    def _spec(self, tree: Tree, pictures: Sequence[PurePosixPath]) -> FieldSpec:
        channels, size = CHANNELS[self.options.mode], self.options.size
        if size:
            return FieldSpec("uint8", (channels, size, size))
        broken = None
        for path in pictures:
            try:
                return FieldSpec("uint8", (channels, *image_size(tree.read(path), str(path))))
            except ReaderError as error:  # noqa: PERF203 - raised again when it is decoded, where it may be skipped
                broken = broken or error
        assert broken is not None
        raise broken

    def _splits(self, tree: Mapping[str, list[str]], names: list[str]) -> dict[str, Mapping[str, list[str]]]:
        o = self.options
        if tree:
            if o.splits or o.draw_splits:
                given = "splits" if o.splits else "draw_splits"
                raise ConfigError(f"{given}: the folders of {self.source} are splits already; leave the option out")
            return {"tree": tree}
        if o.splits:
            return {"file": read_splits(o.splits)}
        return {"drawn": drawn_splits(names, shares(o.draw_splits), o.split_seed)} if o.draw_splits else {}


def make(source: Path | None, options: Options) -> FolderReader:
    """The reader of the pictures at `source`."""
    if source is None:
        raise ReaderError("reader 'folder' needs a source: a folder or zip of pictures")
    return FolderReader(source, options)


def _unwrapped(tree: Tree) -> Tree:
    """The tree below every single top-level folder that holds folders of folders."""
    tops = {path.parts[0] for path in tree.folders}
    pictures = _pictures(tree)
    deep = all(len(path.parts) > 2 for path in pictures)
    if len(tops) == 1 and pictures and deep and (top := tops.pop()).lower() not in SPLIT_NAMES:
        return _unwrapped(tree.below(top))
    return tree


def _pictures(tree: Tree) -> list[PurePosixPath]:
    return [path for path in tree.files if path.suffix.lower() in SUFFIXES]


def _by_tree(tree: Tree) -> dict[str, list[str]]:
    """split -> classes if every top-level folder is a split, else nothing."""
    tops = {path.parts[0] for path in (*(f for f in tree.files if len(f.parts) > 1), *tree.folders)}
    named = {top for top in tops if top.lower() in SPLIT_NAMES}
    if named != tops:
        # A class may be called train; a folder of folders called so is a split, and would swallow all its classes.
        filled = {path.parts[0] for path in _pictures(tree) if len(path.parts) == 2}
        if hollow := sorted(named - filled):
            raise ReaderError(
                f"folder {hollow[0]} in {tree.source} is named like a split, but {min(tops - named)} beside it is not; "
                "keep only train, val and test there, or only classes"
            )
    if not named or named != tops:
        return {}
    if bare := sorted(named - {path.parts[0] for path in tree.folders if len(path.parts) > 1}):
        raise ReaderError(f"split folder {bare[0]} in {tree.source} has no class folders; fill it or remove it")
    found: dict[str, set[str]] = {}
    home: dict[str, str] = {}
    for folder in tree.folders:
        if len(folder.parts) == 2:
            top, name = folder.parts
            if home.setdefault(name, top) != top:
                raise ReaderError(f"class '{name}' is in split folder '{home[name]}' and in '{top}'; splits share no class")
            found.setdefault(SPLIT_NAMES[top.lower()], set()).add(name)
    return {split: sorted(found[split]) for split in ("train", "val", "test") if split in found}


def _check_empty(tree: Tree, filled: set[str], split: bool) -> None:
    depth = 2 if split else 1
    for folder in tree.folders:
        if len(folder.parts) == depth and folder.parts[-1] not in filled:
            raise ReaderError(f"class folder {folder} in {tree.source} has no pictures ({_KINDS}); fill it or remove it")


def _load(tree: Tree, path: PurePosixPath, spec: FieldSpec, options: Options) -> Mapping[str, NDArray[np.uint8]]:
    image = decode(tree.read(path), f"{tree.source}:{path}", mode=options.mode, size=options.size, fit=options.fit)
    if image.shape != spec.shape:
        got, expected = ("x".join(map(str, shape[1:])) for shape in (image.shape, spec.shape))
        raise ReaderError(f"picture {path} is {got}, the first one {expected} pixels (height x width); give --size")
    return {"image": image}


def _raw(tree: Tree, path: PurePosixPath) -> Mapping[str, bytes]:
    return {"image": tree.read(path)}
