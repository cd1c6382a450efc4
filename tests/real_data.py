"""Where the real data is: ../shared/datasets beside the checkout, or the folder EPISODES_DATASETS names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("EPISODES_DATASETS", Path(__file__).resolve().parents[2] / "shared" / "datasets"))


def _need(path: Path, what: str) -> Path:
    if not path.exists():
        pytest.skip(f"{what} is not at {path}; set EPISODES_DATASETS to the folder that holds it")
    return path


def omniglot() -> Path:
    """Folder of the official Omniglot zips."""
    return _need(FOLDER / "omniglot", "Omniglot")


def tiny_imagenet() -> Path:
    """Zip of 100 classes of Tiny-ImageNet."""
    return _need(FOLDER / "tiny-imagenet-100" / "images.zip", "Tiny-ImageNet")
