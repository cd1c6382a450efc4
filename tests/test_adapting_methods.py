"""`episodes adapt` and `episodes predict` with each method that learns by gradients or reads a support as a sequence."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import episodes
from cli.main import main
from episodes.episode import Part
from episodes.protocols import FieldSpec
from learners.methods import maml, snail
from learners.predictor_files import open_predictor
from learners.protocol import Inputs, Task
from learners.run import _field, open_run

METHODS = {  # a run of each -> method and the options of a small one, for five ways at most
    "maml": ("maml", {"width": 4, "backbone": "conv4-stride", "test_steps": 2}),
    "maml-together": ("maml", {"width": 4, "tasks": "vmap", "inner_rates": "tensor", "bias_values": 3}),
    "reptile": ("reptile", {"width": 4, "backbone": "conv4-stride", "inner_steps": 2, "test_steps": 4, "test_batch": 3}),
    "proto_maml": ("proto_maml", {"width": 4, "backbone": "conv4-stride", "test_steps": 2}),
    "meta_lstm": ("meta_lstm", {"width": 4, "inner_steps": 2}),
    "mann-onehot": ("mann", {"units": 16, "slots": 8, "values": 4, "heads": 2}),
    "mann-strings": ("mann", {"labels": "strings", "units": 16, "slots": 8, "values": 4, "heads": 2}),
    "snail": ("snail", {"width": 4, "filters": 4, "max_support": 12}),
}
COUNTS = {"even": (2, 2, 2, 2, 2), "uneven": (1, 4, 2, 3, 2), "fewer": (3, 1)}
RECIPE = """
method = "{method}"
[episode]
ways = 5
queries = 2
[validate]
split = "val"
queries = 2
episodes = 2
[[evaluate]]
split = "test"
episodes = 2
[train]
steps = 2
meta_batch = 2
accelerator = "cpu"
[learner]
"""


def run(*args, code=0):
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exit_code == code, result.output + result.stderr + repr(result.exception)
    return result


@pytest.fixture(scope="module")
def trained(glyphs_store, tmp_path_factory):
    """Name of `METHODS` -> a run of two outer steps, made when it is asked for."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def get(name):
        if name not in made:
            method, options = METHODS[name]
            lines = [f"{key} = {json.dumps(value)}" for key, value in options.items()]
            (folder / f"{name}.toml").write_text("\n".join([RECIPE.format(method=method), *lines]))
            run("train", method, glyphs_store, "-o", folder / name, "--recipe", folder / f"{name}.toml")
            made[name] = folder / name
        return made[name]

    return get


@pytest.fixture(scope="module")
def drawings(glyphs_store):
    """[6, 20, 28, 28] of six test classes."""
    store = episodes.open(glyphs_store)
    test = store.split("test")
    rows = np.concatenate([np.arange(start, start + 20) for start in test.starts[:6]])
    return store.read(rows)["image"].reshape(6, 20, 28, 28)


def pictures(drawings, folder, counts, first=0):
    """Dark ink on white paper, one folder a class."""
    for k, count in enumerate(counts):
        (folder / f"class{k}").mkdir(parents=True)
        for i in range(count):
            Image.fromarray(255 - drawings[k, first + i]).save(folder / f"class{k}" / f"{i}.png")
    return folder


@pytest.mark.parametrize("sizes", COUNTS)
@pytest.mark.parametrize("name", METHODS)
def test_a_run_learns_folders_of_pictures(name, sizes, trained, drawings, tmp_path):
    counts = COUNTS[sizes]
    support, asked = pictures(drawings, tmp_path / "s", counts), pictures(drawings, tmp_path / "q", (3,) * len(counts), 10)
    text = run("adapt", trained(name), support, "-o", tmp_path / "p").stdout
    assert f"{METHODS[name][0]} tells {len(counts)} classes apart" in text
    for k, count in enumerate(counts):
        assert f"  class{k}: {count} picture{'s' if count > 1 else ''}\n" in text
    about = json.loads(run("predict", tmp_path / "p", asked, "--top", 9, "--json").stdout)
    assert not about["transductive"]
    found = [{one["class"]: one["probability"] for one in each["top"]} for each in about["predictions"]]

    # The same by hand: one episode of the learner of the run, whose classes are numbered by name.
    learner = open_run(trained(name)).learner
    ways, num = len(counts), sum(counts)
    rows = np.concatenate([drawings[k, :count] for k, count in enumerate(counts)])[None, :, None]
    labels = torch.tensor([[k for k, count in enumerate(counts) for _ in range(count)]])
    part = Part(fields={"image": torch.from_numpy(rows)}, labels=labels, rows=torch.arange(num)[None])
    with torch.no_grad():
        predict = learner.adapt(Task(support=part, ways=ways))
        logits = predict({"image": torch.from_numpy(drawings[:ways, 10:13].reshape(1, -1, 1, 28, 28))})
    wanted = logits[0].double().softmax(-1).numpy()
    assert [[one[f"class{k}"] for k in range(ways)] for one in found] == [pytest.approx(each, abs=1e-5) for each in wanted]
    assert np.ptp(wanted, axis=0).max() > 1e-6, "not the same for whatever is asked"

    one = json.loads(run("predict", tmp_path / "p", asked / "class1" / "2.png", "--top", 9, "--json").stdout)
    alone = {each["class"]: each["probability"] for each in one["predictions"][0]["top"]}
    assert alone == pytest.approx(found[5], abs=1e-4), "other pictures make no difference"


@pytest.mark.parametrize("name", ["maml", "reptile", "proto_maml", "meta_lstm", "mann-onehot", "snail"])
def test_more_classes_than_outputs_are_refused_with_the_mend(name, trained, drawings, tmp_path):
    support = pictures(drawings, tmp_path / "s", (1,) * 6)
    line = " ".join(run("adapt", trained(name), support, "-o", tmp_path / "p", code=2).stderr.split())
    assert "6 classes" in line
    assert "ways=6" in line
    assert "--max-ways" in line
    assert "train" in line
    assert not (tmp_path / "p").exists()


def test_strings_are_labels_of_more_classes_than_the_training_had(trained, drawings, tmp_path):
    support = pictures(drawings, tmp_path / "s", (1, 2, 1, 1, 1, 1))
    run("adapt", trained("mann-strings"), support, "-o", tmp_path / "p")
    assert open_predictor(tmp_path / "p").predict(sorted(support.rglob("*.png")))[1].shape == (7, 6)


def test_a_support_is_refused_by_its_rows_and_not_by_its_largest_class(trained, drawings, tmp_path):
    run("adapt", trained("snail"), pictures(drawings, tmp_path / "s", (1, 8, 1, 1, 1)), "-o", tmp_path / "p")
    support = pictures(drawings, tmp_path / "t", (1, 8, 2, 1, 1))
    line = " ".join(run("adapt", trained("snail"), support, "-o", tmp_path / "q", code=2).stderr.split())
    assert "supports of 1 to 12 rows" in line
    assert "[1, 8, 2, 1, 1]" in line
    assert "up to 13" in line
    assert "--max-support" in line


@pytest.mark.parametrize(
    ("name", "titles", "lines", "num"),
    [
        ("mann-onehot", ["Accuracy by instance"], ["rows"], 5),
        ("meta_lstm", ["Forget gate", "Input gate"], ["blocks.0", "blocks.1", "blocks.2", "blocks.3", "head"], 2),
        ("maml", [], [], 0),
    ],
)
def test_a_report_on_disk_has_the_charts_of_its_method(name, titles, lines, num, trained, tmp_path):
    run("evaluate", trained(name), "--shots", 1, "--queries", 4, "--episodes", 3, "-o", tmp_path / "r")
    (result,) = json.loads((tmp_path / "r.json").read_text())["results"]
    page = (tmp_path / "r.html").read_text()
    assert [chart["title"] for chart in result["charts"]] == titles
    for chart in result["charts"]:
        assert list(chart["lines"]) == lines
        assert all(line["x"] == list(range(1, num + 1)) for line in chart["lines"].values())
        assert all(low <= y <= high for line in chart["lines"].values() for low, y, high in _band(line))
        assert f"<h3>{chart['title']}</h3>" in page
        assert all(f"<td>{y:.4g}</td>" in page for line in chart["lines"].values() for y in line["y"])
        assert f"<!-- {chart['x']} -->" in page
    assert page.count("<svg") == 3 + len(titles), "the learning curve, accuracies and calibration"


def _band(line):
    return zip(line["low"], line["y"], line["high"], strict=True)


@pytest.mark.parametrize("method", [maml, snail])
def test_the_one_field_of_a_store_is_the_input_whatever_its_name(method):
    learner = method.make(method.Options(), Inputs(fields={"features": FieldSpec("float32", (8,))}))
    assert _field(learner, {}) == "features"
