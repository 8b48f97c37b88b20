"""A plan by PyTorch's functions and the project's operators: any device, any floating-point dtype.

On a CPU the convolutions are oneDNN's with packed weights, and bias, residual and activation inside. On a GPU each step
is the library's or, where one fits, an operator of swiftnet_ext, as `choices` measured.
"""

from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..models.pyramid import antialiased_bicubic, bicubic
from ..ops import reference
from . import operators
from .choices import Choice, Choices
from .onednn import OneDNN, activate_, has_onednn
from .plan import IMAGE, LOGITS, Convolution, MaxPool, Plan, PyramidPool, Resize, Step

Values = Dict[str, Tensor]
Run = Callable[[Values], None]
ONLY = "the only one that can run it"
SHAPES = 64  # of images, whose choices are kept


class _Unit:
    """Steps that run one after the other, or in one operator. `candidates` by name; the first is the rule's."""

    def __init__(self, name: str, steps: List[Step], candidates: Dict[str, Run]) -> None:
        self.name, self.steps, self.candidates = name, steps, candidates
        self.chosen: Dict[Any, Choice] = {}  # by the image's shape
        self.last: Optional[Choice] = None


class TorchRun:
    """Runs a plan on a device, in a dtype.

    kernels: whether the project's operators are candidates; on a CPU they are plain PyTorch, so by default only on a GPU.
    onednn: whether oneDNN's convolutions are used on a CPU, as far as this PyTorch has them.
    measure: whether candidates are timed where they were not before.
    """

    def __init__(
        self,
        plan: Plan,
        device: torch.device,
        dtype: torch.dtype,
        kernels: Optional[bool] = None,
        onednn: bool = True,
        measure: bool = True,
    ) -> None:
        self.plan, self.device, self.dtype = plan, device, dtype
        self.kernels = device.type == "cuda" if kernels is None else kernels
        self.onednn = onednn and device.type == "cpu" and has_onednn(dtype)
        half = dtype in (torch.float16, torch.bfloat16)
        self.layout = torch.channels_last if half or device.type == "cpu" else torch.contiguous_format
        self.wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.mean = torch.tensor(plan.mean, dtype=self.wide, device=device).view(1, 3, 1, 1)
        self.choices = Choices(device, measure) if self.kernels and device.type == "cuda" else None
        self.last_uses = plan.last_uses()
        self._shape: Tuple[int, ...] = ()  # of the image that runs
        self.units = self._units()

    def image(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W], RGB 0..255 of any dtype, as the plan takes them."""
        x = (images.to(self.device).to(self.wide) - self.mean).to(self.dtype)
        return x.contiguous(memory_format=self.layout)

    def logits(self, images: Tensor) -> Tensor:
        """Of images [N, 3, H, W], or uint8 [N, H, W, 3]: [N, classes, ⌈H/4⌉, ⌈W/4⌉], float32 on a CPU."""
        if images.dtype == torch.uint8:
            images = images.permute(0, 3, 1, 2)
        logits = self.run(self.image(images))
        return logits.float() if self.device.type == "cpu" and self.dtype != torch.float64 else logits

    def labels(self, images: Tensor) -> Tensor:
        """Of images [N, 3, H, W], or uint8 [N, H, W, 3]: [N, H, W] uint8."""
        height, width = images.shape[1:3] if images.dtype == torch.uint8 else images.shape[2:]
        maps = [self.logits(images)]
        return ops.multiscale_mean(maps, (height, width), order="resize_then_softmax", reduce="argmax")

    def run(self, image: Tensor) -> Tensor:
        """What `image` gave to logits in the plan's dtype."""
        self._shape = tuple(image.shape)
        values, done = {IMAGE: image}, 0
        for unit in self.units:
            self._run(unit, values)
            done += len(unit.steps)
            for step in unit.steps:
                for value in step.reads + step.writes:
                    if self.last_uses[value] < done:
                        values.pop(value, None)
        if self.choices is not None:
            self.choices.save()
        return values[LOGITS]

    def summary(self) -> str:
        return "by PyTorch and this package's operators" if self.kernels else "by PyTorch"

    def describe(self) -> List[Tuple[str, str]]:
        """(backend, why) of every step, as it ran last."""
        found = []
        for unit in self.units:
            names = " or ".join(unit.candidates)
            choice = unit.last or Choice(names, ONLY if len(unit.candidates) == 1 else "not run yet")
            together = f"in one with {', '.join(step.name for step in unit.steps)}: " if len(unit.steps) > 1 else ""
            found += [(choice.name, together + choice.why) for _ in unit.steps]
        return found

    def _run(self, unit: _Unit, values: Values) -> None:
        if self._shape not in unit.chosen:
            if len(unit.chosen) == SHAPES:
                unit.chosen.clear()
            unit.chosen[self._shape] = self._choose(unit, values)
        unit.last = unit.chosen[self._shape]
        unit.candidates[unit.last.name](values)

    def _choose(self, unit: _Unit, values: Values) -> Choice:
        first = next(iter(unit.candidates))
        if len(unit.candidates) == 1:
            return Choice(first, ONLY)
        rule = first, "where an operator of this package fits, it runs"
        if self.choices is None:
            return Choice(*rule)
        reads = [value for step in unit.steps for value in step.reads if value in values]
        shapes = " ".join("x".join(map(str, values[value].shape)) for value in reads)
        key = f"{'; '.join(map(str, unit.steps))} of {shapes} {str(self.dtype).replace('torch.', '')}"
        return self.choices.pick(key, {name: _bound(run, values) for name, run in unit.candidates.items()}, rule)

    def _units(self) -> List[_Unit]:
        units, i = [], 0
        while i < len(self.plan.steps):
            step = self.plan.steps[i]
            block = operators.block_at(self.plan.steps, i, self.last_uses) if self.kernels else []
            if block:
                run = operators.block(*[(part, self._moved(part)) for part in block])
                alone = [_Unit(part.name, [part], self._alone(part)) for part in block]
                candidates = {"upsample_blend": run, "step by step": self._in_turn(alone)}
                units.append(_Unit(step.name, list(block), candidates))
                i += len(block)
            else:
                units.append(_Unit(step.name, [step], self._alone(step)))
                i += 1
        return units

    def _in_turn(self, units: List[_Unit]) -> Run:
        def run(values: Values) -> None:
            for unit in units:
                self._run(unit, values)

        return run

    def _moved(self, step: Step) -> Dict[str, Any]:
        """A step's tensors on the device: weights in the maps' dtype, the rest wider."""
        named = list(vars(step).items())
        tap = getattr(step, "tap", None)
        named += [] if tap is None else [("tap_scale", tap.scale), ("tap_shift", tap.shift)]
        return {
            name: value.to(self.device, self.dtype if name.endswith("weight") else self.wide)
            for name, value in named
            if isinstance(value, Tensor)
        }

    def _alone(self, step: Step) -> Dict[str, Run]:
        moved = self._moved(step)
        if isinstance(step, MaxPool):
            return {"PyTorch": lambda values: values.update({step.output: F.max_pool2d(values[step.x], 3, 2, 1)})}
        if isinstance(step, Resize):
            return {"PyTorch": lambda values: values.update({step.output: resized(step, values[step.x])})}
        if isinstance(step, PyramidPool):
            return {"spatial_pyramid_pool": lambda values: values.update({step.output: pool(step, moved, values)})}
        found: Dict[str, Run] = {}
        operator = operators.convolution(step, moved) if self.kernels else None
        if operator is not None:
            found[operator[0]] = operator[1]
        name, run = self._by_onednn(step, moved) if self.onednn else self._by_library(step, moved)
        return dict(found, **{name: run})

    def _by_onednn(self, step: Convolution, moved: Dict[str, Any]) -> Tuple[str, Run]:
        convolution = OneDNN(step, self.dtype)
        inside = "none" if step.tap or step.up else step.activation

        def run(values: Values) -> None:
            y = convolution(values[step.x], inside, values[step.residual] if step.residual else None)
            finish(step, moved, y, values, inside)

        return "oneDNN", run

    def _by_library(self, step: Convolution, moved: Dict[str, Any]) -> Tuple[str, Run]:
        weight = moved["weight"].contiguous(memory_format=self.layout)
        bias = moved["bias"].to(self.dtype) if step.bias is not None else None

        def run(values: Values) -> None:
            y = F.conv2d(values[step.x], weight, bias, step.stride, step.padding, 1, step.groups)
            if step.residual:
                y += values[step.residual]
            finish(step, moved, y, values, "none")

        return "library", run


def _bound(run: Run, values: Values) -> Callable[[], None]:
    return lambda: run(dict(values))


def resized(step: Resize, x: Tensor) -> Tensor:
    height, width = step.shape((x.shape[0], x.shape[1], x.shape[2], x.shape[3]))[2:]
    if step.kind == "bilinear":
        return reference.resize(x, (height, width), "bilinear")
    if step.kind == "antialiased_bicubic":
        return antialiased_bicubic(x, height, width)
    return bicubic(x, height, width)


def pool(step: PyramidPool, moved: Dict[str, Any], values: Values) -> Tensor:
    x = values[step.x]
    affines = {name: moved.get(name) for name in ("level_scale", "level_shift", "fuse_scale", "fuse_shift")}
    return ops.spatial_pyramid_pool(
        x, moved["level_weight"], moved["fuse_weight"], moved.get("fuse_bias"),
        grids=step.grids((x.shape[0], x.shape[1], x.shape[2], x.shape[3])), mode=step.mode, **affines,
    )  # fmt: skip


def finish(step: Convolution, moved: Dict[str, Any], y: Tensor, values: Values, inside: str) -> None:
    """What the library's convolution leaves: the resized map, the tap, and the activation if it was not `inside`."""
    if step.up:
        y = y + reference.resize(values[step.up], y.shape[2:], step.mode)
    if step.tap is not None:
        values[step.tap.output] = operators.tap(step, moved, y)
    if step.output is None:
        return
    if inside != step.activation:
        shared = step.tap is not None and values[step.tap.output] is y
        y = activate_(y.clone() if shared else y, step.activation)
    values[step.output] = y
