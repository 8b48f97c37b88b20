"""Sides in turns, so that what else a machine does meets all of them alike; what a call costs in time, faults and memory."""

import ctypes
import ctypes.util
import resource
import signal
import statistics
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch

from .plan import Effort

Call = Callable[[int], Any]


class Timed(NamedTuple):
    """Of one side: seconds of each sample, and page faults over `calls` calls."""

    samples: List[float]
    faults: int
    calls: int


class Deadline:
    """When to stop, by time.monotonic; never where end is None."""

    def __init__(self, end: Optional[float]) -> None:
        self._end = end

    def left(self) -> float:
        return float("inf") if self._end is None else self._end - time.monotonic()


class NoTime(Exception):
    """A side was left for want of time."""


class _TimeIsUp(BaseException):
    """No Exception, which a compiler would take for a fault of its own."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises NoTime in the block after so many seconds; in the main thread alone."""
    if seconds == float("inf") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
        yield
    except _TimeIsUp:
        raise NoTime("took more time than was left") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def users_turn(call: Call, count: int, batches: int, device: torch.device) -> List[float]:
    """Seconds of each call; a call's result is on the host when it returns."""
    samples = []
    for i in range(count):
        start = time.perf_counter()
        call(i % batches)
        samples.append(time.perf_counter() - start)
    return samples


def papers_turn(call: Call, count: int, batches: int, device: torch.device) -> List[float]:
    """One sample: synchronise, so many forward passes of the first batch, synchronise, divide."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(count):
        call(0)
    synchronise(device)
    return [(time.perf_counter() - start) / count]


TURNS = {"user": users_turn, "paper": papers_turn}


def in_turns(
    calls: Dict[str, Call], loop: str, batches: int, device: torch.device, effort: Effort, deadline: Deadline
) -> Tuple[Dict[str, Timed], Dict[str, str]]:
    """(times of every side, why others failed). In each round every side has a turn, in reversed order each second round.

    A turn begins with a call that is not timed, which brings its weights back into the caches. No turn begins after the
    deadline, and no further round that would end after it.
    """
    times = {name: Timed([], 0, 0) for name in calls}
    failed: Dict[str, str] = {}
    counts: Dict[str, int] = {}
    for number in range(effort.rounds):
        for name in list(calls) if number % 2 == 0 else list(reversed(calls)):
            if name in failed:
                continue
            if deadline.left() <= 0:
                if not times[name].samples:
                    failed[name] = "NoTime: no turn before the deadline"
                continue
            try:
                start = time.perf_counter()
                calls[name](0)
                synchronise(device)
                if name not in counts:
                    once = time.perf_counter() - start
                    counts[name] = max(1, min(effort.calls, int(effort.turn / once)))
                before = _faults()
                samples = TURNS[loop](calls[name], counts[name], batches, device)
                faults, sofar = _faults() - before, times[name]
                times[name] = Timed(sofar.samples + samples, sofar.faults + faults, sofar.calls + counts[name])
            except Exception as error:
                failed[name] = reason_of(error)
        round_seconds = sum(counts[n] * statistics.median(t.samples) for n, t in times.items() if t.samples)
        if deadline.left() < 1.3 * round_seconds:
            break
    return {name: t for name, t in times.items() if name not in failed}, failed


def reason_of(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no message'}"


def quartiles(samples: Sequence[float]) -> Tuple[float, float, float]:
    """(lower, median, upper)."""
    if len(samples) < 2:
        return samples[0], samples[0], samples[0]
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, median, high


class Memory:
    """What a side adds to the process, from before it is prepared to the most it takes in a call."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._before = self._now()

    def _now(self) -> Optional[int]:
        """Bytes in use, after freed memory went back to the system."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        trim = getattr(ctypes.CDLL(ctypes.util.find_library("c")), "malloc_trim", None)
        if trim is not None:
            trim(0)
        return _status("VmRSS")

    def added(self, call: Call) -> Optional[float]:
        """MiB, by one more call; None where the system does not tell."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            call(0)
            return (torch.cuda.max_memory_allocated(self.device) - (self._before or 0)) / 2**20
        self._now()
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        except OSError:
            return None
        call(0)
        peak = _status("VmHWM")
        return None if peak is None or self._before is None else (peak - self._before) / 2**20


def _status(field: str) -> Optional[int]:
    """Bytes, of /proc/self/status."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")]
    return found[0] if found else None
