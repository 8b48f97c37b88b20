"""SwiftNet's modules on the fused operators."""

from .layers import BNReLUConv, SpatialPyramidPooling, UpsampleBlend
from .multi_scale import Ensemble, MultiScale
from .segment import Segmenter

__all__ = ["BNReLUConv", "Ensemble", "MultiScale", "Segmenter", "SpatialPyramidPooling", "UpsampleBlend"]
