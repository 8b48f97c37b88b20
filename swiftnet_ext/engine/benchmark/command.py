"""The command `swiftnet benchmark`."""

import shlex
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch
import typer

from ...data.images import find_images
from .figures import draw
from .plan import (
    ALLOCATORS,
    DTYPES,
    FULL,
    LOOPS,
    PEERS,
    PICTURES,
    QUICK,
    BenchmarkError,
    batch_of,
    cases,
    device_of,
    dtypes_of,
    half_precision,
    networks_of,
    one_of,
    size_of,
)
from .run import Kernels, Plan, run

MODELS = ("swiftnet_rn18", "swiftnet_mnv2")
SIZES, QUICK_SIZES = ("1024x512", "2048x1024"), ("512x256", "1024x512")
QUICK_PEERS = ("eager", "compile")
LIMIT, QUICK_LIMIT = 3600.0, 150.0  # seconds; Python's start and the charts are not in it
NAME = "benchmark.json"


def benchmark(
    model: Optional[List[str]] = typer.Option(
        None, "--model", help=f"A network's name; several, each with --model. {', '.join(MODELS)} if left out."
    ),
    weights: Optional[List[str]] = typer.Option(
        None,
        "--weights",
        help="A checkpoint; several, each with --weights. Networks by name have the shipped or random ones.",
    ),
    size: Optional[List[str]] = typer.Option(
        None, "--size", help=f"WIDTHxHEIGHT; several. {', '.join(SIZES)} if left out."
    ),
    batch: Optional[List[str]] = typer.Option(
        None, "--batch", help="Images that a call does; several, each with --batch. 1 if left out."
    ),
    dtype: Optional[List[str]] = typer.Option(
        None,
        "--dtype",
        help=f"{', '.join(DTYPES)}; several. fp32 and the device's half precision, if it has one, if left out.",
    ),
    device: Optional[str] = typer.Option(
        None, "--device", help="cpu, cuda or cuda:N; a GPU where there is one if left out."
    ),
    loop: Optional[List[str]] = typer.Option(
        None, "--loop", help="user: uint8 image to uint8 labels; paper: forward passes. Both if left out."
    ),
    peer: Optional[List[str]] = typer.Option(None, "--peer", help=f"{', '.join(PEERS)}; several. All if left out."),
    allocator: Optional[str] = typer.Option(
        None, "--allocator", help="tuned: glibc keeps freed memory; default; both if left out."
    ),
    images: Optional[List[str]] = typer.Option(
        None,
        "--images",
        help="Pictures or folders of them, of which the first four are scaled to each size; rendered ones if left out.",
    ),
    threads: Optional[int] = typer.Option(None, "--threads", min=1, help="PyTorch's own number if left out."),
    out: Path = typer.Option(Path("swiftnet_out"), "--out", help=f"The folder for {NAME} and charts."),
    limit: Optional[float] = typer.Option(
        None,
        "--limit",
        min=10,
        help=f"Seconds for everything; {LIMIT:.0f} if left out, and {QUICK_LIMIT:.0f} with --quick.",
    ),
    quick: bool = typer.Option(
        False,
        "--quick",
        help="Within 3 minutes: small images, short loops, the user's alone, eager; torch.compile for the largest batch alone.",
    ),
    resume: bool = typer.Option(False, "--resume", help="Measure only what the file in --out lacks."),
) -> None:
    """Time networks beside what a user would pick instead: eager, torch.compile, ONNX Runtime, OpenVINO.

    Sides take turns in one process for each row, and each side's labels are compared with eager fp32's. The file is
    whole after each row; --resume goes on where a run was stopped.
    """
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    found = device_of(where)
    on_cpu = found.type == "cpu"
    networks = networks_of(model or ([] if weights else MODELS), weights or [])
    sizes = [size_of(text) for text in size or (QUICK_SIZES if quick else SIZES)]
    batches = [batch_of(text) for text in batch or ["1"]]
    dtypes = dtypes_of(dtype or ([half_precision(found)] if quick else []), found)
    loops = [one_of("--loop", name, LOOPS) for name in loop or (LOOPS[:1] if quick else LOOPS)]
    peers = [one_of("--peer", name, PEERS) for name in peer or (QUICK_PEERS if quick else PEERS)]
    settings = ALLOCATORS[one_of("--allocator", allocator or ("tuned" if quick else "both"), list(ALLOCATORS))]
    pictures = [str(path.resolve()) for path in find_images(images)] if images else []
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchmarkError(f"{out}: can't be made a folder ({error.strerror}); name another")
    wanted = list(cases(networks, sizes, dtypes, [where], loops, settings, batches))
    at = [max(sizes, key=lambda s: s[0] * s[1])] if on_cpu else []
    kernels = [Kernels(*s, name) for s in at for name in reversed(dtypes)]
    seconds = limit or (QUICK_LIMIT if quick else LIMIT)
    command = shlex.join(["swiftnet", *sys.argv[1:]])
    effort = QUICK if quick else FULL
    plan = Plan(
        wanted, kernels, peers, pictures[:PICTURES], threads or torch.get_num_threads(), effort, seconds, quick, command
    )
    try:
        report = run(plan, out / NAME, resume, typer.echo)
    except KeyboardInterrupt:
        typer.echo(f"stopped; finished rows are in {out / NAME}, --resume goes on", err=True)
        raise typer.Exit(130)
    _draw(report, out)
    failed = [row for row in report["rows"] if row["status"] == "failed"]
    typer.echo(
        f"{sum(row['status'] == 'measured' for row in report['rows'])} of {len(report['rows'])} rows: {out / NAME}"
    )
    if failed:
        raise typer.Exit(1)


def _draw(report: Dict[str, Any], out: Path) -> None:
    try:
        for file in draw(report, out):
            typer.echo(f"chart: {file}")
    except ImportError as error:
        typer.echo(f'no charts: {error.name} is not installed: pip install "swiftnet_ext[train]"', err=True)
