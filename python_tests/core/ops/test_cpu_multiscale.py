"""The native CPU kernel of multiscale_mean, at every instruction set that this CPU runs."""

import pytest
import torch
import torch.nn.functional as F

import swiftnet_ext as sx

from . import cpu_levels, oracle
from .cpu_levels import GUARD
from .operator_case import FORMATS
from .test_multiscale_labels import argmax, regions, rough, smooth

cpu = cpu_levels.native()

ORDERS = ("softmax_then_resize", "resize_then_softmax")
UNIT = oracle.UNIT[torch.float32]

# (images, classes, sizes of the maps, size of the result)
SHAPES = [
    (1, 1, [(1, 1)], (1, 1)),
    (1, 2, [(1, 1), (1, 2)], (37, 53)),
    (2, 11, [(9, 13)], (36, 52)),
    (1, 19, [(16, 33)], (64, 132)),
    (1, 19, [(8, 16), (12, 24), (16, 32), (20, 40), (24, 48)], (64, 128)),
    (2, 3, [(7, 5), (17, 31), (1, 1), (31, 67), (40, 3)], (31, 67)),
    (1, 21, [(31, 13), (5, 67)], (31, 67)),  # one axis kept
    (1, 19, [(61, 127), (60, 126)], (61, 127)),  # and nearly kept
    (1, 5, [(70, 130), (33, 300)], (31, 17)),  # smaller
    (1, 3, [(400, 5), (5, 900)], (3, 2)),
    (3, 4, [(2, 3)], (97, 3)),
    (1, 255, [(5, 7), (4, 9)], (19, 23)),
    (1, 2, [(64, 64)], (64, 64)),
    (1, 7, [(3, 200)], (12, 800)),
    (2, 5, [(7, 1), (1, 6)], (9, 1)),
    (2, 18, [(1, 21), (4, 35)], (1, 35)),
]


@pytest.fixture(params=cpu.levels())
def level(request):
    cpu.use_level(request.param)
    yield request.param
    cpu.use_level(cpu.levels()[0])


def poisoned(count):
    """Bytes of NaN at an address divisible by 64, and the guards on either side."""
    whole = torch.full((count + 2 * GUARD,), 255, dtype=torch.uint8)
    end = GUARD + count
    assert whole.data_ptr() % 64 == 0
    return whole[GUARD:end], (whole[:GUARD], whole[end:])


def of_dtype(memory, dtype):
    """Bytes as values; PyTorch 1.10 views no dtype of another size."""
    same_size = memory.numpy().view("int16" if dtype is torch.bfloat16 else "int32")
    return torch.from_numpy(same_size).view(dtype)


def mean_of(maps, size, order, reduce="mean", dtype=torch.float32, memory_format="contiguous", threads=2):
    n, classes = maps[0].shape[:2]
    if reduce == "argmax":
        memory, guards = poisoned(n * size[0] * size[1])
        out = memory.view(n, *size)
    else:
        item = torch.empty((), dtype=dtype).element_size()
        memory, guards = poisoned(n * classes * size[0] * size[1] * item)
        if memory_format == "channels_last":
            out = of_dtype(memory, dtype).view(n, size[0], size[1], classes).permute(0, 3, 1, 2)
        else:
            out = of_dtype(memory, dtype).view(n, classes, *size)
    workspace, more = poisoned(cpu.multiscale_mean_workspace(maps, order, out, threads))
    cpu.multiscale_mean(maps, order, out, workspace, threads)
    for guard in guards + more:
        assert bool((guard == 255).all())
    return out


def labels_of(maps, size, order, **options):
    return mean_of(maps, size, order, reduce="argmax", **options)


def draw(shape, seed=0, scale=4.0):
    """Logits whose memory is followed and preceded by NaN."""
    n, classes, sizes, _ = shape
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for h, w in sizes:
        whole = torch.full((n * classes * h * w + 2 * GUARD,), float("nan"))
        m = whole[GUARD : len(whole) - GUARD].view(n, classes, h, w)
        m.copy_(scale * torch.randn(n, classes, h, w, generator=generator))
        maps.append(m)
    return maps


def allowed_error(maps, order):
    """Of a mean probability: its class's share of a sum of `classes`, the exponential, its argument and the resizing."""
    largest = max(float(m.float().abs().max()) for m in maps)
    return (maps[0].shape[1] + 20 + (12 * largest if order == "resize_then_softmax" else 0)) * UNIT


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mean_and_labels(shape, order, level):
    maps = draw(shape)
    for dtype in (torch.float32, torch.bfloat16):
        logits = [m.to(dtype) for m in maps]
        expected, _ = oracle.multiscale_mean([m.double() for m in logits], shape[3], order)
        allowed = allowed_error(logits, order)
        mean = mean_of(logits, shape[3], order)
        assert float((mean.double() - expected).abs().max()) <= allowed
        for memory_format in FORMATS:
            rounded = mean_of(logits, shape[3], order, dtype=torch.bfloat16, memory_format=memory_format)
            assert torch.equal(rounded, mean.bfloat16())
        if order == "resize_then_softmax" and len(maps) == 1:
            expected = oracle.resize(logits[0].double(), shape[3], "bilinear")
            allowed = 6 * UNIT * float(expected.abs().max())
        labels = labels_of(logits, shape[3], order)
        chosen = expected.gather(1, labels.long()[:, None])[:, 0]
        assert bool((chosen >= expected.max(1)[0] - 2 * allowed).all())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_depend_on_neither_layout_nor_threads_nor_format(shape, order, level):
    maps = draw(shape)
    mean, labels = mean_of(maps, shape[3], order), labels_of(maps, shape[3], order)
    last = [m.contiguous(memory_format=torch.channels_last) for m in maps]
    for threads in (1, 3, 7):
        mixed = [last[i] if i % 2 else m for i, m in enumerate(maps)]
        assert torch.equal(mean_of(mixed, shape[3], order, memory_format="channels_last", threads=threads), mean)
        assert torch.equal(labels_of(last, shape[3], order, threads=threads), labels)
    halves = [m.bfloat16() for m in maps]
    floats = [m.float() for m in halves]
    assert torch.equal(mean_of(halves, shape[3], order), mean_of(floats, shape[3], order))
    assert torch.equal(labels_of(halves, shape[3], order), labels_of(floats, shape[3], order))


def ramps(classes, count, seed=0):
    """Classes that cross at every angle, by little."""
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for h, w in [(33, 65), (17, 40), (50, 97), (70, 20)][:count]:
        slopes = torch.randint(-3, 4, (2, 2, classes, 1, 1), generator=generator) * 2.0**-20
        rows, columns = torch.arange(h)[:, None], torch.arange(w)
        maps.append(1 + slopes[0] * (rows - h // 2) + slopes[1] * (columns - w // 2))
    return maps


def needles(classes, count, seed=0):
    """One class ahead, but for single pixels of others."""
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for h, w in [(33, 65), (17, 40), (50, 97), (70, 20)][:count]:
        m = 0.1 * torch.randn(2, classes, h, w, generator=generator)
        m[:, classes // 3] += 4
        spikes = torch.rand(2, classes, h, w, generator=generator) < 0.02 / classes
        maps.append(m + 12 * spikes)
    return maps


@pytest.mark.parametrize("drawn", [smooth, rough, regions, ramps, needles], ids=lambda f: f.__name__)
@pytest.mark.parametrize("classes, count", [(2, 4), (3, 1), (19, 4), (19, 1), (33, 2), (254, 1)])
def test_classes_left_out_change_no_label(drawn, classes, count, level):
    """Against the mean, which leaves none out; its division by 1, 2 or 4 is exact."""
    for seed, size in enumerate([(36, 52), (133, 201)]):
        maps = drawn(classes, count, seed)
        mean = mean_of(maps, size, "softmax_then_resize")
        assert torch.equal(labels_of(maps, size, "softmax_then_resize"), argmax(mean))


@pytest.mark.parametrize("drawn", [smooth, rough, regions, ramps, needles], ids=lambda f: f.__name__)
@pytest.mark.parametrize("classes", [1, 2, 11, 19, 254])
def test_classes_left_out_change_no_label_of_logits(drawn, classes, level):
    """Against the same with another class, so far behind that no bound holds."""
    for seed, size in enumerate([(36, 52), (133, 201)]):
        x = drawn(classes, 1, seed)[0] if classes > 1 else rough(1, 1, seed)[0]
        more = torch.cat([x, torch.full_like(x[:, :1], -2e37)], 1)
        labels = labels_of([x], size, "resize_then_softmax")
        assert torch.equal(labels, labels_of([more], size, "resize_then_softmax"))


def test_exact_logits_have_exact_labels(level):
    """Small integers at powers of two times the size: every product and sum is exact, and ties are many."""
    generator = torch.Generator().manual_seed(0)
    for classes in (2, 3, 19):
        coarse = torch.randint(-4, 5, (2, classes, 5, 9), generator=generator).float()
        for x in (coarse, coarse.repeat_interleave(4, 2).repeat_interleave(5, 3)):
            for factor in (1, 2, 4, 8):
                size = (factor * x.shape[2], factor * x.shape[3])
                expected = argmax(oracle.resize(x.double(), size, "bilinear"))
                assert torch.equal(labels_of([x], size, "resize_then_softmax"), expected)
                assert torch.equal(labels_of([x.bfloat16()], size, "resize_then_softmax"), expected)


def test_ties_go_to_the_lower_class(level):
    for order in ORDERS:
        for count in (1, 3):
            maps = [torch.ones(1, 19, 5, 9)] * count
            assert bool((labels_of(maps, (20, 36), order) == 0).all())
            maps = [torch.cat([m[:, :4] - 1, m[:, 4:]], 1) for m in maps]
            assert bool((labels_of(maps, (20, 36), order) == 4).all())


@pytest.mark.parametrize("special", [float("nan"), float("inf"), float("-inf"), 1e38, -3e38])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_numbers_that_are_not_finite(order, count, special, level):
    for classes in (1, 4, 40):
        maps = []
        for h, w in [(9, 13), (18, 26), (36, 26)][:count]:
            x = torch.zeros(2, classes, h, w)
            x[:, classes // 2] = 20.0
            x[0, classes - 1, h // 3, w // 3] = special
            x[1, 0, h // 2, w - 1] = special
            maps.append(x)
        for size in [(36, 52), (72, 130)]:
            with sx.use_backend("reference"):
                mean = sx.ops.multiscale_mean(maps, size, order=order)
                labels = sx.ops.multiscale_mean(maps, size, order=order, reduce="argmax")
            ours = mean_of(maps, size, order)
            assert torch.equal(torch.isnan(ours), torch.isnan(mean))
            if abs(special) != float("inf") and special == special:
                continue  # so near to overflow, which class is ahead is rounding's choice
            assert torch.equal(labels_of(maps, size, order), labels)


def test_only_minus_infinity(level):
    """The lowest class, unless the softmax is of nothing."""
    x = torch.full((1, 3, 5, 7), float("-inf"))
    assert bool((labels_of([x], (5, 7), "resize_then_softmax") == 0).all())
    assert bool((labels_of([x], (10, 14), "softmax_then_resize") == 255).all())
    x[:, 1] = -5.0
    assert bool((labels_of([x], (5, 7), "resize_then_softmax") == 1).all())
    assert bool((labels_of([x], (10, 14), "softmax_then_resize") == 1).all())


def test_softmax_errs_by_units_in_the_last_place(level):
    generator = torch.Generator().manual_seed(0)
    x = 30 * torch.randn(1, 5, 64, 64, generator=generator)
    x[0, 2, 0] = float("-inf")
    x[0, 1, 1] = 0.0
    p, expected = mean_of([x], (64, 64), "softmax_then_resize").double(), torch.softmax(x.double(), 1)
    shown = expected > 1e-36
    distance = x.double().max(1, keepdim=True)[0] - x.double()
    error = ((p - expected).abs() / expected)[shown]
    assert bool((error <= (10 + distance[shown]) * UNIT).all())
    assert bool((p[~shown] <= 2e-36).all()) and bool((p[0, 2, 0] == 0).all())


def test_empty_batches_and_results(level):
    x = torch.randn(0, 3, 4, 5)
    assert labels_of([x], (8, 10), "softmax_then_resize").shape == (0, 8, 10)
    x = torch.randn(1, 3, 4, 5)
    assert mean_of([x], (0, 10), "softmax_then_resize").shape == (1, 3, 0, 10)


def test_misuse_raises():
    x, out = torch.randn(1, 3, 4, 5), torch.empty(1, 8, 10, dtype=torch.uint8)
    workspace, _ = poisoned(cpu.multiscale_mean_workspace([x], ORDERS[0], out, 1))
    for logits, order, to, scratch, named in [
        ([], ORDERS[0], out, workspace, "logits"),
        ([x], "softmax", out, workspace, "order"),
        ([x, x[:, :2]], ORDERS[0], out, workspace, "logits"),
        ([x, x.bfloat16()], ORDERS[0], out, workspace, "logits"),
        ([x.half()], ORDERS[0], out, workspace, "logits"),
        ([x[:, :, ::2]], ORDERS[0], out, workspace, "logits"),
        ([x[:, :, :0]], ORDERS[0], out, workspace, "logits"),
        ([torch.randn(1, 256, 2, 2)], ORDERS[0], out, workspace, "logits"),
        ([x], ORDERS[0], out[:, ::2], workspace, "out"),
        ([x], ORDERS[0], out[0], workspace, "out"),
        ([x], ORDERS[0], torch.empty(1, 4, 8, 10), workspace, "out"),
        ([x], ORDERS[0], out, workspace[:-1], "workspace"),
        ([x], ORDERS[0], out, None, "workspace"),
    ]:
        with pytest.raises(ValueError, match=named):
            cpu.multiscale_mean(logits, order, to, scratch, 1)
    with pytest.raises(ValueError, match="threads"):
        cpu.multiscale_mean([x], ORDERS[0], out, workspace, 0)


def test_a_whole_image(level):
    """As a network gives them: five scales of a quarter of the size, and one."""
    generator = torch.Generator().manual_seed(0)
    coarse = 6 * torch.randn(1, 19, 5, 9, generator=generator)
    sizes = [(24, 48), (36, 72), (48, 96), (60, 120), (72, 144)]
    maps = [F.interpolate(coarse, s, mode="bilinear", align_corners=False) for s in sizes]
    maps = [(m + 0.1 * torch.randn(m.shape, generator=generator)) for m in maps]
    maps = [m.contiguous(memory_format=torch.channels_last) for m in maps]
    expected, _ = oracle.multiscale_mean([m.double() for m in maps], (192, 384), "softmax_then_resize")
    labels = labels_of(maps, (192, 384), "softmax_then_resize").long()
    differing = labels != expected.argmax(1)
    best = expected.topk(2, 1)[0]
    assert bool(((best[:, 0] - best[:, 1])[differing] <= 2 * allowed_error(maps, "softmax_then_resize")).all())
    expected = oracle.resize(maps[2].double(), (192, 384), "bilinear")
    labels = labels_of(maps[2:3], (192, 384), "resize_then_softmax").long()
    best = expected.topk(2, 1)[0]
    gap = 12 * UNIT * float(expected.abs().max())
    assert bool(((best[:, 0] - best[:, 1])[labels != expected.argmax(1)] <= gap).all())
