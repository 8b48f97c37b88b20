"""The average of several logit maps' probabilities at one size, or its labels."""

from typing import List, Sequence, Tuple

import torch
from torch import Tensor

from .._native import current_stream
from . import checks, native_cpu, reference
from .autocast import cast_for_autocast
from .backend import kernels_for
from .registration import empty_like_layout, in_layout_of, register

NAME = "multiscale_mean"


def multiscale_mean(
    logits: Sequence[Tensor], size: Tuple[int, int], *, order: str = "softmax_then_resize", reduce: str = "mean"
) -> Tensor:
    """The mean over maps of the class probabilities, resized bilinearly (align_corners=False) to one size.

    Nothing of size classes × H × W is written when labels are asked for.

    Args:
        logits: maps [N, classes, h_i, w_i] of any number and any sizes, of one dtype and device.
        size: (H, W) of the result.
        order: "softmax_then_resize" resizes each map's probabilities; "resize_then_softmax" resizes its logits first.
        reduce: "mean" gives the averaged probabilities; "argmax" the labels: ties go to the lower class, and a pixel
            with a NaN is 255. One map's labels with "resize_then_softmax" are those of its resized logits: the
            softmax keeps their order, and its rounding would only make ties.

    Returns:
        [N, classes, H, W] in the dtype and memory format of the first map, differentiable in every map; or
        [N, H, W] uint8.

    Raises:
        TypeError: a wrong type or dtype. ValueError: a wrong shape, device or option, or labels of over 255 classes.

    Source: SwiftNet's supplementary (CVPR 2019), multi-scale inference: softmax at each scale, resize, average.
    """
    checks.logit_maps(NAME, logits)
    height, width = checks.size_pair(NAME, "size", size)
    checks.choice(NAME, "order", order, checks.ORDERS)
    checks.choice(NAME, "reduce", reduce, checks.REDUCTIONS)
    if reduce == "argmax":
        checks.label_count(NAME, logits[0].shape[1])
    return _operator(cast_for_autocast(*logits), [height, width], order, reduce)


def _run(logits: List[Tensor], size: List[int], order: str, reduce: str) -> Tensor:
    first = logits[0]
    native = native_cpu.kernels_for(first, any_layout=True)
    if native is not None:
        return native_cpu.multiscale_mean(NAME, native, logits, order, _fake(logits, size, order, reduce))
    kernels = kernels_for(NAME, first)
    limit = "" if kernels is None else kernels.why_not_multiscale_mean(logits, size[0], size[1])
    if limit:
        kernels = kernels_for(NAME, first, limit)
    if kernels is None:
        y = _reference(logits, size, order, reduce)
        return in_layout_of(y, first) if reduce == "mean" else y
    y = _fake(logits, size, order, reduce)
    kernels.multiscale_mean(logits, order, y, current_stream(first.device))
    return y


def _reference(logits: List[Tensor], size: List[int], order: str, reduce: str) -> Tensor:
    return reference.multiscale_mean(logits, size, order=order, reduce=reduce)


def _fake(logits: List[Tensor], size: List[int], order: str, reduce: str) -> Tensor:
    first = logits[0]
    if reduce == "argmax":
        return torch.empty((first.shape[0], size[0], size[1]), dtype=torch.uint8, device=first.device)
    return empty_like_layout(first, (first.shape[0], first.shape[1], size[0], size[1]))


_operator = register(NAME, "(Tensor[] logits, SymInt[] size, str order, str reduce) -> Tensor", _run, _reference, _fake)
