"""The fused operators. Each runs a kernel where one can run, and its plain-PyTorch reference elsewhere."""

from .backend import BackendError, current_backend, use_backend
from .conv3x3 import conv3x3, conv3x3_with_sum
from .conv3x3_head import conv3x3_head
from .lateral_add import lateral_add
from .multiscale_mean import multiscale_mean
from .spatial_pyramid_pool import spatial_pyramid_pool
from .upsample_add_conv3x3 import upsample_add_conv3x3
from .upsample_blend import upsample_blend

OPERATORS = (
    "upsample_add_conv3x3",
    "spatial_pyramid_pool",
    "multiscale_mean",
    "lateral_add",
    "conv3x3",
    "conv3x3_with_sum",
    "conv3x3_head",
    "upsample_blend",
)

__all__ = list(OPERATORS) + ["BackendError", "current_backend", "use_backend"]
