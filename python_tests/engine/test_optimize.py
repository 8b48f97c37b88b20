"""Optimised networks against the networks they are made from."""

import copy
import pickle

import numpy as np
import pytest
import torch
from core.published_like import PublishedPyramid, PublishedSingleScale, ResNet18Backbone, nearest, randomise

import swiftnet_ext as sx
from swiftnet_ext.data.synthetic import render_scene
from swiftnet_ext.nn import Ensemble, MultiScale
from swiftnet_ext.optimize import OptimizeError
from swiftnet_ext.optimize.fold import fold
from swiftnet_ext.optimize.run_torch import TorchRun

SIZES = (75, 107), (64, 96), (33, 40), (5, 3)
SMALL = {"channels": 32}
BLENDS = "grouped", "separable", "inverted_residual", "1x1"
NETWORKS = (
    [(name, {}) for name in ("swiftnet_rn18", "swiftnet_rn34", "swiftnet_mnv2")]
    + [(name, {}) for name in ("swiftnet_pyr_rn18", "swiftnet_pyr_rn34", "swiftnet_pyr_mnv2")]
    + [(name, dict(SMALL, blend=blend)) for name in ("swiftnet_rn18", "swiftnet_pyr_mnv2") for blend in BLENDS]
    + [
        (name, dict(SMALL, generation=generation, levels=levels, head=head))
        for name in ("swiftnet_pyr_rn18", "swiftnet_pyr_mnv2")
        for generation, levels, head in ((1, 3, "3x3"), (1, 2, "1x1"), (2, 2, "3x3"))
    ]
    + [
        ("swiftnet_mnv2", dict(SMALL, **options))
        for options in ({"head": "3x3"}, {"mode": "nearest"}, {"half_resolution": True}, {"spp": False})
    ]
    + [
        ("swiftnet_rn18", dict(SMALL, spp=False, mode="nearest", head="3x3", half_resolution=True)),
        ("swiftnet_pyr_mnv2", dict(SMALL, mode="nearest", half_resolution=True, generation=1, blend="separable")),
        ("swiftnet_rn18", {"channels": 5}),
    ]
)


def titled(case):
    return case[0] + "".join("-{}={}".format(*option) for option in sorted(case[1].items()))


def network(name, classes=11, **options):
    """Random weights and statistics; some scales of batch norms are negative or zero."""
    model = randomise(sx.build_model(name, classes, **options))
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            signs = torch.rand(module.weight.shape, generator=generator)
            with torch.no_grad():
                module.weight.mul_(torch.where(signs < 0.3, -1.0, 1.0) * (signs > 0.02))
    return model.eval()


def pictures(size, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, *size, 3), generator=generator, dtype=torch.uint8)


def as_floats(images):
    return images.permute(0, 3, 1, 2).float()


def relative(y, expected):
    assert y.shape == expected.shape
    return float((y.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def assert_same(run, model, size, batch=1, tolerance=1e-5, agreement=0.9999):
    images = as_floats(pictures(size, batch))
    with torch.no_grad(), sx.use_backend("reference"):
        expected = model(images)
    logits = run(images)
    assert relative(logits, expected) <= tolerance
    assert (logits.argmax(1) == expected.argmax(1)).float().mean() >= agreement


@pytest.fixture(autouse=True)
def choices(monkeypatch, tmp_path):
    monkeypatch.setenv("SWIFTNET_EXT_CHOICES", "off")


@pytest.mark.parametrize("case", NETWORKS, ids=titled)
def test_the_logits_are_the_networks(case):
    model = network(case[0], **case[1])
    fast = sx.optimize(model)
    for size in SIZES if case[1] else SIZES[:2]:
        assert_same(fast, model, size)


@pytest.mark.parametrize("options", [{}, {"kernels": True}, {"onednn": False}], ids=["onednn", "kernels", "library"])
@pytest.mark.parametrize("name", ["swiftnet_rn18", "swiftnet_pyr_mnv2"])
def test_every_torch_executor(name, options):
    model = network(name)
    run = TorchRun(fold(model), torch.device("cpu"), torch.float32, **options)
    with sx.use_backend("reference"), torch.no_grad():
        assert_same(
            lambda x: torch.nn.functional.interpolate(run.logits(x), x.shape[2:], mode="bilinear"), model, (75, 107)
        )
    assert len(run.describe()) == len(run.plan.steps)


def test_a_batch():
    model = network("swiftnet_mnv2")
    assert_same(sx.optimize(model), model, (40, 56), batch=3)


def test_folding_is_exact_algebra():
    """In float64 nothing but rounding of the folded parameters to fp32 is left."""
    model = network("swiftnet_rn18", channels=32)
    images = as_floats(pictures((64, 96))).double()
    with torch.no_grad(), sx.use_backend("reference"):
        expected = copy.deepcopy(model).double().logits(images)
        logits = TorchRun(fold(model), torch.device("cpu"), torch.float64, onednn=False).logits(images)
    assert relative(logits, expected) <= 1e-6


def test_the_border_is_exact():
    """Zero padding stands for the mean's colour: a network of one colour, and one whose border would show the mean."""
    model = network("swiftnet_rn18", channels=32)
    images = torch.zeros(1, 3, 37, 50)
    with torch.no_grad(), sx.use_backend("reference"):
        expected = model.logits(images)
    assert relative(sx.optimize(model).logits(images), expected) <= 1e-5


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_segment_gives_the_labels(kind):
    model = network("swiftnet_mnv2")
    image = pictures((60, 81))[0]
    image = image.numpy() if kind == "numpy" else image
    labels, expected = sx.optimize(model).segment(image), model.segment(image)
    assert type(labels) is type(expected) and labels.dtype == expected.dtype and labels.shape == expected.shape
    assert (labels == expected).mean() >= 0.9999 if kind == "numpy" else (labels == expected).float().mean() >= 0.9999


def test_labels_are_those_of_the_resized_logits():
    fast = sx.optimize(network("swiftnet_mnv2"))
    images = as_floats(pictures((60, 81), batch=2))
    agree = (fast.labels(images) == fast(images).argmax(1)).float().mean()
    assert agree >= 0.9999


@pytest.mark.parametrize("name", ["swiftnet_rn18", "swiftnet_pyr_mnv2"])
def test_bfloat16(name):
    model = network(name)
    images = as_floats(pictures((96, 128)))
    fast = sx.optimize(model, dtype=torch.bfloat16)
    with torch.no_grad():
        expected = model.logits(images)
    logits = fast.logits(images)
    assert logits.dtype == torch.float32 and relative(logits, expected) <= 0.05


@pytest.mark.parametrize("name", ["camvid_mnv2", "camvid_pyr_mnv2"])
def test_trained_networks_on_a_scene(name):
    model, image = sx.load_checkpoint(name), render_scene(1, 180, 240).image
    expected = model.segment(image)
    assert (sx.optimize(model).segment(image) == expected).mean() >= 0.9999
    assert (sx.optimize(model, dtype=torch.bfloat16).segment(image) == expected).mean() >= 0.99


def test_the_source_is_left_alone():
    model = network("swiftnet_mnv2")
    before = copy.deepcopy(model.state_dict())
    fast = sx.optimize(model)
    images = as_floats(pictures((33, 40)))
    logits = fast(images)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    with torch.no_grad():
        for value in model.state_dict().values():
            value.zero_()
    assert torch.equal(fast(images), logits)
    given = images.clone()
    fast(images)
    assert torch.equal(images, given)


def test_copies_and_pickles():
    fast = sx.optimize(network("swiftnet_mnv2", channels=32))
    images = as_floats(pictures((33, 40)))
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(other(images), fast(images))


def test_it_stays_what_it_is():
    fast = sx.optimize(network("swiftnet_mnv2", channels=32))
    assert fast.eval() is fast and fast.to("cpu", torch.float32) is fast
    with pytest.raises(RuntimeError, match="stays on cpu in torch.float32, got cpu and torch.float16"):
        fast.half()
    with pytest.raises(RuntimeError, match="frozen for inference"):
        fast.train()
    assert not any(p.requires_grad for p in fast.parameters())
    assert not fast(torch.zeros(1, 3, 8, 8, requires_grad=True)).requires_grad


def test_in_averages():
    model = network("swiftnet_mnv2", channels=32)
    image = pictures((40, 56))[0].numpy()
    fast = sx.optimize(model)
    for average in (lambda m: MultiScale(m, (0.5, 1.0)), lambda m: Ensemble([m, m], flip=True)):
        labels, expected = average(fast).eval().segment(image), average(model).eval().segment(image)
        assert (labels == expected).mean() >= 0.999


def test_it_says_what_runs():
    fast = sx.optimize(network("swiftnet_rn18", channels=32))
    fast.segment(pictures((32, 32))[0])
    text = repr(fast)
    assert "conv1 " in text and "the image's 1/std, batch norm" in text and "upsample.2.blend_conv" in text
    assert "+ residual relu and tap" in text and "the head's batch norm" in text
    assert len(text.splitlines()) == 2 + len(fast.plan.steps)


PUBLISHED = [
    (PublishedSingleScale, {}),
    (PublishedSingleScale, {"generation": 1}),
    (PublishedSingleScale, {"resize": nearest}),
    (PublishedPyramid, {"levels": 3}),
    (PublishedPyramid, {"levels": 2, "generation": 1}),
]


@pytest.mark.parametrize("replaced", [False, True], ids=["as_it_is", "replaced"])
@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case[0].__name__ + "-".join(map(str, case[1])))
def test_a_users_own_network(case, replaced):
    model = randomise(case[0](classes=5, **case[1]))
    if replaced:
        assert sx.replace_modules(model).replaced
    images = as_floats(pictures((70, 90)))
    with torch.no_grad():
        expected = model(images)
    fast = sx.optimize(model)
    logits = fast(images)
    assert relative(logits, expected) <= 1e-5 and fast.num_classes == 5


def test_a_network_that_is_not_known():
    with pytest.raises(OptimizeError, match="not a SwiftNet checkpoint"):
        sx.optimize(torch.nn.Conv2d(3, 4, 1))
    with pytest.raises(OptimizeError, match="optimise these, and put the results into it"):
        sx.optimize(MultiScale(network("swiftnet_mnv2", channels=32)))


class Doubled(PublishedSingleScale):
    def forward(self, images):
        return 2 * super().forward(images)


class TakesPaths(PublishedSingleScale):
    def forward(self, paths):
        return super().forward(open(paths))


class Vector(PublishedSingleScale):
    def forward(self, images):
        return super().forward(images).mean((2, 3))


def test_a_network_that_computes_something_else():
    with pytest.raises(OptimizeError, match=r"Doubled.*computes something else.*logits differ by 0.5 of the largest"):
        sx.optimize(randomise(Doubled(5)))
    with pytest.raises(OptimizeError, match="could not be run on images.*TypeError"):
        sx.optimize(randomise(TakesPaths(5)))
    with pytest.raises(OptimizeError, match=r"expected it to give logits \[N, classes, H, W\], got \[1, 5\]"):
        sx.optimize(randomise(Vector(5)))
    hooked = network("swiftnet_mnv2", channels=32)
    hooked.backbone.features[3].register_forward_hook(lambda module, args, y: y + 1)
    with pytest.raises(OptimizeError, match="computes something else"):
        sx.optimize(hooked)


class CeilPooling(ResNet18Backbone):
    pooling = {"ceil_mode": True}


class FirstOfBatch(PublishedSingleScale):
    def forward(self, images):
        return super().forward(images)[:1].expand(len(images), -1, -1, -1)


def test_what_shows_only_at_another_size_or_in_a_batch():
    """A pool that rounds up gives the same map of 35 x 51, and another one of 32 x 48."""
    ceil = PublishedSingleScale(5)
    ceil.backbone = CeilPooling()
    with pytest.raises(OptimizeError, match=r"computes something else.* of images \[2, 3, 64, 96\]"):
        sx.optimize(randomise(ceil))
    with pytest.raises(OptimizeError, match=r"computes something else.* of images \[2, 3, 64, 96\]"):
        sx.optimize(randomise(FirstOfBatch(5)))


def conv(channels, **options):
    return torch.nn.Conv2d(channels, channels, 3, **{"padding": 1, "bias": False, **options})


STATISTICS, PLAIN = "BatchNorm2d with running statistics", "Conv2d, square, of dilation 1"
UNUSUAL = [
    ("backbone.bn1", torch.nn.GroupNorm(8, 64), STATISTICS),
    ("backbone.layer2.0.downsample.1", torch.nn.BatchNorm2d(128, track_running_stats=False), STATISTICS),
    ("backbone.layer3.0.bn2", torch.nn.Identity(), STATISTICS),
    ("backbone.spp.spp.spp1.norm", torch.nn.InstanceNorm2d(32), STATISTICS),
    ("logits.norm", torch.nn.GroupNorm(8, 32), STATISTICS),
    ("backbone.layer1.0.conv1", conv(64, padding=2, dilation=2), PLAIN),
    ("backbone.layer1.1.conv2", conv(64, padding_mode="reflect"), PLAIN),
    ("backbone.layer1.1.conv2", conv(64, padding="same"), PLAIN),
    ("backbone.layer1.0.conv2", torch.nn.Sequential(conv(64)), PLAIN),
    ("backbone.upsample.1.blend_conv.conv", torch.nn.Sequential(conv(32)), "a convolution of UpsampleBlend's"),
]


@pytest.mark.parametrize("path, module, expected", UNUSUAL, ids=lambda case: case if isinstance(case, str) else "")
def test_an_unusual_layer_is_named(path, module, expected):
    model = network("swiftnet_rn18", channels=32)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module.eval())
    with pytest.raises(OptimizeError, match=f"model: {path} is {type(module).__name__}.*; expected {expected}"):
        sx.optimize(model)


def test_levels_that_differ_are_named():
    model = network("swiftnet_rn18", channels=32)
    model.backbone.spp.spp.spp2.conv = torch.nn.Conv2d(32, 10, 1)
    with pytest.raises(
        OptimizeError, match="backbone.spp is Spatial.*; expected levels alike, but its levels have biases"
    ):
        sx.optimize(model)


@pytest.mark.parametrize("case", PUBLISHED[:2] + PUBLISHED[3:4], ids=["rn18", "first generation", "pyramid"])
def test_the_eps_of_a_users_batch_norms(case):
    model = randomise(case[0](classes=5, **case[1]))
    for i, module in enumerate(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        module.eps = 1e-3 * (i % 3)
    assert_same(sx.optimize(model), model, (33, 40))


@pytest.mark.parametrize("changed", [{"ceil_mode": True}, {"padding": 0}, {"stride": 1}])
def test_the_pool_is_as_published(changed):
    model = network("swiftnet_rn18", channels=32)
    model.backbone.maxpool = torch.nn.MaxPool2d(3, **{"stride": 2, "padding": 1, **changed})
    with pytest.raises(OptimizeError, match=r"backbone.maxpool is MaxPool2d\(.*; expected MaxPool2d\(3, stride=2"):
        sx.optimize(model)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"dtype": torch.float16}, ValueError, "a CPU has no fast float16"),
        ({"dtype": torch.int8}, ValueError, "dtype: expected one of torch.float32"),
        ({"dtype": torch.float64}, ValueError, "got torch.float64; pass one of these"),
        ({"device": "meta"}, ValueError, "expected a CPU or a CUDA device, got meta"),
        ({"graphs": "always"}, ValueError, "expected 'auto', True or False, got 'always'"),
        ({"graphs": True}, ValueError, "cpu has no CUDA graphs"),
        ({"measure": "never"}, ValueError, "measure: expected True or False, got 'never'"),
    ],
)
def test_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        sx.optimize(network("swiftnet_mnv2", channels=32), **arguments)


def test_what_is_no_network():
    with pytest.raises(TypeError, match="model: expected an nn.Module, got str"):
        sx.optimize("swiftnet_rn18")
    fast = sx.optimize(network("swiftnet_mnv2", channels=32))
    with pytest.raises(OptimizeError, match="it is optimised already"):
        sx.optimize(fast)
    with pytest.raises(ValueError, match=r"images: expected a floating-point tensor \[N, 3, H, W\]"):
        fast(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match=r"image: expected uint8 RGB \[H, W, 3\]"):
        fast.segment(np.zeros((8, 8), np.uint8))
