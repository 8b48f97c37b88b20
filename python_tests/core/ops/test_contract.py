"""What the operators promise beside their numbers: layouts, frames, empty batches, NaN and Inf, and clear errors."""

import pytest
import torch

import swiftnet_ext as sx

from .cases import CASES, IDS
from .operator_case import DTYPES, FORMATS, SHAPES

cases = pytest.mark.parametrize("case", CASES, ids=IDS)
SHAPE = (2, 9, 18, (5, 7), (10, 37))
VECTORS = (1, 8, 12, (5, 6), (10, 36))  # where maps, if aligned, are loaded by whole vectors


def maps_of(t):
    """The names of the arguments that are feature maps."""
    return [k for k in ("x", "skip", "tap", "residual") if k in t]


def changed(t, change):
    """The arguments with `change` applied to each feature map, lists included."""
    t = dict(t)
    for name in maps_of(t):
        t[name] = change(t[name])
    if "logits" in t:
        t["logits"] = [change(m) for m in t["logits"]]
    return t


def framed(x, fill):
    """x inside a larger buffer full of `fill`."""
    buffer = torch.full([s + 2 for s in x.shape], fill, dtype=x.dtype, device=x.device)
    inner = buffer[1:-1, 1:-1, 1:-1, 1:-1]
    inner.copy_(x)
    return inner


def permuted(x):
    return x.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


def after_another(x):
    """The tail of a larger batch: x[1:]."""
    return torch.cat([torch.full_like(x[:1], float("nan")), x])[1:]


LAYOUTS = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "permuted": permuted,
    "sliced from a batch": after_another,
    "framed by NaN": lambda x: framed(x, float("nan")),
    "rows of another pitch": lambda x: torch.cat([x, torch.full_like(x[..., :2], float("nan"))], -1)[..., :-2],
    "every second column": lambda x: torch.stack([x, torch.full_like(x, float("nan"))], -1).flatten(3)[..., ::2],
    "offset by one element": lambda x: torch.cat([x.new_full((1,), float("nan")), x.flatten()])[1:].view(x.shape),
    "channels_last framed": lambda x: framed(x.permute(0, 2, 3, 1), float("nan")).permute(0, 3, 1, 2),
}


@cases
@pytest.mark.each_dtype
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_any_strides_give_the_bits_of_contiguous_maps(case, dtype, layout, backend, device):
    for shape in (SHAPE, VECTORS) + case.wide_shapes[:1]:
        for variant in case.variants:
            t = case.make(shape, variant, dtype, device=device)
            y = case.call(changed(t, LAYOUTS[layout]), variant)
            if backend == "reference":  # PyTorch picks another algorithm for other strides
                torch.testing.assert_close(y.float(), case.call(t, variant).float(), rtol=1e-3, atol=1e-4)
            else:
                assert torch.equal(y, case.call(t, variant))


@cases
def test_expanded_maps_and_weights_of_any_strides(case, backend, device):
    # PyTorch picks another algorithm for other strides
    loose = {"rtol": 1e-3, "atol": 1e-4} if backend == "reference" else {}
    variant = case.variants[0]
    t = case.make(SHAPE, variant, torch.float32, device=device)
    one = changed(t, lambda m: m[:1])
    expanded = changed(one, lambda m: m.expand(2, -1, -1, -1))
    y = case.call(expanded, variant)
    torch.testing.assert_close(y[:1], case.call(one, variant), **loose)
    torch.testing.assert_close(y[1:], case.call(one, variant), **loose)
    for name in ("weight", "head_weight", "level_weight", "fuse_weight"):
        if name in t:
            w = t[name]
            t[name] = w.transpose(0, 1).contiguous().transpose(0, 1)
            torch.testing.assert_close(case.call(t, variant), case.call(dict(t, **{name: w}), variant), **loose)


@cases
def test_strides_of_size_1_dimensions_mean_nothing(case, backend, device):
    def odd_strides(m):
        strides = [7 if n == 1 else s for n, s in zip(m.shape, m.stride())]
        return m.as_strided(m.shape, strides)

    for shape in ((1, 1, 2, (1, 3), (1, 5)), (1, 2, 1, (3, 1), (5, 1))):
        for variant in case.variants:
            t = case.make(shape, variant, torch.float32, device=device)
            torch.testing.assert_close(case.call(changed(t, odd_strides), variant), case.call(t, variant))


@cases
def test_parameters_may_have_the_maps_dtype(case, backend, device):
    """Bias and affine in half precision beside such maps: the bits of the same values in fp32."""
    dtype = torch.bfloat16 if backend == "cpu" else torch.float16
    if not case.vectors:
        return
    for shape in (SHAPE,) + case.wide_shapes[:1]:
        for variant in case.variants:
            t = case.make(shape, variant, dtype, device=device)
            halves = {k: v.to(dtype) if k in case.vectors else v for k, v in t.items()}
            floats = {k: v.to(dtype).float() if k in case.vectors else v for k, v in t.items()}
            assert torch.equal(case.call(halves, variant), case.call(floats, variant))


@cases
def test_parameters_may_be_strided(case, backend, device):
    def every_other(v):
        return torch.stack([v, v + 1], -1)[..., 0]

    for variant in case.variants:
        t = case.make(SHAPE, variant, torch.float32, device=device)
        strided = {k: every_other(v) if k in case.vectors else v for k, v in t.items()}
        assert torch.equal(case.call(strided, variant), case.call(t, variant))


@cases
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.skipif(not hasattr(torch, "compile"), reason="no operators for the meta device before PyTorch 2.0")
def test_the_meta_device_knows_shape_dtype_and_strides(case, memory_format, backend, device):
    """Also where a map, or one on the way, has a single channel or pixel, whose layout its strides don't tell."""

    def to_meta(v):
        return [to_meta(item) for item in v] if isinstance(v, list) else v.to("meta") if torch.is_tensor(v) else v

    for shape in (
        SHAPE,
        (1, 8, 1, (2, 3), (4, 6)),
        (1, 1, 8, (2, 3), (4, 6)),
        (2, 8, 8, (1, 1), (4, 6)),
        (1, 8, 8, (2, 2), (1, 1)),
    ):
        for variant in case.variants:
            t = case.make(shape, variant, torch.float32, memory_format, device)
            y, meta = case.call(t, variant), case.call({k: to_meta(v) for k, v in t.items()}, variant)
            told = (meta.shape, meta.dtype, meta.stride(), meta.device.type)
            assert told == (y.shape, y.dtype, y.stride(), "meta"), (shape, variant)


@cases
def test_arguments_are_left_alone_and_the_output_is_new(case, backend, device):
    for variant in case.variants:
        t = case.make(SHAPE, variant, torch.float32, device=device)
        before = changed(t, torch.clone)
        y = case.call(t, variant)
        y.fill_(7)
        for name in maps_of(t):
            assert torch.equal(t[name], before[name])
        for a, b in zip(t.get("logits", []), before.get("logits", [])):
            assert torch.equal(a, b)


@pytest.fixture
def poisoned(monkeypatch):
    """Counts the outputs and workspaces, all of which torch.empty makes, and fills them with NaN, or with 255."""
    empty, sizes = torch.empty, []

    def full(*args, **kwargs):
        y = empty(*args, **kwargs)
        sizes.append(y.numel())
        return y.fill_(float("nan") if y.is_floating_point() else 255)

    monkeypatch.setattr(torch, "empty", full)
    return sizes


@cases
@pytest.mark.kernels_only
@pytest.mark.parametrize("memory_format", FORMATS)
def test_every_element_is_written(case, memory_format, backend, device, poisoned):
    for shape in SHAPES[::4] + list(case.wide_shapes[:1]):
        for variant in case.variants:
            t = case.make(shape, variant, torch.float32, memory_format, device)
            del poisoned[:]
            assert bool(torch.isfinite(case.call(t, variant)).all()) and poisoned
            if case.name == "multiscale_mean":
                assert bool((case.call(t, variant, reduce="argmax") < shape[1]).all())


@cases
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_an_empty_batch_gives_an_empty_result(case, memory_format, backend, device):
    if backend == "reference" and memory_format == "channels_last" and not hasattr(torch, "compile"):
        pytest.skip("PyTorch 1's own convolution refuses an empty channels_last batch")
    for variant in case.variants:
        full = case.call(case.make(SHAPE, variant, torch.float32, memory_format, device), variant)
        t = case.make((0,) + SHAPE[1:], variant, torch.float32, memory_format, device)
        y = case.call(t, variant)
        assert y.shape == (0,) + tuple(full.shape[1:]) and y.dtype == full.dtype
    if case.name == "multiscale_mean":
        assert case.call(t, variant, reduce="argmax").shape == (0,) + SHAPE[4]


@cases
@pytest.mark.parametrize("special", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_inf_spread_as_in_pytorch(case, special, backend, device):
    for shape in ((1, 3, 4, (4, 6), (8, 12)),) + case.wide_shapes[:5:4]:
        for variant in case.variants:
            t = case.make(shape, variant, torch.float32, device=device)
            first = t["logits"][0] if "logits" in t else t[maps_of(t)[0]]
            first[0, 1, 2, 3] = special
            first[0, 0, 1, 1] = special  # the neighbour, of weight 0, of the first pixel
            y = case.call(t, variant)
            with sx.use_backend("reference"):
                expected = case.call(t, variant)
            assert torch.equal(torch.isnan(y), torch.isnan(expected)), variant
            finite = torch.isfinite(expected)
            assert torch.equal(torch.isfinite(y), finite), variant
            torch.testing.assert_close(y[finite], expected[finite], rtol=1e-4, atol=1e-4)


def test_what_fills_up_the_pyramids_slices_is_in_no_sum(backend, device):
    """Beyond the last channel neither an infinite pixel under another channel's affine nor an infinite weight counts."""
    x = torch.rand(1, 9, 2, 4, device=device)
    x[:, -1] = float("-inf")
    scale = -torch.ones(12, device=device)
    scale[8] = 1.0  # of the last channel of x, whose relu is 0
    arguments = {"level_weight": torch.ones(1, 3, 9, device=device), "grids": [(1, 2)], "fuse_scale": scale}
    weight = torch.ones(4, 12, device=device)
    assert bool(torch.isfinite(sx.ops.spatial_pyramid_pool(x, fuse_weight=weight, **arguments)).all())
    weight[:, -1] = float("inf")  # of the last level
    y = sx.ops.spatial_pyramid_pool(x.abs().clamp(max=1), fuse_weight=weight, **dict(arguments, fuse_scale=None))
    assert bool((y == float("inf")).all())


def test_a_lateral_of_many_channels(backend, device):
    """More than the wide kernel keeps the affine of."""
    tap, weight = torch.ones(56, 1032, 1, 4, device=device), torch.ones(65, 1032, 1, 1, device=device)
    y = sx.ops.lateral_add(tap, weight, scale=torch.full((1032,), 2.0, device=device))
    assert y.shape == (56, 65, 1, 4) and bool((y == 2064).all())


def test_labels_mark_nan_with_255_and_give_ties_to_the_lower_class(backend, device):
    logits = torch.zeros(1, 4, 2, 3, device=device)
    logits[0, 2, 0, 0] = float("nan")
    logits[0, 1:3, 1, 1] = 1.0
    for order in ("softmax_then_resize", "resize_then_softmax"):
        labels = sx.ops.multiscale_mean([logits], (2, 3), order=order, reduce="argmax")
        assert labels.tolist() == [[[255, 0, 0], [0, 1, 0]]]


def test_a_class_of_minus_infinity_never_wins(backend, device):
    logits = torch.full((1, 3, 2, 2), float("-inf"), device=device)
    logits[:, 2] = -5.0
    for order in ("softmax_then_resize", "resize_then_softmax"):
        mean = sx.ops.multiscale_mean([logits, logits], (2, 2), order=order)
        assert mean[0, :, 0, 0].tolist() == [0.0, 0.0, 1.0]
        assert bool((sx.ops.multiscale_mean([logits], (2, 2), order=order, reduce="argmax") == 2).all())


def test_outside_the_image_the_block_reads_zero_not_the_shift(backend, device):
    zeros = torch.zeros(1, 1, 3, 3, device=device)
    weight, shift = torch.ones(1, 1, 3, 3, device=device), torch.ones(1, device=device)
    y = sx.ops.upsample_add_conv3x3(zeros, zeros, weight, shift=shift)
    assert y[0, 0].tolist() == [[4, 6, 4], [6, 9, 6], [4, 6, 4]]


x, w3, w1 = torch.zeros(1, 4, 4, 4), torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 1, 1)
MISUSES = [
    ("upsample_add_conv3x3", dict(x=[1], skip=x, weight=w3), TypeError, "x: expected a torch.Tensor"),
    ("upsample_add_conv3x3", dict(x=x[0], skip=x, weight=w3), ValueError, "x: expected 4 dimensions"),
    ("upsample_add_conv3x3", dict(x=x.long(), skip=x, weight=w3), TypeError, "x: expected float32"),
    ("upsample_add_conv3x3", dict(x=x, skip=x.half(), weight=w3), TypeError, "skip: expected dtype float32"),
    ("upsample_add_conv3x3", dict(x=x, skip=x[:, :3], weight=w3), ValueError, "skip: expected 4 channels"),
    ("upsample_add_conv3x3", dict(x=x, skip=x.expand(2, 4, 4, 4), weight=w3), ValueError, "skip: expected batch size 1"),
    ("upsample_add_conv3x3", dict(x=x[:, :, :0], skip=x, weight=w3), ValueError, "x: expected at least one"),
    ("upsample_add_conv3x3", dict(x=x, skip=x, weight=w1), ValueError, r"weight: expected shape \[K, 4, 3, 3\]"),
    ("upsample_add_conv3x3", dict(x=x, skip=x, weight=w3.half()), TypeError, "weight: expected dtype"),
    ("upsample_add_conv3x3", dict(x=x, skip=x, weight=w3, bias=x), ValueError, r"bias: expected shape \[2\]"),
    ("upsample_add_conv3x3", dict(x=x, skip=x, weight=w3, scale=1.0), TypeError, "scale: expected None or"),
    ("upsample_add_conv3x3", dict(x=x, skip=x, weight=w3, shift=torch.zeros(4).half()), TypeError, "shift: expected float32"),
    ("upsample_add_conv3x3", dict(x=x, skip=x, weight=w3, mode="bicubic"), ValueError, "mode: expected one of 'bilinear'"),
    ("conv3x3", dict(x=x, weight=w3, residual=x), ValueError, r"residual: expected the output's shape \[1, 2, 4, 4\]"),
    ("conv3x3", dict(x=x, weight=w3, relu=1), TypeError, "relu: expected True or False"),
    ("conv3x3", dict(x=x, weight=w3, algorithm="fft"), ValueError, "algorithm: expected one of 'auto', 'direct', 'winograd'"),
    ("conv3x3", dict(x=x, weight=w3, algorithm="half2"), TypeError, 'x: expected float16 for algorithm="half2"'),
    ("conv3x3_with_sum", dict(x=x, weight=w3, algorithm="half2"), TypeError, "x: expected float16"),
    ("conv3x3_head", dict(x=x, weight=w3, head_weight=w3), ValueError, r"head_weight: expected shape \[J, 2, 1, 1\]"),
    ("conv3x3_head", dict(x=x, weight=w3, head_weight=w3[:, :2, :1, :1], head_bias=x), ValueError, r"head_bias: .*\[2\]"),
    ("lateral_add", dict(tap=x, weight=w3), ValueError, r"weight: expected shape \[K, 4, 1, 1\]"),
    ("lateral_add", dict(tap=x, weight=w1, x=x), ValueError, "x: expected 2 channels"),
    ("lateral_add", dict(tap=x, weight=w1, out_shift=torch.zeros(4)), ValueError, r"out_shift: expected shape \[2\]"),
    ("spatial_pyramid_pool", dict(x=x, level_weight=w1, fuse_weight=w1, grids=[]), ValueError, "grids: expected at least one"),
    ("spatial_pyramid_pool", dict(x=x, level_weight=w1, fuse_weight=w1, grids=[(0, 1)]), ValueError, "grids: expected"),
    ("spatial_pyramid_pool", dict(x=x, level_weight=w1, fuse_weight=w1, grids=[(1, 1)]), ValueError, "level_weight: expected"),
    ("multiscale_mean", dict(logits=x, size=(4, 4)), TypeError, "logits: expected a list"),
    ("multiscale_mean", dict(logits=[x, x[:, :2]], size=(4, 4)), ValueError, r"logits\[1\]: expected 4 classes"),
    ("multiscale_mean", dict(logits=[x], size=(0, 4)), ValueError, "size: expected"),
    ("multiscale_mean", dict(logits=[x], size=(4, 4), order="softmax"), ValueError, "order: expected one of"),
    ("multiscale_mean", dict(logits=[x], size=(4, 4), reduce="sum"), ValueError, "reduce: expected one of"),
    ("multiscale_mean", dict(logits=[x.expand(1, 4, 4, 4).repeat(1, 64, 1, 1)], size=(4, 4), reduce="argmax"), ValueError,
     "at most 255 classes"),
]  # fmt: skip


@pytest.mark.parametrize("op, arguments, kind, sentence", MISUSES, ids=lambda v: v if isinstance(v, str) else None)
def test_misuse_raises_one_clear_sentence(op, arguments, kind, sentence, backend):
    with pytest.raises(kind, match=sentence) as error:
        getattr(sx.ops, op)(**arguments)
    message = str(error.value)
    assert message.startswith(op + ": ") and ", got " in message and "; " in message


@pytest.mark.cuda_source
def test_the_kernels_refuse_what_would_leave_their_memory(backend):
    """The boundary below Python's checks: a call past them is refused, not run."""
    from swiftnet_ext import _native

    module = _native.emulated()[0] if backend == "emulated" else _native.native()[0]
    t, weight, out = torch.zeros(1, 4, 4, 4), torch.zeros(2, 4, 3, 3), torch.zeros(1, 2, 4, 4)
    packed = torch.zeros(module.conv3x3_packed_numel("direct", 2, 4))
    with pytest.raises(ValueError, match="out: expected shape"):
        module.conv3x3(t, weight, "direct", packed, True, None, None, False, None, out[..., :3], 0)
    with pytest.raises(ValueError, match="sum: expected shape"):
        module.conv3x3(t, weight, "direct", packed, True, None, None, False, out[..., :3], out, 0)
    with pytest.raises(ValueError, match="packed: expected shape"):
        module.conv3x3(t, weight, "direct", packed[4:], True, None, None, False, None, out, 0)
    with pytest.raises(ValueError, match="packed: expected memory aligned"):
        module.conv3x3(t, weight, "direct", torch.zeros(packed.numel() + 1)[1:], True, None, None, False, None, out, 0)
    with pytest.raises(ValueError, match="bias: expected shape"):
        module.conv3x3(t, weight, "direct", packed, True, torch.zeros(1), None, False, None, out, 0)
    with pytest.raises(TypeError, match="float32, float16"):
        module.conv3x3(t.double(), weight, "direct", packed, True, None, None, False, None, out, 0)
    with pytest.raises(TypeError):
        module.conv3x3([1.0], weight, "direct", packed, True, None, None, False, None, out, 0)
    with pytest.raises(ValueError, match="packed: expected shape"):  # of another algorithm
        module.conv3x3(t, weight, "winograd", packed, True, None, None, False, None, out, 0)
    with pytest.raises(ValueError, match="algorithm: expected"):
        module.conv3x3(t, weight, "auto", packed, True, None, None, False, None, out, 0)
    pairs = torch.zeros(module.conv3x3_packed_numel("half2", 2, 4))
    with pytest.raises(ValueError, match="half2 takes float16 maps"):
        module.conv3x3(t, weight, "half2", pairs, True, None, None, False, None, out, 0)
    skip, activated = torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 3)
    with pytest.raises(ValueError, match="activated: expected shape"):
        module.upsample_add_conv3x3(
            t, skip, weight, "direct", packed, True, None, None, None, "nearest", activated, out, 0
        )
    head, logits = torch.zeros(25, 2, 1, 1), torch.zeros(1, 25, 4, 4)
    points = torch.zeros(module.conv3x3_packed_numel("winograd", 2, 4))
    with pytest.raises(ValueError, match="head_weight: expected 1 to 24 outputs"):
        module.conv3x3_head(t, weight, "winograd", points, True, None, None, None, head, None, logits, 0)
    with pytest.raises(ValueError, match="packed: expected shape"):
        module.conv3x3_head(t, weight, "winograd", packed, True, None, None, None, head[:24], None, logits[:, :24], 0)
