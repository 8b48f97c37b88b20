"""SwiftNet's decoder modules. In train mode they are plain PyTorch; in eval mode they run the fused operators.

Children carry the published code's names, so state-dict keys are interchangeable.
"""

from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..ops import reference
from ..ops.checks import MODES, choice
from . import fused

BLENDS = ("3x3", "grouped", "separable", "inverted_residual", "1x1")
BLEND_GROUPS = 8


class BNReLUConv(nn.Sequential):
    """Batch norm → ReLU → convolution (stride 1, output of the input's size), the pre-activation unit of the decoder.

    Args:
        in_channels, out_channels: C and K.
        kernel_size: 1 or 3.
        bias: whether the convolution has a bias.
        norm: whether there is a batch norm.
        groups: of the convolution.

    Input [N, C, H, W], output [N, K, H, W]. Source: SwiftNet (CVPR 2019), section 3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        bias: bool = False,
        norm: bool = True,
        groups: int = 1,
    ) -> None:
        if kernel_size not in (1, 3):
            raise ValueError("BNReLUConv: kernel_size: expected 1 or 3, got {!r}; choose one".format(kernel_size))
        super().__init__()
        self.kernel_size = kernel_size
        if norm:
            self.add_module("norm", nn.BatchNorm2d(in_channels))
        self.add_module("relu", nn.ReLU())
        padding = kernel_size // 2
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=bias, groups=groups)
        self.add_module("conv", conv)

    def forward(self, x: Tensor) -> Tensor:
        if not fused.can_fuse(self.kernel_size, self):
            return super().forward(x)
        return fused.unit_1x1(self, x) if self.kernel_size == 1 else fused.unit_3x3(self, x)


class SeparableConv(nn.Module):
    """Depthwise 3×3, then 1×1; nothing between. Children carry the published names."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.conv1(x))


def _inverted_residual(in_channels: int, out_channels: int) -> nn.Sequential:
    """1×1 to twice the channels, depthwise 3×3, 1×1: each but the first after batch norm and ReLU, a batch norm last."""
    hidden = 2 * in_channels
    return nn.Sequential(
        nn.Conv2d(in_channels, hidden, 1, bias=False),
        BNReLUConv(hidden, hidden, kernel_size=3, groups=hidden),
        BNReLUConv(hidden, out_channels, kernel_size=1),
        nn.BatchNorm2d(out_channels),
    )


def _blend_unit(blend: str, channels: int, out_channels: int) -> BNReLUConv:
    choice("UpsampleBlend", "blend", blend, BLENDS)
    if blend == "grouped" and (channels % BLEND_GROUPS or out_channels % BLEND_GROUPS):
        raise ValueError(
            "UpsampleBlend: blend: expected channels divisible by {} for 'grouped', got {} and {}; "
            "choose other channels or another blend".format(BLEND_GROUPS, channels, out_channels)
        )
    groups = BLEND_GROUPS if blend == "grouped" else 1
    unit = BNReLUConv(channels, out_channels, kernel_size=1 if blend == "1x1" else 3, groups=groups)
    if blend == "separable":
        unit.conv = SeparableConv(channels, out_channels)
    elif blend == "inverted_residual":
        unit.conv = _inverted_residual(channels, out_channels)
    return unit


class UpsampleBlend(nn.Module):
    """One step of the decoder: project the tap, resize the coarser map to it, add, and blend with a 3×3.

    Args:
        channels: C, of the coarser map and, after its projection, of the tap.
        skip_channels: of the tap; None where the tap comes projected already (the pyramid model).
        out_channels: K; C if None.
        mode: "bilinear" or "nearest".
        blend: "3x3", or one of the supplementary's lighter ones: "grouped" (3×3 in 8 groups), "separable" (depthwise
            3×3, then 1×1), "inverted_residual" (1×1 to 2·C, depthwise 3×3, 1×1), "1x1".

    Call with x [N, C, h, w] and skip [N, skip_channels, H, W]; gives [N, K, H, W]. Source: SwiftNet, section 3.
    """

    def __init__(
        self,
        channels: int,
        skip_channels: Optional[int] = None,
        out_channels: Optional[int] = None,
        mode: str = "bilinear",
        blend: str = "3x3",
    ) -> None:
        super().__init__()
        choice("UpsampleBlend", "mode", mode, MODES)
        self.mode = mode
        self.bottleneck = None if skip_channels is None else BNReLUConv(skip_channels, channels, kernel_size=1)
        self.blend_conv = _blend_unit(blend, channels, channels if out_channels is None else out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return fused.upsample_blend(self.bottleneck, self.blend_conv, x, skip, self.mode)

    def operators(self) -> str:
        """What runs it in eval mode."""
        return fused.blend_operators(self.bottleneck, self.blend_conv)

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
            maps.append(self.resize(unit(self.pool(x, grid)), size))
        return fuse(torch.cat(maps, 1))

    def pool(self, x: Tensor, grid: Tuple[int, int]) -> Tensor:
        """x averaged over the cells of a grid; cells overlap where a size is not divisible by the grid's."""
        return nn.functional.adaptive_avg_pool2d(x, grid)

    def resize(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """A level's map brought back to the size of the pyramid's input."""
        return reference.resize(x, size, self.mode)

    def operators(self) -> str:
        """What runs it in eval mode."""
        return "lateral_add, spatial_pyramid_pool"

    def extra_repr(self) -> str:
        return "grids={}, square_grid={}, mode={!r}".format(self.grids, self.square_grid, self.mode)
