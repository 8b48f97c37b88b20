"""Rows are backends: plain PyTorch always, the kernels of a GPU or of the CPU where they can run."""

import os

import pytest
import torch

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
os.environ.setdefault("SWIFTNET_EXT_EMULATION", os.path.join(ROOT, "build", "emulation"))


def _kernels():
    if torch.cuda.is_available():
        return ["cuda"]
    from swiftnet_ext.ops.backend import resolve

    return ["cpu"] if resolve("cpu", torch.device("cpu"), torch.float32)[0] is not None else []


BACKENDS = ["reference", *_kernels()]
_eager = {}


@pytest.fixture(params=BACKENDS)
def backend(request):
    """The row's backend, in force and strict."""
    import swiftnet_ext as sx

    with sx.use_backend(request.param, strict=True):
        yield request.param


@pytest.fixture
def device():
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def compared(benchmark):
    """compared(group, eager, run) times run() as a row of a group and gives its result.

    A row says how many times as fast it is as its group's eager row, which runs first.
    """

    def run_row(group, eager, run):
        benchmark.group = group
        y = run()
        if benchmark.stats is not None:  # absent under --benchmark-disable
            median = benchmark.stats["median"]
            if eager:
                _eager[group] = median
            if group in _eager:
                benchmark.extra_info["times_as_fast_as_eager"] = round(_eager[group] / median, 3)
        return y

    return run_row
