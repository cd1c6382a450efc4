"""Engines: the same bytes on threads, on a real Ray cluster of two nodes and on Dask, whoever is killed in the middle."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from worlds import TellingReader

import episodes
from cli.main import main
from episodes import plugins
from episodes.engines import ctrl_c_waits, local, run_apart
from episodes.errors import ConfigError, PluginNotFound, ReaderError, StoreError
from episodes.ingest import ingest
from episodes.ingest._apart import Recipe
from episodes.partial import ATTEMPT, Making
from episodes.shards.compile import compile_shards, finish_shards
from episodes.store.manifest import Skipped

TESTS = Path(__file__).parent
COUNTS = [5, 9, 7, 6, 8]
SMALL = 200  # bytes a shard of a store: a few rows
SHARD = 1 << 18  # bytes of episode shards: 4 episodes or so
EPISODES = 120


def bytes_of(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture
def series(glyphs_store):
    return episodes.sample(episodes.open(glyphs_store), "all", episodes.EpisodeSpec(ways=5, shots=1, queries=15), seed=3)


@pytest.fixture
def whole(series, tmp_path) -> dict[str, str]:
    """Hashes of the set as one thread makes it."""
    compile_shards(series, tmp_path / "whole", EPISODES, shard_bytes=SHARD)
    return bytes_of(tmp_path / "whole")


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of two nodes, whose workers find the modules of the tests."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        made.add_node(num_cpus=2)
        yield made
        made.shutdown()


@pytest.fixture
def ray_run(cluster):
    from episodes.engines import ray

    return partial(ray.run, address=cluster.address)


def slowly(task, folder, item, tick):
    """`task`, at rest for a while in the middle of a shard."""

    def told(amount):
        time.sleep(0.3)
        tick(amount)

    task(folder, item, told)


def slowed(run):
    return lambda task, *args, **options: run(partial(slowly, task), *args, **options)


def attempts(partial_folder: Path) -> dict[Path, int]:
    """Folders of attempts -> the process that makes or made each."""
    return {path: int(path.name.split("-")[-2]) for path in partial_folder.glob(f"{ATTEMPT}*")}


class Killer(threading.Thread):
    """Kills the process of an attempt, in the middle of a shard; `then` comes after that."""

    def __init__(self, partial_folder: Path, then=lambda: None) -> None:
        super().__init__(daemon=True)
        self.folder, self.then, self.killed = partial_folder, then, None

    def run(self) -> None:
        while self.killed is None:
            time.sleep(0.01)
            for path, process in attempts(self.folder).items():
                if any(path.glob("*")):
                    os.kill(process, signal.SIGKILL)
                    if path.exists():  # and has not ended just before
                        self.killed = path
                        break
        time.sleep(0.3)
        self.left = self.killed.exists()  # what a process that lives on would have removed
        self.then()


def test_engines_are_found_by_their_names():
    assert {"local", "ray", "dask"} <= set(plugins.names(plugins.ENGINES))
    with pytest.raises(PluginNotFound, match="unknown engine 'rya'; did you mean 'ray'"):
        plugins.find(plugins.ENGINES, "rya")


@pytest.mark.slow
def test_a_ray_cluster_that_loses_a_worker_and_a_node_makes_the_same_set(cluster, ray_run, series, whole, tmp_path):
    node = cluster.add_node(num_cpus=2)
    killer = Killer(tmp_path / "a.partial", then=lambda: cluster.remove_node(node, allow_graceful=False))
    killer.start()
    seen = []
    compile_shards(
        series, tmp_path / "a", EPISODES, shard_bytes=SHARD, engine=slowed(ray_run), progress=lambda *now: seen.append(now)
    )
    killer.join()
    assert killer.left
    assert bytes_of(tmp_path / "a") == whole
    assert seen[-1] == (EPISODES, EPISODES)
    assert len(seen) == len(episodes.open_shards(tmp_path / "a").manifest.shards)


SCRIPT = """
import sys
from functools import partial
from pathlib import Path
import episodes, test_engines as t
from episodes.engines import local
from episodes.shards.compile import compile_shards
series = episodes.sample(episodes.open(sys.argv[1]), "all", episodes.EpisodeSpec(ways=5, shots=1, queries=15), seed=3)
{}
"""


def process(glyphs_store: Path, out: Path, statements: str, own_group: bool = False) -> subprocess.Popen[str]:
    """A process that has the series and then does `statements`."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(statements), glyphs_store, out],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "RAY_ADDRESS": "local"},
        start_new_session=own_group,
        stderr=subprocess.PIPE if own_group else None,
        text=True,
    )


@pytest.mark.slow
def test_a_killed_driver_is_gone_on_with(cluster, ray_run, series, whole, glyphs_store, tmp_path):
    out, folder = tmp_path / "a", tmp_path / "a.partial"
    driver = process(
        glyphs_store,
        out,
        f"from episodes.engines import ray; run = t.slowed(partial(ray.run, address={cluster.address!r}));"
        "compile_shards(series, Path(sys.argv[2]), t.EPISODES, shard_bytes=t.SHARD, engine=run)",
    )
    while len(list(folder.glob("shard-*.json"))) < 3:
        assert driver.poll() is None
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.json")}
    assert len(kept) < EPISODES // 4
    with pytest.raises(StoreError, match="--resume"):
        compile_shards(series, out, EPISODES, shard_bytes=SHARD, engine=ray_run)
    made = []
    compile_shards(
        series, out, EPISODES, shard_bytes=SHARD, engine=ray_run, resume=True, progress=lambda *now: made.append(now)
    )
    assert len(made) <= len(episodes.open_shards(out).manifest.shards) - len(kept)
    assert bytes_of(out) == whole


@pytest.mark.slow
def test_ray_ingests_the_same_bytes_and_names_what_is_broken(ray_run, tmp_path):
    ingest(TellingReader(COUNTS), tmp_path / "whole", shard_bytes=SMALL)
    broken = TellingReader(COUNTS, broken=((1, 3),))
    with pytest.raises(ReaderError, match=r"^cannot decode image class01/003"):
        ingest(broken, tmp_path / "a", shard_bytes=SMALL, engine=ray_run, workers=2)
    assert not (tmp_path / "a").exists()
    ingest(TellingReader(COUNTS), tmp_path / "a", shard_bytes=SMALL, engine=ray_run, resume=True)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "whole")


def interrupted(done: int, total: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_the_command_runs_on_a_cluster(cluster, tmp_path):
    common = ("ingest", "glyphs", "--alphabets", 3, "--shard-mb", 1)
    assert cli(*common, tmp_path / "whole").exit_code == 0
    result = cli(*common, tmp_path / "a", "--engine", "ray", "--address", cluster.address)
    assert result.exit_code == 0, result.output
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "whole")


def until(claim) -> None:
    """Wait for what other processes do soon."""
    for _ in range(6000):
        if claim():
            return
        time.sleep(0.05)
    raise AssertionError("not within five minutes")


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_an_interrupted_ray_compile_ends_and_is_gone_on_with_by_threads(ray_run, series, whole, tmp_path, monkeypatch):
    import ray

    makers = set()

    def interrupted_later(done: int, total: int) -> None:
        makers.update(attempts(tmp_path / "a.partial").values())
        raise KeyboardInterrupt

    monkeypatch.setattr(ray, "cancel", None)  # it ends this process when a result is just arriving
    with pytest.raises(KeyboardInterrupt):
        compile_shards(
            series, tmp_path / "a", EPISODES, shard_bytes=SHARD, engine=slowed(ray_run), progress=interrupted_later
        )
    assert not ray.is_initialized()
    assert len(makers) > 1
    until(lambda: not any(map(alive, makers - {os.getpid()})))
    compile_shards(series, tmp_path / "a", EPISODES, shard_bytes=SHARD, workers=2, resume=True)
    assert bytes_of(tmp_path / "a") == whole


@pytest.mark.slow
def test_a_connection_that_is_not_ours_stays_and_the_attempts_end_themselves(cluster, series, whole, tmp_path):
    import ray

    from episodes.engines.ray import run

    with ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR"):
        with pytest.raises(KeyboardInterrupt):
            compile_shards(series, tmp_path / "a", EPISODES, shard_bytes=SHARD, engine=slowed(run), progress=interrupted)
        assert ray.is_initialized()
        until(lambda: not attempts(tmp_path / "a.partial"))
        assert not (tmp_path / "a").exists()
        compile_shards(series, tmp_path / "a", EPISODES, shard_bytes=SHARD, engine=run, resume=True)
    assert bytes_of(tmp_path / "a") == whole


def of_session(leader: int) -> list[int]:
    """Processes of a session, on systems that tell; those that have ended and wait for their parent are none."""
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        try:
            status = (one / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if status[0] != "Z" and int(status[3]) == leader:
            found.append(int(one.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["beginning", "running"])
@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_ctrl_c_reaches_all_processes_and_ends_with_one_error(glyphs_store, series, whole, tmp_path, engine, moment):
    pytest.importorskip({"ray": "ray", "dask": "distributed"}[engine])
    started = process(
        glyphs_store,
        tmp_path / "a",
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        f"from episodes.engines import {engine} as e;"
        "compile_shards(series, Path(sys.argv[2]), t.EPISODES, shard_bytes=t.SHARD, engine=t.slowed(e.run), workers=2)",
        own_group=True,
    )
    if moment == "beginning":
        until(lambda: len(of_session(started.pid)) > 2)  # the cluster is being started
    else:
        until(lambda: any((tmp_path / "a.partial").glob("shard-*.json")))
    assert started.poll() is None
    os.killpg(started.pid, signal.SIGINT)  # as a terminal does
    _, said = started.communicate(timeout=600)
    assert (started.returncode, said.count("Traceback"), said.splitlines()[-1]) == (-signal.SIGINT, 1, "KeyboardInterrupt")
    until(lambda: not of_session(started.pid))
    compile_shards(series, tmp_path / "a", EPISODES, shard_bytes=SHARD, resume=True)
    assert bytes_of(tmp_path / "a") == whole


def test_ctrl_c_waits_whichever_thread_gets_it_and_spares_children():
    ended, told = threading.Event(), []
    blocked = [sys.executable, "-c", "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"]

    def interrupted_while_it_waits() -> None:
        with ctrl_c_waits():
            os.kill(os.getpid(), signal.SIGINT)
            told.append(subprocess.run(blocked, capture_output=True, text=True, check=True).stdout)

    other = threading.Thread(target=ended.wait)  # begun before, it takes the signals that this thread blocks
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted_while_it_waits()
    finally:
        ended.set()
        other.join()
    assert told == ["True\n"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_ctrl_c_that_waited_comes_before_an_error():
    def failing_and_interrupted() -> None:
        with ctrl_c_waits():
            os.kill(os.getpid(), signal.SIGINT)
            raise StoreError("no")

    with pytest.raises(KeyboardInterrupt):
        failing_and_interrupted()


@pytest.mark.slow
def test_dask_makes_the_same_set_and_store_when_a_worker_is_killed(series, whole, tmp_path):
    pytest.importorskip("distributed")
    from distributed import LocalCluster

    from episodes.engines import dask

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as made:
        run = partial(dask.run, address=made.scheduler_address)
        killer = Killer(tmp_path / "a.partial")
        killer.start()
        compile_shards(series, tmp_path / "a", EPISODES, shard_bytes=SHARD, engine=slowed(run))
        killer.join()
        assert killer.left
        ingest(TellingReader(COUNTS), tmp_path / "b", shard_bytes=SMALL, engine=run, workers=1)
        with pytest.raises(ReaderError, match="^cannot decode image class01/003"):
            ingest(TellingReader(COUNTS, broken=((1, 3),)), tmp_path / "c", shard_bytes=SMALL, engine=run)
    assert bytes_of(tmp_path / "a") == whole
    ingest(TellingReader(COUNTS), tmp_path / "whole-store", shard_bytes=SMALL)
    assert bytes_of(tmp_path / "b") == bytes_of(tmp_path / "whole-store")


@pytest.mark.slow
def test_parts_made_at_once_by_processes_are_joined(glyphs_store, series, whole, tmp_path):
    num = sum(name.endswith(".tar") for name in whole)
    parts = [
        range(num // 2, num),
        range(num // 2),
        range(3),
    ]  # the last makes again, at the same time, what the second makes
    made = "compile_shards(series, Path(sys.argv[2]), t.EPISODES, shard_bytes=t.SHARD, only={}, engine=t.slowed(local.run))"
    processes = [process(glyphs_store, tmp_path / "a", made.format(part)) for part in parts]
    assert [one.wait() for one in processes] == [0, 0, 0]
    assert not (tmp_path / "a").exists()
    finish_shards(series, tmp_path / "a", EPISODES, shard_bytes=SHARD)
    assert bytes_of(tmp_path / "a") == whole


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_the_command_makes_parts_and_joins_them(glyphs_store, tmp_path):
    common = ("compile", glyphs_store, "--split", "all", "--count", 60, "--shard-mb", 1)
    assert cli(*common, "-o", tmp_path / "whole").exit_code == 0
    for part in ("2/3", "0/3", "1", "1/3"):
        result = cli(*common, "-o", tmp_path / "a", "--shards", part)
        assert (result.exit_code, f"shards {part} made; join all of them with --finish" in result.output) == (0, True)
    assert cli(*common, "-o", tmp_path / "a", "--finish").exit_code == 0
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "whole")


def test_a_missing_part_is_named_and_parts_may_come_in_any_order(series, whole, tmp_path):
    out = tmp_path / "a"
    numbers = range(sum(name.endswith(".tar") for name in whole))
    for number in reversed(numbers[1:]):
        assert compile_shards(series, out, EPISODES, shard_bytes=SHARD, only=[number]) is None
    with pytest.raises(StoreError, match="shard 0 of .* --shards 0"):
        finish_shards(series, out, EPISODES, shard_bytes=SHARD)
    compile_shards(series, out, EPISODES, shard_bytes=SHARD, only=[0, 1])
    finish_shards(series, out, EPISODES, shard_bytes=SHARD)
    assert bytes_of(out) == whole


@pytest.mark.parametrize("shard_bytes", [1, SMALL, 333, 1 << 20])
@pytest.mark.parametrize("workers", [1, 3])
def test_an_ingest_made_apart_has_the_bytes_of_one_made_in_turn(tmp_path, shard_bytes, workers):
    ingest(TellingReader(COUNTS), tmp_path / "whole", shard_bytes=shard_bytes)
    seen = []
    ingest(
        TellingReader(COUNTS), tmp_path / "a", shard_bytes=shard_bytes, engine=local.run, workers=workers,
        progress=lambda *now: seen.append(now),
    )  # fmt: skip
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "whole")
    assert seen[-1] == (sum(COUNTS), sum(COUNTS))


@pytest.mark.parametrize("engine", [local.run, None])
def test_only_missing_and_damaged_shards_are_made_again(tmp_path, engine):
    ingest(TellingReader(COUNTS), tmp_path / "whole", shard_bytes=SMALL)
    with pytest.raises(ReaderError, match="class04"):
        ingest(TellingReader(COUNTS, broken=((4, 2),)), tmp_path / "a", shard_bytes=SMALL, engine=local.run)
    made = {path.name for path in (tmp_path / "a.partial").glob("*.h5")}
    assert len(made) > 3
    (tmp_path / "a.partial" / "shard-00001.h5").write_bytes(b"cut")
    (tmp_path / "a.partial" / "shard-00002.json").unlink()
    seen = []
    ingest(
        TellingReader(COUNTS), tmp_path / "a", shard_bytes=SMALL, engine=engine, resume=True,
        progress=lambda *now: seen.append(now),
    )  # fmt: skip
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "whole")
    rows = episodes.open(tmp_path / "a").manifest.rows_per_shard
    if engine is not None:  # in turn, all after a damaged one are made again
        assert seen[0][0] == rows * (len(made) - 2) + rows


def test_skipping_goes_in_turn_and_says_so(tmp_path):
    broken = ((1, 3), (2, 2))
    ingest(TellingReader(COUNTS, broken), tmp_path / "whole", shard_bytes=SMALL, skip_broken=True)
    with pytest.warns(UserWarning, match="skip_broken: shards are made one after the other"):
        made = ingest(TellingReader(COUNTS, broken), tmp_path / "a", shard_bytes=SMALL, skip_broken=True, engine=local.run)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "whole")
    assert all(isinstance(one, Skipped) for one in made.skipped)
    assert len(made.skipped) == 2


class Unpicklable(TellingReader):
    def __init__(self) -> None:
        super().__init__(COUNTS)
        self.lock = threading.Lock()


def test_a_reader_that_cannot_travel_is_named(tmp_path):
    with pytest.raises(ReaderError, match="reader 'telling' cannot be sent to other processes"):
        ingest(Unpicklable(), tmp_path / "a", engine=local.run)


def test_a_process_that_finds_another_source_is_refused():
    recipe = Recipe(reader=TellingReader(COUNTS), options=None, is_a=(), encodings={}, shard_bytes=SMALL, source="other")
    with pytest.raises(StoreError, match="finds another source"):
        recipe.work()


def test_paths_of_a_reader_are_absolute_where_it_travels(tmp_path, monkeypatch):
    import pickle

    from episodes.readers import folder

    monkeypatch.chdir(tmp_path)
    reader = folder.make(Path("pictures"), folder.Options(groups=Path("groups.csv")))
    recipe = Recipe(reader=reader, options=None, is_a=(), encodings={}, shard_bytes=SMALL, source="")
    sent = pickle.loads(recipe.to_bytes()).reader
    assert sent.source == tmp_path / "pictures"
    assert sent.options.groups == tmp_path / "groups.csv"


def part(folder: Path, item: int, tick) -> None:
    """Writes a file, then the note that it is whole."""
    (folder / f"{item}.json").write_text("whole")
    (folder / f"{item}.a").write_text("a" * item)
    tick(item)
    tick(1)


def test_an_attempt_leaves_its_part_and_nothing_else(tmp_path):
    assert run_apart(part, tmp_path, 3) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3.a", "3.json"]
    assert run_apart(part, tmp_path, 3) == 4


def failing(folder: Path, item: int, tick) -> None:
    part(folder, item, tick)
    raise StoreError("no")


def test_an_attempt_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(StoreError, match="no"):
        run_apart(failing, tmp_path, 3)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreError, match=r"machine .* does not see .*; use a folder that all machines share"):
        run_apart(part, tmp_path / "elsewhere", 3)


def test_the_note_comes_last(tmp_path):
    (tmp_path / "3.json").mkdir()  # in its way
    with pytest.raises(OSError, match="3.json"):
        run_apart(part, tmp_path, 3)
    assert (tmp_path / "3.a").exists()


@pytest.mark.parametrize("overwrite", [True, False])
def test_an_attempt_that_was_taken_for_dead_puts_nothing_in_place(tmp_path, overwrite):
    def making(work: bytes) -> Making:
        return Making(tmp_path / "out", "manifest.json", work, "compile", "set of episode shards")

    def outlived(folder: Path, item: int, tick) -> None:
        part(folder, item, tick)
        with making(b"new" if overwrite else b"old").open(overwrite=overwrite, resume=not overwrite):
            pass

    with making(b"old").open(overwrite=False, resume=False) as folder:
        pass
    with pytest.raises(FileNotFoundError):
        run_apart(outlived, folder, 3)
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "work.json"]


def test_what_dead_attempts_left_is_not_published(tmp_path, series, whole):
    compile_shards(series, tmp_path / "a", EPISODES, shard_bytes=SHARD, only=[0])
    (tmp_path / "a.partial" / f"{ATTEMPT}00001-host-1-x").mkdir()
    compile_shards(series, tmp_path / "a", EPISODES, shard_bytes=SHARD, resume=True)
    assert bytes_of(tmp_path / "a") == whole


@pytest.mark.parametrize(("name", "module"), [("ray", "ray"), ("dask", "distributed")])
def test_an_engine_that_is_not_installed_says_how_to_install_it(monkeypatch, tmp_path, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    run = plugins.find(plugins.ENGINES, name).run
    with pytest.raises(ConfigError, match=rf"{name} is not installed; pip install 'episodes\[{name}\]'"):
        run(part, tmp_path, [1], workers=1, tick=print)


def test_an_address_where_no_cluster_is_gets_refused(tmp_path):
    pytest.importorskip("ray")
    from episodes.engines import ray

    with pytest.raises(ConfigError, match="no Ray cluster at '127.0.0.1:1'"):
        ray.run(part, tmp_path, [1], workers=1, tick=print, address="127.0.0.1:1")
    with pytest.raises(ConfigError, match="engine local runs on this machine only, got auto"):
        local.run(part, tmp_path, [1], workers=1, tick=print, address="auto")


def test_no_scheduler_of_dask_is_refused(tmp_path):
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    from episodes.engines.dask import run

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "300ms"}),
        pytest.raises(ConfigError, match="no Dask scheduler at tcp://127.0.0.1:1"),
    ):
        run(part, tmp_path, [1], workers=1, tick=print, address="tcp://127.0.0.1:1")
    with pytest.raises(ConfigError, match="no Dask scheduler at gone.json"):
        run(part, tmp_path, [1], workers=1, tick=print, address="gone.json")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--engine", "rya"], "unknown engine 'rya'"),
        (["--address", "auto"], "address: auto is of a cluster; name its engine"),
        (["--shards", "4/4"], "the parts of 4 are 0..3"),
        (["--shards", "1/x"], "expected numbers as 3..7 or 3, or a part as 0/8"),
    ],
)
def test_wrong_options_are_one_line(glyphs_store, tmp_path, options, words):
    result = cli("compile", glyphs_store, "-o", tmp_path / "a", *options)
    assert result.exit_code == 2
    assert words in result.output
    assert list(tmp_path.iterdir()) == []
