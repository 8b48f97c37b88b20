"""Spatial pyramid pooling: pool to several grids, 1×1 each, resize, concatenate, fuse."""

from typing import Any, List, Optional, Sequence, Tuple

from torch import Tensor

from .._native import current_stream
from . import checks, native_cpu, reference
from .autocast import cast_for_autocast
from .backend import kernels_for, parameters, workspace
from .registration import empty_like_layout, in_layout_of, register

NAME = "spatial_pyramid_pool"
MAX_LEVELS = 8  # csrc/kernels/spatial_pyramid_pool.cuh
MAX_CELLS = 1024


def spatial_pyramid_pool(
    x: Tensor,
    level_weight: Tensor,
    fuse_weight: Tensor,
    fuse_bias: Optional[Tensor] = None,
    *,
    grids: Sequence[Tuple[int, int]],
    level_scale: Optional[Tensor] = None,
    level_shift: Optional[Tensor] = None,
    fuse_scale: Optional[Tensor] = None,
    fuse_shift: Optional[Tensor] = None,
    mode: str = "bilinear",
) -> Tensor:
    """conv1×1(relu(fuse_scale·cat(x, level_0, …) + fuse_shift)) + fuse_bias with
    level_l = up(level_weight_l · relu(level_scale_l·avgpool(x → grids_l) + level_shift_l)).

    up resizes to x's size; the average pooling is adaptive, with PyTorch's windows (overlapping where a grid does not
    divide the map). The concatenation is never written by the kernels; their intermediates are fp32. Differentiable
    in every tensor.

    Args:
        x: [N, C, H, W], the stride-32 map after its first 1×1; float32, float16, bfloat16 or float64.
        level_weight: [L, D, C], of x's dtype.
        fuse_weight: [K, C + L·D], of x's dtype.
        fuse_bias: [K] or None; this and the affines are float32 or of x's dtype.
        grids: L pairs (rows, columns).
        level_scale, level_shift: [L, C] or None for 1 and 0.
        fuse_scale, fuse_shift: [C + L·D] or None for 1 and 0.
        mode: "bilinear" (align_corners=False) or "nearest".

    Returns:
        [N, K, H, W] in x's dtype and memory format.

    Raises:
        TypeError: a wrong type or dtype. ValueError: a wrong shape, device, mode or grid.

    Source: SwiftNet (CVPR 2019), section 3: spatial pyramid pooling with grids 8, 4, 2.
    """
    x, level_weight, fuse_weight = cast_for_autocast(x, level_weight, fuse_weight)
    checks.feature_map(NAME, "x", x)
    checks.grid_pairs(NAME, grids)
    levels, channels = len(grids), x.shape[1]
    checks.weight(NAME, "level_weight", level_weight, (levels, "D", channels), like=x)
    concatenated = channels + levels * level_weight.shape[1]
    checks.weight(NAME, "fuse_weight", fuse_weight, ("K", concatenated), like=x)
    checks.vector(NAME, "fuse_bias", fuse_bias, (fuse_weight.shape[0],), like=x)
    checks.vector(NAME, "level_scale", level_scale, (levels, channels), like=x)
    checks.vector(NAME, "level_shift", level_shift, (levels, channels), like=x)
    checks.vector(NAME, "fuse_scale", fuse_scale, (concatenated,), like=x)
    checks.vector(NAME, "fuse_shift", fuse_shift, (concatenated,), like=x)
    checks.choice(NAME, "mode", mode, checks.MODES)
    sizes = [n for grid in grids for n in grid]
    return _operator(
        x, level_weight, fuse_weight, fuse_bias, level_scale, level_shift, fuse_scale, fuse_shift, sizes, mode
    )


def _cells(sizes: Sequence[int]) -> int:
    return sum(rows * columns for rows, columns in _pairs(sizes))


def _pairs(sizes: Sequence[int]) -> List[Tuple[int, int]]:
    return list(zip(sizes[0::2], sizes[1::2]))


def _limit(sizes: Sequence[int]) -> str:
    """What the kernel can't do with these grids, or nothing."""
    if len(sizes) > 2 * MAX_LEVELS:
        return "{} grids, at most {}".format(len(sizes) // 2, MAX_LEVELS)
    if _cells(sizes) > MAX_CELLS:
        return "{} pooling cells in all, at most {}".format(_cells(sizes), MAX_CELLS)
    return ""


def _run(*arguments: Any) -> Tensor:
    x, level_weight, sizes = arguments[0], arguments[1], arguments[8]
    limit = _limit(sizes)
    native = native_cpu.kernels_for(x, limit=limit)
    if native is not None:
        return native_cpu.spatial_pyramid_pool(NAME, native, *arguments)
    kernels = kernels_for(NAME, x, limit)
    if kernels is None:
        return in_layout_of(_reference(*arguments), x)
    y = _fake(*arguments)
    strips = x.shape[2] * sum(sizes[1::2]) * (-(-x.shape[1] // 4) * 4)  # a row's sums over each column of the grids
    floats = x.shape[0] * (strips + _cells(sizes) * level_weight.shape[1])
    given = (*arguments[:3], *parameters(*arguments[3:8]), *arguments[8:])
    kernels.spatial_pyramid_pool(*given, workspace(NAME, floats, x.device), y, current_stream(x.device))
    return y


def _reference(
    x: Tensor,
    level_weight: Tensor,
    fuse_weight: Tensor,
    fuse_bias: Any,
    level_scale: Any,
    level_shift: Any,
    fuse_scale: Any,
    fuse_shift: Any,
    sizes: List[int],
    mode: str,
) -> Tensor:
    return reference.spatial_pyramid_pool(
        x,
        level_weight,
        fuse_weight,
        fuse_bias,
        grids=_pairs(sizes),
        level_scale=level_scale,
        level_shift=level_shift,
        fuse_scale=fuse_scale,
        fuse_shift=fuse_shift,
        mode=mode,
    )


def _fake(x: Tensor, level_weight: Tensor, fuse_weight: Tensor, *rest: Any) -> Tensor:
    return empty_like_layout(x, (x.shape[0], fuse_weight.shape[0], x.shape[2], x.shape[3]))


_operator = register(
    NAME,
    "(Tensor x, Tensor level_weight, Tensor fuse_weight, Tensor? fuse_bias, Tensor? level_scale, Tensor? level_shift, "
    "Tensor? fuse_scale, Tensor? fuse_shift, SymInt[] sizes, str mode) -> Tensor",
    _run,
    _reference,
    _fake,
)
