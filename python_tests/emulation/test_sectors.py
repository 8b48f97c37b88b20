"""What the kernels promise of memory traffic, by the sectors that the race build counts."""

import pytest
import torch

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


def test_pyramid_pooling_reads_the_map_once_for_all_grids(launches):
    x = torch.randn(1, 16, 16, 32)
    level, fuse = torch.randn(3, 4, 16), torch.randn(8, 16 + 3 * 4)
    grids = [(8, 16), (4, 8), (2, 4)]
    pool, levels, out = launches(lambda: sx.ops.spatial_pyramid_pool(x, level, fuse, grids=grids))
    assert "pool_kernel" in pool["kernel"] and "level_kernel" in levels["kernel"] and "conv1x1" in out["kernel"]
    assert pool["sectors_read"] == pool["distinct_sectors_read"] == sectors(*x.shape)
    cells = sum(rows * columns for rows, columns in grids)
    assert pool["distinct_sectors_written"] == sectors(cells, 16)
    assert levels["distinct_sectors_written"] == sectors(cells, 4)
    assert out["sectors_written"] == sectors(1, 8, 16, 32)  # and the concatenation is nowhere


def test_labels_write_nothing_of_the_classes_size(launches):
    maps = [torch.randn(1, 19, 8, 16), torch.randn(1, 19, 16, 32)]
    runs = launches(lambda: sx.ops.multiscale_mean(maps, (16, 32), reduce="argmax"))
    assert [r["distinct_sectors_written"] for r in runs] == [sectors(8, 16), sectors(16, 32), sectors(16, 32, size=1)]
    (labels,) = launches(lambda: sx.ops.multiscale_mean(maps, (16, 32), order="resize_then_softmax", reduce="argmax"))
    assert labels["distinct_sectors_written"] == sectors(16, 32, size=1)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_loads_coalesce_in_both_layouts(memory_format, launches):
    """The halo tile: 10 × 34 for each 8 × 32 pixels, and rows of it that start inside a sector."""
    x = torch.randn(1, 16, 32, 64).contiguous(memory_format=memory_format)
    weight = torch.randn(16, 16, 3, 3)
    (run,) = launches(lambda: sx.ops.conv3x3(x, weight))
    tiles, slices = 4 * 2, 2
    weights = 9 * 16 * 16 * tiles  # at worst a sector for each
    assert run["distinct_sectors_read"] <= sectors(*x.shape) + sectors(*weight.shape) + 1
    assert run["sectors_read"] <= 2 * sectors(tiles * slices, 8, 10, 34) + weights


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
