"""The command `swiftnet`: predict, evaluate, train, experiments, benchmark, table, export, inspect, sample."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional

try:
    import PIL  # noqa: F401 - what the imports below need
    import rich.table
    import safetensors  # noqa: F401
    import typer
    from rich.console import Console
    from rich.progress import track
except ImportError as error:
    sys.exit(f'swiftnet needs {error.name}, which is not installed: pip install "swiftnet_ext[cli]"')

import torch

from . import __version__, load_checkpoint
from .cli_options import (
    BACKEND,
    DEVICE,
    FACTORS,
    FLIP,
    MULTI_SCALE,
    OPTIMIZE,
    ORDER,
    SHIPPED_NAMES,
    WEIGHTS,
    UserError,
    edges_of,
    factors_of,
    height_width_of,
    load,
    make_folder,
    make_folder_of,
    seeds_of,
)
from .data.classes import classes_for
from .data.datasets import KINDS, open_dataset
from .data.images import ImageError, find_images, write_image
from .data.labelled import DataError
from .engine.benchmark.command import benchmark
from .engine.benchmark.plan import BenchmarkError
from .engine.disparity import DisparityBins
from .engine.evaluate import evaluate as run_evaluation
from .engine.export import export_onnx
from .engine.predict import median_seconds, result_files
from .engine.predict import predict as run_prediction
from .engine.provenance import provenance
from .engine.run_folder import RunError
from .engine.shards import Finished, Worker, settings_key
from .engine.stop import Interrupted
from .engine.training_state import StateError
from .files import replacing
from .models.checkpoint import CheckpointError, inspect_checkpoint
from .ops import BackendError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def _worker() -> Worker:
    try:
        return Worker.of_environment()
    except ValueError as error:
        raise UserError(str(error))


def _track(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    """A progress bar on a terminal; nothing where output is piped."""
    console = Console(stderr=True)
    return track(items, description=what, total=total, console=console, disable=not console.is_terminal)


def _print_table(table: rich.table.Table) -> None:
    """Fitted to a terminal; whole where output is piped, where rich would cut it at 80 columns."""
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 1000).print(table)


def _print_disparity(records: List[Dict[str, Any]], measured: float) -> None:
    right = [rich.table.Column(name, justify="right") for name in ("share %", "mIoU %")]
    table = rich.table.Table("pixels by disparity", *right, "absent classes, not in the mean", box=None)
    for r in records:
        mean = "no pixels" if r["mIoU"] is None else f"{r['mIoU']:.2f}"
        table.add_row(r["name"], f"{r['share']:.2f}", mean, ", ".join(r["absent"]) or "none")
    _print_table(table)
    typer.echo(f"{100 * measured:.2f} % of the labelled pixels have a disparity; the shares are of these")


def _report_maker(folder: Path) -> Callable[[Any, int], Any]:
    """engine.report.Report, whose library may be missing: said before anything is evaluated."""
    try:
        from .engine.report import Report
    except ModuleNotFoundError as error:
        raise UserError(f'--report needs {error.name}, which is not installed: pip install "swiftnet_ext[train]"')
    make_folder(folder)
    return Report


@app.command()
def predict(
    images: List[str] = typer.Argument(..., metavar="IMAGE...", help="Files, folders of pictures, or quoted globs."),
    weights: Optional[List[Path]] = WEIGHTS,
    out: Path = typer.Option(Path("swiftnet_out"), "--out", help="The folder for the results."),
    device: Optional[str] = DEVICE,
    backend: str = BACKEND,
    optimise: bool = OPTIMIZE,
    multi_scale: bool = MULTI_SCALE,
    factors: Optional[str] = FACTORS,
    order: str = ORDER,
    flip: bool = FLIP,
    resume: bool = typer.Option(
        False, "--resume", help="Leave what an interrupted run with the same settings has finished."
    ),
) -> None:
    """Segment pictures: writes STEM_labels.png (class numbers), STEM_overlay.png and legend.png.

    Pictures of equal stems get their folders' names in front. A picture that can't be read is reported, the rest is
    still done, and the exit status is 1. Under torchrun each process does its share, on a GPU of its own where there
    are several; processes that torchrun starts again go on where they were.
    """
    worker = _worker()
    sources = find_images(images)
    try:
        result_files(sources, out)  # before the network is loaded, and anything is written
    except ValueError as error:
        raise UserError(str(error))
    make_folder(out)
    if device is None and torch.cuda.is_available():
        device = f"cuda:{worker.local_rank % torch.cuda.device_count()}"
    scales = factors_of(multi_scale, factors)
    loaded = load(weights, device, backend, optimise, scales, order, flip)
    finished = Finished(out, settings_key(loaded.model, [scales, order, flip]))
    share = range(worker.rank, len(sources), worker.world)
    predicted = run_prediction(loaded.runs, sources, out, worker, finished, resume or worker.restarted)
    outcomes = list(_track(predicted, len(share), "segmenting"))
    failed = [o for o in outcomes if o.error is not None]
    for outcome in failed:
        typer.echo(f"left out: {outcome.error}", err=True)
    done = len(outcomes) - len(failed)
    seconds = median_seconds(outcomes)
    timing = "" if seconds is None else f"; {1000 * seconds:.1f} ms a frame (median, uint8 image to labels)"
    before = f", {len(share) - len(outcomes)} finished before" if len(outcomes) < len(share) else ""
    typer.echo(f"{done} of {len(outcomes)} pictures segmented into {out}{timing}{before}")
    if failed:
        raise typer.Exit(1)


@app.command()
def evaluate(
    data: Path = typer.Option(
        ..., "--data", help="The data set's folder, e.g. with NAME/ for pictures and NAMEannot/ for labels."
    ),
    split: str = typer.Option(..., "--split", help="NAME, e.g. val."),
    dataset: str = typer.Option("auto", "--dataset", help=", ".join(KINDS) + "."),
    weights: Optional[List[Path]] = WEIGHTS,
    device: Optional[str] = DEVICE,
    backend: str = BACKEND,
    optimise: bool = OPTIMIZE,
    multi_scale: bool = MULTI_SCALE,
    factors: Optional[str] = FACTORS,
    order: str = ORDER,
    flip: bool = FLIP,
    dtype: str = typer.Option("fp32", "--dtype", help="Of weights and maps: fp32, fp16 or bf16."),
    report: Optional[Path] = typer.Option(None, "--report", help="A folder for charts and the worst pictures."),
    worst: int = typer.Option(8, "--worst", min=0, help="How many of these."),
    json_file: Optional[Path] = typer.Option(None, "--json", help="Write the figures to this file as well."),
    disparity: bool = typer.Option(False, "--disparity", help="Near and far pixels apart too, by NAMEdisparity/."),
    disparity_bins: Optional[str] = typer.Option(
        None, "--disparity-bins", help="Edges of further groups in pixels of disparity, e.g. 0,16,32,inf."
    ),
) -> None:
    """Per-class IoU and mIoU, in percent, of a checkpoint on a labelled data set."""
    edges, disparity = edges_of(disparity_bins), disparity or disparity_bins is not None
    if json_file is not None:
        make_folder_of(json_file)
    make_report = None if report is None else _report_maker(report)
    model, runs, how = load(weights, device, backend, optimise, factors_of(multi_scale, factors), order, flip, dtype)
    # the commit of the code that runs now, whatever is checked out when the figures are there
    origin = provenance(shlex.join(["swiftnet", *sys.argv[1:]]), next(model.parameters()).device)
    classes = classes_for(model.num_classes, model.classes)
    folder = open_dataset(dataset, str(data), split, classes=classes, disparity=disparity)
    bins = DisparityBins(folder, edges, lambda i: _track(i, len(folder), "disparities")) if disparity else None
    pages = None if make_report is None else make_report(folder, worst)
    also = [counter.update for counter in (bins, pages) if counter is not None]
    matrix = run_evaluation(runs, folder, lambda indices: _track(indices, len(folder), "evaluating"), also)
    if len(matrix.absent()) == model.num_classes:
        raise UserError(f"{data}: no labelled pixel in split {split!r}")
    iou, names = 100 * matrix.iou(), [c.name for c in classes]
    table = rich.table.Table("class", rich.table.Column("IoU %", justify="right"), box=None)
    for i, name in enumerate(names):
        table.add_row(name, "absent" if i in matrix.absent() else f"{iou[i]:.2f}")
    _print_table(table)
    if matrix.absent():
        typer.echo("absent classes are not in the mean: " + ", ".join(names[i] for i in matrix.absent()))
    records = [] if bins is None else bins.records(names)
    if bins is not None:
        _print_disparity(records, bins.measured)
    mean = 100 * matrix.mean_iou()
    typer.echo(f"mIoU {mean:.2f}")  # before anything is written, which may fail
    figures: Dict[str, Any] = {
        **origin,
        "model": repr(model),
        "how": how,
        "dtype": dtype,
        "pictures": len(folder),
        "mIoU": mean,
        "IoU": {n: None if i in matrix.absent() else iou[i] for i, n in enumerate(names)},
        "confusion": matrix.counts.tolist(),
    }
    if bins is not None:
        figures["disparity"] = {"measured": 100 * bins.measured, "bins": records}
    if pages is not None and report is not None:
        pages.write(report, matrix, figures)
        typer.echo(f"report: {report}", err=True)
    if json_file is not None:
        with replacing(json_file) as temporary:
            temporary.write_text(json.dumps(figures, indent=2) + "\n")


@app.command()
def train(
    config: str = typer.Argument(
        ..., metavar="CONFIG", help="A .yaml or .toml file, or camvid, cityscapes, synthetic."
    ),
    overrides: Optional[List[str]] = typer.Argument(
        None, metavar="SECTION.FIELD=VALUE...", help="Instead of CONFIG's."
    ),
    out: Optional[Path] = typer.Option(None, "--out", help="The run's folder; runs/CONFIG if left out."),
    resume: bool = typer.Option(
        False, "--resume", help="Go on from the newest checkpoint in the run's folder, if any."
    ),
    resume_from: Optional[Path] = typer.Option(None, "--resume-from", help="Go on from this checkpoint."),
) -> None:
    """Train a network: writes checkpoints, curves and weights.safetensors into the run's folder.

    Ctrl-C stops after the step at hand and keeps everything; --resume goes on.
    """
    try:
        from .engine.config import ConfigError, read_config
        from .engine.train import Trainer
    except ModuleNotFoundError as error:
        raise UserError(f'train needs {error.name}, which is not installed: pip install "swiftnet_ext[train]"')
    folder = out or Path("runs") / Path(config).stem
    try:
        trainer = Trainer(read_config(config, overrides or ()), folder, typer.echo, _track)
        trainer.run(resume, resume_from)
    except (ConfigError, RunError, StateError) as error:
        raise UserError(str(error))
    except Interrupted:
        typer.echo(f"stopped; everything is in {folder}, go on with --resume", err=True)
        raise typer.Exit(130)


@app.command()
def experiments(
    data: Path = typer.Option(..., "--data", help="CamVid's folder."),
    imagenet: Path = typer.Option(..., "--imagenet", help="MobileNetV2's ImageNet weights, in torchvision's names."),
    results: Path = typer.Option(..., "--results", help="The folder for ROW-SEED.json."),
    work: Path = typer.Option(Path("runs/experiments"), "--work", help="The folder for runs."),
    rows: Optional[str] = typer.Option(None, "--rows", help="Some of the rows, separated by commas; all if left out."),
    seeds: str = typer.Option("0,1", "--seeds", help="Separated by commas."),
    commit: bool = typer.Option(False, "--commit", help="Commit each result file by git."),
    show: bool = typer.Option(False, "--list", help="Print what is missing, and stop."),
) -> None:
    """Repeat the paper's comparisons in small: a queue of trainings that goes on where it was stopped.

    A row whose result file is there is done. docs/reproduction.md is made of the files.
    """
    try:
        from .engine.config import ConfigError
        from .engine.experiments import Queue, commit_result, read_table
    except ModuleNotFoundError as error:
        raise UserError(f'experiments needs {error.name}, which is not installed: pip install "swiftnet_ext[train]"')
    table, numbers = read_table(), seeds_of(seeds)
    names = [*table.trained, *table.derived] if rows is None else rows.split(",")
    done = commit_result if commit else None
    queue = Queue(table, str(data.resolve()), str(imagenet.resolve()), work, results, typer.echo, done)
    try:
        if not show:
            queue.run(names, numbers)
        typer.echo(f"missing: {', '.join(queue.missing(names, numbers)) or 'nothing'}")
    except (ConfigError, RunError, StateError) as error:
        raise UserError(str(error))
    except Interrupted:
        typer.echo("stopped; the same command goes on", err=True)
        raise typer.Exit(130)


@app.command("table")
def print_sizes(output: str = typer.Option("text", "--format", help="text, markdown or json.")) -> None:
    """Parameters and multiply-accumulates of every network, counted, beside the paper's figures; takes some seconds."""
    try:
        from .engine import table
    except ModuleNotFoundError as error:  # torch.utils.flop_counter
        raise UserError(f"table needs PyTorch 2.1 or later, this is {torch.__version__} ({error})")
    if output not in table.FORMATS:
        raise UserError(f"--format {output}: expected one of {', '.join(table.FORMATS)}")
    typer.echo(table.FORMATS[output](table.rows()))


@app.command()
def export(
    out: Path = typer.Option(..., "--out", help="The file to write, .onnx."),
    size: str = typer.Option(..., "--size", help="WIDTHxHEIGHT of the images, e.g. 480x360, or dynamic for any."),
    weights: Optional[Path] = typer.Option(None, "--weights", help=f"A checkpoint, or {SHIPPED_NAMES}."),
    output: str = typer.Option("labels", "--output", help="labels, probabilities or logits."),
    batch: int = typer.Option(1, "--batch", help="Images a run; 0 for any number."),
    opset: int = typer.Option(13, "--opset", help="ONNX's operator set, 13 to 17; TensorRT 8.0 takes 13."),
) -> None:
    """Write a network as an ONNX file, of standard operators only, for TensorRT or ONNX Runtime."""
    if out.suffix.lower() != ".onnx":
        raise UserError(f"{out}: expected a name that ends in .onnx")
    sides = height_width_of(size)
    model = load_checkpoint(None if weights is None else str(weights))
    make_folder(out.parent)
    try:
        export_onnx(model, out, sides, output, batch or None, opset)
    except (ImportError, ValueError) as error:
        raise UserError(str(error))
    megabytes = out.stat().st_size / 1e6
    typer.echo(f"{out}: {model.name}, images {size} (width x height), {output}, opset {opset}, {megabytes:.1f} MB")


@app.command()
def inspect(weights: Path = typer.Argument(..., help=f"A checkpoint, or {SHIPPED_NAMES}.")) -> None:
    """Say what a checkpoint holds: who wrote it, the network, its options."""
    info = inspect_checkpoint(str(weights))
    typer.echo(str(info))
    for key, value in sorted(info.metadata.items()):
        typer.echo(f"  {key}: {value}")


@app.command()
def sample(
    out: Path = typer.Argument(..., help="The picture to write, .png."),
    seed: int = typer.Option(1, "--seed", min=0, help="Another seed, another scene."),
) -> None:
    """Render a road scene to try `predict` on."""
    from .data.synthetic import render_scene

    if out.suffix.lower() != ".png":
        raise UserError(f"{out}: the scene is written as PNG; expected a name that ends in .png")
    make_folder(out.parent)
    write_image(out, render_scene(seed).image)
    typer.echo(f"rendered road scene {seed}: {out}")


app.command()(benchmark)


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True)) -> None:
    """Real-time road segmentation with SwiftNet."""


def main() -> None:
    """The console script: a user's error is one line and exit status 2."""
    try:
        app()
    except (UserError, ImageError, DataError, CheckpointError, BackendError, BenchmarkError, OSError) as error:
        print(f"swiftnet: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
