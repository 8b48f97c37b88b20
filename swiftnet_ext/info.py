"""What would run here, and why: `python -m swiftnet_ext.info [--json]`."""

import argparse
import json
import platform
from typing import Any, Dict, List

import torch

from . import __version__, _native
from .cpu import cpu_name
from .nn import SpatialPyramidPooling, UpsampleBlend
from .nn.layers import BLENDS
from .ops import OPERATORS, current_backend
from .ops.backend import (
    CPU_DTYPES,
    KERNEL_DTYPES,
    TENSOR_CORE_DTYPES,
    capability_of,
    no_cpu_kernels,
    no_tensor_cores,
    resolve,
    tensor_cores_take,
)
from .ops.conv3x3 import RULE

TENSOR_CORE_OPERATORS = ("conv3x3", "conv3x3_with_sum", "conv3x3_head", "upsample_blend")


def _devices() -> List[Any]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.device("cpu")] + [torch.device("cuda", i) for i in range(count)]


def _device_name(device: torch.device) -> str:
    if device.type == "cpu":
        return cpu_name()
    major, minor = torch.cuda.get_device_capability(device)
    return "{}, compute capability {}.{}".format(torch.cuda.get_device_name(device), major, minor)


def _would_run_natively(op: str, backend: str, dtype: torch.dtype) -> Dict[str, str]:
    kernels, reason = _native.cpu()
    if dtype not in CPU_DTYPES or kernels is None:
        return {"runs": "reference", "reason": no_cpu_kernels(dtype) if dtype not in CPU_DTYPES else reason}
    any_layout = backend == "cpu" or op == "multiscale_mean"
    return {"runs": "native CPU kernel", "reason": "" if any_layout else "for channels_last maps, else plain PyTorch"}


def _cpu_kernels() -> Dict[str, Any]:
    """The instruction set of the native CPU kernels and others that they could use; whose threads they run on."""
    kernels, reason = _native.cpu()
    if kernels is None:
        return {"level": "", "levels": [], "thread_pool": "", "reason": reason}
    pool = kernels.thread_pool()
    reason = "" if pool else "PyTorch has loaded no OpenMP run time, so they run on one thread"
    return {"level": kernels.level(), "levels": kernels.levels(), "thread_pool": pool, "reason": reason}


def _would_run(op: str, device: torch.device, dtype: torch.dtype) -> Dict[str, str]:
    backend, _ = current_backend()
    if device.type == "cpu" and backend in ("auto", "cpu"):
        return _would_run_natively(op, backend, dtype)
    matrices = dtype is torch.bfloat16 and op in TENSOR_CORE_OPERATORS  # which nothing but tensor cores take
    module, reason = resolve(backend, device, dtype, TENSOR_CORE_DTYPES if matrices else KERNEL_DTYPES)
    if module is not None and matrices:
        capability = capability_of(module, device)
        if tensor_cores_take(dtype, capability):
            reason = "for channels_last maps with channels in eights, else plain PyTorch"
        else:
            module, reason = None, no_tensor_cores(dtype, capability)
    if module is not None:
        return {"runs": "emulated kernel" if backend == "emulated" else "CUDA kernel", "reason": reason}
    return {"runs": "reference", "reason": reason or "asked for"}


def _modules() -> Dict[str, str]:
    """The operators that each part of a network runs in eval mode, and what stays plain PyTorch."""
    parts = {
        "encoder": "no operator: plain PyTorch",
        "spatial pyramid pooling": SpatialPyramidPooling(8, 8).operators(),
    }
    for name, skip_channels in (("upsampling", 8), ("pyramid upsampling", None)):
        for blend in BLENDS:
            module = UpsampleBlend(8, skip_channels, blend=blend)
            parts["{}, {}".format(name, blend)] = module.operators()
    parts["pyramid laterals, generation 1"] = "conv3x3"
    parts["pyramid laterals, generation 2"] = "no operator: lateral_add's projection starts with a ReLU"
    parts["head, 1x1"], parts["head, 3x3"] = "lateral_add", "conv3x3"
    return parts


def collect() -> Dict[str, Any]:
    """Versions, the build, and for each device, operator and dtype what would run and why."""
    module, reason = _native.native()
    backend, strict = current_backend()
    build = module.build_info() if module is not None else {}
    return {
        "swiftnet_ext": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "native_module": getattr(module, "__file__", None),
        "native_module_reason": reason,
        "built_with_cuda": build.get("cuda_version", ""),
        "built_for_architectures": build.get("cuda_archs", "").split(),
        "no_kernels_reason": build.get("no_cuda_reason", ""),
        "cpu_kernels": _cpu_kernels(),
        "modules": _modules(),
        "conv3x3_algorithm": RULE,
        "backend": backend,
        "strict": strict,
        "devices": [
            {
                "device": str(device),
                "name": _device_name(device),
                "operators": {
                    op: {
                        str(dtype).replace("torch.", ""): _would_run(op, device, dtype)
                        for dtype in (torch.float32, torch.float16, torch.bfloat16)
                    }
                    for op in OPERATORS
                },
            }
            for device in _devices()
        ],
    }


def _text(info: Dict[str, Any]) -> str:
    kernels = "CUDA {} for {}".format(info["built_with_cuda"], " ".join(info["built_for_architectures"]))
    without = info["native_module_reason"] or "none: " + info["no_kernels_reason"]
    cpu = info["cpu_kernels"]
    threads = cpu["reason"] or "on the threads of {}".format(cpu["thread_pool"])
    of_cpu = "{} of {}; {}".format(cpu["level"], " ".join(cpu["levels"]), threads) if cpu["level"] else threads
    lines = [
        "swiftnet_ext {}   Python {}   PyTorch {}".format(info["swiftnet_ext"], info["python"], info["torch"]),
        "compiled module  {}".format(info["native_module"] or "none"),
        "CUDA kernels     {}".format(kernels if info["built_with_cuda"] else without),
        "CPU kernels      {}".format(of_cpu),
        "backend          {}{}".format(info["backend"], ", strict" if info["strict"] else ""),
        "conv3x3          {}".format(info["conv3x3_algorithm"]),
    ]
    for device in info["devices"]:
        lines += ["", "{} ({})".format(device["device"], device["name"])]
        for op, dtypes in device["operators"].items():
            for dtype, run in dtypes.items():
                reason = ": " + run["reason"] if run["reason"] else ""
                lines.append("  {:<22}{:<10}{}{}".format(op, dtype, run["runs"], reason))
    lines += ["", "operators in a network in eval mode"]
    lines += ["  {:<38}{}".format(part, operators) for part, operators in info["modules"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m swiftnet_ext.info", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    info = collect()
    print(json.dumps(info, indent=2) if parser.parse_args().json else _text(info))


if __name__ == "__main__":
    main()
