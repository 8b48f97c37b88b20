"""What this machine's CPU is called, for timings hold for it alone, and what PyTorch does not run well on it."""

import platform
from pathlib import Path
from typing import Dict

import torch

# the best of them is named, by what Linux says of it
INSTRUCTION_SETS = (
    ("AMX", {"amx_tile", "amx_bf16"}),
    ("AVX-512 bf16", {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16"}),
    ("AVX-512", {"avx512f", "avx512bw", "avx512dq", "avx512vl"}),
    ("AVX2", {"avx2", "fma"}),
)


def cpu_name(path: Path = Path("/proc/cpuinfo")) -> str:
    """The model and its best instruction set, as "AMD EPYC, AVX2": virtual machines' models do not tell it."""
    lines = path.read_text().splitlines() if path.is_file() else []
    told: Dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        told.setdefault(key.strip(), value.strip())
    name = told.get("model name") or platform.machine()
    flags = set(told.get("flags", "").split())
    return ", ".join([name] + [known for known, needed in INSTRUCTION_SETS if needed <= flags][:1])


def has_bf16_convolutions() -> bool:
    """Whether PyTorch runs bfloat16 convolutions by oneDNN: with AVX-512, or AVX2 that converts bfloat16. Elsewhere
    its own loops do, which are slower than float32's."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return torch.backends.mkldnn.is_available() and supported is not None and bool(supported())
