"""How a layer's modules become arguments of an operator; shared by swiftnet_ext.nn and replace_modules.

A unit is a module with children `norm` (batch norm, may be absent), `relu` and `conv`, in the published code's names.
"""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from .. import ops
from ..ops import reference

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
GLOBAL_HOOKS = tuple(
    "_global_" + h for h in ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
)


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


def _activation_misfit(name: str, unit: Any) -> str:
    """Why a unit's norm and ReLU can't run inside an operator, or nothing.

    Types are compared exactly: a subclass may compute something else.
    """
    children = list(unit._modules.keys()) if isinstance(unit, nn.Module) else []
    if children not in (["norm", "relu", "conv"], ["relu", "conv"]):
        return "{} has children {}, expected norm, relu, conv".format(name, ", ".join(children) or "none")
    norm = norm_of(unit)
    if type(unit.relu) is not nn.ReLU:
        return "{}.relu is {}, not nn.ReLU".format(name, type(unit.relu).__name__)
    if norm is not None and type(norm) not in NORMS:
        return "{}.norm is {}, not nn.BatchNorm2d".format(name, type(norm).__name__)
    if norm is not None and (norm.running_mean is None or norm.running_var is None):
        return "{}.norm keeps no running statistics".format(name)
    return ""


def _conv_misfit(name: str, unit: Any, kernel_size: int) -> str:
    conv, half = unit.conv, kernel_size // 2
    if type(conv) is not nn.Conv2d:
        return "{}.conv is {}, not nn.Conv2d".format(name, type(conv).__name__)
    wanted = (
        ("kernel_size", (kernel_size, kernel_size)),
        ("stride", (1, 1)),
        ("padding", (half, half)),
        ("dilation", (1, 1)),
        ("groups", 1),
        ("padding_mode", "zeros"),
    )
    for attribute, value in wanted:
        if getattr(conv, attribute) != value:
            return "{}.conv has {} {}, the operator {}".format(name, attribute, getattr(conv, attribute), value)
    return ""


def misfit(name: str, unit: Any, kernel_size: int) -> str:
    """Why a unit can't run inside an operator that convolves with this kernel size, or nothing."""
    return _activation_misfit(name, unit) or _conv_misfit(name, unit, kernel_size)


def levels_misfit(levels: Sequence[Any]) -> str:
    """Why units that fit by themselves can't be the levels of one pyramid, or nothing."""
    if not levels:
        return "it has no levels"
    first = levels[0]
    for unit in levels:
        if unit.conv.weight.shape != first.conv.weight.shape or (norm_of(unit) is None) != (norm_of(first) is None):
            return "its levels differ in shape"
        if unit.conv.bias is not None:
            return "its levels have biases"
    return ""


_plain = [False]


class plain_pytorch:
    """A block in which no module runs an operator: for tracing into other formats, and for counting convolutions."""

    def __enter__(self) -> None:
        self._previous, _plain[0] = _plain[0], True

    def __exit__(self, *exception: Any) -> None:
        _plain[0] = self._previous


def _can_activate(unit: Any) -> bool:
    """Whether a unit's norm and ReLU may run inside an operator now: they fit, in eval mode, and no hook waits for them."""
    if _plain[0] or any(getattr(torch_module, hooks, None) for hooks in GLOBAL_HOOKS):
        return False
    if _activation_misfit("", unit) or unit.training or _is_observed(unit) or _is_observed(unit.relu):
        return False
    norm = norm_of(unit)
    return norm is None or not (norm.training or _is_observed(norm))


def can_fuse(kernel_size: int, *units: Any) -> bool:
    """Whether these units may run inside an operator now, their convolutions included."""
    return all(
        _can_activate(unit) and not _conv_misfit("", unit, kernel_size) and not _is_observed(unit.conv)
        for unit in units
    )


def unit_1x1(unit: Any, tap: Tensor, x: Optional[Tensor] = None, mode: str = "bilinear") -> Tensor:
    """affine → ReLU → 1×1 convolution of a tap; x, resized to it, is added."""
    scale, shift = affine_of(norm_of(unit))
    conv = unit.conv
    return ops.lateral_add(tap, conv.weight, x, conv.bias, scale=scale, shift=shift, relu=False, mode=mode)


def unit_3x3(unit: Any, x: Tensor) -> Tensor:
    """batch norm and ReLU in plain PyTorch, then the 3×3 convolution."""
    norm = norm_of(unit)
    return ops.conv3x3(unit.relu(x if norm is None else norm(x)), unit.conv.weight, unit.conv.bias)


def _projected(bottleneck: Any, skip: Tensor) -> Tensor:
    if bottleneck is None:
        return skip
    return unit_1x1(bottleneck, skip) if can_fuse(1, bottleneck) else bottleneck(skip)


def _activated_sum(bottleneck: Any, unit: Any, x: Tensor, skip: Tensor, mode: str) -> Tensor:
    """The input of a unit's convolution in one operator: relu(affine(project(skip) + resize(x)))."""
    conv = bottleneck.conv
    return ops.lateral_add(skip, conv.weight, x, conv.bias, relu=True, mode=mode, **_affines(bottleneck, unit))


def _affines(bottleneck: Any, unit: Any) -> Dict[str, Any]:
    scale, shift = affine_of(norm_of(bottleneck))
    out_scale, out_shift = affine_of(norm_of(unit))
    return {"scale": scale, "shift": shift, "out_scale": out_scale, "out_shift": out_shift}


def upsample_blend(bottleneck: Any, unit: Any, x: Tensor, skip: Tensor, mode: str) -> Tensor:
    """Project skip by the bottleneck (None: it comes projected), resize x to it, add, and run the unit.

    A bottleneck that fits makes the convolution's input in one pass, so the projection alone is never written.
    """
    if bottleneck is not None and can_fuse(1, bottleneck):
        if can_fuse(3, unit):
            lateral, blend = bottleneck.conv, unit.conv
            return ops.upsample_blend(
                x, skip, lateral.weight, blend.weight, lateral.bias, blend.bias, mode=mode, **_affines(bottleneck, unit)
            )
        if _can_activate(unit):
            return unit.conv(_activated_sum(bottleneck, unit, x, skip, mode))
        return unit(unit_1x1(bottleneck, skip, x, mode))
    lateral = skip if bottleneck is None else bottleneck(skip)
    if can_fuse(3, unit):
        scale, shift = affine_of(norm_of(unit))
        conv = unit.conv
        return ops.upsample_add_conv3x3(x, lateral, conv.weight, conv.bias, scale=scale, shift=shift, mode=mode)
    return unit(reference.resize(x, lateral.shape[2:], mode) + lateral)


def blend_operators(bottleneck: Any, unit: Any) -> str:
    """Which operators `upsample_blend` runs in eval mode, and what is plain PyTorch for which reason."""
    misfit_1x1 = "it comes projected" if bottleneck is None else misfit("bottleneck", bottleneck, 1)
    misfit_3x3 = misfit("blend_conv", unit, 3)
    operators = [["upsample_blend"], ["lateral_add"], ["upsample_add_conv3x3"], []][
        2 * bool(misfit_1x1) + bool(misfit_3x3)
    ]
    rest = misfit_3x3 or (misfit_1x1 if bottleneck is not None else "")
    return ", ".join(operators or ["no operator"]) + ("; the rest in plain PyTorch: " + rest if rest else "")


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
