"""The MobileNetV2 encoder: torchvision's `features` up to 17; taps after features 3, 6, 13 and 17."""

from typing import List

from torch import Tensor, nn

from .level_norm import batch_norm, norm_at

# (expansion, channels, repetitions, stride) of the inverted residuals; MobileNetV2 (CVPR 2018), table 2
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
TAPS = (3, 6, 13, 17)


def _keys(first: int, last: int) -> List[str]:
    return ["features.{}.".format(i) for i in range(first, last + 1)]


class LeveledSequential(nn.Sequential):
    """A Sequential whose batch norms may differ by level."""

    def forward(self, x: Tensor, level: int = 0) -> Tensor:
        for module in self:
            x = module(x, level) if isinstance(module, LeveledSequential) else norm_at(module, level)(x)
        return x


def conv_bn_relu6(
    in_channels: int, channels: int, kernel_size: int, stride: int = 1, groups: int = 1, levels: int = 0
) -> LeveledSequential:
    return LeveledSequential(
        nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False),
        batch_norm(channels, levels),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise, linear 1×1; a shortcut where the sizes allow. Keys are torchvision's."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int, levels: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers = []  # type: List[nn.Module]
        if expansion != 1:
            layers.append(conv_bn_relu6(in_channels, hidden, 1, levels=levels))
        layers.append(conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden, levels=levels))
        layers += [nn.Conv2d(hidden, channels, 1, bias=False), batch_norm(channels, levels)]
        self.conv = LeveledSequential(*layers)
        self.shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Tensor, level: int = 0) -> Tensor:
        y = self.conv(x, level)
        return x + y if self.shortcut else y


class MobileNetV2(nn.Module):
    """MobileNetV2 without its 1280-channel convolution and classifier.

    Args:
        levels: of the pyramid that have batch norms of their own; 0 for one batch norm throughout.

    `taps(x, level)` takes a normalised image [N, 3, H, W] and gives four maps of `tap_channels` channels, at strides
    4 to 32; their sizes are the image's divided by the stride, rounded up.
    """

    tap_channels = (24, 32, 96, 320)
    # by keys: the stem up to stride 2, then what leads to each tap
    parts = (_keys(0, 1), _keys(2, 3), _keys(4, 6), _keys(7, 13), _keys(14, 17))

    def __init__(self, levels: int = 0) -> None:
        super().__init__()
        features = [conv_bn_relu6(3, 32, 3, 2, levels=levels)]  # type: List[nn.Module]
        in_channels = 32
        for expansion, channels, repetitions, stride in STAGES:
            for i in range(repetitions):
                features.append(InvertedResidual(in_channels, channels, stride if i == 0 else 1, expansion, levels))
                in_channels = channels
        self.features = nn.Sequential(*features)

    def taps(self, x: Tensor, level: int = 0) -> List[Tensor]:
        taps = []
        for i, feature in enumerate(self.features):
            x = feature(x, level)
            if i in TAPS:
                taps.append(x)
        return taps
