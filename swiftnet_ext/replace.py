"""Putting the fused operators into a network that somebody already has.

Modules of the published SwiftNet code are recognised by their shape (children and attributes), never by import. A
replaced module is the same object with the same parameters, hooks and attributes; its class becomes a subclass of its own
class. In eval mode the operators run; in train mode, with hooks on inner children, or where a call does not fit, the
module's own forward runs.
"""

import copy
import functools
from typing import Any, Callable, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from .nn import SpatialPyramidPooling, UpsampleBlend, fused
from .ops import reference

_PLAN = "_swiftnet_ext_plan"  # on a replaced module: (resize mode, constant size or None, the method it was found by)
_MAX_TRIAL_PIXELS = 8192


class _Replaced:
    """In front of the module's own class. Copies and pickles name that class and this one, which can be imported."""

    original = nn.Module  # type: type
    operators = ""

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced = super().__reduce_ex__(max(protocol, 2))  # type: Any
        return (_rebuild, (self.original, _front_of(type(self)))) + tuple(reduced[2:])


class _Blend(_Replaced):
    """Resize, add, blend; with a projection of the tap where there is a `bottleneck`."""

    operators = "lateral_add, upsample_add_conv3x3"

    def forward(self: Any, x: Tensor, skip: Tensor) -> Tensor:
        mode, fixed, method = getattr(self, _PLAN)
        fits = (fixed is None or fixed == tuple(skip.shape[2:])) and self.upsampling_method == method
        if getattr(self, "detach_skip", False) and torch.is_grad_enabled():
            fits = False  # where the gradient ends is the module's own business
        bottleneck = getattr(self, "bottleneck", None)
        units = [self.blend_conv] + ([] if bottleneck is None else [bottleneck])
        if not fits or not _uses_skip(self) or not fused.can_fuse(units):
            return super().forward(x, skip)  # type: ignore[misc]
        lateral = skip if bottleneck is None else fused.unit_1x1(bottleneck, skip)
        return fused.blend(self.blend_conv, x, lateral, mode)


class _Pyramid(_Replaced):
    """Spatial pyramid pooling."""

    operators = "lateral_add, spatial_pyramid_pool"

    def forward(self: Any, x: Tensor) -> Tensor:
        mode, fixed, method = getattr(self, _PLAN)
        size = tuple(x.shape[2:])
        units = list(self.spp)
        fits = (fixed is None or fixed == size) and self.upsampling_method == method
        if not fits or not fused.can_fuse(units):
            return super().forward(x)  # type: ignore[misc]
        grids = fused.pyramid_grids(self.grids[: len(units) - 2], size[0], size[1], bool(self.square_grid))
        return fused.pyramid(units[1:-1], units[-1], fused.unit_1x1(units[0], x), grids, mode)


@functools.lru_cache(maxsize=None)
def _class_of(original: Any, front: Any) -> Any:
    return type(original.__name__, (front, original), {"original": original, "__module__": __name__})


def _front_of(replaced: Any) -> Any:
    return replaced.__mro__[1]


def _rebuild(original: type, front: type) -> Any:
    replaced = _class_of(original, front)
    return replaced.__new__(replaced)


def _uses_skip(module: Any) -> bool:
    return bool(getattr(module, "use_skip", True)) and not getattr(module, "only_skip", False)


def _unit_misfit(name: str, unit: Any, kernel_size: int) -> str:
    """Why a norm-ReLU-convolution unit can't run inside an operator, or nothing."""
    children = list(unit._modules) if isinstance(unit, nn.Module) else []
    if children not in (["norm", "relu", "conv"], ["relu", "conv"]):
        return "{} has children {}, expected norm, relu, conv".format(name, ", ".join(children) or "none")
    conv, norm = unit.conv, fused.norm_of(unit)
    if type(unit.relu) is not nn.ReLU:
        return "{}.relu is {}, not nn.ReLU".format(name, type(unit.relu).__name__)
    if norm is not None and type(norm) not in fused.NORMS:
        return "{}.norm is {}, not nn.BatchNorm2d".format(name, type(norm).__name__)
    if norm is not None and norm.running_mean is None:
        return "{}.norm keeps no running statistics".format(name)
    if type(conv) is not nn.Conv2d:
        return "{}.conv is {}, not nn.Conv2d".format(name, type(conv).__name__)
    half = kernel_size // 2
    wanted = dict(
        kernel_size=(kernel_size, kernel_size), stride=(1, 1), padding=(half, half), dilation=(1, 1), groups=1,
        padding_mode="zeros"
    )  # fmt: skip
    for attribute, value in wanted.items():
        if getattr(conv, attribute) != value:
            return "{}.conv has {} {}, the operator {}".format(name, attribute, getattr(conv, attribute), value)
    return ""


def _resizing(method: Any) -> Tuple[str, Optional[Tuple[int, ...]], str]:
    """(mode, constant size or None, why not) of an `upsampling_method(x, size)`, by trying it on tiny maps."""
    generator = torch.Generator().manual_seed(0)
    trials = [
        (torch.rand(1, 1, *shape, generator=generator), torch.Size(size))
        for shape, size in (((2, 3), (5, 7)), ((2, 3), (4, 9)), ((3, 2), (4, 9)))
    ]
    try:
        results = [method(x, size) for x, size in trials]
        asked = all(y.shape[2:] == size for y, (_, size) in zip(results, trials))
        fixed = None if asked else tuple(results[0].shape[2:])
        for mode in ("bilinear", "nearest"):
            wanted = [reference.resize(x, fixed or size, mode) for x, size in trials]
            same = all(y.shape == z.shape and torch.allclose(y, z) for y, z in zip(results, wanted))
            if same and (fixed is None or mode == "nearest"):
                return mode, fixed, ""
    except Exception as error:  # the method is the user's: whatever it raises on a tiny map is the reason
        return "", None, "upsampling_method could not be tried: {}: {}".format(type(error).__name__, error)
    misfit = "upsampling_method is neither bilinear (align_corners=False) nor nearest, to the asked or a constant size"
    return "", None, misfit


def _differs(module: Any, front: type, plan: Any) -> str:
    """Why the operators would not give what the module's own forward gives, or nothing: both run on a copy with random
    weights in float64. A constant size too large for that is taken at its word."""
    fixed = plan[1]
    if fixed is not None and fixed[0] * fixed[1] > _MAX_TRIAL_PIXELS:
        return ""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    height, width = fixed or (6, 9)
    try:
        trial = copy.deepcopy(module).to("cpu", torch.float64).eval()
        for part in trial.modules():
            for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks):
                hooks.clear()
        with torch.no_grad():
            for name, value in list(trial.named_parameters()) + list(trial.named_buffers()):
                if value.is_floating_point():
                    random = draw(*value.shape)
                    value.copy_(random.abs() + 0.5 if name.endswith("running_var") else random)
            if front is _Pyramid:
                maps = [draw(1, trial.spp[0].conv.in_channels, height, width)]
            else:
                channels = trial.blend_conv.conv.in_channels
                lateral = trial.bottleneck.conv.in_channels if "bottleneck" in trial._modules else channels
                maps = [draw(1, channels, 4, 5), draw(1, lateral, height, width)]
            expected = trial(*maps)
            _put_in_front(trial, front, plan)
            same = torch.allclose(trial(*maps), expected)
    except Exception as error:  # the forward is the user's: whatever it raises on a small map is the reason
        return "it could not be tried: {}: {}".format(type(error).__name__, error)
    return "" if same else "its own forward computes something else"


def _put_in_front(module: Any, front: Any, plan: Any) -> None:
    original = type(module)  # type: Any
    setattr(module, _PLAN, plan)
    module.__class__ = _class_of(original, front)


def _blend_plan(module: Any) -> Tuple[Any, str]:
    misfit = _unit_misfit("blend_conv", module.blend_conv, 3)
    if not misfit and "bottleneck" in module._modules:
        misfit = _unit_misfit("bottleneck", module.bottleneck, 1)
    if not misfit and not _uses_skip(module):
        misfit = "nothing is added to the resized map (use_skip is off)"
    if not misfit and not callable(getattr(module, "upsampling_method", None)):
        misfit = "it has no upsampling_method"
    if misfit:
        return None, misfit
    mode, fixed, misfit = _resizing(module.upsampling_method)
    return (mode, fixed, module.upsampling_method), misfit


def _pyramid_plan(module: Any) -> Tuple[Any, str]:
    names, units = list(module.spp._modules), list(module.spp)
    for name, unit in zip(names, units):
        misfit = _unit_misfit("spp." + name, unit, 1)
        if misfit:
            return None, misfit
    for attribute in ("grids", "square_grid", "upsampling_method"):
        if not hasattr(module, attribute):
            return None, "it has no attribute {}".format(attribute)
    levels = units[1:-1]
    if (
        not levels
        or len({unit.conv.weight.shape for unit in levels}) != 1
        or len({"norm" in u._modules for u in levels}) != 1
    ):
        return None, "its levels differ in shape"
    if any(unit.conv.bias is not None for unit in levels):
        return None, "its levels have biases"
    if len(module.grids) < len(levels):
        return None, "it has {} grids for {} levels".format(len(module.grids), len(levels))
    mode, fixed, misfit = _resizing(module.upsampling_method)
    stated = getattr(module, "fixed_size", None)
    if not misfit and fixed != (None if stated is None else tuple(stated)):
        misfit = "fixed_size is {}, but upsampling_method resizes to {}".format(stated, fixed or "the asked size")
    return (mode, fixed, module.upsampling_method), misfit


def _recognise(module: nn.Module) -> Tuple[Optional[type], Any, str]:
    """(front class, plan, why not) of a module; no class for one that is none of SwiftNet's."""
    children = module._modules
    spp = children.get("spp")
    if "blend_conv" in children:
        front, plan_of = _Blend, _blend_plan  # type: type, Any
    elif isinstance(spp, nn.Sequential) and {"spp_bn", "spp_fuse"} <= set(spp._modules):
        front, plan_of = _Pyramid, _pyramid_plan
    else:
        return None, None, ""
    if isinstance(module, torch.jit.ScriptModule):
        return front, None, "it is a ScriptModule; replace modules before scripting"
    if "forward" in vars(module):
        return front, None, "its forward was replaced on the object itself"
    plan, misfit = plan_of(module)
    return front, plan, misfit or _differs(module, front, plan)


class ReplaceEntry:
    """One module of the report.

    Attributes: path (in named_modules), class_name, replaced, operators (what runs in it), reason (why not), own (it is
    swiftnet_ext's own module).
    """

    def __init__(self, path: str, class_name: str, replaced: bool, operators: str, reason: str, own: bool) -> None:
        self.path, self.class_name, self.replaced = path, class_name, replaced
        self.operators, self.reason, self.own = operators, reason, own


class ReplaceReport:
    """What replace_modules did: `entries`, `replaced`, `refused`. Prints as a table."""

    def __init__(self, entries: Sequence[ReplaceEntry]) -> None:
        self.entries = list(entries)

    @property
    def replaced(self) -> List[ReplaceEntry]:
        return [e for e in self.entries if e.replaced]

    @property
    def refused(self) -> List[ReplaceEntry]:
        return [e for e in self.entries if not e.replaced]

    def __str__(self) -> str:
        if not self.entries:
            return "no module of SwiftNet's was found"
        rows = [("module", "class", "replaced", "by, or why not")]
        rows += [
            (
                e.path or "(the model)",
                e.class_name,
                "yes" if e.replaced else "no",
                e.operators if e.replaced else e.reason,
            )
            for e in self.entries
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return "\n".join("  ".join([c.ljust(w) for c, w in zip(row, widths)] + [row[3]]) for row in rows)

    __repr__ = __str__


def replace_modules(
    model: nn.Module, filter_fn: Optional[Callable[[str, nn.Module], bool]] = None, require_all: bool = False
) -> ReplaceReport:
    """Puts the fused operators into a network of the published SwiftNet's modules, in place.

    Recognised are the upsampling block (with its own lateral, or the pyramid's without) and spatial pyramid pooling.
    The module objects, parameters, hooks and state-dict keys stay; `restore_modules` undoes it. Outputs in eval mode
    are the same within rounding; in train mode the module's own forward runs.

    Args:
        model: any nn.Module; it may be such a module itself.
        filter_fn: called with a module's path and the module; False leaves it alone and out of the report.
        require_all: raise, and change nothing, if a recognised module can't be replaced or none is found.

    Returns:
        The report: what was replaced by which operators, and why the rest was not.

    Raises:
        TypeError: model is no nn.Module. ValueError: require_all is not met.
    """
    if not isinstance(model, nn.Module):
        raise TypeError("replace_modules: model: expected an nn.Module, got {}".format(type(model).__name__))
    entries, changes = [], []
    for path, module in model.named_modules():
        if isinstance(module, (UpsampleBlend, SpatialPyramidPooling)):
            front, plan, misfit = None, None, "it is swiftnet_ext's own module, and runs the operators already"
        elif isinstance(module, _Replaced):
            front, plan, misfit = _front_of(type(module)), getattr(module, _PLAN), ""
        else:
            front, plan, misfit = _recognise(module)
            if front is None:
                continue
        if filter_fn is not None and not filter_fn(path, module):
            continue
        operators = getattr(front, "operators", "")
        own = isinstance(module, (UpsampleBlend, SpatialPyramidPooling))
        entries.append(ReplaceEntry(path, type(module).__name__, not misfit, operators, misfit, own))
        if not misfit and not isinstance(module, _Replaced):
            changes.append((module, front, plan))
    report = ReplaceReport(entries)
    if require_all and (not report.entries or any(not e.own for e in report.refused)):
        raise ValueError(
            "replace_modules: require_all: not all could be replaced, nothing was changed\n{}".format(report)
        )
    for module, front, plan in changes:
        _put_in_front(module, front, plan)
    return report


def restore_modules(model: nn.Module) -> int:
    """Undoes replace_modules, in place; returns how many modules got their own class back."""
    count = 0
    for module in model.modules():
        if isinstance(module, _Replaced):
            module.__class__ = module.original
            delattr(module, _PLAN)
            count += 1
    return count
