"""How a layer's modules become arguments of an operator; shared by swiftnet_ext.nn and replace_modules.

A unit is a module with children `norm` (batch norm, may be absent), `relu` and `conv`, in the published code's names.
"""

from typing import Any, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from .. import ops

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def norm_of(unit: Any) -> Optional[nn.Module]:
    """The unit's batch norm, or None where it has none."""
    return getattr(unit, "norm", None)


def affine_of(norm: Any) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    """A batch norm in eval mode as (scale, shift), fp32 or fp64 and differentiable: y = scale·x + shift.

    scale = weight / sqrt(running_var + eps), shift = bias - running_mean·scale. None stands for no norm.
    """
    if norm is None:
        return None, None
    dtype = torch.float64 if norm.running_var.dtype == torch.float64 else torch.float32
    scale = torch.rsqrt(norm.running_var.to(dtype) + norm.eps)
    if norm.weight is not None:
        scale = norm.weight.to(dtype) * scale
    shift = -norm.running_mean.to(dtype) * scale
    if norm.bias is not None:
        shift = norm.bias.to(dtype) + shift
    return scale, shift


def _is_observed(module: nn.Module) -> bool:
    """Whether something waits for this module's own call: hooks, or a forward set on the object."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    return bool(hooks or getattr(module, "_backward_pre_hooks", None) or "forward" in vars(module))


def can_fuse(units: Sequence[Any]) -> bool:
    """Whether these units may run inside an operator now: in eval mode, of plain layers that nothing observes."""
    for unit in units:
        norm = norm_of(unit)
        if type(unit.conv) is not nn.Conv2d or type(unit.relu) is not nn.ReLU:
            return False
        if unit.training or _is_observed(unit) or _is_observed(unit.relu) or _is_observed(unit.conv):
            return False
        if norm is not None and (
            type(norm) not in NORMS or norm.training or norm.running_mean is None or _is_observed(norm)
        ):
            return False
    return True


def unit_1x1(unit: Any, x: Tensor) -> Tensor:
    """affine → ReLU → 1×1 convolution."""
    scale, shift = affine_of(norm_of(unit))
    conv = unit.conv
    return ops.lateral_add(x, conv.weight, None, conv.bias, scale=scale, shift=shift, relu=False)


def unit_3x3(unit: Any, x: Tensor) -> Tensor:
    """batch norm and ReLU in plain PyTorch, then the 3×3 convolution."""
    norm = norm_of(unit)
    return ops.conv3x3(unit.relu(x if norm is None else norm(x)), unit.conv.weight, unit.conv.bias)


def blend(unit: Any, x: Tensor, skip: Tensor, mode: str) -> Tensor:
    """resize x to skip, add → affine → ReLU → 3×3 convolution."""
    scale, shift = affine_of(norm_of(unit))
    conv = unit.conv
    return ops.upsample_add_conv3x3(x, skip, conv.weight, conv.bias, scale=scale, shift=shift, mode=mode)


def _stacked(parameters: List[Optional[Tensor]]) -> Optional[Tensor]:
    return None if parameters[0] is None else torch.stack([p for p in parameters if p is not None])


def pyramid(levels: Sequence[Any], fuse: Any, x: Tensor, grids: Sequence[Tuple[int, int]], mode: str) -> Tensor:
    """Pool to the grids, one unit each; resize, concatenate, fuse. x is the map after the pyramid's first unit."""
    affines = [affine_of(norm_of(unit)) for unit in levels]
    fuse_scale, fuse_shift = affine_of(norm_of(fuse))
    return ops.spatial_pyramid_pool(
        x,
        torch.stack([unit.conv.weight[:, :, 0, 0] for unit in levels]),
        fuse.conv.weight[:, :, 0, 0],
        fuse.conv.bias,
        grids=grids,
        level_scale=_stacked([scale for scale, _ in affines]),
        level_shift=_stacked([shift for _, shift in affines]),
        fuse_scale=fuse_scale,
        fuse_shift=fuse_shift,
        mode=mode,
    )


def pyramid_grids(grids: Sequence[int], height: int, width: int, square: bool) -> List[Tuple[int, int]]:
    """Grid g is g rows by max(1, round(g·width/height)) columns, with Python's round; g by g where square."""
    return [(g, g if square else max(1, round(g * (int(width) / int(height))))) for g in grids]
