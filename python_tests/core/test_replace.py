"""replace_modules on networks shaped like the published code's."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn

import swiftnet_ext as sx

from .published_like import Blend, Decoder, Pyramid, PyramidBlend, bilinear, nearest, nearest_to, randomise
from .published_unlike import PARTLY, REFUSED, changed

TAPS = (24, 32, 96, 320)


def taps(device="cpu", dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    sizes = ((20, 28), (10, 14), (5, 7), (3, 4))
    return [torch.randn(1, c, *s, generator=generator).to(device, dtype) for c, s in zip(TAPS, sizes)]


class TwoInputs(nn.Module):
    """A module of two maps in a model of its own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *maps):
        return self.inner(*maps)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("resize", [bilinear, nearest])
def test_a_whole_decoder_keeps_its_outputs(resize, backend, device):
    model = randomise(Decoder(resize=resize)).to(device)
    inputs = taps(device)
    with torch.no_grad():
        expected = model(inputs)
        report = sx.replace_modules(model, require_all=True)
        close(model(inputs), expected)
    assert [e.path for e in report.replaced] == ["spp", "upsample.0", "upsample.1", "upsample.2"]
    assert not report.refused
    assert sx.restore_modules(model) == 4
    assert type(model.spp) is Pyramid and type(model.upsample[0]) is Blend


def maps(*shapes):
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(*s, generator=generator) for s in shapes]


VARIANTS = {
    "pyramid blend": (lambda: PyramidBlend(6), [(1, 6, 4, 5), (1, 6, 8, 10)]),
    "nearest pyramid blend": (lambda: PyramidBlend(6, nearest), [(1, 6, 4, 5), (1, 6, 9, 10)]),
    "constant size": (lambda: Blend(6, 4, nearest_to((8, 10))), [(1, 6, 4, 5), (1, 4, 8, 10)]),
    "without batch norm": (lambda: Blend(6, 4, norm=False), [(1, 6, 4, 5), (1, 4, 8, 10)]),
    "with biases": (lambda: Blend(6, 4, bias=True), [(1, 6, 4, 5), (1, 4, 8, 10)]),
    "detached skip": (lambda: Blend(6, 4, detach_skip=True), [(1, 6, 4, 5), (1, 4, 8, 10)]),
    "square grids": (lambda: Pyramid(7, 12, square_grid=True), [(1, 7, 9, 17)]),
    "other grids": (lambda: Pyramid(7, 12, grids=(6, 3)), [(1, 7, 9, 17)]),
    "constant-size pyramid": (lambda: Pyramid(7, 12, fixed_size=(9, 17)), [(1, 7, 9, 17)]),
}


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_variants_keep_outputs_and_gradients(name, backend, device):
    make, shapes = VARIANTS[name]
    model = randomise(TwoInputs(make())).to(device)
    plain = copy.deepcopy(model)
    sx.replace_modules(model, require_all=True)
    inputs = [m.to(device).requires_grad_() for m in maps(*shapes)]
    ours, expected = model(*inputs), plain(*inputs)
    close(ours, expected)
    grads = [torch.autograd.grad(y.square().sum(), inputs, allow_unused=True) for y in (ours, expected)]
    for a, b in zip(*grads):
        assert (a is None) == (b is None)
        if a is not None:
            close(a, b)


def test_a_constant_size_that_does_not_fit_runs_the_modules_own_forward():
    model = randomise(Pyramid(7, 12, fixed_size=(9, 17)))
    sx.replace_modules(model)
    (x,) = maps((1, 7, 8, 17))
    with pytest.raises(RuntimeError):  # the concatenation fails, as it does in the user's own code
        model(x)


@pytest.mark.parametrize("resize", [bilinear, nearest])
@pytest.mark.parametrize("name", sorted(PARTLY))
def test_a_projection_that_fits_is_replaced_whatever_blends_after_it(name, resize, backend, device):
    make, operators = PARTLY[name]
    ours, plain = randomise(make()).to(device), randomise(make()).to(device)
    ours.upsampling_method = plain.upsampling_method = resize
    (entry,) = sx.replace_modules(ours, require_all=True).entries
    assert entry.operators == operators
    inputs = [m.to(device) for m in maps((1, 6, 4, 5), (1, 4, 8, 11))]
    with torch.no_grad():
        close(ours(*inputs), plain(*inputs))


@pytest.mark.parametrize("reason", sorted(REFUSED))
def test_what_does_not_fit_is_refused_with_its_reason(reason):
    model = TwoInputs(REFUSED[reason]())
    before = type(model.inner)
    with pytest.raises(ValueError, match=reason):
        sx.replace_modules(model, require_all=True)
    report = sx.replace_modules(model)
    assert type(model.inner) is before and not report.replaced
    assert len(report.refused) == 1 and report.refused[0].path == "inner"


ROUNDINGS = {
    "down": lambda x: max(1, math.floor(x)),
    "up": lambda x: math.ceil(x),
    "half up": lambda x: max(1, math.floor(x + 0.5)),
    "half down": lambda x: max(1, math.ceil(x - 0.5)),
    "to zero": round,
}


@pytest.mark.parametrize("grids", [(8, 4, 2), (6, 3), (5,)])
@pytest.mark.parametrize("name", sorted(ROUNDINGS))
def test_a_pyramid_that_rounds_otherwise_is_refused(name, grids):
    model = Pyramid(7, 12, grids=grids)
    model.columns = lambda rows, size: ROUNDINGS[name](rows * size[1] / size[0])
    (entry,) = sx.replace_modules(model).refused
    # without a column nothing can be resized
    assert ("could not be tried" if name == "to zero" else "its own forward computes something else") in entry.reason


def test_nothing_is_changed_where_require_all_is_not_met():
    model = nn.ModuleList([PyramidBlend(4), changed(PyramidBlend(6), "blend_conv.relu", nn.ReLU6())])
    with pytest.raises(ValueError, match="nothing was changed"):
        sx.replace_modules(model, require_all=True)
    assert type(model[0]) is PyramidBlend
    with pytest.raises(ValueError, match="no module of SwiftNet's was found"):
        sx.replace_modules(nn.Linear(2, 2), require_all=True)
    with pytest.raises(TypeError, match="expected an nn.Module"):
        sx.replace_modules([1])


def test_identity_parameters_keys_hooks_and_isinstance_stay():
    model = Decoder()
    blend, state = model.upsample[1], {k: v.clone() for k, v in model.state_dict().items()}
    parameters = [id(p) for p in model.parameters()]
    calls = []
    blend.register_forward_hook(lambda module, inputs, output: calls.append(module))
    sx.replace_modules(model)
    assert model.upsample[1] is blend and isinstance(blend, Blend) and blend.use_skip
    assert [id(p) for p in model.parameters()] == parameters
    assert list(model.state_dict()) == list(state)
    model.eval()(taps())
    assert calls == [blend]
    report = sx.replace_modules(model)  # again: nothing changes
    assert len(report.replaced) == 4 and sx.restore_modules(model) == 4
    assert "_swiftnet_ext_plan" not in vars(blend)


def test_train_mode_and_inner_hooks_run_the_modules_own_forward(backend, device):
    model = randomise(Decoder()).to(device)
    plain = copy.deepcopy(model)
    sx.replace_modules(model)
    inputs = taps(device)
    seen = []
    handle = model.upsample[0].blend_conv.conv.register_forward_hook(lambda *a: seen.append("conv"))
    close(model(inputs), plain(inputs))
    assert seen == ["conv"]
    handle.remove()
    torch.manual_seed(0)
    ours = model.train()(inputs)
    torch.manual_seed(0)
    close(ours, plain.train()(inputs))
    for a, b in zip(model.buffers(), plain.buffers()):
        assert torch.allclose(a.float(), b.float(), atol=1e-6)


class AddOne(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + 1


class ThreeArguments(Blend):
    def forward(self, x, tap, factor=1.0):
        return factor * super().forward(x, tap)


def test_other_calls_run_the_modules_own_forward():
    ours, plain = randomise(ThreeArguments(6, 4)), randomise(ThreeArguments(6, 4))
    sx.replace_modules(ours, require_all=True)
    x, tap = maps((1, 6, 4, 5), (1, 4, 8, 10))
    close(ours(x, tap), plain(x, tap))
    assert torch.equal(ours(x, tap=tap), plain(x, tap))
    assert torch.equal(ours(x, tap, 3.0), plain(x, tap, 3.0))


def test_hooks_on_every_module_fire():
    model = randomise(Blend(6, 4))
    sx.replace_modules(model, require_all=True)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *rest: seen.append(type(module)))
    model(*maps((1, 6, 4, 5), (1, 4, 8, 10)))
    handle.remove()
    assert seen.count(nn.Conv2d) == 2 and seen.count(nn.BatchNorm2d) == 2


def test_scripted_neighbours_do_no_harm():
    model = nn.ModuleList([torch.jit.script(nn.ReLU()), PyramidBlend(4)])
    assert [e.path for e in sx.replace_modules(model, require_all=True).replaced] == ["1"]


def test_a_class_changed_again_is_not_restored():
    model = nn.ModuleList([PyramidBlend(4), PyramidBlend(4)])
    sx.replace_modules(model)
    model[1].__class__ = type("Wrapped", (type(model[1]),), {})
    with pytest.raises(RuntimeError, match="'1': its class became Wrapped"):
        sx.restore_modules(model)
    assert type(model[0]) is not PyramidBlend


CHANGES = {
    "another convolution": lambda m: setattr(m.blend_conv, "conv", AddOne(6, 6, 3, padding=1)),
    "a dilated convolution": lambda m: setattr(m.blend_conv, "conv", nn.Conv2d(6, 6, 3, padding=2, dilation=2)),
    "reflected padding": lambda m: setattr(m.blend_conv, "conv", nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect")),
    "a grouped convolution": lambda m: setattr(m.blend_conv, "conv", nn.Conv2d(6, 6, 3, padding=1, groups=2)),
    "a 3x3 lateral": lambda m: setattr(m.bottleneck, "conv", nn.Conv2d(4, 6, 3, padding=1)),
    "another lateral": lambda m: setattr(m, "bottleneck", nn.Conv2d(4, 6, 1)),
    "one more layer": lambda m: m.blend_conv.add_module("last", nn.Tanh()),
    "another resizing": lambda m: setattr(m, "upsampling_method", nearest),
    "use_skip": lambda m: setattr(m, "use_skip", False),
    "a forward on the object": lambda m: setattr(m.bottleneck.conv, "forward", lambda x: torch.ones(1, 6, 8, 10)),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_what_changes_after_replacing_counts(name):
    ours, plain = randomise(Blend(6, 4)), randomise(Blend(6, 4))
    sx.replace_modules(ours, require_all=True)
    for model in (ours, plain):
        torch.manual_seed(0)
        CHANGES[name](model)
        model.eval()
    inputs = maps((1, 6, 4, 5), (1, 4, 8, 10))
    close(ours(*inputs), plain(*inputs))


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save", "replicate"])
def test_copies_stay_replaced_and_work(how):
    model = randomise(Decoder())
    sx.replace_modules(model)
    if how == "deepcopy":
        other = copy.deepcopy(model)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(model))
    elif how == "torch.save":
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        other = torch.load(file, **({"weights_only": False} if hasattr(torch, "compile") else {}))
    else:
        other = model.spp._replicate_for_data_parallel()
        assert type(other) is type(model.spp)
        return
    close(other(taps()), model(taps()))
    assert other.spp.spp is not model.spp.spp
    assert sx.restore_modules(other) == 4 and type(other.spp) is Pyramid
    assert type(model.spp) is not Pyramid


def test_half_precision(backend, device):
    half = torch.bfloat16 if backend == "cpu" else torch.float16
    model = randomise(TwoInputs(Blend(6, 4))).to(device)
    inputs = [m.to(device) for m in maps((1, 6, 4, 5), (1, 4, 8, 10))]
    with torch.no_grad():
        expected = model(*inputs)
        sx.replace_modules(model)
        y = model.to(half)(*[m.to(half) for m in inputs])
    assert y.dtype == half
    # rounded: the inputs, the weights, and the activated sum between the operators
    torch.testing.assert_close(
        y.float(), expected, rtol=0, atol=4 * torch.finfo(half).eps * float(expected.abs().max())
    )


@pytest.mark.skipif(not hasattr(torch, "set_default_device"), reason="default devices came with PyTorch 2.0")
def test_another_default_device_or_dtype():
    model, before = Decoder(), torch.get_default_dtype()
    with torch.device("meta"):
        assert len(sx.replace_modules(model, require_all=True).replaced) == sx.restore_modules(model) == 4
    torch.set_default_dtype(torch.float64)
    try:
        assert len(sx.replace_modules(model, require_all=True).replaced) == 4
    finally:
        torch.set_default_dtype(before)


def test_filter_and_report():
    model = Decoder()
    report = sx.replace_modules(model, filter_fn=lambda path, module: path.startswith("upsample"))
    assert type(model.spp) is Pyramid and len(report.replaced) == 3
    lines = str(report).splitlines()
    assert len(lines) == 4 and "upsample.2" in lines[3] and "upsample_blend" in lines[3]
    shared = PyramidBlend(4)
    assert len(sx.replace_modules(nn.ModuleList([shared, shared])).replaced) == 1
    own = sx.replace_modules(sx.build_model("swiftnet_mnv2"))
    assert not own.replaced and all("swiftnet_ext's own" in e.reason for e in own.refused)
    sx.replace_modules(sx.build_model("swiftnet_mnv2"), require_all=True)  # nothing is left to replace
    root = PyramidBlend(4)
    assert sx.replace_modules(root).replaced[0].path == "" and "(the model)" in str(sx.replace_modules(root))
