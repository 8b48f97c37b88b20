"""Putting the fused operators into a network that somebody already has.

Modules of the published SwiftNet code are recognised by their shape (children and attributes), never by import. A
replaced module is the same object with the same parameters, hooks and attributes; its class becomes a subclass of its own
class. In eval mode the operators run; in train mode, with hooks on inner children, or where a call does not fit, the
module's own forward runs.
"""

import copy
import functools
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from .nn import SpatialPyramidPooling, UpsampleBlend, fused
from .ops import reference

_PARTS = "_swiftnet_ext_parts"  # on a replaced module's class
_PLAN = "_swiftnet_ext_plan"  # on a replaced module: (resize mode, constant size or None, the method it was found by)


class _Replaced:
    """In front of the module's own class. Copies and pickles name that class and this one, which can be imported."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced = super().__reduce_ex__(max(protocol, 2))  # type: Any
        return (_rebuild, _parts_of(type(self))) + tuple(reduced[2:])


class _Blend(_Replaced):
    """Resize, add, blend; with a projection of the tap where there is a `bottleneck`."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        mode, fixed, method = getattr(self, _PLAN)
        fits = _is_call_of(2, args, kwargs) and fixed in (None, tuple(args[1].shape[2:]))
        if getattr(self, "detach_skip", False) and torch.is_grad_enabled():
            fits = False  # where the gradient ends is the module's own business
        fits = fits and _uses_skip(self) and self.upsampling_method == method
        bottleneck = getattr(self, "bottleneck", None)
        # a projection carries the resizing and the sum: the blend after it may run by itself
        size, unit = (3, self.blend_conv) if bottleneck is None else (1, bottleneck)
        if not fits or not fused.can_fuse(size, unit):
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        return _run_blend(self, mode, *args)


class _Pyramid(_Replaced):
    """Spatial pyramid pooling."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        mode, fixed, method = getattr(self, _PLAN)
        units = list(self.spp._modules.values())
        fits = _is_call_of(1, args, kwargs) and fixed in (None, tuple(args[0].shape[2:]))
        fits = fits and self.upsampling_method == method and fused.can_fuse(1, *units)
        if not fits or fused.levels_misfit(units[1:-1]):
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        return _run_pyramid(self, mode, *args)


def _run_blend(module: Any, mode: str, x: Tensor, skip: Tensor) -> Tensor:
    return fused.upsample_blend(getattr(module, "bottleneck", None), module.blend_conv, x, skip, mode)


def _run_pyramid(module: Any, mode: str, x: Tensor) -> Tensor:
    first, *levels, fuse = module.spp._modules.values()
    grids = fused.pyramid_grids(module.grids[: len(levels)], x.shape[2], x.shape[3], bool(module.square_grid))
    return fused.pyramid(levels, fuse, fused.unit_1x1(first, x), grids, mode)


_RUN = {_Blend: _run_blend, _Pyramid: _run_pyramid}  # type: Dict[Any, Callable[..., Tensor]]
_OPERATORS = {
    _Blend: lambda m: fused.blend_operators(getattr(m, "bottleneck", None), m.blend_conv),
    _Pyramid: SpatialPyramidPooling.operators,
}  # type: Dict[Any, Callable[[Any], str]]


@functools.lru_cache(maxsize=None)
def _class_of(original: Any, front: Any) -> Any:
    return type(original.__name__, (front, original), {_PARTS: (original, front), "__module__": __name__})


def _parts_of(replaced: Any) -> Any:
    """(the module's own class, the class in front of it)."""
    return getattr(replaced, _PARTS)


def _rebuild(original: type, front: type) -> Any:
    replaced = _class_of(original, front)
    return replaced.__new__(replaced)


def _is_call_of(count: int, args: Any, kwargs: Any) -> bool:
    """Whether the module is called as the published code calls it: with this many maps, by position."""
    return len(args) == count and not kwargs and all(isinstance(a, Tensor) and a.dim() == 4 for a in args)


def _uses_skip(module: Any) -> bool:
    return bool(getattr(module, "use_skip", True)) and not getattr(module, "only_skip", False)


def _resizing(method: Any) -> Tuple[str, Optional[Tuple[int, ...]], str]:
    """(mode, constant size or None, why not) of an `upsampling_method(x, size)`, by trying it on tiny maps."""
    generator = torch.Generator().manual_seed(0)
    trials = [
        (torch.rand(1, 1, *shape, generator=generator, dtype=torch.float32, device="cpu"), torch.Size(size))
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


def _trial_sizes(module: Any, front: type) -> List[Tuple[int, int]]:
    """Sizes of maps at which other ways to round a pyramid's columns give other grids.

    A grid of g rows has g·9/7 and g·12/7 columns, whose fractions lie on both sides of ½; exactly ½ where the height is
    twice the power of two in g and the width is odd, with an even and with an odd number below; and less than one.
    """
    sizes = [(6, 9)]
    if front is _Pyramid:
        sizes += [(7, 9), (7, 12), (10 * max(module.grids), 3)]
        sizes += [(2 * (g & -g), width) for g in sorted(set(module.grids)) for width in (9, 11)]
    return sizes


def _differs(module: Any, front: type, plan: Any) -> str:
    """Why the operators would not give what the module's own forward gives, or nothing: both run on a copy with random
    weights in float64, on maps of several sizes. There a constant size becomes each of these."""
    mode, fixed, _ = plan
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")

    try:
        trial = copy.deepcopy(module).to("cpu", torch.float64).eval()
        for part in trial.modules():
            for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks):
                hooks.clear()
        if fixed is not None:
            trial.upsampling_method = functools.partial(reference.resize, mode=mode)
        with torch.no_grad():
            for name, value in list(trial.named_parameters()) + list(trial.named_buffers()):
                if value.is_floating_point():
                    random = draw(*value.shape)
                    value.copy_(random.abs() + 0.5 if name.endswith("running_var") else random)
            for height, width in _trial_sizes(trial, front):
                if fixed is not None:
                    trial.fixed_size = height, width
                if front is _Pyramid:
                    maps = [draw(2, trial.spp[0].conv.in_channels, height, width)]
                else:
                    if "bottleneck" in trial._modules:
                        lateral, channels = trial.bottleneck.conv.in_channels, trial.bottleneck.conv.out_channels
                    else:
                        lateral = channels = trial.blend_conv.conv.in_channels
                    maps = [draw(2, channels, 4, 5), draw(2, lateral, height, width)]
                expected = trial(*maps)
                if not torch.allclose(_RUN[front](trial, mode, *maps), expected):
                    return "its own forward computes something else for maps of {}x{}".format(height, width)
    except Exception as error:  # the forward is the user's: whatever it raises on a small map is the reason
        return "it could not be tried: {}: {}".format(type(error).__name__, error)
    return ""


def _put_in_front(module: Any, front: Any, plan: Any) -> None:
    original = type(module)  # type: Any
    setattr(module, _PLAN, plan)
    module.__class__ = _class_of(original, front)


def _blend_plan(module: Any) -> Tuple[Any, str]:
    if "bottleneck" in module._modules:  # a blend that fits no operator runs by itself, on the operator's sum
        misfit = fused.misfit("bottleneck", module.bottleneck, 1)
    else:
        misfit = fused.misfit("blend_conv", module.blend_conv, 3)
    if not misfit and not _uses_skip(module):
        misfit = "nothing is added to the resized map (use_skip is off)"
    if not misfit and not callable(getattr(module, "upsampling_method", None)):
        misfit = "it has no upsampling_method"
    if misfit:
        return None, misfit
    mode, fixed, misfit = _resizing(module.upsampling_method)
    return (mode, fixed, module.upsampling_method), misfit


def _pyramid_plan(module: Any) -> Tuple[Any, str]:
    if type(module.spp) is not nn.Sequential:
        return None, "spp is {}, not nn.Sequential".format(type(module.spp).__name__)
    units = list(module.spp)
    for name, unit in module.spp._modules.items():
        misfit = fused.misfit("spp." + name, unit, 1)
        if misfit:
            return None, misfit
    for attribute in ("grids", "square_grid", "upsampling_method"):
        if not hasattr(module, attribute):
            return None, "it has no attribute {}".format(attribute)
    levels = units[1:-1]
    misfit = fused.levels_misfit(levels)
    if misfit:
        return None, misfit
    if len(module.grids) < len(levels):
        return None, "it has {} grids for {} levels".format(len(module.grids), len(levels))
    mode, fixed, misfit = _resizing(module.upsampling_method)
    stated = getattr(module, "fixed_size", None)
    if not misfit and fixed != (None if stated is None else tuple(stated)):
        misfit = "fixed_size is {}, but upsampling_method resizes to {}".format(stated, fixed or "the asked size")
    return (mode, fixed, module.upsampling_method), misfit


def _recognise(module: nn.Module) -> Tuple[Optional[type], Any, str]:
    """(front class, plan, why not) of a module; no class for one that is none of SwiftNet's."""
    children = dict(module.named_children())
    spp = children.get("spp")
    scripted = isinstance(module, torch.jit.ScriptModule)
    if "blend_conv" in children:
        front, plan_of = _Blend, _blend_plan  # type: type, Any
    elif spp is not None and {"spp_bn", "spp_fuse"} <= {name for name, _ in spp.named_children()}:
        front, plan_of = _Pyramid, _pyramid_plan
    else:
        return None, None, ""
    if scripted:
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
        own = isinstance(module, (UpsampleBlend, SpatialPyramidPooling))
        if own:
            front, plan, misfit = None, None, "it is swiftnet_ext's own, and runs " + module.operators()
        elif isinstance(module, _Replaced):
            front, plan, misfit = _parts_of(type(module))[1], getattr(module, _PLAN), ""
        else:
            front, plan, misfit = _recognise(module)
            if front is None:
                continue
        if filter_fn is not None and not filter_fn(path, module):
            continue
        operators = "" if misfit else _OPERATORS[front](module)
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
    """Undoes replace_modules, in place; returns how many modules got their own class back.

    Raises:
        RuntimeError: a module's class was changed again since then; nothing is undone.
    """
    replaced = [(path, module) for path, module in model.named_modules() if isinstance(module, _Replaced)]
    for path, module in replaced:
        if _PARTS not in vars(type(module)):
            raise RuntimeError(
                "restore_modules: {!r}: its class became {} after replace_modules; undo that first".format(
                    path, type(module).__name__
                )
            )
    for _, module in replaced:
        module.__class__ = _parts_of(type(module))[0]
        delattr(module, _PLAN)
    return len(replaced)
