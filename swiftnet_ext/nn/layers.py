"""SwiftNet's decoder modules. In train mode they are plain PyTorch; in eval mode they run the fused operators.

Children carry the published code's names, so state-dict keys are interchangeable.
"""

from typing import Any, Optional, Sequence

import torch
from torch import Tensor, nn

from .. import ops
from ..ops import reference
from ..ops.checks import MODES, choice
from . import fused


def check_images(images: Any) -> None:
    """Images are a floating-point tensor [N, 3, H, W].

    Raises:
        ValueError: anything else.
    """
    tensor = isinstance(images, Tensor)
    if not tensor or images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
        got = "{} {}".format(images.dtype, list(images.shape)) if tensor else type(images).__name__
        raise ValueError(
            "images: expected a floating-point tensor [N, 3, H, W] of RGB 0..255, got {}; "
            "a uint8 image [H, W, 3] goes to segment()".format(got)
        )


class BNReLUConv(nn.Sequential):
    """Batch norm → ReLU → convolution (stride 1, output of the input's size), the pre-activation unit of the decoder.

    Args:
        in_channels, out_channels: C and K.
        kernel_size: 1 or 3.
        bias: whether the convolution has a bias.
        norm: whether there is a batch norm.

    Input [N, C, H, W], output [N, K, H, W]. Source: SwiftNet (CVPR 2019), section 3.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, bias: bool = False, norm: bool = True
    ) -> None:
        if kernel_size not in (1, 3):
            raise ValueError("BNReLUConv: kernel_size: expected 1 or 3, got {!r}; choose one".format(kernel_size))
        super().__init__()
        self.kernel_size = kernel_size
        if norm:
            self.add_module("norm", nn.BatchNorm2d(in_channels))
        self.add_module("relu", nn.ReLU())
        self.add_module("conv", nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        if not fused.can_fuse(self.kernel_size, self):
            return super().forward(x)
        return fused.unit_1x1(self, x) if self.kernel_size == 1 else fused.unit_3x3(self, x)


class UpsampleBlend(nn.Module):
    """One step of the decoder: project the tap, resize the coarser map to it, add, and blend with a 3×3.

    Args:
        channels: C, of the coarser map and, after its projection, of the tap.
        skip_channels: of the tap; None where the tap comes projected already (the pyramid model).
        out_channels: K; C if None.
        mode: "bilinear" or "nearest".

    Call with x [N, C, h, w] and skip [N, skip_channels, H, W]; gives [N, K, H, W]. Source: SwiftNet, section 3.
    """

    def __init__(
        self,
        channels: int,
        skip_channels: Optional[int] = None,
        out_channels: Optional[int] = None,
        mode: str = "bilinear",
    ) -> None:
        super().__init__()
        choice("UpsampleBlend", "mode", mode, MODES)
        self.mode = mode
        self.bottleneck = None if skip_channels is None else BNReLUConv(skip_channels, channels, kernel_size=1)
        self.blend_conv = BNReLUConv(channels, channels if out_channels is None else out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        lateral = skip if self.bottleneck is None else self.bottleneck(skip)
        if fused.can_fuse(3, self.blend_conv):
            return fused.blend(self.blend_conv, x, lateral, self.mode)
        return self.blend_conv(reference.resize(x, lateral.shape[2:], self.mode) + lateral)

    def extra_repr(self) -> str:
        return "mode={!r}".format(self.mode)


class SpatialPyramidPooling(nn.Module):
    """Pool to several grids, a 1×1 on each, resize back, concatenate, and fuse with a 1×1.

    Args:
        in_channels: of the stride-32 tap.
        channels: after the first 1×1, and of the output.
        grids: rows of each level; its columns are max(1, round(rows·W/H)), with Python's round.
        square_grid: rows and columns alike instead.
        mode: "bilinear" or "nearest".

    Input [N, in_channels, H, W], output [N, channels, H, W]; each level has channels // len(grids) channels. Source:
    SwiftNet, section 3.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 128,
        grids: Sequence[int] = (8, 4, 2),
        square_grid: bool = False,
        mode: str = "bilinear",
    ) -> None:
        super().__init__()
        choice("SpatialPyramidPooling", "mode", mode, MODES)
        if not grids or min(grids) < 1:
            raise ValueError("SpatialPyramidPooling: grids: expected positive row counts, got {!r}".format(grids))
        self.grids, self.square_grid, self.mode = tuple(grids), square_grid, mode
        level_channels = channels // len(self.grids)
        if level_channels < 1:
            raise ValueError(
                "SpatialPyramidPooling: channels: expected at least one for each of {} grids, got {!r}".format(
                    len(self.grids), channels
                )
            )
        self.spp = nn.Sequential()
        self.spp.add_module("spp_bn", BNReLUConv(in_channels, channels, kernel_size=1))
        for i in range(len(self.grids)):
            self.spp.add_module("spp{}".format(i), BNReLUConv(channels, level_channels, kernel_size=1))
        concatenated = channels + level_channels * len(self.grids)
        self.spp.add_module("spp_fuse", BNReLUConv(concatenated, channels, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        first, levels, fuse = self.spp[0], list(self.spp)[1:-1], self.spp[-1]
        x = first(x)
        size = x.shape[2:]
        grids = fused.pyramid_grids(self.grids, size[0], size[1], self.square_grid)
        if fused.can_fuse(1, fuse, *levels) and not fused.levels_misfit(levels):
            return fused.pyramid(levels, fuse, x, grids, self.mode)
        maps = [x]
        for unit, grid in zip(levels, grids):
            maps.append(reference.resize(unit(nn.functional.adaptive_avg_pool2d(x, grid)), size, self.mode))
        return fuse(torch.cat(maps, 1))

    def extra_repr(self) -> str:
        return "grids={}, square_grid={}, mode={!r}".format(self.grids, self.square_grid, self.mode)


class MultiScale(nn.Module):
    """Multi-scale inference: run a model on the image at several sizes and average the class probabilities.

    Args:
        model: has `logits(images)`, e.g. a network of swiftnet_ext.models.
        factors: of the image's height and width; the scaled sizes are rounded, and at least 1.
        order: "softmax_then_resize" or "resize_then_softmax" (see ops.multiscale_mean).

    Input: images [N, 3, H, W], float RGB 0..255. Output: probabilities [N, classes, H, W], or with reduce="argmax"
    labels [N, H, W] uint8. Source: SwiftNet's supplementary, multi-scale inference.
    """

    def __init__(
        self, model: Any, factors: Sequence[float] = (0.5, 0.75, 1, 1.25, 1.5), order: str = "softmax_then_resize"
    ) -> None:
        super().__init__()
        if not callable(getattr(model, "logits", None)):
            raise TypeError(
                "MultiScale: model: expected one with a method logits(images); use swiftnet_ext.build_model"
            )
        if not factors or min(factors) <= 0:
            raise ValueError("MultiScale: factors: expected positive numbers, got {!r}".format(factors))
        self.model, self.factors, self.order = model, tuple(factors), order

    def forward(self, images: Tensor, reduce: str = "mean") -> Tensor:
        check_images(images)
        height, width = images.shape[2:]
        maps = []
        for factor in self.factors:
            size = max(1, int(round(height * factor))), max(1, int(round(width * factor)))
            maps.append(self.model.logits(reference.resize(images, size, "bilinear")))
        return ops.multiscale_mean(maps, (height, width), order=self.order, reduce=reduce)

    def extra_repr(self) -> str:
        return "factors={}, order={!r}".format(self.factors, self.order)
