"""What this machine's CPU is called: timings hold for it alone."""

import platform
from pathlib import Path
from typing import Dict

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
