"""CUDA graphs of whole inferences, one for each kind and size of input."""

from collections import OrderedDict
from typing import Any, Callable, List, NamedTuple, Tuple

import torch
from torch import Tensor

from ..ops.packed import kept_in_graphs

LIMIT = 8  # graphs kept; each holds the memory of its maps
WARM_UPS = 3  # runs before capturing: libraries choose algorithms, weights are packed, choices are measured


class _Captured(NamedTuple):
    graph: Any
    image: Tensor  # replays read it
    result: Tensor  # and write this


class Graphs:
    """Runs what it is given by replaying graphs, captured at the first call of each kind, shape and dtype.

    The least recently used graph beyond `limit` is dropped. Results are copies: the next replay does not change them.
    """

    def __init__(self, run: Any, device: torch.device, limit: int = LIMIT) -> None:
        self.run, self.device, self.limit = run, device, limit
        self.captured: "OrderedDict[Any, _Captured]" = OrderedDict()
        self.side, self.done = torch.cuda.Stream(device), torch.cuda.Event()

    def logits(self, images: Tensor) -> Tensor:
        return self._replayed("logits", self.run.logits, images)

    def labels(self, images: Tensor) -> Tensor:
        return self._replayed("labels", self.run.labels, images)

    def describe(self) -> List[Tuple[str, str]]:
        return list(self.run.describe())

    def summary(self) -> str:
        return f"{self.run.summary()}, in CUDA graphs ({len(self.captured)} of at most {self.limit} kept)"

    def _replayed(self, kind: str, call: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        if torch.cuda.is_current_stream_capturing():
            return call(images)  # within a graph of the user's, the steps become part of it
        with torch.cuda.device(self.device):
            key = kind, tuple(images.shape), images.dtype
            found = self.captured.get(key)
            if found is None:
                found = self.captured[key] = self._capture(call, images)
                if len(self.captured) > self.limit:
                    self.captured.popitem(last=False)
            self.captured.move_to_end(key)
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(self.done)  # another stream's replay may still use the buffers
            found.image.copy_(images)
            found.graph.replay()
            result = found.result.clone()
            self.done.record(stream)
            return result

    def _capture(self, call: Callable[[Tensor], Tensor], images: Tensor) -> _Captured:
        """On the stream that all warm-ups run on: weights packed there are ready without waiting, also for later sizes.

        What other threads do meanwhile is no error of the capture's: `segment_batches` pins and copies the next images.
        """
        image = images.to(self.device, copy=True).contiguous()
        self.side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.side):
            for _ in range(WARM_UPS):
                call(image)
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with kept_in_graphs(), torch.cuda.graph(graph, stream=self.side, capture_error_mode="thread_local"):
            result = call(image)
        return _Captured(graph, image, result)
