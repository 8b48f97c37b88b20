"""The ways in which the CPU runs a step: native kernels, and oneDNN writing into the same maps."""

from functools import partial
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..models.pyramid import bicubic_weights
from ..ops.native_cpu import aligned_bytes
from .onednn import OneDNN, activate_, has_onednn
from .plan import LOGITS, Convolution, InvertedResidual, MaxPool, Plan, PyramidPool, Resize

Views = Dict[str, Tensor]
Call = Callable[[], Any]
WINOGRAD, DIRECT, ONEDNN, NATIVE = "winograd", "direct", "oneDNN", "native"
FUSED, SEPARATE = "fused", "separate"  # of inverted residuals
MOST_CHANNELS_OF_6 = 128  # whose weights still fit beside a core's tiles


class Way(NamedTuple):
    """`prepare(workspace)` gives the call; the workspace has at least so many bytes."""

    workspace: int
    prepare: Callable[[Tensor], Call]


class Ways:
    """Prepares the steps of a plan; weights are packed once for each way and kept while it is in use."""

    def __init__(self, kernels: Any, plan: Plan, dtype: torch.dtype) -> None:
        self.kernels, self.plan, self.dtype, self.onednn = kernels, plan, dtype, has_onednn(dtype)
        self.packed: Dict[Tuple[Any, ...], Any] = {}  # by step and way

    def of(self, i: int, views: Views, threads: int) -> Dict[str, Way]:
        """The ways of a step by name; the first is the rule's."""
        step = self.plan.steps[i]
        if isinstance(step, Convolution):
            return self._convolution(i, step, views, threads)
        if isinstance(step, PyramidPool):
            return {NATIVE: self._pool(step, views, threads)}
        x, out = views[step.x], views[step.output]
        if isinstance(step, MaxPool):
            return {NATIVE: _fixed(partial(self.kernels.max_pool3x3, x, out, threads))}
        return self._resize(step, x, out, threads)

    def forget_unused(self, chosen: Sequence[Sequence[Any]]) -> None:
        """Drops weights packed for ways that no kept size uses."""
        used = {(i, choice.name) for choices in chosen for i, choice in enumerate(choices)}
        self.packed = {key: weight for key, weight in self.packed.items() if key[:2] in used}

    def _resize(self, step: Resize, x: Tensor, out: Tensor, threads: int) -> Dict[str, Way]:
        if step.kind == "bilinear":
            return {NATIVE: _fixed(partial(self.kernels.resize, x, False, out, threads))}
        if step.kind == "antialiased_bicubic":
            return {"PyTorch": _antialiased(x, out)}
        size = list(out.shape[2:])
        resize = torch.ops.aten.upsample_bicubic2d.out
        return {"PyTorch": _fixed(lambda: resize(x, size, False, None, None, out=out))}

    def _pool(self, step: PyramidPool, views: Views, threads: int) -> Way:
        x, out = views[step.x], views[step.output]
        n, c, h, w = x.shape
        sizes = [side for grid in step.grids((n, c, h, w)) for side in grid]
        need = self.kernels.spatial_pyramid_pool_workspace(x, step.level_weight, sizes, out, threads)

        def prepare(workspace: Tensor) -> Call:
            return partial(
                self.kernels.spatial_pyramid_pool, x, step.level_weight, step.fuse_weight, step.fuse_bias,
                step.level_scale, step.level_shift, step.fuse_scale, step.fuse_shift, sizes, step.mode == "nearest",
                workspace, out, threads,
            )  # fmt: skip

        return Way(need, prepare)

    def _convolution(self, i: int, step: Convolution, views: Views, threads: int) -> Dict[str, Way]:
        found: Dict[str, Way] = {}
        if step.is_depthwise3x3 and step.stride <= 2 and step.is_simple and step.output != LOGITS:
            found[NATIVE] = self._depthwise(i, step, views, threads)
        else:
            kernel, stride, padding = step.weight.shape[2], step.stride, step.padding
            if (kernel, stride, padding) == (3, 1, 1):
                tile = winograd_tile(self.dtype, *views[step.x].shape[1:])
                found[WINOGRAD] = self._native(i, step, views, tile, threads)
            found[DIRECT] = self._native(i, step, views, 0, threads)
            if self.dtype == torch.bfloat16 and self.kernels.level() == "amx":
                found = dict(reversed(list(found.items())))
        if self.onednn and (step.output != LOGITS or self.dtype == torch.float32):
            found[ONEDNN] = self._by_onednn(i, step, views, threads)
        return found

    def _pack(self, key: Tuple[Any, ...], step: Convolution, tile: int) -> Tensor:
        if key not in self.packed:
            name = str(self.dtype).replace("torch.", "")
            weight = _dense_weight(step)
            block = aligned_bytes(self.kernels.packed_bytes(name, tile, *weight.shape[:3]))
            self.kernels.pack_conv2d(weight, name, tile, block)
            self.packed[key] = block
        return self.packed[key]  # type: ignore[no-any-return]

    def _native(self, i: int, step: Convolution, views: Views, tile: int, threads: int) -> Way:
        x = views[step.x]
        kernel = step.weight.shape[2]
        out, tap, scale, shift, relu = _outputs(step, views)
        residual, up = _optional(views, step.residual), _optional(views, step.up)
        need = self.kernels.conv2d_workspace(
            x, tap if out is None else out, kernel, step.stride, step.padding, tile, threads
        )

        def prepare(workspace: Tensor) -> Call:
            packed = self._pack((i, WINOGRAD if tile else DIRECT, tile), step, tile)
            return partial(
                self.kernels.conv2d, x, packed, kernel, step.stride, step.padding, tile, step.activation,
                step.bias, residual, up, step.mode == "nearest", out, tap, scale, shift, relu, workspace, threads,
            )  # fmt: skip

        return Way(need, prepare)

    def inverted_residual(self, block: InvertedResidual, views: Views, threads: int) -> Way:
        expand, depthwise, project = (None if i is None else self.plan.steps[i] for i in block)
        assert isinstance(depthwise, Convolution) and isinstance(project, Convolution)
        assert expand is None or isinstance(expand, Convolution)
        x, hidden = views[depthwise.x if expand is None else expand.x], depthwise.weight.shape[0]
        out, tap, scale, shift, relu = _outputs(project, views)
        residual = _optional(views, project.residual)

        def packed(i: Optional[int]) -> Optional[Tensor]:
            step = None if i is None else self.plan.steps[i]
            return self._pack((i, FUSED), step, 0) if isinstance(step, Convolution) else None

        def prepare(workspace: Tensor) -> Call:
            return partial(
                self.kernels.inverted_residual, x, packed(block.expand), None if expand is None else expand.bias,
                self._taps((block.depthwise, FUSED), depthwise), depthwise.bias, depthwise.stride,
                depthwise.activation, packed(block.project), project.bias, project.activation, residual,
                out, tap, scale, shift, relu, workspace, threads,
            )  # fmt: skip

        need = self.kernels.inverted_residual_workspace(
            x, expand is not None, hidden, depthwise.stride, tap if out is None else out, threads
        )
        return Way(need, prepare)

    def _taps(self, key: Tuple[Any, ...], step: Convolution) -> Tensor:
        if key not in self.packed:
            self.packed[key] = step.weight[:, 0].reshape(-1, 9).t().contiguous()
        return self.packed[key]  # type: ignore[no-any-return]

    def _depthwise(self, i: int, step: Convolution, views: Views, threads: int) -> Way:
        assert step.output is not None
        return _fixed(
            partial(
                self.kernels.depthwise3x3,
                views[step.x],
                self._taps((i, NATIVE), step),
                step.bias,
                step.stride,
                step.activation,
                views[step.output],
                threads,
            )  # fmt: skip
        )

    def _by_onednn(self, i: int, step: Convolution, views: Views, threads: int) -> Way:
        """The map is first filled with what is added, and the convolution adds itself to it: none is allocated."""

        def prepare(_: Tensor) -> Call:
            key = i, ONEDNN
            if key not in self.packed:
                self.packed[key] = OneDNN(step, self.dtype)
            return partial(_onednn_call, self.kernels, self.packed[key], step, views, threads)

        return Way(0, prepare)


def _dense_weight(step: Convolution) -> Tensor:
    """[K, C, k, k] without groups."""
    if step.groups == 1:
        return step.weight.contiguous()
    k, c, kernel, _ = step.weight.shape
    dense, outputs = step.weight.new_zeros(k, c * step.groups, kernel, kernel), k // step.groups
    for g in range(step.groups):
        rows = slice(g * outputs, (g + 1) * outputs)
        dense[rows, g * c : (g + 1) * c] = step.weight[rows]
    return dense


def winograd_tile(dtype: torch.dtype, channels: int, height: int, width: int) -> int:
    """How many outputs a side Winograd's tiles have on a map: 4, or in bfloat16 6 where that takes no more products.

    6 rounds four times as much, and its weights are almost twice as large: of many channels they take longer to read than
    the saved products.
    """
    products = {tile: -(-height // tile) * -(-width // tile) * (tile + 2) ** 2 for tile in (4, 6)}
    pays = channels <= MOST_CHANNELS_OF_6 and products[6] <= products[4]
    return 6 if dtype == torch.bfloat16 and pays else 4


def _optional(views: Views, name: Optional[str]) -> Optional[Tensor]:
    return None if name is None else views[name]


def _outputs(step: Convolution, views: Views) -> Tuple[Any, ...]:
    """out, tap, and the tap's scale, shift and ReLU, as the kernels take them."""
    tap = step.tap
    of_tap = (None, None, None, False) if tap is None else (views[tap.output], tap.scale, tap.shift, tap.relu)
    return (_optional(views, step.output), *of_tap)


def _fixed(call: Call) -> Way:
    return Way(0, lambda workspace: call)


def _onednn_call(kernels: Any, convolution: OneDNN, step: Convolution, views: Views, threads: int) -> None:
    tap = step.tap
    name = step.output if step.output is not None else tap.output if tap is not None else ""
    out, x, nearest = views[name], views[step.x], step.mode == "nearest"
    if out.dtype != x.dtype:
        out.copy_(convolution(x, step.activation))
        return
    if step.up is not None and step.residual is not None:
        kernels.upsample_add(views[step.up], views[step.residual], None, None, False, nearest, out, threads)
    elif step.up is not None:
        kernels.resize(views[step.up], nearest, out, threads)
    elif step.residual is not None:
        out.copy_(views[step.residual])
    else:
        out.zero_()
    convolution.into(out, x, step.activation if tap is None else "none")
    if tap is not None:
        kernels.upsample_add(None, out, tap.scale, tap.shift, tap.relu, False, views[tap.output], threads)
        if step.output is not None:
            activate_(out, step.activation)


def _antialiased(x: Tensor, out: Tensor) -> Way:
    """As models.pyramid.antialiased_bicubic, on channels_last maps: rows first, then columns."""
    n, c, height, width = x.shape
    smaller, narrower = out.shape[2:]
    rows, columns = bicubic_weights(height, smaller, x), bicubic_weights(width, narrower, x)
    count = smaller * width * c

    def prepare(workspace: Tensor) -> Call:
        between = workspace[: count * x.element_size()].view(x.dtype)

        def call() -> None:
            for source, target in zip(x.permute(0, 2, 3, 1), out.permute(0, 2, 3, 1)):
                torch.mm(rows, source.reshape(height, width * c), out=between.view(smaller, width * c))
                torch.bmm(columns.expand(smaller, -1, -1), between.view(smaller, width, c), out=target)

        return call

    return Way(count * x.element_size(), prepare)
