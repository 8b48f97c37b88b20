"""The GPU report's step simt: the fp32 kernels at SwiftNet-RN18's sizes on 2048×1024 against eager PyTorch.

Neither side uses TF32. A convolution's TFLOP/s count the direct form's products, whatever its algorithm does.
"""

import contextlib
import itertools
import statistics
from typing import Callable, Dict, Iterator

import torch

import swiftnet_ext as sx
from benchmarks.bench_operators import CHANNELS, check_close, conv, drawer, lateral, multiscale, pyramid
from benchmarks.gpu import StepFailed, fp32_without_tf32
from swiftnet_ext import ops
from swiftnet_ext.nn import UpsampleBlend, fused

ALGORITHMS = {name: {"algorithm": name} for name in ("direct", "winograd")}
ZOOM = 2  # of bench_operators' 1024×512
REQUIRED = {  # row → column, at least
    "conv3x3 128→128, direct": ("of_peak", 0.7),
    "conv3x3 64→64, direct": ("of_peak", 0.7),
    "block": ("speedup", 1.2),
    "multiscale labels": ("speedup", 10),
}


def blend_conv(draw, zoom: float, library=ops) -> Callable[..., torch.Tensor]:
    x, weight = draw(1, CHANNELS, int(128 * zoom), int(256 * zoom)), draw(CHANNELS, CHANNELS, 3, 3) / 34
    return lambda **options: library.conv3x3(x, weight, **options)


def block(draw, zoom: float, stride: int = 4) -> Callable[[], torch.Tensor]:
    height, width, channels = int(512 * zoom) // stride, int(1024 * zoom) // stride, 16 * stride
    x, tap = draw(1, CHANNELS, height // 2, width // 2), draw(1, channels, height, width)
    memory_format = torch.channels_last if x.stride(1) == 1 else torch.contiguous_format
    module = UpsampleBlend(CHANNELS, channels).eval().to(x).to(memory_format=memory_format)
    return lambda: module(x, tap)


CONVOLUTIONS = {"conv3x3 128→128": (blend_conv, 128), "conv3x3 64→64": (conv, 64)}  # with their channels
OTHERS = {
    "lateral_add": lateral,
    "block": block,
    "spatial_pyramid_pool": pyramid,
    "multiscale mean": lambda draw, zoom: multiscale(draw, "mean", zoom),
    "multiscale labels": lambda draw, zoom: multiscale(draw, "argmax", zoom),
}


@contextlib.contextmanager
def eager() -> Iterator[None]:
    with sx.use_backend("reference"), fused.plain_pytorch(), torch.inference_mode():
        yield


@contextlib.contextmanager
def kernels(device, strict: bool = True) -> Iterator[None]:
    with sx.use_backend(device.backend, strict), torch.inference_mode():
        yield


def milliseconds(device, function, ours: Dict[str, dict], quick: bool) -> Dict[str, float]:
    """Medians of eager PyTorch ("eager") and of each of ours, in turns; all must give the same result."""
    with eager():
        expected = function()
    sides = {"eager": (eager, function)}
    for name, options in ours.items():
        sides[name] = (lambda: kernels(device), lambda options=options: function(**options))
        with kernels(device):
            check_close(function(**options), expected)
    times: Dict[str, list] = {name: [] for name in sides}
    for _ in range(2 if quick else 5):
        for name, (context, call) in sides.items():
            with context():
                times[name].append(device.microseconds(call, 3 if quick else 20))
    return {name: statistics.median(rounds) / 1000 for name, rounds in times.items()}


def measure(device, quick: bool) -> Dict[str, object]:
    fp32_without_tf32()
    peak, zoom, rows = device.fp32_peak(), ZOOM / device.shrink, []
    for name, memory_format in itertools.product(
        [*CONVOLUTIONS, *OTHERS], (torch.contiguous_format, torch.channels_last)
    ):
        make, channels = CONVOLUTIONS.get(name) or (OTHERS[name], 0)
        function = make(drawer(device.device, memory_format=memory_format), zoom)
        times = milliseconds(device, function, ALGORITHMS if channels else {"": {}}, quick)
        for algorithm in (a for a in times if a != "eager"):
            values = {"eager_ms": times["eager"], "kernel_ms": times[algorithm]}
            values["speedup"] = values["eager_ms"] / values["kernel_ms"]
            if channels:
                flop = 2 * 9 * channels**2 * int(128 * zoom) * int(256 * zoom)
                values["tflops"] = flop / (values["kernel_ms"] * 1e9)
                values["of_peak"] = values["tflops"] / peak
            operator = f"{name}, {algorithm}" if algorithm else name
            layout = "nhwc" if memory_format is torch.channels_last else "nchw"
            row = {"operator": operator, "layout": layout, **{k: round(v, 4) for k, v in values.items()}}
            if operator in REQUIRED:
                column, least = REQUIRED[operator]
                row.update(required=f"{column} ≥ {least}", status="passed" if values[column] >= least else "failed")
            rows.append(row)
    measured = {"image": f"{1024 * zoom:g}×{512 * zoom:g}", "fp32_peak_tflops": peak, "rows": rows}
    missed = [r for r in rows if r.get("status") == "failed"]
    if missed:
        texts = (
            f"{r['operator']} {r['layout']} has {r[REQUIRED[r['operator']][0]]} for {r['required']}" for r in missed
        )
        raise StepFailed("; ".join(texts), **measured)
    return measured
