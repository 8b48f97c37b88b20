"""torch.autocast for the operators: maps and weights are cast as PyTorch casts a convolution's."""

from typing import Any, Callable, List

import torch
from torch import Tensor


def _enabled_below_2_4(device_type: str) -> bool:
    if device_type == "cuda":
        return torch.is_autocast_enabled()
    return device_type == "cpu" and torch.is_autocast_cpu_enabled()


def _dtype_below_2_4(device_type: str) -> torch.dtype:
    return torch.get_autocast_gpu_dtype() if device_type == "cuda" else torch.get_autocast_cpu_dtype()


_new = hasattr(torch, "get_autocast_dtype")
_enabled = torch.is_autocast_enabled if _new else _enabled_below_2_4  # type: Callable[[str], bool]
_dtype = torch.get_autocast_dtype if _new else _dtype_below_2_4  # type: Callable[[str], torch.dtype]


def autocast_enabled(device_type: str) -> bool:
    return device_type != "meta" and _enabled(device_type)  # of "meta" PyTorch says an error


def cast_for_autocast(*tensors: Any) -> List[Any]:
    """Floating-point tensors cast as an enclosing autocast region asks; float64 and other values stay as they are."""
    first = tensors[0]
    if not isinstance(first, Tensor) or not autocast_enabled(first.device.type):
        return list(tensors)
    dtype = _dtype(first.device.type)
    return [
        t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() and t.dtype != torch.float64 else t
        for t in tensors
    ]
