"""The decoder's block: resize, add the lateral, affine, ReLU, 3×3 convolution."""

from typing import Any, Optional

from torch import Tensor

from .._native import current_stream
from . import checks, native_cpu, reference
from .autocast import cast_for_autocast
from .backend import capability_of, fits_tensor_cores, kernels_for, parameters
from .conv3x3 import algorithm_for, launch_with_packed
from .registration import empty_like_layout, in_layout_of, register

NAME = "upsample_add_conv3x3"


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
    """conv3×3(relu(scale·(up(x) + skip) + shift)) + bias, where up resizes x to skip's size.

    The zero padding comes after the ReLU: outside the image the convolution reads 0, not relu(shift). Two launches: the
    convolution's input is written in x's dtype, then convolved as `conv3x3` does by default. Differentiable in every
    tensor.

    Args:
        x: [N, C, h, w], the coarser map; float32, float16, bfloat16 or float64.
        skip: [N, C, H, W], the lateral map, of x's dtype and device.
        weight: [K, C, 3, 3], of x's dtype.
        bias: [K] or None; this and the affine are float32 or of x's dtype.
        scale: [C] or None for 1.
        shift: [C] or None for 0.
        mode: "bilinear" (align_corners=False) or "nearest".

    Returns:
        [N, K, H, W] in x's dtype and memory format.

    Raises:
        TypeError: a wrong type or dtype. ValueError: a wrong shape, device or mode.

    Source: the upsampling module of SwiftNet (CVPR 2019), section 3; batch norm as the affine.
    """
    x, skip, weight = cast_for_autocast(x, skip, weight)
    checks.feature_map(NAME, "x", x)
    checks.feature_map(NAME, "skip", skip, like=x)
    channels = x.shape[1]
    checks.same_shape(NAME, "skip", skip, (None, channels), "{} channels as x".format(channels))
    checks.weight(NAME, "weight", weight, ("K", channels, 3, 3), like=x)
    checks.vector(NAME, "bias", bias, (weight.shape[0],), like=x)
    checks.vector(NAME, "scale", scale, (channels,), like=x)
    checks.vector(NAME, "shift", shift, (channels,), like=x)
    checks.choice(NAME, "mode", mode, checks.MODES)
    return _operator(x, skip, weight, bias, scale, shift, mode)


def _run(x: Tensor, skip: Tensor, weight: Tensor, bias: Any, scale: Any, shift: Any, mode: str) -> Tensor:
    native = native_cpu.kernels_for(x)
    if native is not None:
        return native_cpu.upsample_add_conv3x3(NAME, native, x, skip, weight, bias, scale, shift, mode)
    kernels = kernels_for(NAME, x)
    if kernels is None:
        return in_layout_of(_reference(x, skip, weight, bias, scale, shift, mode), x)
    y = _fake(x, skip, weight, bias, scale, shift, mode)
    activated, stream = empty_like_layout(skip, skip.shape), current_stream(x.device)
    vectors = parameters(bias, scale, shift)

    def launch(*how: Any) -> None:
        kernels.upsample_add_conv3x3(x, skip, weight, *how, *vectors, mode, activated, y, stream)

    fits = weight.shape[0] % 8 == 0 and fits_tensor_cores(activated, y)
    algorithm = algorithm_for(weight.shape[1], x.dtype, capability_of(kernels, x.device), fits)
    launch_with_packed(NAME, kernels, weight, algorithm, launch)
    return y


def _reference(x: Tensor, skip: Tensor, weight: Tensor, bias: Any, scale: Any, shift: Any, mode: str) -> Tensor:
    return reference.upsample_add_conv3x3(x, skip, weight, bias, scale=scale, shift=shift, mode=mode)


def _fake(x: Tensor, skip: Tensor, weight: Tensor, bias: Any, scale: Any, shift: Any, mode: str) -> Tensor:
    return empty_like_layout(x, (x.shape[0], weight.shape[0], skip.shape[2], skip.shape[3]))


_operator = register(
    NAME,
    "(Tensor x, Tensor skip, Tensor weight, Tensor? bias, Tensor? scale, Tensor? shift, str mode) -> Tensor",
    _run,
    _reference,
    _fake,
)
