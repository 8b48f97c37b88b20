"""A report's charts, as the supplement's figures 1 to 3: speed over resolution, half precision, the pyramid."""

from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

from .plan import LEFT_OUT, PEERS

Rows = List[Dict[str, Any]]
Point = Tuple[int, int, float]
STYLES = {"ours": "-", "eager": ":", "onnxruntime": "-.", "openvino": (0, (5, 1, 1, 1, 1, 1))}
UNKNOWN = (LEFT_OUT, "NoTime")


def timed(report: Dict[str, Any]) -> Rows:
    """The rows for charts: of the user's loop with the tuned allocator, or of what there is instead."""
    rows = [row for row in report["rows"] if row["status"] == "measured"]
    for field, preferred in (("loop", "user"), ("allocator", "tuned")):
        found = [row for row in rows if row[field] == preferred]
        rows = found or rows
    return rows


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


def _network(row: Dict[str, Any]) -> str:
    return row["model"].replace("swiftnet_", "")


def _encoder(row: Dict[str, Any]) -> str:
    return row["model"].split("_")[-1]


def draw(report: Dict[str, Any], folder: Path) -> List[Path]:
    """Writes the charts for which there are rows; gives their files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from ..charts import over_resolution

    rows = timed(report)
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
    files = []
    for name, (lines, title) in wanted.items():
        if lines:
            files.append(folder / f"benchmark_{name}.png")
            over_resolution(lines, files[-1], f"{title}; {report['device']}, {report['date']}")
    return files
