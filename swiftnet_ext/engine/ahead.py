"""Work of a thread beside the network's: reading the next picture, writing the last one's results."""

import itertools
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Deque, Iterable, Iterator, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
READ_AHEAD = 2  # the next is read while one is used


def ahead(function: Callable[[Item], Result], items: Iterable[Item], depth: int) -> Iterator[Result]:
    """function(item) of every item, in order, by a thread that is at most `depth` items ahead; depth 0: by no thread.

    An item is taken in the caller's thread, before an earlier one's result is given: with depth 1, `function` works while
    the next item is made. What `function` raises is raised in its turn.
    """
    if depth == 0:
        yield from map(function, items)
        return
    waiting: Deque["Future[Result]"] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        for item in items:
            if len(waiting) == depth:
                yield waiting.popleft().result()
            waiting.append(pool.submit(function, item))
        while waiting:
            yield waiting.popleft().result()


def has_spare_core(model: Any) -> bool:
    """Whether a thread can work without taking a core from the network: it runs on a GPU, or has fewer threads than this
    process has cores."""
    tensors = itertools.chain(model.parameters(), model.buffers()) if isinstance(model, torch.nn.Module) else iter(())
    if any(tensor.is_cuda for tensor in tensors):
        return True
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return torch.get_num_threads() < cores
