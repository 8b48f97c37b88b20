"""Networks as the published code shapes them, in plain PyTorch: an independent rendering to compare with.

Written from the facts of the paper and of the published weights' keys: children `norm`, `relu`, `conv`; blends with
`bottleneck` and `blend_conv`, or `blend_conv` alone; a pyramid in a Sequential named `spp`; `upsampling_method`.
"""

import torch
import torch.nn.functional as F
from torch import nn


def bilinear(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def nearest(x, size):
    return F.interpolate(x, size=size, mode="nearest")


def nearest_to(constant):
    return lambda x, size: F.interpolate(x, size=constant, mode="nearest")


class Unit(nn.Sequential):
    def __init__(self, inputs, outputs, k, norm=True, bias=False, **conv):
        super().__init__()
        if norm:
            self.add_module("norm", nn.BatchNorm2d(inputs))
        self.add_module("relu", nn.ReLU(inplace=norm))
        self.add_module("conv", nn.Conv2d(inputs, outputs, k, padding=k // 2, bias=bias, **conv))


class Blend(nn.Module):
    """With its own lateral."""

    def __init__(self, channels, skip_channels, resize=bilinear, use_skip=True, detach_skip=False, **unit):
        super().__init__()
        self.bottleneck = Unit(skip_channels, channels, 1, **unit)
        self.blend_conv = Unit(channels, channels, 3, **unit)
        self.use_skip, self.detach_skip, self.upsampling_method = use_skip, detach_skip, resize

    def forward(self, x, skip):
        lateral = self.bottleneck(skip)
        lateral = lateral.detach() if self.detach_skip else lateral
        x = self.upsampling_method(x, lateral.shape[2:4])
        return self.blend_conv(x + lateral if self.use_skip else x)


class PyramidBlend(nn.Module):
    """The pyramid model's, whose laterals come projected."""

    def __init__(self, channels, resize=bilinear):
        super().__init__()
        self.blend_conv = Unit(channels, channels, 3)
        self.use_skip, self.detach_skip, self.upsampling_method = True, False, resize

    def forward(self, x, skip):
        return self.blend_conv(self.upsampling_method(x, skip.shape[2:4]) + skip)


class Pyramid(nn.Module):
    def __init__(self, inputs, channels=128, grids=(8, 4, 2), square_grid=False, fixed_size=None, resize=bilinear):
        super().__init__()
        self.grids, self.square_grid, self.fixed_size = grids, square_grid, fixed_size
        self.upsampling_method = resize if fixed_size is None else nearest_to(fixed_size)
        level = channels // len(grids)
        self.spp = nn.Sequential()
        self.spp.add_module("spp_bn", Unit(inputs, channels, 1))
        for i in range(len(grids)):
            self.spp.add_module("spp%d" % i, Unit(channels, level, 1))
        self.spp.add_module("spp_fuse", Unit(channels + level * len(grids), channels, 1))

    def forward(self, x):
        size = self.fixed_size or tuple(x.shape[2:4])
        x = self.spp.spp_bn(x)
        parts = [x]
        for i, g in enumerate(self.grids):
            grid = (g, g) if self.square_grid else (g, max(1, round(g * size[1] / size[0])))
            level = getattr(self.spp, "spp%d" % i)(F.adaptive_avg_pool2d(x, grid))
            parts.append(self.upsampling_method(level, size))
        return self.spp.spp_fuse(torch.cat(parts, 1))


class Decoder(nn.Module):
    """The decoder of a single-scale network on four taps."""

    def __init__(self, taps=(24, 32, 96, 320), channels=128, classes=11, resize=bilinear):
        super().__init__()
        self.spp = Pyramid(taps[3], channels, resize=resize)
        self.upsample = nn.ModuleList([Blend(channels, c, resize) for c in reversed(taps[:3])])
        self.logits = Unit(channels, classes, 1, bias=True)

    def forward(self, taps):
        x = self.spp(taps[3])
        for blend, tap in zip(self.upsample, reversed(taps[:3])):
            x = blend(x, tap)
        return self.logits(x)


class ResidualBlock(nn.Module):
    def __init__(self, inputs, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return y + (self.downsample(x) if hasattr(self, "downsample") else x)  # before the ReLU


class ResNet18Backbone(nn.Module):
    """The whole network but its head; `run` gives the decoder's last map."""

    def __init__(self, resize=bilinear):
        super().__init__()
        self.register_buffer("img_mean", torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1))
        self.register_buffer("img_std", torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1))
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for i, channels in enumerate((64, 128, 256, 512)):
            blocks = [ResidualBlock(inputs, channels, 1 + (i > 0)), ResidualBlock(channels, channels, 1)]
            setattr(self, "layer%d" % (i + 1), nn.Sequential(*blocks))
            inputs = channels
        self.spp = Pyramid(512, resize=resize)
        self.upsample = nn.ModuleList([Blend(128, c, resize) for c in (256, 128, 64)])

    def run(self, images):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1((images - self.img_mean) / self.img_std))), 3, 2, 1)
        taps = []
        for i in range(1, 5):
            for block in getattr(self, "layer%d" % i):
                total = block(x)
                x = F.relu(total)
            taps.append(total)
        x = self.spp(taps[3])
        for blend, tap in zip(self.upsample, reversed(taps[:3])):
            x = blend(x, tap)
        return x


class PublishedSingleScale(nn.Module):
    def __init__(self, classes=19, resize=bilinear):
        super().__init__()
        self.backbone = ResNet18Backbone(resize)
        self.logits = Unit(128, classes, 1, bias=True)

    def forward(self, images):
        return bilinear(self.logits(self.backbone.run(images)), images.shape[2:4])


def randomise(model, seed=0):
    """Weights and statistics that no default hides behind, of a size that keeps maps near 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.dim() == 4 and not name.endswith(("img_mean", "img_std")):
            value.copy_(torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5)
        elif value.is_floating_point() and value.dim() == 1:
            offset = 1.0 if name.endswith(("norm.weight", "bn1.weight", "bn2.weight", "1.weight")) else 0.0
            value.copy_(offset + 0.2 * torch.randn(value.shape, generator=generator))
    return model.eval()
