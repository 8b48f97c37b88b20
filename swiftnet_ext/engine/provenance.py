"""Where figures come from, for the result files that hold them."""

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any, Dict, Optional

import torch

from .. import __version__
from ..cpu import cpu_name


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
    """As folders of results are called: cpu-amd-epyc-avx2-2-cores, nvidia-h100-80gb-hbm3."""
    cpu = f"cpu {cpu_name()} {os.cpu_count() or 1} cores"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
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
