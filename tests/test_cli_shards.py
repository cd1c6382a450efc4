"""compile, stream and verify from the command line: what is printed, every refusal, and pipes."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from test_cli import refused, run

import episodes
from episodes.shards.manifest import MANIFEST

SPEC = ("--ways", 3, "--shots", 1, "--queries", 2)
PROGRAM = [sys.executable, "-c", "from cli.main import main; main()"]


@pytest.fixture
def made(glyphs_store, tmp_path):
    """A set of two shards."""
    run("compile", glyphs_store, *SPEC, "--count", 200, "--shard-mb", 1, "-o", tmp_path / "s")
    return tmp_path / "s"


def test_compile_prints_the_size_and_the_hash_of_the_set(made):
    shards = episodes.open_shards(made)
    text = run("compile", "--help").stdout
    assert "hash of the set" in text
    assert shards.length == 200
    assert len(shards.manifest.shards) == 2
    assert {path.suffix for path in made.iterdir()} == {".tar", ".npy", ".json"}


def test_a_set_is_replaced_resumed_and_refused(made, glyphs_store, tmp_path):
    args = ("compile", glyphs_store, *SPEC, "--count", 200, "--shard-mb", 1, "-o", made)
    assert "exists; give --overwrite to replace it" in refused(*args)
    before = (made / MANIFEST).read_bytes()
    assert episodes.open_shards(made).manifest.content in run(*args, "--resume").stdout
    assert (made / MANIFEST).read_bytes() == before
    assert "was compiled from other episodes" in refused(*args, "--resume", "--seed", 2)
    run(*args, "--overwrite", "--seed", 2)
    assert episodes.open_shards(made).manifest.about["seed"] == 2
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("kept")
    assert "is not replaced" in refused(*args[:-1], tmp_path / "folder", "--overwrite")
    assert (tmp_path / "folder" / "mine").read_text() == "kept"


def test_shards_made_apart_are_joined(made, glyphs_store, tmp_path):
    args = ("compile", glyphs_store, *SPEC, "--count", 200, "--shard-mb", 1, "-o", tmp_path / "apart")
    assert "make its shards first" in refused(*args, "--finish")
    assert "join all of them with --finish" in run(*args, "--shards", "1").stderr
    assert "shard 0 of 2 is not made yet (make it with --shards 0)" in refused(*args, "--finish")
    run(*args, "--shards", "0..0")
    assert "leave --shards out" in refused(*args, "--finish", "--shards", "0")
    run(*args, "--finish")
    for path in made.iterdir():
        assert (tmp_path / "apart" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--shards", "a..b"), "shards: expected numbers as 3..7 or 3"),
        (("--shards", "5"), "shard 5 is not in 0..0"),
        (("--shards", "4/3"), "the parts of 3 are 0..3|the parts of 3"),
        (("--shards", "0", "--overwrite"), "makers of single shards work side by side"),
        (("--payload", "images", "--transform", "flip=true"), "leave transforms out, or use payload=arrays"),
        (("--payload", "rows", "--rotations", "--distractors", "1", "--unlabeled", "1"), "no quarter turn"),
        (("--mix", "x.store"), "No such option"),
        (("--count", "0"), "0 is not in the range"),
        (("--split", "nope"), "nope"),
        (("--ways", "9999"), "classes"),
    ],
)
def test_a_compile_is_refused_in_one_line_and_leaves_nothing(glyphs_store, tmp_path, args, words):
    text = refused("compile", glyphs_store, "--count", 4, "-o", tmp_path / "s", *args)
    assert any(word in text for word in words.split("|"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("payload", ["arrays", "images", "rows"])
def test_a_stream_is_the_same_tar(payload, glyphs_store, tmp_path):
    args = (glyphs_store, *SPEC, "--payload", payload)
    run("compile", *args, "--count", 7, "-o", tmp_path / "s")
    tar = (tmp_path / "s" / "shard-00000.tar").read_bytes()
    assert run("stream", *args, "--count", 7).stdout_bytes == tar
    assert run("stream", *args, "--count", 7, "--workers", 2).stdout_bytes == tar
    later = run("stream", *args, "--start", 5, "--count", 2).stdout_bytes
    with tarfile.open(fileobj=io.BytesIO(later)) as archive:
        assert {name.partition(".")[0] for name in archive.getnames()} == {"000000005", "000000006"}


@pytest.mark.slow
def test_closing_the_pipe_ends_an_endless_stream_without_a_word(glyphs_store):
    args = [*PROGRAM, "stream", str(glyphs_store), *map(str, SPEC)]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            member = next(iter(archive))
            images = np.load(io.BytesIO(archive.extractfile(member).read()))
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(600) == 0
    series = episodes.sample(episodes.open(glyphs_store), "train", episodes.EpisodeSpec(ways=3, shots=1, queries=2))
    assert np.array_equal(images[:3], series[0].support.fields["image"])
    assert said == b""


@pytest.mark.skipif(shutil.which("tar") is None or shutil.which("awk") is None, reason="no tar or awk here")
def test_other_programs_read_the_pipe(glyphs_store, tmp_path):
    streamed = run("stream", glyphs_store, *SPEC, "--count", 3, "--payload", "rows").stdout_bytes
    names = subprocess.run(["tar", "-t"], input=streamed, capture_output=True, check=True).stdout.decode().split()
    assert names == [f"00000000{i}.plan.json" for i in range(3)]
    plans = subprocess.run(["tar", "-xO"], input=streamed, capture_output=True, check=True).stdout
    program = 'BEGIN { RS = "}" } match($0, /"class_names":\\[[^]]*\\]/) { print substr($0, RSTART + 15, RLENGTH - 16) }'
    printed = subprocess.run(["awk", program], input=plans, capture_output=True, check=True).stdout.decode().splitlines()
    series = episodes.sample(episodes.open(glyphs_store), "train", episodes.EpisodeSpec(ways=3, shots=1, queries=2))
    assert [json.loads(f"[{line}]") for line in printed] == [series.class_names(i) for i in range(3)]


def test_a_terminal_is_refused(glyphs_store):
    leader, follower = os.openpty()
    args = [*PROGRAM, "stream", str(glyphs_store), "--count", "1"]
    done = subprocess.run(args, stdout=follower, stderr=subprocess.PIPE, check=False)
    os.close(follower)
    os.close(leader)
    assert done.returncode == 2
    assert b"a terminal cannot show a tar stream" in done.stderr


def test_verify_names_the_shard_and_mends_it(made, glyphs_store):
    assert json.loads(run("verify", made, "--json").stdout)["faults"] == []
    tar, whole = made / "shard-00001.tar", (made / "shard-00001.tar").read_bytes()
    tar.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    found = run("verify", made, code=2)
    assert "shard-00001.tar" in found.stdout
    assert "give it with --store" in refused("verify", made, "--repair")
    assert "a store is verified by itself" in refused("verify", glyphs_store, "--store", glyphs_store)
    assert "made again: shard 1" in run("verify", made, "--store", glyphs_store, "--repair").stdout
    assert hashlib.sha256(tar.read_bytes()).digest() == hashlib.sha256(whole).digest()
    run("verify", made, "--store", glyphs_store)
