"""What every reader gives of episode shards is the series, bit for bit: tarfile, webdataset, PyTorch, JAX, TensorFlow."""

import gc
import io
import json
import tarfile
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_adapters import FORKS, flat
from test_engine import counts
from test_shards import LOOK, assert_same, compiled, series, two_fields
from torch.utils.data import DataLoader
from worlds import memory_store

import episodes
from episodes.adapters.pytorch import EpisodeDataset, to_torch
from episodes.errors import EpisodesError
from episodes.shards.compile import compile_shards, write_stream

# webdataset leaves the files that it has read to be closed when nothing refers to them.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
PARTS = ("support", "query", "unlabeled")


@pytest.fixture(autouse=True)
def _files_are_closed():
    yield
    gc.collect()


def values_of(episode):
    """name -> (dtype, shape, bytes) of all that an episode holds, whatever the framework; no axis in front."""
    out = {"index": episode.index}
    for name, array in flat(episode):
        array = np.asarray(array)
        out[name] = str(array.dtype), array.shape, array.tobytes()
    return out


def without_axis(episode):
    """`values_of` an episode that has an axis in front."""
    out = {"index": episode.index}
    for name, array in flat(episode):
        array = np.asarray(array)
        assert len(array) == 1
        out[name] = str(array.dtype), array.shape[1:], array.tobytes()
    return out


def sample(members):
    """What a program that has never heard of us makes of a sample: name -> array, and the plan."""
    plan = members["plan.json"]
    out = {"index": plan["index"]}
    for column, name in (("class_ids", "class_ids"), ("turns", "variants")):
        array = np.array(plan[column], np.int64)
        out[name] = "int64", array.shape, array.tobytes()
    fields = {name[:-4]: array for name, array in members.items() if name.endswith(".npy") and name != "labels.npy"}
    classes = {name: fields.pop(name) for name in sorted(fields) if name.startswith("class.")}
    out |= {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in classes.items()}
    pictures = sorted(name for name in members if name.endswith((".png", ".jpg")))
    for name in sorted({name.split(".")[1] for name in pictures}):
        fields[name] = np.stack([members[one] for one in pictures if one.split(".")[1] == name])
    rows = np.array(plan["rows"], np.int64)
    begin = 0
    for part in PARTS:
        end = begin + plan["parts"][part]
        if end > begin or part != "unlabeled":
            arrays = {"labels": members["labels.npy"], "rows": rows} | fields
            for name, array in arrays.items():
                some = array[begin:end]
                out[f"{part}.{name}"] = str(some.dtype), some.shape, some.tobytes()
        begin = end
    assert members["labels.npy"].tolist() == plan["labels"]
    return out


def decoded(name, data):
    if name.endswith(".npy"):
        return np.load(io.BytesIO(data))
    if name.endswith(".json"):
        return json.loads(data)
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def by_tarfile(file, mode="r"):
    """Samples of a tar, in the order of the file."""
    key, members = None, {}
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for member in archive:
            one, _, name = member.name.partition(".")
            if key is not None and one != key:
                yield sample(members)
                members = {}
            key, members[name] = one, decoded(name, archive.extractfile(member).read())
    yield sample(members)


def tars(shards):
    return [str(shards.path / shard.file) for shard in shards.manifest.shards]


def read_tarfile(shards):
    for path in tars(shards):
        with open(path, "rb") as file:  # noqa: PTH123
            yield from by_tarfile(file)


def pipeline(shards):
    """A pipeline of webdataset, whose names are in small letters."""
    return webdataset.WebDataset(tars(shards), shardshuffle=False, empty_check=False)


def from_webdataset(item):
    assert item["__key__"] == f"{json.loads(item['plan.json'])['index']:09d}"
    return sample({name: decoded(name, data) for name, data in item.items() if not name.startswith("__")})


def read_webdataset(shards):
    yield from map(from_webdataset, pipeline(shards))


def read_webdataset_decoded(shards):
    for item in pipeline(shards).decode("pil"):
        members = {name: value for name, value in item.items() if not name.startswith("__")}
        for name, value in members.items():
            if isinstance(value, Image.Image):  # in colour, whatever it was: the channels of a grey one are equal
                members[name] = np.asarray(value).transpose(2, 0, 1)[: shards.fields[name.split(".")[1]].shape[0]]
        yield sample(members)


def read_webdataset_loader(shards):
    yield from map(from_webdataset, DataLoader(pipeline(shards), batch_size=None, num_workers=0))


def read_episode_dataset(shards):
    yield from map(without_axis, DataLoader(EpisodeDataset(shards), batch_size=None))


def read_jax(shards):
    import jax

    from episodes.adapters.jax import to_jax

    with jax.enable_x64(True):
        yield from (without_axis(to_jax(shards[i])) for i in range(shards.length))


def read_tensorflow(shards):
    from episodes.adapters.tensorflow import to_tensorflow

    yield from (without_axis(to_tensorflow(shards[i])) for i in range(shards.length))


def read_numpy(shards):
    """Without the tar: each field is found by the index file beside it."""
    for shard in shards.manifest.shards:
        data = np.memmap(shards.path / shard.file, np.uint8, "r")
        index = np.load(shards.path / shard.index_file)
        for begin in index[1 : index[0] + 1].tolist():
            members, at = {}, begin
            while not members or "plan.json" not in members:
                name = bytes(data[at : at + 100]).rstrip(b"\0").decode().partition(".")[2]
                size = int(bytes(data[at + 124 : at + 135]), 8)
                members[name] = decoded(name, bytes(data[at + 512 : at + 512 + size]))
                at += 512 + -(-size // 512) * 512
            yield sample(members)


def read_blocks(shards):
    with episodes.Stream(shards, block=3, workers=1) as stream:
        yield from (values_of(episode) for block in stream for episode in block)


def read_by_index(shards):
    yield from (values_of(shards[i]) for i in range(shards.length))


def read_views(shards):
    if shards.manifest.payload == "arrays":
        yield from (values_of(shards.view(i)) for i in range(shards.length))
    else:
        yield from read_by_index(shards)


OURS = [read_by_index, read_views, read_blocks, read_episode_dataset, read_jax]
OURS += [read_tensorflow] if find_spec("tensorflow") else []
THEIRS = [read_tarfile, read_webdataset, read_webdataset_decoded, read_webdataset_loader, read_numpy]


def assert_all_read(one, shards):
    wanted = [values_of(one[i]) for i in range(shards.length)]
    for read in OURS if shards.manifest.payload == "rows" else OURS + THEIRS:
        assert list(read(shards)) == wanted, read.__name__


WORLD, FIELDS = memory_store([6, 7, 8, 9, 6, 7]), two_fields()


@st.composite
def cases(draw):
    """(series, count, payload, bytes of a shard)."""
    store = draw(st.sampled_from([WORLD, FIELDS]))
    payload = draw(st.sampled_from(["arrays", "images", "rows"]))
    ways = st.one_of(st.integers(1, 4), st.just("1..4"))
    table = {"ways": draw(ways), "shots": draw(counts(0, 2))}
    table["queries"] = draw(counts(payload == "images", 2))  # of no picture at all, only the plan could tell the size
    table["unlabeled"] = draw(counts(0, 1))
    if draw(st.booleans()):
        table |= {"distractors": draw(counts(0, 1)), "distractor_rows": draw(counts(0, 1))}
        table |= {"distractor_queries": draw(counts(0, 1))}
    changes = {"transforms": (LOOK,)} if payload == "arrays" and store is WORLD and draw(st.booleans()) else {}
    turned = draw(st.booleans()) and not (payload == "rows" and "distractors" in table) and store is WORLD
    seed = draw(st.integers(0, 2**64 - 1))
    try:
        one = series(episodes.EpisodeSpec(**table), store=store, seed=seed, rotations=turned, **changes)
    except EpisodesError:  # no such episodes
        assume(False)
    return one, draw(st.integers(1, 7)), payload, draw(st.sampled_from([1, 3_000, 1 << 20]))


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_every_reader_gives_is_the_series(data):
    one, count, payload, size = data.draw(cases())
    with tempfile.TemporaryDirectory() as folder:
        assert_all_read(one, compiled(one, Path(folder) / "s", count, payload=payload, shard_bytes=size))


@pytest.mark.parametrize("payload", ["arrays", "images", "rows"])
def test_every_reader_of_a_store_on_disk(payload, glyphs_store, tmp_path):
    one = episodes.sample(episodes.open(glyphs_store), "train", episodes.EpisodeSpec(ways=5, shots=1, queries=3))
    assert_all_read(one, compiled(one, tmp_path / "s", 9, payload=payload))


def test_keys_sort_as_episodes_do_and_names_hold_no_path(tmp_path):
    shards = compiled(series(), tmp_path / "s", 12, shard_bytes=3_000)
    names = [name for path in tars(shards) for name in tarfile.open(path).getnames()]  # noqa: SIM115
    keys = [name.partition(".")[0] for name in names]
    assert keys == sorted(keys)
    assert not any("/" in name for name in names)


@FORKS
@pytest.mark.parametrize("workers", [2])
def test_workers_of_a_loader_share_the_tars_or_the_episodes(workers, tmp_path):
    one = series()
    shards = compiled(one, tmp_path / "s", 12, shard_bytes=3_000)
    wanted = [values_of(one[i]) for i in range(12)]
    made = list(DataLoader(pipeline(shards), batch_size=None, num_workers=workers))
    assert sorted((from_webdataset(item) for item in made), key=lambda item: item["index"]) == wanted
    made = list(DataLoader(EpisodeDataset(shards), batch_size=None, num_workers=workers))
    assert [without_axis(item) for item in made] == wanted


@FORKS
@pytest.mark.slow
def test_shards_are_pickled_as_their_path(tmp_path):
    shards = compiled(series(), tmp_path / "s", 6)
    shards[0]
    loader = DataLoader(EpisodeDataset(shards), batch_size=None, num_workers=1, multiprocessing_context="spawn")
    for i, item in enumerate(loader):
        assert without_axis(item) == values_of(shards[i])


def test_a_pipe_is_read_while_it_is_written_and_closing_it_ends_the_writer():
    import os

    read_end, write_end = os.pipe()
    ended = []

    def write():
        with os.fdopen(write_end, "wb") as file:
            try:
                write_stream(series(), file)
            except BrokenPipeError:
                ended.append(True)
                os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(read_end, "rb") as file:
        samples = by_tarfile(file, "r|")
        for i in range(70):
            assert next(samples) == values_of(series()[i])
        samples.close()
    thread.join(600)
    assert ended == [True]


def test_views_go_to_torch_as_copies(tmp_path):
    one = series()
    shards = compiled(one, tmp_path / "s", 4)
    item = to_torch(shards.view(2))
    item.query.fields["image"][:] = 0
    assert_same(shards.view(2), one[2])
    assert isinstance(item.query.labels, torch.Tensor)
    assert compile_shards(one, tmp_path / "s", 4, shard_bytes=20_000, resume=True).count == 4
