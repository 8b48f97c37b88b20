"""A network as a list of steps: plain data, with every value named, that the executors loop over.

Parameters are fp32 on the CPU. Every map is [N, C, H, W]; a step's output depends on the image's size only through the
sizes of what it reads.
"""

from dataclasses import dataclass, field
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from torch import Tensor

from ..nn import fused

IMAGE, LOGITS = "image", "logits"  # the values that a plan begins and ends with
Shape = Tuple[int, int, int, int]


@dataclass(frozen=True)
class Tap:
    """A convolution's second output, [relu](scale·y + shift) of its sum y; scale and shift [K] or None for 1 and 0."""

    output: str
    scale: Optional[Tensor] = None
    shift: Optional[Tensor] = None
    relu: bool = False


@dataclass(frozen=True)
class Convolution:
    """y = convolution(x) + bias + residual + resize(up to y's size); output = activation(y), and the tap.

    weight [K, C / groups, k, k], bias [K] or None, dilation 1. `output` is None where only the tap is needed; `up` is
    resized by `mode`. `activated`: nothing in x is negative, so a ReLU of it changes nothing.
    """

    name: str
    output: Optional[str]
    x: str
    weight: Tensor
    bias: Optional[Tensor] = None
    stride: int = 1
    padding: int = 0
    groups: int = 1
    activation: str = "none"  # none, relu or relu6
    residual: Optional[str] = None
    up: Optional[str] = None
    mode: str = "bilinear"
    tap: Optional[Tap] = None
    activated: bool = False
    folded: Tuple[str, ...] = ()

    @property
    def reads(self) -> List[str]:
        return [value for value in (self.x, self.residual, self.up) if value is not None]

    @property
    def writes(self) -> List[str]:
        return [value for value in (self.output, self.tap.output if self.tap else None) if value is not None]

    def shape(self, x: Shape) -> Shape:
        kernel = self.weight.shape[2]
        height, width = ((n + 2 * self.padding - kernel) // self.stride + 1 for n in x[2:])
        return x[0], self.weight.shape[0], height, width

    @property
    def is_simple(self) -> bool:
        """Whether it adds nothing and has no tap."""
        return self.residual is None and self.up is None and self.tap is None

    @property
    def is_pointwise(self) -> bool:
        return self.weight.shape[2] == 1 and self.stride == 1 and self.padding == 0 and self.groups == 1

    @property
    def is_depthwise3x3(self) -> bool:
        k, c, kernel, _ = self.weight.shape
        return c == 1 and self.groups == k and kernel == 3 and self.padding == 1

    def __str__(self) -> str:
        k, c, kernel, _ = self.weight.shape
        parts = [f"{kernel}x{kernel} {c * self.groups}->{k}"]
        parts += [f"stride {self.stride}"] if self.stride > 1 else []
        if self.groups > 1:
            parts.append("depthwise" if c == 1 else f"{self.groups} groups")
        parts += ["+ residual"] if self.residual else []
        parts += [f"+ {self.mode} resize"] if self.up else []
        parts += [self.activation] if self.output and self.activation != "none" else []
        parts += ["and tap" if self.output else "as tap"] if self.tap else []
        return " ".join(parts)


@dataclass(frozen=True)
class _OneToOne:
    """A step that makes one value of one."""

    name: str
    output: str
    x: str

    @property
    def reads(self) -> List[str]:
        return [self.x]

    @property
    def writes(self) -> List[str]:
        return [self.output]


@dataclass(frozen=True)
class MaxPool(_OneToOne):
    """3×3, stride 2, padding 1."""

    folded: Tuple[str, ...] = ()

    def shape(self, x: Shape) -> Shape:
        return x[0], x[1], (x[2] - 1) // 2 + 1, (x[3] - 1) // 2 + 1

    def __str__(self) -> str:
        return "max pool 3x3 stride 2"


@dataclass(frozen=True)
class Resize(_OneToOne):
    """x to its size divided by `divisor`, rounded up. kind: "bilinear", "bicubic" or "antialiased_bicubic"."""

    divisor: int
    kind: str
    folded: Tuple[str, ...] = ()

    def shape(self, x: Shape) -> Shape:
        return x[0], x[1], -(-x[2] // self.divisor), -(-x[3] // self.divisor)

    def __str__(self) -> str:
        return f"{self.kind.replace('_', ' ')} resize to 1/{self.divisor}"


@dataclass(frozen=True)
class PyramidPool(_OneToOne):
    """`ops.spatial_pyramid_pool` with its parameters; the grids follow from x's size."""

    level_weight: Tensor  # [L, D, C]
    fuse_weight: Tensor  # [K, C + L·D]
    fuse_bias: Optional[Tensor]
    level_scale: Optional[Tensor]  # [L, C]
    level_shift: Optional[Tensor]
    fuse_scale: Optional[Tensor]  # [C + L·D]
    fuse_shift: Optional[Tensor]
    rows: Tuple[int, ...]
    square: bool
    mode: str
    folded: Tuple[str, ...] = ()

    def shape(self, x: Shape) -> Shape:
        return (x[0], self.fuse_weight.shape[0]) + x[2:]

    def grids(self, x: Shape) -> List[Tuple[int, int]]:
        return fused.pyramid_grids(self.rows, x[2], x[3], self.square)

    def __str__(self) -> str:
        return f"spatial pyramid pool, grids of {', '.join(map(str, self.rows))} rows"


Step = Union[Convolution, MaxPool, Resize, PyramidPool]


class InvertedResidual(NamedTuple):
    """The indices of the steps of MobileNetV2's block: 1×1, depthwise 3×3, 1×1; the first may be absent."""

    expand: Optional[int]
    depthwise: int
    project: int

    @property
    def steps(self) -> List[int]:
        return [i for i in self if i is not None]


@dataclass(frozen=True)
class Plan:
    """What leads from the image minus its mean (the value "image") to logits at stride 4 (the value "logits")."""

    network: str  # in words
    num_classes: int
    classes: Optional[List[str]]
    mean: Tuple[float, float, float]  # of RGB 0..255
    steps: List[Step] = field(repr=False)

    def last_uses(self) -> Dict[str, int]:
        """The index of the step after which a value is not needed; that of the logits is past the end."""
        last: Dict[str, int] = {}
        for i, step in enumerate(self.steps):
            last.update(dict.fromkeys(step.writes + step.reads, i))
        last[LOGITS] = len(self.steps)
        return last

    def inverted_residuals(self) -> List[InvertedResidual]:
        """The blocks whose maps in between nothing else reads."""
        last, found = self.last_uses(), []
        for i, (step, project) in enumerate(zip(self.steps, self.steps[1:])):
            if not isinstance(step, Convolution) or not isinstance(project, Convolution):
                continue
            if not (step.is_depthwise3x3 and step.stride <= 2 and step.is_simple and project.is_pointwise):
                continue
            if (
                project.x != step.output
                or project.up is not None
                or project.output == LOGITS
                or last[project.x] != i + 1
            ):
                continue
            expand = self.steps[i - 1] if i else None
            expands = (
                isinstance(expand, Convolution)
                and expand.is_pointwise
                and expand.is_simple
                and expand.output == step.x
                and expand.activation == step.activation
                and last[step.x] == i
            )
            found.append(InvertedResidual(i - 1 if expands else None, i, i + 1))
        return found

    def shapes(self, image: Sequence[int]) -> Dict[str, Shape]:
        """The shapes of all values for an image [N, 3, H, W]."""
        n, c, h, w = image
        found: Dict[str, Shape] = {IMAGE: (n, c, h, w)}
        for step in self.steps:
            shape = step.shape(found[step.x])
            found.update(dict.fromkeys(step.writes, shape))
        return found
