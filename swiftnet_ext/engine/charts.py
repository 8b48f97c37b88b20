"""Charts as PNG files: equal figures give equal bytes. Only matplotlib's objects are used, no state of the process changes."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from ..files import replacing

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#767676"  # told apart by colour-blind people too
SERIES = (BLUE, ORANGE, GREEN, "#cc79a7", "#e69f00", "#56b4e9")
Row = Tuple[str, Sequence[float], Optional[float]]
Line = Tuple[str, Any, int, Sequence[Tuple[int, int, float]]]
BatchLine = Tuple[str, Any, int, Sequence[Tuple[int, float, Optional[float]]]]


def _figure(width: float, height: float, title: str) -> Tuple[Figure, Any]:
    """Sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10)
    _plain(axes)
    return figure, axes


def _plain(axes: Any) -> None:
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def learning_curves(history: Sequence[Dict[str, Any]], path: Path, title: str) -> None:
    """Loss and, where it was measured, validation mIoU over epochs.

    Args:
        history: of each epoch "epoch", "loss" and perhaps "val_mIoU" in percent.
    """
    figure, axes = _figure(6, 3.6, title)
    epochs = [record["epoch"] for record in history]
    marker = "." if len(epochs) < 50 else None
    lines = axes.plot(epochs, [record["loss"] for record in history], color=BLUE, marker=marker, label="loss")
    axes.set_xlabel("epoch", fontsize=8)
    axes.set_ylabel("training loss", fontsize=8, color=BLUE)
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    validated = [(record["epoch"], record["val_mIoU"]) for record in history if "val_mIoU" in record]
    if validated:
        right = axes.twinx()
        lines += right.plot(*zip(*validated), color=ORANGE, marker=marker or "", label="validation mIoU")
        right.set_ylabel("validation mIoU, %", fontsize=8, color=ORANGE)
        right.tick_params(labelsize=8)
        right.spines["top"].set_visible(False)
    axes.legend(handles=lines, fontsize=8, frameon=False, loc="center right")
    _save(figure, path)


def class_bars(models: Dict[str, Dict[str, Optional[float]]], path: Path, title: str) -> None:
    """IoU of every class, of one or more models side by side.

    Args:
        models: by name, the IoU in percent by class; None for an absent class. All have the same classes.
    """
    names = list(next(iter(models.values())))
    figure, axes = _figure(max(6.0, 0.7 * len(names)), 3.6, title)
    width = 0.8 / len(models)
    for i, (model, iou) in enumerate(models.items()):
        values = [np.nan if iou[name] is None else iou[name] for name in names]
        places = np.arange(len(names)) + (i + 0.5) * width - 0.4
        bars = axes.bar(places, values, width, color=SERIES[i % len(SERIES)], label=model)
        if len(models) == 1:
            axes.bar_label(bars, fmt="%.0f", fontsize=7)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    axes.set_ylabel("IoU, %", fontsize=8)
    axes.set_ylim(0, 100)
    if len(models) > 1:
        axes.legend(fontsize=8, frameon=False, ncols=len(models), loc="lower center", bbox_to_anchor=(0.5, 1.08))
    _save(figure, path)


def ablation_bars(rows: Sequence[Row], path: Path, title: str) -> None:
    """mIoU of several variants: the mean as a bar, each seed a dot, the paper's figure a hollow diamond.

    Args:
        rows: of each variant its name, the seeds' mIoU in percent, and the paper's or None.
    """
    figure, axes = _figure(6.5, 0.9 + 0.36 * len(rows), title)
    means = [float(np.mean(seeds)) for _, seeds, _ in rows]
    places = range(len(rows))
    shown = [value for _, seeds, paper in rows for value in (*seeds, *([] if paper is None else [paper]))]
    lowest = max(0, 5 * (min(shown) // 5) - 10)
    axes.set_xlim(lowest, min(100, max(shown) + 2))
    axes.barh(places, means, 0.55, color="#9ecae1")
    for i, (_, seeds, paper) in enumerate(rows):
        axes.plot(seeds, [i] * len(seeds), "o", color=BLUE, markersize=4)
        axes.annotate(f"{means[i]:.1f}", (lowest + 0.5, i), ha="left", va="center", fontsize=7)
        if paper is not None:
            axes.plot([paper], [i], "D", markerfacecolor="none", color=ORANGE, markersize=5)
    axes.set_yticks(places, [name for name, _, _ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("mIoU, % (dots: seeds; diamonds: the paper's, on its data)", fontsize=8)
    _save(figure, path)


def speedup_bars(rows: Sequence[Tuple[str, float, float]], path: Path, title: str) -> None:
    """How many times as fast ours is as the best peer: a bar for each row, a line at 1, both times beside the bar.

    Args:
        rows: of each its name, our time and the peer's, in milliseconds.
    """
    figure, axes = _figure(9, 1.2 + 0.24 * len(rows), title)
    ratios = [peer / ours for _, ours, peer in rows]
    axes.barh(range(len(rows)), ratios, 0.7, color=[BLUE if ratio >= 1 else ORANGE for ratio in ratios])
    for i, (_, ours, peer) in enumerate(rows):
        axes.annotate(f" {peer:.3g} → {ours:.3g} ms", (ratios[i], i), ha="left", va="center", fontsize=7)
    axes.axvline(1, color=GREY, linewidth=1)
    axes.set_xlim(0, 1.25 * max(1.0, *ratios))
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("best peer's time / ours (beside the bar: best peer → ours)", fontsize=8)
    _save(figure, path)


def confusion(counts: np.ndarray, names: Sequence[str], path: Path, title: str) -> None:
    """A confusion matrix, each row in percent of its class's pixels.

    Args:
        counts: [target class, predicted class].
    """
    figure, axes = _figure(1.8 + 0.5 * len(names), 1.4 + 0.45 * len(names), title)
    total = counts.sum(1, keepdims=True)
    shares = np.divide(100.0 * counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (i, j), share in np.ndenumerate(shares):
        if share >= 0.5:
            axes.annotate(
                f"{share:.0f}", (j, i), ha="center", va="center", fontsize=7, color="w" if share > 60 else "k"
            )
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("predicted", fontsize=8)
    axes.set_ylabel("labelled (rows: 100 %)", fontsize=8)
    _save(figure, path)


def panels(pictures: List[np.ndarray], path: Path, gap: int = 4) -> None:
    """uint8 [H, W, 3] pictures of one size beside each other."""
    from ..data.images import write_image

    height = pictures[0].shape[0]
    space = np.full((height, gap, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (space, picture)][1:]
    write_image(path, np.concatenate(parts, 1))


def over_resolution(lines: Sequence[Line], path: Path, title: str) -> None:
    """Frames a second over the images' sizes, both axes logarithmic.

    Args:
        lines: of each its name, its line style of matplotlib, e.g. "-", which series' colour it has, and its points:
            (width, height, frames a second).
    """
    figure, axes = _figure(6.5, 4, title)
    for name, style, series, points in lines:
        ordered = sorted(points, key=lambda point: point[0] * point[1])
        pixels, fps = [width * height for width, height, _ in ordered], [point[2] for point in ordered]
        axes.plot(
            pixels, fps, linestyle=style, color=SERIES[series % len(SERIES)], marker="o", markersize=4, label=name
        )
        axes.annotate(f"{fps[-1]:.3g}", (pixels[-1], fps[-1]), (4, 0), textcoords="offset points", fontsize=7)
    sizes = sorted({(width * height, f"{width}×{height}") for _, _, _, points in lines for width, height, _ in points})
    _logarithmic(axes, sizes)
    axes.set_xlabel("image", fontsize=8)
    axes.set_ylabel("frames a second", fontsize=8)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def over_batch(lines: Sequence[BatchLine], path: Path, title: str) -> None:
    """Images a second and memory over the batch, in two panels, all axes logarithmic; one panel where no memory is known.

    Args:
        lines: of each its name, its line style of matplotlib, which series' colour it has, and its points in the batch's
            order: (batch, images a second, memory in MiB or None).
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    batches = sorted({(point[0], str(point[0])) for _, _, _, points in lines for point in points})
    known = any((memory or 0) > 0 for _, _, _, points in lines for _, _, memory in points)
    labels = ["images a second", "memory, MiB"] if known else ["images a second"]
    for place, label in enumerate(labels):
        axes = figure.add_subplot(1, len(labels), place + 1)
        for name, style, series, points in lines:
            x, y = [point[0] for point in points], [point[place + 1] or float("nan") for point in points]
            axes.plot(x, y, linestyle=style, color=SERIES[series % len(SERIES)], marker="o", markersize=4, label=name)
            if y[-1] > 0:
                axes.annotate(f"{y[-1]:.3g}", (x[-1], y[-1]), (4, 0), textcoords="offset points", fontsize=7)
        _plain(axes)
        _logarithmic(axes, batches)
        axes.set_xlabel("images in a batch", fontsize=8)
        axes.set_ylabel(label, fontsize=8)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def _logarithmic(axes: Any, ticks: Sequence[Tuple[int, str]]) -> None:
    """Both axes, with the ticks (place, name) below."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([place for place, _ in ticks], [name for _, name in ticks], fontsize=8)
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="y", linewidth=0.3)
    axes.margins(x=0.12)
