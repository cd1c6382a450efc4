"""A predictor as a directory: self-contained, so that neither the run nor its store is needed again.

- ``predictor.json``: method, inputs, form of the pictures, class names, and the SHA-256 of the other files;
- ``recipe.toml``: that of the run, to be read by people; ``learner.ckpt``: the parameters;
- ``support.npy``, ``unlabeled.npy``: the pictures in the store's form, class by class.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from episodes.config import from_table, to_table
from episodes.errors import CheckpointError, ConfigError
from episodes.protocols import FieldSpec
from episodes.store.manifest import canonical
from episodes.transforms import Transform
from learners import checkpoint
from learners.pictures import PictureForm
from learners.predictor import ImagePredictor, picture_form
from learners.protocol import Inputs
from learners.run import Trained, restored

ABOUT, RECIPE, WEIGHTS, SUPPORT, UNLABELED = "predictor.json", "recipe.toml", "learner.ckpt", "support.npy", "unlabeled.npy"
VERSION: Final = 1


def save_predictor(predictor: ImagePredictor, path: Path, *, overwrite: bool = False) -> str:
    """Write its directory, which is whole or absent; returns its hash.

    Raises:
        ConfigError: `path` exists and is not to be replaced, or is no predictor.
        CheckpointError: it cannot be written.
    """
    if path.exists() and not (overwrite and (path / ABOUT).exists()):
        mend = "give --overwrite to replace it" if (path / ABOUT).exists() else "it is no predictor and is not replaced"
        raise ConfigError(f"output: {path} exists; {mend}")
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        aside.mkdir(parents=True)
        about = _written(predictor, aside)
        if path.exists():
            shutil.rmtree(path)
        aside.replace(path)
    except OSError as error:
        raise CheckpointError(f"cannot write predictor {path}: {error.strerror}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return str(about["hash"])


def _written(predictor: ImagePredictor, folder: Path) -> dict[str, Any]:
    """Write the files into `folder`."""
    trained = predictor.trained
    (folder / RECIPE).write_text(trained.recipe, encoding="utf-8")
    checkpoint.save(folder / WEIGHTS, {"method": trained.method, "learner": trained.module.state_dict()})
    np.save(folder / SUPPORT, predictor.support)
    np.save(folder / UNLABELED, predictor.unlabeled)
    about: dict[str, Any] = {
        "version": VERSION,
        "method": trained.method,
        "options": dict(trained.options),
        "fields": {name: asdict(spec) for name, spec in trained.inputs.fields.items()},
        "trained_on": None if trained.inputs.classes is None else [list(one) for one in trained.inputs.classes],
        "image": trained.image,
        "form": asdict(picture_form(trained)),
        "delivery": None if trained.delivery is None else to_table(trained.delivery),
        "classes": dict(zip(predictor.names, predictor.counts, strict=True)),
        "files": {name: _sha256(folder / name) for name in (RECIPE, WEIGHTS, SUPPORT, UNLABELED)},
    }
    about["hash"] = _hash(about)
    (folder / ABOUT).write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")
    return about


def open_predictor(path: Path, *, device: torch.device | str = "cpu") -> ImagePredictor:
    """The predictor that `save_predictor` wrote.

    Raises:
        CheckpointError: there is none, it was altered, or it is of another version.
    """
    about = _read_about(path)
    for name, sha256 in about["files"].items():
        if not (path / name).exists() or _sha256(path / name) != sha256:
            raise CheckpointError(
                f"predictor {path}: {name} is missing or was altered; make it again with `episodes adapt`"
            )
    fields = {name: FieldSpec(one["dtype"], tuple(one["shape"])) for name, one in about["fields"].items()}
    classes = None if about["trained_on"] is None else tuple((c, turns) for c, turns in about["trained_on"])
    inputs = Inputs(fields=fields, classes=classes)
    state = checkpoint.load(path / WEIGHTS, about["method"])["learner"]
    trained = Trained(
        learner=restored(about["method"], about["options"], inputs, state, str(path / WEIGHTS)),
        method=about["method"],
        options=about["options"],
        inputs=inputs,
        image=about["image"],
        form=from_table(PictureForm, about["form"], "form"),
        delivery=None if about["delivery"] is None else from_table(Transform, about["delivery"], "delivery"),
        recipe=(path / RECIPE).read_text(encoding="utf-8"),
    )
    trained.module.to(device)
    return ImagePredictor(
        trained=trained,
        names=tuple(about["classes"]),
        counts=tuple(about["classes"].values()),
        support=np.load(path / SUPPORT),
        unlabeled=np.load(path / UNLABELED),
        device=torch.device(device),
    )


def _read_about(path: Path) -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads((path / ABOUT).read_bytes())
        version, sha256 = about["version"], about.pop("hash")
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"no predictor at {path}; make one with `episodes adapt`") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path / ABOUT} cannot be read ({error})") from error
    if version != VERSION:
        raise CheckpointError(f"predictor {path} has version {version}; this program reads {VERSION} (make it again)")
    if _hash(about) != sha256:
        raise CheckpointError(f"{path / ABOUT} was altered: its hash is not that of its content")
    return about


def _hash(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(about)).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
