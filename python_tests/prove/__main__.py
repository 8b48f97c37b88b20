"""`make prove`: what can be known of the kernels without a GPU, as one table. Fails on any shortfall.

python -m prove [--only race,mutants] [--jobs 2] [--record]      in python_tests
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Dict, List, Tuple

from . import coverage
from .builds import ROOT, Failure, all_pass, build, environment_for, folder, run
from .mutants import MUTANTS
from .mutation import kill, test_arguments

OUT = ROOT / "build" / "prove"
RECORD = ROOT / "benchmarks" / "results" / "emulated" / "prove.json"
NUMERIC, CONTRACT, TENSOR_CORES, HUGE = (
    f"core/ops/test_{name}.py" for name in ("numeric", "contract", "tensor_cores", "huge")
)
OF_CPU = [
    f"core/ops/test_{name}.py" for name in ("cpu_conv2d", "cpu_inverted_residual", "cpu_kernels", "cpu_multiscale")
]
LEAST_SHAPES, LEAST_MUTANTS, LEAST_COVERAGE = 60, 25, 98.0
EMULATED = ["--backends", "emulated"]
BOTH = ["--backends", "reference,emulated"]


def shapes() -> str:
    sys.path.insert(0, str(ROOT / "python_tests"))
    from core.ops.cases import COMBINATIONS
    from core.ops.operator_case import FORMATS, SHAPES

    if len(set(SHAPES)) < LEAST_SHAPES:
        raise Failure(f"{len(set(SHAPES))} shapes, expected at least {LEAST_SHAPES}")
    return f"{len(set(SHAPES))} shapes × {len(FORMATS)} layouts × {len(COMBINATIONS)} operators, modes and dtypes"


def tests(name: str, arguments: List[str], check: str = "none") -> Callable[[int], str]:
    return lambda jobs: f"{all_pass(check, arguments, jobs, OUT / f'{name}.xml')} tests"


def numeric(jobs: int) -> str:
    return f"{tests('numeric', [NUMERIC, TENSOR_CORES, '-k', 'not exact', *BOTH])(jobs)}: {shapes()}"


def race(jobs: int) -> str:
    chosen = ["emulation", NUMERIC, CONTRACT, TENSOR_CORES, *EMULATED]
    return tests("race", chosen, "race")(jobs) + ": 0 races, 3 orders bit-equal"


def bounds(jobs: int) -> str:
    # the probes, but no other orders of threads: they reach the same memory
    chosen = ["emulation/test_probes.py", NUMERIC, CONTRACT, TENSOR_CORES, *EMULATED]
    return tests("bounds", chosen, "sanitize")(jobs) + ": 0 sanitizer reports"


def cpu_bounds(jobs: int) -> str:
    # no skips: Winograd's algorithm is inexact on a CPU
    chosen = ["prove/cpu_probes.py", *OF_CPU, NUMERIC, CONTRACT, "-k", "not exact_arithmetic"]
    passed = tests("cpu_bounds", [*chosen, "--backends", "cpu"], "cpu_sanitize")(jobs)
    code = "from swiftnet_ext._C import cpu; print(*cpu.levels(), sep=', ')"
    environment = environment_for("cpu_sanitize", folder("cpu_sanitize"))
    levels = run([sys.executable, "-c", code], env=environment).stdout.strip()
    if "tiles_emulated" not in levels:
        raise Failure(f"{passed}, but AMX's tiles were not among the instruction sets: {levels}")
    return f"{passed}: 0 sanitizer reports at {levels}"


def mutants(jobs: int) -> str:
    if len(MUTANTS) < LEAST_MUTANTS:
        raise Failure(f"{len(MUTANTS)} mutants, expected at least {LEAST_MUTANTS}")
    for check in sorted({m.check for m in MUTANTS}):  # no alarm on the kernels as they are
        killers = sorted({m.test for m in MUTANTS if m.check == check})
        all_pass(check, [*killers, *EMULATED], jobs, OUT / f"killers_{check}.xml")

    def verdict(i: int) -> Tuple[str, str]:
        try:
            return "", kill(MUTANTS[i], OUT / "mutants" / str(i))
        except Failure as failure:
            return str(failure), ""

    with ThreadPoolExecutor(jobs) as pool:
        verdicts = list(pool.map(verdict, range(len(MUTANTS))))
    said = [
        f"{m.fault} | {m.file} | {m.check} | {test_arguments(m)[0]} | {s or 'SURVIVED'}"
        for m, (_, s) in zip(MUTANTS, verdicts)
    ]
    (OUT / "mutants.txt").write_text("\n".join(said) + "\n")
    survivors = [failure for failure, _ in verdicts if failure]
    if survivors:
        raise Failure(f"{len(survivors)} of {len(MUTANTS)} mutants not killed:\n" + "\n".join(survivors))
    return f"{len(MUTANTS)} of {len(MUTANTS)} killed, each by its test; build/prove/mutants.txt"


def device_coverage(jobs: int) -> str:
    coverage.forget()
    all_pass(
        "coverage", [NUMERIC, CONTRACT, TENSOR_CORES, "emulation/test_orders.py", *EMULATED], jobs, OUT / "coverage.xml"
    )
    measured = coverage.measure()
    (OUT / "missed_lines.txt").write_text("\n".join(measured.missed) + "\n")
    text = f"{measured.percent:.1f} % of {measured.lines} device lines"
    if measured.percent < LEAST_COVERAGE:
        raise Failure(f"{text}, expected at least {LEAST_COVERAGE} %; missed: {', '.join(measured.missed)}")
    return text


STEPS: Dict[str, Tuple[str, Callable[[int], str]]] = {
    "numeric": ("none", numeric),
    "exact": ("none", tests("exact", [NUMERIC, TENSOR_CORES, "-k", "exact", *BOTH])),
    "layout": ("none", tests("layout", [CONTRACT, "-k", "strides and not NaN or expanded or parameters", *BOTH])),
    "frame": ("none", tests("frame", [CONTRACT, "-k", "framed or every_element or left_alone", *BOTH])),
    "empty": ("none", tests("empty", [CONTRACT, "-k", "empty or nan_and_inf or minus_infinity or mark_nan", *BOTH])),
    "errors": ("none", tests("errors", [CONTRACT, "-k", "misuse or refuse", *BOTH])),
    "huge": ("none", tests("huge", [HUGE, *EMULATED])),
    "race": ("race", race),
    "bounds": ("sanitize", bounds),
    "cpu_bounds": ("cpu_sanitize", cpu_bounds),
    "mutants": ("none race sanitize", mutants),
    "coverage": ("coverage", device_coverage),
}


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def must_be_committed() -> None:
    if git("status", "--porcelain", "--", "csrc", "swiftnet_ext", "python_tests"):
        raise SystemExit("prove --record: commit first: a result names the commit that it is true of")


def record(row: Dict[str, object]) -> None:
    """Writes a proven step down; what is written of other steps stays, each with its commit and machine."""
    import torch

    from swiftnet_ext.cpu import cpu_name

    must_be_committed()
    written = json.loads(RECORD.read_text())["steps"] if RECORD.exists() else []
    of = {step["step"]: step for step in written}
    of[str(row["step"])] = {
        **row,
        "date": datetime.date.today().isoformat(),
        "commit": git("rev-parse", "HEAD"),
        "device": f"{cpu_name()}, {os.cpu_count()} cores; the kernels emulated",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "compiler": subprocess.run(["g++", "--version"], capture_output=True, text=True).stdout.splitlines()[0],
    }
    content = {
        "command": "make prove RECORD=1 (STEPS= for some at a time)",
        "steps": [of[name] for name in STEPS if name in of],
    }
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="prove", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default=",".join(STEPS), help="steps, separated by commas")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--record", action="store_true", help=f"write proven steps to {RECORD.relative_to(ROOT)}")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if set(chosen) - set(STEPS):
        parser.error(f"--only: expected names of {', '.join(STEPS)}")
    if options.record:
        must_be_committed()

    OUT.mkdir(parents=True, exist_ok=True)
    rows, built = [], set()
    for name in chosen:
        checks, step = STEPS[name]
        start = time.monotonic()
        try:
            for check in set(checks.split()) - built:
                build(check)
                built.add(check)
            status, result = "proven", step(options.jobs)
        except Failure as failure:
            status, result = "FAILED", str(failure)
        seconds = round(time.monotonic() - start)
        rows.append({"step": name, "status": status, "result": result, "seconds": seconds})
        print(f"{name:<11}{status:<8}{seconds:>5} s  {result}", flush=True)
        if options.record and status == "proven":
            record(rows[-1])
    failed = [row["step"] for row in rows if row["status"] != "proven"]
    print(
        f"\n{len(rows) - len(failed)} of {len(rows)} steps proven"
        + (f"; failed: {', '.join(failed)}" if failed else "")
        + (f"\nwritten: {RECORD.relative_to(ROOT)}" if options.record and len(failed) < len(rows) else "")
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
