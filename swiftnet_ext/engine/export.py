"""Networks as ONNX files of standard operators."""

import copy
import functools
import inspect
import json
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import __version__
from ..data.images import replacing
from ..models.checkpoint import PREPROCESSING
from ..models.pyramid import bicubic
from ..models.swiftnet import SwiftNet
from ..nn import SpatialPyramidPooling, fused
from ..ops import checks, reference

OUTPUTS = ("labels", "probabilities", "logits")
OPSET = 13  # the latest that TensorRT 8.0 reads, Jetson TX2's
TRACED_SIZE = (96, 128)  # for a file of any size


class ExportError(ValueError):
    """The network can't be exported so; the message says why and what can."""


class _Outputs(nn.Module):
    def __init__(self, model: SwiftNet, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        if self.output == "labels":
            return logits.argmax(1).to(torch.int32)  # TensorRT 8.0 has no uint8
        return torch.softmax(logits, 1) if self.output == "probabilities" else logits


class _Products:
    """A linear, separable resizing [N, C, H, W] → [N, C, h, w] as two products with constant matrices.

    They are made of the resizing of identity matrices, at the first call for a size: a call before tracing leaves
    constants in the trace.
    """

    def __init__(self, resizing: Callable[[Tensor, int, int], Tensor]) -> None:
        self.resizing = resizing
        self.matrices: Dict[Tuple[int, ...], Tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor, h: int, w: int) -> Tensor:
        height, width, h, w = (int(n) for n in (x.shape[2], x.shape[3], h, w))
        key = height, width, h, w
        if key not in self.matrices:
            rows = self.resizing(torch.eye(height)[None, None], h, height)[0, 0]  # [h, H]
            columns = self.resizing(torch.eye(width)[None, None], width, w)[0, 0]  # [W, w]
            self.matrices[key] = rows, columns
        rows, columns = self.matrices[key]
        return torch.matmul(torch.matmul(rows, x), columns)


def _average(x: Tensor, h: int, w: int) -> Tensor:
    return F.adaptive_avg_pool2d(x, (h, w))


def _pool(products: _Products, x: Tensor, grid: Tuple[int, int]) -> Tensor:
    """Adaptive average pooling: ONNX has it for cells of one size only; overlapping ones are products."""
    height, width = int(x.shape[2]), int(x.shape[3])
    if height % grid[0] == 0 and width % grid[1] == 0:
        return F.avg_pool2d(x, (height // grid[0], width // grid[1]))
    return products(x, *grid)


def _prepared(model: SwiftNet, dynamic: bool) -> SwiftNet:
    """A copy whose pooling and image pyramid ONNX can express."""
    model = copy.deepcopy(model).cpu().float().eval()
    pools = [m for m in model.modules() if isinstance(m, SpatialPyramidPooling)]
    halve = getattr(model.backbone, "halve", None)
    if dynamic and pools:
        raise ExportError(
            "size: spatial pyramid pooling's grids follow from the image's size; expected (height, width), got None; "
            "export a file for each size, or a network with spp=False"
        )
    if dynamic and halve not in (None, bicubic):
        raise ExportError(
            "size: the first generation's image pyramid is made for one size; expected (height, width), got None; "
            "export a file for each size"
        )
    for pool in pools:
        vars(pool)["pool"] = functools.partial(_pool, _Products(_average))  # before the class's own
    if halve is not None and not dynamic:  # TensorRT 8.0 resizes linearly and to the nearest only
        model.backbone.halve = _Products(halve)
    return model


def export_onnx(
    model: SwiftNet,
    path: Any,
    size: Optional[Tuple[int, int]] = None,
    output: str = "labels",
    batch: int = 1,
    opset: int = OPSET,
) -> None:
    """Writes a network as an ONNX file of standard operators; the file is replaced as a whole or not at all.

    Its input is `images` float32 [N, 3, H, W], RGB 0..255 (normalisation is in the graph). Its output, named as
    `output`, is at the image's size: "labels" int32 [N, H, W], the largest of the bilinearly resized logits and of equal
    ones the first; "probabilities" float32 [N, classes, H, W], their softmax; "logits" float32 [N, classes, H, W].

    Args:
        model: of build_model or load_checkpoint; it is not changed.
        path: the .onnx file.
        size: (H, W); None for any size and batch, where the network allows it: without spatial pyramid pooling
            (spp=False), and pyramids of the second generation, whose file then holds a cubic Resize.
        output: "labels", "probabilities" or "logits".
        batch: N, where there is a size.
        opset: of ONNX; 13 is the latest that TensorRT 8.0 reads.

    Raises:
        ExportError: the network can't have a free size. ValueError: a wrong size or output. ImportError: onnx is not
        installed. OSError: the file can't be written.
    """
    try:
        import onnx
    except ImportError:
        raise ImportError('export needs onnx: pip install "swiftnet_ext[export]"')
    checks.choice("export_onnx", "output", output, OUTPUTS)
    height, width = TRACED_SIZE if size is None else checks.size_pair("export_onnx", "size", size)
    exported = _Outputs(_prepared(model, size is None), output).eval()
    images = torch.zeros(batch, 3, height, width)
    options: Dict[str, Any] = {
        "opset_version": opset,
        "input_names": ["images"],
        "output_names": [output],
    }
    if size is None:
        rows = 1 if output == "labels" else 2
        free = {0: "batch", 2: "height", 3: "width"}
        options["dynamic_axes"] = {"images": free, output: {0: "batch", rows: "height", rows + 1: "width"}}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        options["dynamo"] = False  # its graphs are larger, and start at opset 18
    with replacing(Path(path)) as temporary:
        with torch.no_grad(), fused.plain_pytorch(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of every Python number
            exported(images)
            torch.onnx.export(exported, (images,), str(temporary), **options)
        graph = onnx.load(str(temporary))
        described = {"model": repr(model), "preprocessing": PREPROCESSING, "swiftnet_ext": __version__}
        if model.classes is not None:
            described["classes"] = json.dumps(model.classes)
        onnx.helper.set_model_props(graph, described)
        onnx.checker.check_model(graph)
        onnx.save(graph, str(temporary))
