"""Which lines of device code ran, from gcov's counts of the coverage build."""

import json
import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Set, Tuple

from .builds import ROOT, Failure, folder, run

DEVICE = re.compile(r"__(device|global)__\b")


class Coverage(NamedTuple):
    ran: int
    lines: int
    missed: List[str]  # "map.cuh:12", and functions that no kernel uses

    @property
    def percent(self) -> float:
        return 100.0 * self.ran / self.lines


def forget() -> None:
    """Removes the counts of earlier runs."""
    for counts in folder("coverage").rglob("*.gcda"):
        counts.unlink()


def _reports() -> List[dict]:
    found = sorted(folder("coverage").rglob("*.gcda"))
    if not found:
        raise Failure("the coverage build wrote no counts; did any test run on it?")
    reports = []
    for counts in found:
        done = run(["gcov", "--json-format", "--stdout", counts], cwd=counts.parent)
        reports += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return reports


def _device_functions(path: Path) -> Set[int]:
    """The lines on which the definition of a device function begins, but for what the emulation has twins of."""
    found: Set[int] = set()
    branches: List[str] = []  # the conditions around a line
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("#if"):
            branches.append(line)
        elif line.startswith("#else") and branches:
            branches[-1] = {"#ifdef SWIFTNET_EMULATED": "#ifndef SWIFTNET_EMULATED"}.get(branches[-1], branches[-1])
        elif line.startswith("#endif") and branches:
            branches.pop()
        elif DEVICE.search(line) and not re.match("#|//|.*;$", line) and "#ifndef SWIFTNET_EMULATED" not in branches:
            found.add(number)
    return found


def measure() -> Coverage:
    """The lines inside __device__ and __global__ functions of csrc/kernels, in any instantiation, with lambdas in them."""
    kernels = ROOT / "csrc" / "kernels"
    declared = {p.resolve(): _device_functions(p) for p in kernels.rglob("*.cu*")}
    ranges: Dict[Path, Set[Tuple[int, int]]] = {}
    counts: Dict[Tuple[Path, int], int] = {}
    for report in _reports():
        for file in report["files"]:
            path = (Path(report["current_working_directory"]) / file["file"]).resolve()
            if path not in declared:
                continue
            for function in file["functions"]:
                # the name's line, or the line after a template's or an attribute's
                if {function["start_line"], function["start_line"] - 1} & declared[path]:
                    ranges.setdefault(path, set()).add((function["start_line"], function["end_line"]))
            for line in file["lines"]:
                key = path, line["line_number"]
                counts[key] = counts.get(key, 0) + line["count"]
    device = {
        (path, n): count for (path, n), count in counts.items() if any(a <= n <= b for a, b in ranges.get(path, ()))
    }
    missed = [f"{path.name}:{n}" for (path, n), count in sorted(device.items()) if count == 0]
    for path, lines in declared.items():
        starts = {start for start, _ in ranges.get(path, ())}
        missed += [f"{path.name}:{n} (never compiled)" for n in sorted(lines) if not {n, n + 1} & starts]
    unused = sum("never compiled" in m for m in missed)
    return Coverage(sum(count > 0 for count in device.values()), len(device) + unused, missed)
