"""What the kernels promise of memory traffic, by the sectors that the race build counts."""

from functools import partial

import pytest
import torch
from core.ops import test_tensor_cores as tensor_cores

import swiftnet_ext as sx

SECTOR = 32  # bytes
pytestmark = pytest.mark.needs_check("race")


@pytest.fixture
def launches(emulation):
    """Calls a function on the emulated kernels and returns its launches with their sectors."""

    def run(function):
        emulation.options.count_sectors = True
        emulation.take_launches()
        with sx.use_backend("emulated", strict=True):
            function()
        return emulation.take_launches()

    return run


def sectors(*shape, size=4):
    return torch.Size(shape).numel() * size // SECTOR


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pyramid_pooling_reads_the_map_once_for_all_grids(memory_format, launches):
    x = torch.randn(1, 32, 16, 64).contiguous(memory_format=memory_format)
    level, fuse = torch.randn(3, 4, 32), torch.randn(8, 32 + 3 * 4)
    grids = [(8, 16), (4, 8), (2, 4)]
    pool, levels, out = launches(lambda: sx.ops.spatial_pyramid_pool(x, level, fuse, grids=grids))
    assert "pool_kernel" in pool["kernel"] and "level_kernel" in levels["kernel"] and "fuse_kernel" in out["kernel"]
    assert pool["sectors_read"] == pool["distinct_sectors_read"] == sectors(*x.shape)
    cells, strips = sum(rows * columns for rows, columns in grids), 16 * sum(columns for _, columns in grids)
    assert pool["sectors_written"] == pool["distinct_sectors_written"] == sectors(strips, 32)
    # windows do not overlap, so each strip is read once; a cell's block reads 48 weights, the last one for those not there
    assert levels["sectors_read"] == sectors(strips, 32) + cells * sectors(48, 32)
    assert levels["distinct_sectors_read"] == sectors(strips, 32) + sectors(*level.shape)
    assert levels["distinct_sectors_written"] == sectors(cells, 4)
    assert out["distinct_sectors_read"] == sectors(*x.shape) + sectors(cells, 4) + sectors(*fuse.shape)
    assert out["sectors_written"] == sectors(1, 8, 16, 64)  # and the concatenation is nowhere


def test_labels_write_nothing_of_the_classes_size(launches):
    maps = [torch.randn(1, 19, 8, 16), torch.randn(1, 19, 16, 32)]
    for order in ("softmax_then_resize", "resize_then_softmax"):
        (labels,) = launches(partial(sx.ops.multiscale_mean, maps, (16, 32), order=order, reduce="argmax"))
        assert labels["distinct_sectors_written"] == sectors(16, 32, size=1)


@pytest.mark.parametrize("order", ["softmax_then_resize", "resize_then_softmax"])
@pytest.mark.parametrize("reduce", ["mean", "argmax"])
def test_five_scales_are_read_once_and_again_only_where_tiles_meet(order, reduce, launches):
    """2048×1024 of stride-4 logits, at a sixteenth of the side: maps in, result out, in one launch."""
    height, width, classes = 64, 128, 19
    sizes = [(8, 16), (12, 24), (16, 32), (20, 40), (24, 48)]
    maps = [torch.randn(1, classes, h, w) for h, w in sizes]
    (run,) = launches(lambda: sx.ops.multiscale_mean(maps, (height, width), order=order, reduce=reduce))
    assert run["distinct_sectors_read"] == sum(sectors(*m.shape) for m in maps)
    written = sectors(height, width, size=1) if reduce == "argmax" else sectors(classes, height, width)
    assert run["distinct_sectors_written"] == written
    # tiles of 16 × 32 pixels; a region of r × s pixels is of r runs of s floats, unaligned, which 32 lanes load at a time
    bound = 0
    for h, w in sizes:
        rows, columns = 15 * h // height + 3, 31 * w // width + 3
        bound += rows * ((columns + 6) // 8 + 1) + (rows * columns - 1) // 32
    assert run["blocks"] == 4 * 4 and run["sectors_read"] <= run["blocks"] * classes * bound
    # a patch's row is 8 pixels: a sector of the mean, a quarter of one of labels
    assert run["sectors_written"] == written * (4 if reduce == "argmax" else 1)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_direct_kernels_loads_coalesce(memory_format, launches):
    """The halo tile: 10 rows for each 8, of 34 columns for each 32, which start inside a sector."""
    x = torch.randn(1, 16, 32, 64).contiguous(memory_format=memory_format)
    weight = torch.randn(64, 16, 3, 3)
    pack, run = launches(lambda: sx.ops.conv3x3(x, weight, algorithm="direct"))
    assert pack["distinct_sectors_written"] == sectors(*weight.shape)  # 64 outputs and 16 channels need no padding
    (again,) = launches(lambda: sx.ops.conv3x3(x, weight, algorithm="direct"))
    assert again["sectors_read"] == run["sectors_read"]
    assert run["distinct_sectors_read"] == sectors(*x.shape) + sectors(*weight.shape)
    assert run["distinct_sectors_written"] == sectors(1, 64, 32, 64)
    tiles, slices, warps = 4 * 2, 4, 8
    # NCHW: a row of 40 columns from the 4th before the tile on touches 6 sectors, and a warp's end may split one
    rows = slices * (4 * 10 * 6 + 2 * warps)
    pixels = slices * 10 * 34  # channels_last: a slice's 4 channels are half a sector of each pixel
    halo = pixels if memory_format == torch.channels_last else rows
    assert run["sectors_read"] <= tiles * (halo + sectors(*weight.shape))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_wide_lateral_reads_its_tap_once_and_a_tile_its_rows_of_the_coarser_map_once(memory_format, launches):
    """A tile of 4×32 pixels × 128 outputs of a doubled map needs 4 rows, which it reads at two columns a pixel."""
    tap = torch.randn(2, 16, 32, 128).contiguous(memory_format=memory_format)
    x = torch.randn(2, 128, 16, 64).contiguous(memory_format=memory_format)
    weight, blocks = torch.randn(128, 16, 1, 1), 2 * 8 * 4
    (alone,) = launches(lambda: sx.ops.lateral_add(tap, weight))
    assert "wide" in alone["kernel"] and alone["blocks"] == blocks
    assert alone["sectors_read"] == sectors(*tap.shape) + blocks * sectors(*weight.shape)
    (run,) = launches(lambda: sx.ops.lateral_add(tap, weight, x))
    assert run["distinct_sectors_read"] == sectors(*tap.shape) + sectors(*weight.shape) + sectors(*x.shape)
    assert run["sectors_written"] == run["distinct_sectors_written"] == sectors(2, 128, 32, 128)
    # 16 neighbouring pixels, doubled, lie between 9 columns; in channels_last a column's 128 outputs are 16 sectors
    columns = 32 * 16 if memory_format == torch.channels_last else 128 * 2 * 2
    assert run["sectors_read"] - alone["sectors_read"] <= blocks * 4 * 2 * columns


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_winograds_windows_are_read_by_whole_sectors(memory_format, launches):
    """A thread reads its tile's 4×4 window: each input is asked for by four threads, which the L1 cache serves."""
    x = torch.randn(1, 16, 32, 64).contiguous(memory_format=memory_format)
    weight = torch.randn(64, 16, 3, 3)
    pack, run = launches(lambda: sx.ops.conv3x3(x, weight, algorithm="winograd"))
    packed = sectors(64, 16, 16)  # 16 points where there were 9 taps
    assert pack["distinct_sectors_written"] == packed
    assert run["distinct_sectors_read"] == sectors(*x.shape) + packed
    assert run["distinct_sectors_written"] == sectors(1, 64, 32, 64)
    blocks, slices, groups = 4 * 4 * 2, 2, 2
    # NCHW: a warp's load has 8 tiles in each of 4 rows, whose elements lie in 2 sectors, and in 3 where these start late
    rows = 8 * 4 * 4 * (3 + 2 + 2 + 3)
    pixels = 32 * 16  # channels_last: a slice's 8 channels of each window's pixel are a sector
    window = pixels if memory_format == torch.channels_last else rows
    assert run["blocks"] == blocks
    assert run["sectors_read"] <= blocks * (slices * window + packed // groups)


def block_by_hand(batch, tap_channels, channels, height, width):
    """Bytes of an upsampling block in fp32 by hand: (in two launches, eager), without the weights.

    Two launches: tap, x and the sum of the lateral; the sum and the output of the 3×3. Eager: norm, ReLU and 1×1 of the
    tap, resize, add, norm, ReLU and 3×3, each reading and writing maps.
    """
    pixels = batch * height * width * 4
    tap, x, out = tap_channels * pixels, channels * pixels // 4, channels * pixels
    return (tap + x + out) + (out + out), 4 * tap + (tap + out) + (x + out) + 3 * out + 2 * out + 2 * out + 2 * out


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_block_moves_what_two_launches_must(memory_format, launches):
    """At stride 4 of 2048×1024 that is 252 MB, 0.27 of what eager moves; counted at a smaller size."""
    ours, eager = block_by_hand(1, 64, 128, 256, 512)
    assert round(ours / 1e6) == 252 and ours <= 0.3 * eager
    shape = (1, 32, 64, 16, 32)  # tap's channels, channels, H, W
    block = sx.nn.UpsampleBlend(64, 32).eval()
    x, tap = torch.randn(1, 64, 8, 16), torch.randn(1, 32, 16, 32)
    x, tap = (m.contiguous(memory_format=memory_format) for m in (x, tap))
    with torch.no_grad():
        launches(lambda: block(x, tap))  # packs the weights
        lateral, conv = launches(lambda: block(x, tap))
    assert "conv1x1" in lateral["kernel"] and "conv3x3_winograd" in conv["kernel"]
    parameters = sectors(64, 32) + 2 * sectors(32) + 2 * sectors(64) + sectors(64, 64, 16)
    maps = sum(run["distinct_sectors_read"] + run["distinct_sectors_written"] for run in (lateral, conv)) - parameters
    ours, eager = (n // SECTOR for n in block_by_hand(*shape))
    assert ours <= maps <= ours + 8  # parameters start inside sectors
    assert maps <= 0.3 * eager


def test_the_block_in_one_launch_moves_each_map_once(launches):
    """tap and x in, the result out: 59 MB at stride 4 of 2048×1024 in fp16, where two launches move 126."""
    taps, channels, height, width = 32, 64, 16, 64
    shape = (1, taps, channels, channels, (height // 2, width // 2), (height, width))
    t = tensor_cores.arguments(tensor_cores.Blend.names, shape, torch.float16, "cpu")
    launches(lambda: tensor_cores.Blend.call(t))  # packs the weights
    (run,) = launches(lambda: tensor_cores.Blend.call(t))
    assert "upsample_blend" in run["kernel"] and run["blocks"] == 2 * 2
    half = partial(sectors, size=2)
    parameters = (
        half(channels, taps) + half(channels, channels, 9) + sum(sectors(*v.shape) for v in t.values() if v.dim() == 1)
    )
    maps = half(*t["x"].shape) + half(*t["tap"].shape)
    assert maps + parameters <= run["distinct_sectors_read"] <= maps + parameters + 8  # parameters start inside sectors
    assert run["sectors_written"] == run["distinct_sectors_written"] == half(1, channels, height, width)
    by_hand = (64 + 128 / 4 + 128) * 256 * 512 * 2
    assert round(by_hand / 1e6) == 59 and round(block_by_hand(1, 64, 128, 256, 512)[0] / 2e6) == 126


def test_tensor_cores_read_the_halo_by_whole_sectors(launches):
    """A slice's 16 channels of a pixel are a sector; the weights come once a block."""
    t = tensor_cores.arguments(("map", "weight"), (1, 8, 32, 64, (1, 1), (16, 64)), torch.float16, "cpu")
    launches(lambda: sx.ops.conv3x3(algorithm="tensor_cores", **t))
    (run,) = launches(lambda: sx.ops.conv3x3(algorithm="tensor_cores", **t))
    half = partial(sectors, size=2)
    assert run["distinct_sectors_read"] == half(*t["x"].shape) + half(*t["weight"].shape)
    assert run["sectors_written"] == run["distinct_sectors_written"] == half(1, 64, 16, 64)
    inside = 9 * 33  # pixels of the halo that lie inside the image, in each of its four corners
    assert run["blocks"] == 4 and run["sectors_read"] == 4 * (2 * inside + half(*t["weight"].shape))


def test_a_lighter_blend_gets_its_activated_input_in_one_pass(launches):
    """Projection, resizing, sum, batch norm and ReLU of a grouped blend: the maps are read and its input written once."""
    blend = sx.nn.UpsampleBlend(32, 16, blend="grouped").eval()
    x, tap = torch.randn(1, 32, 8, 16), torch.randn(1, 16, 16, 32)
    with torch.no_grad():
        (run,) = launches(lambda: blend(x, tap))
    assert "conv1x1" in run["kernel"]
    parameters = sectors(32, 16) + sectors(16) + sectors(16) + sectors(32)  # weight, scale, shift, bias
    assert run["distinct_sectors_read"] <= sectors(*x.shape) + sectors(*tap.shape) + parameters + 4  # unaligned starts
    assert run["sectors_written"] == sectors(1, 32, 16, 32)
