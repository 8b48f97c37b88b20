"""Writes the tables and charts of docs/benchmarks.md from committed results: python benchmarks/benchmarks_page.py [--check]

    swiftnet benchmark --out benchmarks/results/DEVICE
    pytest benchmarks --benchmark-only --benchmark-json FILE && python benchmarks/benchmarks_page.py --take FILE

--take writes what the page needs of pytest-benchmark's file to benchmarks/results/DEVICE/benchmarks.json. Every figure on the
page is computed here.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from swiftnet_ext.engine.benchmark.plan import PEERS  # noqa: E402
from swiftnet_ext.engine.provenance import provenance  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
CHARTS = ROOT / "docs" / "benchmarks"
BEGIN, END = "<!-- made by benchmarks/benchmarks_page.py from benchmarks/results -->", "<!-- end -->"
NOTHING = "Nothing has been measured for this version yet."


def take(file: Path, results: Path) -> Path:
    """Condenses pytest-benchmark's JSON: of each row its group, median, interquartile range and extra information."""
    rows = {
        b["name"]: {
            "group": b["group"],
            **{name: b["stats"][name] for name in ("median", "iqr", "rounds")},
            **b["extra_info"],
        }
        for b in json.loads(file.read_text())["benchmarks"]
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    head = provenance("pytest benchmarks --benchmark-only --benchmark-json FILE", device)
    path = results / head["device"] / "benchmarks.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**head, "threads": torch.get_num_threads(), "rows": rows}, indent=1) + "\n")
    return path


def _table(columns: List[str], lines: List[List[str]]) -> List[str]:
    rule = ["---", *("---:" for _ in columns[1:])]
    return [f"| {' | '.join(line)} |" for line in (columns, rule, *lines)] + [""]


def _said(report: Dict[str, Any]) -> str:
    return (
        f"{report['device']}, {report['date']}, commit {str(report['commit'])[:9]}, PyTorch {report['torch']}, "
        f"{report.get('threads', '?')} threads: `{report['command']}`"
    )


def _cell(side: Optional[Dict[str, Any]], best: bool) -> str:
    if side is None:
        return "-"
    text = f"{side['ms']:.4g}"
    return f"**{text}**" if best else text


def _network_lines(rows: List[Dict[str, Any]]) -> List[List[str]]:
    lines = []
    for row in rows:
        sides, ours = row["sides"], row["sides"].get("ours")
        spread = "" if ours is None else f" ({ours['q1_ms']:.4g} to {ours['q3_ms']:.4g})"
        lines.append(
            [
                row["model"].replace("swiftnet_", "") + (", random weights" if row["weights"] is None else ""),
                f"{row['width']}×{row['height']}" + (f", batch {row['batch']}" if row.get("batch", 1) > 1 else ""),
                row["dtype"],
                _cell(ours, False) + spread,
                *(_cell(sides.get(peer), peer == row["best_peer"]) for peer in PEERS),
                "-" if row["ratio"] is None else f"{row['ratio']:.2f}",
                *(
                    ["-"] * 3
                    if ours is None
                    else [f"{100 * ours['equal_to_fp32']:.3f}", str(ours["page_faults"]), _mb(ours)]
                ),
            ]
        )
    return lines


def _mb(side: Dict[str, Any]) -> str:
    return "-" if side["memory_mb"] is None else f"{side['memory_mb']:.0f}"


def _left_out(rows: List[Dict[str, Any]]) -> List[str]:
    """Why a peer is in no cell, each reason once."""
    said: Dict[str, None] = {}
    for row in rows:
        said.update(dict.fromkeys(f"{name}: {reason}" for name, reason in row["missing"].items()))
    return ["Left out: " + "; ".join(said) + ".", ""] if said else []


LOOPS = {"user": "From the uint8 image to uint8 labels", "paper": "The paper's loop, forward passes to logits"}
COLUMNS = ["network", "image", "dtype", "ours", *PEERS, "ratio", "equal, %", "page faults", "MiB"]


def networks(report: Dict[str, Any]) -> List[str]:
    lines = [f"### {report['device']}", "", _said(report), ""]
    for loop, title in LOOPS.items():
        for allocator in ("tuned", "default"):
            rows = [
                r for r in report["rows"] if (r["loop"], r["allocator"], r["status"]) == (loop, allocator, "measured")
            ]
            if rows:
                lines += [
                    f"{title}; {allocator} allocator",
                    "",
                    *_table(COLUMNS, _network_lines(rows)),
                    *_left_out(rows),
                ]
    measured = [k for k in report["kernels"] if k["status"] == "measured"]
    if measured:
        lines += ["The decoder's native kernels beside a copy", ""]
        cells = [
            [k["kernel"], f"{k['width']}×{k['height']}", k["dtype"], f"{k['bytes'] / 1e6:.3g}"]
            + [f"{k['bytes'] / k['floor_ms'] / 1e6:.3g}"]
            + [f"{k[name]:.3g}" for name in ("ms", "floor_ms", "of_floor")]
            for k in measured
        ]
        lines += _table(["kernel", "image", "dtype", "MB", "copy, GB/s", "ms", "floor, ms", "× of floor"], cells)
    return lines


def groups(report: Dict[str, Any]) -> List[str]:
    """Of pytest-benchmark's rows those that are compared with eager."""
    cells = [
        [
            row["group"],
            name.split("[", 1)[-1].split("-", 1)[0],
            f"{1000 * row['median']:.4g}",
            f"{1000 * row['iqr']:.2g}",
        ]
        + [f"{row['times_as_fast_as_eager']:.2f}"]
        for name, row in sorted(report["rows"].items(), key=lambda item: str(item[1].get("group")))
        if "times_as_fast_as_eager" in row
    ]
    if not cells:
        return []
    columns = ["group", "side", "median, ms", "interquartile range, ms", "times as fast as eager"]
    return [f"### {report['device']}", "", _said(report), "", *_table(columns, cells)]


def charts(stem: str) -> List[str]:
    files = sorted(CHARTS.glob(f"{stem}_*.png"))
    return [line for f in files for line in (f"![{f.stem}](benchmarks/{f.name})", "")]


def tables(results: Path) -> str:
    lines: List[str] = []
    for path in sorted(results.glob("*/benchmark.json")):
        report = json.loads(path.read_text())
        lines += [*networks(report), *charts(path.parent.name)]
    of_groups = [g for path in sorted(results.glob("*/benchmarks.json")) for g in groups(json.loads(path.read_text()))]
    if of_groups:
        lines += ["## pytest-benchmark", "", *of_groups]
    return "\n".join(lines).strip() or NOTHING


def rewritten(text: str, made: str) -> str:
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{PAGE}: has no lines '{BEGIN}' and '{END}' to write between")
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def draw_charts(results: Path, folder: Path) -> None:
    from swiftnet_ext.engine.benchmark.figures import draw

    for path in sorted(results.glob("*/benchmark.json")):
        folder.mkdir(exist_ok=True)
        for file in draw(json.loads(path.read_text()), folder):
            file.replace(folder / file.name.replace("benchmark_", f"{path.parent.name}_"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if the page differs from the result files")
    parser.add_argument("--take", type=Path, metavar="FILE", help="pytest-benchmark's JSON, to be condensed")
    arguments = parser.parse_args()
    if arguments.check:
        text = PAGE.read_text()
        if rewritten(text, tables(RESULTS)) != text:
            sys.exit(f"{PAGE}: differs from the results; run python benchmarks/benchmarks_page.py")
        return
    if arguments.take:
        print(take(arguments.take, RESULTS))
    draw_charts(RESULTS, CHARTS)
    PAGE.write_text(rewritten(PAGE.read_text(), tables(RESULTS)))


if __name__ == "__main__":
    main()
