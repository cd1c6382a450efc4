"""Episodes as TensorFlow tensors and as a ``tf.data.Dataset``; skipped where TensorFlow is not installed."""

import dataclasses
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from worlds import memory_store

import episodes
from episodes.errors import SpecError, StreamError
from episodes.transforms import Transform

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
from episodes.adapters.tensorflow import dataset, to_tensorflow  # noqa: E402 - it needs TensorFlow

DOCS = Path(__file__).resolve().parents[1] / "docs"
SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=2, unlabeled=1)
UNEVEN = episodes.EpisodeSpec(ways="2..4", shots="1..3", queries=2, unlabeled="0..1")


def series(spec=SPEC, transforms=(), **options):
    one = episodes.sample(memory_store([6, 7, 8, 9, 6, 7]), "train", spec, **options)
    return episodes.SampledEpisodes(
        store=one.store, classes=one.classes, spec=spec, sampler=one.sampler, transforms=transforms, length=one.length
    )


def parts(episode):
    return [part for part in (episode.support, episode.query, episode.unlabeled) if part is not None]


def address(tensor):
    """Where a tensor lies, through DLPack."""
    capsule = tf.experimental.dlpack.to_dlpack(tensor)
    holder = type("Held", (), {"__dlpack__": lambda self, **_: capsule, "__dlpack_device__": lambda self: (1, 0)})
    return np.from_dlpack(holder()).ctypes.data


@pytest.mark.parametrize(("transforms", "block"), [((Transform(mean=(0.5,)),), 1), ((), 4)])
def test_tensors_share_memory_that_begins_at_a_multiple_of_64_bytes(transforms, block):
    with episodes.Stream(series(transforms=transforms), block=block) as stream:
        item = next(stream)
    for part, arrays in zip(parts(to_tensorflow(item)), parts(item.stacked), strict=True):
        image, values = part.fields["image"], arrays.fields["image"]
        assert (image.dtype.as_numpy_dtype, tuple(image.shape)) == (values.dtype, values.shape)
        assert values.ctypes.data % 64 == 0
        assert address(image) == values.ctypes.data
        assert np.array_equal(part.labels, arrays.labels)
        assert np.array_equal(part.rows, arrays.rows)


def test_tensors_are_copies_elsewhere_so_that_tensorflow_can_compute_with_them():
    one = series(spec=episodes.EpisodeSpec(ways=3, shots=1, queries=1))  # 48 bytes of support
    with episodes.Stream(one) as stream:
        kept = [next(stream) for _ in range(10)]
    assert any(episode.query.fields["image"].ctypes.data % 64 for episode in kept)
    for episode in kept:
        image = to_tensorflow(episode).query.fields["image"]
        assert tf.reduce_sum(tf.cast(image, tf.int64)) == episode.query.fields["image"].sum(dtype=np.int64)


def test_tensors_keep_the_memory_they_share():
    one = series(transforms=(Transform(mean=(0.5,)),))
    kept = [to_tensorflow(episode) for episode, _ in zip(episodes.Stream(one), range(200), strict=False)]
    for i, episode in enumerate(kept):
        assert np.array_equal(episode.query.fields["image"][0], one[i].query.fields["image"])


@pytest.mark.parametrize("block", [None, 3])
def test_a_dataset_has_the_episodes_of_the_stream_on_every_pass(block):
    one = series(transforms=(Transform(flip=True, std=(0.2,)),), length=8)
    made = dataset(one, block=block, workers=1).prefetch(2)
    for _ in range(2):
        count = 0
        for element, item in zip(made, episodes.Stream(one, block=block), strict=True):
            whole = item.stacked if block else item
            for name, part in zip(("support", "query", "unlabeled"), parts(whole), strict=True):
                for got, wanted in (
                    (element[name]["fields"]["image"], part.fields["image"]),
                    (element[name]["labels"], part.labels),
                    (element[name]["rows"], part.rows),
                ):
                    assert np.array_equal(got if block else got[0], wanted)
                    assert got.dtype.as_numpy_dtype == wanted.dtype
            assert element["index"] == whole.index
            count += 1
        assert count == (3 if block else 8)


def test_sizes_may_vary_and_what_an_episode_has_not_has_no_rows():
    one = series(spec=UNEVEN, length=30)
    hidden = set()
    for element, episode in zip(dataset(one), episodes.Stream(one), strict=True):
        assert element["support"]["fields"]["image"].shape == (1, len(episode.support.rows), 1, 4, 4)
        rows = element["unlabeled"]["rows"].shape[1]
        assert rows == (0 if episode.unlabeled is None else len(episode.unlabeled.rows))
        hidden.add(rows > 0)
    assert hidden == {True, False}
    signature = dataset(one).element_spec
    assert signature["query"]["fields"]["image"] == tf.TensorSpec([None, None, 1, 4, 4], tf.uint8)


def test_a_stream_goes_on_where_it_is():
    stream = episodes.Stream(series(length=6), start=2)
    assert [int(element["index"]) for element in dataset(stream).take(2)] == [2, 3]
    assert stream.state_dict()["next_index"] >= 4


def test_errors():
    with pytest.raises(StreamError, match="block=0 is out of range"):
        dataset(series(), block=0)
    with episodes.Stream(series(spec=UNEVEN), block=8) as stream, pytest.raises(SpecError, match="of different sizes"):
        to_tensorflow(next(stream))
    with pytest.raises(tf.errors.OpError, match="episodes 0 to 7 are of different sizes"):
        next(iter(dataset(series(spec=UNEVEN), block=8)))

    def sometimes(fields, generator):
        index = int(generator.bit_generator.state["state"]["counter"][3])
        return {"image": fields["image"] / 2 if index == 2 else fields["image"]}

    elements = iter(dataset(dataclasses.replace(series(), then=sometimes)))
    assert [int(next(elements)["index"]) for _ in range(2)] == [0, 1]
    with pytest.raises(tf.errors.OpError, match="episode 2, support, fields, image is float64; in the first .* uint8"):
        next(elements)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of another example on the page
@pytest.mark.parametrize(("name", "needs"), [("frameworks.md", 1), ("shards.md", 3)])
def test_the_examples_of_the_documentation_run(name, needs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)
    text = (DOCS / name).read_text()
    setup = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)[:needs]
    (example,) = re.findall(r'^```py title=".*?"\n(.*?)^```', text, re.M | re.S)
    for block in (*setup, example):
        exec(compile(block, f"docs/{name}", "exec", dont_inherit=True), vars(page))
