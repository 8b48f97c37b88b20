"""Networks as ONNX files of standard operators, in forms that TensorRT 8 takes too; see docs/export.md."""

import inspect
import io
import json
import os
import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch

from .. import __version__
from ..files import replacing
from ..models import SwiftNet
from ..nn.fused import plain_pytorch
from .exportable import Exportable

OUTPUTS = ("labels", "probabilities", "logits")
OPSETS = range(13, 18)  # TensorRT 8.0 knows operators up to 13
PREPROCESSING = "none: images are RGB 0..255, the network normalises them"
# traced for dynamic sizes: no two maps or grids that one run resizes into another are alike, so that no resize is left out
DYNAMIC_EXAMPLE = (160, 288)


def _checked(model: Any, path: Path, size: Any, output: Any, batch: Any, opset: Any) -> None:
    def positive(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value > 0

    def refuse(argument: str, expected: str, got: Any, cure: str) -> None:
        raise ValueError(f"export_onnx: {argument}: expected {expected}, got {got!r}; {cure}")

    if not isinstance(model, SwiftNet):
        got = type(model).__name__
        raise TypeError(
            f"export_onnx: model: expected one of build_model or load_checkpoint, got {got}; export each alone"
        )
    if size is not None and not (isinstance(size, (tuple, list)) and len(size) == 2 and all(map(positive, size))):
        refuse("size", "(height, width) in pixels, or None for any", size, "pass e.g. (360, 480)")
    if batch is not None and not positive(batch):
        refuse("batch", "a positive integer, or None for any", batch, "1 is usual")
    if output not in OUTPUTS:
        refuse("output", "one of " + ", ".join(OUTPUTS), output, "choose one of these")
    if opset not in OPSETS:
        refuse("opset", f"{OPSETS[0]} to {OPSETS[-1]}", opset, f"{OPSETS[0]} is what TensorRT 8.0 takes")
    if size is None and hasattr(model.backbone, "halve"):
        cure = "pass a size, one file for each"
        refuse("size", f"(height, width) for {model.name}, whose levels are products with matrices of it", size, cure)
    if not path.parent.is_dir() or path.is_dir():
        raise OSError(f"{path}: expected a file's name in a folder that exists; make the folder or name another")


def _tidied(model: Any, onnx: Any) -> Any:
    """A graph without what PyTorch's exporter leaves over: nodes for constants, for their copies and for known sizes."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.value_info, *graph.output]}
    constants = {t.name: t for t in graph.initializer}
    copies: Dict[str, str] = {}
    nodes: List[Any] = []
    for node in graph.node:
        name = node.output[0]
        for i, source in enumerate(node.input):
            node.input[i] = copies.get(source, source)
        if node.op_type == "Constant":
            constants[name] = node.attribute[0].t
            constants[name].name = name
        elif node.op_type == "Identity" and node.input[0] in constants:
            copies[name] = node.input[0]
        else:
            nodes.append(node)
        if node.op_type == "Resize" and all(shapes.get(name, [0])):
            node.input[3] = name + "_size"
            constants[node.input[3]] = onnx.numpy_helper.from_array(np.array(shapes[name]), node.input[3])
    needed = {v.name for v in graph.output}
    kept: List[Any] = []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed.update(node.input)
            kept.insert(0, node)
    weights = [t for name, t in constants.items() if name in needed]
    tidy = onnx.helper.make_graph(kept, "swiftnet", graph.input, graph.output, weights)
    return onnx.helper.make_model(tidy, opset_imports=model.opset_import, ir_version=model.ir_version)


def export_onnx(
    model: SwiftNet,
    path: "os.PathLike[str] | str",
    size: Optional[Sequence[int]] = None,
    output: str = "labels",
    batch: Optional[int] = 1,
    opset: int = OPSETS[0],
) -> None:
    """Writes a network in eval mode as an ONNX file of standard operators; the model is not changed.

    The graph's input is `images` float32 [N, 3, H, W], RGB 0..255. Its output has the image's size and the argument's
    name: `labels` int32 [N, H, W], where ties go to the lower class, `probabilities` or `logits` float32 [N, C, H, W].

    Args:
        model: of build_model or load_checkpoint; its weights are written in fp32.
        path: the file, replaced as a whole or not at all.
        size: (height, width), or None for any; a pyramid needs it, and TensorRT 8 is best given it.
        output: "labels", "probabilities" or "logits".
        batch: N, or None for any.
        opset: 13 to 17.

    Raises:
        ImportError: onnx is not installed. TypeError, ValueError: an argument that doesn't fit. OSError: the file can't
        be written.
    """
    path = Path(path)
    _checked(model, path, size, output, batch, opset)
    try:
        import onnx
    except ImportError:
        raise ImportError('export_onnx needs onnx: pip install "swiftnet_ext[export]"')
    images = torch.zeros(batch or 1, 3, *(size or DYNAMIC_EXAMPLE))
    axes: Dict[int, str] = {} if batch else {0: "batch"}
    sides = {} if size else {2: "height", 3: "width"}
    before = 1 if output == "labels" else 0  # labels have no classes, so that their sides come one earlier
    dynamic = {
        "images": {**axes, **sides},
        output: {**axes, **{i - before: name for i, name in sides.items()}},
    }
    options: Dict[str, Any] = {"opset_version": opset, "input_names": ["images"], "output_names": [output]}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:  # from 2.5 on
        options["dynamo"] = False  # the newer exporter writes opset 18, which TensorRT 8 does not take
    file: Any = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad(), plain_pytorch():
        warnings.simplefilter("ignore")  # tracing warns of each size that becomes a constant, which is meant here
        torch.onnx.export(Exportable(model, output, size is None), (images,), file, dynamic_axes=dynamic, **options)
    result = _tidied(onnx.load_from_string(file.getvalue()), onnx)
    onnx.checker.check_model(result, full_check=True)
    described = {"model": repr(model), "swiftnet_ext": __version__, "preprocessing": PREPROCESSING}
    if model.classes:
        described["classes"] = json.dumps(model.classes)
    onnx.helper.set_model_props(result, described)
    result.producer_name, result.producer_version = "swiftnet_ext", __version__
    with replacing(path) as temporary:
        onnx.save(result, str(temporary))
