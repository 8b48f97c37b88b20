"""The stride-1 3×3 convolution that the block and the encoder are made of."""

from typing import Any, Callable, Optional, Tuple

import torch
from torch import Tensor

from .._native import current_stream
from . import checks, native_cpu, packed, reference
from .autocast import cast_for_autocast
from .backend import (
    KERNEL_DTYPES,
    TENSOR_CORE_DTYPES,
    capability_of,
    fits_tensor_cores,
    kernels_for,
    no_tensor_cores,
    parameters,
    tensor_cores_take,
    workspace,
)
from .registration import empty_like_layout, in_layout_of, register

NAME, WITH_SUM = "conv3x3", "conv3x3_with_sum"
ALGORITHMS = ("auto", "direct", "winograd", "half2", "tensor_cores")
RULE = (
    "tensor_cores for channels_last maps of float16 from compute capability 7.5 on, and of bfloat16 from 8.0 on, where "
    "channels come in eights; half2 for float16 on 6.2 where channels come in fours; else winograd from 8 input channels "
    "on, else direct; on a CPU winograd from 16 input and output channels on, but not for bfloat16 where there is AMX, "
    "else direct"
)


def algorithm_for(channels: int, dtype: torch.dtype, capability: Tuple[int, int], fits: bool = False) -> str:
    """The algorithm that "auto" stands for; RULE says it in words. `fits` is `fits_tensor_cores` of all maps.

    By the instructions counted in the compiled code (docs/performance.md): Winograd takes 16 multiplies where the direct
    sum takes 36, but works through whole slices of 8 channels; half2 makes two products at a time where that is as fast
    as one, but loads slowly what does not come in fours.
    """
    if fits and tensor_cores_take(dtype, capability):
        return "tensor_cores"
    if dtype is torch.float16 and capability == (6, 2) and channels % 4 == 0:
        return "half2"
    return "winograd" if channels >= 8 else "direct"


def conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    *,
    residual: Optional[Tensor] = None,
    relu: bool = False,
    algorithm: str = "auto",
) -> Tensor:
    """[relu](conv3×3(x) + bias + residual): stride 1, zero padding 1; sums are fp32 but with half2.

    The kernel reads the weight from a packed copy, which is made at the first call, kept as long as the weight and made
    anew when it changes; changes through `weight.data` or by the replay of a CUDA graph are not seen until the weight is
    changed in place, e.g. by `weight.mul_(1)`.

    Algorithms: "direct" sums over the taps in fp32; "winograd" is F(2×2, 3×3) in fp32, about half the arithmetic and
    larger rounding errors; "half2", for float16 maps only, sums over the taps in fp16, 16 channels at a time, and these
    sums in fp32: rounding errors of fp16, and Inf where such a sum exceeds 65504; "tensor_cores", for channels_last maps
    of float16 and bfloat16 with channels in eights, sums over the taps in fp32. bfloat16 runs on tensor cores only. Plain
    PyTorch ignores the choice. The native CPU kernels take float32 and bfloat16, sum in fp32, and know "direct" and
    "winograd", which is F(4×4, 3×3) there; they ignore another choice.

    Args:
        x: [N, C, H, W]; float32, float16, bfloat16 or float64.
        weight: [K, C, 3, 3], of x's dtype.
        bias: [K] or None, float32 or of x's dtype.
        residual: [N, K, H, W] or None, of x's dtype; added before the ReLU.
        relu: whether a ReLU ends it.
        algorithm: "auto" (`algorithm_for`), "direct", "winograd", "half2" or "tensor_cores".

    Returns:
        [N, K, H, W] in x's dtype and memory format.

    Raises:
        TypeError: a wrong type or dtype. ValueError: a wrong shape, device or algorithm.

    Source: the 3×3 layers of ResNet's basic block and of SwiftNet's blends. Winograd's algorithm after Lavin and Gray,
    "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
    """
    x, weight, residual = _checked(NAME, x, weight, bias, residual, algorithm)
    checks.flag(NAME, "relu", relu)
    return _operator(x, weight, bias, residual, relu, algorithm)


def conv3x3_with_sum(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    *,
    residual: Optional[Tensor] = None,
    algorithm: str = "auto",
) -> Tuple[Tensor, Tensor]:
    """(relu(sum), sum) where sum = conv3×3(x) + bias + residual: `conv3x3` which gives what its ReLU takes as well.

    A residual block's next block takes the first, and a SwiftNet decoder's lateral connection the second.

    Args:
        As for `conv3x3`.

    Returns:
        Two tensors [N, K, H, W] in x's dtype and memory format.

    Raises:
        TypeError: a wrong type or dtype. ValueError: a wrong shape, device or algorithm.

    Source: the taps before the ReLU in SwiftNet (CVPR 2019), section 3.
    """
    x, weight, residual = _checked(WITH_SUM, x, weight, bias, residual, algorithm)
    return _operator_with_sum(x, weight, bias, residual, algorithm)


def _checked(
    op: str, x: Tensor, weight: Tensor, bias: Any, residual: Any, algorithm: str
) -> Tuple[Tensor, Tensor, Any]:
    x, weight, residual = cast_for_autocast(x, weight, residual)
    checks.feature_map(op, "x", x)
    checks.weight(op, "weight", weight, ("K", x.shape[1], 3, 3), like=x)
    checks.vector(op, "bias", bias, (weight.shape[0],), like=x)
    if residual is not None:
        checks.feature_map(op, "residual", residual, like=x)
        shape = (x.shape[0], weight.shape[0], x.shape[2], x.shape[3])
        checks.same_shape(op, "residual", residual, shape, "the output's shape {}".format(list(shape)))
    checks.choice(op, "algorithm", algorithm, ALGORITHMS)
    if algorithm == "half2":
        checks.half(op, "x", x, 'algorithm="half2"')
    if algorithm == "tensor_cores":
        checks.tensor_core_maps(op, x=x, residual=residual)
        checks.in_eights(op, "weight", weight)
    return x, weight, residual


def kernels_and_algorithm(
    op: str, algorithm: str, weight: Tensor, x: Tensor, residual: Optional[Tensor] = None
) -> Tuple[Any, str]:
    """(compiled module, algorithm) for these arguments, or (None, "") for the reference."""
    fits = algorithm in ("auto", "tensor_cores") and weight.shape[0] % 8 == 0 and fits_tensor_cores(x, residual)
    needs = algorithm == "tensor_cores" or x.dtype is torch.bfloat16
    kernels = kernels_for(op, x, dtypes=KERNEL_DTYPES + TENSOR_CORE_DTYPES if fits else KERNEL_DTYPES)
    if kernels is None:
        return None, ""
    capability = capability_of(kernels, x.device)
    # the emulation runs what it is asked for by name
    if needs and not tensor_cores_take(x.dtype, capability) and not (algorithm == "tensor_cores" and not x.is_cuda):
        return kernels_for(op, x, no_tensor_cores(x.dtype, capability), TENSOR_CORE_DTYPES), ""
    return kernels, algorithm_for(weight.shape[1], x.dtype, capability, fits) if algorithm == "auto" else algorithm


def launch_with_packed(op: str, kernels: Any, weight: Tensor, algorithm: str, launch: Callable[..., None]) -> None:
    """Calls launch(algorithm, packed, pack) with the weight packed for an algorithm, or memory to pack it into."""
    weights = packed.find(weight, algorithm)
    if weights is not None:
        return launch(algorithm, weights, False)
    weights = workspace(op, kernels.conv3x3_packed_numel(algorithm, weight.shape[0], weight.shape[1]), weight.device)
    launch(algorithm, weights, True)
    packed.keep(weight, algorithm, weights)


def _launch(
    op: str,
    kernels: Any,
    x: Tensor,
    weight: Tensor,
    bias: Any,
    residual: Any,
    relu: bool,
    algorithm: str,
    *outputs: Any,
) -> None:
    stream = current_stream(x.device)

    def launch(*how: Any) -> None:
        kernels.conv3x3(x, weight, *how, *parameters(bias), residual, relu, *outputs, stream)

    launch_with_packed(op, kernels, weight, algorithm, launch)


def _run(x: Tensor, weight: Tensor, bias: Any, residual: Any, relu: bool, algorithm: str) -> Tensor:
    native = native_cpu.kernels_for(x)
    if native is not None:
        return native_cpu.conv3x3(NAME, native, x, weight, bias, residual, relu, algorithm)
    kernels, algorithm = kernels_and_algorithm(NAME, algorithm, weight, x, residual)
    if kernels is None:
        return in_layout_of(_reference(x, weight, bias, residual, relu, algorithm), x)
    y = _fake(x, weight)
    _launch(NAME, kernels, x, weight, bias, residual, relu, algorithm, None, y)
    return y


def _run_with_sum(x: Tensor, weight: Tensor, bias: Any, residual: Any, algorithm: str) -> Tuple[Tensor, Tensor]:
    native = native_cpu.kernels_for(x)
    if native is not None:
        return native_cpu.conv3x3_with_sum(WITH_SUM, native, x, weight, bias, residual, algorithm)
    kernels, algorithm = kernels_and_algorithm(WITH_SUM, algorithm, weight, x, residual)
    if kernels is None:
        y, total = _reference_with_sum(x, weight, bias, residual, algorithm)
        return in_layout_of(y, x), in_layout_of(total, x)
    y, total = _fake_with_sum(x, weight)
    _launch(WITH_SUM, kernels, x, weight, bias, residual, True, algorithm, total, y)
    return y, total


def _reference(x: Tensor, weight: Tensor, bias: Any, residual: Any, relu: bool, algorithm: str) -> Tensor:
    return reference.conv3x3(x, weight, bias, residual=residual, relu=relu)


def _reference_with_sum(x: Tensor, weight: Tensor, bias: Any, residual: Any, algorithm: str) -> Tuple[Tensor, Tensor]:
    return reference.conv3x3_with_sum(x, weight, bias, residual=residual)


def _fake(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return empty_like_layout(x, (x.shape[0], weight.shape[0], x.shape[2], x.shape[3]))


def _fake_with_sum(x: Tensor, weight: Tensor, *_: Any) -> Tuple[Tensor, Tensor]:
    return _fake(x, weight), _fake(x, weight)


_operator = register(
    NAME,
    "(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, bool relu, str algorithm) -> Tensor",
    _run,
    _reference,
    _fake,
)
_operator_with_sum = register(
    WITH_SUM,
    "(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, str algorithm) -> (Tensor, Tensor)",
    _run_with_sum,
    _reference_with_sum,
    _fake_with_sum,
)
