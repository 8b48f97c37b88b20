"""The module that `optimize` returns."""

import threading
from typing import Any, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from ..nn.segment import Segmenter, as_tensor, check_image, check_images
from ..ops import reference
from .graphs import Graphs
from .plan import Plan
from .run_cpu import CpuRun, why_not
from .run_torch import TorchRun
from .stream import labels_of

NO_GRAPH = (
    "optimize: an optimised network can't be exported or traced, no graph can hold its kernels; export the original "
    "network, see docs/export.md"
)

# as torch.compiler.disable, which imports dynamo at once: seconds, where nobody compiles
_disable_dynamo = getattr(getattr(torch, "_compile", None), "_disable_dynamo", lambda method: method)
_is_compiling = getattr(getattr(torch, "compiler", None), "is_compiling", lambda: False)
_is_exporting = getattr(getattr(torch, "compiler", None), "is_exporting", lambda: False)


def _is_traced(images: Tensor) -> bool:
    """Whether something records what runs, or runs shapes alone."""
    from torch._guards import detect_fake_mode
    from torch.fx.experimental import proxy_tensor

    proxies = getattr(proxy_tensor, "get_proxy_mode", lambda: None)  # PyTorch 2.3 or later
    return torch.jit.is_tracing() or detect_fake_mode(images) is not None or proxies() is not None


class OptimizedNetwork(Segmenter):
    """A network frozen for inference; made by `optimize`.

    Call with images [N, 3, H, W], float RGB 0..255 of any size; gives logits [N, num_classes, H, W]. `logits(images)` gives
    them at stride 4, `labels(images)` labels [N, H, W] uint8, `segment(image)` those of one uint8 image [H, W, 3], and
    `segment_batches(images)` those of many in turn. Logits are float32 on a CPU and of `dtype` on a GPU.

    It has no parameters and records no gradients. It stays on its device and in its dtype: `to` others raises. Threads
    may share it; they take turns. `print` shows each step, what runs it and why; `why_not_native` says why the CPU's native
    kernels don't run, where they should.
    """

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype, graphs: bool, measure: bool) -> None:
        super().__init__()
        self.plan, self.device, self.dtype, self.graphs, self.measure = plan, device, dtype, graphs, measure
        self.num_classes, self.classes = plan.num_classes, plan.classes
        self.register_buffer("img_mean", torch.tensor(plan.mean, dtype=torch.float32, device=device).view(1, 3, 1, 1))
        self._prepare()
        self.eval()

    def _prepare(self) -> None:
        self._lock = threading.Lock()
        self.why_not_native = why_not(self.dtype) if self.device.type == "cpu" else ""
        self._run: Any
        if self.device.type == "cpu" and not self.why_not_native:
            self._run = CpuRun(self.plan, self.dtype, self.measure)
        else:
            self._run = TorchRun(self.plan, self.device, self.dtype, measure=self.measure)
        if self.graphs and self.device.type == "cuda":
            self._run = Graphs(self._run, self.device)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.logits(images)
        with torch.no_grad():
            return reference.resize(logits, images.shape[2:], "bilinear")

    def logits(self, images: Tensor) -> Tensor:
        """Logits [N, num_classes, h, w] of images [N, 3, H, W], at stride 4 of the image the network runs on."""
        check_images(images)
        return self._locked(self._run.logits, images)

    def labels(self, images: Tensor) -> Tensor:
        """Labels [N, H, W] uint8 of images [N, 3, H, W], float RGB 0..255: the largest of the resized logits."""
        check_images(images)
        return self._locked(self._run.labels, images)

    def segment(self, image: Any) -> Any:
        """Labels of one image; see `Segmenter.segment`. Nothing of size classes × H × W is made.

        Args:
            image: uint8 RGB [H, W, 3], a NumPy array or a torch tensor on any device.

        Returns:
            uint8 [H, W], a NumPy array or a tensor on the image's device.

        Raises:
            ValueError: another shape or dtype.
        """
        check_image(image)
        given = as_tensor(image)
        labels = self.labels_of_bytes(given.to(self.device)[None])[0]
        return labels.cpu().numpy() if isinstance(image, np.ndarray) else labels.to(given.device)

    def labels_of_bytes(self, images: Tensor) -> Tensor:
        """Labels [N, H, W] uint8 of images [N, H, W, 3] uint8 on the network's device."""
        return self._locked(self._run.labels, images)

    def segment_batches(self, images: Iterable[Any], batch: int = 1) -> Iterator[Any]:
        """Labels of many images, in their order, each of its image's kind and size; as `segment` gives them.

        The next images are taken from `images` (read and decoded there) and converted by a thread while one runs; on a GPU
        copies to and from it overlap with its work as well. Nothing is taken before the first result is asked for.

        `images` belongs to the call until that ends: another thread is inside of it. Closing early (`close()` of what is
        returned, or its last reference gone) waits for the image that is being read, at most 5 s.

        Args:
            images: uint8 RGB [H, W, 3] each, NumPy or torch.
            batch: how many images in a row may run together if they are of one size.

        Raises:
            ValueError: batch is no positive integer; or an image is none, when its turn comes. What `images` raises is
            raised in its turn too.
        """
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise ValueError(f"segment_batches: batch: expected a positive integer, got {batch!r}; 1 runs them singly")
        return labels_of(self, images, batch)

    def _locked(self, call: Any, images: Tensor) -> Tensor:
        if _is_exporting():
            raise RuntimeError(NO_GRAPH)
        return self._left_alone(call, images) if _is_compiling() else self._in_turn(call, images)

    def _in_turn(self, call: Any, images: Tensor) -> Tensor:
        if _is_traced(images):
            raise RuntimeError(NO_GRAPH)
        # what is kept between calls must not be made in a caller's inference mode: it could not be written outside
        with self._lock, torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            if images.numel() == 0:
                call = getattr(TorchRun(self.plan, self.device, self.dtype, kernels=False, onednn=False), call.__name__)
            return call(images.to(self.device))

    _left_alone = _disable_dynamo(_in_turn)

    def train(self, mode: bool = True) -> "OptimizedNetwork":
        """Raises RuntimeError for train mode: batch norms are folded away. `eval()` changes nothing."""
        if mode:
            raise RuntimeError("optimize: the network is frozen for inference; train the one it was made from")
        super().train(False)
        return self

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> "OptimizedNetwork":
        moved = fn(torch.empty(0, dtype=self.dtype, device=self.device))
        if moved.device != self.device or moved.dtype != self.dtype:
            raise RuntimeError(
                f"optimize: the network stays on {self.device} in {self.dtype}, got {moved.device} and {moved.dtype}; "
                "pass optimize(model, device=…, dtype=…) those"
            )
        return self

    def __getstate__(self) -> Any:
        return {name: value for name, value in self.__dict__.items() if name not in ("_run", "_lock")}

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)
        self._prepare()

    def __repr__(self) -> str:
        rows = [("step", "what", "folded into it", "backend", "why")]
        for step, (backend, why) in zip(self.plan.steps, self._run.describe()):
            rows.append((step.name, str(step), ", ".join(step.folded) or "-", backend, why))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        table = ["  ".join([c.ljust(w) for c, w in zip(row, widths)] + [row[4]]) for row in rows]
        dtype = str(self.dtype).replace("torch.", "")
        head = f"OptimizedNetwork of {self.plan.network}; {self.device}, {dtype}; {self._run.summary()}"
        why = [f"not by the native CPU kernels: {self.why_not_native}"] if self.why_not_native else []
        return "\n".join([head, *why, *table])
