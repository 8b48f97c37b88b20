"""Where figures come from, for the result files that hold them."""

import datetime
import platform
import re
import subprocess
from pathlib import Path
from typing import Any, Dict, Optional

import torch

from .. import __version__


def provenance(command: str, device: torch.device) -> Dict[str, Any]:
    """Device, date, commit, versions and command, for JSON."""
    return {
        "device": device_name(device),
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "version": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "command": command,
    }


def device_name(device: torch.device) -> str:
    """As folders of results are called: cpu-amd-epyc-2-cores, nvidia-h100-80gb-hbm3."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        cpuinfo = Path("/proc/cpuinfo")
        lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
        models = [line.split(":", 1)[1] for line in lines if line.startswith("model name")]
        name = f"cpu {models[0] if models else platform.machine()} {len(models) or 1} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def commit() -> Optional[str]:
    """The commit of this package's checkout, with "-dirty" where its files are changed; None where it is installed."""
    here = Path(__file__).resolve()
    try:
        subprocess.run(
            ["git", "ls-files", "--error-unmatch", here.name], cwd=here.parent, capture_output=True, check=True
        )
        describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(describe, cwd=here.parent, capture_output=True, check=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
