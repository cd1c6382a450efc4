"""A short soak: streams disturbed in every way give the inline stream's episodes (`benchmarks/soak.py` runs for long)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import soak

from episodes.errors import StoreCorrupt

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")


SOAK = "soak.soak(minutes=0.05, saves=12, every=3, watch_s=0.5)"
MEMORY = "soak.memory(4000, workers=1, block=16)"
LEAK = """
def leaking(restore, left):
    def once(track):
        if not left:
            left.append(open(soak.__file__))
        restore(track)
    return once
soak.Track.restore = leaking(soak.Track.restore, [])
"""


def alone(call, before=""):
    """What `call` gives in a process of its own: handles, threads and memory are then nobody else's."""
    done = subprocess.run(
        [sys.executable, "-c", f"import json, soak\n{before}\nprint(json.dumps({call}))"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@linux
def test_disturbed_streams_give_the_inline_streams_episodes():
    done = alone(SOAK)
    for kind in done["kinds"].values():
        assert kind["sha256"] == kind["inline"]
        assert kind["saves"] >= 4
        assert kind["episodes"] >= 4 * 30
    assert sum(kind["told"] for kind in done["kinds"].values()) > 0
    assert done["after_close"]["handles"] == done["before"]["handles"]
    assert done["after_close"]["threads"] == done["before"]["threads"]


@linux
def test_a_soak_notices_one_handle_that_is_left():
    done = alone(SOAK, LEAK)
    assert done["after_close"]["handles"] == done["before"]["handles"] + 1


def test_a_soak_notices_one_wrong_episode():
    track = soak.Track(soak.series_of(soak.store_of(classes=40))["fixed"], 10**9, 0)
    track.restore()
    track.segment(0.01)
    soak.note(track.hash, track.series[0])
    with pytest.raises(AssertionError, match="are not the inline stream's"):
        track.segment(0.01)
    track.close()
    track.quiet.close()


def test_a_soak_notices_what_is_written_over():
    track = soak.Track(soak.series_of(soak.store_of(classes=40))["fixed"], 10**9, 0)
    track.kept.extend((track.series[i], 0) for i in range(soak.KEPT))
    track.place = 49
    with pytest.raises(AssertionError, match="was written over while it was kept"):
        track.take(track.series[49])
    track.quiet.close()


def test_the_troubled_store_fails_as_often_as_it_says():
    store = soak.Troubled(soak.store_of(classes=10), 5)
    failed = 0
    for _ in range(300):
        try:
            assert store.places("image") is not None
        except StoreCorrupt:  # noqa: PERF203
            failed += 1
    assert failed == store.failures
    assert 30 < failed < 95


@linux
def test_memory_beyond_the_store_is_a_few_calls_worth():
    done = alone(MEMORY)
    assert done["episodes"] >= 4000
    assert max(done["beyond_before_mb"]) <= done["slots_mb"] + 100
    assert done["threads"][0] == done["threads"][2]
    assert done["handles"][0] == done["handles"][2]
    assert np.ptp(done["beyond_before_mb"][1:]) < 20
