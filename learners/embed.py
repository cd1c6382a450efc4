"""Embedder: images of a store through a fixed backbone, of a run or by its name.

Rows pass in evaluation mode, and a feature depends on its own row alone: where it does not, it is refused.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from episodes.adapters._torch_transform import normalise
from episodes.errors import CheckpointError, ConfigError
from episodes.store.mapped import MappedStore
from episodes.transforms import Transform, quarter_turn
from learners import functional
from learners.backbones import make_backbone
from learners.embedding import Embedding
from learners.norm import norms
from learners.run import open_run

_TOLERANCE = 1e-3  # of the largest feature: rounding differs with the number of rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embedder:
    """Images of a store -> features, row by row."""

    name: str
    module: nn.Module
    """Float rows, [n, ...] -> [n, D]; in evaluation mode."""
    image: str
    """Field that is embedded."""
    delivery: Transform | None
    """How rows reach the module; None: as they are stored."""
    device: torch.device

    @property
    def weights(self) -> str:
        """SHA-256 of parameters and buffers, by name."""
        digest = hashlib.sha256()
        for name, values in sorted(self.module.state_dict().items()):
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}\x1e".encode())
            digest.update(values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def __call__(self, rows: NDArray[Any], turns: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """[n, D] of stored rows [n, ...], turned by `turns` [n] quarter turns first."""
        how = self.delivery
        if how is not None and how.stored == "hwc":
            rows = np.ascontiguousarray(rows.transpose(0, 3, 1, 2))
        if turns is not None:
            quarter_turn(rows, turns)
        images = torch.from_numpy(rows).to(self.device)
        if how is not None:
            images = normalise(images if how.layout == "chw" else images.permute(0, 2, 3, 1), how)
        features: Tensor = self.module(functional.to_float(images))
        return functional.full(features).flatten(1).cpu().numpy()

    def check(self, rows: NDArray[Any]) -> None:
        """Raise `ConfigError` if features of `rows` together are not those of each row alone."""
        together = self(rows.copy())
        alone = np.concatenate([self(row[None].copy()) for row in rows])
        spread = max(float(np.abs(alone).max()), 1e-12)
        if not (np.abs(together - alone) <= _TOLERANCE * spread).all():
            raise ConfigError(
                f"backbone: a feature of '{self.name}' depends on the rows beside its own (it changed by "
                f"{np.abs(together - alone).max() / spread:.1%} of the largest); embed with a module that takes each alone"
            )


def of_run(run: Path, store: MappedStore, image: str | None, device: torch.device) -> Embedder:
    """The embedding of a run's learner, for the images of `store`.

    Raises:
        ConfigError: no run; a method without one embedding; features that depend on other rows; another field.
        CheckpointError: its parameters cannot be read.
    """
    trained = open_run(run, store=store.path)
    found = [module for module in trained.module.modules() if isinstance(module, Embedding)]
    if len(found) != 1:
        raise ConfigError(
            f"backbone: method '{trained.method}' of {run} has no embedding of single rows; give a run of another, as "
            "protonet or baseline_nn, or --backbone with --weights"
        )
    if found[0].batch_norm not in ("running", "none"):
        raise ConfigError(
            f"backbone: {run} was trained with --batch-norm {found[0].batch_norm}, so a feature depends on the rows beside "
            "it; train with --batch-norm running"
        )
    if image not in (None, trained.image):
        raise ConfigError(f"field: {run} was trained on field '{trained.image}', got '{image}'")
    module, how = found[0].backbone.eval().to(device), trained.delivery
    return Embedder(name=trained.method, module=module, image=trained.image, delivery=how, device=device)


def of_name(
    name: str, store: MappedStore, image: str | None, device: torch.device, *, weights: Path | None, width: int
) -> Embedder:
    """A backbone by its name (`learners.backbones.make_backbone`), with weights from a file.

    Raises:
        ConfigError: no such backbone or field; a backbone of this library that needs weights and got none.
        CheckpointError: the weights cannot be read, or do not fit.
    """
    image = "image" if image is None else image
    if image not in store.fields:
        raise ConfigError(f"field: the store has no field '{image}'; it has {', '.join(sorted(store.fields))}")
    with torch.random.fork_rng([]):
        torch.manual_seed(0)  # of a module of one's own that comes with no weights: the same ones each time
        module = make_backbone(name, store.fields[image].shape, width)
    if weights is not None:
        inner = cast(nn.Module, module.module) if ":" in name else module
        try:
            inner.load_state_dict(_state(weights))
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"the weights in {weights} do not fit backbone '{name}' ({reason})") from error
    elif ":" not in name and any(True for _ in module.parameters()):
        raise ConfigError(f"weights: backbone '{name}' has none of its own; give --weights FILE.pt, or a run as --backbone")
    if any(layer.running_mean is None for layer in norms(module)):
        raise ConfigError(f"backbone: batch norm of '{name}' keeps no running statistics; a feature would depend on others")
    return Embedder(name=name, module=module.eval().to(device), image=image, delivery=None, device=device)


def _state(path: Path) -> Mapping[str, Tensor]:
    """The state dict in a file of torch, as it is or under ``state_dict``; no code in it is run."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"weights {path} cannot be read ({reason})") from error
    found = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(found, Mapping) or not all(isinstance(one, Tensor) for one in found.values()):
        raise CheckpointError(f"weights {path} are no state dict: name -> tensor")
    return found
