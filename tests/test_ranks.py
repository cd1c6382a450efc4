"""Training and evaluation shared by processes: every episode once, and the numbers of one process."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ranked
import torch
from click.testing import CliRunner

import episodes
from cli.main import main
from episodes.errors import ConfigError, StreamError
from learners import checkpoint, metrics, ranks
from learners.testing import separable_world
from learners.trainer import Trainer

TESTS = Path(__file__).resolve().parent


def torchrun(processes, *command, code=0):
    """Run `command` in so many processes of this machine."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    result = subprocess.run(
        [*launch, *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (result.returncode == 0) == (code == 0), result.stderr
    return result


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As torchrun's processes have it: sums in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def shared(tmp_path_factory, one_thread):
    """One run that two processes began, three went on with, and one ended; beside it, the same by one alone."""
    whole, parts = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("parts")
    alone = ranked.train(whole, None)
    torchrun(2, TESTS / "ranked.py", parts, 3)
    torchrun(3, TESTS / "ranked.py", parts, 6)
    end = ranked.train(parts, None)
    phases = [[json.loads((parts / f"{stop}-{r}.json").read_text()) for r in range(n)] for stop, n in ((3, 2), (6, 3))]
    return whole, parts, alone, [*phases, [end]]


@pytest.mark.slow
def test_every_index_is_trained_on_exactly_once_whatever_the_number_of_ranks(shared):
    _, parts, _, phases = shared
    for begin, phase in zip((0, 18, 36), phases, strict=True):
        assert [one["world"] for one in phase] == [len(phase)] * len(phase)
        for one in phase:
            assert one["seen"] == list(range(begin + one["rank"], begin + 18, len(phase)))
    steps = metrics.read(parts, "train")
    assert [line["step"] for line in steps] == list(range(1, 10))
    assert [(line["first_index"], line["episodes"]) for line in steps] == [(i, 6) for i in range(0, 54, 6)]


@pytest.mark.slow
def test_several_ranks_give_the_numbers_of_one(shared):
    whole, parts, _, _ = shared
    one, several = ([[line["loss"], line["accuracy"]] for line in metrics.read(run, "train")] for run in (whole, parts))
    assert np.allclose(one, several, rtol=1e-3)
    states = [checkpoint.load(run / "last.ckpt", "protonet")["learner"] for run in (whole, parts)]
    for name, values in states[0].items():
        # A bias before batch norm has no gradient but rounding, of which Adam makes whole steps; a shift of all features,
        # the last bias of all, has hardly more, for distances do not change with it.
        if not name.endswith((".0.bias", ".3.1.bias", "running_mean")):
            assert torch.allclose(values.float(), states[1][name].float(), rtol=1e-2, atol=1e-3), name
    counts = [state["embedding.backbone.blocks.0.1.num_batches_tracked"].item() for state in states]
    assert counts == [54, 54]
    means = [
        state["embedding.backbone.blocks.0.1.running_mean"] - state["embedding.backbone.blocks.0.0.bias"]
        for state in states
    ]
    assert torch.allclose(*means, rtol=1e-2, atol=2e-3), "batch norm's statistics are those of all episodes in turn"
    assert states[1]["sometimes"].tolist() == pytest.approx(states[0]["sometimes"].tolist(), rel=1e-3)
    assert states[1]["never"].tolist() == [1, 1]


@pytest.mark.slow
def test_running_statistics_are_those_of_all_batches_in_turn(shared):
    for phase in shared[3][:2]:
        for one in phase:
            found, expected = one["statistics"]
            assert found == pytest.approx(expected, rel=1e-5)
            assert found[2] == 2 * 2 * 2 * len(phase)


@pytest.mark.slow
def test_an_evaluation_has_every_episode_once_in_order_on_every_rank(shared):
    _, _, alone, phases = shared
    for phase in phases:
        assert all(one["per_episode"] == phase[0]["per_episode"] for one in phase)
        assert len(phase[0]["per_episode"]) == 7, "neither 2 nor 3 divides it"
        assert [one["audited"] for one in phase] == [alone["audited"]] * len(phase)
        assert [one["charts"] for one in phase] == [alone["charts"]] * len(phase)
        assert all(one["never"] for one in phase)
    assert phases[-1][0]["per_episode"] == pytest.approx(alone["per_episode"], abs=0.1)


@pytest.mark.slow
def test_a_meta_batch_that_ranks_cannot_share_is_refused(shared):
    words = "meta_batch: expected a multiple of the {} processes, got 5 (it counts"
    for phase in shared[3][:2]:
        assert all(one["refused"].startswith(words.format(len(phase))) for one in phase)


@pytest.mark.slow
def test_the_commands_run_under_torchrun(glyphs_store, tmp_path):
    run = tmp_path / "run"
    flags = ("--steps", 4, "--meta-batch", 2, "--validate-every", 2, "--width", 8, "--ways", 4, "--queries", 3)
    done = torchrun(2, "-m", "cli.main", "train", "protonet", glyphs_store, "-o", run, *flags, "--accelerator", "cpu")
    assert done.stdout.count("validation: protonet 5-way 1-shot on glyphs/val") == 1
    assert [line["first_index"] for line in metrics.read(run, "train")] == [0, 2, 4, 6]
    setting = ("--episodes", 9, "--ways", 3, "--device", "cpu", "--json")
    together = torchrun(2, "-m", "cli.main", "evaluate", run, *setting, "-o", run / "two")
    (result,) = json.loads(together.stdout)["results"]
    alone = CliRunner().invoke(main, [str(a) for a in ("evaluate", run, *setting, "-o", run / "one")])
    (expected,) = json.loads(alone.stdout)["results"]
    assert len(result["per_episode"]) == result["episodes"] == 9
    same = ("per_episode", "mean", "interval95", "fingerprint", "seed")
    assert [result[name] for name in same] == [expected[name] for name in same]
    assert result["audit"]["queries"] == expected["audit"]["queries"]
    again = torchrun(2, "-m", "cli.main", "train", "protonet", glyphs_store, "-o", run, code=2)
    assert again.stderr.count("error: ") == again.stderr.count("exists; give --overwrite to replace it") == 1
    odd = torchrun(
        2, "-m", "cli.main", "train", "protonet", glyphs_store, "-o", tmp_path / "odd", "--accelerator", "cpu", code=2
    )
    assert "meta_batch: expected a multiple of the 2 processes, got 1" in odd.stderr
    assert not (tmp_path / "odd").exists()


def trainer(tmp_path):
    return Trainer(ranked.Watched(), "protonet", replace(ranked.CONFIG, steps=2, meta_batch=2), tmp_path)


def test_a_stream_of_other_ranks_than_the_trainers_is_refused(tmp_path):
    series = episodes.sample(separable_world(), "train", ranked.SPEC)
    with pytest.raises(StreamError, match="the stream is not one of 1 ranks; make it after the trainer"):
        trainer(tmp_path).fit(episodes.Stream(series, rank=0, world=2), lambda module: None)


def test_a_series_that_ends_within_the_training_is_refused(tmp_path):
    series = episodes.sample(separable_world(), "train", ranked.SPEC, length=3)
    with pytest.raises(ConfigError, match="steps: 2 steps of 2 episodes need 4 episodes, and the series has 3"):
        trainer(tmp_path).fit(episodes.Stream(series), lambda module: None)


def test_an_error_of_one_rank_alone_is_told_by_it_after_rank_0_had_its_turn(monkeypatch, tmp_path):
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    told = {}
    for rank, world in [("0", "2"), ("1", "2"), ("1", "1"), ("", "")]:
        result = CliRunner(env={"RANK": rank, "WORLD_SIZE": world}).invoke(main, ["inspect", str(tmp_path / "none")])
        told[rank, world] = (result.exit_code, result.output.partition(":")[0], len(waited))
    assert told == {
        ("0", "2"): (2, "error", 0),
        ("1", "2"): (2, "error of rank 1", 1),
        ("1", "1"): (2, "error", 1),
        ("", ""): (2, "error", 1),
    }


def test_one_process_is_rank_0_of_1():
    assert (ranks.rank(), ranks.world(), ranks.running()) == (0, 1, False)
    assert ranks.gathered("a") == ["a"]
    assert ranks.first(lambda: 7) == 7
    assert ranks.averaged({"loss": 2.0}, torch.device("cpu")) == {"loss": 2.0}
    gradient = torch.ones(3)
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = gradient
    ranks.average_gradients([parameter])
    assert parameter.grad is gradient
