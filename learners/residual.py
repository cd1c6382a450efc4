"""Residual backbones: of images [N, C, H, W] -> features [N, D]."""

from __future__ import annotations

from torch import Tensor, nn

from episodes.errors import ConfigError

_SLOPE, _DROPPED = 0.1, 0.1
BLOCKS = 4  # that halve an image, of every backbone here and of Conv-4


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
        channels, *_ = image_shape("resnet12", shape)
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
        self.path = _path(before, after, last=False)
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))

    def forward(self, values: Tensor) -> Tensor:
        total = self.path(values) + self.shortcut(values)
        return nn.functional.leaky_relu(nn.functional.max_pool2d(total, 2), _SLOPE)


class SnailResNet(nn.Module):
    """Four residual blocks of three 3x3 convolutions with 64, 96, 128, 256 channels, then two 1x1 convolutions.

    SNAIL's embedding of mini-ImageNet (Mishra et al. 2018). A block ends in 2x2 max-pooling and dropout; 2,048 channels are
    then averaged over the image and mapped to D = 384 = 6 * `width`. A tenth of the values is dropped in training: the
    paper's 0.9 is taken for the probability to keep.

    Raises:
        ConfigError: images smaller than 16 pixels, which four poolings reduce to nothing.
    """

    def __init__(self, shape: tuple[int, ...], width: int = 64) -> None:
        super().__init__()
        channels, *_ = image_shape("resnet-snail", shape)
        widths = (width, width * 3 // 2, width * 2, width * 4)
        self.blocks = nn.ModuleList(
            _Snail(before, after) for before, after in zip((channels, *widths), widths, strict=False)
        )
        self.wide, self.dropout = nn.Conv2d(widths[-1], 32 * width, 1), nn.Dropout(_DROPPED)
        self.features = 6 * width
        self.out = nn.Linear(32 * width, self.features)

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] float -> [N, D]."""
        values = images
        for block in self.blocks:
            values = block(values)
        wide = nn.functional.relu(self.wide(values).mean((2, 3)))
        features: Tensor = self.out(self.dropout(wide))
        return features


class _Snail(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.path, self.shortcut = _path(before, after, last=True), nn.Conv2d(before, after, 1)
        self.dropout = nn.Dropout(_DROPPED)

    def forward(self, values: Tensor) -> Tensor:
        pooled: Tensor = self.dropout(nn.functional.max_pool2d(self.path(values) + self.shortcut(values), 2))
        return pooled


def _path(before: int, after: int, *, last: bool) -> nn.Sequential:
    """Three 3x3 convolutions with batch norm and leaky ReLU, after the `last` too or not."""
    layers: list[nn.Module] = []
    for i in range(3):
        layers += [nn.Conv2d(before if i == 0 else after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
        layers += [nn.LeakyReLU(_SLOPE)] if i < 2 or last else []
    return nn.Sequential(*layers)


def image_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` of images that `BLOCKS` blocks can halve; raises `ConfigError` for any other, naming the backbone."""
    if len(shape) != 3 or min(shape[1:]) < 2**BLOCKS:
        raise ConfigError(f"backbone {name} needs images of {2**BLOCKS} x {2**BLOCKS} pixels or more, got shape {shape}")
    return shape
