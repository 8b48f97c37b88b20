"""The decoder's whole block: lateral 1×1, resized coarser map, affine, ReLU, 3×3, and the head on top where there is one."""

from typing import Any, Optional

from torch import Tensor

from .._native import current_stream
from . import checks, reference
from .autocast import cast_for_autocast
from .backend import (
    TENSOR_CORE_DTYPES,
    capability_of,
    current_backend,
    fits_tensor_cores,
    parameters,
    resolve,
    tensor_cores_take,
)
from .conv3x3 import conv3x3, launch_with_packed
from .conv3x3_head import conv3x3_head
from .lateral_add import lateral_add
from .registration import empty_like_layout, in_layout_of, register

NAME = "upsample_blend"
LAUNCHES = ("auto", "one", "several")


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
    launches: str = "auto",
) -> Tensor:
    """conv3×3(relu(out_scale·(conv1×1(relu(scale·tap + shift)) + lateral_bias + up(x)) + out_shift)) + bias.

    up resizes x to tap's size. With a head, conv1×1(relu(head_scale·that + head_shift)) + head_bias.

    The same as `lateral_add` and `conv3x3`, or `conv3x3_head`, one after the other, which is how "several" launches make
    it. On tensor cores "one" can: for channels_last maps of float16 and bfloat16 with channels in eights, as far as the
    convolution's input fits into shared memory; the activated tap, that input and what the head takes are rounded to the
    maps' dtype, sums are fp32. "auto" chooses one where it can be and each block of threads makes all outputs (maps of
    many pixels), so that nothing is made twice. Differentiable in every tensor.

    Args:
        x: [N, C, h, w], the coarser map; float32, float16, bfloat16 or float64.
        tap: [N, T, H, W], the encoder's map, of x's dtype.
        lateral_weight: [C, T, 1, 1], of x's dtype.
        weight: [K, C, 3, 3], of x's dtype; packed and kept as by `conv3x3`.
        lateral_bias: [C] or None; this, the other biases and the affines are float32 or of x's dtype.
        bias: [K] or None.
        scale, shift: [T] or None for 1 and 0.
        out_scale, out_shift: [C] or None for 1 and 0.
        head_weight: [J, K, 1, 1] or None for no head; the other head arguments are then None too.
        head_bias: [J] or None.
        head_scale, head_shift: [K] or None for 1 and 0.
        mode: "bilinear" (align_corners=False) or "nearest".
        launches: "auto", "one" or "several".

    Returns:
        [N, K, H, W], or [N, J, H, W] with a head, in tap's dtype and memory format.

    Raises:
        TypeError: a wrong type or dtype. ValueError: a wrong shape, device or choice, or one launch can't be.

    Source: the upsampling module of SwiftNet (CVPR 2019), section 3; batch norms as affines.
    """
    x, tap, lateral_weight, weight, head_weight = cast_for_autocast(x, tap, lateral_weight, weight, head_weight)
    checks.feature_map(NAME, "tap", tap)
    checks.feature_map(NAME, "x", x, like=tap)
    channels = x.shape[1]
    checks.weight(NAME, "lateral_weight", lateral_weight, (channels, tap.shape[1], 1, 1), like=tap)
    checks.weight(NAME, "weight", weight, ("K", channels, 3, 3), like=tap)
    outputs = weight.shape[0]
    sizes = (
        (tap.shape[1], {"scale": scale, "shift": shift}),
        (channels, {"lateral_bias": lateral_bias, "out_scale": out_scale, "out_shift": out_shift}),
        (outputs, {"bias": bias, "head_scale": head_scale, "head_shift": head_shift}),
    )
    for size, vectors in sizes:
        for name, vector in vectors.items():
            checks.vector(NAME, name, vector, (size,), like=tap)
    if head_weight is not None:
        checks.weight(NAME, "head_weight", head_weight, ("J", outputs, 1, 1), like=tap)
        checks.vector(NAME, "head_bias", head_bias, (head_weight.shape[0],), like=tap)
    else:
        checks.only_with(NAME, "head_weight", head_bias=head_bias, head_scale=head_scale, head_shift=head_shift)
    checks.choice(NAME, "mode", mode, checks.MODES)
    checks.choice(NAME, "launches", launches, LAUNCHES)
    if launches == "one":
        checks.tensor_core_maps(NAME, x=x, tap=tap)
        checks.in_eights(NAME, "weight", weight)
    return _operator(
        tap, lateral_weight, x, weight, lateral_bias, scale, shift, out_scale, out_shift, bias, head_weight, head_bias,
        head_scale, head_shift, mode, launches,
    )  # fmt: skip


def _kernels_of_one(
    tap: Tensor, lateral_weight: Tensor, x: Tensor, weight: Tensor, head_weight: Optional[Tensor], launches: str
) -> Optional[Any]:
    """The compiled module if one launch is to make the block."""
    backend, _ = current_backend()
    if launches == "several" or backend == "cpu" or weight.shape[0] % 8 != 0 or not fits_tensor_cores(x, tap):
        return None
    kernels, _ = resolve(backend, tap.device, tap.dtype, TENSOR_CORE_DTYPES)
    # the emulation runs what it is asked for by name
    asked = launches == "one" and not tap.is_cuda
    if kernels is None or not (asked or tensor_cores_take(tap.dtype, capability_of(kernels, tap.device))):
        return None
    classes = 0 if head_weight is None else head_weight.shape[0]
    why_not = kernels.why_not_upsample_blend(tap, lateral_weight, x, weight.shape[0], classes)
    if why_not and launches == "one":
        raise ValueError("{}: launches: one does not make this block: {}; pass auto".format(NAME, why_not))
    return kernels if not why_not and (launches == "one" or kernels.upsample_blend_pays(tap, weight.shape[0])) else None


def _run(
    tap: Tensor, lateral_weight: Tensor, x: Tensor, weight: Tensor, lateral_bias: Any, scale: Any, shift: Any,
    out_scale: Any, out_shift: Any, bias: Any, head_weight: Any, head_bias: Any, head_scale: Any, head_shift: Any,
    mode: str, launches: str,
) -> Tensor:  # fmt: skip
    kernels = _kernels_of_one(tap, lateral_weight, x, weight, head_weight, launches)
    if kernels is None:
        activated = lateral_add(
            tap, lateral_weight, x, lateral_bias, scale=scale, shift=shift, out_scale=out_scale, out_shift=out_shift,
            relu=True, mode=mode,
        )  # fmt: skip
        if head_weight is None:
            return in_layout_of(conv3x3(activated, weight, bias), tap)
        y = conv3x3_head(activated, weight, head_weight, bias, head_bias, scale=head_scale, shift=head_shift)
        return in_layout_of(y, tap)
    y, stream = _fake(tap, lateral_weight, x, weight, *[None] * 6, head_weight), current_stream(tap.device)
    vectors = parameters(lateral_bias, scale, shift, out_scale, out_shift, bias)
    head = [head_weight, *parameters(head_bias, head_scale, head_shift)]

    def launch(_: str, *packed: Any) -> None:
        kernels.upsample_blend(tap, lateral_weight, x, weight, *packed, *vectors, *head, mode, y, stream)

    launch_with_packed(NAME, kernels, weight, "tensor_cores", launch)
    return y


def _reference(
    tap: Tensor, lateral_weight: Tensor, x: Tensor, weight: Tensor, lateral_bias: Any, scale: Any, shift: Any,
    out_scale: Any, out_shift: Any, bias: Any, head_weight: Any, head_bias: Any, head_scale: Any, head_shift: Any,
    mode: str, launches: str,
) -> Tensor:  # fmt: skip
    return reference.upsample_blend(
        x, tap, lateral_weight, weight, lateral_bias, bias, scale=scale, shift=shift, out_scale=out_scale,
        out_shift=out_shift, head_weight=head_weight, head_bias=head_bias, head_scale=head_scale,
        head_shift=head_shift, mode=mode,
    )  # fmt: skip


def _fake(tap: Tensor, lateral_weight: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    head_weight = rest[6]
    outputs = weight.shape[0] if head_weight is None else head_weight.shape[0]
    return empty_like_layout(tap, (tap.shape[0], outputs, tap.shape[2], tap.shape[3]))


_operator = register(
    NAME,
    "(Tensor tap, Tensor lateral_weight, Tensor x, Tensor weight, Tensor? lateral_bias, Tensor? scale, Tensor? shift, "
    "Tensor? out_scale, Tensor? out_shift, Tensor? bias, Tensor? head_weight, Tensor? head_bias, Tensor? head_scale, "
    "Tensor? head_shift, str mode, str launches) -> Tensor",
    _run,
    _reference,
    _fake,
)
