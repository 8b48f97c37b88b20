"""The single-scale decoder: spatial pyramid pooling, then three upsampling steps. Source: SwiftNet (CVPR 2019), section 3."""

from typing import Any

from torch import Tensor, nn

from ..nn import BNReLUConv, SpatialPyramidPooling, UpsampleBlend


def attach(encoder: Any, channels: int, mode: str, blend: str, spp: bool) -> None:
    """Gives an encoder the decoder's modules, under the published names."""
    *skips, last = encoder.tap_channels
    if spp:
        encoder.spp = SpatialPyramidPooling(last, channels, mode=mode)
    else:
        encoder.spp = BNReLUConv(last, channels, kernel_size=1)
    encoder.upsample = nn.ModuleList([UpsampleBlend(channels, c, mode=mode, blend=blend) for c in reversed(skips)])


def decode(backbone: Any, images: Tensor) -> Tensor:
    """Normalised images [N, 3, H, W] to the decoder's last map [N, channels, ⌈H/4⌉, ⌈W/4⌉]."""
    *skips, last = backbone.taps(images)
    x = backbone.spp(last)
    for upsample, tap in zip(backbone.upsample, reversed(skips)):
        x = upsample(x, tap)
    return x
