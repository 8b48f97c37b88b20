"""A plan by the native CPU kernels, and by oneDNN where that measures faster: every map lies in one reused block of memory.

For each image size, values are placed by their lifetimes and every call is prepared with its arguments; an inference goes
through the calls. The last few sizes are kept; they share the block.
"""

from collections import OrderedDict
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from .. import _native
from ..ops.backend import CPU_DTYPES, no_cpu_kernels
from .arena import Lifetime, allocate, arrange, map_at, total_bytes
from .choices import Choice, Choices
from .plan import IMAGE, LOGITS, InvertedResidual, Plan, Shape
from .ways import DIRECT, FUSED, SEPARATE, WINOGRAD, Way, Ways

SIZES = 8  # kept; more than the supplement's scales, which take turns
RULES = {WINOGRAD: "a 3x3 of stride 1, not on AMX", DIRECT: "no 3x3 of stride 1, or on AMX"}  # where none is measured
Call = Callable[[], Any]


def why_not(dtype: torch.dtype) -> str:
    """Why the native kernels can't run a plan, or nothing."""
    return no_cpu_kernels(dtype) if dtype not in CPU_DTYPES else _native.cpu()[1]


class _Layout(NamedTuple):
    """What runs an image size: maps at their places, and the calls in their order."""

    image: Tensor
    logits: Tensor
    calls: List[Call]
    chosen: List[Choice]


class CpuRun:
    """Runs a plan in float32 or bfloat16. Not for two threads at once."""

    def __init__(self, plan: Plan, dtype: torch.dtype, measure: bool = True) -> None:
        self.plan, self.dtype, self.measure = plan, dtype, measure
        self.kernels, reason = _native.cpu()  # type: Any, str
        assert self.kernels is not None, reason
        self.mean = torch.tensor(plan.mean, dtype=torch.float32, device="cpu").view(1, 3, 1, 1)
        self.last_uses, self.blocks = plan.last_uses(), plan.inverted_residuals()
        for block in self.blocks:  # in one pass, it reads its input when its last step would run
            x = plan.steps[block.steps[0]].x
            self.last_uses[x] = max(self.last_uses[x], block.project)
        self.block, self.workspace, self.workspace_of_labels = allocate(0), allocate(0), allocate(0)
        self.choices: Dict[int, Choices] = {}  # by the number of threads
        self.layouts: "OrderedDict[Tuple[int, ...], _Layout]" = OrderedDict()
        self.level, self.ways = self.kernels.level(), Ways(self.kernels, plan, dtype)
        self.forced: Optional[str] = None  # a way that runs wherever it can, for tests
        self.latest: List[Choice] = []

    def logits(self, images: Tensor) -> Tensor:
        """Of images [N, 3, H, W], or uint8 [N, H, W, 3]: float32 [N, classes, ⌈H/4⌉, ⌈W/4⌉]."""
        return self._run(images).clone()

    def labels(self, images: Tensor) -> Tensor:
        """Of images [N, 3, H, W], or uint8 [N, H, W, 3]: [N, H, W] uint8."""
        size = images.shape[1:3] if images.dtype == torch.uint8 else images.shape[2:]
        maps, threads, order = [self._run(images)], torch.get_num_threads(), "resize_then_softmax"
        labels = torch.empty((images.shape[0], *size), dtype=torch.uint8, device="cpu")
        count = self.kernels.multiscale_mean_workspace(maps, order, labels, threads)
        if self.workspace_of_labels.numel() < count:
            self.workspace_of_labels = allocate(count)
        self.kernels.multiscale_mean(maps, order, labels, self.workspace_of_labels, threads)
        return labels

    def summary(self) -> str:
        level = self.kernels.level()
        megabytes = (self.block.numel() + self.workspace.numel() + self.workspace_of_labels.numel()) / 2**20
        return (
            f"native kernels ({level}), {megabytes:.1f} MiB of maps, {len(self.layouts)} of at most {SIZES} sizes kept"
        )

    def describe(self) -> List[Tuple[str, str]]:
        """(backend, why) of every step, of the size that ran last."""
        if not self.latest:
            return [("not chosen yet", "no image has been run")] * len(self.plan.steps)
        return [(choice.name, choice.why) for choice in self.latest]

    def _run(self, images: Tensor) -> Tensor:
        """The map of the logits, valid until the next run."""
        n, height, width = (images.shape[0], *(images.shape[1:3] if images.dtype == torch.uint8 else images.shape[2:]))
        if self.level != self.kernels.level():  # weights are packed for one
            self.layouts.clear()
            self.level, self.ways = self.kernels.level(), Ways(self.kernels, self.plan, self.dtype)
        key = n, height, width, torch.get_num_threads()
        layout = self.layouts.get(key)
        if layout is None:
            layout = self._layout((n, 3, height, width), key)
        self.layouts.move_to_end(key)
        self.latest = layout.chosen
        self._write_image(images, layout.image)
        for call in layout.calls:
            call()
        return layout.logits

    def _write_image(self, images: Tensor, image: Tensor) -> None:
        if images.dtype == torch.uint8:
            images, mean = images.contiguous(), list(self.plan.mean)
            for i in range(images.shape[0]):
                self.kernels.image_to_map(images[i], mean, image[i : i + 1], torch.get_num_threads())
            return
        torch.sub(images.float(), self.mean, out=image)

    def _layout(self, shape: Shape, key: Tuple[int, ...]) -> _Layout:
        shapes = self.plan.shapes(shape)
        lifetimes = self._lifetimes(shapes)
        offsets = arrange(lifetimes)
        self._reserve_block(total_bytes(lifetimes, offsets))
        views = {
            name: map_at(self.block, offsets[name], shapes[name], torch.float32 if name == LOGITS else self.dtype)
            for name in shapes
        }
        ways = [self.ways.of(i, views, key[-1]) for i in range(len(self.plan.steps))]
        if self.forced is not None:
            ways = [{self.forced: of[self.forced]} if self.forced in of else of for of in ways]
        fused = [self.ways.inverted_residual(block, views, key[-1]) for block in self.blocks]
        self._reserve_workspace(max(way.workspace for way in [*fused, *(way for of in ways for way in of.values())]))
        if key[-1] not in self.choices:
            self.choices[key[-1]] = Choices(torch.device("cpu"), self.measure)
        choices = self.choices[key[-1]]
        chosen = [self._choose(choices, i, of, shapes) for i, of in enumerate(ways)]
        calls = [_when_called(of[choice.name], self.workspace) for of, choice in zip(ways, chosen)]
        for block, way in zip(self.blocks, fused):
            self._fuse(choices, block, way, shapes, calls, chosen)
        choices.save()
        layout = self.layouts[key] = _Layout(views[IMAGE], views[LOGITS], calls, chosen)
        if len(self.layouts) > SIZES:
            self.layouts.popitem(last=False)
        self.ways.forget_unused([found.chosen for found in self.layouts.values()])
        return layout

    def _lifetimes(self, shapes: Dict[str, Shape]) -> Dict[str, Lifetime]:
        first = {IMAGE: -1}
        for i, step in enumerate(self.plan.steps):
            first.update(dict.fromkeys(step.writes, i))
        size = torch.empty((), dtype=self.dtype, device="cpu").element_size()
        return {
            name: Lifetime(n * c * h * w * (4 if name == LOGITS else size), first[name], self.last_uses[name])
            for name, (n, c, h, w) in shapes.items()
        }

    def _choose(self, choices: Choices, i: int, ways: Dict[str, Way], shapes: Dict[str, Shape]) -> Choice:
        step = self.plan.steps[i]
        candidates: Dict[str, Call] = {name: _when_called(way, self.workspace) for name, way in ways.items()}
        first = next(iter(ways))
        key = self._key(str(step), step.reads, shapes)
        return choices.pick(key, candidates, (first, RULES.get(first, "a native kernel is there")))

    def _key(self, what: str, reads: List[str], shapes: Dict[str, Shape]) -> str:
        sizes = " ".join("x".join(map(str, shapes[value])) for value in reads)
        return f"{what} of {sizes} {str(self.dtype).replace('torch.', '')}, {self.kernels.level()}"

    def _fuse(
        self,
        choices: Choices,
        block: InvertedResidual,
        way: Way,
        shapes: Dict[str, Shape],
        calls: List[Call],
        chosen: List[Choice],
    ) -> None:
        """Replaces the calls of a block's steps by one where that is faster."""
        separate = [calls[i] for i in block.steps]
        candidates = {FUSED: _when_called(way, self.workspace), SEPARATE: lambda: [call() for call in separate]}
        if self.forced is not None:
            candidates = {name: call for name, call in candidates.items() if (name == FUSED) == (self.forced == FUSED)}
        steps = [self.plan.steps[i] for i in block.steps]
        key = self._key(" then ".join(map(str, steps)), [steps[0].x], shapes)
        choice = choices.pick(key, candidates, (FUSED, "the maps in between stay in the cache"))
        if choice.name == SEPARATE:
            return
        for i in block.steps:
            calls[i], chosen[i] = _nothing, choice
        calls[block.project] = candidates[FUSED]

    def _reserve_block(self, count: int) -> None:
        if self.block.numel() < count:
            self.layouts.clear()
            self.block = allocate(count)

    def _reserve_workspace(self, count: int) -> None:
        if self.workspace.numel() < count:
            self.layouts.clear()
            self.workspace = allocate(count)


def _nothing() -> None:
    """In place of a step that another one's call does."""


def _when_called(way: Way, workspace: Tensor) -> Call:
    """Prepared at its first call: weights are packed only for what is measured."""
    prepared: List[Call] = []

    def call() -> None:
        if not prepared:
            prepared.append(way.prepare(workspace))
        prepared[0]()

    return call
