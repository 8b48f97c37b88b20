"""The whole Python-side cost of a call: checks, dispatch, allocation, the native boundary, and no kernel.

An empty batch goes through all of it and launches nothing. The emulated module stands for the CUDA one: they are the
same bindings.
"""

import torch

import swiftnet_ext as sx
from swiftnet_ext import ops


def bench_call_overhead(benchmark):
    x, skip, weight = torch.zeros(0, 8, 4, 4), torch.zeros(0, 8, 8, 8), torch.zeros(8, 8, 3, 3)
    bias, scale, shift = torch.zeros(8), torch.ones(8), torch.zeros(8)
    with sx.use_backend("emulated", strict=True), torch.inference_mode():
        y = benchmark(lambda: ops.upsample_add_conv3x3(x, skip, weight, bias, scale=scale, shift=shift))
    assert y.shape == (0, 8, 8, 8)
