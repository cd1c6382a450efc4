"""Self-supervised episodes: support rows as classes, queries that are new views of them, and what is refused."""

import dataclasses
import hashlib
import json
import pickle

import numpy as np
import pytest
from click.testing import CliRunner
from test_rng import numpy_words
from worlds import class_index, memory_store

import episodes
from cli.main import main
from episodes import frozen, plugins
from episodes.errors import ConfigError, PluginNotFound, SpecError
from episodes.plans import FlatPlans
from episodes.rng import SELF, TRANSFORM, stream_key
from episodes.sampling import self_supervised
from episodes.spec import EpisodeSpec
from episodes.store.memory import MemoryStore
from episodes.stream.series import SampledEpisodes
from episodes.stream.stream import Stream
from episodes.testing import check_sampler
from episodes.transforms import Transform

SPEC = EpisodeSpec(ways=3, shots=2, queries=3)
DRAWS = (Transform(brightness=0.5, flip=True),)


def sampler(probability=1.0, of="uniform", **of_options):
    return self_supervised.make(self_supervised.Options(probability=probability, of=of, of_options=of_options))


def inner(of, **options):
    return plugins.find(plugins.SAMPLERS, of).make(plugins.find(plugins.SAMPLERS, of).Options(**options))


def photos(rows=12, size=8):
    """A store whose images of one row differ from those of any other, also after a flip or a change of brightness."""
    noise = np.random.Generator(np.random.Philox(key=stream_key("photos"))).integers(80, 180, (8 * rows, 3, size, size))
    names = [f"class{c}" for c in range(8)]
    return MemoryStore(
        {"image": noise.astype(np.uint8)}, dict.fromkeys(names, rows), splits={"s": {"train": names[:5], "test": names[5:]}}
    )


def series(store, spec=SPEC, transforms=DRAWS, **settings):
    options = {"probability": 1.0} | settings.pop("options", {})
    made = episodes.sample(store, "train", spec, sampler="self-supervised", options=options, **settings)
    return dataclasses.replace(made, transforms=transforms)


def slow(plan):
    """The rule once more, row by row: what `alone` makes of a plan."""
    rows, labels, queries = plan.support.tolist(), plan.support_labels.tolist(), plan.query_labels.tolist()
    asked = []
    for label in range(plan.ways):
        mine = [j for j, own in enumerate(labels) if own == label]
        asked += mine[: min(len(mine), queries.count(label))]
    classes = [plan.class_ids.tolist()[label] for label in labels]
    return classes, rows, list(range(len(rows))), [rows[j] for j in asked], asked


POLICIES = {
    "uniform": ({}, {"ways": 4, "shots": 2, "queries": 3}),
    "hierarchical": ({"hold": 3}, {"ways": 3, "shots": "1..4 per class", "queries": "1..3 per class"}),
    "meta_dataset": ({"max_ways": 9, "min_ways": 2}, dict.fromkeys(("ways", "shots", "queries"), "variable")),
    "passes": ({}, {"ways": 4, "shots": 1, "queries": 5}),
    "meta_batch": ({"batch": 2, "share": 1}, {"ways": 3, "shots": 3, "queries": 2}),
    "leave_one_out": ({}, {"ways": 3, "shots": "variable", "queries": 1}),
}


@pytest.mark.parametrize("of", sorted(POLICIES))
def test_support_rows_become_classes_and_are_asked_for_again(of):
    options, counts = POLICIES[of]
    classes, spec = class_index([20] * 12, [c // 6 for c in range(12)]), EpisodeSpec(**counts)
    made, own = sampler(of=of, **options), inner(of, **options)
    made.require(classes, spec)
    for index in range(20):
        plan, before = made.plan(classes, spec, 5, index), own.plan(classes, spec, 5, index)
        found = (plan.class_ids, plan.support, plan.support_labels, plan.query, plan.query_labels)
        assert tuple(array.tolist() for array in found) == slow(before)
        assert plan.query_views.tolist() == [1] * len(plan.query)
        assert (plan.index, plan.ways) == (index, len(before.support))
        assert [row // 20 for row in plan.support.tolist()] == plan.class_ids.tolist()
        assert [plan.support[label] for label in plan.query_labels] == plan.query.tolist()
    length = getattr(own, "length", None)
    assert made.length(classes, spec) == (length(classes, spec) if length else None)


def test_the_coin_is_a_key_of_its_own():
    classes, made, own = class_index([20] * 12), sampler(0.3), inner("uniform")
    stream, turned = stream_key(classes.split, "self_supervised", 1), 0
    for index in range(2000):
        plan, before = made.plan(classes, SPEC, 7, index), own.plan(classes, SPEC, 7, index)
        alone = numpy_words(7, stream, SELF, 0, index, 1)[0] / 2**64 < 0.3
        assert (plan.query_views is not None) == alone
        turned += alone
        assert np.array_equal(plan.support, before.support), "the policy draws as ever"
        if not alone:
            assert np.array_equal(plan.query, before.query)
            assert np.array_equal(plan.class_ids, before.class_ids)
    assert abs(turned - 600) < 5 * (2000 * 0.3 * 0.7) ** 0.5


@pytest.mark.parametrize("of", ["uniform", "hierarchical", "under_node"])
def test_probability_zero_is_the_policy_itself(of):
    options = {"hierarchy": "groups", "max_span": 6} if of == "under_node" else {}
    classes = class_index([20] * 12, [c // 6 for c in range(12)])
    check_sampler(sampler(0.0, of, **options), classes, SPEC)
    for index in range(20):
        one = sampler(0.0, of, **options).plan(classes, SPEC, 3, index)
        two = inner(of, **options).plan(classes, SPEC, 3, index)
        assert one.query_views is None
        assert (one.support.tolist(), one.query.tolist()) == (two.support.tolist(), two.query.tolist())


def test_golden_plans():
    classes, digest = class_index([20] * 12), hashlib.sha256()
    for index in range(50):
        plan = sampler(0.5).plan(classes, SPEC, 11, index)
        for array in (plan.class_ids, plan.support, plan.support_labels, plan.query, plan.query_labels):
            digest.update(array.astype("<i8").tobytes() + b"/")
    assert digest.hexdigest()[:16] == "8a2d641a46da2e66"


def test_queries_are_new_views_and_supports_are_as_ever():
    store = photos()
    made = series(store)
    plain = dataclasses.replace(made, sampler=sampler(0.0))
    for index in range(10):
        one, before = made[index], plain[index]
        assert np.array_equal(one.support.fields["image"], before.support.fields["image"]), "view 0 draws as ever"
        shown = dict(zip(one.support.rows.tolist(), one.support.fields["image"], strict=True))
        assert all(
            not np.array_equal(image, shown[row])
            for row, image in zip(one.query.rows.tolist(), one.query.fields["image"], strict=True)
        )
        assert set(one.query.rows.tolist()) <= set(one.support.rows.tolist())


def test_a_view_is_drawn_by_the_row_and_its_view():
    store = photos()
    made = dataclasses.replace(series(store), transforms=(Transform(brightness=0.5),))
    stream = stream_key("s/train", "self_supervised", 1)
    for index in (0, 3, 2**40):
        query = made[index].query
        for row, image in zip(query.rows.tolist(), query.fields["image"], strict=True):
            words = np.random.Philox(
                key=np.array([0, stream], np.uint64), counter=np.array([2, row + 2**48, TRANSFORM, index], np.uint64)
            ).random_raw(1)  # block 3
            share = 2 * ((int(words[0]) >> 11) / 2**53) - 1
            bias = int(np.floor(255 * share * 0.5 * 65536 + 0.5))
            original = store.read(np.array([row]))["image"][0].astype(np.int64)
            assert np.abs(image.astype(np.int64) - np.clip(original + bias / 65536, 0, 255)).max() <= 1


def test_flat_plans_mix_views_and_rows_without():
    plans = [sampler(0.5).plan(class_index([20] * 12), SPEC, 11, index) for index in range(40)]
    assert len({plan.query_views is None for plan in plans}) == 2
    flat = FlatPlans.of(plans)
    wanted = [np.zeros(len(p.query), int) if p.query_views is None else p.query_views for p in plans]
    supports = sum(len(plan.support) for plan in plans)
    assert flat.views.tolist() == [0] * supports + np.concatenate(wanted).tolist()
    assert np.array_equal(flat.slots & (2**48 - 1), flat.rows)
    assert np.array_equal(flat.slots >> 48, flat.views)
    plain = FlatPlans.of([plan for plan in plans if plan.query_views is None])
    assert not len(plain.views)
    assert plain.slots is plain.rows


def test_blocks_streams_and_single_episodes_agree():
    made = series(photos(), options={"probability": 0.5}, seed=9)
    single = [made[index] for index in range(24)]
    assert len({len(episode.class_ids) for episode in single}) == 2
    for workers, block in ((0, None), (2, None), (1, 5)):
        with Stream(dataclasses.replace(made, length=24), workers=workers, block=block) as stream:
            found = list(stream) if block is None else [episode for one in stream for episode in one]
            for one, two in zip(single, found, strict=True):
                for part in ("support", "query"):
                    mine, other = getattr(one, part), getattr(two, part)
                    assert np.array_equal(mine.fields["image"], other.fields["image"])
                    assert np.array_equal(mine.labels, other.labels)


def test_turned_classes_keep_their_turns():
    made = series(photos(), rotations=True)
    episode, plan = made[1], made.plan(1)
    assert len(set(plan.variants.tolist())) > 1
    upright = dataclasses.replace(made, transforms=(Transform(brightness=1e-9),))[1]
    rows = made.store.read(plan.support)["image"]
    for label, image in enumerate(upright.support.fields["image"]):
        assert np.array_equal(image, np.rot90(rows[label], plan.variants[label], axes=(-2, -1)))
    assert np.array_equal(episode.variants, plan.variants)
    assert np.array_equal(upright.query.fields["image"], upright.support.fields["image"][plan.query_labels])


def test_queries_that_would_be_their_supports_are_refused_and_plans_are_not():
    for transforms in ((), (Transform(mean=(0.5,), std=(0.5,)),)):
        made = series(photos(), transforms=transforms)
        assert made.plan(0).query_views is not None
        assert len(made.class_names(0)) == 6
        for ask in (lambda made=made: made[0], lambda made=made: Stream(made), lambda made=made: made.episode_bytes):
            with pytest.raises(SpecError, match="support rows again, and no transform draws anything"):
                ask()
    assert len(series(photos(), transforms=(), options={"probability": 0.0})[0].class_ids) == 3


def noisy(fields, generator):
    return {name: values + generator.normal(size=values.shape) for name, values in fields.items()}


def test_a_function_of_ones_own_may_make_the_views():
    made = dataclasses.replace(series(photos(), transforms=()), then=noisy)
    assert not np.array_equal(made[0].query.fields["image"], made[0].support.fields["image"][made.plan(0).query_labels])


@pytest.mark.parametrize(
    ("options", "counts", "words"),
    [
        ({}, {"unlabeled": 2}, "unlabeled=2 and distractors=0: self-supervised episodes have neither"),
        ({}, {"distractors": 2, "distractor_queries": 1}, "distractors=2: self-supervised episodes have neither"),
        ({}, {"shots": 0}, "shots=0: support rows become the classes of an episode; give 1 or more"),
        ({}, {"shots": "0..2"}, "shots=0..2: support rows become"),
        ({}, {"ways": 30}, "ways=30 needs 30 classes"),
        ({"probability": 1.5}, {}, "probability: expected 0 to 1, got 1.5"),
        ({"of": "frozen"}, {}, "of: expected a policy that draws episodes of its own, got 'frozen'"),
        ({"of": "self-supervised"}, {}, "draws episodes of its own, got 'self-supervised'"),
        ({"of_options": {"hodl": 2}}, {}, "options.of_options.hodl: unknown key; did you mean 'hold'"),
        ({"of": "unifrom"}, {}, "unknown sampler 'unifrom'; did you mean 'uniform'"),
    ],
)
def test_refusals(options, counts, words):
    counts = {"ways": 3, "shots": 2, "queries": 3} | counts
    with pytest.raises((SpecError, ConfigError, PluginNotFound), match=words):
        episodes.sample(memory_store([20] * 8), "train", EpisodeSpec(**counts), sampler="self-supervised", options=options)


def test_a_frozen_list_of_them_is_refused(tmp_path):
    made = series(photos())
    about = {"fingerprint": "f", "seed": 0, "source": "photos", "keys": lambda rows: list(map(str, rows.tolist()))}
    with pytest.raises(SpecError, match="episode 0: its queries are support rows again, made different by transforms"):
        frozen.write(tmp_path / "list.jsonl", [made.plan(0)], **about)
    assert not list(tmp_path.iterdir())


def test_samplers_pickle_and_a_fingerprint_tells_them_apart():
    made = sampler(0.5, hold=2)
    again = pickle.loads(pickle.dumps(made))
    assert again == made
    store = photos()
    found = {
        SampledEpisodes(store=store, classes=store.split("train"), spec=SPEC, sampler=one).fingerprint
        for one in (made, again, sampler(0.6, hold=2), sampler(0.5, hold=3))
    }
    assert len(found) == 3


def test_options_of_the_policy_within_come_from_the_command_line(glyphs_store, tmp_path):
    def plans(*args):
        result = CliRunner().invoke(main, ["plan", str(glyphs_store), "--queries", "2", "--count", "12", *args])
        assert result.exit_code == 0, result.output + result.stderr
        return [json.loads(line) for line in result.stdout.splitlines()]

    options = ("probability=0.5", "of=hierarchical", "of_options={hold = 3}")
    chosen = ("--sampler", "self-supervised", *(word for option in options for word in ("-O", option)))
    found, within = plans(*chosen), plans("--sampler", "hierarchical", "-O", "hold=3")
    (tmp_path / "e.toml").write_text(
        'sampler = "self_supervised"\n[options]\nprobability = 0.5\nof = "hierarchical"\nof_options = {hold = 3}\n'
    )
    assert plans("--episode", str(tmp_path / "e.toml")) == found
    assert [plan["support"] for plan in found] == [plan["support"] for plan in within]
    alone = [one for one, two in zip(found, within, strict=True) if one["query"] != two["query"]]
    assert 0 < len(alone) < 12
    assert all(plan["support_labels"] == [0, 1, 2, 3, 4] and plan["query"] == plan["support"] for plan in alone)


def test_episodes_made_on_a_device_have_the_same_views():
    from episodes.adapters.pytorch import resident

    made = dataclasses.replace(series(photos(), options={"probability": 0.5}, seed=9), length=8)
    for one, two in zip(resident(made, "cpu"), Stream(made), strict=True):
        assert np.array_equal(one.query.fields["image"][0].numpy(), two.query.fields["image"])
        assert np.array_equal(one.support.fields["image"][0].numpy(), two.support.fields["image"])
    with pytest.raises(SpecError, match="support rows again, and no transform draws anything"):
        resident(dataclasses.replace(made, transforms=()), "cpu")
