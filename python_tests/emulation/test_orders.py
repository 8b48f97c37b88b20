"""Every operator in three orders of its threads: the same bits, and in the race build no conflicting access."""

import pytest
import torch
from core.ops import test_tensor_cores as tensor_cores
from core.ops.cases import CUDA_COMBINATIONS
from core.ops.operator_case import FORMATS

import swiftnet_ext as sx

# several tiles and slices of every kernel, none of them full
SHAPES = [(2, 9, 17, (5, 17), (9, 33)), (1, 17, 65, (2, 16), (3, 32)), (1, 33, 3, (6, 5), (18, 17))]


@pytest.mark.parametrize("case, variant, dtype", CUDA_COMBINATIONS)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_the_order_of_threads_changes_no_bit(case, variant, dtype, memory_format, emulation):
    for shape in SHAPES + list(case.wide_shapes[:2]):
        t = case.make(shape, variant, dtype, memory_format)
        check(lambda t=t: case.call(t, variant), emulation)
        if case.name == "multiscale_mean":
            check(lambda t=t: case.call(t, variant, reduce="argmax"), emulation)


@pytest.mark.parametrize("case", tensor_cores.CASES, ids=lambda c: c.__name__)
def test_tensor_cores_in_any_order(case, emulation):
    for shape in tensor_cores.SMALL:
        t = tensor_cores.arguments(case.names, shape, torch.float16, "cpu")
        check(lambda t=t: case.call(t), emulation)


def check(call, emulation):
    results = []
    for order, seed in (("forward", 1), ("reverse", 1), ("random", 1), ("random", 2)):
        emulation.options.order, emulation.options.seed = getattr(emulation.ThreadOrder, order), seed
        with sx.use_backend("emulated", strict=True):
            results.append(call())
    for other in results[1:]:
        assert torch.equal(results[0], other)
