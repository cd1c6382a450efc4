"""Conformance suites: what every reader, maker and sampler must keep, for the tests of extensions.

Each raises AssertionError with the law that is broken.
"""

from __future__ import annotations

import pickle

import numpy as np

from episodes.classes import ClassIndex
from episodes.episode import EpisodePlan
from episodes.errors import SpecError
from episodes.protocols import EpisodeSampler, Maker, Reader
from episodes.spec import EpisodeSpec
from episodes.store.table import ClassTable


def check_reader(reader: Reader, samples: int = 8) -> None:
    """A reader lists the same twice, declares what it gives, and gives the same bytes whenever asked."""
    listing, again = reader.listing(), reader.listing()
    names = [(s.class_name, s.key) for s in listing.samples]
    assert names, "a listing has samples"
    assert names == [(s.class_name, s.key) for s in again.samples], "two listings of one source are equal"
    assert len(set(names)) == len(names), "a key is unique within its class"
    counts: dict[str, int] = {}
    for name, _ in names:
        counts[name] = counts.get(name, 0) + 1
    # Splits share no class, and name known ones; every class has each class field.
    classes, same = (ClassTable.build(counts, one.groups, one.splits, (), one.class_fields) for one in (listing, again))
    assert classes.to_json() == same.to_json(), "two listings of one source say the same of its classes"
    for i in np.linspace(0, len(names) - 1, samples).astype(int):
        first, second = listing.samples[i].load(), again.samples[i].load()
        assert first.keys() == listing.fields.keys(), "a sample has the declared fields"
        for field, spec in listing.fields.items():
            values = first[field]
            assert (str(values.dtype), values.shape) == (spec.dtype, spec.shape), f"'{field}' is as declared"
            assert values.tobytes() == second[field].tobytes(), f"'{field}' is the same each time it is loaded"


def check_maker(maker: Maker, rows: int = 200) -> None:
    """A maker is picklable, gives what it declares, and each value whatever else is asked for with it."""
    total = sum(maker.splits.values())
    assert min(maker.splits.values()) > 0, "every split has classes"
    assert maker.rows > 0, "a class has rows"
    classes, places = np.linspace(0, total - 1, rows).astype(int), np.linspace(0, maker.rows - 1, rows).astype(int)[::-1]
    copy = pickle.loads(pickle.dumps(maker))
    assert repr(copy.options) == repr(maker.options), "its options are those of its copy"
    order = np.argsort(np.sin(np.arange(rows)))
    whole, turned = maker.values(classes, places), copy.values(classes[order], places[order])
    assert whole.keys() == maker.fields.keys(), "a row has the declared fields"
    for name, spec in maker.fields.items():
        values = whole[name]
        assert (str(values.dtype), values.shape) == (spec.dtype, (rows, *spec.shape)), f"'{name}' is as declared"
        assert values[order].tobytes() == turned[name].tobytes(), f"'{name}' does not depend on the order of rows"
        alone = [maker.values(classes[i : i + 1], places[i : i + 1])[name][0] for i in range(0, rows, 7)]
        assert values[::7].tobytes() == np.stack(alone).tobytes(), f"'{name}' is the same alone and with others"
    for name, values in maker.class_values(classes).items():
        assert len(values) == rows, f"class field '{name}' has a value a class"
        assert values[order].tobytes() == copy.class_values(classes[order])[name].tobytes(), f"'{name}' of each class alone"


def check_sampler(
    sampler: EpisodeSampler, classes: ClassIndex, spec: EpisodeSpec, episodes: int = 50, *, prefix_stable: bool = True
) -> None:
    """A sampler is pure and picklable, and its plans are valid (sampling laws I1 to I4).

    Args:
        sampler: to check.
        classes: to draw from.
        spec: to draw.
        episodes: how many.
        prefix_stable: asking for more queries leaves the support as it was; False where they decide the support's size,
            or which rows are used up.
    """
    sampler.require(classes, spec)
    copy = pickle.loads(pickle.dumps(sampler))
    table = spec.to_table()
    more = EpisodeSpec.from_table(table | {"queries": spec.queries.low + 1}) if spec.queries.fixed else spec
    roomy = prefix_stable and spec.queries.fixed and _can(sampler, classes, more)
    for index in range(episodes):
        plan = sampler.plan(classes, spec, 7, index)
        check_plan(plan, classes, spec)
        assert _same(plan, sampler.plan(classes, spec, 7, index)), "a plan is a pure function of its arguments"
        assert _same(plan, copy.plan(classes, spec, 7, index)), "a pickled sampler plans the same"
        if roomy:
            grown = sampler.plan(classes, more, 7, index)
            assert np.array_equal(plan.support, grown.support), "more queries leave the support as it was"
    seeds = [sampler.plan(classes, spec, seed, 0) for seed in range(8)]
    assert len({(*p.class_ids.tolist(), *p.support.tolist(), *p.query.tolist()) for p in seeds}) > 1, "seeds matter"


def check_plan(plan: EpisodePlan, classes: ClassIndex, spec: EpisodeSpec) -> None:
    """A plan has sizes its spec allows, different classes, disjoint rows, and every row in the class of its label."""
    pairs = list(zip(plan.class_ids.tolist(), plan.variants.tolist(), strict=True))
    assert len(pairs) == len(set(pairs)), "classes of an episode are different"
    assert not {c for c, _ in pairs} & set(plan.distractor_ids.tolist()) or classes.variants.any(), "distractors are others"
    if spec.ways.kind in ("range", "weights"):
        assert spec.ways.low <= len(pairs) <= spec.ways.high, "ways are as asked"
    place = {pair: i for i, pair in enumerate(zip(classes.ids.tolist(), classes.variants.tolist(), strict=True))}
    rows_of = [set(classes.rows(place[pair]).tolist()) for pair in pairs]
    distracting = np.flatnonzero(np.isin(classes.ids, plan.distractor_ids))
    others = {int(row) for position in distracting for row in classes.rows(int(position))}
    used: set[tuple[int, int]] = set()
    for rows, labels, count in (
        (plan.support, plan.support_labels, spec.shots),
        (plan.query, plan.query_labels, spec.queries),
        (plan.unlabeled, plan.unlabeled_labels, spec.unlabeled),
    ):
        assert len(rows) == len(labels), "a label for every row"
        if count.kind in ("range", "weights"):
            assert all(count.low <= n <= count.high for n in plan.counts(labels)), "each class gives its rows"
        for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
            assert label < 0 or (row, label) not in used, "support, query and unlabeled rows are disjoint"
            used.add((row, label))
            assert row in (rows_of[label] if label >= 0 else others), "a row belongs to the class of its label"


def _can(sampler: EpisodeSampler, classes: ClassIndex, spec: EpisodeSpec) -> bool:
    try:
        sampler.require(classes, spec)
    except SpecError:
        return False
    return True


def _same(a: EpisodePlan, b: EpisodePlan) -> bool:
    names = ("class_ids", "variants", "support", "support_labels", "query", "query_labels", "unlabeled", "unlabeled_labels")
    return a.index == b.index and all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names)
