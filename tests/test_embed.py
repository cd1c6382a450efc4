"""Features computed once: what the backbone gives of each image alone, in a store with the same classes and splits."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from worlds import TellingReader

import episodes
from cli.main import main
from cli.untrained import evaluate_untrained
from episodes.errors import CheckpointError, ConfigError, StoreError
from episodes.ingest import ingest
from learners.backbones import make_backbone
from learners.embed import of_name, of_run
from learners.features import embed
from learners.methods import baseline_nn, protonet
from learners.protocol import Inputs
from learners.run import open_run
from learners.untrained import parameters_at_test

CPU = torch.device("cpu")
RECIPE = """
method = "{}"
[episode]
ways = 6
queries = 2
[validate]
split = "val"
queries = 2
episodes = 3
[train]
steps = 2
"""


def run(*args, code=0):
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exit_code == code, result.output + result.stderr + repr(result.exception)
    return result


def flat(scale=1.0):
    """A backbone of one's own."""
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False)) if scale == 1.0 else nn.Flatten()


class Centred(nn.Module):
    """Its rows depend on each other, and no batch norm says so."""

    def forward(self, rows):
        return rows.flatten(1) - rows.flatten(1).mean(0)


class Large(nn.Module):
    """Its features are beyond what float16 holds."""

    def forward(self, rows):
        return rows.flatten(1) * 1e6


class Untracked(nn.Module):
    """Batch norm without running statistics."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1, track_running_stats=False)

    def forward(self, rows):
        return self.norm(rows)


def train(method, store, out, *flags, code=0):
    """A run of two steps."""
    out.parent.mkdir(exist_ok=True)
    recipe = out.with_name(f"{method}.toml")
    recipe.write_text(RECIPE.format(method))
    return run("train", method, store, "-o", out, "--recipe", recipe, "--accelerator", "cpu", *flags, code=code)


@pytest.fixture(scope="module")
def trained(glyphs_store, tmp_path_factory):
    """A run of two steps on normalised images, whose batch norm has run."""
    out = tmp_path_factory.mktemp("runs") / "run"
    train("protonet", glyphs_store, out, "--width", 8, "-T", "mean=[0.1]", "-T", "std=[0.3]")
    return out


@pytest.fixture(scope="module")
def features(trained, glyphs_store, tmp_path_factory):
    """The features of all glyphs."""
    out = tmp_path_factory.mktemp("features") / "features.store"
    text = run("embed", glyphs_store, "--backbone", trained, "-o", out, "--batch", 100).stdout
    assert "field features: float32 8" in text
    return out


class Known(TellingReader):
    """Telling images of classes with a hierarchy and attributes."""

    def listing(self):
        one = super().listing()
        names = sorted({sample.class_name for sample in one.samples})
        pairs = [("all", "even"), ("all", "odd"), *((("even", "odd")[c % 2], name) for c, name in enumerate(names))]
        attributes = {name: np.array([c, 1.5], np.float32) for c, name in enumerate(names)}
        return replace(one, is_a=pairs, class_fields={"attributes": attributes})


@pytest.fixture
def known(tmp_path):
    """Four classes of three rows."""
    ingest(Known([3, 3, 3, 3]), tmp_path / "known.store")
    return episodes.open(tmp_path / "known.store")


def images_of(store, rows):
    return store.read(np.asarray(rows))["image"]


def backboned(trained, images):
    """Slow twin: each image alone through the backbone of a run, as training delivered it."""
    opened = open_run(trained)
    factor, term = opened.delivery.normaliser(1)
    module = opened.module.embedding.backbone
    with torch.no_grad():
        rows = [module(torch.from_numpy(image[None] * factor + term))[0] for image in images.astype(np.float32)]
    return torch.stack(rows).numpy()


def test_features_are_those_of_each_image_alone(trained, glyphs_store, features):
    source, made = episodes.open(glyphs_store), episodes.open(features)
    assert made.table == source.table
    rows = np.arange(source.num_rows)
    assert made.keys(rows) == source.keys(rows)
    some = rows[::97]
    expected = backboned(trained, images_of(source, some))
    assert np.allclose(made.read(some)["features"], expected, rtol=1e-4, atol=1e-5)
    about = made.manifest.reader
    assert about["name"] == "features"
    assert about["options"]["source"] == source.fingerprint
    assert about["options"]["backbone"] == "protonet"
    assert about["options"]["weights"] == of_run(trained, source, None, CPU).weights


def test_a_run_scores_on_features_what_it_scores_on_images(trained, features):
    shown = ("--ways", 5, "--shots", 2, "--queries", 3, "--episodes", 30, "--seed", 4, "--json")
    result = json.loads(run("evaluate", trained, *shown, "-o", trained / "images").stdout)["results"][0]
    values = {"split": "test", "ways": "5", "shots": "2", "queries": "3", "episodes": 30, "seed": 4}
    (again,) = evaluate_untrained("protonet", features, None, values, overwrite=False, quiet=True)
    assert again["per_episode"] == result["per_episode"], "the same episodes, and the same answers"
    assert again["seen_classes"] == 0


def test_quarter_turns_are_classes_of_their_own(trained, glyphs_store, tmp_path):
    out = tmp_path / "turned.store"
    run("embed", glyphs_store, "--backbone", trained, "-o", out, "--split", "test", "--rotations")
    source, made = episodes.open(glyphs_store), episodes.open(out)
    test, turned = source.split("test"), made.split("test")
    assert len(turned) == 4 * len(test)
    assert made.split("all").names == turned.names, "and nothing but the split asked for"
    name = test.names[3]
    group = {n: made.table.group_names[g] for n, g in zip(made.table.names, made.table.groups, strict=True)}
    start, count = test.starts[3], test.counts[3]
    for turn, own in enumerate((name, *(f"{name}/rot{90 * t:03d}" for t in (1, 2, 3)))):
        place = turned.names.index(own)
        rows = np.arange(turned.starts[place], turned.starts[place] + count)
        images = np.rot90(images_of(source, np.arange(start, start + count)), turn, axes=(2, 3)).copy()
        assert np.allclose(made.read(rows)["features"], backboned(trained, images), rtol=1e-4, atol=1e-5)
        assert group[own] == name.partition("/")[0]
        assert made.keys(rows) == source.keys(np.arange(start, start + count))
    assert made.manifest.reader["options"]["rotations"]


def test_hierarchy_class_fields_and_splits_come_along(known, tmp_path):
    embedder = of_name("none", known, None, CPU, weights=None, width=64)
    embed(embedder, known, tmp_path / "f.store", rotations=True)
    made = episodes.open(tmp_path / "f.store")
    assert made.fields["features"].shape == (16,)
    assert ("odd", "class01/rot270") in made.table.is_a
    assert ("all", "odd") in made.table.is_a
    attributes = dict(zip(made.table.names, made.class_fields["attributes"].tolist(), strict=True))
    assert attributes["class02"] == attributes["class02/rot180"] == [2.0, 1.5]
    assert len(made.split("halves/train")) == len(made.split("halves/test")) == 8
    (row,) = made.read(np.array([made.split("all").starts[made.table.names.index("class03/rot090")]])).values()
    image = images_of(known, [known.split("all").starts[3]])[0, 0]
    assert row[0].tolist() == (np.rot90(image).ravel() / np.float32(255)).tolist()


def test_the_same_embedding_gives_the_same_bytes(known, tmp_path):
    for name, batch in (("a", 5), ("b", 5), ("c", 2)):
        embedder = of_name(f"{__name__}:flat", known, None, CPU, weights=None, width=64)
        embed(embedder, known, tmp_path / name, batch=batch)
    one, two, three = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("a", "b", "c"))
    assert one == two
    values = [episodes.open(tmp_path / name).read(np.arange(12))["features"] for name in ("a", "c")]
    assert np.allclose(*values, atol=1e-6)
    assert three.keys() == one.keys()


def test_weights_come_from_a_file(known, glyphs_store, tmp_path):
    source = episodes.open(glyphs_store)
    torch.manual_seed(3)
    backbone = make_backbone("conv4", (1, 28, 28), 8)
    torch.save(backbone.state_dict(), tmp_path / "w.pt")
    torch.save({"state_dict": backbone.state_dict(), "epoch": 3}, tmp_path / "nested.pt")
    images = images_of(source, range(5))
    with torch.no_grad():
        expected = backbone.eval()(torch.from_numpy(images).float() / 255).numpy()
    for file in ("w.pt", "nested.pt"):
        embedder = of_name("conv4", source, None, CPU, weights=tmp_path / file, width=8)
        assert np.allclose(embedder(images), expected, atol=1e-6)
    own = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False))
    torch.save(own.state_dict(), tmp_path / "own.pt")
    rows = images_of(known, range(4))
    embedder = of_name(f"{__name__}:flat", known, None, CPU, weights=tmp_path / "own.pt", width=64)
    assert np.allclose(embedder(rows), rows.reshape(4, 16) / 255 @ own[1].weight.detach().numpy().T, atol=1e-6)

    def refused(words, error, name="conv4", **options):
        with pytest.raises(error, match=words):
            of_name(name, source, options.pop("image", None), CPU, **{"weights": None, "width": 8, **options})

    refused("weights: backbone 'conv4' has none of its own; give --weights", ConfigError)
    refused("do not fit backbone 'conv4'", CheckpointError, weights=tmp_path / "w.pt", width=16)
    (tmp_path / "bad.pt").write_text("nothing")
    refused("bad.pt cannot be read", CheckpointError, weights=tmp_path / "bad.pt")
    refused("nothing.pt cannot be read", CheckpointError, weights=tmp_path / "nothing.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    refused("list.pt are no state dict", CheckpointError, weights=tmp_path / "list.pt")
    refused("unknown backbone 'conv5'; did you mean", ConfigError, "conv5")
    refused("no field 'picture'; it has image", ConfigError, image="picture")
    refused("keeps no running statistics", ConfigError, f"{__name__}:Untracked")


def test_features_that_depend_on_other_rows_are_refused(known, glyphs_store, tmp_path):
    embedder = of_name(f"{__name__}:Centred", known, None, CPU, weights=None, width=64)
    with pytest.raises(ConfigError, match="depends on the rows beside its own"):
        embed(embedder, known, tmp_path / "f.store")
    out = tmp_path / "support-run"
    train("protonet", glyphs_store, out, "--width", 8, "--batch-norm", "support")
    line = run("embed", glyphs_store, "--backbone", out, "-o", tmp_path / "f.store", code=2).stderr
    assert "was trained with --batch-norm support" in line
    train("maml", glyphs_store, tmp_path / "maml", "--width", 8, "--max-ways", 6)
    line = run("embed", glyphs_store, "--backbone", tmp_path / "maml", "-o", tmp_path / "f.store", code=2).stderr
    assert "method 'maml'" in line
    assert "no embedding of single rows" in line
    assert not (tmp_path / "f.store").exists()


def test_half_precision_is_kept_or_refused(known, tmp_path):
    embedder = of_name("none", known, None, CPU, weights=None, width=64)
    embed(embedder, known, tmp_path / "half.store", dtype="float16")
    made = episodes.open(tmp_path / "half.store")
    assert made.fields["features"].dtype == "float16"
    whole = embedder(images_of(known, range(12))).astype(np.float16)
    assert made.read(np.arange(12))["features"].tolist() == whole.tolist()
    large = of_name(f"{__name__}:Large", known, None, CPU, weights=None, width=64)
    with pytest.raises(ConfigError, match=r"dtype: features up to 1e\+06 are no finite float16 \(give --dtype float32\)"):
        embed(large, known, tmp_path / "large.store", dtype="float16")
    assert not list(tmp_path.glob("large*"))


@pytest.mark.parametrize("when", ["progress", "written"])
def test_nothing_is_left_of_an_embedding_that_was_interrupted(when, known, tmp_path):
    embedder, out = of_name("none", known, None, CPU, weights=None, width=64), tmp_path / "out" / "f.store"

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(embedder, known, out, batch=4, **{when: stop})
    assert list(out.parent.iterdir()) == []
    embed(embedder, known, out, batch=4)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(StoreError, match="exists"):
        embed(embedder, known, out)
    with pytest.raises(KeyboardInterrupt):
        embed(embedder, known, out, overwrite=True, **{when: stop})
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before, "the store that was there is as it was"
    assert [path.name for path in out.parent.iterdir()] == ["f.store"]


def test_methods_learn_from_features_as_they_are(features, tmp_path):
    text = train("baseline_nn", features, tmp_path / "run", "--shots", 0).stdout
    assert "validation: baseline_nn 5-way 1-shot on glyphs/val" in text
    text = run("evaluate", tmp_path / "run", "--episodes", 5).stdout
    assert "leakage audit passed" in text
    line = train("protonet", features, tmp_path / "none", code=2).stderr
    assert "'protonet' has nothing to train with this backbone" in " ".join(line.split())
    assert not (tmp_path / "none").exists()


def test_only_what_has_nothing_to_train_is_scored_without_a_run(features, glyphs_store, tmp_path):
    values = {"split": "test", "episodes": 4}
    with pytest.raises(ConfigError, match=r"'protonet' has 111,936 parameters here that are not trained"):
        evaluate_untrained("protonet", glyphs_store, None, values, overwrite=False)
    for method, options in (("baseline_nn", ["distance=euclidean"]), ("protonet", ["distance=cosine"])):
        tables = evaluate_untrained(method, features, tmp_path / method, values, options, overwrite=False, quiet=True)
        written = json.loads((tmp_path / f"{method}.json").read_text())
        assert written["results"] == json.loads(json.dumps(tables))
        assert written["learner"] == dict([options[0].split("=")])
        assert tables[0]["audit"]["passed"]
    with pytest.raises(ConfigError, match="exists; give --overwrite"):
        evaluate_untrained("protonet", features, tmp_path / "protonet", values, overwrite=False)


def test_a_method_is_scored_on_features_by_the_command(features, trained, tmp_path):
    shown = ("--method", "baseline_nn", "--episodes", 4, "--split", "test", "--ways", 3)
    text = run("evaluate", features, *shown, "-L", "distance=euclidean", "-o", tmp_path / "report").stdout
    assert "baseline_nn 3-way 1-shot on glyphs/test: accuracy" in text
    assert f"report: {tmp_path / 'report.json'}" in text
    table = json.loads(run("evaluate", features, *shown, "--json").stdout)["results"][0]
    assert (table["episodes"], table["spec"]["ways"]) == (4, 3)

    def refused(words, *args):
        assert words in " ".join(run("evaluate", *args, code=2).stderr.split())

    refused("learner.backbones: unknown key", trained, "-L", "backbones=none")
    refused(
        "batch_norm: there is no run with --method; leave --batch-norm out", features, *shown, "--batch-norm", "running"
    )
    refused("method: expected one store with --method, got 2", features, features, *shown)
    refused("learner.distanz: unknown key; did you mean 'distance'", features, *shown, "-L", "distanz=cosine")
    refused("option: expected NAME=VALUE, got 'cosine'", features, *shown, "-L", "cosine")


def test_the_head_of_a_classifier_is_no_parameter_of_its_predictions(features):
    inputs = Inputs(fields=episodes.open(features).fields, classes=[(0, 0), (1, 0)])
    assert parameters_at_test(baseline_nn.make(baseline_nn.Options(), inputs)) == 0
    assert parameters_at_test(protonet.make(protonet.Options(backbone="linear", width=4), inputs)) == 8 * 4 + 4


def test_the_one_field_of_a_store_is_taken_for_the_image(features):
    fields = episodes.open(features).fields
    assert protonet.make(protonet.Options(), Inputs(fields=fields)).embedding.field == "features"
    both = {**fields, "other": fields["features"]}
    with pytest.raises(ConfigError, match="no field 'image'; it has features, other"):
        protonet.make(protonet.Options(), Inputs(fields=both))
    with pytest.raises(ConfigError, match="no field 'picture'"):
        protonet.make(protonet.Options(image="picture"), Inputs(fields=fields))
