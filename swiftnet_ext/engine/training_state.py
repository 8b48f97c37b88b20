"""Checkpoints of training: whole or not there, with a checksum, the last two kept.

A file is one line of text, `swiftnet_ext training 1 <sha256 of the rest>`, and what torch.save wrote.
"""

import hashlib
import io
import pickle
import random
import re
from pathlib import Path
from typing import Any, Dict, List, Optional, cast

import numpy as np
import torch

from ..files import replacing

KEPT = 2
_HEADER = b"swiftnet_ext training 1 "
_HEADER_LENGTH = len(_HEADER) + 64 + 1


class StateError(ValueError):
    """A training checkpoint that can't be used; the message names it, and the one to use instead where there is one."""


def write_state(folder: Path, step: int, state: Dict[str, Any]) -> Path:
    """Writes `folder/step_NNNNNNNN.ckpt` and removes all but the last two and itself.

    Args:
        folder: made if needed.
        step: of the optimizer; the name.
        state: tensors, numbers, strings, and lists, tuples and dictionaries of these.

    Raises:
        OSError: the file can't be written; older ones are untouched, and the newest is named.
    """
    buffer, path = io.BytesIO(), folder / f"step_{step:08d}.ckpt"
    torch.save(state, buffer)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            file.write(_HEADER + hashlib.sha256(buffer.getbuffer()).hexdigest().encode() + b"\n")
            file.write(buffer.getbuffer())
    except OSError as error:
        kept = newest(folder)
        cure = f"{kept} is whole: mend that and go on with --resume" if kept else "there is no older checkpoint"
        raise OSError(error.errno, f"{path}: can't be written ({error.strerror}); {cure}") from error
    for old in states(folder)[:-KEPT]:
        if old != path:
            old.unlink()
    return path


def set_aside(folder: Path, step: int) -> List[Path]:
    """Gives the checkpoints after a step another name, .ckpt.aside, and returns these: they are no longer the newest."""
    later = [path for path in states(folder) if int(path.stem[len("step_") :]) > step]
    return [path.replace(path.with_name(path.name + ".aside")) for path in later]


def states(folder: Path) -> List[Path]:
    """The checkpoints in a folder, the newest last."""
    numbered = [(re.fullmatch(r"step_(\d{8,})\.ckpt", p.name), p) for p in folder.glob("step_*.ckpt")]
    return [p for _, p in sorted((int(match[1]), p) for match, p in numbered if match)]


def read_state(path: Path) -> Dict[str, Any]:
    """What write_state wrote.

    Raises:
        StateError: the file is missing or damaged; an older, whole one is named where there is one.
    """
    try:
        return _read(path)
    except StateError as error:
        known = states(path.parent)
        for older in reversed(known[: known.index(path)] if path in known else known):
            try:
                _read(older)
            except StateError:
                continue
            raise StateError(f"{error}; {older} is whole: go on from there with --resume-from {older}")
        raise StateError(f"{error}; there is no older one: train anew")


def _read(path: Path) -> Dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StateError(f"{path}: can't be read ({error.strerror})")
    header, body = content[:_HEADER_LENGTH], memoryview(content)[_HEADER_LENGTH:]
    if not header.startswith(_HEADER):
        raise StateError(f"{path}: is no training checkpoint")
    if hashlib.sha256(body).hexdigest().encode() != header[len(_HEADER) : -1]:
        raise StateError(f"{path}: is damaged, its checksum differs")
    try:
        state: Dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise StateError(f"{path}: PyTorch's weights-only reader refuses it ({str(error).splitlines()[0]})")
    return state


def seed_all(seed: int) -> None:
    """Seeds all generators of random numbers."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_states() -> Dict[str, Any]:
    """The states of all generators of random numbers, as write_state takes them."""
    name, keys, *rest = cast(Any, np.random.get_state())
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (name, keys.tolist(), *rest),
        "python": random.getstate(),
    }


def restore_random_states(states: Dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    random.setstate(states["python"])


def newest(folder: Path) -> Optional[Path]:
    """The newest checkpoint's path; None where there is none."""
    found = states(folder)
    return found[-1] if found else None
