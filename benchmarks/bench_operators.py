"""One row for each operator and backend, at the sizes of SwiftNet-RN18 on a 1024×512 image, batch 1.

    pytest benchmarks --benchmark-only

The device is synchronised inside the timed call, and each row checks its result against plain PyTorch. A group is an operator
in one layout and dtype; its first row is eager PyTorch. gpu_speed.py and simt.py take the rows at other sizes (zoom), the
former from another library of functions too.
"""

import pytest
import torch

import swiftnet_ext as sx
from swiftnet_ext import _native, ops
from swiftnet_ext.engine.benchmark.kernels import MAKERS, Maker

CHANNELS, CLASSES = 128, 19
GRIDS = [(8, 16), (4, 8), (2, 4)]  # of the pyramid pooling, for images twice as wide as high
SCALES = (0.5, 0.75, 1, 1.25, 1.5)


def blend(draw):
    x, skip = draw(1, CHANNELS, 64, 128), draw(1, CHANNELS, 128, 256)
    weight, scale, shift = draw(CHANNELS, CHANNELS, 3, 3) / 34, draw(CHANNELS), draw(CHANNELS)
    return lambda: ops.upsample_add_conv3x3(x, skip, weight, scale=scale, shift=shift)


def pyramid(draw, zoom=1, library=ops):
    x = draw(1, CHANNELS, int(16 * zoom), int(32 * zoom))
    level_weight, fuse_weight = draw(3, 42, CHANNELS) / 11, draw(CHANNELS, 254) / 16
    affine = dict(
        level_scale=draw(3, CHANNELS), level_shift=draw(3, CHANNELS), fuse_scale=draw(254), fuse_shift=draw(254)
    )
    return lambda: library.spatial_pyramid_pool(x, level_weight, fuse_weight, grids=GRIDS, **affine)


def multiscale(draw, reduce, zoom=1, library=ops):
    factors = [zoom * f for f in SCALES]
    maps = [draw(1, CLASSES, int(128 * f), int(256 * f)) for f in factors]
    return lambda: library.multiscale_mean(maps, (int(512 * zoom), int(1024 * zoom)), reduce=reduce)


def lateral(draw, zoom=1):
    tap, x = draw(1, 64, int(128 * zoom), int(256 * zoom)), draw(1, CHANNELS, int(64 * zoom), int(128 * zoom))
    weight, scale, shift = draw(CHANNELS, 64, 1, 1) / 8, draw(64), draw(64)
    return lambda: ops.lateral_add(tap, weight, x, scale=scale, shift=shift)


def conv(draw, zoom=1, library=ops):
    x, weight, bias = draw(1, 64, int(128 * zoom), int(256 * zoom)), draw(64, 64, 3, 3) / 24, draw(64)
    return lambda **options: library.conv3x3(x, weight, bias, relu=True, **options)


def with_sum(draw):
    x, weight, bias, residual = draw(1, 64, 128, 256), draw(64, 64, 3, 3) / 24, draw(64), draw(1, 64, 128, 256)
    return lambda: ops.conv3x3_with_sum(x, weight, bias, residual=residual)


def head(draw, zoom=1, library=ops):
    x, weight = draw(1, CHANNELS, int(128 * zoom), int(256 * zoom)), draw(CHANNELS, CHANNELS, 3, 3) / 34
    logits, scale, shift = draw(CLASSES, CHANNELS, 1, 1) / 11, draw(CHANNELS), draw(CHANNELS)
    return lambda: library.conv3x3_head(x, weight, logits, scale=scale, shift=shift)


ROWS = {
    "upsample_add_conv3x3": blend,
    "spatial_pyramid_pool": pyramid,
    "multiscale_mean": lambda draw: multiscale(draw, "mean"),
    "multiscale_mean-labels": lambda draw: multiscale(draw, "argmax"),
    "lateral_add": lateral,
    "conv3x3": conv,
    "conv3x3_with_sum": with_sum,
    "conv3x3_head": head,
}


def drawer(device, dtype=torch.float32, memory_format=torch.contiguous_format):
    """draw(*shape) gives the random tensors of one seed, those of four dimensions in a memory format."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        t = torch.randn(*shape, generator=generator).to(device, dtype)
        return t.contiguous(memory_format=memory_format) if t.dim() == 4 else t

    return draw


def check_close(y, expected):
    if isinstance(y, (tuple, list)):
        for part, of_expected in zip(y, expected):
            check_close(part, of_expected)
    elif y.dtype == torch.uint8:  # ties within rounding may fall either way
        assert (y == expected).float().mean() > 0.999
    elif y.dtype == torch.float32:
        torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-3)
    else:
        assert (y.float() - expected.float()).abs().max() <= 2**-5 * expected.float().abs().max()


def synchronised(call, device):
    def run():
        y = call()
        if device == "cuda":
            torch.cuda.synchronize()
        return y

    return run


LAYOUTS = {
    "nchw": (torch.contiguous_format, torch.float32),
    "nhwc": (torch.channels_last, torch.float32),
    "nhwc-half": (torch.channels_last, torch.float16 if torch.cuda.is_available() else torch.bfloat16),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("row", ROWS)
def bench_operator(row, layout, backend, device, benchmark, compared):
    memory_format, dtype = LAYOUTS[layout]
    call = ROWS[row](drawer(device, dtype, memory_format))
    with torch.inference_mode():
        y = compared(f"{row} {layout}", backend == "reference", lambda: benchmark(synchronised(call, device)))
        with sx.use_backend("reference"):
            expected = call()
    check_close(y, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("side", ["eager", "native"])
def bench_native_kernel(side, name, dtype, benchmark, compared):
    kernel = MAKERS[name](Maker(_native.cpu()[0], 1024, 512, dtype, torch.get_num_threads()))
    with torch.inference_mode():
        call = kernel.eager if side == "eager" else kernel.call
        y = compared(f"{name}, native {str(dtype)[6:]}", side == "eager", lambda: benchmark(call))
        check_close(y, kernel.eager())
