"""Which implementation runs: the choice of a backend, its reasons, and the one warning where a kernel can't run."""

import os
import threading
import warnings
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor

from .. import _native

BACKENDS = ("auto", "reference", "cpu", "emulated", "cuda")
KERNEL_DTYPES = (torch.float32, torch.float16)
CPU_DTYPES = (torch.float32, torch.bfloat16)


class BackendError(RuntimeError):
    """Strict mode: the kernel that was asked for can't run; the message says why."""


class _Setting:
    def __init__(self, backend: str, strict: bool) -> None:
        self.backend = backend
        self.strict = strict


def _checked(backend: Any, source: str) -> str:
    if backend not in BACKENDS:
        raise ValueError("{}: expected one of {}, got {!r}".format(source, ", ".join(BACKENDS), backend))
    return str(backend)


def _truth(text: str) -> bool:
    return text.strip().lower() not in ("", "0", "false", "no", "off")


_setting = _Setting(
    _checked(os.environ.get("SWIFTNET_EXT_BACKEND", "auto") or "auto", "SWIFTNET_EXT_BACKEND"),
    _truth(os.environ.get("SWIFTNET_EXT_STRICT", "")),
)
_warned = set()  # type: Set[str]


class use_backend:
    """Choose what the operators run on: for good when called, or for a block when used as a context.

    Args:
        name: "auto" (CUDA kernels for CUDA tensors; for CPU tensors the native kernels where the first map is
            channels_last, float32 or bfloat16, or the operator is multiscale_mean, else the reference), "reference"
            (plain PyTorch), "cpu" (native CPU kernels, for any layout), "emulated" (the CUDA source on a CPU, a
            development build) or "cuda".
        strict: where the kernel asked for can't run, raise BackendError instead of warning once and running the
            reference. float64 runs the reference by definition and never raises.

    The setting holds for the whole process, all threads included (autograd runs backward passes in threads of its
    own). The environment variables SWIFTNET_EXT_BACKEND and SWIFTNET_EXT_STRICT give the setting at import.

    Raises:
        ValueError: for a name that is not a backend.
    """

    def __init__(self, name: str, strict: bool = False) -> None:
        global _setting
        self._previous = _setting
        _setting = _Setting(_checked(name, "use_backend: name"), bool(strict))

    def __enter__(self) -> "use_backend":
        return self

    def __exit__(self, *exception: Any) -> None:
        global _setting
        _setting = self._previous


_REFERENCE = _Setting("reference", False)
_here = threading.local()


class reference_in_this_thread:
    """A block in which this thread's operators run the reference, whatever is set and whatever other threads do; not those
    that autograd runs in threads of its own."""

    def __enter__(self) -> None:
        self._previous = getattr(_here, "setting", None)
        _here.setting = _REFERENCE

    def __exit__(self, *exception: Any) -> None:
        _here.setting = self._previous


def _in_force() -> _Setting:
    return getattr(_here, "setting", None) or _setting


def current_backend() -> Tuple[str, bool]:
    """(name, strict) as last set."""
    setting = _in_force()
    return setting.backend, setting.strict


def resolve(
    backend: str, device: torch.device, dtype: torch.dtype, dtypes: Sequence[torch.dtype] = KERNEL_DTYPES
) -> Tuple[Optional[Any], str]:
    """(compiled module, "") if a backend's kernels take tensors like these, else (None, reason).

    An empty reason means that the reference is what the backend stands for, not a fallback. What "auto" runs CPU
    tensors on is not said here but by `native_cpu.kernels_for`.
    """
    if backend == "reference" or dtype == torch.float64 or (backend == "auto" and device.type == "cpu"):
        return None, ""
    if backend == "cpu":
        if device.type != "cpu":
            return None, "the native CPU kernels take CPU tensors, not {}".format(device.type)
        if dtype not in CPU_DTYPES:
            return None, no_cpu_kernels(dtype)
        return _native.cpu()
    if backend == "emulated":
        if device.type != "cpu":
            return None, "the emulated kernels take CPU tensors, not {}".format(device.type)
        module, reason = _native.emulated()
    elif device.type != "cuda":
        return None, "the CUDA kernels take CUDA tensors, not {}".format(device.type)
    else:
        module, reason = _native.cuda(device.index or 0)
    if module is not None and dtype not in dtypes:
        return None, "the kernels take float32 and float16, not {}".format(str(dtype).replace("torch.", ""))
    return module, reason


def no_cpu_kernels(dtype: torch.dtype) -> str:
    """Why the native CPU kernels don't take a dtype."""
    return "the native CPU kernels take float32 and bfloat16, not {}".format(str(dtype).replace("torch.", ""))


def kernels_for(op: str, x: Tensor, limit: str = "", dtypes: Sequence[torch.dtype] = KERNEL_DTYPES) -> Optional[Any]:
    """The compiled module to call for this operator and tensor, or None for the reference.

    `limit` says what the kernel can't do with these arguments, if anything; `dtypes` are those that it takes. Falling
    back warns once for each operator and reason, or raises BackendError in strict mode.
    """
    setting = _in_force()
    module, reason = resolve(setting.backend, x.device, x.dtype, dtypes)
    if module is not None and not limit:
        return module
    reason = reason or (limit if module is not None else "")
    if reason:
        message = "swiftnet_ext.{}: the kernel can't run here: {}".format(op, reason)
        if setting.strict:
            raise BackendError(message)
        if message not in _warned:
            _warned.add(message)
            warnings.warn(message + "; plain PyTorch runs instead (this is said once)", RuntimeWarning, stacklevel=2)
    return None


_capabilities = {}  # type: Dict[Optional[int], Tuple[int, int]]


def capability_of(kernels: Any, device: torch.device) -> Tuple[int, int]:
    """(major, minor) of the architecture whose code runs on a device; the emulation stands for a GTX 1080 Ti.

    It is below the GPU's own where this runs code for another, e.g. PTX of compute_61.
    """
    if device.type != "cuda":
        return 6, 1
    if device.index not in _capabilities:
        _capabilities[device.index] = divmod(kernels.kernel_architecture(device.index), 10)
    return _capabilities[device.index]


TENSOR_CORE_DTYPES = (torch.float16, torch.bfloat16)


def tensor_cores_take(dtype: torch.dtype, capability: Tuple[int, int]) -> bool:
    """Whether code for this architecture has the tensor cores' kernels of a dtype."""
    return (dtype is torch.float16 and capability >= (7, 5)) or (dtype is torch.bfloat16 and capability >= (8, 0))


def no_tensor_cores(dtype: torch.dtype, capability: Tuple[int, int]) -> str:
    """Why code for this architecture does not."""
    return "tensor cores take {} from compute capability {} on; the kernels here are for {}.{}".format(
        str(dtype).replace("torch.", ""), "8.0" if dtype is torch.bfloat16 else "7.5", *capability
    )


def parameters(*vectors: Optional[Tensor]) -> List[Optional[Tensor]]:
    """Biases and affines as all kernels read them: contiguous, and float32 where they were bfloat16."""
    return [None if v is None else (v.float() if v.dtype is torch.bfloat16 else v).contiguous() for v in vectors]


def fits_tensor_cores(*maps: Optional[Tensor]) -> bool:
    """Whether these maps, as far as there are any, are such as the tensor cores' kernels take: half precision,
    channels_last, channels in eights, aligned to 16 bytes, rows of at most 2^25 elements."""
    for m in maps:
        if m is not None and not (
            m.dtype in TENSOR_CORE_DTYPES
            and m.shape[1] % 8 == 0
            and m.is_contiguous(memory_format=torch.channels_last)
            and m.data_ptr() % 16 == 0
            and m.shape[1] * m.shape[3] <= 1 << 25
        ):
            return False
    return True


def allocated(op: str, size: int, device: torch.device, make: Callable[[], Tensor]) -> Tensor:
    """What `make` allocates, `size` bytes of memory that an operator needs beside its tensors.

    Raises:
        RuntimeError: there is not so much (on a GPU PyTorch's own OutOfMemoryError); nothing has been launched.
    """
    try:
        return make()
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        message = (
            "swiftnet_ext.{}: no memory for its workspace of {:.1f} MiB on {}; use a smaller batch or smaller maps"
        )
        raise type(error)("{} ({})".format(message.format(op, size / 2.0**20, device), error))


def workspace(op: str, floats: int, device: torch.device) -> Tensor:
    """fp32 memory that a kernel needs beside its tensors, [floats], uninitialised; errors as those of `allocated`."""
    return allocated(op, floats * 4, device, lambda: torch.empty(floats, dtype=torch.float32, device=device))
