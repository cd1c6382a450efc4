"""`episodes bench`: every way is measured, gives what it says, and ends what it began. No figure is judged here."""

import json
import subprocess
import sys
import threading
from contextlib import ExitStack
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from worlds import memory_store

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import stores

import episodes
from cli.main import main
from episodes.bench import Case, Settings, _cases, _loops, bench, measure, now, report
from episodes.errors import ConfigError

TINY = ("--rounds", "2", "--seconds", "0.002")
STREAMS = [f"stream, {kind}, {n}" for kind in ("one at a time", "blocks of 16") for n in ("0 workers", "1 worker")]
BOUNDS = [f"{name}, {n}" for n in ("1 episode", "16 episodes") for name in ("kernel", "np.take", "memcpy")]


def command(*args, code=0):
    result = CliRunner().invoke(main, ["bench", *(str(a) for a in args)])
    assert result.exit_code == code, result.output + result.stderr + repr(result.exception)
    return result


def tiny(**options):
    return Settings(rounds=2, seconds=0.002, **({"workers": (0,)} | options))


def series(**spec):
    return episodes.sample(memory_store([8, 9, 8, 7, 9, 8]), "train", episodes.EpisodeSpec(**spec))


def test_every_way_is_measured_and_compared(glyphs_store, tmp_path):
    torch = pytest.importorskip("torch")
    before = set(threading.enumerate())
    out = command(glyphs_store, *TINY, "--workers", "0,1", "--json", "-o", tmp_path / "b.png")
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("episodes")]
    assert active_children() == []
    result = json.loads(out.stdout)
    assert list(result["cases"]) == [*STREAMS, *BOUNDS, "NumPy loop", "DataLoader, 0 workers", "DataLoader, 1 worker"]
    for name, one in result["cases"].items():
        assert len(one["rounds"]) == 2
        assert one["images_per_s"] == pytest.approx(80 * one["episodes_per_s"])
        assert one["gb_per_s"] == pytest.approx(784e-9 * one["images_per_s"])
        wanted = {"kernel", "np.take", "memcpy", "NumPy", "DataLoader"}
        own = {title for title in wanted if name.startswith(title)}
        assert set(one["ratios"]) == wanted - own
    assert result["about"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert result["store"] == glyphs_store.name
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.width > 500


@pytest.mark.parametrize("consumer", ["python", "compute"])
def test_consumers_are_measured_alone_too(glyphs_store, consumer):
    pytest.importorskip("torch")
    text = command(glyphs_store, *TINY, "--workers", "0", "--consumer", consumer, "--clock", "cpu").stdout
    assert f"consumer: {consumer}" in text
    assert "consumer alone" in text
    assert "x consumer" in text
    assert "rates a second of processor time" in text


def test_any_store_and_spec_will_do():
    for one in (
        series(ways="2..4", shots="1..3 per class", queries=2, unlabeled=1, distractors=1),
        series(ways=2, shots=1, queries=2),
    ):
        result = bench(one, tiny())
        assert all(case["images_per_s"] > 0 for case in result["cases"].values())
    finite = episodes.sample(memory_store([4] * 4), "train", one.spec, sampler="combinations")
    assert finite.length == 6
    assert bench(finite, tiny())["cases"]["stream, blocks of 16, 0 workers"]["images_per_s"] > 0


def test_an_encoded_field_has_no_places_and_is_measured(tmp_path):
    pytest.importorskip("simplejpeg")
    folder = tmp_path / "raw"
    for c in range(3):
        (folder / f"c{c}").mkdir(parents=True)
        for i in range(6):
            values = np.random.Generator(np.random.Philox(10 * c + i)).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(values).save(folder / f"c{c}" / f"{i}.jpg", quality=95)
    flags = ["folder", str(folder), str(tmp_path / "e.store"), "--encoding", "jpeg", "--size", "16"]
    assert CliRunner().invoke(main, ["ingest", *flags]).exit_code == 0
    counts = ("--split", "all", "--ways", 2, "--queries", 2)
    result = json.loads(command(tmp_path / "e.store", *counts, *TINY, "--workers", "0", "--json").stdout)
    assert "kernel from an array, 1 episode" in result["cases"]


def test_the_loop_by_hand_draws_the_episodes_it_is_compared_with():
    one = series(ways=3, shots=1, queries=4)
    sizes = _loops.Sizes.of(one)
    assert sizes.same == (3, 1, 5)
    array, seen = np.arange(one.store.num_rows), []
    consume = lambda images, n: seen.append((images.tolist(), n))  # noqa: E731
    assert _loops.numpy_loop(array, one.classes, sizes, _loops.as_is, consume)(4) == 4 * 15
    assert [n for _, n in seen] == [1] * 4
    for drawn, _ in seen:
        owner = np.searchsorted(one.classes.starts, drawn, side="right") - 1
        assert len(set(drawn)) == 15
        assert len(set(owner[::5].tolist())) == 3
        assert owner.tolist() == np.repeat(owner[::5], 5).tolist()
    varying = series(ways="2..4", shots="1..3 per class", queries=2)
    sizes = _loops.Sizes.of(varying)
    assert sizes.same is None
    plans = [varying.plan(i) for i in range(20)]
    done = _loops.numpy_loop(array, varying.classes, sizes, _loops.as_is, None)(20)
    assert done == sum(len(plan.support) + len(plan.query) for plan in plans)


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("consumed", [False, True])
@pytest.mark.parametrize(
    "spec",
    [
        {"ways": 3, "shots": 1, "queries": 4},
        {"ways": "2..4", "shots": "1..3 per class", "queries": 2, "unlabeled": 1, "distractors": 1},
    ],
)
def test_a_stream_is_credited_with_the_rows_it_gave_and_consumed_once(spec, consumed, block):
    one, seen = series(**spec), []
    plans = [one.plan(i) for i in range(6 * (block or 1))]
    wanted = sum(len(plan.support) + len(plan.query) + len(plan.unlabeled) for plan in plans)
    consume = (lambda images, n: seen.append((len(images), n))) if consumed else None
    with ExitStack() as stack:
        assert _cases.stream_case(one, "image", block, 0, consume, stack).run(6) == wanted
    if consumed:
        assert sum(n for _, n in seen) == len(plans)
        assert sum(num for num, _ in seen) == wanted


def test_kernel_take_and_memcpy_give_the_rows_they_say():
    one = series(ways=3, shots=1, queries=4)
    drawn = [np.array([3, 1, 2]), np.array([7, 7])]
    store = one.store
    for case in _cases.kernel_cases(store, "image", store.read(np.arange(store.num_rows))["image"], "one", "x", drawn):
        assert case.run(2) == (6 if case.role == "memcpy" else 5)


def test_cases_run_in_turns_and_ratios_are_taken_within_a_round():
    order = []

    def case(name, role, rows):
        return Case(name=name, role=role, run=lambda calls: order.append(name) or calls * rows)

    cases = [case("a", "stream", 100), case("b", "kernel", 100), case("c", "loader", 1), case("d", "loader", 2)]
    measured = measure(cases, 3, 1e-5)
    assert order[-12:] in (list("abcdbcdacdab"), ["a", "b", "c", "d", "b", "c", "d", "a", "c", "d", "a", "b"])
    assert set(measured["a"].ratios) == {"kernel", "DataLoader"}
    assert set(measured["b"].ratios) == {"DataLoader"}
    best = [max(pair) for pair in zip(measured["c"].rounds, measured["d"].rounds, strict=True)]
    wanted = sorted(mine / other for mine, other in zip(measured["a"].rounds, best, strict=True))[1]
    assert measured["a"].ratios["DataLoader"] == wanted


def test_processor_time_counts_what_is_computed():
    begin = now("cpu")
    sum(range(2_000_000))
    assert now("cpu") > begin


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--rounds", 0), "rounds: expected 1 or more, got 0"),
        (("--seconds", 0), "seconds: expected more than 0, got 0.0"),
        (("--workers", "0,0"), "workers: expected different numbers of 0 or more, got [0, 0]"),
        (("--workers", "many"), "expected numbers with commas between them, got 'many'"),
        (("--memory-gb", 1e-6), "field 'image' into memory, which takes 0.0 GB, more than 1e-06 GB"),
        (("-o", "bench.txt"), "output: bench.txt must end with .png and not exist"),
        (("--shots", 30), "has 20 rows"),
    ],
)
def test_what_cannot_be_measured_is_refused(glyphs_store, flags, message):
    assert message in " ".join(command(glyphs_store, *flags, code=2).stderr.split())


def test_without_torch_the_rest_is_measured(monkeypatch):
    monkeypatch.setattr(_cases, "find_spec", lambda name: None)
    result = bench(series(ways=2, shots=1, queries=2), tiny())
    assert "torch is not installed" in result["notes"][-1]
    assert not [name for name in result["cases"] if name.startswith("DataLoader")]
    assert "NumPy loop" in result["cases"]
    assert "NumPy loop" in report.text(result)
    with pytest.raises(ConfigError, match="'compute' needs torch"):
        bench(series(ways=2, shots=1, queries=2), tiny(consumer="compute"))


def test_a_synthetic_store_is_a_whole_store(tmp_path):
    store = episodes.open(stores.write(tmp_path / "s.store", (3, 8, 8), 4, 6))
    store.verify()
    assert len(store.split("train")) == 4
    assert (store.read(np.arange(24))["image"] == stores.pixels((3, 8, 8), 24)).all()
    assert (stores.pixels((1, 2048, 2048), 17)[16] == stores.pixels((1, 2048, 2048), 1)[0]).all(), (
        "rows repeat beyond 64 MiB"
    )


def test_targets_are_met_or_not_by_what_was_measured(tmp_path):
    pytest.importorskip("torch")
    script, found = Path(stores.__file__).with_name("targets.py"), tmp_path / "t.json"
    flags = ["--quick", "--only", "ingest", "--only", "files", "--json", str(found), "-o", str(tmp_path / "t.png")]
    text = subprocess.run([sys.executable, str(script), *flags], capture_output=True, text=True, check=True).stdout
    result = json.loads(found.read_text())
    names = [one["name"] for one in result["targets"]]
    assert names == [
        "ingest, JPEG 64x64 to 84x84, to Pillow",
        "28x28, mapped HDF5 to a mapped raw file",
        "84x84x3, mapped HDF5 to a mapped raw file",
    ]
    for one in result["targets"]:
        assert one["met"] == (one["value"] >= one["target"])
        (line,) = [line for line in text.splitlines() if line.startswith(one["name"])]
        assert line.endswith("not met") != one["met"]
    assert result["about"]["quick"]
    with Image.open(tmp_path / "t.png") as picture:
        assert picture.width > 500
