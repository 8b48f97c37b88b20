"""A network in the forms that ONNX and TensorRT 8 can say; it computes what the network computes."""

import copy
from typing import Any, Callable, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import SwiftNet
from ..nn import SpatialPyramidPooling


def _constant(make: Callable[..., Tensor], *sizes: Any) -> Tensor:
    """A tensor that only known sizes determine; the exporter evaluates it, and the graph has it as a constant."""
    return make(*map(int, sizes))


def _in_graph(make: Callable[..., Tensor], *sizes: Any) -> Tensor:
    return make(*sizes)


def _averages(size: Any, cells: Any) -> Tensor:
    """Adaptive average pooling along one axis, [cells, size]: cell i is from ⌊i·size/cells⌋ to ⌈(i+1)·size/cells⌉."""
    i, j = torch.arange(cells)[:, None], torch.arange(size)[None]
    inside = ((j + 1) * cells > i * size) & (j * cells < (i + 1) * size)
    weights = inside.float()
    return weights / weights.sum(1, keepdim=True)


def _nearest(size: Any, larger: Any) -> Tensor:
    """The indices [larger] that PyTorch's nearest resizing reads, by its fp32 arithmetic."""
    ratio = torch.as_tensor(size).float() / torch.as_tensor(larger).float()
    return (torch.arange(larger).float() * ratio).floor().long().clamp(max=size - 1)


class _PlainPooling(SpatialPyramidPooling):
    """Spatial pyramid pooling by matrices: ONNX has no pooling of overlapping cells.

    Nearest resizing gathers by index: ONNX Runtime's Resize divides by a rounded ratio, and where the position is an
    integer (14 cells to 32 columns, say) it takes the cell before.
    """

    made: Any  # _constant, or _in_graph for dynamic sizes

    def pool(self, x: Tensor, grid: Tuple[int, int]) -> Tensor:
        height, width = x.shape[2:]
        rows, columns = grid[0], grid[1]  # type: Any, Any
        if self.made is _in_graph:
            columns = torch.round(rows * torch.as_tensor(width) / height).clamp(min=1).long()
        elif height % rows == 0 and width % columns == 0:
            return F.avg_pool2d(x, (int(height) // rows, int(width) // columns))
        by_rows, by_columns = self.made(_averages, height, rows), self.made(_averages, width, columns)
        return torch.matmul(torch.matmul(by_rows, x), by_columns.t())

    def resize(self, x: Tensor, size: Sequence[int]) -> Tensor:
        if self.mode == "bilinear":
            return super().resize(x, size)
        for axis in (2, 3):
            x = x.index_select(axis, self.made(_nearest, x.shape[axis], size[axis - 2]))
        return x


def _halve_by_matrices(halve: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A pyramid's bicubic resizing as two products: TensorRT 8.0 has no cubic Resize, and ONNX none with antialiasing."""

    def weights(size: int, smaller: int) -> Tensor:
        unit = torch.eye(size, dtype=torch.float64).view(size, 1, size, 1)
        return halve(unit, smaller, 1).view(size, smaller).t().float()

    def by_matrices(images: Tensor, height: int, width: int) -> Tensor:
        rows, columns = _constant(weights, images.shape[2], height), _constant(weights, images.shape[3], width)
        return torch.matmul(torch.matmul(rows, images), columns.t())

    return by_matrices


class Exportable(nn.Module):
    """A copy of a network, fp32 in eval mode on the CPU, with the output that the file gives."""

    def __init__(self, model: SwiftNet, output: str, dynamic: bool) -> None:
        super().__init__()
        self.model, self.output = copy.deepcopy(model).cpu().float().eval(), output
        for module in self.model.modules():
            if isinstance(module, SpatialPyramidPooling):
                pooling: Any = module
                pooling.__class__, pooling.made = _PlainPooling, _in_graph if dynamic else _constant
        if hasattr(self.model.backbone, "halve"):
            self.model.backbone.halve = _halve_by_matrices(self.model.backbone.halve)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        if self.output == "labels":
            return logits.argmax(1).to(torch.int32)
        return F.softmax(logits, 1) if self.output == "probabilities" else logits
