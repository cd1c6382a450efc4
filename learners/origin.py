"""Where episodes come from, as a report says it: of a store, of several, or of shards."""

from __future__ import annotations

from dataclasses import dataclass

from episodes.shards.read import EpisodeShards
from episodes.spec import EpisodeSpec
from episodes.stream.mixture import MixedEpisodes
from episodes.stream.series import SampledEpisodes
from learners.protocol import Inputs

Episodes = SampledEpisodes | MixedEpisodes | EpisodeShards


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What decides episodes of one store."""

    spec: EpisodeSpec
    split: str
    sampler: str
    seed: int
    rotations: bool
    store: str
    """The store's fingerprint."""
    class_names: frozenset[str]
    """Of the split; what is drawn is among them."""


def origins(series: Episodes) -> list[Origin]:
    """One of a store, one a source of a mixture; of shards what their manifest says."""
    if isinstance(series, MixedEpisodes):
        return [origin for source in series.sources.values() for origin in origins(source)]
    if isinstance(series, EpisodeShards):
        about = series.manifest.about
        return [
            Origin(
                spec=series.spec,
                split=about["split"],
                sampler=about["sampler"]["name"],
                seed=about["seed"],
                rotations=about["rotations"],
                store=about["store"],
                class_names=frozenset(about["class_names"]),
            )
        ]
    return [
        Origin(
            spec=series.spec,
            split=series.classes.split,
            sampler=series.sampler.name,
            seed=series.seed,
            rotations=bool(series.classes.variants.any()),
            store=series.store.fingerprint,
            class_names=frozenset(series.classes.names),
        )
    ]


def inputs_of(series: Episodes) -> Inputs:
    """What a learner is made for that trains on `series`."""
    classes = None
    if isinstance(series, SampledEpisodes):
        classes = tuple(zip(series.classes.ids.tolist(), series.classes.variants.tolist(), strict=True))
    return Inputs(fields=series.fields, class_fields=getattr(series, "class_fields", {}), classes=classes)
