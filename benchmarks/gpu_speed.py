"""Times operators and whole networks on a GPU against what a user would pick instead, and writes it down.

    python benchmarks/gpu_speed.py [--out DIR] [--quick] [--limit SECONDS] [--rows REGEX] [--resume]

Writes gpu_speed.json and gpu_speed.csv, anew after each row, and the chart gpu_speed.png to DIR
(benchmarks/results/<the GPU's name>). Fails if a result of ours is wrong. docs/gpu_report.md says how to read them.
"""

import argparse
import csv
import dataclasses
import datetime
import io
import json
import math
import platform
import re
import shlex
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Callable, ContextManager, Dict, List, NamedTuple, Tuple

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import fp32_without_tf32, load_device  # noqa: E402
from benchmarks.gpu_cases import OPERATORS, Call, Case, cases, title  # noqa: E402
from benchmarks.gpu_report import CUDA_DEVICE, commit, results_folder, write  # noqa: E402
from benchmarks.simt import eager, kernels  # noqa: E402
from swiftnet_ext import ops  # noqa: E402
from swiftnet_ext.ops import backend  # noqa: E402

PEERS = ("eager", "compile", "eager_graph", "compile_graph")
OURS = ("kernels", "kernels_graph")
# beside eager fp32 every side may differ by the larger of this and twice what eager differs by in the row's dtype
ALLOWED_ERROR = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}  # of maps, by their largest magnitude
ALLOWED_UNEQUAL = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}  # share of the pixels of labels
COLUMNS = [
    "name", "size", "batch", "dtype", "layout", "status", "ours", "ours_ms", "peer", "peer_ms", "speedup",
    *(f"{side}_{clock}_ms" for side in PEERS + OURS for clock in ("kernel", "wall")),
    "error", "eager_error", "equal", "eager_equal", "gbps", "of_copy", "tflops", "of_matrix",
    "fallbacks", "not_measured", "reason",
]  # fmt: skip
FALLBACK = re.compile(r"swiftnet_ext\.(\w+): the kernel can't run here: (.*); plain PyTorch runs")
Row = Dict[str, object]


class Side(NamedTuple):
    context: Callable[[], ContextManager[None]]
    call: Call


def difference(y: Tensor, expected: Tensor) -> float:
    """The share of unequal pixels of labels; of maps the largest error by the largest magnitude."""
    if expected.dtype == torch.uint8:
        return (y != expected).float().mean().item()
    return ((y.float() - expected.float()).abs().max() / expected.float().abs().max()).item()


def reason_of(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"


def prepare(device, ours: Call, plain: Call, expected: Tensor) -> Tuple[Dict[str, Side], Dict[str, float], Row]:
    """(sides, what each one's result differs by, why others can't be had), every side run once.

    A graph is made of what its plain side calls, so there is none where that one can't be had.
    """
    sides: Dict[str, Side] = {}
    differences: Dict[str, float] = {}
    missing: Row = {}
    for name in PEERS + OURS:
        base = name.replace("_graph", "")
        context = eager if base != "kernels" else lambda: kernels(device, strict=False)
        if base in missing:
            missing[name] = f"{base} is missing"
            continue
        try:
            with context():
                if name == base:
                    call = ours if name == "kernels" else plain if name == "eager" else device.compile(plain)
                    y = call()
                else:
                    call, y = device.capture(sides[base].call)
                    y.zero_()  # so that only a replay can make it right
                    call()
                differences[name] = difference(y, expected)
            sides[name] = Side(context, call)
        except Exception as error:
            missing[name] = reason_of(error)
    return sides, differences, missing


def take_times(device, sides: Dict[str, Side], missing: Row, quick: bool) -> Row:
    """Milliseconds of every side, in turns: the medians of the rounds' medians. A side that fails is taken out."""
    times: Dict[str, List[Tuple[float, float]]] = {name: [] for name in sides}
    repeats: Dict[str, int] = {}
    for _ in range(2 if quick else 5):
        for name, (context, call) in list(sides.items()):
            try:
                with context():
                    if name not in repeats:
                        once = device.microseconds(call, 1, warm_up=1)
                        repeats[name] = max(1, min(3 if quick else 20, int(50_000 / once)))
                    n = repeats[name]
                    kernel, wall = device.microseconds(call, n, warm_up=min(n, 5)), device.wall_microseconds(call, n)
                    times[name].append((kernel, wall))
            except Exception as error:
                missing[name] = reason_of(error)
                del sides[name]
    columns = {}
    for name in sides:
        for clock, rounds in zip(("kernel", "wall"), zip(*times[name])):
            columns[f"{name}_{clock}_ms"] = statistics.median(rounds) / 1000
    return columns


def rates(case: Case, milliseconds: float, peaks: Dict[str, float]) -> Row:
    """What an operator reaches of the GPU's measured rates."""
    cost = case.cost()
    gbps, tflops = cost.bytes / milliseconds / 1e6, 2 * cost.products / milliseconds / 1e9
    columns = {"gbps": gbps, "of_copy": gbps / peaks["copy_gbps"]}
    if cost.products:
        columns.update(tflops=tflops, of_matrix=tflops / peaks[f"{str(case.dtype)[6:]}_tflops"])
    return columns


def measure(device, case: Case, peaks: Dict[str, float], quick: bool) -> Row:
    """A row: times, what the results differ by, and what could not be measured for which reason."""
    row: Row = case.columns()
    try:
        with eager():
            expected = dataclasses.replace(case, dtype=torch.float32).build(device.device)[1]()
        ours, plain = case.build(device.device)
    except Exception as error:
        return {**row, "status": "not measured", "reason": reason_of(error)}

    backend._warned.clear()  # a fallback is said once in a process, and is wanted of every row
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        sides, differences, missing = prepare(device, ours, plain, expected)
    fallbacks = [match.expand(r"\1: \2") for match in (FALLBACK.match(str(w.message)) for w in said) if match]

    labels = expected.dtype == torch.uint8
    allowed = (ALLOWED_UNEQUAL if labels else ALLOWED_ERROR)[case.dtype]
    allowed = max(allowed, 2 * differences.get("eager", 0))
    wrong = [name for name in sides if not differences[name] <= allowed]
    for name in wrong:
        missing[name] = f"wrong result: differs by {differences[name]:.2g}, allowed {allowed:.2g}"
        del sides[name]
    for side, prefix in (("eager", "eager_"), (max(OURS, key=lambda name: differences.get(name, -1)), "")):
        if math.isfinite(differences.get(side, math.nan)):
            column, value = ("equal", 1 - differences[side]) if labels else ("error", differences[side])
            row[prefix + column] = value

    row.update(take_times(device, sides, missing, quick))
    for prefix, names in (("ours", OURS), ("peer", PEERS)):
        best = min((name for name in names if name in sides), key=lambda name: row[f"{name}_kernel_ms"], default=None)
        if best:
            row.update({prefix: best, f"{prefix}_ms": row[f"{best}_kernel_ms"]})
    if "ours" in row and "peer" in row:
        row["speedup"] = row["peer_ms"] / row["ours_ms"]
    if "ours" in row and case.name in OPERATORS:
        row.update(rates(case, row["ours_ms"], peaks))
    failed = set(wrong) & set(OURS) or "ours" not in row
    row.update(
        status="failed" if failed else "passed",
        fallbacks="; ".join(dict.fromkeys(fallbacks)),
        not_measured="; ".join(f"{name}: {reason}" for name, reason in missing.items()),
    )
    return {column: _short(row[column]) for column in COLUMNS if column in row}


def _short(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def no_kernels(device) -> str:
    """Why this package's kernels can't run here, or nothing."""
    try:
        with kernels(device):
            ops.conv3x3(torch.zeros(1, 8, 4, 4, device=device.device), torch.zeros(8, 8, 3, 3, device=device.device))
        return ""
    except ops.BackendError as error:
        return str(error)


def of(report: Dict[str, object]) -> List[object]:
    """What two runs must have in common for their rows to stand in one file."""
    device = report["device"]
    return [report["commit"], report["quick"], *(device.get(key) for key in ("name", "driver_version", "torch"))]


def table(rows: List[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def draw_chart(folder: Path, report: Dict[str, object]) -> str:
    """Writes the chart; gives its path, or why there is none."""
    try:
        from swiftnet_ext.engine.charts import speedup_bars
    except ImportError as error:
        return f"no chart: {error}"
    device = report["device"]
    bars = [
        (title(row), row["ours_ms"], row["peer_ms"])
        for row in report["rows"]
        if "speedup" in row and row["status"] == "passed"
    ]
    if not bars:
        return "no chart: no row has both sides"
    heading = ("STAND-IN, NO GPU: " if device.get("stand_in") else "") + f"{device['name']}, {report['date']}"
    speedup_bars(bars, folder / "gpu_speed.png", heading)
    return str(folder / "gpu_speed.png")


def main(arguments: List[str] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the result")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--limit", type=float, default=540, help="seconds after which no row is started (540)")
    parser.add_argument(
        "--rows", default="", help="a regular expression that a row's NAME SIZE batch N DTYPE LAYOUT has"
    )
    parser.add_argument("--resume", action="store_true", help="keep the rows that passed in the file that is there")
    parser.add_argument("--device", default=CUDA_DEVICE, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    end = time.monotonic() + options.limit
    device = load_device(options.device)
    try:
        described = device.describe()
    except Exception as error:
        print(f"no benchmark: {reason_of(error)}")
        return 1
    folder = results_folder(described, options.out, parser)
    why_not = no_kernels(device)
    if why_not:
        print(f"no benchmark: {why_not}; python benchmarks/gpu_report.py --steps build makes the kernels")
        return 1
    report: Dict[str, object] = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "commit": commit(),
        "command": "python benchmarks/gpu_speed.py " + shlex.join(sys.argv[1:] if arguments is None else arguments),
        "python": platform.python_version(),
        "quick": options.quick,
        "device": described,
    }
    everything = cases(device.shrink)
    measured: Dict[str, Row] = {}  # by title
    if options.resume and (folder / "gpu_speed.json").is_file():
        former = json.loads((folder / "gpu_speed.json").read_text())
        if of(former) != of(report):
            parser.error(
                f"--resume: expected a run like {of(report)} in {folder}, got {of(former)}; leave it out or aside"
            )
        report["command"] = f"{former['command']}; {report['command']}"
        measured = {title(row): row for row in former["rows"] if row["status"] == "passed"}

    fp32_without_tf32()
    peaks = {"copy_gbps": _short(device.copy_rate())}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        peaks[f"{str(dtype)[6:]}_tflops"] = _short(device.matrix_rate(dtype))
    report.update(peers=list(PEERS), peaks=peaks)

    def written_down() -> None:
        report["rows"] = [measured[str(case)] for case in everything if str(case) in measured]
        write(folder, {"gpu_speed.json": json.dumps(report, indent=1) + "\n", "gpu_speed.csv": table(report["rows"])})

    written_down()
    chosen = [case for case in everything if re.search(options.rows, str(case)) and str(case) not in measured]
    for done, case in enumerate(chosen):
        if time.monotonic() >= end:
            print(f"{len(chosen) - done} rows not started: the limit of {options.limit:g} s was reached")
            break
        row = measured[str(case)] = measure(device, case, peaks, options.quick)
        written_down()
        device.release()
        print(f"{case!s:<60}{row['status']:<13}{row.get('speedup', '')!s:<8}{row.get('not_measured', '')}", flush=True)
    print(f"written: {folder / 'gpu_speed.json'}, {folder / 'gpu_speed.csv'}, {draw_chart(folder, report)}")
    return int(any(row["status"] == "failed" for row in measured.values()))


if __name__ == "__main__":
    sys.exit(main())
