"""A run's folder: one process at a time, and no run is written over another."""

import errno
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


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
