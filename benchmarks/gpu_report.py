"""One command on a machine with a GPU: builds for it, proves the kernels on it, times them, and writes it down.

    python benchmarks/gpu_report.py [--out DIR] [--steps suite,graphs] [--limit 560] [--quick]

Writes gpu_report.json, anew after each step, and gpu_report.md to DIR (benchmarks/results/<the GPU's name>). Fails if a
step failed or did not run. docs/gpu_report.md says what each step shows.
"""

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

# neither torch nor swiftnet_ext, hence write() and commit() here: what is broken there is a step's result, not the report's end
from benchmarks.gpu_page import page  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
CUDA_DEVICE = f"{ROOT / 'benchmarks' / 'gpu.py'}:CudaDevice"
# seconds that a step may take; the order is that of worth, as the whole has a limit too
LIMITS = {
    "device": 60, "build": 240, "suite": 240, "emulator": 60, "sanitizer": 240, "graphs": 60, "streams": 60, "repeats": 90,
    "growth": 60, "simt": 90, "benchmarks": 120, "legacy": 300,
}  # fmt: skip
NAMED_ONLY = {"legacy"}  # it needs what another machine makes


def run_step(name: str, device: str, seconds: float, quick: bool) -> Dict[str, object]:
    """What the step's process says on its last line."""
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    environment.setdefault("SWIFTNET_EXT_EMULATION", str(ROOT / "build" / "emulation"))
    command = [sys.executable, ROOT / "benchmarks" / "gpu_steps.py", name, device] + ["--quick"] * quick
    start = time.monotonic()
    process = subprocess.Popen(
        [str(c) for c in command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=seconds)
        last = output.strip().splitlines()[-1] if output.strip() else ""
        result = json.loads(last) if last.startswith("{") else {
            "status": "failed", "reason": f"ended with status {process.returncode}:\n{(output + errors)[-3000:]}",
        }  # fmt: skip
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        result = {"status": "failed", "reason": f"did not end within {seconds:.0f} s"}
    return {**result, "seconds": round(time.monotonic() - start, 1)}


def results_folder(device: Dict[str, object], out: Optional[Path], parser: argparse.ArgumentParser) -> Path:
    """Where the results of a device go: `out`, or benchmarks/results/<its name>."""
    slug = re.sub(r"[^a-z0-9]+", "-", str(device["name"]).lower()).strip("-")
    folder = (out or RESULTS / slug).resolve()
    if device.get("stand_in") and RESULTS.resolve() in [folder, *folder.parents]:
        parser.error("--out: a stand-in's report is no result; name a folder outside benchmarks/results")
    return folder


def write(folder: Path, texts: Dict[str, str]) -> None:
    """Files of these names, each whole or as it was."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        temporary = folder / f".{name}.tmp"
        temporary.write_text(text)
        os.replace(temporary, folder / name)


def commit() -> str:
    """HEAD, and whether the working tree differs from it; a copy without history has none."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        return os.environ.get("SWIFTNET_COMMIT", "unknown")
    changes = subprocess.run(
        [*git, "status", "--porcelain", "--", "csrc", "swiftnet_ext"], capture_output=True, text=True
    )
    return head.stdout.strip() + (" with changes" if changes.stdout.strip() else "")


def main(arguments: List[str] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the result")
    everything = ",".join(name for name in LIMITS if name not in NAMED_ONLY)
    parser.add_argument("--steps", default=everything, help=f"of {', '.join(LIMITS)}; device always runs")
    parser.add_argument("--limit", type=float, default=560, help="seconds for the whole (560)")
    parser.add_argument("--quick", action="store_true", help="fewer repeats and shapes, one sanitizer tool")
    parser.add_argument("--device", default=CUDA_DEVICE, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    chosen = options.steps.split(",")
    if not set(chosen) <= set(LIMITS):
        parser.error(f"--steps: expected some of {', '.join(LIMITS)}, got {options.steps}")

    end = time.monotonic() + options.limit
    report: Dict[str, object] = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "commit": commit(),
        "command": " ".join(["python benchmarks/gpu_report.py", *(sys.argv[1:] if arguments is None else arguments)]),
        "python": platform.python_version(),
        "quick": options.quick,
        "device": run_step("device", options.device, LIMITS["device"], options.quick),
        "steps": {},
    }
    device = report["device"]
    if device["status"] != "passed":
        print(f"no report: {device['reason']}")
        return 1
    folder = results_folder(device, options.out, parser)

    for name in (n for n in LIMITS if n in chosen and n != "device"):
        seconds = min(LIMITS[name], end - time.monotonic())
        if seconds < 5:
            result = {"status": "not run", "reason": f"the limit of {options.limit:.0f} s was reached", "seconds": 0}
        else:
            result = run_step(name, options.device, seconds, options.quick)
        report["steps"][name] = result
        write(folder, {"gpu_report.json": json.dumps(report, indent=1) + "\n", "gpu_report.md": page(report)})
        print(f"{name:<12}{result['status']:<9}{result['seconds']:>7} s  {result.get('reason', '')}", flush=True)
    print(f"written: {folder / 'gpu_report.json'}, {folder / 'gpu_report.md'}")
    return int(any(step["status"] != "passed" for step in report["steps"].values()))


if __name__ == "__main__":
    sys.exit(main())
