"""Weights packed as the kernels read them: made once for each parameter, kept as long as it, remade when it changes."""

import weakref
from typing import Any, Dict, Optional

import torch
from torch import Tensor

# PyTorch 2.0 to 2.2 make a new Python object of the parameter for each call of an operator written in Python: its end is
# that call's. There the C++ tensor is watched, which tells no one when it goes: `keep` looks.
_OBJECTS_ARE_NEW = "2.0" <= torch.__version__ < "2.3"


class _Entry:
    def __init__(self, weight: Tensor, packed: Tensor, forget: Any) -> None:
        self.weight = weakref.ref(weight, forget)  # type: Any
        if _OBJECTS_ARE_NEW:
            self.weight = torch._C._WeakTensorRef(weight)  # type: ignore[attr-defined]
        # the alias shares the version counter, and keeps another tensor from getting the weight's address
        self.alias = weight.detach()
        self.version = weight._version
        self.packed = packed
        self.stream = None  # type: Any
        self.made = None  # type: Any
        if packed.is_cuda:
            self.stream, self.made = torch.cuda.current_stream(packed.device), torch.cuda.Event()
            self.made.record(self.stream)

    def is_alive(self) -> bool:
        return not self.weight.expired() if _OBJECTS_ARE_NEW else self.weight() is not None

    def holds(self, weight: Tensor) -> bool:
        """Whether `weight`, the tensor at this entry's address, is the one that was packed, unchanged."""
        alias = self.alias
        return (
            self.is_alive()
            and weight._version == self.version
            and weight.data_ptr() == alias.data_ptr()
            and weight.dtype == alias.dtype
            and weight.shape == alias.shape
            and weight.stride() == alias.stride()
        )

    def on_current_stream(self) -> Tensor:
        """The packed weight; a stream that did not make it waits for the one that did."""
        if self.stream is not None:
            stream = torch.cuda.current_stream(self.packed.device)
            if stream != self.stream:
                stream.wait_event(self.made)
                self.packed.record_stream(stream)
        return self.packed


_entries = {}  # type: Dict[int, Dict[str, _Entry]]  # by the address of the weight's C++ tensor, then by the algorithm


def _can_keep(weight: Tensor) -> bool:
    """Inference tensors count no versions. What a CUDA graph captures must be made anew by each replay: the graph would
    outlive a kept weight, and would not see the parameter change."""
    return not weight.is_inference() and not (weight.is_cuda and torch.cuda.is_current_stream_capturing())


_graphs_keep_weights = [False]


class kept_in_graphs:
    """A block in which CUDA graphs may capture the use of kept weights: the caller promises that the weights never change
    and outlive the graph, and that the stream which captures is the one that packed them."""

    def __enter__(self) -> None:
        self._previous, _graphs_keep_weights[0] = _graphs_keep_weights[0], True

    def __exit__(self, *exception: Any) -> None:
        _graphs_keep_weights[0] = self._previous


def find(weight: Tensor, algorithm: str) -> Optional[Tensor]:
    """The weight packed for an algorithm if it is kept and still that of `weight`, ready on the current stream.

    Changes are seen by the version counter, which assignments to and through `weight.data` go past, and replays of a
    CUDA graph too: of these only such that change the memory, dtype or layout are seen.
    """
    entry = _entries.get(weight._cdata, {}).get(algorithm)
    usable = entry is not None and entry.holds(weight) and (_can_keep(weight) or _graphs_keep_weights[0])
    return entry.on_current_stream() if entry is not None and usable else None


def keep(weight: Tensor, algorithm: str, packed: Tensor) -> None:
    """Keeps what has been packed on the current stream, until the weight is changed or gone.

    What was packed of the weight before a change, e.g. in another dtype or on another device, is let go.
    """
    if not _can_keep(weight):
        return
    key = weight._cdata

    def forget(reference: Any) -> None:
        left = {a: entry for a, entry in _entries.get(key, {}).items() if entry.weight is not reference}
        if left:
            _entries[key] = left
        else:
            _entries.pop(key, None)

    if _OBJECTS_ARE_NEW:
        for other, theirs in list(_entries.items()):
            if not any(entry.is_alive() for entry in theirs.values()):
                _entries.pop(other, None)
    entries = {a: entry for a, entry in _entries.get(key, {}).items() if entry.holds(weight)}
    entries[algorithm] = _Entry(weight, packed, forget)
    _entries[key] = entries
