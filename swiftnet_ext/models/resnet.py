"""The ResNet encoder: taps are the last block's residual sum before its ReLU, at strides 4, 8, 16 and 32."""

from typing import List, Sequence, Tuple

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut. Gives (relu(sum), sum); keys are torchvision's."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        shortcut = x if self.downsample is None else self.downsample(x)
        total = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + shortcut
        return torch.relu(total), total


class ResNet(nn.Module):
    """A ResNet of basic blocks without its classifier.

    Args:
        blocks: basic blocks of each of the four stages; (2, 2, 2, 2) is ResNet-18.

    `taps(x)` takes a normalised image [N, 3, H, W] and gives four maps of `tap_channels` channels.
    """

    tap_channels = (64, 128, 256, 512)

    def __init__(self, blocks: Sequence[int] = (2, 2, 2, 2)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        in_channels = 64
        for i, (count, channels) in enumerate(zip(blocks, self.tap_channels)):
            stride = 1 if i == 0 else 2
            blocks_of_stage = [
                BasicBlock(in_channels if j == 0 else channels, channels, stride if j == 0 else 1) for j in range(count)
            ]
            self.add_module("layer{}".format(i + 1), nn.Sequential(*blocks_of_stage))
            in_channels = channels

    def taps(self, x: Tensor) -> List[Tensor]:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        taps = []
        for i in range(len(self.tap_channels)):
            for block in getattr(self, "layer{}".format(i + 1)):
                x, total = block(x)
            taps.append(total)
        return taps
