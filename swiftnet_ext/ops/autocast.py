"""torch.autocast for the operators: maps and weights are cast as PyTorch casts a convolution's."""
from typing import Any, List, Optional

import torch
from torch import Tensor


def _autocast_dtype(device_type: str) -> Optional[torch.dtype]:
    """The dtype that an enclosing autocast region asks for on this device, or None."""
    if device_type == "cuda":
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    if device_type == "cpu" and torch.is_autocast_cpu_enabled():
        return torch.get_autocast_cpu_dtype()
    return None


def cast_for_autocast(*tensors: Any) -> List[Any]:
    """Floating-point tensors cast as autocast asks; float64 and anything that is not a tensor stay as they are."""
    first = tensors[0]
    dtype = _autocast_dtype(first.device.type) if isinstance(first, Tensor) else None
    if dtype is None:
        return list(tensors)
    return [
        t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() and t.dtype != torch.float64 else t
        for t in tensors
    ]
