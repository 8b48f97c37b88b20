"""SwiftNet's modules on the fused operators."""

from .layers import BNReLUConv, MultiScale, SpatialPyramidPooling, UpsampleBlend

__all__ = ["BNReLUConv", "MultiScale", "SpatialPyramidPooling", "UpsampleBlend"]
