"""Reading safetensors files: by the library, or in plain Python where it is not installed (there is none for Python 3.6)."""

import json
from typing import Any, Dict, Tuple

import torch
from torch import Tensor

Content = Tuple[Dict[str, Tensor], Dict[str, str]]

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
}


class DamagedFile(ValueError):
    """Not a complete safetensors file; the message says why."""


def read(path: str) -> Content:
    """(tensors on the CPU, metadata).

    Raises:
        DamagedFile: not a complete safetensors file. OSError: it can't be read.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        return read_plain(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise DamagedFile(str(error))


def read_plain(path: str) -> Content:
    """The same without the library: 8 bytes with the header's length, the header in JSON, the tensors' bytes."""
    with open(path, "rb") as file:
        content = file.read()
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise DamagedFile("its header does not fit into the file")
    data = memoryview(content)[8 + length :]
    try:
        header = json.loads(content[8 : 8 + length].decode("utf-8"))
        metadata = {str(k): str(v) for k, v in header.pop("__metadata__", {}).items()}
        return {key: _tensor(entry, data) for key, entry in header.items()}, metadata
    except (AttributeError, KeyError, OverflowError, RecursionError, RuntimeError, TypeError, ValueError) as error:
        raise DamagedFile("{}: {}".format(type(error).__name__, error))


def _tensor(entry: Dict[str, Any], data: memoryview) -> Tensor:
    dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
    begin, end = entry["data_offsets"]
    count = 1
    for n in shape:
        count *= n
    if not 0 <= begin <= end <= len(data) or end - begin != count * torch.empty((), dtype=dtype).element_size():
        raise ValueError("{} values at bytes {} to {} of {}".format(count, begin, end, len(data)))
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data[begin:end]), dtype=dtype).reshape(shape)
