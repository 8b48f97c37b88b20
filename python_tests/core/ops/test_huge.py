"""Maps of more than 2^31 elements: the last ones are right.

On a GPU all of them are computed. Emulated, the maps are reserved memory of which only the last blocks touch anything,
so these run in a second (not in a build with AddressSanitizer, which can't reserve so much).
"""

import pytest
import torch

import swiftnet_ext as sx
from swiftnet_ext import _native

pytestmark = pytest.mark.cuda_source
SIDE = 46352  # SIDE² = 2^31 + 1,024,256
LAST = 40  # rows and columns that are compared, more than the last tiles


@pytest.fixture
def only_the_last_blocks(backend, device):
    if device == "cuda":
        if torch.cuda.mem_get_info()[0] < 24e9:
            pytest.skip("needs 24 GB of free GPU memory")
        yield
        return
    emulation = _native.emulated()[0].emulation
    emulation.options.first_blocks, emulation.options.last_blocks = 0, 64
    yield
    emulation.options.reset()


def random(*size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(3))


def reserved(device, *shape):
    """fp16 memory that nothing has touched."""
    return torch.empty(*shape, dtype=torch.float16, device=device)


def corner(x, size):
    return x[..., -size:, -size:]


def assert_corner(y, expected, stored=0.0):
    """The last pixels, which the last block of every kernel makes; the two may round to neighbouring fp16.

    `stored` is what rounding on the way may change."""
    a, b = y[..., -2:, -16:].float().cpu(), expected[..., -2:, -16:].float()
    torch.testing.assert_close(a, b, rtol=2**-10, atol=2**-10 + stored)


def wide_map(device, value):
    x = reserved(device, 1, 1, SIDE, SIDE)
    corner(x, LAST).copy_(value)
    return x


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_upsample_add_conv3x3(mode, backend, device, only_the_last_blocks):
    skip, coarse = random(1, 1, LAST, LAST).half(), random(1, 1, LAST // 2, LAST // 2).half()
    x = reserved(device, 1, 1, SIDE // 2, SIDE // 2)
    corner(x, LAST // 2).copy_(coarse)
    weight = random(1, 1, 3, 3).half()
    y = sx.ops.upsample_add_conv3x3(x, wide_map(device, skip), weight.to(device), mode=mode)
    largest = coarse.float().max() + skip.float().max()  # of what is convolved, which is rounded to fp16
    with sx.use_backend("reference"):
        expected = sx.ops.upsample_add_conv3x3(coarse, skip, weight, mode=mode)
    assert_corner(y, expected, stored=2**-11 * float(largest * weight.float().abs().sum()))


@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_conv3x3(algorithm, backend, device, only_the_last_blocks):
    x, weight, residual = random(1, 1, LAST, LAST).half(), random(1, 1, 3, 3).half(), random(1, 1, LAST, LAST).half()
    y = sx.ops.conv3x3(wide_map(device, x), weight.to(device), residual=wide_map(device, residual), algorithm=algorithm)
    with sx.use_backend("reference"):
        assert_corner(y, sx.ops.conv3x3(x, weight, residual=residual))


@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_conv3x3_of_pixels_far_apart(algorithm, backend, device, only_the_last_blocks):
    """Four channels side by side, as vectors want them, and 2^26 elements from pixel to pixel: beyond 2^31 within a tile."""
    module = _native.emulated()[0] if backend == "emulated" else _native.native()[0]
    width, apart = 40, 2**26
    x, y = (reserved(device, width * apart).as_strided((1, 4, 1, width), (1, 1, 1, apart)) for _ in range(2))
    value, weight = random(1, 4, 1, width).half(), random(4, 4, 3, 3).half()
    x.copy_(value)
    packed = torch.empty(module.conv3x3_packed_numel(algorithm, 4, 4), device=device)
    stream = _native.current_stream(x.device)
    module.conv3x3(x, weight.to(device), algorithm, packed, True, None, None, False, None, y, stream)
    assert torch.equal(y, sx.ops.conv3x3(value.to(device), weight.to(device), algorithm=algorithm))


def test_lateral_add(backend, device, only_the_last_blocks):
    tap, weight = random(1, 1, LAST, LAST).half(), random(1, 1, 1, 1).half()
    y = sx.ops.lateral_add(wide_map(device, tap), weight.to(device), wide_map(device, tap))
    with sx.use_backend("reference"):
        assert_corner(y, sx.ops.lateral_add(tap, weight, tap))


@pytest.mark.parametrize("channels_last", [False, True])
def test_lateral_add_of_a_large_batch(channels_last, backend, device, only_the_last_blocks):
    """The wide kernel's offsets of images, in both layouts."""
    channels = 72
    images = 2**31 // (channels * 4 * 32) + 3

    def batch(height, width, value):
        shape = (images, height, width, channels) if channels_last else (images, channels, height, width)
        x = reserved(device, *shape)
        x = x.permute(0, 3, 1, 2) if channels_last else x
        x[-1:].copy_(value)
        return x

    tap, x = random(1, channels, 4, 32).half(), random(1, channels, 2, 16).half()
    weight = random(channels, channels, 1, 1).half() / 8
    y = sx.ops.lateral_add(batch(4, 32, tap), weight.to(device), batch(2, 16, x))
    with sx.use_backend("reference"):
        expected = sx.ops.lateral_add(tap, weight, x)
    torch.testing.assert_close(y[-1:].float().cpu(), expected.float(), rtol=2**-10, atol=2**-8)


def test_lateral_add_of_weights_far_apart(backend, device, only_the_last_blocks):
    """2^25 elements from output to output: beyond 2^31 within the weight."""
    outputs, apart = 72, 2**25
    weight = reserved(device, outputs * apart).as_strided((outputs, 8, 1, 1), (apart, 1, 1, 1))
    value, tap = random(outputs, 8, 1, 1).half(), random(56, 8, 4, 32).half().to(device)
    weight.copy_(value)
    far, near = sx.ops.lateral_add(tap, weight), sx.ops.lateral_add(tap, value.to(device))
    assert torch.equal(far[-8:], near[-8:])  # of which both kernels' last blocks make all


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_a_batch_beyond_the_limit(algorithm, channels_last, backend, device, only_the_last_blocks):
    """The images' and channels' offsets, in both layouts."""
    images, channels = 2**31 // (8 * 16 * 16) + 3, 8
    x = reserved(device, images, channels, 16, 16)
    if channels_last:
        x = reserved(device, images, 16, 16, channels).permute(0, 3, 1, 2)
    value, weight = random(2, channels, 16, 16).half(), random(channels, channels, 3, 3).half() / 9
    x[-2:].copy_(value)
    y = sx.ops.conv3x3(x, weight.to(device), algorithm=algorithm)
    with sx.use_backend("reference"):
        torch.testing.assert_close(
            y[-1].float().cpu(), sx.ops.conv3x3(value, weight)[-1].float(), rtol=2**-10, atol=2**-8
        )


def test_spatial_pyramid_pool(backend, device, only_the_last_blocks):
    images, channels = 2**31 // (8 * 16) + 3, 8
    x = reserved(device, images, channels, 4, 4)
    value = random(64, channels, 4, 4).half()
    x[-64:].copy_(value)
    level, fuse = random(1, 1, channels).half(), random(1, channels + 1).half()
    y = sx.ops.spatial_pyramid_pool(x, level.to(device), fuse.to(device), grids=[(1, 1)])
    with sx.use_backend("reference"):
        expected = sx.ops.spatial_pyramid_pool(value, level, fuse, grids=[(1, 1)])
    torch.testing.assert_close(y[-8:].float().cpu(), expected[-8:].float(), rtol=2**-10, atol=2**-8)


@pytest.mark.parametrize("order", ["softmax_then_resize", "resize_then_softmax"])
@pytest.mark.parametrize("reduce", ["mean", "argmax"])
def test_multiscale_mean(order, reduce, backend, device, only_the_last_blocks):
    images, classes = 2**31 // (20 * 128) + 3, 20
    x = reserved(device, images, classes, 8, 16)
    value = random(2, classes, 8, 16).half()
    x[-2:].copy_(value)
    y = sx.ops.multiscale_mean([x, x], (8, 16), order=order, reduce=reduce)
    with sx.use_backend("reference"):
        expected = sx.ops.multiscale_mean([value, value], (8, 16), order=order, reduce=reduce)
    torch.testing.assert_close(y[-1].float().cpu(), expected[-1].float(), rtol=2**-10, atol=2**-10)
