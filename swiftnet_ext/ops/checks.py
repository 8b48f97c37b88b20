"""The one place where the operators' arguments are checked, before anything is launched.

Every message says: operator, argument, what was expected, what came, and the cure. It is the same on every backend.
"""

from typing import Any, Optional, Sequence, Tuple

import torch
from torch import Tensor

MODES = ("bilinear", "nearest")
ORDERS = ("softmax_then_resize", "resize_then_softmax")
REDUCTIONS = ("mean", "argmax")
MAX_LABELS = 255  # labels are uint8, and 255 marks NaN
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return "{} of shape {} on {}".format(str(value.dtype).replace("torch.", ""), list(value.shape), value.device)
    return "{} {!r}".format(type(value).__name__, value)


def _fail(kind: type, op: str, argument: str, expected: str, value: Any, cure: str) -> None:
    got = value if isinstance(value, str) else _describe(value)
    raise kind("{}: {}: expected {}, got {}; {}".format(op, argument, expected, got, cure))


def choice(op: str, argument: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        expected = "one of " + ", ".join(repr(c) for c in choices)
        _fail(ValueError, op, argument, expected, repr(value), "choose one of these")


def feature_map(op: str, argument: str, value: Any, like: Optional[Tensor] = None) -> None:
    """A floating-point tensor [N, C, H, W] with C, H, W >= 1, of `like`'s dtype, device and batch size if given."""
    if not isinstance(value, Tensor):
        _fail(TypeError, op, argument, "a torch.Tensor [N, C, H, W]", value, "convert it with torch.as_tensor")
    shape = value.shape
    if len(shape) != 4:
        _fail(ValueError, op, argument, "4 dimensions [N, C, H, W]", value, "add the batch dimension with x[None]")
    if value.dtype not in DTYPES:
        _fail(TypeError, op, argument, "float32, float16, bfloat16 or float64", value, "convert it with .float()")
    batch, channels, height, width = shape
    if channels < 1 or height < 1 or width < 1:
        _fail(ValueError, op, argument, "at least one channel, row and column", value, "only the batch may be empty")
    if like is not None:
        _like(op, argument, value, like)
        if batch != like.shape[0]:
            _fail(ValueError, op, argument, "batch size {}".format(like.shape[0]), value, "use one batch throughout")


def _like(op: str, argument: str, value: Tensor, like: Tensor) -> None:
    if value.dtype != like.dtype:
        expected = "dtype {} as the first argument".format(str(like.dtype).replace("torch.", ""))
        _fail(TypeError, op, argument, expected, value, "convert one of them with .to(dtype)")
    if value.device != like.device:
        _fail(
            ValueError,
            op,
            argument,
            "device {} as the first argument".format(like.device),
            value,
            "move it with .to(device)",
        )


def weight(op: str, argument: str, value: Any, shape: Tuple[Any, ...], like: Tensor) -> None:
    """A tensor of `like`'s dtype and device; `shape` holds a size, or a name where any size of at least 1 is right."""
    if not isinstance(value, Tensor):
        _fail(TypeError, op, argument, "a torch.Tensor {}".format(_shape_text(shape)), value, "pass the layer's weight")
    _shape(op, argument, value, shape)
    _like(op, argument, value, like)


def vector(op: str, argument: str, value: Any, shape: Tuple[int, ...], like: Tensor) -> None:
    """None, or a tensor of exactly `shape` on `like`'s device, in `like`'s dtype or float32."""
    if value is None:
        return
    if not isinstance(value, Tensor):
        _fail(TypeError, op, argument, "None or a torch.Tensor {}".format(_shape_text(shape)), value, "pass a tensor")
    _shape(op, argument, value, shape)
    if value.dtype is not torch.float32 and value.dtype != like.dtype:
        expected = "float32 or {}".format(str(like.dtype).replace("torch.", ""))
        _fail(TypeError, op, argument, expected, value, "convert it with .float()")
    if value.device != like.device:
        _fail(
            ValueError,
            op,
            argument,
            "device {} as the first argument".format(like.device),
            value,
            "move it with .to(device)",
        )


def _shape_text(shape: Tuple[Any, ...]) -> str:
    return "[" + ", ".join(str(s) for s in shape) + "]"


def _shape(op: str, argument: str, value: Tensor, shape: Tuple[Any, ...]) -> None:
    fits = value.dim() == len(shape)
    if fits:
        for got, want in zip(value.shape, shape):
            fits = fits and (got >= 1 if isinstance(want, str) else got == want)
    if not fits:
        _fail(
            ValueError,
            op,
            argument,
            "shape " + _shape_text(shape),
            value,
            "its channels must fit the maps it is applied to",
        )


def same_shape(op: str, argument: str, value: Tensor, shape: Sequence[Any], names: str) -> None:
    """`value` [N, C, H, W] must have the sizes in `shape`; None leaves a dimension free. `names` says which."""
    for got, want in zip(value.shape, shape):
        if want is not None and got != want:
            _fail(ValueError, op, argument, names, value, "the maps must match")


def size_pair(op: str, argument: str, value: Any) -> Tuple[int, int]:
    """(height, width), both at least 1."""
    fits = isinstance(value, (tuple, list, torch.Size)) and len(value) == 2
    if fits:
        for v in value:
            fits = fits and not isinstance(v, (bool, float, str)) and v >= 1
    if not fits:
        _fail(ValueError, op, argument, "(height, width), both at least 1", value, "pass two positive integers")
    return value[0], value[1]


def grid_pairs(op: str, value: Any) -> None:
    if not isinstance(value, (tuple, list)) or len(value) == 0:
        _fail(ValueError, op, "grids", "at least one (rows, columns) pair", value, "pass e.g. [(8, 16), (4, 8)]")
    for grid in value:
        size_pair(op, "grids", grid)


def half(op: str, argument: str, value: Tensor, why: str) -> None:
    if value.dtype is not torch.float16:
        _fail(TypeError, op, argument, "float16 for " + why, value, "convert it with .half(), or choose another")


def tensor_core_maps(op: str, **maps: Optional[Tensor]) -> None:
    """Maps, as far as there are any, as the tensor cores' kernels take them."""
    for argument, value in maps.items():
        if value is None:
            continue
        if value.dtype not in (torch.float16, torch.bfloat16):
            _fail(TypeError, op, argument, "float16 or bfloat16 for tensor cores", value, "convert it with .half()")
        if value.shape[1] % 8 != 0 or not value.is_contiguous(memory_format=torch.channels_last):
            expected = "channels_last memory and channels in eights for tensor cores"
            cure = "pass it as .contiguous(memory_format=torch.channels_last), or choose another algorithm"
            _fail(ValueError, op, argument, expected, value, cure)


def in_eights(op: str, argument: str, value: Tensor) -> None:
    """A weight whose outputs the tensor cores' kernels can store."""
    if value.shape[0] % 8 != 0:
        _fail(ValueError, op, argument, "outputs in eights for tensor cores", value, "choose another algorithm")


def only_with(op: str, needed: str, **given: Any) -> None:
    """Arguments that mean something only with another one, which is absent."""
    for argument, value in given.items():
        if value is not None:
            _fail(ValueError, op, argument, "None without " + needed, value, "pass {} too".format(needed))


def flag(op: str, argument: str, value: Any) -> None:
    if not isinstance(value, bool):
        _fail(TypeError, op, argument, "True or False", value, "pass a bool")


def logit_maps(op: str, value: Any) -> None:
    if not isinstance(value, (tuple, list)) or len(value) == 0:
        _fail(
            TypeError, op, "logits", "a list of at least one tensor [N, classes, h, w]", value, "wrap one map in a list"
        )
    for i, m in enumerate(value):
        argument = "logits[{}]".format(i)
        feature_map(op, argument, m, value[0] if i else None)
        if m.shape[1] != value[0].shape[1]:
            _fail(ValueError, op, argument, "{} classes".format(value[0].shape[1]), m, "all maps need the same classes")


def label_count(op: str, classes: int) -> None:
    if classes > MAX_LABELS:
        got = "{} classes".format(classes)
        _fail(
            ValueError,
            op,
            "logits",
            "at most 255 classes for uint8 labels",
            got,
            'ask for reduce="mean" and take argmax',
        )
