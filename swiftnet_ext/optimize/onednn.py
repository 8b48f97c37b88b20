"""oneDNN's convolution through PyTorch: weights packed once; bias, residual and activation inside."""

from typing import Any, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from ..cpu import has_bf16_convolutions
from .plan import Convolution


def has_onednn(dtype: torch.dtype) -> bool:
    """Whether this PyTorch has oneDNN's convolution of a dtype with its post-operations, and packs weights for it."""
    found = getattr(torch.ops, "mkldnn", None)
    names = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(found, name) for name in names):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and has_bf16_convolutions())


def activate_(y: Tensor, activation: str) -> Tensor:
    """In place."""
    return y.relu_() if activation == "relu" else y.clamp_(0, 6) if activation == "relu6" else y


class OneDNN:
    """The convolution of a step; called, it gives a new map, and `into` writes to one."""

    ATTRIBUTES: Dict[str, Tuple[str, List[Any]]] = {
        "none": ("none", []),
        "relu": ("relu", []),
        "relu6": ("hardtanh", [0.0, 6.0]),
    }

    def __init__(self, step: Convolution, dtype: torch.dtype) -> None:
        geometry = [step.padding] * 2, [step.stride] * 2, [1, 1], step.groups
        pack = torch.ops.mkldnn._reorder_convolution_weight
        self.geometry, self.weight = geometry, pack(step.weight.to(dtype), *geometry)
        self.bias = None if step.bias is None else step.bias.to(dtype)

    def __call__(self, x: Tensor, activation: str, residual: Optional[Tensor] = None) -> Tensor:
        """activation(convolution(x) + bias + residual)."""
        attribute, scalars = self.ATTRIBUTES[activation]
        convolution = torch.ops.mkldnn._convolution_pointwise
        if residual is None:
            return convolution(x, self.weight, self.bias, *self.geometry, attribute, scalars, "")
        unary = "relu" if activation == "relu" else None
        y = convolution.binary(x, residual, self.weight, self.bias, *self.geometry, "add", 1.0, unary, [], None)
        return activate_(y, activation) if activation == "relu6" else y

    def into(self, out: Tensor, x: Tensor, activation: str) -> None:
        """out = activation(convolution(x) + bias + out): no map is allocated."""
        unary = "relu" if activation == "relu" else None
        convolution = torch.ops.mkldnn._convolution_pointwise_.binary
        convolution(out, x, self.weight, self.bias, *self.geometry, "add", 1.0, unary, [], None)
        if activation == "relu6":
            activate_(out, activation)
