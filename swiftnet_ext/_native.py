"""The one loader of the compiled modules: finds them, or keeps the reason why not.

`_C` is the compiled extension (with CUDA kernels, or without where no CUDA toolkit was present when it was built).
`_C_emulated` runs the same kernel source on a CPU; it is a development build, looked for in the folder that
SWIFTNET_EXT_EMULATION names and never part of a wheel. Loading either touches no GPU.
"""

import glob
import importlib
import importlib.util
import os
from typing import Any, Dict, Optional, Tuple

import torch

_loaded = {}  # type: Dict[str, Tuple[Any, str]]
_device_reasons = {}  # type: Dict[int, str]


def _load_native() -> Tuple[Any, str]:
    try:
        return importlib.import_module("swiftnet_ext._C"), ""
    except ImportError as error:
        cure = "start Python outside the source tree, or reinstall swiftnet_ext"
        return None, "the compiled module swiftnet_ext._C could not be imported ({}); {}".format(error, cure)


def _load_emulated() -> Tuple[Any, str]:
    folder = os.environ.get("SWIFTNET_EXT_EMULATION", "")
    if not folder:
        return (
            None,
            "no emulated build: make it with `cmake --preset emulation` and name its folder in SWIFTNET_EXT_EMULATION",
        )
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    found = [p for p in sorted(glob.glob(os.path.join(folder, "_C_emulated*"))) if p.endswith(tuple(suffixes))]
    if not found:
        return None, "SWIFTNET_EXT_EMULATION={!r} holds no _C_emulated module for this Python".format(folder)
    try:
        spec = importlib.util.spec_from_file_location("_C_emulated", found[-1])
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module, ""
    except ImportError as error:
        return None, "{} could not be imported: {}".format(found[-1], error)


def _get(name: str, load: Any) -> Tuple[Any, str]:
    if name not in _loaded:
        _loaded[name] = load()
    return _loaded[name]


def native() -> Tuple[Optional[Any], str]:
    """(module, "") or (None, why not)."""
    return _get("native", _load_native)


def emulated() -> Tuple[Optional[Any], str]:
    """(module, "") or (None, why not)."""
    return _get("emulated", _load_emulated)


def cpu() -> Tuple[Optional[Any], str]:
    """(the native CPU kernels, "") or (None, why not)."""
    module, reason = native()
    kernels = getattr(module, "cpu", None)
    if module is not None and kernels is None:
        reason = "the compiled module swiftnet_ext._C has no native CPU kernels; reinstall swiftnet_ext"
    return kernels, reason


def cuda(device_index: int) -> Tuple[Optional[Any], str]:
    """The module whose kernels run on this CUDA device, or (None, why not). Asks the device once."""
    module, reason = native()
    if module is None:
        return None, reason
    build = module.build_info()
    if not build["cuda_version"]:
        return None, "built without CUDA kernels: " + build["no_cuda_reason"]
    if device_index not in _device_reasons:
        _device_reasons[device_index] = module.why_not_on_device(device_index)
    reason = _device_reasons[device_index]
    if reason:
        return None, "{} (built with CUDA {} for {})".format(reason, build["cuda_version"], build["cuda_archs"])
    return module, ""


def current_stream(device: torch.device) -> int:
    """The address of the current CUDA stream of a tensor's device; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.current_stream(device).cuda_stream)
