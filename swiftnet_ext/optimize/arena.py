"""One block of memory for all maps of an inference: values that do not live at the same time share bytes."""

import contextlib
import mmap
from typing import Dict, List, NamedTuple, Sequence

import torch
from torch import Tensor

ALIGNMENT = 64
HUGE_PAGE = 2**21


class Lifetime(NamedTuple):
    """A value's bytes, and the first and the last step at which they are needed."""

    bytes: int
    first: int
    last: int


def arrange(lifetimes: Dict[str, Lifetime]) -> Dict[str, int]:
    """Offsets, multiples of 64, such that values whose lifetimes overlap do not share bytes; the largest go first."""
    placed: List[str] = []
    offsets: Dict[str, int] = {}
    for name in sorted(lifetimes, key=lambda name: (-lifetimes[name].bytes, lifetimes[name].first)):
        value = lifetimes[name]
        taken = sorted(
            (offsets[other], offsets[other] + lifetimes[other].bytes)
            for other in placed
            if lifetimes[other].first <= value.last and value.first <= lifetimes[other].last
        )
        offset = 0
        for begin, end in taken:
            if offset + value.bytes <= begin:
                break
            offset = max(offset, -(-end // ALIGNMENT) * ALIGNMENT)
        offsets[name] = offset
        placed.append(name)
    return offsets


def total_bytes(lifetimes: Dict[str, Lifetime], offsets: Dict[str, int]) -> int:
    return max((offsets[name] + value.bytes for name, value in lifetimes.items()), default=0)


def allocate(count: int) -> Tensor:
    """count zero bytes, uint8, aligned to 64; in huge pages where the system gives them."""
    if count == 0:
        return torch.empty(0, dtype=torch.uint8, device="cpu")
    # private: a process that is forked writes into memory of its own
    memory = mmap.mmap(-1, count + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    block = torch.frombuffer(memory, dtype=torch.uint8)
    return block[-block.data_ptr() % HUGE_PAGE :][:count]


def map_at(block: Tensor, offset: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A dense channels_last map [N, C, H, W] in a block."""
    n, c, h, w = shape
    count = n * c * h * w * torch.empty((), dtype=dtype, device="cpu").element_size()
    return block[offset : offset + count].view(dtype).view(n, h, w, c).permute(0, 3, 1, 2)
