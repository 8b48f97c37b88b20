"""Every operator against the float64 oracle, on each backend, dtype, layout and variant, over the one list of shapes."""

import pytest
import torch

import swiftnet_ext as sx

from . import oracle
from .cases import CASES, COMBINATIONS, IDS
from .operator_case import DTYPES, FORMATS, SHAPES, bound, to_double

each_dtype = pytest.mark.each_dtype


def dtypes(test):
    return each_dtype(pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])(test))


formats = pytest.mark.parametrize("memory_format", FORMATS)
BY_NAME = dict(zip(IDS, CASES))


def is_channels_last(y):
    return y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous()


@each_dtype
@pytest.mark.parametrize("case, variant, dtype", COMBINATIONS)
@formats
def test_error_is_within_the_derived_bound(case, variant, dtype, memory_format, backend, device):
    for seed, shape in enumerate(case.shapes + case.wide_shapes):
        t = case.make(shape, variant, dtype, memory_format, device, seed)
        y = case.call(t, variant)
        value, magnitude, stored, allowed = bound(case, shape, t, variant, dtype)
        error = (y.double().cpu() - value).abs()
        assert y.dtype == dtype and y.shape == value.shape
        assert bool((error <= allowed).all()), "{}: error {:.3g}, allowed {:.3g}".format(
            shape, float(error.max()), float(allowed[error == error.max()].max())
        )
        with sx.use_backend("reference"):
            reference = case.call(t, variant)
        # PyTorch's own error twice, and the dtype's rounding: it may have hit a value that is exact in the dtype
        own = float((reference.double().cpu() - value).abs().max())
        floor = oracle.UNIT[dtype] * float(value.abs().max()) + 8 * oracle.UNIT[torch.float32] * float(magnitude.max())
        if (
            dtype is torch.bfloat16
        ):  # the native CPU kernels round between two of them, where PyTorch may have been lucky
            floor += float(torch.as_tensor(stored).max())
        assert case.in_half(variant, dtype) or float(error.max()) <= 2 * own + floor, shape
        assert y.stride() == reference.stride(), shape
        first = next(v for v in t.values() if isinstance(v, (torch.Tensor, list)))
        first = first[0] if isinstance(first, list) else first
        assert y.is_contiguous(
            memory_format=torch.channels_last if is_channels_last(first) else torch.contiguous_format
        )


def test_the_list_of_shapes_is_long_enough():
    assert len(set(SHAPES)) >= 60


@pytest.mark.parametrize("variant", BY_NAME["multiscale_mean"].variants)
@dtypes
@formats
def test_labels_are_a_class_of_the_largest_probability(variant, dtype, memory_format, backend, device):
    case = BY_NAME["multiscale_mean"]
    for seed, shape in enumerate(SHAPES):
        t = case.make(shape, variant, dtype, memory_format, device, seed)
        labels = case.call(t, variant, reduce="argmax")
        assert labels.dtype == torch.uint8 and tuple(labels.shape) == (shape[0],) + tuple(t["size"])
        if len(t["logits"]) == 1 and variant == "resize_then_softmax":
            value = oracle.resize(t["logits"][0].double().cpu(), t["size"], "bilinear")
            allowed = (16 + 6 * max(shape[3] + shape[4])) * oracle.UNIT[torch.float32] * value.abs().max()
        else:
            value, _, _, allowed = bound(case, shape, t, variant, torch.float32)
            allowed = allowed.max()
        chosen = value.gather(1, labels.long().cpu()[:, None])[:, 0]
        assert bool((chosen >= value.max(1)[0] - 2 * allowed).all()), shape


def _integers(low, high):
    def draw(*size):
        generator = torch.Generator().manual_seed(sum(size))
        return torch.randint(low, high + 1, size, generator=generator).float()

    return draw


# a softmax, and windows of unequal size
INEXACT = (BY_NAME["multiscale_mean"], BY_NAME["spatial_pyramid_pool"])
# power-of-two resizes and equal pooling windows: every intermediate is an integer, or a multiple of 1/16, below 2^11
EXACT_SHAPES = [
    (1, 1, 1, (1, 1), (2, 2)), (2, 3, 5, (4, 8), (8, 16)), (1, 4, 17, (8, 17), (16, 34)), (1, 2, 3, (6, 10), (12, 20)),
    (1, 3, 33, (3, 5), (12, 20)), (2, 4, 7, (9, 33), (18, 66)), (1, 4, 65, (2, 4), (2, 4)), (1, 1, 2, (5, 7), (10, 7)),
]  # fmt: skip


@each_dtype
@pytest.mark.parametrize("case, variant, dtype", [c for c in COMBINATIONS if c.values[0] not in INEXACT])
@formats
def test_exact_arithmetic_has_no_differing_bit(case, variant, dtype, memory_format, backend, device):
    if backend == "cpu" and variant.startswith("winograd"):
        pytest.skip("F(4×4) multiplies by fractions that are not of powers of two")
    for shape in EXACT_SHAPES:
        if dtype is torch.bfloat16 and shape[4][0] > 2 * shape[3][0]:
            continue  # what is resized by 4 are multiples of 1/64, more than its 8 bits
        t = case.make(shape, variant, dtype, memory_format, device, rand=_integers(-case.integers, case.integers))
        value, magnitude = case.expected(to_double(t), variant)
        assert float(magnitude.max()) <= 2048
        rounded = value.to(dtype)  # the one rounding; none in fp32
        assert torch.equal(case.call(t, variant).cpu(), rounded), shape


@dtypes
@formats
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_pyramid_pooling_is_exact_for_equal_windows(dtype, memory_format, mode, backend, device):
    case = BY_NAME["spatial_pyramid_pool"]
    shape = (2, 7, 22, (4, 4), (16, 32))  # cells of power-of-two size
    t = case.make(shape, mode, dtype, memory_format, device, rand=_integers(-1, 1))
    t["x"] = t["x"] * 128
    t["grids"] = [(16, 32), (4, 8), (8, 16), (1, 1)] if mode == "bilinear" else [(4, 8), (2, 4), (1, 1), (8, 8)]
    value, _ = case.expected(to_double(t), mode)
    assert torch.equal(case.call(t, mode).double().cpu(), value.to(dtype).double())
