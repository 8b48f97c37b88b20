"""The stride-1 3×3 convolution that the block and the encoder are made of."""

from typing import Any, Optional

from torch import Tensor

from .._native import current_stream
from . import checks, packed, reference
from .autocast import cast_for_autocast
from .backend import kernels_for, workspace
from .registration import empty_like_layout, in_layout_of, register

NAME = "conv3x3"


def conv3x3(
    x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, *, residual: Optional[Tensor] = None, relu: bool = False
) -> Tensor:
    """[relu](conv3×3(x) + bias + residual): stride 1, zero padding 1, accumulation in fp32 for fp32 and fp16 storage.

    The kernel reads the weight from a packed fp32 copy, which is made at the first call, kept as long as the weight and
    made anew when it changes; changes through `weight.data` are not seen.

    Args:
        x: [N, C, H, W]; float32, float16, bfloat16 or float64.
        weight: [K, C, 3, 3], of x's dtype.
        bias: [K] or None, float32 or of x's dtype.
        residual: [N, K, H, W] or None, of x's dtype; added before the ReLU.
        relu: whether a ReLU ends it.

    Returns:
        [N, K, H, W] in x's dtype and memory format.

    Raises:
        TypeError: a wrong type or dtype. ValueError: a wrong shape or device.

    Source: the 3×3 layers of ResNet's basic block and of SwiftNet's blends.
    """
    x, weight, residual = cast_for_autocast(x, weight, residual)
    checks.feature_map(NAME, "x", x)
    checks.weight(NAME, "weight", weight, ("K", x.shape[1], 3, 3), like=x)
    checks.vector(NAME, "bias", bias, (weight.shape[0],), like=x)
    if residual is not None:
        checks.feature_map(NAME, "residual", residual, like=x)
        shape = (x.shape[0], weight.shape[0], x.shape[2], x.shape[3])
        checks.same_shape(NAME, "residual", residual, shape, "the output's shape {}".format(list(shape)))
    checks.flag(NAME, "relu", relu)
    return _operator(x, weight, bias, residual, relu)


def _run(x: Tensor, weight: Tensor, bias: Any, residual: Any, relu: bool) -> Tensor:
    kernels = kernels_for(NAME, x)
    if kernels is None:
        return in_layout_of(_reference(x, weight, bias, residual, relu), x)
    y = _fake(x, weight, bias, residual, relu)
    weights = packed.find(weight)
    fresh = weights is None
    if weights is None:
        weights = workspace(NAME, kernels.conv3x3_packed_numel(weight.shape[0], weight.shape[1]), x.device)
    kernels.conv3x3(x, weight, weights, fresh, bias, residual, relu, y, current_stream(x.device))
    if fresh:
        packed.keep(weight, weights)
    return y


def _reference(x: Tensor, weight: Tensor, bias: Any, residual: Any, relu: bool) -> Tensor:
    return reference.conv3x3(x, weight, bias, residual=residual, relu=relu)


def _fake(x: Tensor, weight: Tensor, bias: Any, residual: Any, relu: bool) -> Tensor:
    return empty_like_layout(x, (x.shape[0], weight.shape[0], x.shape[2], x.shape[3]))


_operator = register(
    NAME,
    "(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, bool relu) -> Tensor",
    _run,
    _reference,
    _fake,
)
