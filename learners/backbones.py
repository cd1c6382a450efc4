"""Backbones: rows [N, ...] -> features [N, D]; D is stated as ``features``."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from episodes.errors import ConfigError, near
from learners.norm import with_episode_norms
from learners.residual import BLOCKS, ResNet12, SnailResNet, image_shape


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution (with bias), batch norm, ReLU and 2x2 max-pooling, then flatten.

    The backbone of Vinyals et al. 2016 and Snell et al. 2017. 111,936 parameters for 1x28x28 at width 64 (D = 64), 113,088
    for 3x84x84 (D = 1600). torch's default initialisation, as the released ProtoNet code uses.

    Raises:
        ConfigError: images smaller than 16 pixels, which four poolings reduce to nothing.
    """

    def __init__(self, shape: tuple[int, ...], width: int = 64) -> None:
        super().__init__()
        channels, height, breadth = image_shape("conv4", shape)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels if i == 0 else width, width, 3, padding=1), nn.BatchNorm2d(width))
            for i in range(BLOCKS)
        )
        self.features = width * (height >> BLOCKS) * (breadth >> BLOCKS)

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] float -> [N, D]."""
        # Pooling before the ReLU gives the same numbers (both are monotone) for a quarter of the ReLU's work.
        values = images
        for block in self.blocks:
            values = torch.relu_(nn.functional.max_pool2d(block(values), 2))
        return values.flatten(1)


class StridedConv4(nn.Module):
    """Four blocks of 3x3 convolution with stride 2, batch norm and ReLU, then flatten: the Omniglot network of Finn et al.
    2017, which takes the mean over the last positions (`mean`), and of Nichol et al. 2018, which does not.

    D = `width` with the mean; 256 without it for 28x28 at width 64.
    """

    def __init__(self, shape: tuple[int, ...], width: int = 64, *, mean: bool = False) -> None:
        super().__init__()
        channels, height, breadth = image_shape("conv4-stride", shape)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels if i == 0 else width, width, 3, stride=2, padding=1), nn.BatchNorm2d(width))
            for i in range(BLOCKS)
        )
        self.mean = mean
        self.features = width if mean else width * -(-height // 2**BLOCKS) * -(-breadth // 2**BLOCKS)

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] float -> [N, D]."""
        values = images
        for block in self.blocks:
            values = torch.relu(block(values))
        return values.mean((2, 3)) if self.mean else values.flatten(1)


class Linear(nn.Module):
    """One linear map of vectors, or of flattened images, to `width` features."""

    def __init__(self, shape: tuple[int, ...], width: int = 64) -> None:
        super().__init__()
        self.map = nn.Linear(math.prod(shape), width)
        self.features = width

    def forward(self, rows: Tensor) -> Tensor:
        """[N, ...] float -> [N, D]."""
        mapped: Tensor = self.map(rows.flatten(1))
        return mapped


class Identity(nn.Module):
    """Vectors, or flattened images, as they are: features computed before, or pixels."""

    def __init__(self, shape: tuple[int, ...], width: int = 64) -> None:
        super().__init__()
        self.features = math.prod(shape)

    def forward(self, rows: Tensor) -> Tensor:
        """[N, ...] float -> [N, D]."""
        return rows.flatten(1)


OWN: Mapping[str, Callable[[tuple[int, ...], int], nn.Module]] = {
    "conv4": Conv4,
    "conv4-stride": StridedConv4,
    "conv4-stride-mean": partial(StridedConv4, mean=True),
    "resnet12": ResNet12,
    "resnet-snail": SnailResNet,
    "linear": Linear,
    "none": Identity,
}


def make_backbone(name: str, shape: tuple[int, ...], width: int = 64) -> nn.Module:
    """The backbone of this name for rows of this shape; its ``features`` are D, its batch norms `EpisodeNorm`.

    Args:
        name: ``conv4``, ``conv4-stride``, ``conv4-stride-mean``, ``resnet12``, ``resnet-snail``, ``linear``, ``none``;
            ``auto``: conv4 of images, none of vectors; or ``package.module:attribute``, a module or what returns one when
            called without arguments, whose outputs are flattened to features.
        shape: of a row.
        width: channels of the first block, or features of ``linear``; of one's own module it is not used.

    Raises:
        ConfigError: no such backbone, or it does not take such rows.
    """
    if name == "auto":
        name = "conv4" if len(shape) == 3 else "none"
    if ":" in name:
        return with_episode_norms(_Outside(_imported(name), name, shape))
    if name not in OWN:
        raise ConfigError(f"backbone: unknown backbone '{name}'; {near(name, sorted(OWN))} (or package.module:attribute)")
    # Channels last is the layout in which convolutions are fast, on a CPU and on tensor cores. The weights decide it: of
    # images with one channel it cannot be told from the other.
    backbone = with_episode_norms(OWN[name](shape, width))
    backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return backbone


class _Outside(nn.Module):
    """A module of the user's, with its number of features found by trying."""

    def __init__(self, module: nn.Module, name: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.module, mode = module, module.training
        try:
            with torch.no_grad():
                out = module.eval()(torch.zeros(2, *shape))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ConfigError(f"backbone: '{name}' does not take float rows of shape {shape} ({error})") from error
        module.train(mode)
        if not isinstance(out, Tensor) or len(out) != 2:
            raise ConfigError(f"backbone: '{name}' returned {type(out).__name__} for 2 rows; expected a tensor [2, ...]")
        self.features = math.prod(out.shape[1:])

    def forward(self, rows: Tensor) -> Tensor:
        values: Tensor = self.module(rows)
        return values.flatten(1)


def _imported(name: str) -> nn.Module:
    module, _, attribute = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"backbone: cannot import '{name}' ({error}); expected package.module:attribute") from error
    try:
        made = found if isinstance(found, nn.Module) else found()
    except TypeError as error:
        raise ConfigError(f"backbone: '{name}' cannot be called without arguments ({error})") from error
    if not isinstance(made, nn.Module):
        raise ConfigError(f"backbone: '{name}' is {type(made).__name__}; expected a torch.nn.Module or what makes one")
    return made
