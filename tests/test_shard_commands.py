"""compile, stream and verify: help, what is refused of each option, and what a pipe or a disk behind a stream may do."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from test_cli import refused, run

import episodes

EPISODES = Path(sys.executable).with_name("episodes")
SMALL = ("--ways", "3", "--shots", "1", "--queries", "1")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("compile", ("--payload", "--shard-mb", "--workers", "--shards", "--finish", "--resume", "--overwrite")),
        ("stream", ("--start", "--count", "--payload", "--workers", "without end")),
        ("verify", ("--store", "--repair", "--json", "Exit code")),
    ],
)
def test_help_names_every_option(command, words):
    text = run(command, "--help").stdout
    assert all(word in text for word in words)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--count", "0"), "Invalid value for '--count'"),
        (("--count", "many"), "Invalid value for '--count'"),
        (("--payload", "pixels"), "Invalid value for '--payload'"),
        (("--shard-mb", "0"), "Invalid value for '--shard-mb'"),
        (("--workers", "0"), "Invalid value for '--workers'"),
        (("--split", "none"), "unknown split"),
        (("--ways", "9999"), "ways"),
        (("--ways", "0"), "ways"),
        (("--seed", "-1"), "seed"),
        (("--sampler", "nobody"), "nobody"),
        (("-O", "nothing=1"), "options.nothing: unknown key"),
        (("-T", "turn=1"), "transform.turn: unknown key"),
        (("--episode", "absent.toml"), "cannot read recipe absent.toml"),
        (("--sampler", "combinations", "--count", "65781", "--split", "val"), "at most 65780"),
        (("--payload", "images", "-T", "flip=true"), "payload=images holds what is stored"),
        (("--payload", "rows", "-T", "flip=true"), "payload=rows holds what is stored"),
        (("--shards", "x"), "expected numbers as 3..7 or 3"),
        (("--shards", "4..9", "--count", "10"), "shard 4 is not in 0..0"),
        (("--shards", "0", "--finish"), "leave --shards out"),
        (("--shards", "0", "--overwrite"), "which none of them may empty"),
        (("--finish",), "no unfinished compile at"),
    ],
)
def test_compile_refuses_in_one_line_and_writes_nothing(flags, words, glyphs_store, tmp_path):
    assert words in refused("compile", glyphs_store, "-o", tmp_path / "s", *flags)
    assert list(tmp_path.iterdir()) == []


def test_compile_needs_a_target_and_a_store(glyphs_store, tmp_path):
    assert "Missing option" in refused("compile", glyphs_store)
    assert "no store at" in refused("compile", tmp_path / "none", "-o", tmp_path / "s")
    assert "is not replaced" in refused("compile", glyphs_store, "-o", glyphs_store, "--overwrite")
    assert episodes.open(glyphs_store).num_rows > 0


def test_the_recipe_of_a_set_makes_its_episodes_again(glyphs_store, tmp_path):
    flags = ("--ways", "2..4", "--sampler", "hierarchical", "--rotations", "--seed", 7, "-T", "flip=true", "-T", "rotate=5")
    run("compile", glyphs_store, "-o", tmp_path / "s", "--count", 5, *flags)
    about = episodes.open_shards(tmp_path / "s").manifest.about
    assert about["recipe"]["ways"] == "2..4"
    assert about["recipe"]["transform"]["flip"] is True
    (tmp_path / "s" / "shard-00000.tar").unlink()
    assert "made again: shard 0" in run("verify", tmp_path / "s", "--store", glyphs_store, "--repair").stdout


def streamed(store, *flags, **options):
    return subprocess.run([EPISODES, "stream", store, *map(str, flags)], capture_output=True, check=False, **options)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--start", "-1"), "Invalid value for '--start'"),
        (("--count", "0"), "Invalid value for '--count'"),
        (("--workers", "-1"), "Invalid value for '--workers'"),
        (("--payload", "pixels"), "Invalid value for '--payload'"),
        (("--payload", "rows", "-T", "flip=true"), "payload=rows holds what is stored"),
        (("--sampler", "combinations", "--split", "val", "--start", "65780"), "start=65780 is beyond this series of 65780"),
        (("--split", "none"), "unknown split"),
    ],
)
def test_stream_refuses_in_one_line_and_writes_nothing(flags, words, glyphs_store):
    result = run("stream", glyphs_store, *flags, code=2)
    assert words in result.stderr
    assert result.stdout_bytes == b""


def test_tar_lists_a_stream(glyphs_store):
    stream = streamed(glyphs_store, "--start", 7, "--count", 2, *SMALL)
    assert (stream.returncode, stream.stderr) == (0, b"")
    listed = subprocess.run(["tar", "-t"], input=stream.stdout, capture_output=True, check=True)
    assert listed.stdout.decode().split() == [
        f"00000000{i}.{member}" for i in (7, 8) for member in ("image.npy", "labels.npy", "class.strokes.npy", "plan.json")
    ]


def test_a_stream_ends_where_a_finite_policy_does(glyphs_store):
    stream = streamed(glyphs_store, "--sampler", "combinations", "--split", "val", "--start", 65_778, *SMALL[2:])
    with tarfile.open(fileobj=io.BytesIO(stream.stdout)) as archive:
        assert sum(name.endswith(".plan.json") for name in archive.getnames()) == 2


def test_a_reader_that_closes_the_pipe_ends_a_stream_with_workers(glyphs_store):
    command = [EPISODES, "stream", glyphs_store, "--workers", "2"]  # without end
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(300_000)) == 300_000
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=600) == 0


def test_a_pipe_that_nobody_reads_ends_the_stream(glyphs_store):
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as reader:
        reader.wait()
        assert reader.stdin is not None
        stream = subprocess.run(
            [EPISODES, "stream", glyphs_store, "--count", "2"], stdout=reader.stdin, stderr=subprocess.PIPE, check=False
        )
        reader.stdin.close()
    assert (stream.returncode, stream.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_a_stream_is_one_line(glyphs_store):
    with Path("/dev/full").open("wb") as full:
        command = [EPISODES, "stream", glyphs_store, "--count", "2"]
        stream = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert stream.returncode == 2
    assert stream.stderr == "error: cannot write the stream: No space left on device\n"
