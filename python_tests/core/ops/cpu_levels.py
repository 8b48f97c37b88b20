"""The native CPU kernels at each instruction set, for tests without an operator."""

import os

import pytest
import torch

from swiftnet_ext import _native

# How many elements a test puts around what it gives to a kernel. None under AddressSanitizer, which watches all that is
# outside a tensor's memory, but nothing inside it.
GUARD = 0 if "libasan" in os.environ.get("LD_PRELOAD", "") else 4096


def native():
    """`_C.cpu`; that it is not there is an error, not a skip."""
    kernels, reason = _native.cpu()
    assert kernels is not None, reason
    return kernels


def of_all_levels():
    """(kernels, level) of all that this CPU runs, and of what the emulated module has beside them."""
    modules, found = [native(), getattr(_native.emulated()[0], "cpu", None)], {}
    for module in modules:
        for level in module.levels() if module is not None else ():
            found.setdefault(level, module)
    return [(module, level) for level, module in found.items()]


def fixture_at_each_level():
    """The fixture `cpu`: `_C.cpu` at each of these."""
    modules = of_all_levels()

    @pytest.fixture(params=modules, ids=[level for _, level in modules])
    def cpu(request):
        module, level = request.param
        module.use_level(level)
        yield module
        module.use_level(module.levels()[0])

    return cpu


def random_map(generator, *shape, dtype):
    """[N, C, H, W], dense channels_last."""
    return torch.randn(*shape, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)


def aligned(count):
    """Uninitialised bytes at an address divisible by 64, as all of PyTorch's are on these machines; none beside them."""
    memory = torch.empty(count, dtype=torch.uint8)
    assert memory.data_ptr() % 64 == 0
    return memory
