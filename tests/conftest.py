"""Stores that several tests read; made once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import real_data

from episodes.ingest import ingest
from episodes.readers import glyphs, omniglot

# The tests compute little at a time: threads of torch would only wait for each other, and long on a machine that is busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Started in the background, a shell leaves SIGINT ignored, and every process that a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def glyphs_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six invented alphabets."""
    path, options = tmp_path_factory.mktemp("stores") / "glyphs.store", glyphs.Options(alphabets=6)
    ingest(glyphs.make(None, options), path, options=options)
    return path


@pytest.fixture(scope="session")
def omniglot_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of Omniglot at 28 x 28; skips where the zips are absent."""
    path, options = tmp_path_factory.mktemp("stores") / "omniglot.store", omniglot.Options()
    ingest(omniglot.make(real_data.omniglot(), options), path, options=options)
    return path
