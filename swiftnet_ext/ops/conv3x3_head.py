"""A 3×3 convolution with the logits' 1×1 on top, without writing the map between them."""

from typing import Any, Optional

from torch import Tensor

from .._native import current_stream
from . import checks, native_cpu, reference
from .autocast import cast_for_autocast
from .backend import parameters
from .conv3x3 import conv3x3, kernels_and_algorithm, launch_with_packed
from .lateral_add import lateral_add
from .registration import empty_like_layout, in_layout_of, register

NAME = "conv3x3_head"
ALGORITHMS = ("auto", "winograd", "tensor_cores")
MIN_CHANNELS = 8  # for which Winograd's slices are made
MAX_FUSED = 24  # outputs of the head that the kernels take
MAX_HIDDEN = 128  # outputs below them on tensor cores, where a block makes all


def conv3x3_head(
    x: Tensor,
    weight: Tensor,
    head_weight: Tensor,
    bias: Optional[Tensor] = None,
    head_bias: Optional[Tensor] = None,
    *,
    scale: Optional[Tensor] = None,
    shift: Optional[Tensor] = None,
    algorithm: str = "auto",
) -> Tensor:
    """conv1×1(relu(scale·(conv3×3(x) + bias) + shift)) + head_bias: the last blend and the logits that are made of it.

    Stride 1, zero padding 1, accumulation in fp32. With up to 24 outputs of the head one launch, in which the map between
    the convolutions is never written: by Winograd's algorithm from 8 input channels on, or on tensor cores, where
    `conv3x3` would run there and makes up to 128 outputs (the map between is rounded to x's dtype). Otherwise two,
    `conv3x3` and `lateral_add`. Differentiable in every tensor.

    Args:
        x: [N, C, H, W]; float32, float16, bfloat16 or float64.
        weight: [K, C, 3, 3], of x's dtype; packed and kept as by `conv3x3`.
        head_weight: [J, K, 1, 1], of x's dtype.
        bias: [K] or None; this, the head's bias and the affine are float32 or of x's dtype.
        head_bias: [J] or None.
        scale: [K] or None for 1.
        shift: [K] or None for 0.
        algorithm: "auto", "winograd" or "tensor_cores", of the 3×3 where it is one launch.

    Returns:
        [N, J, H, W] in x's dtype and memory format.

    Raises:
        TypeError: a wrong type or dtype. ValueError: a wrong shape, device or algorithm.

    Source: the last upsampling module and the logits of SwiftNet (CVPR 2019), section 3; batch norm as the affine.
    """
    x, weight, head_weight = cast_for_autocast(x, weight, head_weight)
    checks.feature_map(NAME, "x", x)
    checks.weight(NAME, "weight", weight, ("K", x.shape[1], 3, 3), like=x)
    outputs = weight.shape[0]
    checks.weight(NAME, "head_weight", head_weight, ("J", outputs, 1, 1), like=x)
    checks.vector(NAME, "bias", bias, (outputs,), like=x)
    checks.vector(NAME, "head_bias", head_bias, (head_weight.shape[0],), like=x)
    checks.vector(NAME, "scale", scale, (outputs,), like=x)
    checks.vector(NAME, "shift", shift, (outputs,), like=x)
    checks.choice(NAME, "algorithm", algorithm, ALGORITHMS)
    if algorithm == "tensor_cores":
        checks.tensor_core_maps(NAME, x=x)
        checks.in_eights(NAME, "weight", weight)
    return _operator(x, weight, head_weight, bias, head_bias, scale, shift, algorithm)


def _run(
    x: Tensor, weight: Tensor, head_weight: Tensor, bias: Any, head_bias: Any, scale: Any, shift: Any, algorithm: str
) -> Tensor:
    native = native_cpu.kernels_for(x)
    if native is not None:
        vectors = bias, head_bias, scale, shift
        return native_cpu.conv3x3_head(NAME, native, x, weight, head_weight, *vectors, algorithm=algorithm)
    kernels, chosen = kernels_and_algorithm(NAME, algorithm, weight, x)
    if kernels is None:
        return in_layout_of(_reference(x, weight, head_weight, bias, head_bias, scale, shift, algorithm), x)
    fits = weight.shape[0] <= MAX_HIDDEN if chosen == "tensor_cores" else x.shape[1] >= MIN_CHANNELS
    if not fits or head_weight.shape[0] > MAX_FUSED:
        hidden = conv3x3(x, weight, bias, algorithm=algorithm)
        return in_layout_of(lateral_add(hidden, head_weight, None, head_bias, scale=scale, shift=shift, relu=False), x)
    y, stream = _fake(x, weight, head_weight), current_stream(x.device)
    bias, scale, shift, head_bias = parameters(bias, scale, shift, head_bias)

    def launch(*how: Any) -> None:
        kernels.conv3x3_head(x, weight, *how, bias, scale, shift, head_weight, head_bias, y, stream)

    launch_with_packed(NAME, kernels, weight, chosen if chosen == "tensor_cores" else "winograd", launch)
    return y


def _reference(
    x: Tensor, weight: Tensor, head_weight: Tensor, bias: Any, head_bias: Any, scale: Any, shift: Any, algorithm: str
) -> Tensor:
    return reference.conv3x3_head(x, weight, head_weight, bias, head_bias, scale=scale, shift=shift)


def _fake(x: Tensor, weight: Tensor, head_weight: Tensor, *_: Any) -> Tensor:
    return empty_like_layout(x, (x.shape[0], head_weight.shape[0], x.shape[2], x.shape[3]))


_operator = register(
    NAME,
    "(Tensor x, Tensor weight, Tensor head_weight, Tensor? bias, Tensor? head_bias, Tensor? scale, Tensor? shift, "
    "str algorithm) -> Tensor",
    _run,
    _reference,
    _fake,
)
