"""The pyramid decoder: the encoder runs on the image and its halves, laterals of equal stride are summed, and upsampling
steps lead from the coarsest to stride 4. Source: SwiftNet (CVPR 2019), section 3.3; its second generation is "Efficient
semantic segmentation with pyramidal fusion" (2020).

A level's image is the full image divided by 2^level, rounded up. Every stride-2 layer rounds up as well, so that taps of
equal stride have equal sizes whatever the image's: nothing is padded or cut.
"""

from typing import Any, List, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn import BNReLUConv, UpsampleBlend


def attach(encoder: Any, channels: int, mode: str, blend: str, levels: int, generation: int) -> None:
    """Gives an encoder the decoder's modules, under the published names.

    The first generation's laterals are BN-ReLU-3×3 and its halves antialiased, the second's are plain 1×1 and its halves
    are not.
    """
    if generation == 1:
        laterals = [BNReLUConv(c, channels) for c in encoder.tap_channels]  # type: List[nn.Module]
    else:
        laterals = [nn.Conv2d(c, channels, 1, bias=False) for c in encoder.tap_channels]
    encoder.upsample_bottlenecks = nn.ModuleList(reversed(laterals))
    steps = [UpsampleBlend(channels, mode=mode, blend=blend) for _ in range(levels + 2)]
    encoder.upsample_blends = nn.ModuleList(steps)
    encoder.halve = antialiased_bicubic if generation == 1 else bicubic


def bicubic(images: Tensor, height: int, width: int) -> Tensor:
    """As the second generation's code makes its levels."""
    return F.interpolate(images, size=(height, width), mode="bicubic", align_corners=False)


def antialiased_bicubic(images: Tensor, height: int, width: int) -> Tensor:
    """As the first generation's levels were made, by Pillow; in plain products because PyTorch 1.10 has none."""
    rows, columns = bicubic_weights(images.shape[2], height, images), bicubic_weights(images.shape[3], width, images)
    return torch.matmul(torch.matmul(rows, images), columns.t())


def bicubic_weights(size: int, smaller: int, like: Tensor) -> Tensor:
    """[smaller, size]: Keys' cubic (a = -1/2), widened by the ratio of the sizes, each row of sum 1."""
    ratio = size / float(smaller)
    centre = (torch.arange(smaller, dtype=torch.float64, device=like.device) + 0.5) * ratio
    x = ((torch.arange(size, dtype=torch.float64, device=like.device) + 0.5)[None] - centre[:, None]).abs() / ratio
    near, far = (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
    return (weights / weights.sum(1, keepdim=True)).to(like.dtype)


def decode(backbone: Any, images: Tensor) -> Tensor:
    """Normalised images [N, 3, H, W] to the decoder's last map [N, channels, ⌈H/4⌉, ⌈W/4⌉]."""
    levels = len(backbone.upsample_blends) - 2
    height, width = images.shape[2:]
    sums = [None] * (levels + 3)  # type: List[Optional[Tensor]]  # of laterals, at strides 4, 8, 16 …
    for level in range(levels):
        divisor = 2**level
        size = (height + divisor - 1) // divisor, (width + divisor - 1) // divisor
        taps = backbone.taps(images if level == 0 else backbone.halve(images, *size), level)
        for i, (tap, lateral) in enumerate(zip(taps, reversed(backbone.upsample_bottlenecks))):
            y, total = lateral(tap), sums[level + i]
            sums[level + i] = y if total is None else total + y
    x = sums.pop()  # type: Any
    for blend, total in zip(backbone.upsample_blends, reversed(sums)):
        x = blend(x, total)
    return x
