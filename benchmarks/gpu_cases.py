"""What gpu_speed.py times, each as this package's call and as plain PyTorch's: operators at SwiftNet-RN18's sizes, networks."""

import copy
import functools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Callable, Dict, List, NamedTuple, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import swiftnet_ext as sx
from benchmarks.bench_operators import CHANNELS, CLASSES, GRIDS, SCALES, conv, drawer, head, multiscale, pyramid
from benchmarks.simt import blend_conv, block
from swiftnet_ext import ops
from swiftnet_ext.ops import reference

Call = Callable[[], Tensor]

# the more important first
NETWORKS = ("swiftnet_rn18", "swiftnet_mnv2", "swiftnet_pyr_rn18", "swiftnet_pyr_mnv2")
IMAGES = ((2048, 1024, 1), (1024, 512, 1), (2048, 1024, 8), (1024, 512, 8))  # width, height, batch
FORMATS = ((torch.float16, "nhwc"), (torch.float32, "nhwc"), (torch.bfloat16, "nhwc"), (torch.float32, "nchw"))


class Operator(NamedTuple):
    make: Callable[..., Call]  # (draw, zoom of bench_operators' 1024×512, library of functions) → call
    count: Callable[[float, int], "Cost"]  # (pixels of the image, bytes of a value) → Cost


class Cost(NamedTuple):
    """The least that an operator has to move, inputs, weights and result once each, and the direct form's products."""

    bytes: float
    products: float


def count_conv3x3(pixels: float, size: int, channels: int) -> Cost:
    outputs, weights = pixels / 4**2, 9 * channels**2
    return Cost(size * (outputs * 2 * channels + weights), outputs * weights)


def count_blend(pixels: float, size: int, stride: int) -> Cost:
    outputs, tap = pixels / stride**2, 16 * stride
    weights = tap * CHANNELS + 9 * CHANNELS**2
    return Cost(size * (outputs * (tap + CHANNELS / 4 + CHANNELS) + weights), outputs * weights)


def count_head(pixels: float, size: int) -> Cost:
    outputs, weights = pixels / 4**2, 9 * CHANNELS**2 + CHANNELS * CLASSES
    return Cost(size * (outputs * (CHANNELS + CLASSES) + weights), outputs * weights)


def count_pyramid(pixels: float, size: int) -> Cost:
    outputs, level = pixels / 32**2, CHANNELS // 3
    of_levels, fuse = level * CHANNELS, CHANNELS * (CHANNELS + 3 * level)
    cells = sum(rows * columns for rows, columns in GRIDS)
    return Cost(size * (outputs * 2 * CHANNELS + 3 * of_levels + fuse), outputs * fuse + cells * of_levels)


def count_multiscale(pixels: float, size: int, labels: bool) -> Cost:
    read = size * CLASSES * sum(pixels / 4**2 * scale**2 for scale in SCALES)
    return Cost(read + (pixels if labels else size * CLASSES * pixels), 0)


def multiscale_mean(maps: Sequence[Tensor], size: Tuple[int, int], reduce: str) -> Tensor:
    """As a user writes it; the reference goes by stripes to save memory, which costs it time."""
    resized = [F.interpolate(m.softmax(1), size=size, mode="bilinear", align_corners=False) for m in maps]
    mean = sum(resized[1:], resized[0]) / len(maps)
    return mean.argmax(1).to(torch.uint8) if reduce == "argmax" else mean


PLAIN = SimpleNamespace(
    conv3x3=reference.conv3x3,
    conv3x3_head=reference.conv3x3_head,
    spatial_pyramid_pool=reference.spatial_pyramid_pool,
    multiscale_mean=multiscale_mean,
)


def _blend(stride: int) -> Operator:
    # a module has its own switch between operators and plain PyTorch: simt.eager
    return Operator(
        lambda draw, zoom, library: block(draw, zoom, stride), functools.partial(count_blend, stride=stride)
    )


def _multiscale(reduce: str) -> Operator:
    return Operator(
        lambda draw, zoom, library: multiscale(draw, reduce, zoom, library),
        functools.partial(count_multiscale, labels=reduce == "argmax"),
    )


# the more important first
OPERATORS: Dict[str, Operator] = {
    "blend stride 4": _blend(4),
    "conv3x3 128→128": Operator(blend_conv, functools.partial(count_conv3x3, channels=CHANNELS)),
    "conv3x3_head": Operator(head, count_head),
    "multiscale labels": _multiscale("argmax"),
    "conv3x3 64→64": Operator(conv, functools.partial(count_conv3x3, channels=64)),
    "spatial_pyramid_pool": Operator(pyramid, count_pyramid),
    "multiscale mean": _multiscale("mean"),
    "blend stride 8": _blend(8),
    "blend stride 16": _blend(16),
}


def title(row: Dict[str, object]) -> str:
    """What a row is called; no other has the same."""
    return "{name} {size} batch {batch} {dtype} {layout}".format(**row)


@dataclass(frozen=True)
class Case:
    name: str
    width: int  # of the image
    height: int
    batch: int
    dtype: torch.dtype
    layout: str

    def columns(self) -> Dict[str, object]:
        size = f"{self.width}x{self.height}"
        return dict(name=self.name, size=size, batch=self.batch, dtype=str(self.dtype)[6:], layout=self.layout)

    def __str__(self) -> str:
        return title(self.columns())

    def build(self, device: str) -> Tuple[Call, Call]:
        """(ours, plain): two calls with the same weights and inputs; plain is to be run in simt.eager."""
        memory_format = torch.channels_last if self.layout == "nhwc" else torch.contiguous_format
        if self.name in NETWORKS:
            model = copy.deepcopy(_network(self.name, device)).to(self.dtype).to(memory_format=memory_format)
            images = _images(self.batch, self.height, self.width).to(device).contiguous(memory_format=memory_format)
            plain = copy.deepcopy(model)
            return lambda: model.labels(images), lambda: plain(images).argmax(1).to(torch.uint8)
        calls = []
        for library in (ops, PLAIN):
            torch.manual_seed(0)  # of the modules' weights
            draw = drawer(device, self.dtype, memory_format)
            calls.append(OPERATORS[self.name].make(draw, self.width / 1024, library))
        return calls[0], calls[1]

    def cost(self) -> Cost:
        """Of an operator."""
        return OPERATORS[self.name].count(self.width * self.height, self.dtype.itemsize)


def cases(shrink: int) -> List[Case]:
    """All of them; first those that differ least from fp16 channels_last 2048×1024 batch 1."""
    ranked = []
    for i, (width, height, batch) in enumerate(IMAGES):
        for j, (dtype, layout) in enumerate(FORMATS):
            names = [NETWORKS[0], *(OPERATORS if i == 0 else ()), *NETWORKS[1:]]
            ranked += [(i + j, Case(n, width // shrink, height // shrink, batch, dtype, layout)) for n in names]
    return [case for _, case in sorted(ranked, key=lambda pair: pair[0])]


@functools.lru_cache(maxsize=None)
def _network(name: str, device: str) -> nn.Module:
    """An fp32 network of random weights. Its batch norms have seen images: else its labels would all be alike."""
    torch.manual_seed(0)
    model = sx.build_model(name, CLASSES).to(device)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(_images(2, 256, 512).to(device))
    return model.eval()


def _images(batch: int, height: int, width: int) -> Tensor:
    """Smooth noise, float RGB 0..255 [batch, 3, height, width]."""
    coarse = torch.rand(batch, 3, height // 16, width // 16, generator=torch.Generator().manual_seed(0)) * 255
    return F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
