"""Making an operator known to PyTorch, as far as the installed version allows.

From PyTorch 2.0 each operator is `torch.ops.swiftnet_ext.<name>`: an implementation for every device, a fake
implementation (shapes and strides for torch.compile and export) and an autograd formula. The lower-level Library is
used rather than `custom_op` because a call through it costs less. Below 2.0 there is nothing to register with, and the
plain function runs under an autograd.Function.

The backward pass recomputes the operator through its reference, so nothing but the inputs is kept.
"""

import functools
from typing import Any, Callable, List, Sequence, Tuple

import torch
from torch import Tensor

NAMESPACE = "swiftnet_ext"
_library = None  # type: Any  # one for all operators; it would unregister them if it were collected


def is_channels_last(x: Tensor) -> bool:
    """Whether outputs for this input are channels_last: it is so, and not contiguous as well."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def empty_like_layout(x: Tensor, shape: Sequence[Any]) -> Tensor:
    """An uninitialised tensor of this shape in x's dtype, device and memory format."""
    if is_channels_last(x):
        return torch.empty(tuple(shape), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return torch.empty(tuple(shape), dtype=x.dtype, device=x.device)


def in_layout_of(y: Tensor, x: Tensor) -> Tensor:
    """The map y in x's memory format, with exactly its strides, and in storage of its own."""
    _, channels, height, width = (max(1, n) for n in y.shape)
    plane = height * width
    contiguous = (channels * plane, plane, width, 1)
    wanted = (plane * channels, 1, width * channels, channels) if is_channels_last(x) else contiguous
    return y if y is not x and y.stride() == wanted else empty_like_layout(x, y.shape).copy_(y)


class _Packed:
    """An operator's arguments as a flat list of tensors and the structure to put them, or others, back into."""

    def __init__(self, arguments: Sequence[Any]) -> None:
        self.tensors = []  # type: List[Tensor]
        self.slots = []  # type: List[Tuple[str, Any]]
        for a in arguments:
            if isinstance(a, Tensor):
                self.tensors.append(a)
                self.slots.append(("tensor", None))
            elif isinstance(a, (list, tuple)) and len(a) and isinstance(a[0], Tensor):
                self.tensors.extend(a)
                self.slots.append(("tensors", len(a)))
            else:
                self.slots.append(("value", a))

    @staticmethod
    def unpack(slots: Sequence[Tuple[str, Any]], tensors: Sequence[Any], values: bool) -> List[Any]:
        """The arguments with these tensors in place of their own; other values as they were, or None."""
        rest = iter(tensors)
        arguments = []  # type: List[Any]
        for kind, content in slots:
            if kind == "tensor":
                arguments.append(next(rest))
            elif kind == "tensors":
                arguments.append([next(rest) for _ in range(content)])
            else:
                arguments.append(content if values else None)
        return arguments


def _save(ctx: Any, arguments: Sequence[Any]) -> None:
    packed = _Packed(arguments)
    ctx.save_for_backward(*packed.tensors)
    ctx.slots = packed.slots


def _gradients(ctx: Any, reference: Callable[..., Any], grads: Sequence[Tensor]) -> List[Any]:
    """The reference's gradient for each tensor, from those of its outputs; None where none is asked for."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # views: a tensor given twice gets its own gradient for each place
        tensors = [t.view_as(t) if t.requires_grad else t for t in ctx.saved_tensors]
        y = reference(*_Packed.unpack(ctx.slots, tensors, values=True))
    wanted = [t for t in tensors if t.requires_grad]
    outputs = y if isinstance(y, tuple) else (y,)
    found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=create_graph))
    return [next(found) if t.requires_grad else None for t in tensors]


def _with_device_current(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run` with its first tensor's GPU as the current one. PyTorch gives the caller's back without making a context there,
    which the CUDA runtime would."""

    @functools.wraps(run)
    def wrapped(first: Any, *rest: Any) -> Any:
        x = first if isinstance(first, Tensor) else first[0]
        if not x.is_cuda or x.device.index == torch.cuda.current_device():
            return run(first, *rest)
        with torch.cuda.device(x.device):
            return run(first, *rest)

    return wrapped


def register(
    name: str,
    schema: str,
    run: Callable[..., Any],
    reference: Callable[..., Any],
    fake: Callable[..., Any],
) -> Callable[..., Any]:
    """Register an operator and return the function that calls it.

    Args:
        name: the operator's name in torch.ops.swiftnet_ext.
        schema: its arguments, e.g. "(Tensor x, Tensor weight) -> Tensor"; run, reference and fake take them by place.
        run: computes it, on the backend that is set: a tensor, or a tuple of tensors that are all differentiable.
        reference: the same in plain PyTorch, for the gradient.
        fake: empty outputs of the right shape, dtype, device and strides.
    """
    run = _with_device_current(run)
    if not hasattr(torch, "compile"):  # below 2.0; 1.12 and 1.13 have a torch.library, but an incomplete one
        return _plain_function(run, reference)
    global _library
    if _library is None:
        _library = torch.library.Library(NAMESPACE, "DEF")  # "FRAGMENT" came with 2.1
    library = _library
    library.define(name + schema)
    library.impl(name, run, "CompositeExplicitAutograd")
    library.impl(name, fake, "Meta")
    operator = getattr(getattr(torch.ops, NAMESPACE), name).default
    if hasattr(torch.library, "register_autograd"):
        torch.library.register_autograd(
            "{}::{}".format(NAMESPACE, name),
            lambda ctx, *grads: tuple(_Packed.unpack(ctx.slots, _gradients(ctx, reference, grads), values=False)),
            setup_context=lambda ctx, inputs, output: _save(ctx, inputs),
            lib=library,
        )
    else:

        def below_autograd(*arguments: Any) -> Any:
            guard = torch._C._AutoDispatchBelowAutograd()  # until it is deleted; no context manager in 2.0
            try:
                return operator(*arguments)
            finally:
                del guard

        library.impl(name, _plain_function(below_autograd, reference), "Autograd")
    return operator


def _plain_function(run: Callable[..., Any], reference: Callable[..., Any]) -> Callable[..., Any]:
    """`run` with the reference's gradient, by an autograd.Function of flat tensors."""

    class Recompute(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, arguments: Sequence[Any], *tensors: Tensor) -> Any:
            _save(ctx, arguments)
            y = run(*arguments)
            if isinstance(y, Tensor) and not y.is_floating_point():
                ctx.mark_non_differentiable(y)
            return y

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tuple[Any, ...]:
            return tuple([None] + _gradients(ctx, reference, grads))

    def call(*arguments: Any) -> Any:
        tensors = _Packed(arguments).tensors
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return Recompute.apply(arguments, *tensors)
        return run(*arguments)

    return call
