"""That the step cpu_bounds would notice: what its build says of the native CPU kernels at every instruction set when a
tensor is shorter than it says, or misaligned. Run by that step alone."""

import ctypes
import os
import re
import tempfile

import pytest
import torch

from swiftnet_ext import _C

cpu = _C.cpu
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BATCH, CHANNELS, HEIGHT, WIDTH, OUTPUTS = 2, 22, 5, 7, 19  # no multiple of any vector
GRID = 2, 3


def channels_last(dtype, channels=CHANNELS, height=HEIGHT, width=WIDTH, batch=BATCH):
    return torch.zeros(batch, channels, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)


def image_to_map(dtype):
    t = dict(image=torch.zeros(HEIGHT, WIDTH, 3, dtype=torch.uint8), out=channels_last(dtype, 3, batch=1))
    return t, lambda: cpu.image_to_map(t["image"], [0.0] * 3, t["out"], 1)


def max_pool3x3(dtype):
    t = dict(x=channels_last(dtype), out=channels_last(dtype, CHANNELS, 3, 4))
    return t, lambda: cpu.max_pool3x3(t["x"], t["out"], 1)


def depthwise3x3(dtype):
    t = dict(
        x=channels_last(dtype), weight=torch.zeros(9, CHANNELS), bias=torch.zeros(CHANNELS), out=channels_last(dtype)
    )
    return t, lambda: cpu.depthwise3x3(t["x"], t["weight"], t["bias"], 1, "none", t["out"], 1)


def resize(dtype):
    t = dict(x=channels_last(dtype, CHANNELS, 3, 4), out=channels_last(dtype))
    return t, lambda: cpu.resize(t["x"], False, t["out"], 1)


def upsample_add(dtype):
    t = dict(x=channels_last(dtype, CHANNELS, 3, 4), skip=channels_last(dtype), out=channels_last(dtype))
    t.update(scale=torch.zeros(CHANNELS), shift=torch.zeros(CHANNELS))
    return t, lambda: cpu.upsample_add(t["x"], t["skip"], t["scale"], t["shift"], True, False, t["out"], 1)


def convolution(dtype, tile):
    name = str(dtype).replace("torch.", "")
    how = 3, 1, 1, tile
    t = dict(x=channels_last(dtype), weight=torch.zeros(OUTPUTS, CHANNELS, 3, 3))
    t.update((name, channels_last(dtype, OUTPUTS)) for name in ("residual", "out", "tap"))
    t.update((name, torch.zeros(OUTPUTS)) for name in ("bias", "tap_scale", "tap_shift"))
    t.update(up=channels_last(dtype, OUTPUTS, 3, 4))
    t["packed"] = torch.zeros(cpu.packed_bytes(name, tile, OUTPUTS, CHANNELS, 3), dtype=torch.uint8)
    t["workspace"] = torch.zeros(cpu.conv2d_workspace(t["x"], t["out"], *how, 1), dtype=torch.uint8)

    def run():
        cpu.pack_conv2d(t["weight"], name, tile, t["packed"])
        vectors = t["tap_scale"], t["tap_shift"]
        added = t["bias"], t["residual"], t["up"]
        cpu.conv2d(
            t["x"], t["packed"], *how, "none", *added, False, t["out"], t["tap"], *vectors, True, t["workspace"], 1
        )

    return t, run


def conv2d(dtype):
    return convolution(dtype, 0)


def winograd4(dtype):
    return convolution(dtype, 4)


def winograd6(dtype):
    return convolution(dtype, 6)


def inverted_residual(dtype):
    """Of seven rows in one band; its last rows have none below them."""
    name = str(dtype).replace("torch.", "")
    t = dict(x=channels_last(dtype, 10), depthwise=torch.zeros(9, CHANNELS))
    t.update((name, channels_last(dtype, OUTPUTS)) for name in ("residual", "out", "tap"))
    t.update((name, torch.zeros(OUTPUTS)) for name in ("project_bias", "tap_scale", "tap_shift"))
    t.update((name, torch.zeros(CHANNELS)) for name in ("expand_bias", "depthwise_bias"))
    t["expand"] = torch.zeros(cpu.packed_bytes(name, 0, CHANNELS, 10, 1), dtype=torch.uint8)
    t["project"] = torch.zeros(cpu.packed_bytes(name, 0, OUTPUTS, CHANNELS, 1), dtype=torch.uint8)
    count = cpu.inverted_residual_workspace(t["x"], True, CHANNELS, 1, t["out"], 1)
    t["workspace"] = torch.zeros(count, dtype=torch.uint8)
    return t, lambda: cpu.inverted_residual(
        t["x"], t["expand"], t["expand_bias"], t["depthwise"], t["depthwise_bias"], 1, "none", t["project"],
        t["project_bias"], "none", t["residual"], t["out"], t["tap"], t["tap_scale"], t["tap_shift"], True,
        t["workspace"], 1,
    )  # fmt: skip


def spatial_pyramid_pool(dtype):
    levels, joined = 5, CHANNELS + 5
    t = dict(x=channels_last(dtype), level_weight=torch.zeros(1, levels, CHANNELS), out=channels_last(dtype, OUTPUTS))
    t.update(fuse_weight=torch.zeros(OUTPUTS, joined), fuse_bias=torch.zeros(OUTPUTS))
    t.update((name, torch.zeros(1, CHANNELS)) for name in ("level_scale", "level_shift"))
    t.update((name, torch.zeros(joined)) for name in ("fuse_scale", "fuse_shift"))
    count = cpu.spatial_pyramid_pool_workspace(t["x"], t["level_weight"], GRID, t["out"], 1)
    t["workspace"] = torch.zeros(count, dtype=torch.uint8)
    names = ("x", "level_weight", "fuse_weight", "fuse_bias", "level_scale", "level_shift", "fuse_scale", "fuse_shift")
    return t, lambda: cpu.spatial_pyramid_pool(*(t[name] for name in names), GRID, False, t["workspace"], t["out"], 1)


def multiscale_mean(dtype):
    t = dict(logits=torch.zeros(BATCH, CHANNELS, 3, 4, dtype=dtype), out=torch.zeros(BATCH, CHANNELS, HEIGHT, WIDTH))
    count = cpu.multiscale_mean_workspace([t["logits"]], "softmax_then_resize", t["out"], 1)
    t["workspace"] = torch.zeros(count, dtype=torch.uint8)
    return t, lambda: cpu.multiscale_mean([t["logits"]], "softmax_then_resize", t["out"], t["workspace"], 1)


KERNELS = [
    image_to_map, max_pool3x3, depthwise3x3, resize, upsample_add, conv2d, winograd4, winograd6, inverted_residual,
    spatial_pyramid_pool, multiscale_mean,
]  # fmt: skip


def read_debug_information():
    """Once, not in every process that reports something."""
    function = ctypes.cast(ctypes.CDLL(_C.__file__).PyInit__C, ctypes.c_void_p)
    name = ctypes.create_string_buffer(100)
    ctypes.CDLL(None).__sanitizer_symbolize_pc(function, b"%f", name, len(name))


def report_of(call):
    """What a process of its own says before it ends."""
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 2)
            try:
                call()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        said.seek(0)
        return said.read().decode()


@pytest.fixture(params=cpu.levels())
def level(request):
    read_debug_information()
    cpu.use_level(request.param)
    yield request.param
    cpu.use_level(cpu.levels()[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.__name__)
def test_an_access_beyond_a_tensor_is_reported(kernel, dtype, level):
    t, call = kernel(DTYPES[dtype])
    call()
    for name in t:
        t, call = kernel(DTYPES[dtype])
        storage, missing = t[name].untyped_storage(), t[name].element_size()
        if name == "workspace":  # the last bytes of which may be for more pixels than there are
            missing = storage.nbytes() // 4 * 3
        storage.resize_(storage.nbytes() - missing)
        report = report_of(call)
        assert re.search(r"ERROR: AddressSanitizer: .*\n(READ|WRITE) of size", report), (name, report)
        assert "swiftnet::cpu::{}::".format(level) in report, (name, report)


def test_a_misaligned_access_is_reported(level):
    t, call = conv2d(torch.float32)
    x = t["x"]
    odd = torch.frombuffer(bytearray(4 * x.numel() + 2), dtype=torch.float32, offset=2)
    t["x"] = odd.as_strided(x.shape, x.stride())
    report = report_of(call)
    assert "runtime error: load of misaligned address" in report, report
    assert "swiftnet::cpu::{}::".format(level) in report, report
