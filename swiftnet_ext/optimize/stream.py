"""Many images one after the other: the next are read and copied while one runs."""

import queue
import threading
from typing import Any, Iterable, Iterator, List, Tuple

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


class _Batch:
    """Images of one size, on the network's device."""

    def __init__(self, images: List[Any], device: torch.device, copies: Any) -> None:
        self.images = images
        tensors = [as_tensor(image) for image in images]
        self.tensor = tensors[0][None] if len(tensors) == 1 else torch.stack([t.cpu() for t in tensors])
        self.ready: Any = None
        if copies is not None and not self.tensor.is_cuda:
            with torch.cuda.stream(copies):
                self.tensor = self.tensor.pin_memory().to(device, non_blocking=True)
                self.ready = torch.cuda.Event()
                self.ready.record(copies)
        else:
            self.tensor = self.tensor.to(device)


def _batches(images: Iterable[Any], batch: int, stop: threading.Event) -> Iterator[Any]:
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
            # the iterable may fill the same memory again
            waiting.append(image.copy() if isinstance(image, np.ndarray) else image.clone())
            if len(waiting) == batch:
                yield waiting
                waiting = []
    except Exception as error:  # the iterable is the user's: raised when its turn comes
        failed = _Failed(error)
    if waiting:
        yield waiting
    if failed:
        yield failed


def _produce(ready: Any, stop: threading.Event, images: Iterable[Any], batch: int, network: Any, copies: Any) -> None:
    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    try:
        for found in _batches(images, batch, stop):
            if not put(found if isinstance(found, _Failed) else _Batch(found, network.device, copies)):
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
    ready: Any = queue.Queue(AHEAD)
    stop = threading.Event()
    arguments = ready, stop, images, batch, network, there
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
