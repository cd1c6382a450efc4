"""Meta-Dataset's episodes: ways, shots and queries vary with what the classes have.

Source: Triantafillou et al. 2020, "Meta-Dataset: a dataset of datasets for learning to learn from few examples", and its
released sampler; equality is in distribution, not bit by bit. The classes come from one of

- ``flat``: ways uniform in min_ways..max_ways, then classes uniform (most of its sources);
- ``groups``: a group uniform, whatever its size, then ways and classes within it (Omniglot's alphabets);
- ``graph``: a node of the hierarchy uniform among those that span min_ways..max_span classes; all of them, or max_ways of
  them. The number of ways is not drawn (ImageNet). With ``root`` the hierarchy is that node and what is below it.

A count of the spec that is ``variable`` follows the rules of the paper; one that is given replaces its rule. Labels are
dealt by key, so that a label number never tells a class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np

from episodes.classes import EMPTY, ClassIndex, Int, UInt
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.graph import SamplingGraph, rooted
from episodes.plans import PlanBlock
from episodes.rng import scratch
from episodes.sampling import _meta_dataset as kernel
from episodes.sampling._engine import key_of, one_index, with_rows
from episodes.sampling._semantic import notes_on
from episodes.sampling._tables import tables
from episodes.spec import EpisodeSpec

DEFAULT_COUNTS = {"ways": "variable", "shots": "variable", "queries": "variable"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Constants of the paper."""

    hierarchy: Literal["flat", "groups", "graph"] = field(default="flat", metadata={"help": "where classes come from"})
    ignore_hierarchy: float = field(default=0.0, metadata={"help": "probability of a flat episode all the same"})
    min_ways: int = field(default=5, metadata={"help": "fewest classes"})
    max_ways: int = field(default=50, metadata={"help": "most classes"})
    max_queries: int = field(default=10, metadata={"help": "most queries per class"})
    max_support: int = field(default=500, metadata={"help": "most support rows of an episode"})
    max_contribution: int = field(default=100, metadata={"help": "most rows that a class adds to the support's bound"})
    min_log_weight: float = field(default=math.log(0.5), metadata={"help": "lower end of the classes' log weights"})
    max_log_weight: float = field(default=math.log(2.0), metadata={"help": "upper end of the classes' log weights"})
    max_span: int = field(default=392, metadata={"help": "most classes under an eligible node (392 is ImageNet's)"})
    root: str | None = field(default=None, metadata={"help": "use this node of the hierarchy and what is below it only"})
    all_classes: bool = field(default=False, metadata={"help": "every class of the split in every episode"})
    hold: int = field(default=1, metadata={"help": "episodes that share classes and counts, with fresh rows"})

    def __post_init__(self) -> None:
        for name in ("min_ways", "max_queries", "max_contribution", "hold"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        for low, high in (("min_ways", "max_ways"), ("min_log_weight", "max_log_weight"), ("min_ways", "max_span")):
            if getattr(self, low) > getattr(self, high):
                raise SpecError(f"{high}: expected {low}={getattr(self, low)} or more, got {getattr(self, high)}")
        if self.max_support < self.max_ways:
            raise SpecError(f"max_support: expected max_ways={self.max_ways} or more, got {self.max_support}")
        for name in ("min_log_weight", "max_log_weight"):  # beyond, the weights of all classes would be 0 or infinite
            if not -500 <= getattr(self, name) <= 500:
                raise SpecError(f"{name}: expected -500 to 500, got {getattr(self, name)}")
        if not 0 <= self.ignore_hierarchy <= 1:
            raise SpecError(f"ignore_hierarchy: expected 0 to 1, got {self.ignore_hierarchy}")
        if self.all_classes and self.hierarchy != "flat":
            raise SpecError(f"all_classes is every class of the split; hierarchy={self.hierarchy} does not go with it")
        if self.root is not None and self.hierarchy != "graph":
            raise SpecError(
                f"root='{self.root}' is a node of the hierarchy; it needs hierarchy=graph, not {self.hierarchy}"
            )


@dataclass(frozen=True, slots=True)
class MetaDatasetSampler:
    """See the module's docstring. Plans are pure functions of (classes, spec, seed, index)."""

    options: Options = Options()
    name: str = "meta_dataset"
    version: int = 1

    def require(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        """Raise `SpecError` unless every episode of `spec` can be drawn from `classes`."""
        o = self.options
        self._require_ways(classes, spec)
        if spec.distractors.high:
            self._require_distractors(classes, spec)
        if spec.ways.kind != "variable":
            spec.require_ways(len(classes), f"split '{classes.split}'")
        if spec.ways.kind != "variable" and spec.shots.kind == "variable" and o.max_support < spec.ways.high:
            raise SpecError(f"max_support={o.max_support} is less than ways={spec.ways}: every class needs a shot")
        for name in ("shots", "queries"):
            if getattr(spec, name).kind not in ("range", "weights", "variable"):
                raise SpecError(
                    f"{name}={getattr(spec, name)} does not go with meta-dataset; give a number, a range or weights"
                )
        if spec.queries.per_class and spec.shots.kind == "variable":
            raise SpecError(f"queries={spec.queries} with shots=variable: meta-dataset has as many queries for every class")
        least, what = self._least_rows(spec)
        hidden = np.where(classes.labeled == classes.counts, spec.unlabeled.high, 0)  # rows of the same pool
        short = np.flatnonzero(classes.labeled - hidden < least)
        if len(short):
            first = int(short[0])
            needed = least + hidden[first]
            raise SpecError(
                f"class '{classes.name(first)}' has {classes.labeled[first]} rows, and {len(short) - 1} more classes; "
                f"{what} needs {needed} (leave small classes out with min_rows={needed})"
            )
        spec.require_rows(classes)

    def _require_distractors(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        if spec.distractor_groups != "any":
            raise SpecError(f"distractor_groups={spec.distractor_groups} does not go with meta-dataset; draw them from any")
        what, most = f"max_ways={self.options.max_ways}", self.options.max_ways
        if self.options.all_classes:
            what, most = "all_classes", len(classes)
        elif spec.ways.kind != "variable":
            what, most = f"ways={spec.ways}", spec.ways.high
        if (needed := most + spec.distractors.high) > len(classes):
            raise SpecError(f"{what} and distractors={spec.distractors} need {needed} classes; split '{classes.split}' has "
                            f"{len(classes)}")  # fmt: skip

    def _require_ways(self, classes: ClassIndex, spec: EpisodeSpec) -> None:
        o = self.options
        if o.hierarchy != "flat" and spec.ways.kind != "variable":
            raise SpecError(f"ways={spec.ways} is fixed; with hierarchy={o.hierarchy} the hierarchy decides the ways")
        if len(classes) < o.min_ways:
            raise SpecError(f"min_ways={o.min_ways} needs {o.min_ways} classes; split '{classes.split}' has {len(classes)}")
        if o.all_classes and spec.ways.kind != "variable":
            raise SpecError(f"ways={spec.ways} with all_classes: every class is in every episode; leave ways out")
        if o.all_classes and classes.dropped:
            raise SpecError(
                f"all_classes: min_rows={classes.min_rows} leaves out {classes.dropped} of split '{classes.split}'"
            )
        if o.all_classes and len(classes) > o.max_support:
            raise SpecError(
                f"max_support={o.max_support} is less than all {len(classes)} classes: every class needs a shot"
            )
        if o.hierarchy == "groups":
            if classes.min_rows:
                raise SpecError(f"min_rows={classes.min_rows} does not go with hierarchy=groups, whose groups are whole")
            numbers, offsets, _ = classes.groups_in_use
            if not len(numbers):
                raise SpecError(
                    f"no class of split '{classes.split}' has a group; ingest with groups, or use hierarchy=flat"
                )
            sizes = np.diff(offsets)
            if (short := np.flatnonzero(sizes < o.min_ways)).size:
                name = classes.group_names[numbers[short[0]]]
                raise SpecError(f"group '{name}' has {sizes[short[0]]} classes in split '{classes.split}'; min_ways="
                                f"{o.min_ways} ({len(short)} of {len(sizes)} groups are too small)")  # fmt: skip
        if o.hierarchy == "graph" and not len(self._nodes(classes)[0]) > 1:
            raise SpecError(f"no node of the hierarchy spans {o.min_ways}..{o.max_span} classes of split '{classes.split}' "
                            "(min_ways, max_span)")  # fmt: skip

    def _least_rows(self, spec: EpisodeSpec) -> tuple[int, str]:
        if spec.queries.kind != "variable":
            return (spec.shots.high if spec.shots.kind != "variable" else 1) + spec.queries.high, "shots + queries"
        if spec.shots.kind != "variable":
            return spec.shots.high + 1, f"shots={spec.shots} and one query"
        return 2, "one shot and one query"

    def plan(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, index: int) -> EpisodePlan:
        """The plan of episode `index` under `seed`; assumes that `require` passed."""
        return self.block(classes, spec, seed, one_index(index)).plan(0)

    def block(self, classes: ClassIndex, spec: EpisodeSpec, seed: int, indices: UInt) -> PlanBlock:
        """The plans of the episodes `indices` [B] (uint64), in one go."""
        o = self.options
        key = key_of(classes, self.name, self.version, seed)
        offsets, members = self._pools(classes)
        most = len(classes) if o.all_classes else min(max(o.max_ways, spec.ways.high), len(classes))
        count = len(indices)
        arrays = np.zeros((4, count, most + spec.distractors.high), np.int64)
        ways, distractors = np.empty((2, count), np.int64)
        table = tables(spec, most)
        modes = {"flat": kernel.FLAT, "groups": kernel.IN_GROUP, "graph": kernel.UNDER_NODE}
        kernel.describe_meta_dataset(
            *key,
            indices,
            np.uint64(o.hold),
            kernel.EVERY if o.all_classes else modes[o.hierarchy],
            o.ignore_hierarchy,
            np.array([o.min_ways, o.max_ways, o.max_queries, o.max_support, o.max_contribution], np.int64),
            o.min_log_weight,
            o.max_log_weight,
            offsets,
            members,
            table.forms,
            table.values,
            table.thresholds,
            classes.counts,
            classes.labeled,
            classes.groups,
            scratch(),
            ways,
            distractors,
            *arrays,
        )
        return with_rows(key, classes, spec, indices, ways, distractors, *arrays)

    def _pools(self, classes: ClassIndex) -> tuple[Int, Int]:
        if self.options.hierarchy == "groups":
            return classes.groups_in_use[1:]
        if self.options.hierarchy == "graph":
            return self._nodes(classes)
        return EMPTY, EMPTY

    def _nodes(self, classes: ClassIndex) -> tuple[Int, Int]:
        return _nodes(classes, self.options.min_ways, self.options.max_span, self.options.root)

    def notes(self, classes: ClassIndex, spec: EpisodeSpec) -> list[str]:
        """What is no error but worth knowing: nodes with the same classes."""
        del spec
        if self.options.hierarchy != "graph":
            return []
        graph = _graph(classes, self.options.root)
        return notes_on(graph, graph.eligible(self.options.min_ways, self.options.max_span))

    def max_sizes(self, classes: ClassIndex, spec: EpisodeSpec) -> dict[str, int]:
        """Most support and query rows that an episode can have, for buffers and padding."""
        o, ways = self.options, spec.ways.high
        if spec.ways.kind == "variable":
            ways = min(o.max_ways, len(classes))
        support = o.max_support if spec.shots.kind == "variable" else ways * spec.shots.high
        queries = o.max_queries if spec.queries.kind == "variable" else spec.queries.high
        return {"ways": ways, "support": support, "query": ways * queries, "unlabeled": ways * spec.unlabeled.high}


@lru_cache(maxsize=32)
def _graph(classes: ClassIndex, root: str | None) -> SamplingGraph:
    """The hierarchy above the classes, or that of `root` and what is below it."""
    return classes.graph if root is None else SamplingGraph.build(rooted(classes.is_a, root, classes.names), classes.names)


@lru_cache(maxsize=32)
def _nodes(classes: ClassIndex, low: int, high: int, root: str | None) -> tuple[Int, Int]:
    """Class positions under each eligible node: ``(offsets [N + 1], members)``."""
    graph = _graph(classes, root)
    spans = [graph.span(node) for node in graph.eligible(low, high).tolist()]
    offsets = np.concatenate([[0], np.cumsum([len(span) for span in spans])]).astype(np.int64)
    return offsets, np.concatenate(spans).astype(np.int64) if spans else EMPTY


def make(options: Options) -> MetaDatasetSampler:
    """The sampler."""
    return MetaDatasetSampler(options)
