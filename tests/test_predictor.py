"""Pictures of one's own: brought to the form of the store, learned from a few, told apart, kept in a directory."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import episodes
from cli.main import main
from episodes import plugins
from episodes.errors import CheckpointError, ConfigError, ReaderError, SpecError
from episodes.protocols import FieldSpec
from episodes.readers import glyphs
from episodes.transforms import Transform
from learners.methods import protonet
from learners.pictures import PictureForm, form_of, pictures_in, support_folder
from learners.predictor import NONE, adapt_images
from learners.predictor_files import open_predictor, save_predictor
from learners.protocol import Inputs
from learners.run import Trained, open_run

RECIPE = """
name = "short"
method = "protonet"
[learner]
width = 16
[episode]
ways = 20
queries = 3
[validate]
split = "val"
episodes = 2
[train]
steps = 60
lr = 0.005
accelerator = "cpu"
"""
PAPER = PictureForm(mode="grey", height=28, width=28, fit="squash", invert=True)


def run(*args, code=0):
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exit_code == code, result.output + result.stderr + repr(result.exception)
    return result


@pytest.fixture(scope="module")
def trained(glyphs_store, tmp_path_factory):
    """A run that has learned something; its images are delivered normalised."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "short.toml").write_text(RECIPE)
    flags = ("--recipe", folder / "short.toml", "-T", "mean=[0.1]", "-T", "std=[0.3]")
    run("train", "protonet", glyphs_store, "-o", folder / "run", *flags)
    return folder / "run"


@pytest.fixture(scope="module")
def drawings(glyphs_store):
    """Name -> the [20, 28, 28] drawings of five test classes."""
    store = episodes.open(glyphs_store)
    test = store.split("test")
    chosen = range(0, 15, 3)
    return {
        test.names[k].replace("/", "-"): store.read(np.arange(test.starts[k], test.starts[k] + 20))["image"][:, 0]
        for k in chosen
    }


def written(drawings, folder, places, *, scale=4, mode="L", suffix=".png"):
    """Dark ink on white paper, `scale` times as large, of the drawings at `places` of each class."""
    for name, images in drawings.items():
        (folder / name).mkdir(parents=True)
        for place in places:
            picture = Image.fromarray(255 - images[place])
            large = picture.resize((28 * scale, 28 * scale), Image.Resampling.BICUBIC).convert(mode)
            large.save(folder / name / f"{place:02d}{suffix}")
    return folder


def arrays(drawings, places):
    return {name: list(images[places, None]) for name, images in drawings.items()}


def test_a_run_tells_classes_of_ones_own_apart(trained, drawings, tmp_path):
    support = written(drawings, tmp_path / "support", [0, 1])
    written({"unlabeled": next(iter(drawings.values()))}, support, [2])
    (support / "notes.txt").write_text("left alone")
    asked = written(drawings, tmp_path / "asked", range(3, 20), mode="RGB", scale=7, suffix=".jpg")
    text = run("adapt", trained, support, "-o", tmp_path / "predictor").stdout
    assert "protonet tells 5 classes apart" in text
    assert text.count(": 2 pictures") == 5
    assert "without label: 1" in text
    shutil.rmtree(support)
    lines = [line.split("\t") for line in run("predict", tmp_path / "predictor", asked).stdout.splitlines()]
    assert len(lines) == 5 * 17
    right = [file.split("/")[-2] == name for file, name, _ in lines]
    assert np.mean(right) > 0.6, "JPEG, colour and another size make no difference; chance is 0.2"
    assert all(0.2 <= float(probability) <= 1 for *_, probability in lines)
    one = next(asked.rglob("05.jpg"))
    about = json.loads(run("predict", tmp_path / "predictor", one, "--top", 3, "--json").stdout)
    assert not about["transductive"]
    (found,) = about["predictions"]
    assert found["file"] == str(one)
    assert [found["class"], found["probability"]] == [found["top"][0]["class"], found["top"][0]["probability"]]
    assert [each["probability"] for each in found["top"]] == sorted((e["probability"] for e in found["top"]), reverse=True)
    assert len(run("predict", tmp_path / "predictor", one, "--top", 9).stdout.split("\t")) == 1 + 2 * 5


def test_a_picture_becomes_what_the_store_has(trained, glyphs_store, drawings, tmp_path):
    opened = open_run(trained)
    assert opened.form == PAPER
    assert opened.image == "image"
    exact = written(drawings, tmp_path / "exact", [3], scale=1)
    files = sorted(exact.rglob("*.png"))
    rows = opened.form.rows([*files, files[0].read_bytes()])
    assert rows[:5].tolist() == [drawings[file.parent.name][3][None].tolist() for file in files]
    assert rows[5].tolist() == rows[0].tolist()
    # What reaches the learner is what its training delivered.
    store, spec = episodes.open(glyphs_store), episodes.EpisodeSpec(ways=3, shots=2, queries=1)
    plain = episodes.sample(store, "test", spec)[0]
    episode = episodes.sample(store, "test", spec, transforms=[opened.delivery])[0]
    predictor = adapt_images(opened, arrays(drawings, [0]))
    delivered = predictor._delivered(plain.support.fields["image"])[0].numpy()
    assert delivered.tolist() == episode.support.fields["image"].tolist()


def test_pictures_are_delivered_in_the_layout_of_training(drawings):
    how = Transform(stored="hwc", layout="hwc", mean=(0.1,), std=(0.3,))
    inputs = Inputs(fields={"image": FieldSpec("float32", (28, 28, 1))})
    learner = protonet.make(protonet.Options(backbone="linear", width=4), inputs).eval()
    one = Trained(learner=learner, method="protonet", options={}, inputs=inputs, form=PAPER, delivery=how)
    predictor = adapt_images(one, arrays(drawings, [0]))
    rows = predictor.support
    factor, term = how.normaliser(1)
    assert predictor._delivered(rows)[0].tolist() == (rows.transpose(0, 2, 3, 1) * factor + term).tolist()
    assert predictor.predict(list(rows))[0] == list(predictor.names)


def test_predictions_are_those_of_the_learner_on_the_same_episode(trained, drawings):
    opened = open_run(trained)
    predictor = adapt_images(trained, arrays(drawings, [0, 1, 2]))
    assert predictor.names == tuple(sorted(drawings))
    queries = np.concatenate([images[5:, None] for images in drawings.values()])
    names, probabilities = predictor.predict(list(queries))
    assert probabilities.shape == (75, 5)
    assert np.allclose(probabilities.sum(1), 1)
    assert names == [predictor.names[k] for k in probabilities.argmax(1)]
    factor, term = (torch.from_numpy(values) for values in opened.delivery.normaliser(1))
    with torch.no_grad():
        backbone = opened.learner.embedding.backbone
        support = backbone(torch.from_numpy(predictor.support) * factor + term).view(5, 3, -1).mean(1)
        distances = torch.cdist(backbone(torch.from_numpy(queries) * factor + term), support).square()
    assert np.allclose(probabilities, (-distances.double()).softmax(-1).numpy(), atol=1e-4)
    alone = [predictor.predict([query])[1][0] for query in queries[::10]]
    assert np.allclose(alone, probabilities[::10], atol=1e-5), "other pictures make no difference"
    assert predictor.predict([])[1].shape == (0, 5)


# protonet_zero_shot sees attributes only, and regression sees numbers.
PICTURED = [name for name in plugins.names(plugins.METHODS) if not name.endswith(("_zero_shot", "_regression"))]


@pytest.mark.parametrize("method", PICTURED)
def test_a_predictor_comes_back_as_it_was_written(method, drawings, tmp_path):
    module = plugins.find(plugins.METHODS, method)
    inputs = Inputs(fields={"image": FieldSpec("uint8", (1, 28, 28))}, classes=[(c, 0) for c in range(12)])
    torch.manual_seed(0)
    options = {"max_support": 20} if "max_support" in module.Options.__dataclass_fields__ else {}
    learner = module.make(module.Options(**options), inputs).eval()
    text = f'method = "{method}"\n'
    one = Trained(learner=learner, method=method, options=options, inputs=inputs, form=PAPER, recipe=text)
    uneven = arrays(drawings, [0]) | {"uneven": list(drawings[min(drawings)][1:4, None])}
    uneven.pop(max(drawings))
    predictor = adapt_images(one, uneven, list(drawings[min(drawings)][5:8, None]))
    written_hash = save_predictor(predictor, tmp_path / "p")
    again = open_predictor(tmp_path / "p")
    asked = [image for images in drawings.values() for image in images[8:10, None]]
    names, probabilities = predictor.predict(asked)
    assert (again.predict(asked)[0], again.predict(asked)[1].tolist()) == (names, probabilities.tolist())
    assert set(names) <= {*predictor.names, NONE}
    assert (again.names, again.counts) == (predictor.names, predictor.counts)
    assert save_predictor(again, tmp_path / "q") == written_hash


def test_a_predictor_that_was_altered_is_refused(trained, drawings, tmp_path):
    path = tmp_path / "p"
    save_predictor(adapt_images(trained, arrays(drawings, [0])), path)
    with pytest.raises(ConfigError, match=r"output: .*p exists; give --overwrite"):
        save_predictor(adapt_images(trained, arrays(drawings, [0])), path)
    save_predictor(adapt_images(trained, arrays(drawings, [1])), path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["p"], "nothing is left beside it"
    good = (path / "support.npy").read_bytes()
    (path / "support.npy").write_bytes(good[:-1] + b"\1")
    with pytest.raises(CheckpointError, match=r"support.npy is missing or was altered"):
        open_predictor(path)
    (path / "support.npy").write_bytes(good)
    text = (path / "predictor.json").read_text()
    (path / "predictor.json").write_text(text.replace('"squash"', '"crop"'))
    with pytest.raises(CheckpointError, match="was altered: its hash is not that"):
        open_predictor(path)
    (path / "predictor.json").write_text(text.replace('"version": 1', '"version": 9'))
    with pytest.raises(CheckpointError, match="has version 9; this program reads 1"):
        open_predictor(path)
    (path / "predictor.json").write_text("[]")
    with pytest.raises(CheckpointError, match="predictor.json cannot be read"):
        open_predictor(path)
    assert "no predictor at" in run("predict", tmp_path / "nothing", tmp_path, code=2).stderr
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match="it is no predictor and is not replaced"):
        save_predictor(adapt_images(trained, arrays(drawings, [0])), tmp_path / "other", overwrite=True)


def test_a_predictor_that_cannot_be_written_leaves_nothing(trained, drawings, tmp_path, monkeypatch):
    predictor = adapt_images(trained, arrays(drawings, [0]))

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(CheckpointError, match="cannot write predictor .*: No space left"):
        save_predictor(predictor, tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_learned_from_is_named(trained, drawings, tmp_path):
    folder = written(drawings, tmp_path / "s", [0])

    def refused(words, command=("adapt", trained, folder, "-o", tmp_path / "p")):
        line = run(*command, code=2).stderr
        assert words in " ".join(line.split()), line
        assert not (tmp_path / "p").exists()

    first = sorted(folder.iterdir())[0]
    (folder / "empty").mkdir()
    refused("class folder empty in")
    (folder / "empty").rmdir()
    (folder / "loose.png").write_bytes((first / "00.png").read_bytes())
    refused("picture loose.png in")
    (folder / "loose.png").unlink()
    (first / "bad.png").write_bytes((first / "00.png").read_bytes()[:-30])
    refused(f"cannot decode image {first / 'bad.png'}")
    (first / "bad.png").write_text("no picture")
    refused("it is no image of a known format (replace the file, or remove it)")
    (first / "bad.png").unlink()
    refused("is not a run directory", ("adapt", tmp_path, folder, "-o", tmp_path / "p"))
    refused("is not a folder", ("adapt", trained, first / "00.png", "-o", tmp_path / "p"))
    for other in sorted(folder.iterdir())[1:]:
        shutil.rmtree(other)
    refused("tells classes apart and needs 2 or more, got " + first.name)
    with pytest.raises(SpecError, match="class 'b' has no pictures"):
        adapt_images(trained, {"a": [first / "00.png"], "b": []})
    with pytest.raises(
        ConfigError, match=r"picture 0: expected uint8 of shape \(1, 28, 28\).* got uint8 of shape \(28, 28\)"
    ):
        adapt_images(trained, {"a": [np.zeros((28, 28), np.uint8)], "b": [first / "00.png"]})
    with pytest.raises(ReaderError, match=r"cannot read picture .*nothing.png: No such file"):
        adapt_images(trained, {"a": [first / "nothing.png"], "b": [first / "00.png"]})
    (tmp_path / "bare").mkdir()
    with pytest.raises(ReaderError, match=r"folder .*bare has no pictures"):
        pictures_in([tmp_path / "bare"])


def test_the_form_is_the_reader_s_unless_one_says_otherwise(trained, drawings):
    grey, colour = FieldSpec("uint8", (1, 28, 28)), FieldSpec("uint8", (3, 64, 48))
    assert form_of({"name": "glyphs", "options": {"size": 28}}, grey) == PAPER
    assert form_of({"name": "omniglot", "options": {}}, grey) == PAPER
    folder = {"name": "folder", "options": {"fit": "pad", "mode": "rgb"}}
    assert form_of(folder, colour) == PictureForm(mode="rgb", height=64, width=48, fit="pad", invert=False)
    assert form_of(folder, grey, fit="crop", invert=True) == PictureForm(mode="grey", height=28, width=28, invert=True)
    assert form_of({"name": "nobody's"}, grey) == PictureForm(mode="grey", height=28, width=28)
    assert form_of({}, FieldSpec("float32", (64,))) is None
    assert form_of({}, FieldSpec("uint8", (4, 28, 28))) is None
    with pytest.raises(ConfigError, match="fit: expected crop, squash, pad, got 'stretch'"):
        form_of({}, grey, fit="stretch")
    assert not open_run(trained, invert=False).form.invert


def test_pictures_that_are_not_square_are_taken_in_their_own_size(tmp_path):
    form = PictureForm(mode="rgb", height=24, width=16)
    Image.new("RGB", (16, 24), (1, 2, 3)).save(tmp_path / "fits.png")
    Image.new("RGB", (24, 16)).save(tmp_path / "turned.png")
    assert form.rows([tmp_path / "fits.png"])[0, :, 0, 0].tolist() == [1, 2, 3]
    with pytest.raises(ReaderError, match=r"turned.png is 16x24, those of the store 24x16"):
        form.rows([tmp_path / "turned.png"])


def test_a_run_on_something_else_than_pictures_is_refused():
    inputs = Inputs(fields={"features": FieldSpec("float32", (8,))})
    learner = protonet.make(protonet.Options(image="features", backbone="linear"), inputs).eval()
    one = Trained(learner=learner, method="protonet", options={}, inputs=inputs, image="features")
    with pytest.raises(ConfigError, match=r"was trained on 'features' \(float32 \(8,\)\), which holds no pictures"):
        adapt_images(one, {"a": [], "b": []})


def test_class_folders_hold_whatever_is_below_them(tmp_path):
    for path in ("a/1.png", "a/deep/er/2.JPG", "b/1.webp", "b/.hidden.png", "unlabeled/x.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    classes, unlabeled = support_folder(tmp_path)
    assert {name: len(files) for name, files in classes.items()} == {"a": 2, "b": 1}
    assert unlabeled == [tmp_path / "unlabeled/x.png"]
    assert glyphs.OWN_PICTURES == {"fit": "squash", "invert": True}
