"""The sides of a row: ours, and what a user would pick instead, each as it is fastest. Optional ones are imported late."""

import logging
import math
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple

import numpy as np
import torch
from torch import Tensor

import swiftnet_ext

from ...models import SwiftNet
from ..export import export_onnx
from .plain import PlainNetwork, PlainSegmenter


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
    batch: int = 1  # images that a call does

    def order(self) -> List[List[int]]:
        """Which images each call does: all in turn, until a batch would come again."""
        n, count = self.batch, len(self.images)
        return [[(i * n + k) % count for k in range(n)] for i in range(count // math.gcd(n, count))]

    def batches(self) -> List[List[np.ndarray]]:
        return [[self.images[i] for i in batch] for batch in self.order()]

    def floats(self) -> List[Tensor]:
        """The batches as the paper's loop has them: on the device, float32 [N, 3, H, W], channels_last."""
        return [torch.from_numpy(_stacked(b)).to(self.device).permute(0, 3, 1, 2).float() for b in self.batches()]


def _stacked(images: List[np.ndarray]) -> np.ndarray:
    """[N, H, W, 3]; without a copy of a single one."""
    return images[0][None] if len(images) == 1 else np.stack(images)


class Side(NamedTuple):
    """`call(i)` does the i-th batch: labels uint8 [N, H, W] in NumPy, or each [H, W], for the user's loop; logits
    [N, classes, H, W] for the paper's."""

    call: Callable[[int], Any]
    what: str


def labels_of(result: Any) -> np.ndarray:
    """Of a call's result, uint8 [N, H, W]."""
    y = result.float().cpu().numpy() if isinstance(result, Tensor) and result.dim() == 4 else np.asarray(result)
    return y.argmax(1).astype(np.uint8) if y.ndim == 4 else y.copy()


def ours(setup: Setup) -> Side:
    fast, batches = swiftnet_ext.optimize(setup.model, device=setup.device, dtype=setup.dtype), setup.batches()
    if setup.loop == "paper":
        return Side(_forward(fast, setup.floats(), torch.inference_mode), "optimize")
    if setup.batch == 1:
        return Side(lambda i: fast.segment(batches[i][0])[None], "optimize")
    return Side(lambda i: list(fast.segment_batches(batches[i], setup.batch)), "optimize, segment_batches")


def _forward(network: Any, inputs: List[Tensor], mode: Callable[[], Any]) -> Callable[[int], Any]:
    def call(i: int) -> Any:
        with mode():
            return network(inputs[i])

    return call


def _in_torch(setup: Setup, prepare: Callable[[Any], Any], mode: Callable[[], Any], what: str) -> Side:
    network = PlainNetwork(setup.model, setup.device, setup.dtype)
    if setup.loop == "paper":
        return Side(_forward(prepare(network), setup.floats(), mode), what)
    segmenter, batches = prepare(PlainSegmenter(network).eval()), setup.batches()

    def call(i: int) -> np.ndarray:
        with mode():
            return segmenter(torch.from_numpy(_stacked(batches[i])).to(setup.device)).cpu().numpy()

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
    """Our own export, of the row's batch; for the user's loop from uint8 images to uint8 labels."""
    path = setup.folder / "network.onnx"
    height, width = setup.images[0].shape[:2]
    try:
        output = "labels" if setup.loop == "user" else "logits"
        export_onnx(setup.model, path, (height, width), output, setup.batch, opset=17)
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
    graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("image", of_uint8, [setup.batch, height, width, 3]))
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("bytes", of_uint8, [setup.batch, height, width]))
    onnx.save(file, str(path))
    return path


def _inputs(setup: Setup) -> Callable[[int], np.ndarray]:
    """The ONNX file's of a call."""
    if setup.loop == "user":
        batches = setup.batches()
        return lambda i: _stacked(batches[i])
    floats = [np.ascontiguousarray(images.cpu().numpy()) for images in setup.floats()]
    return lambda i: floats[i]


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
    given, name = _inputs(setup), session.get_inputs()[0].name
    return Side(lambda i: session.run(None, {name: given(i)})[0], f"onnxruntime {onnxruntime.__version__}")


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
    given = _inputs(setup)

    def call(i: int) -> np.ndarray:
        return request.infer([given(i)], share_inputs=True, share_outputs=True)[0]

    return Side(call, f"openvino {ov.__version__.split('-')[0]}, {precision}")


MAKERS: Dict[str, Callable[[Setup], Side]] = {
    "ours": ours,
    "eager": eager,
    "compile": compiled,
    "onnxruntime": onnx_runtime,
    "openvino": openvino,
}


def plain_labels(setup: Setup, dtype: torch.dtype) -> List[np.ndarray]:
    """Of every batch, uint8 [N, H, W], by the plain network in a dtype, each image by itself."""
    segmenter = PlainSegmenter(PlainNetwork(setup.model, setup.device, dtype)).eval()
    with torch.inference_mode():
        single = [segmenter(torch.from_numpy(i[None]).to(setup.device))[0].cpu().numpy() for i in setup.images]
    return [np.stack([single[i] for i in batch]) for batch in setup.order()]
