"""The sides of a row: ours, and what a user would pick instead, each as it is fastest. Optional ones are imported late."""

import copy
import logging
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import numpy as np
import torch
from torch import Tensor

import swiftnet_ext

from ...models import SwiftNet
from ..export import export_onnx
from .plain import PlainNetwork, PlainSegmenter, channels_last


class Missing(Exception):
    """Why a side can't be had here."""


class Setup(NamedTuple):
    """What all sides of a row get."""

    model: SwiftNet  # fp32, eval mode, on the CPU; sides copy it
    images: List[np.ndarray]  # uint8 RGB [H, W, 3], of one size
    dtype: torch.dtype
    device: torch.device
    loop: str
    threads: int
    folder: Path  # for files that are gone afterwards

    def floats(self) -> List[Tensor]:
        """The images as the paper's loop has them: on the device, float32 [1, 3, H, W], channels_last."""
        return [torch.from_numpy(i).to(self.device).permute(2, 0, 1)[None].float() for i in self.images]


class Side(NamedTuple):
    """`call(i)` does the i-th image: labels uint8 [H, W] in NumPy for the user's loop, logits for the paper's."""

    call: Callable[[int], Any]
    what: str


def labels_of(result: Any) -> np.ndarray:
    """Of a call's result, uint8 [H, W]."""
    y = result.float().cpu().numpy() if isinstance(result, Tensor) and result.dim() == 4 else np.asarray(result)
    return y[0].argmax(0).astype(np.uint8) if y.ndim == 4 else y.copy()


def ours(setup: Setup) -> Side:
    """What this package offers: optimize where this version has it, else the network on the fused operators."""
    optimize = getattr(swiftnet_ext, "optimize", None)
    if callable(optimize):
        fast, what = optimize(setup.model, device=setup.device, dtype=setup.dtype), "optimize"
    else:
        fast = copy.deepcopy(setup.model).to(setup.device, setup.dtype)
        channels_last(fast)
        what = "model.segment"
    if setup.loop == "user":
        return Side(lambda i: fast.segment(setup.images[i]), what)
    return Side(_forward(fast, setup.floats(), torch.inference_mode), what)


def _forward(network: Any, inputs: List[Tensor], mode: Callable[[], Any]) -> Callable[[int], Any]:
    def call(i: int) -> Any:
        with mode():
            return network(inputs[i])

    return call


def _in_torch(setup: Setup, prepare: Callable[[Any], Any], mode: Callable[[], Any], what: str) -> Side:
    network = PlainNetwork(setup.model, setup.device, setup.dtype)
    if setup.loop == "paper":
        return Side(_forward(prepare(network), setup.floats(), mode), what)
    segmenter = prepare(PlainSegmenter(network).eval())

    def call(i: int) -> np.ndarray:
        with mode():
            return segmenter(torch.from_numpy(setup.images[i]).to(setup.device)).cpu().numpy()

    return Side(call, what)


def eager(setup: Setup) -> Side:
    return _in_torch(setup, lambda module: module, torch.inference_mode, f"torch {torch.__version__}, channels_last")


def compiled(setup: Setup) -> Side:
    """torch.compile with freezing; on a GPU by max-autotune, with its CUDA graphs."""
    import torch._dynamo
    import torch._inductor.config as inductor

    inductor.freezing = True
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    torch._dynamo.reset()
    options: Dict[str, Any] = {} if setup.device.type == "cpu" else {"mode": "max-autotune"}

    def prepare(module: Any) -> Any:
        return torch.compile(module, dynamic=False, **options)

    # freezing asks for no gradients, and is not made for inference mode
    return _in_torch(
        setup, prepare, torch.no_grad, ", ".join([f"torch {torch.__version__}, freezing", *options.values()])
    )


def _onnx_file(setup: Setup) -> Path:
    """Our own export; for the user's loop from the uint8 image to uint8 labels."""
    path = setup.folder / "network.onnx"
    height, width = setup.images[0].shape[:2]
    try:
        export_onnx(setup.model, path, (height, width), "labels" if setup.loop == "user" else "logits", opset=17)
        import onnx
    except ImportError:
        raise Missing("onnx is not installed")
    if setup.loop == "paper":
        return path
    file = onnx.load(str(path))
    graph, node = file.graph, onnx.helper.make_node
    floats = node("Cast", ["planes"], ["images"], to=onnx.TensorProto.FLOAT)
    graph.node.insert(0, floats)
    graph.node.insert(0, node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]))
    graph.node.append(node("Cast", ["labels"], ["bytes"], to=onnx.TensorProto.UINT8))
    of_uint8 = onnx.TensorProto.UINT8
    graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("image", of_uint8, [1, height, width, 3]))
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("bytes", of_uint8, [1, height, width]))
    onnx.save(file, str(path))
    return path


def _inputs(setup: Setup) -> List[np.ndarray]:
    """Of the ONNX file."""
    if setup.loop == "user":
        return [image[None] for image in setup.images]
    return [np.ascontiguousarray(image.cpu().numpy()) for image in setup.floats()]


def _result(setup: Setup, y: np.ndarray) -> np.ndarray:
    return y[0] if setup.loop == "user" else y


def onnx_runtime(setup: Setup) -> Side:
    try:
        import onnxruntime
    except ImportError:
        raise Missing("not installed")
    if setup.dtype != torch.float32:
        raise Missing("runs fp32 alone here; see the row in fp32")
    wanted = "CPUExecutionProvider" if setup.device.type == "cpu" else "CUDAExecutionProvider"
    if wanted not in onnxruntime.get_available_providers():
        raise Missing(f"this onnxruntime has no {wanted}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = setup.threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(_onnx_file(setup)), options, providers=[wanted])
    inputs, name = _inputs(setup), session.get_inputs()[0].name
    return Side(
        lambda i: _result(setup, session.run(None, {name: inputs[i]})[0]), f"onnxruntime {onnxruntime.__version__}"
    )


def openvino(setup: Setup) -> Side:
    try:
        import openvino as ov
    except ImportError:
        raise Missing("not installed")
    if setup.device.type != "cpu":
        raise Missing("is for CPUs")
    precision = {torch.float32: "f32", torch.bfloat16: "bf16"}[setup.dtype]
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": setup.threads,
    }
    request = ov.Core().compile_model(str(_onnx_file(setup)), "CPU", hints).create_infer_request()
    inputs = _inputs(setup)

    def call(i: int) -> np.ndarray:
        return _result(setup, request.infer([inputs[i]], share_inputs=True, share_outputs=True)[0])

    return Side(call, f"openvino {ov.__version__.split('-')[0]}, {precision}")


MAKERS: Dict[str, Callable[[Setup], Side]] = {
    "ours": ours,
    "eager": eager,
    "compile": compiled,
    "onnxruntime": onnx_runtime,
    "openvino": openvino,
}


def plain_labels(setup: Setup, dtype: torch.dtype) -> List[np.ndarray]:
    """Of every image, by the plain network in a dtype."""
    segmenter = PlainSegmenter(PlainNetwork(setup.model, setup.device, dtype)).eval()
    with torch.inference_mode():
        return [segmenter(torch.from_numpy(image).to(setup.device)).cpu().numpy() for image in setup.images]
