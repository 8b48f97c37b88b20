"""For each operator how to make, call and check it, beside what operator_case.py has for all of them."""

import pytest
import torch

import swiftnet_ext as sx
from swiftnet_ext.ops.conv3x3_head import MIN_CHANNELS

from . import oracle
from .operator_case import DTYPES, SHAPES, Case


class UpsampleAddConv3x3(Case):
    name = "upsample_add_conv3x3"
    auto = True
    variants = ("bilinear", "nearest")
    vectors = ("scale", "shift", "bias")

    def tensors(self, shape, variant, rand):
        n, c, k, small, size = shape
        return {
            "x": rand(n, c, *small), "skip": rand(n, c, *size), "weight": rand(k, c, 3, 3), "bias": rand(k),
            "scale": rand(c), "shift": rand(c),
        }  # fmt: skip

    def call(self, t, variant):
        return sx.ops.upsample_add_conv3x3(mode=variant, **t)

    def expected(self, t, variant):
        return oracle.upsample_add_conv3x3(mode=variant, algorithm=widest(t["x"].shape[1]), **t)

    def terms(self, shape, variant):
        return 9 * shape[1]

    def stored(self, t, variant, dtype):
        """The convolution's input is written in the maps' dtype."""
        activated, _ = oracle.blend(t["x"], t["skip"], t["scale"], t["shift"], variant)
        error = oracle.UNIT[dtype] * activated + oracle.TINY[dtype]
        sums = half2_error(activated + error, t["weight"]) if self.in_half(variant, dtype) else 0.0
        return oracle.conv(error, t["weight"].abs()) + sums

    def in_half(self, variant, dtype):
        return sums_in_half(dtype)


def sums_in_half(dtype):
    """Whether "auto" may be half2 here: on this GPU."""
    return dtype is torch.float16 and torch.cuda.is_available() and torch.cuda.get_device_capability() == (6, 2)


def widest(channels):
    """The algorithm that "auto" may be whose magnitudes are largest."""
    return winograd() if channels >= MIN_CHANNELS else "direct"


def winograd():
    """The backend's form of Winograd's algorithm."""
    return "winograd_4x4" if sx.ops.current_backend()[0] == "cpu" else "winograd"


def rounded(activated, dtype):
    """The error of a map that only the native CPU kernels round to the maps' dtype between two of them."""
    if dtype is not torch.bfloat16:
        return torch.zeros_like(activated)
    return oracle.UNIT[dtype] * activated + oracle.TINY[dtype]


def half2_error(x, weight):
    """Each of up to 144 additions rounds an fp16 sum, or is off by half a subnormal; weights and pixels are fp16 already."""
    half, additions = torch.float16, 9 * min(16, x.shape[1])
    relative, absolute = (1 + oracle.UNIT[half]) ** additions - 1, 9 * x.shape[1] * oracle.TINY[half]
    return relative * oracle.conv(x.abs(), weight.abs()) + (1 + relative) * absolute


class Conv3x3(Case):
    """The variant half2 is "auto" for fp32 maps."""

    name = "conv3x3"
    variants = ("direct", "direct_residual_relu", "winograd", "winograd_residual_relu", "half2")
    vectors = ("bias",)

    @staticmethod
    def options(variant):
        return dict(relu="relu" in variant, algorithm=variant.partition("_")[0])

    def takes(self, variant, dtype):
        return dtype is torch.float16 or not variant.startswith("half2")

    def in_half(self, variant, dtype):
        return variant.startswith("half2") and dtype is torch.float16

    def stored(self, t, variant, dtype):
        return half2_error(t["x"], t["weight"]) if self.in_half(variant, dtype) else 0.0

    def tensors(self, shape, variant, rand):
        n, c, k, _, size = shape
        t = {"x": rand(n, c, *size), "weight": rand(k, c, 3, 3), "bias": rand(k)}
        if "residual" in variant:
            t["residual"] = rand(n, k, *size)
        return t

    def call(self, t, variant):
        options = self.options(variant)
        if options["algorithm"] == "half2" and t["x"].dtype is not torch.float16:
            options["algorithm"] = "auto"
        return sx.ops.conv3x3(**options, **t)

    def expected(self, t, variant):
        options = self.options(variant)
        if options["algorithm"] == "half2":
            options["algorithm"] = widest(t["x"].shape[1])
        elif options["algorithm"] == "winograd":
            options["algorithm"] = winograd()
        return oracle.conv3x3(t["x"], t["weight"], t["bias"], t.get("residual"), **options)

    def terms(self, shape, variant):
        return shape[1] if variant.startswith("winograd") else 9 * shape[1]


class Conv3x3WithSum(Conv3x3):
    """Both results, one after the other along channels."""

    name = "conv3x3_with_sum"
    variants = ("direct_residual", "winograd_residual")

    def call(self, t, variant):
        return torch.cat(sx.ops.conv3x3_with_sum(algorithm=self.options(variant)["algorithm"], **t), 1)

    def expected(self, t, variant):
        algorithm = winograd() if variant.startswith("winograd") else "direct"
        total, magnitude = oracle.conv3x3(t["x"], t["weight"], t["bias"], t.get("residual"), False, algorithm)
        return torch.cat([total.clamp(min=0), total], 1), torch.cat([magnitude, magnitude], 1)


class Conv3x3Head(Case):
    name = "conv3x3_head"
    auto = True
    variants = ("affine", "plain")
    vectors = ("bias", "head_bias", "scale", "shift")
    integers = 1

    def tensors(self, shape, variant, rand):
        n, c, k, _, size = shape
        classes = shape[3][0] + shape[3][1]  # of all sizes up to the kernel's 24, and beyond
        t = {"x": rand(n, c, *size), "weight": rand(k, c, 3, 3), "head_weight": rand(classes, k, 1, 1)}
        t.update(bias=rand(k), head_bias=rand(classes))
        if variant == "affine":
            t.update(scale=rand(k), shift=rand(k))
        return t

    def call(self, t, variant):
        return sx.ops.conv3x3_head(**t)

    def expected(self, t, variant):
        given = dict({"scale": None, "shift": None}, **t)
        return oracle.conv3x3_head(algorithm=widest(t["x"].shape[1]), **given)

    def terms(self, shape, variant):
        return (shape[1] if shape[1] >= MIN_CHANNELS else 9 * shape[1]) + shape[2]

    def stored(self, t, variant, dtype):
        """Where the convolution and its head are two launches, the map between them is in the maps' dtype."""
        y, _ = oracle.linear(t["x"], t["x"].abs(), t["weight"], t["bias"])
        activated, _ = oracle.activate(y, y, t.get("scale"), t.get("shift"))
        error = oracle.UNIT[dtype] * y.abs() + oracle.TINY[dtype]
        if self.in_half(variant, dtype):
            error = error + half2_error(t["x"], t["weight"])
        error = oracle.channels(t.get("scale", torch.ones(1)).abs()) * error + rounded(activated, dtype)
        return oracle.conv(error, t["head_weight"].abs())

    def in_half(self, variant, dtype):
        return sums_in_half(dtype)


class LateralAdd(Case):
    name = "lateral_add"
    variants = ("bilinear", "nearest", "alone", "affine")
    vectors = ("scale", "shift", "bias", "out_scale", "out_shift")
    # 56 blocks of 4×32 pixels × 128 outputs, or more, with tails of rows, columns and outputs; all but the last, whose
    # channels fill no slices of 8, are the wide kernel's: the fourth in channels_last only, the second and fifth in NCHW
    wide_shapes = (
        (14, 24, 68, (3, 18), (5, 36)), (7, 8, 130, (9, 45), (7, 40)), (7, 16, 132, (2, 10), (7, 40)),
        (14, 8, 68, (5, 33), (5, 33)), (14, 8, 65, (5, 36), (5, 36)), (14, 12, 68, (3, 18), (5, 36)),
    )  # fmt: skip

    def tensors(self, shape, variant, rand):
        n, c, k, small, size = shape
        t = {"tap": rand(n, c, *size), "weight": rand(k, c, 1, 1), "bias": rand(k), "scale": rand(c), "shift": rand(c)}
        if variant != "alone":
            t["x"] = rand(n, k, *small)
        if variant == "affine":
            t["out_scale"], t["out_shift"] = rand(k), rand(k)
        return t

    @staticmethod
    def options(variant):
        return dict(relu=variant != "alone", mode="nearest" if variant == "nearest" else "bilinear")

    def call(self, t, variant):
        return sx.ops.lateral_add(**self.options(variant), **t)

    def expected(self, t, variant):
        return oracle.lateral_add(**self.options(variant), **dict(t, x=t.get("x")))

    def stored(self, t, variant, dtype):
        activated, _ = oracle.activate(t["tap"], t["tap"], t["scale"], t["shift"])
        error = oracle.conv(rounded(activated, dtype), t["weight"].abs())
        return oracle.channels(t.get("out_scale", torch.ones(1)).abs()) * error

    def terms(self, shape, variant):
        return shape[1]


class UpsampleBlend(Case):
    """In several launches, of operators that have cases of their own; test_tensor_cores.py has the one launch."""

    name = "upsample_blend"
    auto = True
    variants = ("bilinear", "nearest_head")
    vectors = (
        "lateral_bias", "bias", "scale", "shift", "out_scale", "out_shift", "head_bias", "head_scale", "head_shift",
    )  # fmt: skip
    integers = 1
    shapes = tuple(SHAPES[::6])

    def tensors(self, shape, variant, rand):
        n, c, k, small, size = shape
        taps, classes = 1 + c % 11, 1 + c % 24
        t = {"x": rand(n, c, *small), "tap": rand(n, taps, *size), "lateral_weight": rand(c, taps, 1, 1)}
        t.update(weight=rand(k, c, 3, 3), lateral_bias=rand(c), bias=rand(k), scale=rand(taps), shift=rand(taps))
        t.update(out_scale=rand(c), out_shift=rand(c))
        if "head" in variant:
            t.update(
                head_weight=rand(classes, k, 1, 1), head_bias=rand(classes), head_scale=rand(k), head_shift=rand(k)
            )
        return t

    @staticmethod
    def mode(variant):
        return variant.partition("_")[0]

    def call(self, t, variant):
        return sx.ops.upsample_blend(mode=self.mode(variant), **t)

    def activated(self, t, variant):
        affines = {name: t[name] for name in ("scale", "shift", "out_scale", "out_shift")}
        lateral = t["lateral_weight"], t["x"], t["lateral_bias"]
        return oracle.lateral_add(t["tap"], *lateral, relu=True, mode=self.mode(variant), **affines)

    def expected(self, t, variant):
        y = oracle.linear(
            *self.activated(t, variant), weight=t["weight"], bias=t["bias"], algorithm=widest(t["x"].shape[1])
        )
        if "head_weight" not in t:
            return y
        hidden = oracle.activate(*y, scale=t["head_scale"], shift=t["head_shift"])
        return oracle.linear(*hidden, weight=t["head_weight"], bias=t["head_bias"])

    def terms(self, shape, variant):
        return 12 + 9 * shape[1] + shape[2]

    def stored(self, t, variant, dtype):
        """The maps between the operators are in the maps' dtype."""
        y, _ = self.activated(t, variant)
        tap, _ = oracle.activate(t["tap"], t["tap"], t["scale"], t["shift"])
        of_tap = oracle.conv(rounded(tap, dtype), t["lateral_weight"].abs())
        error = oracle.channels(t["out_scale"].abs()) * of_tap + oracle.UNIT[dtype] * y + oracle.TINY[dtype]
        sums = half2_error(y + error, t["weight"]) if self.in_half(variant, dtype) else 0.0
        error = oracle.conv(error, t["weight"].abs()) + sums
        if "head_weight" not in t:
            return error
        hidden, _ = oracle.linear(y, y, t["weight"], t["bias"])
        error = error + oracle.UNIT[dtype] * (hidden.abs() + error) + oracle.TINY[dtype]
        activated, _ = oracle.activate(hidden, hidden, t["head_scale"], t["head_shift"])
        error = oracle.channels(t["head_scale"].abs()) * error + rounded(activated, dtype)
        return oracle.conv(error, t["head_weight"].abs())

    def in_half(self, variant, dtype):
        return sums_in_half(dtype)


class SpatialPyramidPool(Case):
    name = "spatial_pyramid_pool"
    variants = ("bilinear", "nearest")
    vectors = ("level_scale", "level_shift", "fuse_scale", "fuse_shift", "fuse_bias")
    # three tiles along a row, two groups of a level's outputs and of the fused ones; two slices of a level's channels
    wide_shapes = ((1, 12, 68, (4, 16), (5, 132)), (2, 132, 24, (3, 6), (6, 20)))

    @staticmethod
    def grids(shape):
        (h, w), (height, width) = shape[3], shape[4]
        levels = 1 + (shape[1] // 4 + shape[2]) % 4
        return [(min(h, 16), min(w, 32)), (min(4, height), min(8, width)), (2, 3), (1, 1)][:levels]

    @staticmethod
    def level_outputs(shape):
        return shape[2] - shape[2] // 4

    def tensors(self, shape, variant, rand):
        n, c, k, _, size = shape
        levels, outputs = len(self.grids(shape)), self.level_outputs(shape)
        concatenated = c + levels * outputs
        return {
            "x": rand(n, c, *size), "level_weight": rand(levels, outputs, c), "fuse_weight": rand(k, concatenated),
            "fuse_bias": rand(k), "level_scale": rand(levels, c), "level_shift": rand(levels, c),
            "fuse_scale": rand(concatenated), "fuse_shift": rand(concatenated),
        }  # fmt: skip

    def make(self, shape, *args, **kwargs):
        made = super().make(shape, *args, **kwargs)
        made["grids"] = self.grids(shape)
        return made

    def call(self, t, variant):
        return sx.ops.spatial_pyramid_pool(mode=variant, **t)

    def expected(self, t, variant):
        return oracle.spatial_pyramid_pool(mode=variant, **t)

    def terms(self, shape, variant):
        pooled = shape[4][0] * shape[4][1]
        return pooled + shape[1] + shape[1] + len(self.grids(shape)) * self.level_outputs(shape)


class MultiscaleMean(Case):
    name = "multiscale_mean"
    variants = ("softmax_then_resize", "resize_then_softmax")

    def tensors(self, shape, variant, rand):
        n, c, k, small, (height, width) = shape
        sizes = [small, (height, width), (height // 2 + 1, width // 3 + 1), (2 * height, width + 1), (1, 2)][
            : 1 + k % 5
        ]
        return {"logits": [4 * rand(n, c, *s) for s in sizes], "size": (height, width)}

    def _cast(self, name, value, dtype, device):
        return value if name == "size" else super()._cast(name, value, dtype, device)

    def call(self, t, variant, reduce="mean"):
        return sx.ops.multiscale_mean(order=variant, reduce=reduce, **t)

    def expected(self, t, variant):
        return oracle.multiscale_mean(order=variant, **t)

    def terms(self, shape, variant):
        return shape[1]


CASES = [
    UpsampleAddConv3x3(),
    SpatialPyramidPool(),
    MultiscaleMean(),
    LateralAdd(),
    Conv3x3(),
    Conv3x3WithSum(),
    Conv3x3Head(),
    UpsampleBlend(),
]
IDS = [case.name for case in CASES]
COMBINATIONS = [
    pytest.param(case, variant, dtype, id="{}-{}-{}".format(str(dtype)[6:], case.name, variant))
    for case in CASES
    for variant in case.variants
    for dtype in DTYPES
    if case.takes(variant, dtype)
]
# of the CUDA kernels; bfloat16 is on their tensor cores alone, of which test_tensor_cores.py has the cases
CUDA_DTYPES = (torch.float32, torch.float16)
CUDA_COMBINATIONS = [c for c in COMBINATIONS if c.values[2] in CUDA_DTYPES]
