"""The native CPU kernels at each instruction set, for tests without an operator."""

import os

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


def aligned(count):
    """Uninitialised bytes at an address divisible by 64, as all of PyTorch's are on these machines; none beside them."""
    memory = torch.empty(count, dtype=torch.uint8)
    assert memory.data_ptr() % 64 == 0
    return memory
