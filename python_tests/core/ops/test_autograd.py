"""Gradients, registration with PyTorch, compilation and autocast."""

import pytest
import torch

import swiftnet_ext as sx

from .cases import CASES, IDS

cases = pytest.mark.parametrize("case", CASES, ids=IDS)
SHAPE = (1, 3, 2, (2, 3), (4, 5))
needs_library = pytest.mark.skipif(not hasattr(torch.library if hasattr(torch, "library") else None, "opcheck"),
                                   reason="torch.library.opcheck came with PyTorch 2.4")  # fmt: skip


def requiring_grad(t):
    def convert(v):
        if isinstance(v, list) and v and isinstance(v[0], torch.Tensor):
            return [convert(i) for i in v]
        return v.clone().requires_grad_() if isinstance(v, torch.Tensor) else v

    return {k: convert(v) for k, v in t.items()}


def leaves(t):
    flat = []
    for v in t.values():
        flat += [i for i in (v if isinstance(v, list) else [v]) if isinstance(i, torch.Tensor)]
    return flat


@cases
@pytest.mark.parametrize("seed", range(3))
def test_gradcheck(case, seed):
    for variant in case.variants:
        t = requiring_grad(case.make(SHAPE, variant, torch.float64, seed=seed))
        t = {k: v.detach().double().requires_grad_() if isinstance(v, torch.Tensor) else v for k, v in t.items()}
        inputs = leaves(t)

        def function(*_, t=t, variant=variant):
            return case.call(t, variant)

        fast = seed > 0  # along one random direction instead of element by element
        assert torch.autograd.gradcheck(function, inputs, fast_mode=fast)
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=fast)


@cases
def test_gradients_are_those_of_the_reference(case, backend, device):
    for variant in case.variants:
        t = requiring_grad(case.make(SHAPE, variant, torch.float32, device=device))
        weights = torch.randn(case.call(t, variant).shape, device=device)
        ours = torch.autograd.grad((case.call(t, variant) * weights).sum(), leaves(t))
        with sx.use_backend("reference"):
            expected = torch.autograd.grad((case.call(t, variant) * weights).sum(), leaves(t))
        for a, b in zip(ours, expected):
            torch.testing.assert_close(a, b)


def test_a_tensor_given_twice_gets_both_gradients(backend, device):
    x = torch.randn(1, 2, 4, 4, device=device, requires_grad=True)
    weight = torch.randn(2, 2, 3, 3, device=device)
    (both,) = torch.autograd.grad(sx.ops.upsample_add_conv3x3(x, x, weight).sum(), [x])
    (once,) = torch.autograd.grad(torch.nn.functional.conv2d(torch.relu(2 * x), weight, padding=1).sum(), [x])
    torch.testing.assert_close(both, once)


def test_labels_have_no_gradient(backend, device):
    logits = torch.randn(1, 3, 2, 2, device=device, requires_grad=True)
    assert not sx.ops.multiscale_mean([logits], (4, 4), reduce="argmax").requires_grad


def positional(case, t, variant):
    """The registered operator and the arguments that the public function gives it."""
    operator = getattr(torch.ops.swiftnet_ext, case.name).default
    given = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is operator:
                given.append(args)
            return func(*args, **(kwargs or {}))

    with Spy(), torch.no_grad():
        case.call(t, variant)
    return operator, given[0]


@needs_library
@cases
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_opcheck(case, memory_format, backend, device):
    compiled = set()
    for variant in case.variants:
        t = requiring_grad(case.make(SHAPE, variant, torch.float32, memory_format, device))
        operator, arguments = positional(case, t, variant)
        checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
        absent = tuple(a is None for a in arguments)
        # it takes most of the time, and sees the registration alone
        if memory_format == "channels_last" and backend in ("emulated", "cuda") and absent not in compiled:
            compiled.add(absent)
            checks.append("test_aot_dispatch_dynamic")
        torch.library.opcheck(operator, arguments, test_utils=checks)


@needs_library
@cases
def test_compile_takes_the_operator_in_one_graph(case, backend, device):
    variant = case.variants[0]
    t = case.make((2,) + SHAPE[1:], variant, torch.float32, device=device)
    compiled = torch.compile(lambda t: case.call(t, variant) * 2, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(t), case.call(t, variant) * 2)


@needs_library
@cases
def test_export_keeps_the_operator(case):
    variant = case.variants[0]

    class Module(torch.nn.Module):
        def forward(self, t):
            return case.call(t, variant)

    t = case.make(SHAPE, variant, torch.float32)
    program = torch.export.export(Module(), (t,))
    assert "swiftnet_ext." + case.name in str(program.graph)
    torch.testing.assert_close(program.module()(t), case.call(t, variant))


@pytest.mark.filterwarnings("ignore:.*not bfloat16")  # which the kernels leave to the reference
@cases
def test_autocast_casts_maps_and_weights(case, backend, device):
    dtype = torch.float16 if device == "cuda" else torch.bfloat16

    def cast(name, value):
        if isinstance(value, list):
            return [cast(name, v) for v in value]
        return value.to(dtype) if isinstance(value, torch.Tensor) and name not in case.vectors else value

    for variant in case.variants:
        t = case.make(SHAPE, variant, torch.float32, device=device)
        with sx.use_backend(backend):
            with torch.autocast(device, dtype=dtype):
                y = case.call(t, variant)
            expected = case.call({name: cast(name, value) for name, value in t.items()}, variant)
        assert y.dtype == dtype and torch.equal(y, expected)
