"""The options that several commands of `swiftnet` have, and what the text of an option becomes."""

import re
import tempfile
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import torch
import typer

from . import load_checkpoint, optimize, use_backend
from .engine.disparity import check_edges
from .models.checkpoint import SHIPPED
from .nn.multi_scale import SUPPLEMENT_FACTORS, Ensemble

SHIPPED_NAMES = "one of the shipped ones: " + ", ".join(SHIPPED)
WEIGHTS = typer.Option(
    None, "--weights", help=f"A checkpoint, or {SHIPPED_NAMES}; several, each with --weights, are an ensemble."
)
DEVICE = typer.Option(None, "--device", help="cpu, cuda or cuda:N; a GPU where there is one if left out.")
BACKEND = typer.Option("auto", "--backend", help="auto, reference, cpu, emulated or cuda.")
MULTI_SCALE = typer.Option(False, "--multi-scale", help="Average over the image at the supplement's sizes.")
FACTORS = typer.Option(None, "--factors", help="Of the image's size, instead of the supplement's, e.g. 0.5,0.75,1.")
ORDER = typer.Option("softmax_then_resize", "--order", help="Of averaging: this, or resize_then_softmax.")
FLIP = typer.Option(False, "--flip", help="Average over the mirrored image too.")
OPTIMIZE = typer.Option(
    True,
    "--optimize/--no-optimize",
    help="Folded for inference, or as it is; a --backend other than auto runs it so too.",
)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class UserError(Exception):
    """What a user can mend: printed without a traceback, exit status 2."""


def factors_of(multi_scale: bool, factors: Optional[str]) -> Sequence[float]:
    if factors is None:
        return SUPPLEMENT_FACTORS if multi_scale else (1.0,)
    try:
        return [float(f) for f in factors.split(",")]
    except ValueError:
        raise UserError(f"--factors {factors}: expected numbers separated by commas, e.g. 0.5,0.75,1")


def edges_of(text: Optional[str]) -> List[float]:
    try:
        edges = [] if text is None else [float(edge) for edge in text.split(",")]
        check_edges(edges)
        return edges
    except ValueError:
        raise UserError(f"--disparity-bins {text}: expected increasing numbers from 0, at least two, e.g. 0,16,32,inf")


def seeds_of(text: str) -> List[int]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UserError(f"--seeds {text}: expected numbers separated by commas, e.g. 0,1")
    return [int(seed) for seed in text.split(",")]


def height_width_of(text: str) -> Optional[Tuple[int, int]]:
    """WIDTHxHEIGHT, as pictures' sizes are written, to (height, width); None for dynamic."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match and text != "dynamic":
        raise UserError(f"--size {text}: expected WIDTHxHEIGHT in pixels, e.g. 480x360, or dynamic")
    return (int(match[2]), int(match[1])) if match else None


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: can't be made a folder ({error.strerror}); name another")


def make_folder_of(file: Path) -> None:
    """Before the work whose figures it shall hold."""
    make_folder(file.parent)
    if file.is_dir():
        raise UserError(f"{file}: is a folder; name a file")
    try:
        if file.is_file() or not file.exists():  # else it is a device or a pipe
            with tempfile.TemporaryFile(dir=file.resolve().parent):
                pass
    except OSError as error:
        raise UserError(f"{file}: can't be written ({error.strerror}); name another")


class Loaded(NamedTuple):
    """What a command works with: `model` as the checkpoints hold it, `runs` to segment with, and `how` that is, in words."""

    model: Any
    runs: Any
    how: str


def load(
    weights: Optional[List[Path]],
    device: Optional[str],
    backend: str,
    optimise: bool,
    factors: Sequence[float],
    order: str,
    flip: bool,
    dtype: str = "fp32",
) -> Loaded:
    """The network of a checkpoint; of several, or of several scales, their average. Says on stderr what runs."""
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

    def averaged(networks: List[Any]) -> Any:
        average = Ensemble(networks, factors, order, flip)
        return average if len(networks) > 1 or tuple(factors) != (1.0,) or flip else networks[0]

    try:
        model = averaged(models)
    except ValueError as error:
        raise UserError(str(error))
    try:
        if torch.device(name).type not in ("cpu", "cuda"):
            raise UserError(f"--device {name}: expected cpu, cuda or cuda:N")
        where = torch.empty(1, device=name).device
        fast, how = _optimised(models, where, DTYPES[dtype], "" if optimise else "--no-optimize", backend)
        model = model.eval().to(where, DTYPES[dtype])
    except (RuntimeError, AssertionError) as error:  # an unknown device, or a PyTorch without CUDA
        raise UserError(f"--device {name}: {error}")
    typer.echo(how, err=True)
    return Loaded(model, averaged(fast).eval() if fast else model, how)


def _optimised(
    models: List[Any], device: torch.device, dtype: torch.dtype, why_not: str, backend: str
) -> Tuple[List[Any], str]:
    """The networks for inference only and what runs them, or none and why: `why_not`, or what hinders it."""
    if not why_not and backend != "auto":
        why_not = f"--backend {backend}"
    if why_not:
        return [], f"not optimised: {why_not}"
    try:
        # measuring would take as long as dozens of pictures, at every size, to save a few percent
        fast = [optimize(model, device=device, dtype=dtype, measure=False) for model in models]
    except (ValueError, RuntimeError) as error:  # the latter: a PyTorch that is too old, or too little memory
        return [], f"not optimised: {error}"
    native = "by native kernels" if device.type == "cpu" else "by PyTorch and this package's operators"
    lacking = fast[0].why_not_native
    by = f"by PyTorch, without the native kernels: {lacking}" if lacking else native
    return fast, f"optimised: {str(dtype).replace('torch.', '')} on {device}, {by}"
