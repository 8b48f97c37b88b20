"""The decoder's native CPU kernels beside what the memory's bandwidth allows at best."""

import statistics
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import torch
from torch import Tensor

from ... import _native
from ...nn.fused import pyramid_grids
from ...nn.multi_scale import SUPPLEMENT_FACTORS
from ...ops import reference
from ...ops.native_cpu import aligned_bytes
from .plan import DTYPES, Effort
from .timing import Deadline, in_turns, quartiles, reason_of

CHANNELS, CLASSES = 128, 19
LARGE = 2**27  # bytes that the machine's copy moves: more than caches hold
GRIDS = (8, 4, 2)
CELLS = 16  # of the logits' map, between the values that are drawn for a smooth one
TURN = 0.1  # seconds


class Kernel(NamedTuple):
    """A call, which gives the output, the bytes of its maps, each read or written once, and the same in plain PyTorch."""

    call: Callable[[], Tensor]
    bytes: int
    eager: Callable[[], Tensor]


class Maker:
    """The calls at one size, of `_C.cpu`."""

    def __init__(self, cpu: Any, width: int, height: int, dtype: torch.dtype, threads: int) -> None:
        self.cpu, self.width, self.height, self.dtype, self.threads = cpu, width, height, dtype, threads
        self.random = torch.Generator().manual_seed(0)

    def map(self, channels: int, height: int, width: int) -> Tensor:
        drawn = torch.randn(1, channels, height, width, generator=self.random).to(self.dtype)
        return drawn.contiguous(memory_format=torch.channels_last)

    def smooth_map(self, channels: int, height: int, width: int) -> Tensor:
        """As logits are: neighbours mostly agree. The time of labels depends on it."""
        drawn = torch.randn(1, channels, -(-height // CELLS), -(-width // CELLS), generator=self.random)
        smooth = reference.resize(drawn, (height, width), "bilinear").to(self.dtype)
        return smooth.contiguous(memory_format=torch.channels_last)

    def parameter(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random) / 8

    def at(self, stride: float) -> Tuple[int, int]:
        """(height, width) of a map, rounded up."""
        return int(-(-self.height // stride)), int(-(-self.width // stride))

    def upsample_add(self) -> Kernel:
        x, skip = self.map(CHANNELS, *self.at(8)), self.map(CHANNELS, *self.at(4))
        scale, shift, out = self.parameter(CHANNELS), self.parameter(CHANNELS), torch.empty_like(skip)

        def call() -> Tensor:
            self.cpu.upsample_add(x, skip, scale, shift, True, False, out, self.threads)
            return out

        def eager() -> Tensor:
            total = reference.resize(x, skip.shape[2:], "bilinear") + skip
            return reference.affine_relu(total, scale.to(x.dtype), shift.to(x.dtype))

        return Kernel(call, _bytes(x, skip, out), eager)

    def spatial_pyramid_pool(self) -> Kernel:
        x = self.map(CHANNELS, *self.at(32))
        out, levels = torch.empty_like(x), CHANNELS // len(GRIDS)
        fused = CHANNELS + levels * len(GRIDS)
        weight, fuse = self.parameter(len(GRIDS), levels, CHANNELS), self.parameter(CHANNELS, fused)
        affines = [self.parameter(len(GRIDS), CHANNELS) for _ in range(2)] + [self.parameter(fused) for _ in range(2)]
        grids = pyramid_grids(GRIDS, *self.at(32), square=False)
        sizes = [side for grid in grids for side in grid]
        workspace = aligned_bytes(self.cpu.spatial_pyramid_pool_workspace(x, weight, sizes, out, self.threads))
        in_dtype = [p.to(x.dtype) for p in (weight, fuse, *affines)]
        names = ("level_scale", "level_shift", "fuse_scale", "fuse_shift")

        def call() -> Tensor:
            given = (x, weight, fuse, None, *affines, sizes, False, workspace, out, self.threads)
            self.cpu.spatial_pyramid_pool(*given)
            return out

        def eager() -> Tensor:
            options: Any = dict(zip(names, in_dtype[2:]), grids=grids)
            return reference.spatial_pyramid_pool(x, in_dtype[0], in_dtype[1], **options)

        return Kernel(call, _bytes(x, out), eager)

    def labels(self, factors: Tuple[float, ...]) -> Kernel:
        maps = [self.smooth_map(CLASSES, *self.at(4 / factor)) for factor in factors]
        size = self.height, self.width
        out = torch.empty(1, *size, dtype=torch.uint8)
        order = "softmax_then_resize" if len(factors) > 1 else "resize_then_softmax"
        workspace = aligned_bytes(self.cpu.multiscale_mean_workspace(maps, order, out, self.threads))

        def call() -> Tensor:
            self.cpu.multiscale_mean(maps, order, out, workspace, self.threads)
            return out

        return Kernel(
            call, _bytes(*maps, out), lambda: reference.multiscale_mean(maps, size, order=order, reduce="argmax")
        )


MAKERS: Dict[str, Callable[[Maker], Kernel]] = {
    "upsample_add, stride 4": Maker.upsample_add,
    "spatial_pyramid_pool, stride 32": Maker.spatial_pyramid_pool,
    "labels, one scale": lambda maker: maker.labels((1.0,)),
    "labels, five scales": lambda maker: maker.labels(SUPPLEMENT_FACTORS),
}


def _bytes(*maps: Tensor) -> int:
    return sum(m.numel() * m.element_size() for m in maps)


def _copy(moved: int) -> Callable[[], Any]:
    """Reads and writes so many bytes in all."""
    source = torch.zeros(max(1, moved // 8), dtype=torch.float32)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


def _milliseconds(calls: Dict[str, Callable[[], Any]], effort: Effort) -> Dict[str, float]:
    def ignoring(call: Callable[[], Any]) -> Callable[[int], Any]:
        return lambda i: call()

    sides = {name: ignoring(call) for name, call in calls.items()}
    times, failed = in_turns(sides, "user", 1, torch.device("cpu"), effort, Deadline(None))
    if failed:
        raise RuntimeError("; ".join(failed.values()))
    return {name: 1000 * quartiles(timed.samples)[1] for name, timed in times.items()}


def measure_kernels(width: int, height: int, dtype: str, threads: int, effort: List[Any]) -> Dict[str, Any]:
    """{"copy_gbps": the machine's, "rows": of every kernel its time, and as a multiple of its floor}.

    The floor is the bytes by the bandwidth of a copy larger than the caches, which takes turns with the kernel. A copy of
    as many bytes is there too: it is faster where they fit a cache.
    """
    torch.set_num_threads(threads)
    how = Effort(*effort)._replace(turn=TURN)
    cpu, reason = _native.cpu()
    rows: List[Dict[str, Any]] = []
    large, bandwidths = _copy(LARGE), []
    with torch.inference_mode():
        for name, make in MAKERS.items():
            row: Dict[str, Any] = {"kernel": name, "width": width, "height": height, "dtype": dtype}
            try:
                if cpu is None:
                    raise RuntimeError(reason)
                kernel = make(Maker(cpu, width, height, DTYPES[dtype], threads))
                ms = _milliseconds({"kernel": kernel.call, "copy": _copy(kernel.bytes), "large": large}, how)
                floor = ms["large"] * kernel.bytes / LARGE
                bandwidths.append(LARGE / ms["large"] / 1e6)
                row.update(ms=_short(ms["kernel"]), bytes=kernel.bytes, floor_ms=_short(floor))
                row.update(of_floor=_short(ms["kernel"] / floor), copy_ms=_short(ms["copy"]), status="measured")
            except Exception as error:
                row.update(status="not measured", reason=reason_of(error))
            rows.append(row)
    return {"copy_gbps": _short(statistics.median(bandwidths)) if bandwidths else None, "rows": rows}


def _short(value: float) -> float:
    return float(f"{value:.4g}")
