"""A benchmark's run: each row in a process of its own, with its own allocator settings; the file is whole after each row."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Union

import torch

from ...files import replacing
from ..provenance import provenance
from .plan import LEFT_OUT, TUNABLES, BenchmarkError, Case, Effort, case_of
from .row import Job
from .timing import Deadline

GRACE = 5.0  # seconds: a row that did not stop by itself is stopped
SLOW = {"compile"}  # takes half a minute to prepare, at every size and batch anew
LEAST = 8.0  # seconds that a row takes at least: it is not begun with less
NO_TIME = "no time left; --resume goes on"
SAME = ("device", "commit", "torch", "threads", "effort", "images")  # what rows of one file have in common


class Kernels(NamedTuple):
    """At which size and dtype the native kernels are measured."""

    width: int
    height: int
    dtype: str


class Plan(NamedTuple):
    """What the command was asked for."""

    cases: Sequence[Case]
    kernels: Sequence[Kernels]
    peers: Sequence[str]
    images: Sequence[str]
    threads: int
    effort: Effort
    seconds: Optional[float]  # for everything; None without a limit
    quick: bool  # every row gets a part of the time, so that each is measured; compilation at the most pixels alone
    command: str

    def peers_of(self, case: Case) -> List[str]:
        largest = max(c.width * c.height * c.batch for c in self.cases)
        small = self.quick and case.width * case.height * case.batch < largest
        return [peer for peer in self.peers if not (small and peer in SLOW)]

    def part(self, job: Union[Case, Kernels]) -> int:
        """Of the time that is left, beside the other jobs' parts."""
        return 5 if isinstance(job, Case) and set(self.peers_of(job)) & SLOW else 2


def new_file(plan: Plan) -> Dict[str, Any]:
    head = provenance(plan.command, torch.device(plan.cases[0].device))
    about = {"threads": plan.threads, "effort": list(plan.effort), "images": [Path(i).name for i in plan.images]}
    return {**head, **about, "tunables": TUNABLES, "rows": [], "kernels": []}


def begun(path: Path, plan: Plan) -> Dict[str, Any]:
    """A new file.

    Raises:
        BenchmarkError: in its place are measured rows, or another program's file.
    """
    if path.is_file():
        old = _read(path)
        if any(row["status"] == "measured" for row in old["rows"] + old["kernels"]):
            raise BenchmarkError(f"{path}: holds measured rows; go on with --resume, or name another folder by --out")
    return new_file(plan)


def resumed(path: Path, plan: Plan) -> Dict[str, Any]:
    """The file of an interrupted run, without the rows that are to be measured again; a new one where there is none.

    Its command and date are those of all the runs that its rows are of.

    Raises:
        BenchmarkError: it is no such file, or of another commit, device, PyTorch or effort.
    """
    new = new_file(plan)
    if not path.is_file():
        return new
    old = _read(path)
    for name in SAME:
        if old[name] != new[name]:
            raise BenchmarkError(
                f"{path}: --resume needs the same {name}, expected {new[name]}, got {old[name]}; name another folder by --out"
            )
    rows = [{**row, **case_of(row)._asdict()} for row in old["rows"]]
    return {
        **old,
        "rows": [row for row in rows if _is_complete(row, plan)],
        "command": _joined("; ", old["command"], plan.command),
        "date": _joined(", ", old["date"], new["date"]),
    }


def _joined(separator: str, known: str, added: str) -> str:
    """What rows of several runs come from, each once."""
    return separator.join(dict.fromkeys([*known.split(separator), added]))


def _read(path: Path) -> Dict[str, Any]:
    """
    Raises:
        BenchmarkError: it is no file of `write`.
    """
    try:
        found: Dict[str, Any] = json.loads(path.read_text())
        for name in (*SAME, "command", "date"):
            found[name]
        for row in found["rows"]:
            case_of(row), row["missing"], row["sides"]
        for row in found["rows"] + found["kernels"]:
            row["status"]
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(
            f"{path}: is no file of swiftnet benchmark ({type(error).__name__}: {error}); name another"
        )
    return found


def _is_complete(row: Dict[str, Any], plan: Plan) -> bool:
    """Measured, with every peer that is wanted now or the reason why not; a row that isn't wanted stays if measured."""
    if row["status"] != "measured" or case_of(row) not in plan.cases:
        return row["status"] == "measured"
    tried = {*row["sides"], *(peer for peer, why in row["missing"].items() if not why.startswith(LEFT_OUT))}
    no_time = any(why.startswith("NoTime") for why in row["missing"].values())
    return not no_time and tried >= set(plan.peers_of(case_of(row)))


def write(path: Path, report: Dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")


def environment(allocator: str) -> Dict[str, str]:
    """Of a row's process."""
    found = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if allocator == "tuned":
        found["GLIBC_TUNABLES"] = TUNABLES
    return found


def in_process(job: Dict[str, Any], allocator: str, seconds: Optional[float]) -> Dict[str, Any]:
    """A job's result, or {"reason": why there is none}. Its process and what that began are gone afterwards, also where
    this process is asked to end by SIGTERM."""
    with tempfile.TemporaryDirectory() as folder:
        told, result = Path(folder) / "job.json", Path(folder) / "result.json"
        told.write_text(json.dumps(job))
        command = [sys.executable, "-m", "swiftnet_ext.engine.benchmark.row", str(told), str(result)]
        with open(Path(folder) / "errors", "w+b") as errors, _Ending() as ending:
            process = subprocess.Popen(
                command, env=environment(allocator), stdout=errors, stderr=errors, start_new_session=True
            )
            try:
                ending.arm()
                process.wait(None if seconds is None else seconds + GRACE)
            except subprocess.TimeoutExpired:
                return {"reason": "stopped: it took more time than was left"}
            finally:
                _kill(process)
            if result.is_file():
                return json.loads(result.read_text())
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
        return {"reason": f"exit status {process.returncode}: {lines[-1][:300]}"}


class _Ending:
    """In this block SIGTERM ends this process by an exception, but not before `arm`: a process begun is known by then."""

    def __enter__(self) -> "_Ending":
        self._asked = self._armed = False
        self._before = signal.signal(signal.SIGTERM, self._end)
        return self

    def __exit__(self, *exception: Any) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _end(self, *_: Any) -> None:
        self._asked = True
        if self._armed:
            sys.exit(128 + signal.SIGTERM)

    def arm(self) -> None:
        self._armed = True
        if self._asked:
            self._end()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # it leads a group of its own, with compilers that it began
    process.wait()


def run(plan: Plan, path: Path, resume: bool, say: Callable[[str], None]) -> Dict[str, Any]:
    """Measures what `path` lacks and writes it anew after each row; `say` gets a line for each.

    Raises:
        BenchmarkError: of `resumed`, or without `resume` of `begun`.

    Rows for which no time is left are in the file as not measured, and --resume measures them.
    """
    report = resumed(path, plan) if resume else begun(path, plan)
    done = {case_of(row) for row in report["rows"]}
    there = {Kernels(row["width"], row["height"], row["dtype"]) for row in report["kernels"]}
    kernels = [where for where in plan.kernels if where not in there]
    wanted = [case for case in plan.cases if case not in done]
    deadline, jobs = Deadline(_end(plan.seconds)), len(kernels) + len(wanted)
    write(path, report)
    queue: List[Union[Case, Kernels]] = [*kernels, *wanted]
    for place, job in enumerate(queue):
        left = deadline.left() - GRACE
        part = plan.part(job) / sum(map(plan.part, queue[place:])) if plan.quick else 1.0
        seconds = None if plan.seconds is None else part * left
        enough = left >= LEAST
        if isinstance(job, Case):
            row = _measured(job, plan, seconds) if enough else {"reason": NO_TIME}
            if "reason" in row:
                row = {**job._asdict(), "status": "not measured", "reason": row["reason"], "sides": {}, "missing": {}}
            report["rows"].append(row)
            line = f"{job.title()}: {line_of(row)}"
        elif enough:
            line = _kernels_measured(job, plan, seconds, report)
        else:
            line = f"kernels: {NO_TIME}"
        write(path, report)
        say(f"[{place + 1}/{jobs}] {line}")
    return report


def _end(seconds: Optional[float]) -> Optional[float]:
    return None if seconds is None else time.monotonic() + seconds


def _measured(case: Case, plan: Plan, seconds: Optional[float]) -> Dict[str, Any]:
    job = Job(case, plan.peers_of(case), plan.images, plan.threads, plan.effort, _end(seconds))
    row = in_process(job._asdict(), case.allocator, seconds)
    if "missing" in row:
        row["missing"].update(
            {peer: f"{LEFT_OUT} at this size and batch" for peer in plan.peers if peer not in job.peers}
        )
    return row


def _kernels_measured(job: Kernels, plan: Plan, seconds: Optional[float], report: Dict[str, Any]) -> str:
    """Puts the kernels' rows into the report; gives a line that says them."""
    told = {**job._asdict(), "threads": plan.threads, "effort": plan.effort}
    found = in_process({"kernels": told}, "tuned", seconds)
    title = f"kernels {job.width}x{job.height} {job.dtype}"
    if "reason" in found:
        return f"{title}: not measured, {found['reason']}"
    report["kernels"] += found["rows"]
    times = [f"{r['kernel']} {r['of_floor']:.2f}" for r in found["rows"] if r["status"] == "measured"]
    said = [f"{', '.join(times)} times their floor (a copy of {found['copy_gbps']:.1f} GB/s)"] if times else []
    said += [f"{r['kernel']} not measured, {r['reason']}" for r in found["rows"] if r["status"] != "measured"]
    return f"{title}: {'; '.join(said)}"


def line_of(row: Dict[str, Any]) -> str:
    """A row in a line."""
    if not row["sides"]:
        return f"{row['status']}, {row.get('reason') or '; '.join(map(': '.join, row['missing'].items()))}"
    parts = [f"{name} {side['ms']:.1f} ms" for name, side in row["sides"].items()]
    parts += [f"{name} {reason}" for name, reason in row["missing"].items()]
    ratio = "" if row["ratio"] is None else f" (ours {row['ratio']:.2f} times as fast as {row['best_peer']})"
    return ", ".join(parts) + ratio
