"""Selection: which classes of a store, and which of their rows, episodes are drawn from."""

from __future__ import annotations

from dataclasses import dataclass, field

from episodes.classes import ClassIndex
from episodes.errors import SpecError
from episodes.protocols import SampleStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Settings that turn a split's name into a `ClassIndex`."""

    split: str = field(default="train", metadata={"help": "Split: train, vinyals/test, vinyals/train+val, all, ..."})
    rotations: bool = field(default=False, metadata={"help": "Quarter turns as classes of their own."})
    min_rows: int = field(default=0, metadata={"help": "Leave out classes with fewer rows."})
    labeled: float = field(default=1.0, metadata={"help": "Share of each class's rows that is labeled (semi-supervised)."})
    labeled_seed: int = field(default=0, metadata={"help": "Seed of the labeled share."})
    rows: str = field(default="all", metadata={"help": "Rows to use: all, front (the labeled share), back (the rest)."})
    base: str | None = field(default=None, metadata={"help": "Split of base classes to join (base + novel episodes)."})
    overlap: float = field(default=0.0, metadata={"help": "Share of test classes that are also trained on."})
    overlap_with: str | None = field(default=None, metadata={"help": "The other side of the overlap: test, or train."})
    overlap_seed: int = field(default=0, metadata={"help": "Seed of the overlap."})

    def __post_init__(self) -> None:
        if self.rows not in ("all", "front", "back"):
            raise SpecError(f"rows='{self.rows}' is unknown; known: all, front, back")
        if (self.overlap != 0) != (self.overlap_with is not None):
            raise SpecError(
                f"overlap={self.overlap} and overlap_with={self.overlap_with} go together; give both or neither"
            )

    def classes(self, store: SampleStore) -> ClassIndex:
        """The classes of `store` that are meant.

        Raises:
            SpecError: unknown split; a share outside 0..1; what `episodes.pools` refuses.
        """
        from episodes import pools

        chosen = self._overlapping(store) if self.overlap_with is not None else self._whole(store, self.split)
        if self.base is not None:
            base = pools.partition(self._whole(store, self.base), self.labeled, self.labeled_seed)
            return pools.joined(base, chosen)
        if self.labeled != 1 or self.rows != "all":
            chosen = pools.partition(chosen, self.labeled, self.labeled_seed)
            chosen = pools.only(chosen, self.rows) if self.rows != "all" else chosen  # type: ignore[arg-type]
        return chosen

    def _whole(self, store: SampleStore, split: str) -> ClassIndex:
        from episodes import pools

        chosen = store.split(split)
        chosen = pools.with_min_rows(chosen, self.min_rows) if self.min_rows != 0 else chosen
        return chosen.with_quarter_turns() if self.rotations else chosen

    def _overlapping(self, store: SampleStore) -> ClassIndex:
        """Own classes, where training may hold a share of the test classes; each side has half of the rows of those."""
        from episodes import pools

        assert self.overlap_with is not None
        names = self.split, self.overlap_with
        trains = ["train" in name.rpartition("/")[2] for name in names]
        if trains[0] == trains[1]:
            raise SpecError(f"overlap of '{names[0]}' with '{names[1]}': one of the two must be a training split")
        own, other = (self._whole(store, name) for name in names)
        train, test = (own, other) if trains[0] else (other, own)
        training, testing, _ = pools.overlapped(train, test, self.overlap, self.overlap_seed)
        return training if trains[0] else testing
