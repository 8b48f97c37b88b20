"""A network as a user of plain PyTorch has it: the same weights, none of this package's operators or decoder modules."""

import copy
from collections import OrderedDict
from typing import Any, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models import SwiftNet
from ...nn import BNReLUConv, SpatialPyramidPooling, UpsampleBlend
from ...nn.fused import pyramid_grids


def _resize(x: Tensor, size: Sequence[int], mode: str) -> Tensor:
    return F.interpolate(x, size=size, mode=mode, align_corners=False if mode == "bilinear" else None)


class _Blend(nn.Module):
    def __init__(self, step: UpsampleBlend) -> None:
        super().__init__()
        self.mode = step.mode
        self.bottleneck = nn.Identity() if step.bottleneck is None else _plain(step.bottleneck)
        self.blend_conv = _plain(step.blend_conv)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        lateral = self.bottleneck(skip)
        return self.blend_conv(_resize(x, lateral.shape[2:], self.mode) + lateral)


class _Pooling(nn.Module):
    def __init__(self, pooling: SpatialPyramidPooling) -> None:
        super().__init__()
        self.grids, self.square_grid, self.mode = pooling.grids, pooling.square_grid, pooling.mode
        first, *levels, fuse = (_plain(unit) for unit in pooling.spp)
        self.first, self.levels, self.fuse = first, nn.ModuleList(levels), fuse

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        size = x.shape[2:]
        maps = [x]
        for level, grid in zip(self.levels, pyramid_grids(self.grids, size[0], size[1], self.square_grid)):
            maps.append(_resize(level(F.adaptive_avg_pool2d(x, grid)), size, self.mode))
        return self.fuse(torch.cat(maps, 1))


def _plain(module: Any) -> Any:
    """The module, or what stands for it; of containers the children are replaced in place."""
    if isinstance(module, UpsampleBlend):
        return _Blend(module)
    if isinstance(module, SpatialPyramidPooling):
        return _Pooling(module)
    for name, child in list(module.named_children()):
        setattr(module, name, _plain(child))
    return nn.Sequential(OrderedDict(module._modules)) if isinstance(module, BNReLUConv) else module


def channels_last(module: Any) -> None:
    """Lays its weights out so, in place."""
    module.to(memory_format=torch.channels_last)


class PlainNetwork(nn.Module):
    """A copy of a network in eval mode, channels_last, on a device and in a dtype.

    Images [N, 3, H, W], float or uint8 RGB 0..255, to logits [N, classes, H, W]. They are normalised in fp32 whatever the
    dtype.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: SwiftNet, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        copied = copy.deepcopy(model)
        self.backbone = _plain(copied.backbone)
        self.head = nn.Sequential(OrderedDict(copied.logits._modules))
        mean, std = self.backbone.img_mean, self.backbone.img_std
        self.to(device, dtype).eval().requires_grad_(False)
        channels_last(self)
        self.register_buffer("mean", mean.to(device, torch.float32))
        self.register_buffer("std", std.to(device, torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        small = images.float()
        if self.backbone.half_resolution:
            half = (images.shape[2] + 1) // 2, (images.shape[3] + 1) // 2
            small = _resize(small, half, "bilinear")
        normalised = ((small - self.mean) / self.std).to(self.backbone.img_mean.dtype)
        normalised = normalised.contiguous(memory_format=torch.channels_last)
        logits = self.head(self.backbone.decode(self.backbone, normalised))
        return _resize(logits, images.shape[2:], "bilinear")


class PlainSegmenter(nn.Module):
    """From images, uint8 RGB [N, H, W, 3], to their labels, uint8 [N, H, W]."""

    def __init__(self, network: PlainNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.permute(0, 3, 1, 2)).argmax(1).to(torch.uint8)
