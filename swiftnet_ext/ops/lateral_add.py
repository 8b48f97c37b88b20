"""The lateral connection: affine, ReLU and 1×1 convolution of a tap, plus the resized coarser map."""

from typing import Any, Optional

from torch import Tensor

from .._native import current_stream
from . import checks, native_cpu, reference
from .autocast import cast_for_autocast
from .backend import kernels_for, parameters
from .registration import empty_like_layout, in_layout_of, register

NAME = "lateral_add"


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
    """[relu](out_scale·(conv1×1(relu(scale·tap + shift)) + bias + up(x)) + out_shift); up resizes x to tap's size.

    Without x nothing is added: a plain affine-ReLU-1×1 layer. The output's affine is that of the layer which takes the
    sum: with it and the ReLU, the sum is written as that layer's convolution reads it. Accumulation is fp32 for fp32 and
    fp16 storage. Differentiable in every tensor.

    Args:
        tap: [N, C, H, W], an encoder's feature map; float32, float16, bfloat16 or float64.
        weight: [K, C, 1, 1], of tap's dtype.
        x: [N, K, h, w] or None, the coarser map, of tap's dtype.
        bias: [K] or None; this and the affines are float32 or of tap's dtype.
        scale: [C] or None for 1.
        shift: [C] or None for 0.
        out_scale: [K] or None for 1.
        out_shift: [K] or None for 0.
        relu: whether a ReLU ends it.
        mode: "bilinear" (align_corners=False) or "nearest".

    Returns:
        [N, K, H, W] in tap's dtype and memory format.

    Raises:
        TypeError: a wrong type or dtype. ValueError: a wrong shape, device or mode.

    Source: the lateral of SwiftNet's upsampling module (CVPR 2019), section 3, with the batch norm and the ReLU of the
    blend convolution that follows it.
    """
    tap, weight, x = cast_for_autocast(tap, weight, x)
    checks.feature_map(NAME, "tap", tap)
    channels = tap.shape[1]
    checks.weight(NAME, "weight", weight, ("K", channels, 1, 1), like=tap)
    if x is not None:
        checks.feature_map(NAME, "x", x, like=tap)
        outputs = weight.shape[0]
        checks.same_shape(NAME, "x", x, (None, outputs), "{} channels as the weight gives".format(outputs))
    for name, vector in (("bias", bias), ("out_scale", out_scale), ("out_shift", out_shift)):
        checks.vector(NAME, name, vector, (weight.shape[0],), like=tap)
    checks.vector(NAME, "scale", scale, (channels,), like=tap)
    checks.vector(NAME, "shift", shift, (channels,), like=tap)
    checks.flag(NAME, "relu", relu)
    checks.choice(NAME, "mode", mode, checks.MODES)
    return _operator(tap, weight, x, bias, scale, shift, out_scale, out_shift, relu, mode)


def _run(tap: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    native = native_cpu.kernels_for(tap)
    if native is not None:
        return native_cpu.lateral_add(NAME, native, tap, weight, *rest)
    kernels = kernels_for(NAME, tap)
    if kernels is None:
        return in_layout_of(_reference(tap, weight, *rest), tap)
    y = _fake(tap, weight)
    kernels.lateral_add(tap, weight, rest[0], *parameters(*rest[1:6]), *rest[6:], y, current_stream(tap.device))
    return y


def _reference(
    tap: Tensor,
    weight: Tensor,
    x: Any,
    bias: Any,
    scale: Any,
    shift: Any,
    out_scale: Any,
    out_shift: Any,
    relu: bool,
    mode: str,
) -> Tensor:
    return reference.lateral_add(
        tap,
        weight,
        x,
        bias,
        scale=scale,
        shift=shift,
        out_scale=out_scale,
        out_shift=out_shift,
        relu=relu,
        mode=mode,
    )


def _fake(tap: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return empty_like_layout(tap, (tap.shape[0], weight.shape[0], tap.shape[2], tap.shape[3]))


_operator = register(
    NAME,
    "(Tensor tap, Tensor weight, Tensor? x, Tensor? bias, Tensor? scale, Tensor? shift, Tensor? out_scale, "
    "Tensor? out_shift, bool relu, str mode) -> Tensor",
    _run,
    _reference,
    _fake,
)
