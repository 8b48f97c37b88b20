"""The stride-1 3×3 convolution that the block and the encoder are made of."""

from typing import Any, Callable, Optional

from torch import Tensor

from .._native import current_stream
from . import checks, packed, reference
from .autocast import cast_for_autocast
from .backend import kernels_for, workspace
from .registration import empty_like_layout, in_layout_of, register

NAME = "conv3x3"
ALGORITHMS = ("auto", "direct", "winograd", "half2")
RULE = "winograd from 8 input channels on, else direct"


def algorithm_for(channels: int) -> str:
    """The algorithm that "auto" stands for; RULE says it in words.

    By the instructions counted in the compiled code: Winograd takes 16 multiplies where the direct sum takes 36, but
    works through whole slices of 8 channels.
    """
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
    """[relu](conv3×3(x) + bias + residual): stride 1, zero padding 1, accumulation in fp32 for fp32 and fp16 storage.

    The kernel reads the weight from a packed copy, which is made at the first call, kept as long as the weight and made
    anew when it changes; changes through `weight.data` are not seen.

    Algorithms: "direct" sums over the taps in fp32; "winograd" is F(2×2, 3×3) in fp32, about half the arithmetic and
    rounding errors several times as large; "half2" sums over the taps in fp16, 16 channels at a time, and these sums in
    fp32 (for float16 maps only). Plain PyTorch ignores the choice.

    Args:
        x: [N, C, H, W]; float32, float16, bfloat16 or float64.
        weight: [K, C, 3, 3], of x's dtype.
        bias: [K] or None, float32 or of x's dtype.
        residual: [N, K, H, W] or None, of x's dtype; added before the ReLU.
        relu: whether a ReLU ends it.
        algorithm: "auto" ("winograd" from 8 input channels on, else "direct"), "direct", "winograd" or "half2".

    Returns:
        [N, K, H, W] in x's dtype and memory format.

    Raises:
        TypeError: a wrong type or dtype. ValueError: a wrong shape, device or algorithm.

    Source: the 3×3 layers of ResNet's basic block and of SwiftNet's blends. Winograd's algorithm after Lavin and Gray,
    "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
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
    checks.choice(NAME, "algorithm", algorithm, ALGORITHMS)
    if algorithm == "half2":
        checks.half(NAME, "x", x, 'algorithm="half2"')
    return _operator(x, weight, bias, residual, relu, algorithm)


def launch_with_packed(op: str, kernels: Any, weight: Tensor, algorithm: str, launch: Callable[..., None]) -> None:
    """Calls launch(algorithm, packed, pack) with the weight packed, or memory to pack it into."""
    if algorithm == "auto":
        algorithm = algorithm_for(weight.shape[1])
    weights = packed.find(weight, algorithm)
    if weights is not None:
        return launch(algorithm, weights, False)
    weights = workspace(op, kernels.conv3x3_packed_numel(algorithm, weight.shape[0], weight.shape[1]), weight.device)
    launch(algorithm, weights, True)
    packed.keep(weight, algorithm, weights)


def _run(x: Tensor, weight: Tensor, bias: Any, residual: Any, relu: bool, algorithm: str) -> Tensor:
    kernels = kernels_for(NAME, x)
    if kernels is None:
        return in_layout_of(_reference(x, weight, bias, residual, relu, algorithm), x)
    y = _fake(x, weight, bias, residual, relu, algorithm)
    stream = current_stream(x.device)

    def launch(*how: Any) -> None:
        kernels.conv3x3(x, weight, *how, bias, residual, relu, y, stream)

    launch_with_packed(NAME, kernels, weight, algorithm, launch)
    return y


def _reference(x: Tensor, weight: Tensor, bias: Any, residual: Any, relu: bool, algorithm: str) -> Tensor:
    return reference.conv3x3(x, weight, bias, residual=residual, relu=relu)


def _fake(x: Tensor, weight: Tensor, bias: Any, residual: Any, relu: bool, algorithm: str) -> Tensor:
    return empty_like_layout(x, (x.shape[0], weight.shape[0], x.shape[2], x.shape[3]))


_operator = register(
    NAME,
    "(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, bool relu, str algorithm) -> Tensor",
    _run,
    _reference,
    _fake,
)
