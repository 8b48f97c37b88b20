"""What runs a step, measured once for each device and shape and kept in a file.

The file is ~/.cache/swiftnet_ext/choices.json (under XDG_CACHE_HOME where that is set), or what SWIFTNET_EXT_CHOICES
names; SWIFTNET_EXT_CHOICES=off measures nothing: each step's stated rule decides.
"""

import json
import os
import statistics
import time
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Set, Tuple

import torch

from .. import __version__
from ..cpu import cpu_name
from ..files import replacing

VARIABLE = "SWIFTNET_EXT_CHOICES"
ROUNDS, LEAST_SECONDS = 5, 1e-3  # of timing a candidate: rounds, and how long one at least runs
HOPELESS = 2  # times as slow as the fastest at the first look: not timed further
GAIN = 1.03  # by which a candidate must beat the rule's: less is noise


class Choice(NamedTuple):
    """What was chosen, and why."""

    name: str
    why: str


def device_name(device: torch.device) -> str:
    """What timings hold for: the GPU's or the CPU's name, and how many threads of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


def choices_path() -> Optional[Path]:
    """The file of choices; None where measuring is switched off. It begins with ~ where there is no such home folder."""
    named = os.environ.get(VARIABLE, "")
    if named.strip().lower() in ("off", "0", "no", "false"):
        return None
    if named:
        return Path(os.path.expanduser(named))
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(cache) / "swiftnet_ext" / "choices.json"


_warned: Set[Tuple[Path, str]] = set()


def _warn_once(path: Path, what: str) -> None:
    if (path, what) not in _warned:
        _warned.add((path, what))
        warnings.warn(f"swiftnet_ext.optimize: {path}: {what}; {VARIABLE} names another", RuntimeWarning, stacklevel=3)


def read_choices(path: Path) -> Optional[Dict[str, Dict[str, Dict[str, float]]]]:
    """{device and versions: {step: {candidate: milliseconds}}}; empty where the file is absent, None where it holds
    something else."""
    try:
        content = json.loads(path.read_text())
        for steps in content.values():
            for timings in steps.values():
                if not timings or not all(isinstance(ms, (int, float)) for ms in timings.values()):
                    raise ValueError("a step has no timings")
        return dict(content)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        _warn_once(path, f"can't be read as choices ({error}), they are measured anew and not kept; delete it")
        return None


def _milliseconds(candidates: Dict[str, Callable[[], Any]], device: torch.device) -> Dict[str, float]:
    """Medians of rounds in which the candidates alternate."""

    def timed(run: Callable[[], Any], count: int) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(count):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - start) / count

    found: Dict[str, List[float]] = {}
    for name, run in candidates.items():
        run()
        found[name] = [timed(run, 1)]
    first = {name: max(seconds[0], 1e-6) for name, seconds in found.items()}
    hopeful = [name for name in candidates if first[name] <= HOPELESS * min(first.values())]
    for _ in range(ROUNDS if len(hopeful) > 1 else 0):
        for name in hopeful:
            found[name].append(timed(candidates[name], max(1, min(50, round(LEAST_SECONDS / first[name])))))
    return {name: round(1e3 * statistics.median(seconds), 4) for name, seconds in found.items()}


class Choices:
    """The choices of one device; `pick` measures what is not in the file yet, `save` writes what was measured.

    measure: False leaves to the rules what is not in the file.
    """

    def __init__(self, device: torch.device, measure: bool = True) -> None:
        self.device, self.path, self.measure = device, choices_path(), measure
        self.where = f"{device_name(device)}; PyTorch {torch.__version__}; swiftnet_ext {__version__}"
        self.known = {} if self.path is None else (read_choices(self.path) or {}).get(self.where, {})
        self.measured: Dict[str, Dict[str, float]] = {}

    def pick(self, step: str, candidates: Dict[str, Callable[[], Any]], rule: Tuple[str, str]) -> Choice:
        """The fastest candidate of a step by its key (what it is, its shape, its dtype).

        Where there is but one, it; the rule's (candidate, reason) where measuring is off, or none is clearly faster.
        """
        if len(candidates) == 1:
            return Choice(next(iter(candidates)), "the only one that can run it")
        if self.path is None:
            return Choice(rule[0], f"{rule[1]}; not measured, {VARIABLE} is off")
        timings = self.known.get(step, {})
        if set(timings) != set(candidates):
            if not self.measure:
                return Choice(rule[0], f"{rule[1]}; not measured")
            timings = self.known[step] = self.measured[step] = _milliseconds(candidates, self.device)
        ordered = sorted(timings, key=lambda name: timings[name])
        told = ", ".join(f"{name} {timings[name]:.3g} ms" for name in ordered)
        return Choice(rule[0] if timings[rule[0]] <= GAIN * timings[ordered[0]] else ordered[0], told)

    def save(self) -> None:
        """Adds what was measured to the file, which is replaced as a whole: what another process adds at the same moment may
        be lost, and is measured again. A file that can't be written, or holds something else, is left: what was measured
        is then not tried again."""
        if self.path is None or not self.measured:
            return
        measured, self.measured = self.measured, {}
        try:
            if str(self.path).startswith("~"):
                raise OSError("there is no such home folder")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            content = read_choices(self.path)
            if content is None:
                return
            content.setdefault(self.where, {}).update(measured)
            with replacing(self.path) as temporary:
                temporary.write_text(json.dumps(content, indent=1, sort_keys=True))
        except OSError as error:
            _warn_once(
                self.path, f"can't be written ({error.strerror or error}), choices are measured in every process"
            )
