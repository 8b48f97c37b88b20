"""Writes README's tables, what has run where and how fast, from the result files: python benchmarks/readme.py [--check]

An architecture was *run* where a GPU report of a device of that compute capability passed, *emulated* where every step of
`make prove` that emulates kernels passed (one source for all architectures), and *compiled* by the toolkits whose `make budgets`
passed. Below the table stand the commits of both records, and steps of `make prove` that its record lacks. Speeds are the fp16
channels_last rows of batch 1 that gpu_speed.py measured.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Dict, List, Optional

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
sys.path.insert(0, str(ROOT / "python_tests"))

from prove.__main__ import STEPS  # noqa: E402

BEGIN, END = "<!-- made by benchmarks/readme.py from benchmarks/results -->", "<!-- end -->"
BEGIN_SPEEDS = "<!-- speeds, made by benchmarks/readme.py from benchmarks/results/*/gpu_speed.json -->"
NO_SPEEDS = "No GPU has run this version yet; `python benchmarks/gpu_speed.py` makes this table."
DEVICES = {
    "61": "GTX 1080 Ti", "62": "Jetson TX2", "70": "V100", "75": "T4, RTX 20", "80": "A100", "86": "RTX 30",
    "89": "RTX 40, L4", "90": "H100, H200", "100": "B200", "120": "RTX 50",
}  # fmt: skip


def load(path: Path) -> Optional[dict]:
    return json.loads(path.read_text()) if path.is_file() else None


def compiled() -> Dict[str, List[str]]:
    """The toolkits that compile for each architecture (90a counts as 90) with all rules kept."""
    result = load(RESULTS / "compiled" / "budgets.json") or {"toolkits": []}
    found: Dict[str, List[str]] = {}
    for toolkit in result["toolkits"]:
        for architecture in toolkit["architectures"]:
            name = architecture["arch"]
            release = toolkit["cuda"].rsplit(".", 1)[0] + (f" (sm_{name})" if name[-1].isalpha() else "")
            found.setdefault(name.rstrip("af"), []).append(release)
    return found


def emulated() -> str:
    """The earliest date of the steps on emulated kernels, once all of them are proven."""
    dates = {
        step["step"]: step["date"] for step in (load(RESULTS / "emulated" / "prove.json") or {"steps": []})["steps"]
    }
    wanted = [name for name, (checks, _) in STEPS.items() if checks != "cpu_sanitize"]
    return f"emulated {min(dates[name] for name in wanted)}" if dates.keys() >= set(wanted) else ""


def records() -> List[str]:
    """The commits that "compiled" and "emulated" are true of, and the steps of `make prove` that its record lacks."""
    lines = []
    budgets, prove = load(RESULTS / "compiled" / "budgets.json"), load(RESULTS / "emulated" / "prove.json")
    if budgets is not None:
        lines.append(f"`make budgets`: {_when(budgets)}")
    if prove is not None:
        steps_of: Dict[str, List[str]] = {}
        for step in prove["steps"]:
            steps_of.setdefault(_when(step), []).append(f"`{step['step']}`")
        most = max(steps_of, key=lambda when: len(steps_of[when]))
        line = f"`make prove`: {most}"
        line += "".join(f", but {', '.join(steps)}: {when}" for when, steps in steps_of.items() if when != most)
        lacking = [f"`{step}`" for step in STEPS if step not in {step["step"] for step in prove["steps"]}]
        lines.append(line + (f", without {', '.join(lacking)}" if lacking else ""))
    return ["", "Records: " + "; ".join(lines) + "."] if lines else []


def _when(result: dict) -> str:
    return f"{result['date']}, commit {result['commit'][:9]}"


def runs() -> Dict[str, List[str]]:
    """The devices on which the suite passed, by architecture."""
    found: Dict[str, List[str]] = {}
    for path in sorted(RESULTS.glob("*/gpu_report.json")):
        report = json.loads(path.read_text())
        if report["steps"].get("suite", {}).get("status") != "passed":
            continue
        device = report["device"]
        architecture = device["compute_capability"].replace(".", "")
        found.setdefault(architecture, []).append(f"{device['name']}, {report['date']}")
    return found


def table() -> str:
    by_toolkit, on_cpu, on_gpu = compiled(), emulated(), runs()
    rows = ["| architecture | e.g. | compiled by CUDA | on a CPU | on a GPU |", "| --- | --- | --- | --- | --- |"]
    for architecture in sorted({*by_toolkit, *on_gpu}, key=int):
        ran = "run: " + "; ".join(on_gpu[architecture]) if architecture in on_gpu else "not run"
        toolkits = ", ".join(by_toolkit.get(architecture, ())) or "not compiled"
        rows.append(
            f"| sm_{architecture} | {DEVICES.get(architecture, '')} | {toolkits} | {on_cpu or 'not emulated'} | {ran} |"
        )
    return "\n".join(rows + records())


def speeds() -> str:
    """Ours against the best peer; peers that could not be measured are named beside it."""
    lines = []
    for path in sorted(RESULTS.glob("*/gpu_speed.json")):
        report = json.loads(path.read_text())
        gpu = f"[{report['device']['name']}, {report['date']}](benchmarks/results/{path.parent.name}/gpu_speed.csv)"
        for row in report["rows"]:
            if (row["batch"], row["dtype"], row["layout"]) != (1, "float16", "nhwc"):
                continue
            missing = [peer for peer in report["peers"] if f"{peer}_kernel_ms" not in row]
            peer = f"{row['peer_ms']:.3g}, {row['peer']}" if "peer" in row else ""
            peer += f" (without {', '.join(missing)})" if missing else ""
            ours = f"{row['ours_ms']:.3g}" if "ours" in row else ""
            times = f"{row['speedup']:.2f}" if row["status"] == "passed" and "speedup" in row else row["status"]
            lines.append(f"| {gpu} | {row['name']} | {row['size']} | {ours} | {peer} | {times} |")
    head = ["| GPU | network or operator | image | ours, ms | best peer, ms | times as fast |", "| --- " * 6 + "|"]
    return "\n".join(head + lines) if lines else NO_SPEEDS


def rewritten(text: str) -> str:
    for begin, made in ((BEGIN, table()), (BEGIN_SPEEDS, speeds())):
        before, _, rest = text.partition(begin)
        _, end, after = rest.partition(END)
        if not end:
            raise SystemExit(f"{README}: has no lines '{begin}' and '{END}' to write between")
        text = f"{before}{begin}\n{made}\n{END}{after}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if README differs from the result files")
    text = README.read_text()
    wanted = rewritten(text)
    if parser.parse_args().check:
        sys.exit(f"{README}: differs from the results; run python benchmarks/readme.py" if text != wanted else 0)
    README.write_text(wanted)


if __name__ == "__main__":
    main()
