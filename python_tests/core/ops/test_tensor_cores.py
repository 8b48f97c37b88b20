"""The kernels on tensor cores: against the float64 oracle, exactly, and what they promise of layouts and edges.

Emulated they run by name; on a GPU they are also what "auto" is.
"""

import sys

import pytest
import torch

import swiftnet_ext as sx
from swiftnet_ext import _native
from swiftnet_ext.ops import backend as backend_module
from swiftnet_ext.ops import packed
from swiftnet_ext.ops.conv3x3 import algorithm_for

from . import oracle
from .operator_case import in_format, to_double

pytestmark = pytest.mark.cuda_source

DTYPES = (torch.float16, torch.bfloat16)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])

# (N, T, C, K, (h, w), (H, W)): the tile of 8×32 pixels ± 1, groups of 32, 64 and 128 outputs ± 8, halves of the slices of 16
# channels and of the 32 tap channels, passes of 64 channels ± 8, up-factors that are not 2, thin maps
SHAPES = [
    (1, 8, 8, 8, (1, 1), (1, 1)), (1, 8, 8, 8, (1, 1), (2, 2)), (2, 16, 8, 16, (2, 3), (5, 7)), (1, 24, 16, 8, (4, 16), (8, 32)),
    (1, 32, 24, 24, (4, 16), (9, 33)), (1, 40, 16, 32, (5, 17), (7, 31)), (1, 8, 32, 40, (3, 9), (8, 33)),
    (1, 64, 8, 64, (5, 16), (9, 32)), (1, 16, 40, 72, (2, 8), (3, 16)), (1, 72, 56, 16, (4, 4), (7, 9)),
    (1, 16, 64, 128, (2, 16), (2, 32)), (1, 24, 72, 136, (1, 16), (1, 32)), (1, 8, 64, 56, (2, 17), (3, 33)),
    (2, 16, 16, 48, (9, 31), (17, 40)), (1, 8, 24, 120, (6, 6), (6, 6)), (1, 32, 8, 8, (1, 9), (1, 65)),
    (1, 8, 8, 32, (9, 1), (37, 1)), (1, 48, 80, 8, (10, 14), (5, 7)), (3, 8, 8, 8, (3, 3), (10, 12)),
    (1, 128, 128, 128, (2, 3), (4, 5)), (1, 8, 120, 8, (3, 5), (12, 20)), (1, 16, 8, 96, (5, 6), (13, 14)),
    (9, 8, 8, 16, (3, 9), (8, 40)),
]  # fmt: skip
EXACT_SHAPES = [
    (1, 8, 8, 8, (1, 1), (2, 2)), (2, 16, 8, 72, (4, 8), (8, 16)), (1, 8, 8, 24, (8, 17), (16, 34)),
    (1, 8, 8, 136, (3, 5), (12, 20)), (1, 16, 16, 40, (9, 33), (9, 33)),
]  # fmt: skip
SMALL = [(1, 24, 40, 72, (5, 17), (9, 33)), (2, 16, 16, 120, (3, 8), (8, 16)), (1, 8, 8, 24, (4, 16), (8, 34))]
CLASSES = (1, 19, 24)


def arguments(names, shape, dtype, device, rand=None, classes=19, seed=0):
    """These of the operators' arguments, maps in channels_last."""
    n, t, c, k, small, size = shape
    generator = torch.Generator().manual_seed(seed)
    draw = rand or (lambda *s: torch.randn(*s, generator=generator))
    shapes = {
        "x": (n, c, *small), "map": (n, c, *size), "tap": (n, t, *size), "lateral_weight": (c, t, 1, 1), "weight": (k, c, 3, 3),
        "residual": (n, k, *size), "lateral_bias": (c,), "bias": (k,), "scale": (t,), "shift": (t,), "out_scale": (c,),
        "out_shift": (c,), "head_weight": (classes, k, 1, 1), "head_bias": (classes,), "head_scale": (k,), "head_shift": (k,),
    }  # fmt: skip
    made = {}
    for name in names:
        value = draw(*shapes[name])
        value = value.to(dtype) if len(shapes[name]) == 4 else value
        made[name] = in_format(value, "channels_last").to(device)
    if "map" in made:
        made["x"] = made.pop("map")
    return made


class Conv:
    """conv3x3 with all that its epilogue adds, its two outputs one after the other."""

    names = ("map", "weight", "bias", "residual")

    @staticmethod
    def call(t):
        return torch.cat(sx.ops.conv3x3_with_sum(algorithm="tensor_cores", **t), 1)

    @staticmethod
    def expected(t, dtype):
        total, magnitude = oracle.conv3x3(t["x"], t["weight"], t["bias"], t["residual"], False, "direct")
        error = 9 * t["x"].shape[1] * oracle.MMA_UNIT * magnitude
        return torch.cat([total.clamp(min=0), total], 1), torch.cat([magnitude] * 2, 1), torch.cat([error] * 2, 1)


def stored(y, error, dtype):
    """The error of a value that is rounded to the maps' dtype."""
    return error + oracle.UNIT[dtype] * (y.abs() + error) + oracle.TINY[dtype]


def head_of(y, magnitude, error, t, dtype, affine):
    """A head on top of values with errors: the activated ones are rounded."""
    scale = t.get(affine[0])
    hidden, size = oracle.activate(y, magnitude, scale, t.get(affine[1]))
    error = oracle.channels(scale.abs()) * error if scale is not None else error
    error = stored(hidden, error + 4 * oracle.UNIT[torch.float32] * size, dtype)
    value, total = oracle.linear(hidden, size, t["head_weight"], t["head_bias"])
    weights = t["head_weight"].abs()
    return value, total, oracle.conv(error, weights) + (hidden.shape[1] + 16) * oracle.MMA_UNIT * total


class Head:
    names = ("map", "weight", "bias", "head_weight", "head_bias", "head_scale", "head_shift")

    @staticmethod
    def call(t):
        t = dict(t)
        t["scale"], t["shift"] = t.pop("head_scale"), t.pop("head_shift")
        return sx.ops.conv3x3_head(algorithm="tensor_cores", **t)

    @staticmethod
    def expected(t, dtype):
        y, magnitude = oracle.linear(t["x"], t["x"].abs(), t["weight"], t["bias"])
        error = (9 * t["x"].shape[1] + 16) * oracle.MMA_UNIT * magnitude
        return head_of(y, magnitude, error, t, dtype, ("head_scale", "head_shift"))


class Blend:
    names = (
        "x", "tap", "lateral_weight", "weight", "lateral_bias", "bias", "scale", "shift", "out_scale", "out_shift",
    )  # fmt: skip
    mode = "bilinear"

    @classmethod
    def call(cls, t):
        return sx.ops.upsample_blend(mode=cls.mode, launches="one", **t)

    @classmethod
    def block(cls, t, dtype):
        u32 = oracle.UNIT[torch.float32]
        size = t["tap"].shape[2:]
        activated, magnitude = oracle.activate(t["tap"], t["tap"].abs(), t["scale"], t["shift"])
        error = stored(activated, 4 * u32 * magnitude, dtype)
        weights = t["lateral_weight"].abs()
        y, total = oracle.linear(activated, magnitude, t["lateral_weight"], t["lateral_bias"])
        error = oracle.conv(error, weights) + (t["tap"].shape[1] + 16) * oracle.MMA_UNIT * total
        y, total = y + oracle.resize(t["x"], size, cls.mode), total + oracle.resize(t["x"].abs(), size, cls.mode)
        side = max(*size, *t["x"].shape[2:]) * 2
        error = error + (16 + 6 * side) * u32 * total
        y, total = oracle.activate(y, total, t["out_scale"], t["out_shift"])
        error = stored(y, oracle.channels(t["out_scale"].abs()) * error + 4 * u32 * total, dtype)
        value, magnitude = oracle.linear(y, total, t["weight"], t["bias"])
        error = oracle.conv(error, t["weight"].abs()) + (9 * y.shape[1] + 16) * oracle.MMA_UNIT * magnitude
        return value, magnitude, error

    @classmethod
    def expected(cls, t, dtype):
        return cls.block(t, dtype)


class BlendNearest(Blend):
    mode = "nearest"


class BlendHead(Blend):
    names = Blend.names + ("head_weight", "head_bias", "head_scale", "head_shift")

    @classmethod
    def expected(cls, t, dtype):
        return head_of(*cls.block(t, dtype), t=t, dtype=dtype, affine=("head_scale", "head_shift"))


CASES = [Conv, Head, Blend, BlendNearest, BlendHead]
cases = pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)


def shapes_of(case, shapes):
    return [s for s in shapes if not (case in (Head, BlendHead) and s[3] > 128)]


@cases
@dtypes
def test_error_is_within_the_derived_bound(case, dtype, backend, device):
    for seed, shape in enumerate(shapes_of(case, SHAPES)):
        t = arguments(case.names, shape, dtype, device, classes=CLASSES[seed % 3], seed=seed)
        y = case.call(t)
        value, magnitude, error = case.expected(to_double(t), dtype)
        assert y.dtype == dtype and y.shape == value.shape
        allowed = error + oracle.UNIT[dtype] * (value.abs() + error) + oracle.TINY[dtype]
        difference = (y.double().cpu() - value).abs()
        assert bool((difference <= allowed).all()), shape
        with sx.use_backend("reference"):
            reference = case.call(t)
        own = float((reference.double().cpu() - value).abs().max())
        floor = oracle.UNIT[dtype] * float(value.abs().max()) + 8 * oracle.UNIT[torch.float32] * float(magnitude.max())
        if case is Conv:  # elsewhere a CPU's reference rounds once, and the kernel on the way too
            assert float(difference.max()) <= 2 * own + floor, shape
        assert y.stride() == reference.stride(), shape


def whole_numbers(*size):
    return torch.randint(-1, 2, size, generator=torch.Generator().manual_seed(sum(size))).float()


@cases
@dtypes
def test_exact_arithmetic_has_no_differing_bit(case, dtype, backend, device):
    """Whole numbers that the dtype holds on the way, also of x between its pixels; the result is rounded once."""
    for shape in shapes_of(case, EXACT_SHAPES):
        t = arguments(case.names, shape, dtype, device, whole_numbers)
        if "tap" in t:
            t["x"] = t["x"] * 64
        if "head_weight" in t:  # sums of few products, below 256
            few = torch.zeros(1, shape[2], 3, 3, dtype=dtype, device=device)
            few[:, ::8, 1, 1] = 1
            t["weight"] = t["weight"] * few
        value, _, _ = case.expected(to_double(t), dtype)
        assert torch.equal(case.call(t).cpu(), value.to(dtype)), shape


@cases
def test_nothing_outside_is_read_and_everything_is_written(case, backend, device):
    """Maps inside memory full of NaN give the same bits, and so does an output in memory that was full of it."""
    shape = (1, 16, 24, 40, (3, 9), (10, 35))
    t = arguments(case.names, shape, torch.float16, device)
    expected = case.call(t)
    framed = dict(t)
    for name in ("x", "tap", "residual"):
        if name in t:
            rows = torch.full((t[name].numel() + 256,), float("nan"), dtype=torch.float16, device=device)
            inner = rows[128:-128].as_strided(t[name].shape, t[name].stride(), 128)
            inner.copy_(t[name])
            framed[name] = inner
    poison = torch.full_like(expected, float("nan"))
    del poison
    y = case.call(framed)
    assert torch.equal(y, expected) and bool(torch.isfinite(y).all())


@cases
@pytest.mark.parametrize("special", [float("nan"), float("inf")])
def test_nan_and_inf_spread_as_in_pytorch(case, special, backend, device):
    t = arguments(case.names, (1, 8, 16, 24, (5, 17), (9, 35)), torch.float16, device)
    for name in t:
        if "scale" in name:
            t[name] = t[name].abs()  # so that no ReLU hides it
    if "tap" in t:
        t["tap"][0, 1, 8, 31] = special
    t["x"][0, 1, 2, 3] = special
    y = case.call(t)
    with sx.use_backend("reference"):
        expected = case.call(t)
    assert torch.equal(torch.isnan(y), torch.isnan(expected))
    assert torch.equal(torch.isfinite(y), torch.isfinite(expected))
    assert not bool(torch.isfinite(y).all()) and bool(torch.isfinite(y).any())


@cases
def test_an_empty_batch_gives_an_empty_result(case, backend, device):
    t = arguments(case.names, (0, 8, 8, 16, (2, 3), (4, 6)), torch.float16, device)
    y = case.call(t)
    assert y.shape[0] == 0 and y.shape[2:] == (4, 6)


@cases
@dtypes
def test_parameters_may_be_of_the_maps_dtype(case, dtype, backend, device):
    t = arguments(case.names, (1, 16, 24, 40, (3, 9), (10, 35)), dtype, device)
    of_maps = {k: v.to(dtype) for k, v in t.items()}
    assert torch.equal(case.call(of_maps), case.call({k: v.float() if v.dim() == 1 else v for k, v in of_maps.items()}))


def test_parameters_may_be_absent(backend, device):
    t = arguments(BlendHead.names, (1, 16, 24, 40, (3, 9), (10, 35)), torch.float16, device)
    maps = {k: v for k, v in t.items() if v.dim() == 4}
    neutral = {k: (torch.ones_like if "scale" in k else torch.zeros_like)(v) for k, v in t.items() if v.dim() == 1}
    assert torch.equal(BlendHead.call(maps), BlendHead.call(dict(maps, **neutral)))


def test_one_launch_rounds_as_several_but_for_the_tap(backend, device):
    """With a tap that the activation leaves exact, the convolution reads the same numbers."""
    t = arguments(Blend.names, (1, 16, 24, 40, (3, 9), (10, 35)), torch.float16, device)
    t["scale"], t["shift"] = torch.ones_like(t["scale"]), torch.zeros_like(t["shift"])
    several = sx.ops.upsample_blend(launches="several", **t)
    torch.testing.assert_close(Blend.call(t), several, rtol=4e-3, atol=4e-2)


@pytest.fixture
def capability(backend, monkeypatch):
    """Of the GPU, or of one that the emulation stands for."""
    if backend != "emulated":
        return torch.cuda.get_device_capability()
    for name in ("conv3x3", "upsample_add_conv3x3", "upsample_blend"):
        module = sys.modules["swiftnet_ext.ops." + name]  # the function has the module's name
        monkeypatch.setattr(module, "capability_of", lambda kernels, device: (8, 0))
    return 8, 0


def test_auto_takes_tensor_cores_where_they_are(backend, device, capability):
    """Which kernels run is seen by the weight's packed copies, of which each algorithm keeps its own."""
    best, other = (algorithm_for(24, torch.float16, capability, fits) for fits in (True, False))
    assert backend == "cuda" or (best, other) == ("tensor_cores", "winograd")

    def algorithms(call):
        t = arguments(Blend.names + ("head_weight",), (1, 16, 24, 40, (3, 9), (10, 35)), torch.float16, device)
        with sx.use_backend(backend, strict=True):
            call(t)
        return sorted(packed._entries.get(t["weight"]._cdata, {}))

    def activated(t):
        return in_format(torch.ones_like(t["tap"][:, :1]).expand(-1, 24, -1, -1), "channels_last")

    of_head = best if best == "tensor_cores" else "winograd"
    assert algorithms(lambda t: sx.ops.conv3x3(activated(t), t["weight"])) == [best]
    assert algorithms(lambda t: sx.ops.conv3x3(activated(t).contiguous(), t["weight"])) == [other]
    assert algorithms(lambda t: sx.ops.conv3x3_head(activated(t), t["weight"], t["head_weight"])) == [of_head]
    assert algorithms(lambda t: sx.ops.upsample_add_conv3x3(t["x"], activated(t), t["weight"])) == [best]
    # a map of one pixel is contiguous too, and so is the result
    assert algorithms(lambda t: sx.ops.upsample_add_conv3x3(t["x"][..., :1, :1], activated(t), t["weight"])) == [other]
    assert algorithms(lambda t: sx.ops.upsample_blend(t["x"], t["tap"], t["lateral_weight"], t["weight"])) == [best]


@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_bfloat16_by_another_algorithm_is_plain_pytorchs(algorithm, backend, device, capability, monkeypatch):
    t = arguments(("map", "weight"), (1, 8, 16, 24, (5, 17), (9, 35)), torch.bfloat16, device)
    with pytest.raises(sx.ops.BackendError, match="the kernels take float32 and float16, not bfloat16"):
        sx.ops.conv3x3(t["x"], t["weight"], algorithm=algorithm)
    monkeypatch.setattr(backend_module, "_warned", set())
    with sx.use_backend(backend), pytest.warns(RuntimeWarning, match="plain PyTorch runs instead"):
        y = sx.ops.conv3x3(t["x"], t["weight"], algorithm=algorithm)
    with sx.use_backend("reference"):
        assert torch.equal(y, sx.ops.conv3x3(t["x"], t["weight"]))


def test_rows_are_as_long_as_the_kernels_index_them():
    def row(width):
        return in_format(torch.empty(1, 8, 2, width, dtype=torch.float16, device="meta"), "channels_last")

    assert backend_module.fits_tensor_cores(row(1 << 22)) and not backend_module.fits_tensor_cores(row((1 << 22) + 1))


def test_errors_name_the_argument_and_the_cure(backend, device):
    t = arguments(Blend.names, (1, 16, 24, 40, (3, 9), (10, 35)), torch.float16, device)
    with pytest.raises(ValueError, match=r"upsample_blend: tap: expected channels_last .* pass it as .contiguous"):
        Blend.call(dict(t, tap=t["tap"].contiguous()))
    with pytest.raises(ValueError, match="upsample_blend: head_bias: expected None without head_weight"):
        Blend.call(dict(t, head_bias=torch.zeros(3, device=device)))
    wide = arguments(Blend.names, (1, 8, 520, 8, (2, 2), (4, 4)), torch.float16, device)
    with pytest.raises(ValueError, match="one does not make this block: its tile of 520 channels"):
        Blend.call(wide)
    x, weight = (torch.zeros(1, 16, 4, 4, device=device), torch.zeros(8, 16, 3, 3, device=device))
    with pytest.raises(TypeError, match="conv3x3: x: expected float16 or bfloat16 for tensor cores"):
        sx.ops.conv3x3(x, weight, algorithm="tensor_cores")
    x = in_format(x, "channels_last").half()
    with pytest.raises(ValueError, match="conv3x3: weight: expected outputs in eights"):
        sx.ops.conv3x3(x, weight[:5].half(), algorithm="tensor_cores")


def test_direct_calls_of_the_module_are_checked(backend, device):
    """C++ checks again what its memory safety needs."""
    module = _native.emulated()[0] if backend == "emulated" else _native.native()[0]
    t = arguments(Blend.names, (1, 16, 24, 40, (3, 9), (10, 35)), torch.float16, device)
    out = in_format(torch.zeros(1, 40, 10, 35, dtype=torch.float16, device=device), "channels_last")
    weights = torch.zeros(module.conv3x3_packed_numel("tensor_cores", 40, 24), device=device)

    def call(packed=weights, y=out, **changed):
        given = dict(t, **changed)
        maps = [given[name] for name in ("tap", "lateral_weight", "x", "weight")]
        module.upsample_blend(*maps, packed, True, *[None] * 10, "nearest", y, 0)

    call()
    with pytest.raises(ValueError, match="packed: expected shape"):
        call(packed=weights[4:])
    with pytest.raises(ValueError, match="out: expected shape"):
        call(y=out[:, :8])
    with pytest.raises(ValueError, match="out: expected a channels_last map"):
        call(y=out.contiguous())
    with pytest.raises(ValueError, match="lateral_weight: expected shape"):
        call(tap=t["tap"][:, :8])
    with pytest.raises(ValueError, match="channels_last maps with channels in eights"):
        call(x=t["x"].contiguous())
    x = t["tap"]
    with pytest.raises(ValueError, match="tensor_cores takes channels_last maps"):
        points = torch.zeros(module.conv3x3_packed_numel("tensor_cores", 8, 16), device=device)
        weight = torch.zeros(8, 16, 3, 3, dtype=torch.float16, device=device)
        module.conv3x3(x, weight, "tensor_cores", points, True, None, None, False, None, out[:, :8].contiguous(), 0)
    head = [torch.zeros(*s, dtype=torch.float16, device=device) for s in ((25, 40, 1, 1), (1, 25, 3, 9))]
    with pytest.raises(ValueError, match="head_weight: expected 1 to 24 outputs"):
        module.conv3x3_head(
            t["x"], t["weight"], "tensor_cores", weights, True, None, None, None, head[0], None, head[1], 0
        )


def test_bfloat16_on_an_older_architecture_says_why_not(backend, device, monkeypatch):
    monkeypatch.setattr(sys.modules["swiftnet_ext.ops.conv3x3"], "capability_of", lambda kernels, device: (7, 5))
    x = in_format(torch.zeros(1, 8, 4, 4, dtype=torch.bfloat16, device=device), "channels_last")
    reason = "tensor cores take bfloat16 from compute capability 8.0 on; the kernels here are for 7.5"
    with pytest.raises(sx.ops.BackendError, match=reason):
        sx.ops.conv3x3(x, torch.zeros(8, 8, 3, 3, dtype=torch.bfloat16, device=device))
