"""Devices, processes and precision, from Lightning Fabric."""

from __future__ import annotations

import os
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import distributed, nn

from episodes.errors import ConfigError


class _Plain(DDPStrategy):
    """Processes and their devices as Fabric finds them, without DDP's wrapper: `learners.ranks.average_gradients` also
    serves methods that use some parameters in some episodes only."""

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]  # the module itself, unwrapped
        return module


def make_fabric(accelerator: str, precision: str) -> Fabric:
    """Fabric on one device of each process that ``torchrun`` started, or of this one; the processes then know their rank.

    Raises:
        ConfigError: no such accelerator or precision here, or fewer devices than processes.
    """
    if precision != "32-true" and not precision.endswith("-mixed"):
        raise ConfigError(f"precision: expected 32-true, bf16-mixed or 16-mixed, got '{precision}'")
    num = int(os.environ["WORLD_SIZE"]) if distributed.is_available() and distributed.is_torchelastic_launched() else 1
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if num > 1 else 1
    settings: dict[str, Any] = {"devices": here, "num_nodes": num // here}
    if num > 1:
        settings["strategy"] = _Plain()
    try:
        fabric = Fabric(accelerator=accelerator, precision=precision, **settings)  # type: ignore[arg-type]  # Fabric checks
        if num > 1:
            fabric.launch()
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        where = f" in {here} processes" if here > 1 else ""
        raise ConfigError(
            f"accelerator '{accelerator}' with precision '{precision}' cannot be used{where}: {error}"
        ) from error
    return fabric
