"""The operators by the native CPU kernels: layouts, packed weights, workspaces, and the calls of `_C.cpu`.

The kernels take dense channels_last maps of float32 or bfloat16 and float32 parameters, and sum in fp32. Maps in other
layouts are copied, and results come back in the layout that the operator promises.
"""

from typing import Any, List, Optional, Tuple

import torch
from torch import Tensor

from .. import _native
from . import packed
from .backend import CPU_DTYPES, allocated, current_backend, parameters
from .registration import in_layout_of, is_channels_last

# below these Winograd's transforms take longer than the products that they save
MIN_WINOGRAD_CHANNELS = MIN_WINOGRAD_OUTPUTS = 16
TILE = 4  # outputs a side of Winograd's; 0: directly


def kernels_for(first: Tensor, any_layout: bool = False, limit: str = "") -> Optional[Any]:
    """`_C.cpu` if it is to run an operator, else None: asked for by "cpu", and under "auto" where the first map is such
    as the kernels take without a copy. `limit` says what they can't do with the arguments, if anything."""
    backend, _ = current_backend()
    if backend not in ("auto", "cpu") or first.device.type != "cpu" or first.dtype not in CPU_DTYPES or limit:
        return None
    if backend == "auto" and not any_layout and not is_channels_last(first):
        return None
    return _native.cpu()[0]


def _map(op: str, x: Optional[Tensor]) -> Optional[Tensor]:
    """x, dense in channels_last."""
    if x is None or x.is_contiguous(memory_format=torch.channels_last):
        return x
    size = x.numel() * x.element_size()
    return allocated(op, size, x.device, lambda: x.contiguous(memory_format=torch.channels_last))


def _empty(like: Tensor, shape: Any) -> Tensor:
    return torch.empty(tuple(shape), dtype=like.dtype, device="cpu", memory_format=torch.channels_last)


def aligned_bytes(count: int) -> Tensor:
    """Uninitialised uint8 [count] at an address divisible by 64, as `_C.cpu` takes workspaces and packed weights."""
    memory = torch.empty(count + 63, dtype=torch.uint8, device="cpu")
    start = -memory.data_ptr() % 64
    return memory[start : start + count]


def _bytes(op: str, count: int) -> Tensor:
    return allocated(op, count, torch.device("cpu"), lambda: aligned_bytes(count))


def winograd_pays(kernels: Any, weight: Tensor) -> bool:
    """Whether "auto" is Winograd's algorithm for a 3×3 of this weight."""
    if weight.dtype is torch.bfloat16 and kernels.level() == "amx":
        return False
    return weight.shape[0] >= MIN_WINOGRAD_OUTPUTS and weight.shape[1] >= MIN_WINOGRAD_CHANNELS


def _packed(op: str, kernels: Any, weight: Tensor, tile: int) -> Tensor:
    dtype = str(weight.dtype).replace("torch.", "")
    key = "cpu {} {} {}".format(kernels.level(), dtype, tile)
    found = packed.find(weight, key)
    if found is not None:
        return found
    whole = weight.detach().float().contiguous()
    outputs, channels, kernel, _ = whole.shape
    made = _bytes(op, kernels.packed_bytes(dtype, tile, outputs, channels, kernel))
    kernels.pack_conv2d(whole, dtype, tile, made)
    packed.keep(weight, key, made)
    return made


def _convolve(
    op: str,
    kernels: Any,
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    algorithm: str = "direct",
    relu: bool = False,
    residual: Optional[Tensor] = None,
    up: Optional[Tensor] = None,
    mode: str = "bilinear",
    out: bool = True,
    tap: Optional[Tuple[Any, Any, bool]] = None,
) -> List[Tensor]:
    """The outputs that are asked for: [relu](sum), and for a tap of (scale, shift, relu) [relu](scale·sum + shift)."""
    kernel = weight.shape[2]
    winograd = algorithm == "winograd" or (algorithm != "direct" and winograd_pays(kernels, weight))
    shape = (x.shape[0], weight.shape[0], x.shape[2], x.shape[3])
    outputs = [_empty(x, shape) for wanted in (out, tap) if wanted]
    if outputs[0].numel() == 0:
        return outputs
    threads = torch.get_num_threads()
    scale, shift, tap_relu = tap or (None, None, False)
    (bias, scale, shift), nearest = parameters(bias, scale, shift), mode == "nearest"
    tapped = outputs[-1] if tap else None, scale, shift, tap_relu

    def run(tile: int) -> None:
        how = kernel, 1, kernel // 2, tile
        weights = _packed(op, kernels, weight, tile)
        workspace = _bytes(op, kernels.conv2d_workspace(x, outputs[0], *how, threads))
        activation = "relu" if relu else "none"
        kernels.conv2d(
            x, weights, *how, activation, bias, residual, up, nearest, outputs[0] if out else None, *tapped, workspace,
            threads,
        )  # fmt: skip

    run(TILE if winograd else 0)
    if winograd and not _is_finite(outputs[-1]):
        run(0)
    return outputs


def _is_finite(y: Tensor) -> bool:
    """Whether all of y is, and its sum. Winograd's algorithm spreads what is not over whole tiles, and makes it of
    numbers near the largest."""
    return bool(torch.isfinite(y.permute(0, 2, 3, 1).reshape(-1).sum()))


def _blend(kernels: Any, x: Any, skip: Tensor, scale: Any, shift: Any, mode: str) -> Tensor:
    """relu(scale·(up(x) + skip) + shift)."""
    y = _empty(skip, skip.shape)
    nearest, threads = mode == "nearest", torch.get_num_threads()
    kernels.upsample_add(x, skip, *parameters(scale, shift), True, nearest, y, threads)
    return y


def upsample_add_conv3x3(
    op: str, kernels: Any, x: Tensor, skip: Tensor, weight: Tensor, bias: Any, scale: Any, shift: Any, mode: str
) -> Tensor:
    activated = _blend(kernels, _map(op, x), _map(op, skip), scale, shift, mode)  # type: ignore[arg-type]
    (y,) = _convolve(op, kernels, activated, weight, bias, "auto")
    return in_layout_of(y, x)


def lateral_add(
    op: str, kernels: Any, tap: Tensor, weight: Tensor, x: Any, bias: Any, scale: Any, shift: Any, out_scale: Any,
    out_shift: Any, relu: bool, mode: str,
) -> Tensor:  # fmt: skip
    activated = _blend(kernels, None, _map(op, tap), scale, shift, mode)  # type: ignore[arg-type]
    affine = out_scale is not None or out_shift is not None
    (y,) = _convolve(
        op, kernels, activated, weight, bias, relu=relu, up=_map(op, x), mode=mode, out=not affine,
        tap=(out_scale, out_shift, relu) if affine else None,
    )  # fmt: skip
    return in_layout_of(y, tap)


def conv3x3(
    op: str, kernels: Any, x: Tensor, weight: Tensor, bias: Any, residual: Any, relu: bool, algorithm: str
) -> Tensor:
    given = _map(op, x)  # type: Any
    (y,) = _convolve(op, kernels, given, weight, bias, algorithm, relu, _map(op, residual))
    return in_layout_of(y, x)


def conv3x3_with_sum(
    op: str, kernels: Any, x: Tensor, weight: Tensor, bias: Any, residual: Any, algorithm: str
) -> Tuple[Tensor, Tensor]:
    given = _map(op, x)  # type: Any
    y, total = _convolve(op, kernels, given, weight, bias, algorithm, True, _map(op, residual), tap=(None, None, False))
    return in_layout_of(y, x), in_layout_of(total, x)


def conv3x3_head(
    op: str, kernels: Any, x: Tensor, weight: Tensor, head_weight: Tensor, bias: Any, head_bias: Any, scale: Any,
    shift: Any, algorithm: str,
) -> Tensor:  # fmt: skip
    given = _map(op, x)  # type: Any
    (hidden,) = _convolve(op, kernels, given, weight, bias, algorithm, out=False, tap=(scale, shift, True))
    (y,) = _convolve(op, kernels, hidden, head_weight, head_bias)
    return in_layout_of(y, x)


def spatial_pyramid_pool(
    op: str, kernels: Any, x: Tensor, level_weight: Tensor, fuse_weight: Tensor, fuse_bias: Any, level_scale: Any,
    level_shift: Any, fuse_scale: Any, fuse_shift: Any, sizes: List[int], mode: str,
) -> Tensor:  # fmt: skip
    given = _map(op, x)  # type: Any
    y = _empty(given, (x.shape[0], fuse_weight.shape[0], x.shape[2], x.shape[3]))
    if y.numel():
        weight, fuse, *vectors = parameters(
            level_weight, fuse_weight, fuse_bias, level_scale, level_shift, fuse_scale, fuse_shift
        )
        threads, sizes = torch.get_num_threads(), list(sizes)
        workspace = _bytes(op, kernels.spatial_pyramid_pool_workspace(given, weight, sizes, y, threads))
        kernels.spatial_pyramid_pool(given, weight, fuse, *vectors, sizes, mode == "nearest", workspace, y, threads)
    return in_layout_of(y, x)


def multiscale_mean(op: str, kernels: Any, logits: List[Tensor], order: str, y: Tensor) -> Tensor:
    """Into y, which is of the layout that the operator promises."""
    maps = [m if m.is_contiguous() else _map(op, m) for m in logits]
    if y.numel():
        threads = torch.get_num_threads()
        workspace = _bytes(op, kernels.multiscale_mean_workspace(maps, order, y, threads))
        kernels.multiscale_mean(maps, order, y, workspace, threads)
    return y
