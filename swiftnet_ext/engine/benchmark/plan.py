"""What is measured: the rows of a benchmark, and what a user may ask for."""

import re
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch

from ...cpu import has_bf16_convolutions
from ...models import MODELS
from ...models.checkpoint import SHIPPED, inspect_checkpoint

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LOOPS = ("user", "paper")
PEERS = ("eager", "compile", "onnxruntime", "openvino")
ALLOCATORS = {"tuned": ("tuned",), "default": ("default",), "both": ("tuned", "default")}
# freed memory stays with the process and comes in huge pages; else page faults take longer than the convolutions
TUNABLES = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:"
    "glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=67108864"
)
PICTURES = 4  # at most so many different images; a larger batch has some of them again

LEFT_OUT = "left out by --quick"  # begins a side's reason; NoTime, where there was none


class BenchmarkError(Exception):
    """What a user can mend."""


class Case(NamedTuple):
    """One row; its fields tell it from every other of a file."""

    model: str
    weights: Optional[str]  # a file or the name of shipped ones; None for random ones
    width: int
    height: int
    dtype: str
    device: str
    loop: str  # "user": uint8 image to uint8 labels; "paper": forward passes to logits
    allocator: str  # "tuned": with TUNABLES; "default"
    batch: int = 1  # images that a call does

    def title(self) -> str:
        several = f"batch {self.batch}, " if self.batch > 1 else ""
        return (
            f"{self.model} {self.width}x{self.height} {self.dtype} {self.device}, {several}"
            f"{self.loop}'s loop, {self.allocator} allocator"
        )


class Effort(NamedTuple):
    """How long sides are timed: in each round each side's turn is about `turn` seconds, and at most `calls` calls.

    A user's calls take `images` images in turn, and more where a batch has more, up to PICTURES.
    """

    rounds: int
    turn: float
    calls: int
    images: int


FULL, QUICK = Effort(9, 0.6, 50, PICTURES), Effort(3, 0.25, 20, 1)


def size_of(text: str) -> Tuple[int, int]:
    """WIDTHxHEIGHT to (width, height)."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise BenchmarkError(f"--size {text}: expected WIDTHxHEIGHT in pixels, e.g. 2048x1024")
    return int(match[1]), int(match[2])


def batch_of(text: str) -> int:
    """A number of images."""
    if not re.fullmatch(r"[1-9]\d*", text):
        raise BenchmarkError(f"--batch: expected a positive integer, got {text!r}; pass e.g. 4, or leave it out for 1")
    return int(text)


def device_of(name: str) -> torch.device:
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise BenchmarkError(f"--device {name}: expected cpu, cuda or cuda:N")
        torch.empty(0, device=device)
        return device
    except (RuntimeError, AssertionError) as error:  # an unknown device, or a PyTorch without CUDA
        raise BenchmarkError(f"--device {name}: {str(error).splitlines()[0]}; expected cpu, cuda or cuda:N")


def half_precision(device: torch.device) -> str:
    """What the device computes faster in than in fp32: fp16 on a GPU, bf16 on a CPU; on one without it fp32."""
    return "fp16" if device.type == "cuda" else "bf16" if has_bf16_convolutions() else "fp32"


def dtypes_of(names: Sequence[str], device: torch.device) -> List[str]:
    """Checked; fp32 and the device's half precision, if it has one, where none is named."""
    if not names:
        return list(dict.fromkeys(["fp32", half_precision(device)]))
    for name in names:
        if name not in DTYPES:
            raise BenchmarkError(f"--dtype {name}: expected one of {', '.join(DTYPES)}")
        if name == "fp16" and device.type == "cpu":
            raise BenchmarkError("--dtype fp16: is measured on CUDA alone, got cpu; choose bf16")
    return list(names)


def one_of(option: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise BenchmarkError(f"{option} {value}: expected one of {', '.join(choices)}")
    return value


def networks_of(models: Sequence[str], weights: Sequence[str]) -> List[Tuple[str, Optional[str]]]:
    """(name, weights) of each network: a name's shipped weights where there are any, else random ones.

    Raises:
        BenchmarkError: an unknown name. CheckpointError, OSError: a file that is no checkpoint.
    """
    found: List[Tuple[str, Optional[str]]] = []
    for name in models:
        one_of("--model", name, MODELS)
        shipped = [file for file in SHIPPED if file == "camvid_" + name.replace("swiftnet_", "")]
        found.append((name, shipped[0] if shipped else None))
    found += [(inspect_checkpoint(file).name, file) for file in weights]
    return list(dict.fromkeys(found))


def cases(
    networks: Sequence[Tuple[str, Optional[str]]],
    sizes: Sequence[Tuple[int, int]],
    dtypes: Sequence[str],
    devices: Sequence[str],
    loops: Sequence[str],
    allocators: Sequence[str],
    batches: Sequence[int] = (1,),
) -> Iterator[Case]:
    """Every combination; those come first that are worth most where time runs out."""
    for allocator in allocators:
        for loop in loops:
            for device in devices:
                if torch.device(device).type == "cuda" and allocator != allocators[0]:
                    continue  # glibc has no part in a GPU's times
                for batch in batches:
                    for dtype in reversed(dtypes):
                        for width, height in sizes:
                            for name, weights in networks:
                                yield Case(name, weights, width, height, dtype, device, loop, allocator, batch)


def case_of(row: Dict[str, Any]) -> Case:
    """The case of a row of a file; a row that names no batch is of single images."""
    whole = {**Case._field_defaults, **row}
    return Case(*(whole[field] for field in Case._fields))
