"""What makes training on a CPU faster and changes no result beyond rounding."""

import ctypes
import ctypes.util
import dataclasses

import torch
from torch import Tensor, nn

from ..cpu import has_bf16_convolutions
from .config import Config

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def reuse_memory() -> None:
    """Has glibc keep freed memory: every step's maps would else come from the system anew, page by page.

    Elsewhere than on glibc it does nothing.
    """
    name = ctypes.util.find_library("c")
    mallopt = getattr(ctypes.CDLL(name), "mallopt", None) if name else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def with_precision_here(config: Config) -> Config:
    """The configuration as it is but where a CPU is to train in half precision: bf16-mixed then, which is what a CPU has,
    or 32-true where it has no bfloat16 convolutions."""
    run = config.run
    on_cpu = run.accelerator == "cpu" or (run.accelerator == "auto" and not torch.cuda.is_available())
    if run.precision == "32-true" or not on_cpu:
        return config
    run = dataclasses.replace(run, precision="bf16-mixed" if has_bf16_convolutions() else "32-true")
    return dataclasses.replace(config, run=run)


class StridedDepthwise(nn.Conv2d):
    """A depthwise convolution with a stride, which stays in fp32 under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float()).to(x.dtype)


def strided_depthwise_in_fp32(model: nn.Module) -> None:
    """Changes these convolutions' class, in place: oneDNN has no fast bf16 gradient of them (on an EPYC with AVX-512
    fp32's takes a third to an eighth of the time). Parameters and state-dict keys stay."""
    for module in model.modules():
        if type(module) is nn.Conv2d and 1 < module.groups == module.in_channels and module.stride != (1, 1):
            module.__class__ = StridedDepthwise
