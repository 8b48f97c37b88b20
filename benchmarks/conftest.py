"""Rows are backends: plain PyTorch always, the CUDA kernels where a GPU is at hand."""

import os

import pytest
import torch

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
os.environ.setdefault("SWIFTNET_EXT_EMULATION", os.path.join(ROOT, "build", "emulation"))

BACKENDS = ["reference"] + (["cuda"] if torch.cuda.is_available() else [])


@pytest.fixture(params=BACKENDS)
def backend(request):
    """The row's backend, in force and strict."""
    import swiftnet_ext as sx

    with sx.use_backend(request.param, strict=True):
        yield request.param


@pytest.fixture
def device():
    return "cuda" if torch.cuda.is_available() else "cpu"
