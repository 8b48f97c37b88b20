"""A report's charts, as the supplement's figures 1 to 3: speed over resolution, half precision, the pyramid; and batches."""

from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

from .plan import LEFT_OUT, PEERS, case_of

Rows = List[Dict[str, Any]]
Point = Tuple[int, int, float]
DASHES = ("-", "--", ":", "-.")
STYLES = {"ours": "-", "eager": ":", "onnxruntime": "-.", "openvino": (0, (5, 1, 1, 1, 1, 1))}
UNKNOWN = (LEFT_OUT, "NoTime")


def timed(report: Dict[str, Any]) -> Rows:
    """The rows for charts: of the user's loop with the tuned allocator, or of what there is instead."""
    rows = [row for row in report["rows"] if row["status"] == "measured"]
    for field, preferred in (("loop", "user"), ("allocator", "tuned")):
        found = [row for row in rows if row[field] == preferred]
        rows = found or rows
    return rows


def _of_one_batch(rows: Rows) -> Rows:
    """The smallest that is measured, which is 1 unless others were asked for."""
    smallest = min((case_of(row).batch for row in rows), default=1)
    return [row for row in rows if case_of(row).batch == smallest]


def points(rows: Rows, side: str) -> List[Point]:
    """(width, height, frames a second) of a side of every row that has it.

    The "best peer" is only known where none was left out for want of time.
    """
    if side == "best peer":
        rows = [row for row in rows if not any(reason.startswith(UNKNOWN) for reason in row["missing"].values())]
    found = [(row, row["sides"].get(row["best_peer"] if side == "best peer" else side)) for row in rows]
    return [(row["width"], row["height"], column["fps"]) for row, column in found if column]


def _lines(rows: Rows, by: Callable[[Dict[str, Any]], str], sides: Sequence[str]) -> List[Tuple[Any, ...]]:
    """One colour for each value of `by`, one style for each side."""
    lines: List[Tuple[Any, ...]] = []
    for series, value in enumerate(dict.fromkeys(by(row) for row in rows)):
        some = [row for row in rows if by(row) == value]
        for side in sides:
            found = points(some, side)
            if found:
                lines.append((f"{value}, {side}", STYLES.get(side, "--"), series, found))
    return lines


def _over_batch(rows: Rows) -> List[Tuple[Any, ...]]:
    """Ours: one colour for each resolution, one style for each network; none where no network has several batches."""
    sizes = sorted({(row["width"], row["height"]) for row in rows}, key=lambda size: (size[0] * size[1], size))
    networks = list(dict.fromkeys(_network(row) for row in rows))
    lines: List[Tuple[Any, ...]] = []
    for i, network in enumerate(networks):
        for series, (width, height) in enumerate(sizes):
            some = [row for row in rows if (_network(row), row["width"], row["height"]) == (network, width, height)]
            sides = [(case_of(row).batch, row["sides"]["ours"]) for row in some if "ours" in row["sides"]]
            found = [(batch, side["fps"], side["memory_mb"]) for batch, side in sorted(sides, key=lambda s: s[0])]
            if found:
                name = f"{network} {width}×{height}" if len(networks) > 1 else f"{width}×{height}"
                lines.append((name, DASHES[i % len(DASHES)], series, found))
    return lines if any(len(found) > 1 for *_, found in lines) else []


def _network(row: Dict[str, Any]) -> str:
    return row["model"].replace("swiftnet_", "")


def _encoder(row: Dict[str, Any]) -> str:
    return row["model"].split("_")[-1]


def draw(report: Dict[str, Any], folder: Path) -> List[Path]:
    """Writes the charts for which there are rows; gives their files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from ..charts import over_batch, over_resolution

    every = timed(report)
    rows = _of_one_batch(every)
    by_dtype = {
        dtype: [row for row in rows if row["dtype"] == dtype] for dtype in dict.fromkeys(r["dtype"] for r in rows)
    }
    half = [dtype for dtype in by_dtype if dtype != "fp32"] or list(by_dtype)
    fast = by_dtype[half[0]] if half else []
    pyramids = [row for row in fast if "_pyr_" in row["model"]]
    single = [row for row in fast if row not in pyramids]
    encoders = {_encoder(row) for row in pyramids} & {_encoder(row) for row in single}
    both = [row for row in fast if _encoder(row) in encoders]
    name = ", ".join(half[:1])
    wanted = {
        "resolution": (_lines(single or fast, _network, ("ours", "best peer")), f"Ours and the best peer, {name}"),
        "precision": (
            _lines(rows, lambda row: f"{_network(row)} {row['dtype']}", ("ours",)) if len(by_dtype) > 1 else [],
            "Ours, fp32 and half precision",
        ),
        "pyramid": (_lines(both, _network, ("ours",)), f"Ours, single scale and pyramid, {name}"),
        "peers": (_lines(single or fast, _network, ("ours", *PEERS)), f"Ours and every peer, {name}"),
    }
    about = f"{report['device']}, {report['date']}"
    several = f", batch {case_of(rows[0]).batch}" if rows and case_of(rows[0]).batch > 1 else ""
    files = []
    for kind, (lines, title) in wanted.items():
        if lines:
            files.append(folder / f"benchmark_{kind}.png")
            over_resolution(lines, files[-1], f"{title}{several}; {about}")
    lines = _over_batch([row for row in every if row["dtype"] == name])
    if lines:
        files.append(folder / "benchmark_batch.png")
        networks = ", ".join(dict.fromkeys(_network(row) for row in every))
        over_batch(lines, files[-1], f"Ours, {networks}, {name}; {about}")
    return files
