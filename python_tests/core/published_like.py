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

    def columns(self, rows, size):
        return max(1, round(rows * size[1] / size[0]))

    def forward(self, x):
        size = self.fixed_size or tuple(x.shape[2:4])
        x = self.spp.spp_bn(x)
        parts = [x]
        for i, g in enumerate(self.grids):
            grid = (g, g) if self.square_grid else (g, self.columns(g, size))
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

    pooling = {}  # options of the max pool

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
        x = F.relu(self.bn1(self.conv1((images - self.img_mean) / self.img_std)))
        x = F.max_pool2d(x, 3, 2, 1, **self.pooling)
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
    def __init__(self, classes=19, resize=bilinear, generation=2):
        super().__init__()
        self.backbone = ResNet18Backbone(resize)
        self.logits = Unit(128, classes, 1, bias=True) if generation == 2 else Unit(128, classes, 3)

    def forward(self, images):
        return bilinear(self.logits(self.backbone.run(images)), images.shape[2:4])


class LeveledBlock(nn.Module):
    """A residual block with a batch norm for each level of the pyramid."""

    def __init__(self, inputs, channels, stride, levels):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.ModuleList([nn.BatchNorm2d(channels) for _ in range(levels)])
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.ModuleList([nn.BatchNorm2d(channels) for _ in range(levels)])
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x, level):
        y = self.bn2[level](self.conv2(F.relu(self.bn1[level](self.conv1(x)))))
        return y + (self.downsample(x) if hasattr(self, "downsample") else x)


class PyramidBackbone(nn.Module):
    """Second generation: a batch norm for each level, plain 1x1 laterals, bicubic halves. First generation: shared batch
    norms, BN-ReLU-3x3 laterals, antialiased halves, no normalisation inside."""

    def __init__(self, levels, generation, resize=bilinear):
        super().__init__()
        self.levels, self.generation = levels, generation
        if generation == 2:
            self.register_buffer("img_mean", torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1))
            self.register_buffer("img_std", torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1))
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64) if generation == 1 else nn.ModuleList([nn.BatchNorm2d(64) for _ in range(levels)])
        inputs = 64
        for i, channels in enumerate((64, 128, 256, 512)):
            blocks = nn.Sequential()
            for j, stride in enumerate((1 + (i > 0), 1)):
                arguments = (inputs if j == 0 else channels, channels, stride)
                one = ResidualBlock(*arguments) if generation == 1 else LeveledBlock(*arguments, levels)
                blocks.add_module(str(j), one)
            setattr(self, "layer%d" % (i + 1), blocks)
            inputs = channels
        channels = (512, 256, 128, 64)
        if generation == 1:
            laterals = [Unit(c, 128, 3) for c in channels]
        else:
            laterals = [nn.Conv2d(c, 128, 1, bias=False) for c in channels]
        self.upsample_bottlenecks = nn.ModuleList(laterals)
        self.upsample_blends = nn.ModuleList([PyramidBlend(128, resize) for _ in range(levels + 2)])

    def taps(self, x, level):
        first = self.generation == 1
        norm = self.bn1 if first else self.bn1[level]
        x = F.max_pool2d(F.relu(norm(self.conv1(x))), 3, 2, 1)
        for i in range(1, 5):
            for block in getattr(self, "layer%d" % i):
                total = block(x) if first else block(x, level)
                x = F.relu(total)
            yield total

    def run(self, images):
        if self.generation == 1:
            mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
            images = (images / 255 - mean.to(images)[:, None, None]) / std.to(images)[:, None, None]
        else:
            images = (images - self.img_mean) / self.img_std
        by_stride = {}
        for level in range(self.levels):
            scaled = images if level == 0 else self.halved(images, 2**level)
            for i, tap in enumerate(self.taps(scaled, level)):
                by_stride.setdefault(4 * 2 ** (i + level), []).append(self.upsample_bottlenecks[3 - i](tap))
        strides = sorted(by_stride, reverse=True)
        x = by_stride[strides[0]][0]
        for blend, stride in zip(self.upsample_blends, strides[1:]):
            x = blend(x, sum(by_stride[stride]))
        return x

    def halved(self, images, divisor):
        size = tuple(-(-n // divisor) for n in images.shape[2:])
        if self.generation == 2:
            return F.interpolate(images, size=size, mode="bicubic", align_corners=False)
        return torch.stack([torch.stack([pillow_bicubic(plane, size) for plane in image]) for image in images])


def pillow_bicubic(plane, size):
    """Bicubic resizing of one plane [H, W] as Pillow does it, by loops."""

    def cubic(x):
        x = abs(x)
        return (1.5 * x - 2.5) * x * x + 1 if x < 1 else ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0

    def along_rows(plane, count):
        ratio, rows = plane.shape[0] / count, []
        for i in range(count):
            centre = (i + 0.5) * ratio
            weights = [cubic((j + 0.5 - centre) / ratio) for j in range(plane.shape[0])]
            rows.append(sum(w * plane[j] for j, w in enumerate(weights) if w) / sum(weights))
        return torch.stack(rows)

    return along_rows(along_rows(plane, size[0]).t(), size[1]).t()


class PublishedPyramid(nn.Module):
    def __init__(self, classes=19, levels=3, generation=2, resize=bilinear):
        super().__init__()
        self.backbone = PyramidBackbone(levels, generation, resize)
        self.logits = Unit(128, classes, 1, bias=True) if generation == 2 else Unit(128, classes, 3)

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
            offset = (
                1.0
                if name.endswith(("norm.weight", "bn1.weight", "bn2.weight", "0.weight", "1.weight", "2.weight"))
                else 0.0
            )
            value.copy_(offset + 0.2 * torch.randn(value.shape, generator=generator))
    return model.eval()
