"""Which episodes a command or a recipe is about, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import episodes
from episodes import plugins
from episodes.count import Count
from episodes.errors import ConfigError
from episodes.selection import Selection
from episodes.spec import COUNTS, EpisodeSpec, Relation
from episodes.transforms import Transform, delivery

if TYPE_CHECKING:
    from episodes.made import StorePlace
    from episodes.protocols import SampleStore
    from episodes.stream.series import SampledEpisodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A store beside the one that a command names; each episode is of one of them."""

    store: str
    """Path, url, or ``made:NAME``."""
    split: str | None = None
    """None: the split of the other episodes."""
    weight: float = 1.0
    """How often it is drawn from; the store of the command has 1."""

    def __post_init__(self) -> None:
        # Absolute, for a run is resumed and evaluated from anywhere.
        object.__setattr__(self, "store", str(self.place.absolute()))
        if self.weight < 0:
            raise ConfigError(f"weight: expected a number of 0 or more, got {self.weight}")

    @property
    def place(self) -> StorePlace:
        """Where the store is."""
        from episodes.made import store_place

        return store_place(self.store)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeTable(Selection):
    """Which episodes: of which classes, how large, by which policy. A count that is not given is as the policy has it."""

    ways: Count | None = None
    shots: Count | None = None
    queries: Count | None = None
    unlabeled: Count | None = None
    distractors: Count | None = None
    distractor_rows: Count | None = None
    distractor_queries: Count | None = None
    distractor_groups: Relation = "any"
    sampler: str = "uniform"
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the policy that differ from its defaults."""
    seed: int = 0
    episodes: int | None = None
    """Number of episodes; None: endless (training)."""
    sources: tuple[Source, ...] = ()
    """Further stores."""
    transform: Transform | None = None
    """What happens to the images of a field."""
    transforms: tuple[Transform, ...] = ()
    """The same for several fields."""

    def __post_init__(self) -> None:
        Selection.__post_init__(self)
        self.spec()
        if self.episodes is not None and self.episodes < 1:
            raise ConfigError(f"episodes: expected 1 or more, got {self.episodes}")

    def spec(self) -> EpisodeSpec:
        """Sizes of an episode."""
        counts = {name: getattr(self, name) for name in COUNTS if getattr(self, name) is not None}
        return EpisodeSpec(**default_counts(self.sampler) | counts, distractor_groups=self.distractor_groups)

    def selection(self) -> Selection:
        """Which classes."""
        return Selection(**{f.name: getattr(self, f.name) for f in fields(Selection)})

    def series(self, store: SampleStore) -> SampledEpisodes:
        """These episodes of `store`."""
        return episodes.sample(
            store,
            self.selection(),
            self.spec(),
            sampler=self.sampler,
            options=self.options,
            seed=self.seed,
            length=self.episodes,
            transforms=self.all_transforms(),
        )

    def all_transforms(self) -> tuple[Transform, ...]:
        """Those of `transform` and `transforms` together."""
        return (*self.transforms, *((self.transform,) if self.transform is not None else ()))

    def delivery(self) -> dict[str, Transform]:
        """Field -> how its images reach the learner, where that is not as they are stored: nothing random."""
        return delivery(self.all_transforms())


def default_counts(sampler: str) -> dict[str, Any]:
    """Counts of an episode where none is given: 5-way 1-shot with 15 queries, unless the policy has its own."""
    module = plugins.find(plugins.SAMPLERS, sampler)
    return dict(getattr(module, "DEFAULT_COUNTS", {"ways": 5, "shots": 1, "queries": 15}))


VALIDATION = EpisodeTable(split="val", episodes=200)
TEST = EpisodeTable(split="test", episodes=600)
