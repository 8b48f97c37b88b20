"""The ResNet encoder: taps are the last block's residual sum before its ReLU, at strides 4, 8, 16 and 32."""

from typing import List, Sequence, Tuple

import torch
from torch import Tensor, nn

from .level_norm import batch_norm, norm_at


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut. Gives (relu(sum), sum); keys are torchvision's."""

    def __init__(self, in_channels: int, channels: int, stride: int, levels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = batch_norm(channels, levels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = batch_norm(channels, levels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False),
                nn.BatchNorm2d(channels),  # shared by all levels
            )

    def forward(self, x: Tensor, level: int = 0) -> Tuple[Tensor, Tensor]:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = torch.relu(norm_at(self.bn1, level)(self.conv1(x)))
        total = norm_at(self.bn2, level)(self.conv2(y)) + shortcut
        return torch.relu(total), total


class ResNet(nn.Module):
    """A ResNet of basic blocks without its classifier.

    Args:
        blocks: basic blocks of each of the four stages; (2, 2, 2, 2) is ResNet-18, (3, 4, 6, 3) ResNet-34.
        levels: of the pyramid that have batch norms of their own; 0 for one batch norm throughout.

    `taps(x, level)` takes a normalised image [N, 3, H, W] and gives four maps of `tap_channels` channels, at strides
    4 to 32; their sizes are the image's divided by the stride, rounded up.
    """

    tap_channels = (64, 128, 256, 512)
    parts = (("conv1.", "bn1."), ("layer1.",), ("layer2.",), ("layer3.",), ("layer4.",))  # stem, RB1 … RB4, by keys

    def __init__(self, blocks: Sequence[int] = (2, 2, 2, 2), levels: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = batch_norm(64, levels)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        in_channels = 64
        for i, (count, channels) in enumerate(zip(blocks, self.tap_channels)):
            stage = []
            for j in range(count):
                stage.append(BasicBlock(in_channels, channels, 2 if i > 0 and j == 0 else 1, levels))
                in_channels = channels
            self.add_module("layer{}".format(i + 1), nn.Sequential(*stage))

    def taps(self, x: Tensor, level: int = 0) -> List[Tensor]:
        x = self.maxpool(torch.relu(norm_at(self.bn1, level)(self.conv1(x))))
        taps = []
        for i in range(len(self.tap_channels)):
            for block in getattr(self, "layer{}".format(i + 1)):
                x, total = block(x, level)
            taps.append(total)
        return taps
