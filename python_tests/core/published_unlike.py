"""Modules that look like the published code's and are not: with a layer, an option or a forward of another kind."""

import torch
from torch import nn

from .published_like import Blend, Pyramid, PyramidBlend, Unit, nearest, nearest_to


class Separable(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.pointwise = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 6, 1)

    def forward(self, x):
        return self.pointwise(self.conv1(x))


class ConvFirst(nn.Sequential):
    def __init__(self):
        super().__init__()
        self.add_module("conv", nn.Conv2d(6, 6, 3, padding=1))
        self.add_module("norm", nn.BatchNorm2d(6))
        self.add_module("relu", nn.ReLU())


class Doubled(PyramidBlend):
    def forward(self, x, skip):
        return 2 * super().forward(x, skip)


class DoubledUnit(Unit):
    def forward(self, x):
        return 2 * super().forward(x)


class DoubledWithOwnResizing(Doubled):
    def __init__(self, channels):
        super().__init__(channels)
        self.upsampling_method = self.resize

    def resize(self, x, size):
        return nearest(x, size)


class DoubledConstantSize(Blend):
    def forward(self, x, skip):
        return 2 * super().forward(x, skip)


def changed(module, path, value):
    parent = module
    for part in path.split(".")[:-1]:
        parent = getattr(parent, part)
    setattr(parent, path.split(".")[-1], value)
    return module


def scripted(module):
    class Scriptable(nn.Module):
        def __init__(self):
            super().__init__()
            self.blend_conv = module.blend_conv

        def forward(self, x, skip):
            return self.blend_conv(x + skip)

    return torch.jit.script(Scriptable())


def doubling(x, size):
    return nn.functional.interpolate(x, scale_factor=2, mode="nearest")


# each by the reason why it is refused
REFUSED = {
    "blend_conv has children conv, norm, relu": lambda: changed(PyramidBlend(6), "blend_conv", ConvFirst()),
    "its own forward computes something else": lambda: Doubled(6),
    "its own forward computes .*": lambda: DoubledWithOwnResizing(6),
    "own forward computes something": lambda: DoubledConstantSize(6, 4, nearest_to((128, 256))),
    "it is a ScriptModule": lambda: scripted(PyramidBlend(6)),
    "its levels have biases": lambda: changed(Pyramid(7, 12), "spp.spp1", Unit(12, 4, 1, bias=True)),
    "its own forward computes something": lambda: changed(Blend(6, 4), "blend_conv", DoubledUnit(6, 6, 3)),
    "neither bilinear .* nor nearest": lambda: Blend(6, 4, doubling),
    "blend_conv.conv is Separable, not nn.Conv2d": lambda: changed(PyramidBlend(6), "blend_conv.conv", Separable()),
    "blend_conv.conv has groups 2": lambda: changed(
        PyramidBlend(6), "blend_conv.conv", nn.Conv2d(6, 6, 3, padding=1, groups=2)
    ),
    r"blend_conv.conv has kernel_size \(1, 1\)": lambda: changed(PyramidBlend(6), "blend_conv", Unit(6, 6, 1)),
    "blend_conv.norm is GroupNorm": lambda: changed(PyramidBlend(6), "blend_conv.norm", nn.GroupNorm(2, 6)),
    "keeps no running statistics": lambda: changed(
        Blend(6, 4), "bottleneck.norm", nn.BatchNorm2d(4, track_running_stats=False)
    ),
    "norm keeps no running statistics": lambda: changed(Blend(6, 4), "bottleneck.norm.running_var", None),
    "blend_conv.relu is ReLU6": lambda: changed(PyramidBlend(6), "blend_conv.relu", nn.ReLU6()),
    "bottleneck has children": lambda: changed(Blend(6, 4), "bottleneck", nn.Conv2d(4, 6, 1)),
    "neither bilinear": lambda: Blend(6, 4, lambda x, size: nn.functional.interpolate(x, size=size, mode="bicubic")),
    "could not be tried: RuntimeError: no": lambda: Blend(
        6, 4, lambda x, size: (_ for _ in ()).throw(RuntimeError("no"))
    ),
    "use_skip is off": lambda: Blend(6, 4, use_skip=False),
    "has no upsampling_method": lambda: changed(Blend(6, 4), "upsampling_method", None),
    "fixed_size is": lambda: changed(Pyramid(7, 12), "fixed_size", (4, 4)),
    "levels differ in shape": lambda: changed(Pyramid(7, 12), "spp.spp1", Unit(12, 5, 1)),
    "2 grids for 3 levels": lambda: changed(Pyramid(7, 12), "grids", (8, 4)),
}


# what stands in for the 3×3 after a projection that fits: (module, why it runs by itself)
PARTLY = {
    "grouped": (
        lambda: changed(Blend(6, 4), "blend_conv.conv", nn.Conv2d(6, 6, 3, padding=1, groups=2)),
        "lateral_add; the rest in plain PyTorch: blend_conv.conv has groups 2, the operator 1",
    ),
    "separable": (
        lambda: changed(Blend(6, 4), "blend_conv.conv", Separable()),
        "lateral_add; the rest in plain PyTorch: blend_conv.conv is Separable, not nn.Conv2d",
    ),
    "1x1": (
        lambda: changed(Blend(6, 4), "blend_conv", Unit(6, 6, 1)),
        "lateral_add; the rest in plain PyTorch: blend_conv.conv has kernel_size (1, 1), the operator (3, 3)",
    ),
    "another order": (
        lambda: changed(Blend(6, 4), "blend_conv", ConvFirst()),
        "lateral_add; the rest in plain PyTorch: blend_conv has children conv, norm, relu, expected norm, relu, conv",
    ),
    "group norm": (
        lambda: changed(Blend(6, 4), "blend_conv.norm", nn.GroupNorm(2, 6)),
        "lateral_add; the rest in plain PyTorch: blend_conv.norm is GroupNorm, not nn.BatchNorm2d",
    ),
}
