"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each, read from the official zips in place.

Source: Lake, Salakhutdinov, Tenenbaum 2015, "Human-level concept learning through probabilistic program induction" (MIT
licence). Give a folder that holds ``images_background.zip`` and ``images_evaluation.zip``, or the trees extracted from
them. An alphabet is a group, a character a class (``Greek/character01``), the key is the file's stem (``0709_01``); the
number after the underscore is the field ``drawer``, 1..20, a person within one alphabet only.

Images are inverted (ink = 255) and resized from 105 to ``size`` by Pillow's antialiased bilinear filter. Published codes
differ (Lanczos, area, bilinear); this one does not ring, treats both axes alike, so that it commutes with quarter turns
up to rounding, and is the one the reference figures of pixel nearest neighbours were measured with.

Split lists (classes in train / val / test):

- ``vinyals`` (default): 1028 / 172 / 423, the fixed lists of the Prototypical Networks release. It trains on eight of
  Lake's evaluation alphabets: never score such a model on Lake's benchmark.
- ``lake``: background / evaluation alphabets; the five smallest background alphabets are val: 883 / 81 / 659.
- ``meta-dataset``: 25 / 5 / 20 alphabets (Triantafillou et al. 2020); the same classes as ``lake`` with this choice of val.
- ``random``: 1100 / 100 / 423 characters of all alphabets, shuffled by ``split_seed`` (as MANN and MAML do).
- ``no-latin``: 1597 training classes without Latin, for tests on EMNIST.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from episodes.errors import ConfigError, ReaderError
from episodes.protocols import FieldSpec, Listing, RawSample
from episodes.readers._images import decode
from episodes.readers._tree import Tree, open_tree

SOURCE: str | None = "folder with images_background.zip and images_evaluation.zip, or the trees extracted from them"

# What makes a picture of one's own, dark ink on light paper, one like those of the store.
OWN_PICTURES = {"fit": "squash", "invert": True}

SETS = ("images_background", "images_evaluation")
CHARACTERS = {"images_background": 964, "images_evaluation": 659}
DRAWINGS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the images are stored."""

    size: int = field(default=28, metadata={"help": "height and width of the stored images, pixels"})
    split_seed: int = field(default=0, metadata={"help": "seed of the split list random"})

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 105:
            raise ConfigError(f"size: expected 1..105, got {self.size} (the drawings have 105 pixels)")


@dataclass(frozen=True, slots=True)
class OmniglotReader:
    """See the module's docstring."""

    source: Path
    options: Options
    name: str = "omniglot"
    version: int = 2

    def listing(self) -> Listing:
        """All drawings of both sets.

        Raises:
            ReaderError: a set is missing, or not complete; the first character concerned is named.
        """
        samples: list[RawSample] = []
        members: dict[str, list[str]] = {}
        for name in SETS:
            found = characters(_open_set(self.source, name))
            check_complete(found, name, self.source)
            members[name] = sorted(found)
            for character, drawings in found.items():
                samples += [
                    RawSample(character, path.stem, partial(_load, tree, path, self.options.size), tree.size(path))
                    for tree, path in drawings
                ]
        shape = (1, self.options.size, self.options.size)
        classes = [c for name in SETS for c in members[name]]
        return Listing(
            fields={"drawer": FieldSpec("uint8", ()), "image": FieldSpec("uint8", shape)},
            samples=samples,
            groups={c: alphabet(c) for c in classes},
            splits=split_lists(members["images_background"], members["images_evaluation"], self.options.split_seed),
        )


def make(source: Path | None, options: Options) -> OmniglotReader:
    """The reader of the data in folder `source`."""
    if source is None:
        raise ReaderError("reader 'omniglot' needs a source: the folder that holds its two zips")
    return OmniglotReader(source, options)


def alphabet(character: str) -> str:
    """The alphabet of a class: ``Greek`` of ``Greek/character01``."""
    return character.partition("/")[0]


def characters(tree: Tree) -> dict[str, list[tuple[Tree, PurePosixPath]]]:
    """Class name -> its drawings, of a tree ``alphabet/character/drawing.png``."""
    found: dict[str, list[tuple[Tree, PurePosixPath]]] = {}
    for path in tree.files:
        if len(path.parts) == 3 and path.suffix == ".png":
            found.setdefault("/".join(path.parts[:2]), []).append((tree, path))
    return found


def check_complete(found: Mapping[str, Sequence[object]], name: str, source: Path) -> None:
    """Raise `ReaderError` unless the set `name` has every character and drawing it was published with."""
    if len(found) != CHARACTERS[name]:
        begun = {alphabet(c) for c in found}
        missing = min((c for c in set().union(*_vinyals().values()) - set(found) if alphabet(c) in begun), default=None)
        raise ReaderError(
            f"{name} in {source} has {len(found)} characters; the official set has {CHARACTERS[name]}"
            f"{f', {missing} among them' if missing else ''} (get the zip again)"
        )
    for character, drawings in found.items():
        if len(drawings) != DRAWINGS:
            raise ReaderError(
                f"character '{character}' of {name} in {source} has {len(drawings)} drawings; the official set has "
                f"{DRAWINGS} (get the zip again)"
            )


def split_lists(background: Sequence[str], evaluation: Sequence[str], seed: int = 0) -> dict[str, dict[str, list[str]]]:
    """The published split lists over the classes of the two sets; see the module's docstring."""
    classes = [*background, *evaluation]
    vinyals = {split: [c for c in classes if c in members] for split, members in _vinyals().items()}
    sizes: dict[str, int] = {}
    for c in background:
        sizes[alphabet(c)] = sizes.get(alphabet(c), 0) + 1
    smallest = sorted(sizes, key=lambda a: (sizes[a], a))[:5]
    lake = {
        "train": [c for c in background if alphabet(c) not in smallest],
        "val": [c for c in background if alphabet(c) in smallest],
        "test": list(evaluation),
    }
    order = sorted(classes, key=lambda c: (hashlib.blake2b(f"{seed}/{c}".encode(), digest_size=8).digest(), c))
    shuffled = {"train": sorted(order[:1100]), "val": sorted(order[1100:1200]), "test": sorted(order[1200:])}
    no_latin = {"train": [c for c in classes if alphabet(c) != "Latin"]}
    return {"vinyals": vinyals, "lake": lake, "meta-dataset": lake, "random": shuffled, "no-latin": no_latin}


def _vinyals() -> dict[str, set[str]]:
    """split -> its classes, of the file beside this module; together they are all 1,623."""
    table = json.loads(resources.files("episodes.readers").joinpath("omniglot_vinyals.json").read_text("utf-8"))
    return {
        split: {f"{a}/character{n:02d}" for a, (first, last) in table[split].items() for n in range(first, last + 1)}
        for split in ("train", "val", "test")
    }


def _open_set(source: Path, name: str) -> Tree:
    if not source.is_dir():
        raise ReaderError(f"source {source} is not a folder; give the one that holds {name}.zip")
    for place in (source / name, source / f"{name}.zip"):
        if place.exists():
            tree = open_tree(place)
            # The zip's own top folder; also in a folder, where a program unpacked into one named like the zip.
            return tree.below(name) if PurePosixPath(name) in tree.folders else tree
    raise ReaderError(f"{source} holds neither {name}.zip nor a folder {name}; both official sets are needed")


def _load(tree: Tree, path: PurePosixPath, size: int) -> Mapping[str, NDArray[np.uint8]]:
    _, _, number = path.stem.rpartition("_")
    if not number.isdigit() or not 1 <= int(number) <= DRAWINGS:
        raise ReaderError(f"{tree.source}:{path} does not end with its drawer, 01..20 (get the zip again)")
    drawer = np.array(int(number), np.uint8)
    image = 255 - decode(tree.read(path), f"{tree.source}:{path}", mode="grey", size=size, fit="squash")
    return {"drawer": drawer, "image": image}
