"""Backbones: images [N, C, H, W] -> features [N, D]; D is stated as ``features``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from episodes.errors import ConfigError

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
        if len(shape) != 3 or min(shape[1:]) < 2**BLOCKS:
            raise ConfigError(f"backbone conv4 needs images of {2**BLOCKS} x {2**BLOCKS} pixels or more, got shape {shape}")
        channels, height, breadth = shape
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels if i == 0 else width, width, 3, padding=1), nn.BatchNorm2d(width))
            for i in range(BLOCKS)
        )
        self.features = width * (height >> BLOCKS) * (breadth >> BLOCKS)

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] float -> [N, D]."""
        # Channels last is the layout in which CPU and tensor-core convolutions are fast. Pooling before the ReLU gives
        # the same numbers (both are monotone) for a quarter of the ReLU's work.
        values = images.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            values = torch.relu_(nn.functional.max_pool2d(block(values), 2))
        return values.flatten(1)
