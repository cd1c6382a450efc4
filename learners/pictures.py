"""Pictures of one's own in the form of a store's images: as its reader made them of raw data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from episodes import plugins
from episodes.errors import ConfigError, PluginNotFound, ReaderError
from episodes.protocols import FieldSpec
from episodes.readers._images import CHANNELS, SUFFIXES, Fit, Mode, decode
from episodes.readers._tree import open_tree

Picture = str | Path | bytes | NDArray[np.uint8]
"""A file, the bytes of one, or an array that is in the store's form already: [channels, height, width]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureForm:
    """How a picture becomes a row of an image field."""

    mode: Mode
    height: int
    width: int
    fit: Fit = "crop"
    """How a picture that is not square becomes one."""
    invert: bool = False
    """Dark ink on light paper becomes light ink on 0."""

    def __post_init__(self) -> None:
        if self.fit not in get_args(Fit):
            raise ConfigError(f"fit: expected {', '.join(get_args(Fit))}, got '{self.fit}'")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image: channel first."""
        return CHANNELS[self.mode], self.height, self.width

    def rows(self, pictures: Sequence[Picture]) -> NDArray[np.uint8]:
        """[n, channels, height, width] of `pictures`.

        Raises:
            ReaderError: one cannot be read or decoded, is named; it has not the size where that is not square.
            ConfigError: an array of another type or shape.
        """
        out = np.empty((len(pictures), *self.shape), np.uint8)
        for i, picture in enumerate(pictures):
            out[i] = self._array(picture, i) if isinstance(picture, np.ndarray) else self._decoded(picture, i)
        return out

    def _array(self, picture: NDArray[Any], i: int) -> NDArray[np.uint8]:
        if picture.dtype != np.uint8 or picture.shape != self.shape:
            raise ConfigError(
                f"picture {i}: expected uint8 of shape {self.shape}, as the store has them, got {picture.dtype} of shape "
                f"{picture.shape} (give the file, and it is brought to that form)"
            )
        return picture

    def _decoded(self, picture: str | Path | bytes, i: int) -> NDArray[np.uint8]:
        data, name = (picture, f"{i}") if isinstance(picture, bytes) else (_read(Path(picture)), str(picture))
        size = self.height if self.height == self.width else None
        try:
            image = decode(data, name, mode=self.mode, size=size, fit=self.fit)
        except ReaderError as error:  # whose mend is that of an ingest
            raise ReaderError(
                f"{str(error).partition(' (replace the file')[0]} (replace the file, or remove it)"
            ) from error
        if image.shape != self.shape:
            raise ReaderError(
                f"picture {name} is {'x'.join(map(str, image.shape[1:]))}, those of the store {self.height}x{self.width} "
                "pixels (height x width); bring it to that size"
            )
        return 255 - image if self.invert else image


def form_of(
    reader: Mapping[str, Any], spec: FieldSpec, *, fit: str | None = None, invert: bool | None = None
) -> PictureForm | None:
    """The form of an image field; None: it holds no pictures, which are uint8 of 1 or 3 channels.

    Args:
        reader: name and options of the reader that made the store, of its manifest. What its pictures need beside the
            options of a folder of pictures it says itself, as ``OWN_PICTURES`` of its module.
        spec: type and shape of the field in the store, channel first.
        fit: in place of the reader's.
        invert: in place of the reader's.

    Raises:
        ConfigError: an unknown fit.
    """
    channels = {count: mode for mode, count in CHANNELS.items()}
    if spec.dtype != "uint8" or len(spec.shape) != 3 or spec.shape[0] not in channels:
        return None
    try:
        module: Any = plugins.find(plugins.READERS, reader.get("name", ""))
    except PluginNotFound:  # the store is of another installation, or was not ingested
        module = None
    told = {**getattr(module, "OWN_PICTURES", {}), **{k: v for k, v in reader.get("options", {}).items() if k == "fit"}}
    told |= {name: value for name, value in (("fit", fit), ("invert", invert)) if value is not None}
    depth, height, width = spec.shape
    mode: Any = channels[depth]
    return PictureForm(mode=mode, height=height, width=width, **told)


def support_folder(folder: Path, unlabeled: str = "unlabeled") -> tuple[dict[str, list[Path]], list[Path]]:
    """(class name -> its pictures, pictures without label) of a folder with one sub-folder a class.

    Everything below a class folder is of the class; files that are no pictures, and hidden ones, are left alone.

    Raises:
        ReaderError: no folder; a picture outside any class; a class folder without pictures.
    """
    if not folder.is_dir():
        raise ReaderError(f"{folder} is not a folder; give one with a sub-folder of pictures for each class")
    tree = open_tree(folder)
    found: dict[str, list[Path]] = {path.parts[0]: [] for path in tree.folders}
    for path in tree.files:
        if path.suffix.lower() in SUFFIXES:
            if len(path.parts) == 1:
                raise ReaderError(f"picture {path} in {folder} is in no class folder; move it into one")
            found[path.parts[0]].append(folder / path)
    for name, pictures in found.items():
        if not pictures:
            raise ReaderError(f"class folder {name} in {folder} has no pictures ({', '.join(sorted(SUFFIXES))}); fill it")
    without = found.pop(unlabeled, [])
    return found, without


def pictures_in(paths: Sequence[Path]) -> list[Path]:
    """The files among `paths`, and the pictures in the folders, sorted within each.

    Raises:
        ReaderError: one does not exist; a folder without pictures.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        below = [path / file for file in open_tree(path).files if file.suffix.lower() in SUFFIXES]
        if not below:
            raise ReaderError(f"folder {path} has no pictures ({', '.join(sorted(SUFFIXES))})")
        found += below
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReaderError(f"cannot read picture {path}: {error.strerror}") from error
