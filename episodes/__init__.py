"""Few-shot data: class-indexed stores of raw data, and reproducible episodes drawn from them.

    import episodes

    store = episodes.open("omniglot.store")
    spec = episodes.EpisodeSpec(ways=5, shots=1, queries=15)
    series = episodes.sample(store, "train", spec)
    series[0].support.fields["image"]          # [5, 1, 28, 28] uint8, the same on every machine

Importing this package is cheap: what compiles or maps is imported when it is first used, and torch never is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from episodes.classes import ClassIndex
from episodes.count import Count
from episodes.episode import Episode, EpisodePlan, Part
from episodes.errors import EpisodesError
from episodes.spec import EpisodeSpec

if TYPE_CHECKING:
    from episodes.made import Made
    from episodes.protocols import SampleStore
    from episodes.remote.place import Place, Remote
    from episodes.selection import Selection
    from episodes.shards.read import EpisodeShards
    from episodes.store.made import MadeStore
    from episodes.store.mapped import MappedStore
    from episodes.stream.own import Own
    from episodes.stream.series import SampledEpisodes
    from episodes.stream.stream import Stream
    from episodes.transforms import Transform

__version__ = "0.1.0"

__all__ = [
    "ClassIndex",
    "Count",
    "Episode",
    "EpisodePlan",
    "EpisodeSpec",
    "EpisodesError",
    "Part",
    "Remote",
    "SampledEpisodes",
    "Selection",
    "Stream",
    "make",
    "open",
    "open_shards",
    "sample",
]


@overload
def open(path: Place | str) -> MappedStore: ...  # noqa: A001 - episodes.open(...), as gzip.open and zipfile's kin
@overload
def open(path: Made) -> MadeStore: ...  # noqa: A001
def open(path: Place | Made | str) -> MappedStore | MadeStore:  # noqa: A001
    """Open a store for reading; takes milliseconds. See `episodes.store.mapped.MappedStore`.

    Args:
        path: its folder; its url (``s3://bucket/omniglot.store``); a `Remote`, which has the settings of a url; or an
            `episodes.made.Made`.

    Raises:
        StoreError: it cannot be opened; a text that names a data set made on demand (`make` opens it).
    """
    from episodes.errors import StoreError
    from episodes.made import PREFIX, Made
    from episodes.store.mapped import MappedStore

    if isinstance(path, Made):
        return make(path.name, **path.options)
    if isinstance(path, str) and path.startswith(PREFIX):
        raise StoreError(f"{path} is no file: it is made on demand (episodes.make, or a folder of this name as ./{path})")
    return MappedStore(path)


def make(name: str, **options: Any) -> MadeStore:
    """A data set whose rows are computed when they are read: ``make("sinusoids", seed=1)``. See `episodes.makers`.

    Args:
        name: of the data set.
        **options: those that differ from its defaults.

    Raises:
        PluginNotFound: no such data set.
        ConfigError: an option that it does not have, or a wrong value.
    """
    from episodes import config, plugins
    from episodes.store.made import MadeStore

    module = plugins.find(plugins.MAKERS, name)
    return MadeStore(module.make(config.from_table(module.Options, options, name)))


def open_shards(path: Place | str, store: SampleStore | None = None) -> EpisodeShards:
    """Compiled episodes as a series: ``open_shards(path)[i]`` is episode i. See `episodes.shards.read.EpisodeShards`.

    Args:
        path: the folder that `episodes compile` made; its url; or a `Remote`, which has the settings of a url.
        store: for payload ``rows``, the store that they were compiled from.
    """
    from episodes.shards.read import EpisodeShards

    return EpisodeShards(path, store)


def sample(
    store: SampleStore,
    split: str | Selection,
    spec: EpisodeSpec,
    *,
    sampler: str = "uniform",
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    rotations: bool = False,
    length: int | None = None,
    transforms: Sequence[Transform] = (),
    then: Own | None = None,
) -> SampledEpisodes:
    """Episodes of a split, by index: ``sample(...)[i]`` is a pure function of the arguments and i.

    Args:
        store: an open store.
        split: ``train``, ``val`` or ``test`` of the store's default list; ``vinyals/test``; ``vinyals/train+val``; ``all``;
            or a `Selection` for parts of classes, base + novel classes, overlap.
        spec: sizes of an episode.
        sampler: name of a policy of `episodes.sampling`.
        options: the policy's options.
        seed: 0 to 2**64 - 1.
        rotations: count each class four times, once for each quarter turn.
        length: number of episodes; None: as many as the policy has, endless for most.
        transforms: what happens to image fields on their way, one `episodes.transforms.Transform` a field at most.
        then: a function of the values of an episode's part, after the transforms (see `episodes.stream.own`).

    Raises:
        SpecError: unknown split, an episode that could not be drawn, or a transform of a field that has none.
        ConfigError: an option that the policy does not have.
        PluginNotFound: unknown sampler.
    """
    from episodes import config, plugins
    from episodes.selection import Selection
    from episodes.stream.series import SampledEpisodes

    module = plugins.find(plugins.SAMPLERS, sampler)
    made = module.make(config.from_table(module.Options, options or {}, "options"))
    selection = Selection(split=split, rotations=rotations) if isinstance(split, str) else split
    classes = selection.classes(store)
    return SampledEpisodes(
        store=store,
        classes=classes,
        spec=spec,
        sampler=made,
        seed=seed,
        length=length,
        transforms=tuple(transforms),
        then=then,
    )


def __getattr__(name: str) -> Any:
    if name == "Remote":
        from episodes.remote.place import Remote

        return Remote
    if name == "SampledEpisodes":
        from episodes.stream.series import SampledEpisodes

        return SampledEpisodes
    if name == "Selection":
        from episodes.selection import Selection

        return Selection
    if name == "Stream":
        from episodes.stream.stream import Stream

        return Stream
    raise AttributeError(f"module 'episodes' has no attribute '{name}'")
