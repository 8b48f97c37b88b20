"""Many images one after the other: the next are read and copied while one runs."""

import queue
import threading
from typing import Any, Iterable, Iterator, List, NamedTuple, Tuple

import numpy as np
import torch
from torch import Tensor

from ..nn.segment import as_tensor, check_image

AHEAD = 2  # batches that are ready before they are needed
PATIENCE = 5  # seconds that closing waits for an image that is being read
_END = object()


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Streams(NamedTuple):
    """The stream that images are copied on, and the caller's; None on a CPU."""

    copies: Any
    caller: Any


class _Batch:
    """Images of one size, on the network's device; on a GPU from `ready` on."""

    def __init__(self, images: List[Any], device: torch.device, copies: Any) -> None:
        self.images = images
        self.ready: Any = None
        if copies is None:
            self.tensor = self._joined().to(device)
            return
        with torch.cuda.stream(copies):
            joined = self._joined()
            self.tensor = joined if joined.is_cuda else joined.pin_memory()
            self.tensor = self.tensor.to(device, non_blocking=True)
            self.ready = torch.cuda.Event()
            self.ready.record(copies)

    def _joined(self) -> Tensor:
        tensors = [as_tensor(image) for image in self.images]
        return tensors[0][None] if len(tensors) == 1 else torch.stack([t.cpu() for t in tensors])


def _kept(image: Any, streams: _Streams) -> Any:
    """A copy: the iterable may fill the same memory again.

    What fills a GPU's memory runs on this thread's stream, or on the caller's where it made the images; the copy waits for
    both, and both wait for the copy.
    """
    if isinstance(image, np.ndarray):
        return image.copy()
    if not image.is_cuda:
        return image.clone()
    if streams.copies is None or image.device != streams.copies.device:
        torch.cuda.synchronize(image.device)  # the caller's stream on another GPU is not known
        kept = image.clone()
        torch.cuda.synchronize(image.device)
        return kept
    fills = streams.caller, torch.cuda.current_stream(image.device)
    for stream in fills:
        streams.copies.wait_stream(stream)
    with torch.cuda.stream(streams.copies):
        kept = image.clone()
    for stream in fills:
        stream.wait_stream(streams.copies)
    image.record_stream(streams.copies)
    return kept


def _batches(images: Iterable[Any], batch: int, stop: threading.Event, streams: _Streams) -> Iterator[Any]:
    waiting: List[Any] = []
    failed = None
    try:
        for image in images:
            if stop.is_set():
                return
            check_image(image)
            if waiting and waiting[0].shape != image.shape:
                yield waiting
                waiting = []
            waiting.append(_kept(image, streams))
            if len(waiting) == batch:
                yield waiting
                waiting = []
    except Exception as error:  # the iterable is the user's: raised when its turn comes
        failed = _Failed(error)
    if waiting:
        yield waiting
    if failed:
        yield failed


def _produce(
    ready: Any, stop: threading.Event, images: Iterable[Any], batch: int, network: Any, streams: _Streams
) -> None:
    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    try:
        for found in _batches(images, batch, stop, streams):
            if not put(found if isinstance(found, _Failed) else _Batch(found, network.device, streams.copies)):
                return
        put(_END)
    except BaseException as error:  # a thread has nobody else to tell
        put(_Failed(error))


def _given_back(batch: _Batch, labels: Tensor, copied: Any) -> Iterator[Any]:
    if copied is not None:
        copied.synchronize()
    for image, result in zip(batch.images, labels):
        yield result.numpy() if isinstance(image, np.ndarray) else result.to(image.device)


def _copied_back(labels: Tensor, batch: _Batch, copies: Any) -> Tuple[Tensor, Any]:
    """Labels on their way to the host, and what tells that they are there; as they are where nothing needs a copy."""
    on_host = all(isinstance(image, np.ndarray) or not image.is_cuda for image in batch.images)
    if copies is None or not on_host:
        return labels.cpu() if on_host else labels, None
    copies.wait_stream(torch.cuda.current_stream(labels.device))
    with torch.cuda.stream(copies):
        host = torch.empty(labels.shape, dtype=labels.dtype, device="cpu", pin_memory=True)
        host.copy_(labels, non_blocking=True)
        labels.record_stream(copies)
        copied = torch.cuda.Event()
        copied.record(copies)
    return host, copied


def labels_of(network: Any, images: Iterable[Any], batch: int) -> Iterator[Any]:
    """See `OptimizedNetwork.segment_batches`."""
    on_gpu = network.device.type == "cuda"
    there, back = (torch.cuda.Stream(network.device) if on_gpu else None for _ in range(2))
    caller = torch.cuda.current_stream(network.device) if on_gpu else None
    ready: Any = queue.Queue(AHEAD)
    stop = threading.Event()
    arguments = ready, stop, images, batch, network, _Streams(there, caller)
    thread = threading.Thread(target=_produce, args=arguments, name="segment_batches", daemon=True)
    thread.start()
    pending: Any = None
    try:
        while True:
            if pending is not None and ready.empty():  # nothing else can be begun meanwhile
                yield from _given_back(*pending)
                pending = None
            item = ready.get()
            if isinstance(item, _Batch):
                if item.ready is not None:
                    stream = torch.cuda.current_stream(network.device)
                    stream.wait_event(item.ready)
                    item.tensor.record_stream(stream)
                labels = network.labels_of_bytes(item.tensor)
                following = (item,) + _copied_back(labels, item, back)
            if pending is not None:
                yield from _given_back(*pending)
                pending = None
            if item is _END:
                return
            if isinstance(item, _Failed):
                raise item.error
            pending = following
            if not on_gpu:  # nothing is on its way
                yield from _given_back(*pending)
                pending = None
    finally:
        stop.set()
        if thread is not threading.current_thread():  # which may be what collects an abandoned call
            thread.join(PATIENCE)
