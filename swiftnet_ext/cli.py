"""The command `swiftnet`: predict, evaluate, train, benchmark, table, export, inspect, sample."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

try:
    import PIL
    import rich.table
    import safetensors
    import typer
    from rich.console import Console
    from rich.progress import track
except ImportError as error:
    sys.exit(f'swiftnet needs {error.name}, which is not installed: pip install "swiftnet_ext[cli]"')

import torch

from . import __version__, load_checkpoint, use_backend
from .data.classes import classes_for
from .data.datasets import KINDS, open_dataset
from .data.images import ImageError, find_images, write_image
from .data.labelled import DataError
from .engine.benchmark.command import benchmark
from .engine.benchmark.plan import BenchmarkError
from .engine.disparity import DisparityBins, check_edges
from .engine.evaluate import evaluate as run_evaluation
from .engine.export import export_onnx
from .engine.predict import median_seconds
from .engine.predict import predict as run_prediction
from .engine.provenance import provenance
from .engine.shards import Finished, Worker, settings_key
from .files import replacing
from .models.checkpoint import SHIPPED, CheckpointError, inspect_checkpoint
from .nn.multi_scale import SUPPLEMENT_FACTORS, Ensemble
from .ops import BackendError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

SHIPPED_NAMES = "one of the shipped ones: " + ", ".join(SHIPPED)
WEIGHTS = typer.Option(
    None, "--weights", help=f"A checkpoint, or {SHIPPED_NAMES}; several, each with --weights, are an ensemble."
)
DEVICE = typer.Option(None, "--device", help="cpu, cuda or cuda:N; a GPU where there is one if left out.")
BACKEND = typer.Option("auto", "--backend", help="auto, reference, cpu, emulated or cuda.")
MULTI_SCALE = typer.Option(False, "--multi-scale", help="Average over the image at the supplement's sizes.")
FACTORS = typer.Option(None, "--factors", help="Of the image's size, instead of the supplement's, e.g. 0.5,0.75,1.")
ORDER = typer.Option("softmax_then_resize", "--order", help="Of averaging: this, or resize_then_softmax.")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
FLIP = typer.Option(False, "--flip", help="Average over the mirrored image too.")


class UserError(Exception):
    """What a user can mend: printed without a traceback, exit status 2."""


def _factors(multi_scale: bool, factors: Optional[str]) -> Sequence[float]:
    if factors is None:
        return SUPPLEMENT_FACTORS if multi_scale else (1.0,)
    try:
        return [float(f) for f in factors.split(",")]
    except ValueError:
        raise UserError(f"--factors {factors}: expected numbers separated by commas, e.g. 0.5,0.75,1")


def _load(
    weights: Optional[List[Path]],
    device: Optional[str],
    backend: str,
    factors: Sequence[float],
    order: str,
    flip: bool,
    dtype: str = "fp32",
) -> Any:
    """The network of a checkpoint; of several, or of several scales, their average."""
    try:
        use_backend(backend)
    except ValueError as error:
        raise UserError(str(error))
    if dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}")
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    models = [load_checkpoint(path) for path in (map(str, weights) if weights else [None])]
    for loaded in models if weights else ():
        typer.echo(loaded.loaded_from, err=True)
    try:
        averaged = Ensemble(models, factors, order, flip)
    except ValueError as error:
        raise UserError(str(error))
    model = averaged if len(models) > 1 or tuple(factors) != (1.0,) or flip else models[0]
    try:
        if torch.device(name).type not in ("cpu", "cuda"):
            raise UserError(f"--device {name}: expected cpu, cuda or cuda:N")
        return model.eval().to(torch.device(name), DTYPES[dtype])
    except (RuntimeError, AssertionError) as error:  # an unknown device, or a PyTorch without CUDA
        raise UserError(f"--device {name}: {error}")


def _worker() -> Worker:
    try:
        return Worker.of_environment()
    except ValueError as error:
        raise UserError(str(error))


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: can't be made a folder ({error.strerror}); name another")


def _track(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    """A progress bar on a terminal; nothing where output is piped."""
    console = Console(stderr=True)
    return track(items, description=what, total=total, console=console, disable=not console.is_terminal)


def _print_table(table: rich.table.Table) -> None:
    """Fitted to a terminal; whole where output is piped, where rich would cut it at 80 columns."""
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 1000).print(table)


def _edges(text: Optional[str]) -> List[float]:
    try:
        edges = [] if text is None else [float(edge) for edge in text.split(",")]
        check_edges(edges)
        return edges
    except ValueError:
        raise UserError(f"--disparity-bins {text}: expected increasing numbers from 0, at least two, e.g. 0,16,32,inf")


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
    _make_folder(folder)
    return Report


@app.command()
def predict(
    images: List[str] = typer.Argument(..., metavar="IMAGE...", help="Files, folders of pictures, or quoted globs."),
    weights: Optional[List[Path]] = WEIGHTS,
    out: Path = typer.Option(Path("swiftnet_out"), "--out", help="The folder for the results."),
    device: Optional[str] = DEVICE,
    backend: str = BACKEND,
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
    _make_folder(out)
    if device is None and torch.cuda.is_available():
        device = f"cuda:{worker.local_rank % torch.cuda.device_count()}"
    scales = _factors(multi_scale, factors)
    model = _load(weights, device, backend, scales, order, flip)
    finished = Finished(out, settings_key(model, [scales, order, flip]))
    share = range(worker.rank, len(sources), worker.world)
    predicted = run_prediction(model, sources, out, worker, finished, resume or worker.restarted)
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
    edges, disparity = _edges(disparity_bins), disparity or disparity_bins is not None
    if json_file is not None:
        _make_folder(json_file.parent)
    make_report = None if report is None else _report_maker(report)
    model = _load(weights, device, backend, _factors(multi_scale, factors), order, flip, dtype)
    classes = classes_for(model.num_classes, model.classes)
    folder = open_dataset(dataset, str(data), split, classes=classes, disparity=disparity)
    bins = DisparityBins(folder, edges, lambda i: _track(i, len(folder), "disparities")) if disparity else None
    pages = None if make_report is None else make_report(folder, worst)
    also = [counter.update for counter in (bins, pages) if counter is not None]
    matrix = run_evaluation(model, folder, lambda indices: _track(indices, len(folder), "evaluating"), also)
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
    figures: Dict[str, Any] = {
        **provenance(shlex.join(["swiftnet", *sys.argv[1:]]), next(model.parameters()).device),
        "model": repr(model),
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
        typer.echo(f"report: {report}")
    if json_file is not None:
        with replacing(json_file) as temporary:
            temporary.write_text(json.dumps(figures, indent=2) + "\n")
    typer.echo(f"mIoU {mean:.2f}")


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
        from .engine.train import Interrupted, RunError, StateError, Trainer
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


def _seeds(text: str) -> List[int]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UserError(f"--seeds {text}: expected numbers separated by commas, e.g. 0,1")
    return [int(seed) for seed in text.split(",")]


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
        from .engine.train import Interrupted, RunError, StateError
    except ModuleNotFoundError as error:
        raise UserError(f'experiments needs {error.name}, which is not installed: pip install "swiftnet_ext[train]"')
    table, numbers = read_table(), _seeds(seeds)
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


def _size(text: str) -> Optional[Tuple[int, int]]:
    """WIDTHxHEIGHT, as pictures' sizes are written, to (height, width); None for dynamic."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match and text != "dynamic":
        raise UserError(f"--size {text}: expected WIDTHxHEIGHT in pixels, e.g. 480x360, or dynamic")
    return (int(match[2]), int(match[1])) if match else None


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
    sides = _size(size)
    model = load_checkpoint(None if weights is None else str(weights))
    _make_folder(out.parent)
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
    _make_folder(out.parent)
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
