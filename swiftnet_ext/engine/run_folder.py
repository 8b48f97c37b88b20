"""A run's folder: one process at a time, and no run is written over another."""

import errno
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional

from .training_state import newest

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CHECKPOINTS = "checkpoints"
LOCK = ".lock"
WEIGHTS = ("weights.safetensors", "best.safetensors")


class RunError(ValueError):
    """A run that can't start or go on; the message says why, and the cure."""


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Within the block no other process has this folder, which is made if needed; where files can't be locked, they may.

    A lock of this kind ends with the process, and is not of those that it forks: they may outlive it.

    Raises:
        RunError: another process has the folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open(out / LOCK, "w") as file:
        try:
            if fcntl is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise RunError(f"{out}: another process trains there; wait for its end, or name another folder")
        yield


def start_of(out: Path, resume: bool, resume_from: Optional[Path]) -> Optional[Path]:
    """The checkpoint that a run in this folder starts from; None where it begins anew.

    Raises:
        RunError: it would write over another run.
    """
    own = newest(out / CHECKPOINTS)
    if resume_from is not None and resume_from.resolve().parent == (out / CHECKPOINTS).resolve():
        return resume_from
    if resume and resume_from is None and own is not None:
        return own
    if own is not None:
        raise RunError(f"{out}: holds a run; go on with --resume, or name another folder by --out")
    # a run that is to go on and whose first checkpoint failed has metrics alone
    for name in WEIGHTS if resume else (*WEIGHTS, "metrics.csv"):
        if (out / name).exists():
            raise RunError(f"{out}: holds a run's {name} and no checkpoint of it; name another folder by --out")
    return resume_from
