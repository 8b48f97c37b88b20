"""Writes docs/reproduction.md and its charts from the experiments' result files: python benchmarks/reproduction.py [--check]

Every figure on the page is computed here from benchmarks/results/*/experiments/*.json; the paper's are from its text.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "reproduction.md"
CHARTS = ROOT / "docs" / "reproduction"


class Row(NamedTuple):
    name: str  # of the experiment
    label: str
    paper: Optional[float] = None  # mIoU, percent


class Section(NamedTuple):
    """Rows that are compared with the first."""

    title: str
    about: str
    rows: Tuple[Row, ...]


SECTIONS = (
    Section(
        "ImageNet initialisation",
        "How much of the encoder starts from ImageNet's weights. The paper's: ResNet-18 on Cityscapes val (Table 3 of the "
        "supplement); here its residual blocks' places are taken by the stages of MobileNetV2 between two taps.",
        (
            Row("baseline", "all (stem, RB1 to RB4)", 75.35),
            Row("imagenet_rb3", "stem, RB1 to RB3", 73.08),
            Row("imagenet_rb2", "stem, RB1, RB2", 71.74),
            Row("imagenet_rb1", "stem, RB1", 69.98),
            Row("imagenet_stem", "stem", 69.21),
            Row("imagenet_none", "none", 68.50),
        ),
    ),
    Section(
        "Networks",
        "The paper's: ResNet-18 on Cityscapes val; its pyramids are of the first generation, ours of the second. At half "
        "resolution our crops of 256 are 128 to the network, and 4×4 below the pyramid pooling's grid of 8×8; the paper's are "
        "448, and 14×14: that row differs by its crops too.",
        (
            Row("baseline", "single scale, full resolution, bilinear, SPP", 75.35),
            Row("pyramid_2", "pyramid, 2 levels", 75.45),
            Row("pyramid_3", "pyramid, 3 levels", 74.9),
            Row("half_resolution", "half resolution", 70.2),
            Row("nearest", "nearest instead of bilinear", 73.69),
            Row("without_spp", "without SPP", 71.47),
        ),
    ),
    Section(
        "Lighter blends",
        "The paper's: MobileNetV2 on CamVid val at 960×720, trained in full.",
        (
            Row("baseline", "3×3", 72.05),
            Row("blend_grouped", "grouped 3×3", 72.83),
            Row("blend_separable", "depthwise separable", 71.13),
            Row("blend_inverted_residual", "inverted residual", 71.98),
            Row("blend_1x1", "1×1", 71.69),
        ),
    ),
    Section(
        "Inference",
        "Nothing is trained here: the networks are those of the rows above, of the same seed. Two seeds make one pair of "
        "single-scale networks: its figure stands for both. The paper's: ResNet-18 on Cityscapes val; for bf16 it has none.",
        (
            Row("baseline", "one network, one scale, fp32", 75.35),
            Row("multi_scale", "five scales", 76.3),
            Row("ensemble_same", "two single-scale networks", 76.45),
            Row("ensemble_mixed", "single scale and pyramid of 3 levels", 77.12),
            Row("fp16", "fp16", 75.34),
            Row("bf16", "bf16"),
        ),
    ),
    Section(
        "Multi-scale inference of the pyramid",
        "The paper's: ResNet-18 on Cityscapes val, a pyramid of 2 levels.",
        (Row("pyramid_3", "pyramid of 3 levels, one scale", 75.45), Row("multi_scale_pyramid", "five scales", 76.4)),
    ),
    Section(
        "ResNet-18 from scratch",
        "There are no ImageNet weights of ResNet-18 here. The paper's: MobileNetV2's row has none, ResNet-18 without ImageNet "
        "on Cityscapes val 70.4.",
        (Row("imagenet_none", "MobileNetV2 from scratch"), Row("rn18_scratch", "ResNet-18 from scratch", 70.4)),
    ),
)
INTRODUCTION = """\
# The paper's comparisons in small

Made by `python benchmarks/reproduction.py` from the files in `benchmarks/results/DEVICE/experiments`, each with configuration,
seed, device, commit, learning curve and confusion matrix. This command writes them, and goes on where it was stopped:

```
swiftnet experiments --data CAMVID --imagenet mobilenet_v2.safetensors --results benchmarks/results/DEVICE/experiments
```

CamVid at 480×360, MobileNetV2 unless said. Networks are trained on the whole training split, the last weights count, and the
validation split is read once for each row and seed. The schedule is short, so figures are lower than a full training's; it is
the same for all rows, so rows can be compared. Hyper-parameters were chosen on a held-out part of the training split.
*Direction* says whether the difference to the table's first row has the sign of the paper's, where every seed has the same
sign; it does not compare sizes.
"""
SUMMARY = """\
## What agrees, and what does not

Points of mIoU from the first row of the table that it stands in. Sizes differ a good deal: in so short a schedule what has
not ImageNet's weights, or has other blends, is still far from converged, which these figures cannot tell apart from what
the network could reach.
"""
DISPARITY = """\
## By disparity

Rendered scenes, trained on 200 and measured on 50 others; the sky has no disparity. In the paper the pyramid is 1.4 points
better than single scale on the nearest 5 % of the pixels, and 3.2 worse on the farthest. In the rendered scenes the nearest
5 % are the road before the car and nothing else, so they compare nothing; 116 px of disparity are 1 m. One figure for each
seed, mIoU in %; *classes* are those that are there or predicted.
"""
PYRAMID_GAINS = {"nearest": 1.4, "farthest": -3.2}  # the paper's, in points of mIoU over single scale
BY_DISPARITY = (Row("synthetic_single", "single scale"), Row("synthetic_pyramid", "pyramid, 3 levels"))

Results = Dict[str, Dict[int, dict]]  # by row and seed


def load(folder: Path) -> Results:
    found: Results = {}
    for path in sorted(folder.glob("*/experiments/*.json")):
        record = json.loads(path.read_text())
        found.setdefault(record["row"], {})[record["seed"]] = record
    return found


def _miou(results: Results, row: str) -> Dict[int, float]:
    return {seed: record["mIoU"] for seed, record in results.get(row, {}).items()}


def verdict(differences: List[float], paper: Optional[float]) -> str:
    """What differences to the first row, one for each seed, say of the paper's."""
    if not differences:
        return "not run"
    if len(differences) < 2:
        return "one seed: no conclusion"
    if not any(differences):
        return "equal"
    if min(differences) < 0 < max(differences):
        return "seeds disagree: no conclusion"
    if paper is None:
        return "higher" if differences[0] > 0 else "lower"
    return "agrees" if differences[0] * paper > 0 else "differs"


def _table(section: Section, results: Results) -> List[str]:
    first = section.rows[0]
    lines = ["| | mIoU, % | seeds | to the first row | the paper's | to its first row | direction |"]
    lines.append("| --- | ---: | --- | ---: | ---: | ---: | --- |")
    for row in section.rows:
        ours = _miou(results, row.name)
        mean = f"{statistics.mean(ours.values()):.2f}" if ours else "not run"
        seeds = ", ".join(f"{ours[seed]:.2f}" for seed in sorted(ours))
        paper = "" if row.paper is None else f"{row.paper:.2f}"
        if row is first:
            lines.append(f"| {row.label} | {mean} | {seeds} | | {paper} | | |")
            continue
        differences, theirs = _differences(results, section, row)
        shown = f"{statistics.mean(differences):+.2f}" if differences else ""
        lines.append(
            f"| {row.label} | {mean} | {seeds} | {shown} | {paper} | {'' if theirs is None else f'{theirs:+.2f}'} "
            f"| {verdict(differences, theirs)} |"
        )
    return lines


def _differences(results: Results, section: Section, row: Row) -> Tuple[List[float], Optional[float]]:
    """From the section's first row: ours, one for each seed, and the paper's."""
    base, ours, first = _miou(results, section.rows[0].name), _miou(results, row.name), section.rows[0]
    theirs = None if row.paper is None or first.paper is None else row.paper - first.paper
    return [ours[seed] - base[seed] for seed in sorted(ours) if seed in base], theirs


def _summary(results: Results) -> List[str]:
    """The rows that the paper has too, by what they say of it."""
    compared = [(f"{s.title}: {row.label}", *_differences(results, s, row)) for s in SECTIONS for row in s.rows[1:]]
    for group, theirs in PYRAMID_GAINS.items():
        pairs = [(a, b) for a, b in _disparity_groups(results) if a[0]["name"].startswith(group)]
        ours = [there["mIoU"] - here["mIoU"] for a, b in pairs for here, there in zip(a, b)]
        compared.append((f"By disparity: the pyramid on the {group} 5 %", ours, theirs))
    found: Dict[str, List[str]] = {}
    for name, ours, theirs in compared:
        if theirs is not None:
            shown = f"{statistics.mean(ours):+.2f}, the paper's {theirs:+.2f}" if ours else "not run"
            found.setdefault(verdict(ours, theirs), []).append(f"{name} ({shown})")
    return [line for said in sorted(found) for line in (f"**{said}**", "", *(f"- {row}" for row in found[said]), "")]


def _disparity_groups(results: Results) -> List[Tuple[List[dict], List[dict]]]:
    """For each group of pixels its records of both networks, one for each seed that both were trained from."""
    single, pyramid = (results.get(row.name, {}) for row in BY_DISPARITY)
    seeds = sorted(set(single) & set(pyramid))
    count = len(single[seeds[0]]["disparity"]) if seeds else 0
    return [tuple([r[s]["disparity"][i] for s in seeds] for r in (single, pyramid)) for i in range(count)]


def _by_disparity(results: Results) -> List[str]:
    lines = [
        "| pixels | share, % | classes | "
        + " | ".join(row.label for row in BY_DISPARITY)
        + " | difference | direction |",
        "| --- | ---: | ---: | --- | --- | --- | --- |",
    ]
    for groups in _disparity_groups(results):
        group = groups[0][0]
        paper = next((gain for name, gain in PYRAMID_GAINS.items() if group["name"].startswith(name)), None)
        differences = [theirs["mIoU"] - ours["mIoU"] for ours, theirs in zip(*groups)]
        present = len(group["IoU"]) - len(group["absent"])
        figures = [", ".join(f"{g['mIoU']:.2f}" for g in some) for some in groups]
        figures.append(", ".join(f"{d:+.2f}" for d in differences))
        lines.append(
            f"| {group['name']} | {group['share']:.1f} | {present} | {' | '.join(figures)} | {verdict(differences, paper)} |"
        )
    return lines


def _provenance(results: Results) -> List[str]:
    """Where the figures come from: devices, dates, commits, and the base row's schedule."""
    records = [record for seeds in results.values() for record in seeds.values()]
    by_device: Dict[str, List[dict]] = {}
    for record in records:
        by_device.setdefault(record["device"], []).append(record)
    lines = []
    for device, some in sorted(by_device.items()):
        dates = sorted({r["date"] for r in some})
        commits = sorted({str(r["commit"])[:9] for r in some})
        torch = ", ".join(sorted({r["torch"] for r in some}))
        lines.append(
            f"- {device}: {len(some)} results, {dates[0]} to {dates[-1]}, PyTorch {torch}, commits {', '.join(commits)}"
        )
    return lines


def page(results: Results) -> str:
    base = next(iter(results.get("baseline", {}).values()), None)
    lines = [INTRODUCTION]
    if base is not None:
        c = base["config"]
        lines += [
            f"Schedule: {c['run']['epochs']} epochs, batches of {c['run']['batch']} crops of {c['data']['crop']}, scaled by "
            f"{c['data']['scale'][0]:g} to {c['data']['scale'][1]:g}, {c['run']['precision']}, class balance "
            f"{c['loss']['class_balance']:g}, learning rate {c['optimizer']['lr']:g}.",
            "",
        ]
    lines += [SUMMARY, *_summary(results)]
    for section in SECTIONS:
        slug = section.title.lower().replace(" ", "_")
        lines += [f"## {section.title}", "", section.about, "", *_table(section, results), ""]
        if any(_miou(results, row.name) for row in section.rows):
            lines += [f"![{section.title}](reproduction/{slug}.png)", ""]
    if base is not None:
        lines += [
            "## Curve and classes",
            "",
            "![curve](reproduction/curve.png)",
            "![classes](reproduction/classes.png)",
            "",
        ]
    lines += [
        DISPARITY,
        *_by_disparity(results),
        "",
        "## Where it ran",
        "",
        *(_provenance(results) or ["Nothing yet."]),
    ]
    return "\n".join(lines) + "\n"


def draw(results: Results) -> None:
    from swiftnet_ext.engine.charts import ablation_bars, class_bars, learning_curves

    CHARTS.mkdir(exist_ok=True)
    for section in SECTIONS:
        rows = [(row.label, sorted(_miou(results, row.name).values()), row.paper) for row in section.rows]
        rows = [row for row in rows if row[1]]
        if rows:
            ablation_bars(rows, CHARTS / f"{section.title.lower().replace(' ', '_')}.png", section.title)
    base = results.get("baseline", {})
    if base:
        record = base[min(base)]
        learning_curves(record["history"], CHARTS / "curve.png", f"baseline, seed {record['seed']}")
        compared = {n: results[n][min(results[n])]["IoU"] for n in ("baseline", "pyramid_3") if n in results}
        class_bars(compared, CHARTS / "classes.png", "IoU of every class, CamVid val")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the page is not what the result files say")
    arguments = parser.parse_args()
    results = load(RESULTS)
    text = page(results)
    if arguments.check:
        if not PAGE.is_file() or PAGE.read_text() != text:
            sys.exit(f"{PAGE}: not what the result files say; run python benchmarks/reproduction.py")
        return
    PAGE.write_text(text)
    draw(results)


if __name__ == "__main__":
    main()
