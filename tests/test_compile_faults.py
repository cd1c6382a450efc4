"""Faults of a compile, each by doing it: kills, Ctrl-C, full and read-only disks, two writers, damaged folders."""

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import commands, ended, forked, make, tree
from worlds import TellingReader, memory_store

import episodes
from episodes.errors import ShardCorrupt, SpecError, StoreError
from episodes.ingest import ingest
from episodes.shards.compile import compile_shards, finish_shards

EPISODES = Path(sys.executable).with_name("episodes")
SPEC = episodes.EpisodeSpec(ways=3, shots=2, queries=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A set that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    make(folder / "s")
    assert len(tree(folder)) == 7
    return folder / "s"


def told(*command, **options):
    """What a process printed, as JSON."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# Kills.


@pytest.mark.slow
@pytest.mark.parametrize("over", [False, True], ids=["new", "replacing"])
def test_a_kill_at_any_step_loses_nothing_and_resume_makes_the_same_bytes(over, tmp_path):
    result = told(*commands("at_every_step", tmp_path, over))
    assert result["wrong"] == []
    assert result["steps"] > 40


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_thirty_kills_at_random_moments_change_no_byte(workers, tmp_path):
    result = told(*commands("at_random", tmp_path, 30, workers))
    assert result["wrong"] == []
    assert result["kills"] == 30


@pytest.fixture(scope="module")
def undisturbed(glyphs_store, tmp_path_factory):
    """What the command makes when nothing happens to it."""
    out = tmp_path_factory.mktemp("undisturbed") / "s"
    subprocess.run([EPISODES, *compiling(glyphs_store, out)], capture_output=True, check=True)
    assert len(tree(out)) == 2 * 67 + 1
    return tree(out)


def compiling(store, out):
    return ["compile", store, "-o", out, "--count", "1000", "--shard-mb", "1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signal_", "workers", "code"),
    [(signal.SIGINT, 1, 130), (signal.SIGINT, 2, 130), (signal.SIGKILL, 2, -9), (signal.SIGTERM, 1, -15)],
)
def test_a_command_that_is_interrupted_goes_on_with_resume(signal_, workers, code, glyphs_store, undisturbed, tmp_path):
    command = [EPISODES, *compiling(glyphs_store, tmp_path / "s")]
    process = subprocess.Popen([*command, "--workers", str(workers)], stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("s.partial/shard-*.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal_)
    _, message = process.communicate(timeout=600)
    assert process.returncode == code, message
    assert code < 0 or "go on where they were with --resume" in message
    assert [path.name for path in tmp_path.iterdir()] == ["s.partial"]
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "an unfinished compile is at" in again.stderr
    subprocess.run([*command, "--resume"], capture_output=True, check=True)
    assert tree(tmp_path) == {f"s/{name}": value for name, value in undisturbed.items()}


# Disks.

IN_A_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
needs_mounts = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(
        [*IN_A_NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    ).returncode
    != 0,
    reason="this system lets no user mount a file system of his own",
)


@needs_mounts
def test_a_disk_full_at_any_page_is_one_clear_error_and_resumable(tmp_path):
    result = told(*IN_A_NAMESPACE, *commands("full_disks", tmp_path))
    assert result["wrong"] == []
    assert result["pages"] > 15
    assert len(result["errors"]) == 10  # in each of three tars, indexes and notes, and in the manifest
    for error in result["errors"]:
        assert error.startswith("no space left on the disk of DISK/s.partial/")
        assert error.endswith("free some and go on with --resume")


@needs_mounts
def test_a_read_only_disk_is_refused_and_nothing_changes(tmp_path):
    result = told(*IN_A_NAMESPACE, *commands("read_only", tmp_path))
    assert all("Read-only file system" in error for error in result["errors"]), result["errors"]
    assert (len(result["errors"]), result["same"], result["end"], result["whole"]) == (4, True, "", True)


def test_a_limit_on_file_sizes_is_an_error_that_names_the_file(whole, tmp_path):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))
        with pytest.raises(StoreError, match=r"cannot write .*shard-00000\.tar: File too large"):
            make(tmp_path / "s")
        assert [path.name for path in sorted((tmp_path / "s.partial").iterdir())] == ["lock", "work.json"]

    assert ended(forked(limited)) == 0
    make(tmp_path / "s", resume=True)
    assert tree(tmp_path / "s") == tree(whole)


@pytest.mark.parametrize("there", ["file", "folder", "store", "link to nothing", "file as parent"])
def test_a_target_that_is_something_else_is_left_alone(there, tmp_path):
    out = tmp_path / "s"
    if there == "file":
        out.write_text("mine")
    elif there == "folder":
        out.mkdir()
        (out / "mine").touch()
    elif there == "store":
        ingest(TellingReader([3, 3]), out)
    elif there == "link to nothing":
        out.symlink_to(tmp_path / "none")
    else:
        (tmp_path / "file").touch()
        out = tmp_path / "file" / "s"
    before = tree(tmp_path) if there != "link to nothing" else sorted(tmp_path.iterdir())
    for options in ({}, {"overwrite": True}, {"resume": True}, {"only": [0]}):
        with pytest.raises(StoreError, match=r"exists; give --overwrite|is not replaced|cannot make .*Not a directory"):
            make(out, **options)
    assert before == (tree(tmp_path) if there != "link to nothing" else sorted(tmp_path.iterdir()))


def test_a_store_does_not_replace_shards(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "s")
    with pytest.raises(StoreError, match="exists and is not a store; it is not replaced"):
        ingest(TellingReader([3, 3]), tmp_path / "s", overwrite=True)
    assert tree(tmp_path / "s") == tree(whole)


def test_a_target_without_a_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out in (".", "/", ".."):
        with pytest.raises(StoreError, match="has no name that a set of episode shards could get"):
            make(Path(out), overwrite=True)


def test_what_only_looks_like_a_leftover_stays(tmp_path):
    for name in ("s.old", "s.tmp", "s.bak"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    make(tmp_path / "s")
    make(tmp_path / "s", overwrite=True)
    assert all((tmp_path / name / "mine").exists() for name in ("s.old", "s.tmp", "s.bak"))


# Two writers.


@pytest.fixture
def writer(tmp_path):
    """Begins a compile at ``s`` in another process, which waits; called again, it lets that go on to its end."""
    started: list[subprocess.Popen[str]] = []

    def act(**options):
        if not started:
            process = subprocess.Popen(
                commands("hold", tmp_path / "s", options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            started.append(process)
            assert process.stdout.readline() == "begun\n"
            return None
        started[0].communicate("\n" * 100, timeout=600)
        return started[0].returncode

    yield act
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.mark.parametrize(
    "options", [{"resume": True}, {"overwrite": True}, {"overwrite": True, "resume": True}, {"only": [2]}]
)
def test_a_second_writer_is_refused_and_the_first_is_not_disturbed(options, writer, whole, tmp_path):
    writer()
    with pytest.raises(StoreError, match=r"another process is writing to .*s\.partial; wait for it, or stop it"):
        make(tmp_path / "s", **options)
    with pytest.raises(StoreError, match="an unfinished compile is at"):
        make(tmp_path / "s")
    assert writer() == 0
    assert tree(tmp_path) == {f"s/{name}": value for name, value in tree(whole).items()}


def test_makers_of_single_shards_work_together_and_none_finishes_or_empties_the_folder_meanwhile(writer, whole, tmp_path):
    writer(only=[0])
    make(tmp_path / "s", only=[1, 2])
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(StoreError, match="another process is writing"):
            make(tmp_path / "s", **options)
    with pytest.raises(SpecError, match="which none of them may empty"):
        make(tmp_path / "s", only=[1], overwrite=True)
    assert writer() == 0
    make(tmp_path / "s", resume=True)
    assert tree(tmp_path / "s") == tree(whole)


def test_two_makers_of_one_shard_at_a_time_leave_one_whole_shard(writer, whole, tmp_path):
    writer(only=[0])
    make(tmp_path / "s", only=[0])
    assert writer() == 0
    make(tmp_path / "s", resume=True)
    assert tree(tmp_path / "s") == tree(whole)


def test_a_writer_that_finishes_between_look_and_lock_is_noticed(whole, tmp_path, monkeypatch):
    """The second writer has opened the lock when the first renames the folder and lets go."""
    partial = tmp_path / "s.partial"
    shutil.copytree(whole, partial)
    plain = fcntl.flock

    def flock(file, operation):
        partial.rename(tmp_path / "s")
        plain(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StoreError, match="another process has just finished"):
        make(tmp_path / "s", resume=True)
    assert tree(tmp_path / "s").items() >= tree(whole).items()


def test_a_set_finished_between_look_and_lock_is_not_replaced(whole, tmp_path, monkeypatch):
    plain = fcntl.flock

    def flock(file, operation):
        plain(file, operation)
        shutil.copytree(whole, tmp_path / "s")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StoreError, match="exists; give --overwrite"):
        make(tmp_path / "s", seed=1)
    assert tree(tmp_path / "s") == tree(whole)


# A half-done compile.


@pytest.fixture
def half(tmp_path):
    """Shards 0 and 1 of a set are made, 2 is not."""
    make(tmp_path / "s", only=[0, 1])
    return tmp_path / "s.partial"


def cut(name, size):
    def act(folder):
        os.truncate(folder / name, size)

    return act


def flipped(name, place):
    def act(folder):
        data = bytearray((folder / name).read_bytes())
        data[place] ^= 1
        (folder / name).write_bytes(data)

    return act


def altered(**changes):
    def act(folder):
        note = folder / "shard-00000.json"
        note.write_text(json.dumps(json.loads(note.read_text()) | changes))

    return act


DAMAGE = {
    "tar cut": cut("shard-00000.tar", 700),
    "tar empty": cut("shard-00001.tar", 0),
    "tar changed": flipped("shard-00000.tar", 5000),
    "tar missing": lambda folder: (folder / "shard-00000.tar").unlink(),
    "index cut": cut("shard-00000.index.npy", 100),
    "index changed": flipped("shard-00001.index.npy", 300),
    "index missing": lambda folder: (folder / "shard-00001.index.npy").unlink(),
    "note cut": cut("shard-00000.json", 30),
    "note empty": cut("shard-00000.json", 0),
    "note changed": flipped("shard-00000.json", 0),
    "note is a list": lambda folder: (folder / "shard-00000.json").write_text("[]"),
    "note lacks a key": lambda folder: (folder / "shard-00000.json").write_text('{"file":"shard-00000.tar"}'),
    "note of another shard": lambda folder: shutil.copy(folder / "shard-00001.json", folder / "shard-00000.json"),
    "note says another first": altered(first=1),
    "note says other episodes": altered(episodes=3),
    "note says another size": altered(size=3),
    "left over": lambda folder: (folder / "shard-00002.tar.0123.tmp").write_bytes(b"half"),
    "manifest too early": lambda folder: (folder / "manifest.json").write_text("{}"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_in_a_half_done_compile_is_made_again(damage, half, whole, tmp_path):
    DAMAGE[damage](half)
    make(tmp_path / "s", resume=True)
    assert tree(tmp_path) == {f"s/{name}": value for name, value in tree(whole).items()}


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name not in ("left over", "manifest too early")])
def test_finish_refuses_a_shard_that_is_not_whole(damage, half, tmp_path):
    make(tmp_path / "s", only=[2])
    DAMAGE[damage](half)
    one = episodes.sample(memory_store([6, 7, 8, 9, 6, 7]), "train", SPEC)
    number = int(damage in ("tar empty", "index changed", "index missing"))
    with pytest.raises(StoreError, match=rf"shard {number} of 3 is not made yet \(make it with --shards {number}\)"):
        finish_shards(one, tmp_path / "s", 20, shard_bytes=20_000)
    make(tmp_path / "s", only=[number])
    finish_shards(one, tmp_path / "s", 20, shard_bytes=20_000)


@pytest.mark.parametrize("options", [{"seed": 1}, {"count": 19}, {"shard_bytes": 15_000}, {"payload": "images"}])
def test_an_unfinished_compile_of_other_episodes_is_not_gone_on_with(options, half, tmp_path):
    before = tree(half)
    for more in ({"resume": True}, {"only": [0]}):
        with pytest.raises(StoreError, match="was begun from another source or with other options; start over with --over"):
            make(tmp_path / "s", **options, **more)
    assert tree(half) == before
    make(tmp_path / "s", **options, overwrite=True)
    make(tmp_path / "alone", **options)
    assert tree(tmp_path / "s") == tree(tmp_path / "alone")


def test_a_store_changed_under_a_half_done_compile_is_refused(tmp_path):
    store, out, settings = tmp_path / "w.store", tmp_path / "s", {"shard_bytes": 9_000}
    ingest(TellingReader([6] * 8), store)
    opened = episodes.sample(episodes.open(store), "train", SPEC)
    compile_shards(opened, out, 20, only=[0], **settings)
    ingest(TellingReader([7] * 8), store, overwrite=True)
    changed = episodes.sample(episodes.open(store), "train", SPEC)
    with pytest.raises(StoreError, match="was begun from another source"):
        compile_shards(changed, out, 20, resume=True, **settings)
    with pytest.raises(StoreError, match="was begun from another source"):
        finish_shards(changed, out, 20, **settings)
    compile_shards(opened, out, 20, resume=True, **settings)  # the store that was open still is what it was
    with pytest.raises(StoreError, match="was compiled from other episodes; give --overwrite to replace it"):
        compile_shards(changed, out, 20, resume=True, **settings)


def test_resume_of_a_finished_set_does_nothing_but_tidy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "s")
    for name in ("work.json", "lock", "shard-00001.json"):
        (tmp_path / "s" / name).write_bytes(b"{}")
    (tmp_path / ".s.replaced").mkdir()
    make(tmp_path / "s", resume=True)
    assert tree(tmp_path / "s") == tree(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_resume_of_a_finished_set_with_a_damaged_manifest_says_so(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "s")
    flipped("manifest.json", 40)(tmp_path / "s")
    with pytest.raises(ShardCorrupt, match=r"manifest\.json"):
        make(tmp_path / "s", resume=True)
    make(tmp_path / "s", overwrite=True)
    assert tree(tmp_path / "s") == tree(whole)


def test_a_replacement_that_was_interrupted_is_gone_on_with(whole, half, tmp_path):
    make(tmp_path / "t", seed=1)
    (tmp_path / "t").rename(tmp_path / "s")
    inode = (half / "shard-00001.tar").stat().st_ino
    make(tmp_path / "s", overwrite=True, resume=True)
    assert tree(tmp_path) == {f"s/{name}": value for name, value in tree(whole).items()}
    assert (tmp_path / "s" / "shard-00001.tar").stat().st_ino == inode
