"""Several processes over one list of pictures, each its share, and none twice when a process is started again."""

import hashlib
import json
import os
import socket
from pathlib import Path
from typing import Any, List, NamedTuple, Set

import torch

from .. import __version__

FOLDER = ".swiftnet"  # in the folder of results


class Worker(NamedTuple):
    """This process among those that torchrun, Lightning or the like started: number `rank` of `world`."""

    rank: int
    world: int
    local_rank: int
    restarted: bool

    @classmethod
    def of_environment(cls) -> "Worker":
        """By RANK, WORLD_SIZE and LOCAL_RANK; alone where they are not set.

        Raises:
            ValueError: they contradict each other.
        """
        rank, world, local_rank, restarts = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("TORCHELASTIC_RESTART_COUNT", 0))
        )
        if not 0 <= rank < world:
            raise ValueError(
                f"RANK={rank}: expected 0 to WORLD_SIZE - 1 = {world - 1}; start the processes by torchrun"
            )
        return cls(rank, world, local_rank, restarts > 0)


def settings_key(model: torch.nn.Module, options: Any) -> str:
    """What results depend on beside the picture, as a short name: the weights, the options and this package's version.

    Raises:
        TypeError: a network that `optimize` made, which keeps its weights elsewhere; take the one it was made from.
    """
    if not any(True for _ in model.parameters()):
        raise TypeError(f"settings_key: model: expected one with parameters, got {type(model).__name__}")
    digest = hashlib.sha256(json.dumps([__version__, repr(model), options], default=str).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


class Finished:
    """Which pictures' results lie in a folder, by files that only grow: one for each process and settings.

    Args:
        out: the folder of results.
        key: of the settings (settings_key); results of others do not count.
    """

    def __init__(self, out: Path, key: str) -> None:
        self._folder = out / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._folder / f"{key}-{socket.gethostname()}-{os.getpid()}.txt"
        self._known: Set[str] = set()
        for file in self._folder.glob(f"{key}-*.txt"):
            # a line without its end was being written when the process died
            self._known.update(line[:-1] for line in file.read_text().splitlines(True) if line.endswith("\n"))

    def holds(self, version: str, results: List[Path]) -> bool:
        """Whether this version of a picture was finished before, and its results are there as they were written then."""
        try:
            return _line(version, results) in self._known
        except OSError:
            return False

    def add(self, version: str, results: List[Path]) -> None:
        """To be called when the results are on the disk."""
        line = _line(version, results)
        with open(self._file, "a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


def version_of(source: Path) -> str:
    """A line that tells a picture, as it is now, from others. OSError: there is none."""
    return json.dumps([str(source.absolute()), *_state(source)])


def _line(version: str, results: List[Path]) -> str:
    """A picture with its results as they are now: another picture's, written over them since, are others."""
    return json.dumps([json.loads(version), *([path.name, *_state(path)] for path in results)])


def _state(path: Path) -> List[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]
