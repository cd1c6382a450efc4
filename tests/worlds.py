"""Synthetic stores whose values reveal their origin: the pixels of a row are its class and its place in the class."""

from __future__ import annotations

import numpy as np

from episodes.classes import ClassIndex
from episodes.protocols import FieldSpec, Listing, RawSample
from episodes.store.memory import MemoryStore


def class_index(counts: list[int], groups: list[int] | None = None, split: str = "world/train") -> ClassIndex:
    """An index over classes of these sizes, whose rows follow each other."""
    sizes = np.array(counts, np.int64)
    num = len(counts)
    return ClassIndex(
        split=split,
        ids=np.arange(num),
        starts=np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64),
        counts=sizes,
        groups=np.array(groups if groups is not None else [-1] * num, np.int64),
        variants=np.zeros(num, np.int64),
        names=tuple(f"class{c:02d}" for c in range(num)),
        group_names=tuple(f"group{g}" for g in range(max(groups, default=-1) + 1)) if groups else (),
    )


def telling_images(counts: list[int], size: int = 4) -> np.ndarray:
    """[rows, 1, size, size] uint8: pixel (0, 0) is the class, (0, 1) the place in the class, (0, 2) = 255 marks "up"."""
    rows = []
    for c, count in enumerate(counts):
        for place in range(count):
            image = np.zeros((1, size, size), np.uint8)
            image[0, 0, :3] = c, place, 255
            rows.append(image)
    return np.stack(rows)


def memory_store(counts: list[int], num_train: int | None = None) -> MemoryStore:
    """A MemoryStore of telling images: split train, and test if `num_train` leaves classes for it."""
    names = [f"class{c:02d}" for c in range(len(counts))]
    num_train = len(names) if num_train is None else num_train
    splits = {"world": {"train": names[:num_train]}}
    if num_train < len(names):
        splits["world"]["test"] = names[num_train:]
    groups = {name: f"group{c // 4}" for c, name in enumerate(names)}
    return MemoryStore(
        {"image": telling_images(counts)}, dict(zip(names, counts, strict=True)), groups=groups, splits=splits
    )


class TellingReader:
    """A reader of telling images in the order of their keys' hash-free names; some may be broken."""

    name, version = "telling", 1

    def __init__(self, counts: list[int], broken: tuple[tuple[int, int], ...] = ()) -> None:
        self.counts, self.broken = counts, broken

    def listing(self) -> Listing:
        """All samples."""
        samples = [
            RawSample(f"class{c:02d}", f"{place:03d}", lambda c=c, p=place: self._load(c, p))
            for c, count in enumerate(self.counts)
            for place in range(count)
        ]
        names = sorted({s.class_name for s in samples})
        half = (len(names) + 1) // 2
        splits = {"halves": {"train": names[:half], "test": names[half:]}} if len(names) > 1 else {}
        return Listing(
            fields={"image": FieldSpec("uint8", (1, 4, 4))},
            samples=samples,
            groups={name: "even" if int(name[5:]) % 2 == 0 else "odd" for name in names},
            splits=splits,
        )

    def _load(self, c: int, place: int) -> dict[str, np.ndarray]:
        from episodes.errors import ReaderError

        if (c, place) in self.broken:
            raise ReaderError(f"cannot decode image class{c:02d}/{place:03d}: it is broken (--skip-broken)")
        image = np.zeros((1, 4, 4), np.uint8)
        image[0, 0, :3] = c, place, 255
        return {"image": image}
