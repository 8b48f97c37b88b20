"""The native CPU kernels at each instruction set, for tests without an operator."""

import torch

from swiftnet_ext import _native


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
    """Uninitialised bytes at an address divisible by 64."""
    memory = torch.empty(count + 64, dtype=torch.uint8)
    start = -memory.data_ptr() % 64
    return memory[start : start + count]
