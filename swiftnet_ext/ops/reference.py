"""Every operator in plain PyTorch: the specification.

It runs where no kernel can, tests compare with it, and autograd differentiates it. Arguments are taken as checked
(`swiftnet_ext.ops` checks them). fp16 tensors on a CPU are computed in fp32 and rounded once.
"""

import functools
from typing import Any, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .autocast import autocast_enabled

# PyTorch's CPU layers lack fp16 or are slow in it, and before 2.0 lack bf16
_IN_FLOAT_ON_CPU = (torch.float16,) if hasattr(torch, "compile") else (torch.float16, torch.bfloat16)

STRIPE = 2**20  # values of classes × rows × W that multiscale_mean holds at a time


def resize(x: Tensor, size: Sequence[int], mode: str) -> Tensor:
    """x [N, C, h, w] to [N, C, *size]; bilinear with align_corners=False, or nearest. The same size is a copy."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    if mode == "nearest":
        return F.interpolate(x, size=tuple(size), mode="nearest")
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def affine(x: Tensor, scale: Optional[Tensor], shift: Optional[Tensor]) -> Tensor:
    """scale·x + shift per channel; scale and shift [C], absent ones are 1 and 0."""
    if scale is not None:
        x = x * scale.reshape(1, -1, 1, 1)
    return x if shift is None else x + shift.reshape(1, -1, 1, 1)


def affine_relu(x: Tensor, scale: Optional[Tensor], shift: Optional[Tensor]) -> Tensor:
    """relu(scale·x + shift) per channel, in x's dtype."""
    return torch.relu(affine(x, scale, shift)).to(x.dtype)


def _in_dtype_of(x: Tensor, parameter: Optional[Tensor]) -> Optional[Tensor]:
    return None if parameter is None else parameter.to(x.dtype)


def _precise(operator: Any) -> Any:
    """Runs a reference in its arguments' dtype whatever autocast says; what a CPU lacks in fp32, rounded once."""

    def to_float(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype in _IN_FLOAT_ON_CPU:
            return value.float()
        return [to_float(item) for item in value] if isinstance(value, (list, tuple)) else value

    @functools.wraps(operator)
    def wrapped(first: Any, *args: Any, **kwargs: Any) -> Any:
        x = first if isinstance(first, Tensor) else first[0]
        if autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return wrapped(first, *args, **kwargs)
        if x.dtype not in _IN_FLOAT_ON_CPU or x.device.type != "cpu":
            return operator(first, *args, **kwargs)
        y = operator(to_float(first), *map(to_float, args), **{k: to_float(v) for k, v in kwargs.items()})
        if isinstance(y, tuple):
            return tuple(part.to(x.dtype) for part in y)
        return y.to(x.dtype) if y.is_floating_point() else y

    return wrapped


@_precise
def upsample_add_conv3x3(
    x: Tensor,
    skip: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    *,
    scale: Optional[Tensor] = None,
    shift: Optional[Tensor] = None,
    mode: str = "bilinear",
) -> Tensor:
    blended = resize(x, skip.shape[2:], mode) + skip
    return F.conv2d(affine_relu(blended, scale, shift), weight, _in_dtype_of(x, bias), padding=1)


@_precise
def conv3x3(
    x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, *, residual: Optional[Tensor] = None, relu: bool = False
) -> Tensor:
    y = F.conv2d(x, weight, _in_dtype_of(x, bias), padding=1)
    if residual is not None:
        y = y + residual
    return torch.relu(y) if relu else y


@_precise
def conv3x3_with_sum(
    x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, *, residual: Optional[Tensor] = None
) -> Tuple[Tensor, Tensor]:
    total = conv3x3(x, weight, bias, residual=residual)
    return torch.relu(total), total


@_precise
def conv3x3_head(
    x: Tensor,
    weight: Tensor,
    head_weight: Tensor,
    bias: Optional[Tensor] = None,
    head_bias: Optional[Tensor] = None,
    *,
    scale: Optional[Tensor] = None,
    shift: Optional[Tensor] = None,
) -> Tensor:
    hidden = F.conv2d(x, weight, _in_dtype_of(x, bias), padding=1)
    return F.conv2d(affine_relu(hidden, scale, shift), head_weight, _in_dtype_of(x, head_bias))


@_precise
def lateral_add(
    tap: Tensor,
    weight: Tensor,
    x: Optional[Tensor] = None,
    bias: Optional[Tensor] = None,
    *,
    scale: Optional[Tensor] = None,
    shift: Optional[Tensor] = None,
    out_scale: Optional[Tensor] = None,
    out_shift: Optional[Tensor] = None,
    relu: bool = True,
    mode: str = "bilinear",
) -> Tensor:
    y = F.conv2d(affine_relu(tap, scale, shift), weight, _in_dtype_of(tap, bias))
    if x is not None:
        y = y + resize(x, tap.shape[2:], mode)
    y = affine(y, out_scale, out_shift)
    return (torch.relu(y) if relu else y).to(tap.dtype)


@_precise
def upsample_blend(
    x: Tensor,
    tap: Tensor,
    lateral_weight: Tensor,
    weight: Tensor,
    lateral_bias: Optional[Tensor] = None,
    bias: Optional[Tensor] = None,
    *,
    scale: Optional[Tensor] = None,
    shift: Optional[Tensor] = None,
    out_scale: Optional[Tensor] = None,
    out_shift: Optional[Tensor] = None,
    head_weight: Optional[Tensor] = None,
    head_bias: Optional[Tensor] = None,
    head_scale: Optional[Tensor] = None,
    head_shift: Optional[Tensor] = None,
    mode: str = "bilinear",
) -> Tensor:
    lateral = {"scale": scale, "shift": shift, "out_scale": out_scale, "out_shift": out_shift, "mode": mode}  # type: Any
    activated = lateral_add(tap, lateral_weight, x, lateral_bias, **lateral)
    if head_weight is None:
        return conv3x3(activated, weight, bias)
    return conv3x3_head(activated, weight, head_weight, bias, head_bias, scale=head_scale, shift=head_shift)


def _row(parameters: Optional[Tensor], i: int) -> Optional[Tensor]:
    return None if parameters is None else parameters[i]


@_precise
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
    levels = [x]
    for i, grid in enumerate(grids):
        pooled = F.adaptive_avg_pool2d(x, (grid[0], grid[1]))
        activated = affine_relu(pooled, _row(level_scale, i), _row(level_shift, i))
        levels.append(resize(F.conv2d(activated, level_weight[i][:, :, None, None]), x.shape[2:], mode))
    fused = affine_relu(torch.cat(levels, 1), fuse_scale, fuse_shift)
    return F.conv2d(fused, fuse_weight[:, :, None, None], _in_dtype_of(x, fuse_bias))


@_precise
def multiscale_mean(
    logits: List[Tensor], size: Sequence[int], *, order: str = "softmax_then_resize", reduce: str = "mean"
) -> Tensor:
    """Made in stripes of rows, so that beside the result only a stripe of classes × H × W is held."""
    dtype = logits[0].dtype
    if dtype in (torch.float16, torch.bfloat16):
        logits = [m.float() for m in logits]
    # softmax keeps the order of one map's classes, and its rounding would make ties
    softmax = not (reduce == "argmax" and order == "resize_then_softmax" and len(logits) == 1)
    if order == "softmax_then_resize":
        logits = [torch.softmax(m, 1) for m in logits]
    rows = max(1, STRIPE // max(1, logits[0].shape[0] * logits[0].shape[1] * size[1]))
    y = None  # type: Optional[Tensor]
    for begin in range(0, size[0], rows):
        end = min(begin + rows, size[0])
        total = None  # type: Optional[Tensor]
        for m in logits:
            p = _resized_rows(m, size, begin, end)
            if softmax and order == "resize_then_softmax":
                p = torch.softmax(p, 1)
            total = p if total is None else total + p
        assert total is not None
        stripe = _labels(total) if reduce == "argmax" else (total / len(logits)).to(dtype)
        if rows >= size[0]:
            return stripe
        if y is None:
            y = stripe.new_empty(stripe.shape[:-2] + (size[0], size[1]))
        y[..., begin:end, :] = stripe
    assert y is not None
    return y


def _labels(total: Tensor) -> Tensor:
    return total.argmax(1).to(torch.uint8).masked_fill(torch.isnan(total).any(1), 255)


def _resized_rows(x: Tensor, size: Sequence[int], begin: int, end: int) -> Tensor:
    """Rows begin to end of resize(x, size, "bilinear"), within rounding."""
    height = x.shape[2]
    if begin == 0 and end == size[0]:
        return resize(x, size, "bilinear")
    if height == size[0]:
        return resize(x[:, :, begin:end], (end - begin, size[1]), "bilinear")
    position = torch.arange(begin, end, dtype=torch.float64, device=x.device)
    position = ((position + 0.5) * (height / size[0]) - 0.5).clamp(min=0)
    low = position.floor()
    part = (position - low).to(x.dtype)[:, None]
    above, below = low.long(), (low.long() + 1).clamp(max=height - 1)
    rows = x[:, :, above] * (1 - part) + x[:, :, below] * part
    return resize(rows, (end - begin, size[1]), "bilinear")
