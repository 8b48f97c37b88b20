"""The MobileNetV2 encoder: torchvision's `features` up to 17; taps after features 3, 6, 13 and 17."""

from typing import List

from torch import Tensor, nn

# (expansion, channels, repetitions, stride) of the inverted residuals; MobileNetV2 (CVPR 2018), table 2
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
TAPS = (3, 6, 13, 17)


def conv_bn_relu6(in_channels: int, channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise, linear 1×1; a shortcut where the sizes allow. Keys are torchvision's."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers = [] if expansion == 1 else [conv_bn_relu6(in_channels, hidden, 1)]  # type: List[nn.Module]
        layers.append(conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden))
        layers += [nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels)]
        self.conv = nn.Sequential(*layers)
        self.shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 without its 1280-channel convolution and classifier.

    `taps(x)` takes a normalised image [N, 3, H, W] and gives four maps of `tap_channels` channels at strides 4 to 32.
    """

    tap_channels = (24, 32, 96, 320)

    def __init__(self) -> None:
        super().__init__()
        features = [conv_bn_relu6(3, 32, 3, 2)]  # type: List[nn.Module]
        in_channels = 32
        for expansion, channels, repetitions, stride in STAGES:
            for i in range(repetitions):
                features.append(InvertedResidual(in_channels, channels, stride if i == 0 else 1, expansion))
                in_channels = channels
        self.features = nn.Sequential(*features)

    def taps(self, x: Tensor) -> List[Tensor]:
        taps = []
        for i, feature in enumerate(self.features):
            x = feature(x)
            if i in TAPS:
                taps.append(x)
        return taps
