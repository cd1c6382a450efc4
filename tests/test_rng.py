"""Keyed random numbers: the same as NumPy's Philox, unbiased, without state."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from episodes import rng
from episodes.errors import SpecError

words = st.integers(0, 2**64 - 1)


def numpy_words(seed: int, stream: int, purpose: int, slot: int, index: int, n: int) -> list[int]:
    key, counter = np.array([seed, stream], np.uint64), np.array([0, slot, purpose, index], np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(n).tolist()


def slow_choose(seed: int, stream: int, purpose: int, slot: int, index: int, n: int, k: int) -> list[int]:
    """The twin of `rng.choose`, on Python integers and NumPy's Philox."""
    source = iter(numpy_words(seed, stream, purpose, slot, index, 4 * k + 64))
    numbers: dict[int, int] = {}  # of places that were touched
    for i in range(k):
        span = n - i
        while True:
            product = next(source) * span
            if product % 2**64 >= (2**64 - span) % span:
                break
        j = i + (product >> 64)
        numbers[i], numbers[j] = numbers.get(j, j), numbers.get(i, i)
    return [numbers[i] for i in range(k)]


def choose(seed: int, stream: int, purpose: int, slot: int, index: int, n: int, k: int) -> list[int]:
    scratch, out = np.arange(n + rng.SMALL), np.empty(k, np.int64)
    rng.choose(np.uint64(seed), np.uint64(stream), purpose, slot, np.uint64(index), n, scratch, out)
    assert np.array_equal(scratch[:n], np.arange(n)), "the scratch is as it was"
    sparse = np.empty(k, np.int64)
    rng.choose(np.uint64(seed), np.uint64(stream), purpose, slot, np.uint64(index), n, np.arange(0), sparse)
    assert np.array_equal(out, sparse), "a large n draws as a small one does"
    return out.tolist()


@settings(deadline=None)  # the first call compiles
@given(words, words, words, words, words)
def test_words_are_those_of_numpys_philox(seed, stream, purpose, slot, index):
    drawn = [
        int(w) for block in (1, 2, 3) for w in rng.philox(*map(np.uint64, (seed, stream, block, slot, purpose, index)))
    ]
    assert drawn == numpy_words(seed, stream, purpose, slot, index, 12)


@settings(max_examples=300, deadline=None)
@given(words, words, st.integers(0, 50), words, st.integers(1, 60), st.data())
def test_choose_equals_its_slow_twin(seed, stream, slot, index, n, data):
    k = data.draw(st.integers(0, n))
    chosen = choose(seed, stream, rng.ROWS, slot, index, n, k)
    assert chosen == slow_choose(seed, stream, rng.ROWS, slot, index, n, k)
    assert len(set(chosen)) == k
    assert chosen == choose(seed, stream, rng.ROWS, slot, index, n, n)[:k], "the first k do not depend on k"
    one = rng.below(np.uint64(seed), np.uint64(stream), rng.ROWS, slot, np.uint64(index), n)
    assert [one] == slow_choose(seed, stream, rng.ROWS, slot, index, n, 1)


def test_choose_is_pinned():
    assert choose(7, 9, rng.CLASSES, 0, 3, 1623, 5) == slow_choose(7, 9, rng.CLASSES, 0, 3, 1623, 5)
    assert choose(0, 0, rng.CLASSES, 0, 0, 10, 10) == [6, 1, 2, 5, 8, 7, 9, 0, 4, 3]


def test_choose_is_uniform_over_ordered_pairs():
    counts = np.zeros((6, 6), int)
    for index in range(6000):
        i, j = choose(1, 2, rng.CLASSES, 0, index, 6, 2)
        counts[i, j] += 1
    assert stats.chisquare(counts[~np.eye(6, dtype=bool)]).pvalue > 1e-4


def test_adjacent_keys_are_unrelated():
    streams = [[choose(seed, 5, rng.CLASSES, 0, index, 1000, 1)[0] for index in range(300)] for seed in (0, 1)]
    shifted = [choose(0, 5, rng.CLASSES, 0, index + 1, 1000, 1)[0] for index in range(300)]
    assert abs(np.corrcoef(streams[0], streams[1])[0, 1]) < 0.2
    assert abs(np.corrcoef(streams[1], shifted)[0, 1]) < 0.2


def test_stream_keys_separate_their_parts():
    assert rng.stream_key("ab", "c") != rng.stream_key("a", "bc")
    assert rng.stream_key("1") != rng.stream_key(1)
    assert rng.stream_key("vinyals/train", "uniform", 1) == rng.stream_key("vinyals/train", "uniform", 1)


@pytest.mark.parametrize("value", [-1, 2**64, True, 1.0, "3", None])
def test_seeds_outside_64_bits_are_refused(value):
    with pytest.raises(SpecError, match="seed="):
        rng.check_word("seed", value)


def test_compiling_is_announced_once_and_not_when_nothing_is_compiled(tmp_path):
    code = (
        "import logging, numpy as np; logging.basicConfig(level='INFO', format='%(name)s: %(message)s');"
        "from episodes import rng; n = np.uint64(1); rng.philox(n, n, n, n, n, n);"
        "rng.below(n, n, n, n, n, 5)"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    runs = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stderr
        for _ in range(2)
    ]
    assert runs[0] == "episodes: compiling for this machine, once per installation: up to half a minute\n"
    assert runs[1] == ""
