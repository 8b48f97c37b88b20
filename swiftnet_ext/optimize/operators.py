"""Which operators of swiftnet_ext make which steps of a plan."""

from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .. import ops
from ..ops import reference
from .plan import LOGITS, Convolution

Values = Dict[str, Tensor]
Prepared = Tuple[Convolution, Dict[str, Any]]  # a step, and its tensors on the device


def tap(step: Convolution, moved: Dict[str, Any], y: Tensor) -> Tensor:
    """A convolution's second output of its sum, rounded once; the sum itself where that is all."""
    assert step.tap is not None
    scale, shift = moved.get("tap_scale"), moved.get("tap_shift")
    if scale is not None or shift is not None:
        wide = y if y.dtype == torch.float64 else y.float()
        y = reference.affine(wide, scale, shift).to(y.dtype)
    return torch.relu(y) if step.tap.relu else y


def convolution(step: Convolution, moved: Dict[str, Any]) -> Optional[Tuple[str, Callable[[Values], None]]]:
    """(name, call) of the operator that makes a step by itself, or None."""
    weight, bias, kernel = moved["weight"], moved.get("bias"), moved["weight"].shape[2]
    if step.stride != 1 or step.groups != 1 or step.activation == "relu6" or step.output is None:
        return None
    output, relu = step.output, step.activation == "relu"

    def residual(values: Values) -> Optional[Tensor]:
        return values[step.residual] if step.residual else None

    def conv3x3(values: Values) -> None:
        values[output] = ops.conv3x3(values[step.x], weight, bias, residual=residual(values), relu=relu)

    def conv3x3_with_sum(values: Values) -> None:
        assert step.tap is not None
        values[output], total = ops.conv3x3_with_sum(values[step.x], weight, bias, residual=residual(values))
        values[step.tap.output] = tap(step, moved, total)

    def lateral_add(values: Values) -> None:
        up = values[step.up] if step.up else None
        values[output] = ops.lateral_add(values[step.x], weight, up, bias, relu=relu, mode=step.mode)

    if kernel == 3 and step.padding == 1 and step.up is None:
        if step.tap is None:
            return "conv3x3", conv3x3
        return ("conv3x3_with_sum", conv3x3_with_sum) if relu else None
    if kernel == 1 and step.residual is None and step.tap is None and step.activated:
        return "lateral_add", lateral_add  # its own ReLU of x changes nothing
    return None


def _is_plain(step: Any, kernel: int) -> bool:
    return (
        isinstance(step, Convolution)
        and step.weight.shape[2] == kernel
        and (step.stride, step.padding, step.groups) == (1, kernel // 2, 1)
        and step.residual is None
        and step.tap is None
    )


def block_at(steps: Sequence[Any], i: int, last_uses: Dict[str, int]) -> List[Convolution]:
    """The steps from i on that `ops.upsample_blend` makes: lateral, 3×3, and the head where it follows."""
    lateral, *rest = steps[i : i + 3]
    if not rest or not _is_plain(lateral, 1) or not _is_plain(rest[0], 3):
        return []
    blend = rest[0]
    if not lateral.up or not lateral.activated or lateral.activation != "relu" or blend.up:
        return []
    if blend.x != lateral.output or last_uses[blend.x] > i + 1 or blend.activation == "relu6":
        return []
    if blend.activation == "none":
        return [lateral, blend]
    head = rest[1] if len(rest) > 1 else None
    if head is None or not _is_plain(head, 1) or head.output != LOGITS or head.x != blend.output or head.up:
        return []
    return [lateral, blend, head]


def block(lateral: Prepared, blend: Prepared, head: Optional[Prepared] = None) -> Callable[[Values], None]:
    """What `block_at` found, in one operator."""
    first, output = lateral[0], (blend if head is None else head)[0].output
    more = {} if head is None else {"head_weight": head[1]["weight"], "head_bias": head[1].get("bias")}

    def run(values: Values) -> None:
        assert first.up is not None and output is not None
        values[output] = ops.upsample_blend(
            values[first.up], values[first.x], lateral[1]["weight"], blend[1]["weight"], lateral[1].get("bias"),
            blend[1].get("bias"), mode=first.mode, **more,
        )  # fmt: skip

    return run
