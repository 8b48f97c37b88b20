"""The native CPU kernels that belong to no operator, and those that operators only use at one instruction set: against
float64, at every level that this CPU runs, by one thread and by two."""

import pytest
import torch
import torch.nn.functional as F

import swiftnet_ext as sx
from swiftnet_ext.ops import native_cpu

from . import cpu_levels, oracle
from .cases import COMBINATIONS
from .cpu_levels import GUARD
from .operator_case import FORMATS, bound

cpu = cpu_levels.native()
DTYPES = (torch.float32, torch.bfloat16)
UNIT = oracle.UNIT[torch.float32]
# (N, C, H, W): 1, tails of every vector and of the blocks of 2 and 4, more channels than a column keeps, thin maps
SHAPES = [
    (1, 1, 1, 1), (2, 3, 5, 7), (1, 16, 4, 1), (1, 19, 9, 6), (3, 33, 1, 9), (1, 64, 7, 10), (2, 100, 6, 11),
    (1, 145, 3, 4), (1, 530, 3, 5),
]  # fmt: skip
SIZES = [(1, 1), (3, 2), (5, 7), (6, 9), (12, 11), (1, 10)]
AFFINES = [(False, False, False), (True, True, True), (True, False, False), (False, True, True)]


@pytest.fixture(params=cpu.levels())
def level(request):
    cpu.use_level(request.param)
    yield request.param
    cpu.use_level(cpu.levels()[0])


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def framed_map(dtype, *shape, fill=float("nan"), values=None):
    """A dense channels_last map in the middle of memory full of `fill`, and that memory."""
    n, c, h, w = shape
    memory = torch.full((n * c * h * w + 2 * GUARD,), fill).to(dtype)
    inner = memory[GUARD : len(memory) - GUARD].view(n, h, w, c).permute(0, 3, 1, 2)
    if values is not None:
        inner.copy_(values)
    return inner, memory


def bits(y):
    return y.permute(0, 2, 3, 1).contiguous().view(torch.int16 if y.element_size() == 2 else torch.int32)


def by_one_and_two_threads(call, dtype, *shape):
    """What call(out, threads) writes, of the same bits by both; into poisoned memory, nothing beside it."""
    results = []
    for threads in (1, 2):
        out, memory = framed_map(dtype, *shape)
        call(out, threads)
        assert bool(torch.isnan(memory[:GUARD]).all()) and bool(torch.isnan(memory[len(memory) - GUARD :]).all())
        results.append(out)
    assert torch.equal(*(bits(y) for y in results))
    return results[0]


def assert_within(y, value, error, dtype):
    """`error` before the result is rounded."""
    allowed = error + oracle.UNIT[dtype] * (value.abs() + error) + oracle.TINY[dtype]
    assert bool(((y.double() - value).abs() <= allowed).all()), float(((y.double() - value).abs() - allowed).max())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_image_to_map(dtype, level):
    mean = [123.25, 116.5, 103.75]
    for height, width in ((1, 1), (3, 5), (7, 16), (1, 4), (9, 33), (13, 1)):
        generator = torch.Generator().manual_seed(height)
        image = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)
        y = by_one_and_two_threads(
            lambda out, threads, image=image: cpu.image_to_map(image, mean, out, threads),
            dtype, 1, 3, height, width,
        )  # fmt: skip
        value = (image.float() - torch.tensor(mean)).permute(2, 0, 1)[None]
        assert torch.equal(y, value.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_max_pool3x3(dtype, level):
    for seed, (n, c, h, w) in enumerate(SHAPES):
        x, _ = framed_map(dtype, n, c, h, w, fill=float("inf"), values=random(seed, n, c, h, w))
        for special in (None, float("nan"), float("-inf")):
            if special is not None:
                x[0, -1, h // 2, w // 2] = special
            y = by_one_and_two_threads(
                lambda out, threads, x=x: cpu.max_pool3x3(x, out, threads), dtype, n, c, (h + 1) // 2, (w + 1) // 2
            )
            torch.testing.assert_close(y, F.max_pool2d(x.float(), 3, 2, 1).to(dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
def test_depthwise3x3(activation, stride, dtype, level):
    limits = {"none": (None, None), "relu": (0, None), "relu6": (0, 6)}[activation]
    for seed, (n, c, h, w) in enumerate(SHAPES):
        x, _ = framed_map(dtype, n, c, h, w, values=4 * random(seed, n, c, h, w))
        weight, bias = random(seed + 1, 9, c), random(seed + 2, c) if seed % 2 else None
        y = by_one_and_two_threads(
            lambda out, threads, x=x, w=weight, b=bias: cpu.depthwise3x3(x, w, b, stride, activation, out, threads),
            dtype, n, c, (h + stride - 1) // stride, (w + stride - 1) // stride,
        )  # fmt: skip
        options = {"stride": stride, "padding": 1, "groups": c}
        taps, shift = weight.t().reshape(c, 1, 3, 3).double(), torch.zeros(c) if bias is None else bias
        value = F.conv2d(x.double(), taps, shift.double(), **options)
        magnitude = F.conv2d(x.double().abs(), taps.abs(), shift.double().abs(), **options)
        value = value if limits[0] is None else value.clamp(*limits)
        assert_within(y, value, 12 * UNIT * magnitude, dtype)


@pytest.mark.parametrize("nearest", [False, True])
def test_depthwise_and_resizing_spread_nan_as_pytorch(nearest, level):
    x = random(0, 1, 5, 6, 8)
    x[0, 1, 2, 3], x[0, 2, 5, 7], x[0, 3, 0, 0] = float("nan"), float("inf"), float("-inf")
    x = x.contiguous(memory_format=torch.channels_last)
    weight = random(1, 9, 5)
    y = torch.empty_like(x)
    cpu.depthwise3x3(x, weight, None, 1, "relu6", y, 1)
    expected = F.relu6(F.conv2d(x, weight.t().reshape(5, 1, 3, 3), padding=1, groups=5))
    assert torch.equal(torch.isnan(y), torch.isnan(expected))
    for size in ((12, 16), (6, 8), (6, 16), (4, 3)):
        out = torch.empty(1, 5, *size).contiguous(memory_format=torch.channels_last)
        cpu.resize(x, nearest, out, 1)
        options = {} if nearest else {"align_corners": False}
        resized = F.interpolate(x.contiguous(), size=size, mode="nearest" if nearest else "bilinear", **options)
        if size == (6, 8):
            resized = x  # nothing is multiplied
        assert torch.equal(torch.isnan(out), torch.isnan(resized)), size


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_resize_and_upsample_add(mode, dtype, level):
    nearest = mode == "nearest"
    for seed, (n, c, h, w) in enumerate(SHAPES):
        skip, _ = framed_map(dtype, n, c, h, w, values=random(seed, n, c, h, w))
        scale, shift = random(seed + 1, c), random(seed + 2, c)
        for size in SIZES + [(h, w), (2 * h, w)]:
            x, _ = framed_map(dtype, n, c, *size, values=random(seed + 3, n, c, *size))
            up = oracle.resize(x.double(), (h, w), mode)
            magnitude = x.double().abs().max()  # a coordinate's error gives a neighbour weight that it should not have
            error = (8 + 6 * max(size + (h, w))) * UNIT * (0 if nearest else 1)
            y = by_one_and_two_threads(
                lambda out, threads, x=x: cpu.resize(x, nearest, out, threads), dtype, n, c, h, w
            )
            assert_within(y, up, error * magnitude, dtype)
            scaled, shifted, relu = AFFINES[(seed + size[0]) % 4]
            factor, term = scale if scaled else None, shift if shifted else None
            y = by_one_and_two_threads(
                lambda out, threads, x=x, s=skip, a=factor, b=term, r=relu: cpu.upsample_add(
                    x, s, a, b, r, nearest, out, threads
                ),
                dtype, n, c, h, w,
            )  # fmt: skip
            value, total = up + skip.double(), magnitude + skip.double().abs()
            a = oracle.channels((scale if scaled else torch.ones(c)).double())
            b = oracle.channels((shift if shifted else torch.zeros(c)).double())
            value, total = a * value + b, a.abs() * total + b.abs()
            assert_within(y, value.clamp(min=0) if relu else value, (error + 8 * UNIT) * total, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_without_a_coarser_map_the_affine_alone(dtype, level):
    for seed, (n, c, h, w) in enumerate(SHAPES):
        skip, _ = framed_map(dtype, n, c, h, w, values=random(seed, n, c, h, w))
        y = by_one_and_two_threads(
            lambda out, threads, s=skip: cpu.upsample_add(None, s, None, None, True, False, out, threads),
            dtype, n, c, h, w,
        )  # fmt: skip
        assert torch.equal(y, skip.relu())


@pytest.mark.parametrize("case, variant, dtype", [c for c in COMBINATIONS if c.values[2] in DTYPES])
def test_operators_on_batches_and_thin_maps(case, variant, dtype, level, monkeypatch):
    """Of the best instruction set test_numeric.py has all shapes."""
    monkeypatch.setattr(native_cpu, "aligned_bytes", cpu_levels.aligned)  # no byte more
    for seed, shape in enumerate(case.shapes):
        if shape[0] == 1 and 1 not in shape[4]:
            continue
        for memory_format in FORMATS:
            t = case.make(shape, variant, dtype, memory_format, seed=seed)
            with sx.use_backend("cpu", strict=True):
                y = case.call(t, variant)
            value, _, _, allowed = bound(case, shape, t, variant, dtype)
            assert bool(((y.double() - value).abs() <= allowed).all()), shape


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_pyramid_has_the_same_bits_by_any_number_of_threads(dtype, level):
    x = random(0, 2, 19, 9, 14).to(dtype).contiguous(memory_format=torch.channels_last)
    weight, fuse = random(1, 2, 5, 19).to(dtype), random(2, 37, 29).to(dtype)
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with sx.use_backend("cpu", strict=True):
                results.append(sx.ops.spatial_pyramid_pool(x, weight, fuse, grids=[(4, 8), (2, 3)]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    value = oracle.spatial_pyramid_pool(
        x.double(), weight.double(), fuse.double(), None, [(4, 8), (2, 3)], None, None, None, None, "bilinear"
    )
    assert_within(results[0], value[0], 400 * UNIT * value[1], dtype)


def test_empty_maps_are_left_alone(level):
    x = torch.empty(0, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    cpu.max_pool3x3(x, x[:, :, :2, :2].contiguous(memory_format=torch.channels_last), 2)
    cpu.depthwise3x3(x, torch.zeros(9, 4), None, 1, "none", torch.empty_like(x), 2)
    cpu.resize(x, False, torch.empty(0, 4, 6, 6).contiguous(memory_format=torch.channels_last), 2)
    cpu.upsample_add(x, x, None, None, True, False, torch.empty_like(x), 2)


def test_what_would_leave_their_memory_is_refused():
    x = torch.zeros(1, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    small = torch.zeros(1, 4, 2, 3).contiguous(memory_format=torch.channels_last)
    weight = torch.zeros(9, 4)
    rgb = torch.zeros(1, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    refused = [
        ("out: expected shape", lambda: cpu.max_pool3x3(x, small, 1)),
        ("out: expected a dense channels_last", lambda: cpu.max_pool3x3(x, torch.zeros(1, 4, 3, 3), 1)),
        ("dtype: expected float32 or bfloat16", lambda: cpu.max_pool3x3(x.half(), x, 1)),
        ("out: expected dtype float32", lambda: cpu.max_pool3x3(x, x.bfloat16(), 1)),
        ("threads: expected at least 1", lambda: cpu.max_pool3x3(x, x[:, :, :3, :3].clone(), 0)),
        ("weight: expected shape", lambda: cpu.depthwise3x3(x, weight[:8], None, 1, "none", x, 1)),
        ("weight: expected a contiguous", lambda: cpu.depthwise3x3(x, torch.zeros(4, 9).t(), None, 1, "none", x, 1)),
        ("stride: expected 1 or 2", lambda: cpu.depthwise3x3(x, weight, None, 3, "none", x, 1)),
        ("activation: expected none, relu", lambda: cpu.depthwise3x3(x, weight, None, 1, "tanh", x, 1)),
        ("skip: expected shape", lambda: cpu.upsample_add(x, small, None, None, True, False, x, 1)),
        ("skip: expected a tensor", lambda: cpu.upsample_add(x, None, None, None, True, False, x, 1)),
        ("x: expected out's batch", lambda: cpu.resize(x[:, :, :0], False, x, 1)),
        ("scale: expected shape", lambda: cpu.upsample_add(x, x, weight[0, :3], None, True, False, x, 1)),
        ("out: expected \\[1, 3, H, W", lambda: cpu.image_to_map(torch.zeros(6, 6, 3).byte(), [0.0] * 3, x, 1)),
        ("image: expected shape", lambda: cpu.image_to_map(torch.zeros(6, 5, 3).byte(), [0.0] * 3, rgb, 1)),
        ("mean: expected 3", lambda: cpu.image_to_map(torch.zeros(6, 6, 3).byte(), [0.0], rgb, 1)),
    ]
    for sentence, call in refused:
        with pytest.raises(ValueError, match=sentence):
            call()
    level_weight, fuse = torch.zeros(1, 2, 4), torch.zeros(3, 6)
    y = torch.zeros(1, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    count = cpu.spatial_pyramid_pool_workspace(x, level_weight, [2, 2], y, 1)
    memory = torch.zeros(count + 128, dtype=torch.uint8)
    start = -memory.data_ptr() % 64

    def pool(workspace, sizes=(2, 2), fuse=fuse):
        vectors = [None] * 5
        cpu.spatial_pyramid_pool(x, level_weight, fuse, *vectors, list(sizes), False, workspace, y, 1)

    pool(memory[start:])
    for sentence, arguments in (
        ("workspace: expected an address", {"workspace": memory[start + 1 :]}),
        ("workspace: expected at least", {"workspace": memory[start : start + count - 1]}),
        ("sizes: expected at most 1024", {"workspace": memory, "sizes": (40, 40)}),
        ("sizes: expected rows and columns", {"workspace": memory, "sizes": (2,)}),
        ("fuse_weight: expected shape", {"workspace": memory, "fuse": fuse[:, :5].contiguous()}),
    ):
        with pytest.raises(ValueError, match=sentence):
            pool(**arguments)
