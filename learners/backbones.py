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

BLOCKS = 4


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution (with bias), batch norm, ReLU and 2x2 max-pooling, then flatten.

    The backbone of Vinyals et al. 2016 and Snell et al. 2017. 111,936 parameters for 1x28x28 at width 64 (D = 64), 113,088
    for 3x84x84 (D = 1600). torch's default initialisation, as the released ProtoNet code uses.

    Raises:
        ConfigError: images smaller than 16 pixels, which four poolings reduce to nothing.
    """

    def __init__(self, shape: tuple[int, ...], width: int = 64) -> None:
        super().__init__()
        channels, height, breadth = _image_shape("conv4", shape)
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
        channels, height, breadth = _image_shape("conv4-stride", shape)
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


class ResNet12(nn.Module):
    """Four residual blocks of three 3x3 convolutions with 64, 160, 320, 640 channels, then the mean over the image.

    The backbone of Lee et al. 2019 ("MetaOptNet") without its DropBlock: batch norm after every convolution, leaky ReLU
    (0.1), a 1x1 convolution as shortcut, 2x2 max-pooling after the sum. D = 10 * `width`; 12,424,320 parameters for three
    channels at width 64. Convolutions have no bias and He's initialisation (fan out).

    Raises:
        ConfigError: images smaller than 16 pixels, which four poolings reduce to nothing.
    """

    def __init__(self, shape: tuple[int, ...], width: int = 64) -> None:
        super().__init__()
        channels, *_ = _image_shape("resnet12", shape)
        widths = (width, width * 5 // 2, width * 5, width * 10)
        self.blocks = nn.ModuleList(
            _Residual(before, after) for before, after in zip((channels, *widths), widths, strict=False)
        )
        self.features = widths[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.1, mode="fan_out", nonlinearity="leaky_relu")

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] float -> [N, D]."""
        values = images
        for block in self.blocks:
            values = block(values)
        return values.mean((2, 3))


class _Residual(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [nn.Conv2d(before if i == 0 else after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
            layers += [nn.LeakyReLU(0.1)] if i < 2 else []
        self.path = nn.Sequential(*layers)
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))

    def forward(self, values: Tensor) -> Tensor:
        total = self.path(values) + self.shortcut(values)
        return nn.functional.leaky_relu(nn.functional.max_pool2d(total, 2), 0.1)


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
    "linear": Linear,
    "none": Identity,
}


def make_backbone(name: str, shape: tuple[int, ...], width: int = 64) -> nn.Module:
    """The backbone of this name for rows of this shape; its ``features`` are D, its batch norms `EpisodeNorm`.

    Args:
        name: ``conv4``, ``conv4-stride``, ``conv4-stride-mean``, ``resnet12``, ``linear``, ``none``; ``auto``: conv4 of
            images, none of vectors; or ``package.module:attribute``, a module or what returns one when called without
            arguments, whose outputs are flattened to features.
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
    made = found if isinstance(found, nn.Module) else found()
    if not isinstance(made, nn.Module):
        raise ConfigError(f"backbone: '{name}' is {type(made).__name__}; expected a torch.nn.Module or what makes one")
    return made


def _image_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) != 3 or min(shape[1:]) < 2**BLOCKS:
        raise ConfigError(f"backbone {name} needs images of {2**BLOCKS} x {2**BLOCKS} pixels or more, got shape {shape}")
    return shape
