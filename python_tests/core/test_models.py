"""The networks: parameters, keys, numbers, contracts."""

import copy
import os
import pickle

import numpy as np
import pytest
import torch

import swiftnet_ext as sx

from .published_like import PublishedSingleScale, nearest, randomise

HERE = os.path.dirname(os.path.abspath(__file__))


def count(model, *parts):
    return sum(p.numel() for name, p in model.named_parameters() if not parts or any(part in name for part in parts))


DECODER = ("spp", "upsample", "logits")


def test_parameters_are_the_papers():
    assert count(sx.build_model("swiftnet_rn18", num_classes=19)) == 11797071
    assert count(sx.build_model("swiftnet_rn18", head="3x3"), *DECODER) == 639996
    assert count(sx.build_model("swiftnet_mnv2", head="3x3")) == 2388268
    assert count(sx.build_model("swiftnet_mnv2", num_classes=11, head="3x3"), *DECODER) == 567340


def test_every_published_key_and_shape():
    with open(os.path.join(HERE, "second_generation_single_scale.txt")) as file:
        published = dict(line.split() for line in file)
    state = sx.build_model("swiftnet_rn18", num_classes=19).state_dict()
    assert {k: "x".join(map(str, v.shape)) or "scalar" for k, v in state.items()} == published


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(64, 96), (33, 47), (32, 32), (70, 131)])
def test_numbers_of_an_independent_rendering(mode, size, backend, device):
    kwargs = {"resize": nearest} if mode == "nearest" else {}
    published = randomise(PublishedSingleScale(7, **kwargs))
    ours = sx.build_model("swiftnet_rn18", num_classes=7, mode=mode).eval()
    ours.load_state_dict(published.state_dict())
    images = 255 * torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = published(images)
        y = ours.to(device)(images.to(device)).cpu()
    assert y.shape == (2, 7) + size
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["swiftnet_rn18", "swiftnet_mnv2"])
def test_contracts(name, backend, device):
    model = randomise(sx.build_model(name, num_classes=5)).to(device)
    images = 255 * torch.rand(1, 3, 64, 64, device=device)
    before = images.clone()
    assert model(images).shape == (1, 5, 64, 64)
    assert model.logits(images).shape == (1, 5, 16, 16)
    assert torch.equal(images, before)  # the caller's image is not normalised in place
    image = images[0].permute(1, 2, 0).to(torch.uint8)
    labels = model.segment(image)
    assert labels.dtype == torch.uint8 and labels.shape == (64, 64) and labels.device == image.device
    of_numpy = model.segment(image.cpu().numpy())
    assert isinstance(of_numpy, np.ndarray) and np.array_equal(of_numpy, labels.cpu().numpy())
    with torch.no_grad():
        top = model(image.permute(2, 0, 1)[None].float())[0].topk(2, dim=0)
    clear = top.values[0] - top.values[1] > 1e-4
    assert torch.equal(labels[clear].long(), top.indices[0][clear])
    assert repr(model).count("\n") == 0 and name in repr(model)


def test_segment_marks_nan_and_refuses_what_is_no_image():
    model = randomise(sx.build_model("swiftnet_mnv2", num_classes=3))
    image = np.zeros((32, 32, 3), np.uint8)
    with torch.no_grad():
        model.logits.conv.bias[1] = float("nan")
    assert (model.segment(image) == 255).all()
    for wrong in (image.astype(np.float32), image[:, :, :2], image[0], "scene.png", torch.zeros(3, 32, 32)):
        with pytest.raises(ValueError, match=r"image: expected uint8 RGB \[H, W, 3\]"):
            model.segment(wrong)
    with pytest.raises(RuntimeError, match=r"call model.eval\(\)"):
        model.train().segment(image)
    with pytest.raises(ValueError, match="images: expected a floating-point tensor"):
        model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_segment_takes_views_and_read_only_arrays(recwarn):
    model = randomise(sx.build_model("swiftnet_mnv2", num_classes=3))
    image = np.random.RandomState(0).randint(0, 256, (40, 48, 3)).astype(np.uint8)
    flipped = image[:, ::-1]
    assert np.array_equal(model.segment(flipped), model.segment(flipped.copy()))
    image.setflags(write=False)
    model.segment(image)
    assert not recwarn.list
    with pytest.raises(ValueError, match="image: expected uint8 RGB"):
        model.segment(image[:0])


def test_another_backbone_is_the_one_that_runs():
    model, other = (randomise(sx.build_model("swiftnet_mnv2", num_classes=3), seed) for seed in (0, 1))
    images = 255 * torch.rand(1, 3, 32, 32)
    before = model.logits(images)
    model.backbone = other.backbone
    after = model.logits(images)
    assert not torch.equal(after, before)
    full = torch.nn.functional.interpolate(after, size=(32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(images), full)


@pytest.mark.filterwarnings("ignore")  # tracing warns of every Python number
def test_tracing():
    model = randomise(sx.build_model("swiftnet_mnv2", num_classes=3))
    images = 255 * torch.rand(1, 3, 64, 96)
    with torch.no_grad(), sx.use_backend("reference"):
        traced = torch.jit.trace(model, images, check_trace=False)
        torch.testing.assert_close(traced(images), model(images))


def test_the_shipped_weights_load():
    model = sx.load_checkpoint()
    assert (model.name, model.num_classes, model.options["head"], model.training) == ("swiftnet_mnv2", 11, "1x1", False)


def test_train_mode_learns_and_updates_statistics():
    model = sx.build_model("swiftnet_mnv2", num_classes=3)
    before = model.backbone.upsample[0].blend_conv.norm.running_mean.clone()
    model(255 * torch.rand(2, 3, 64, 64)).mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert not torch.equal(before, model.backbone.upsample[0].blend_conv.norm.running_mean)


def test_gradients_in_eval_mode_are_the_plain_networks(backend, device):
    published = randomise(PublishedSingleScale(3)).to(device)
    ours = sx.build_model("swiftnet_rn18", num_classes=3).eval()
    ours.load_state_dict(published.state_dict())
    ours.to(device)
    images = 255 * torch.rand(1, 3, 32, 64, device=device)
    published(images).square().mean().backward()
    ours(images).square().mean().backward()
    for (name, a), (_, b) in zip(sorted(ours.named_parameters()), sorted(published.named_parameters())):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4 * float(b.grad.abs().max()) + 1e-12, msg=name)


def test_copies_and_pickles_are_independent():
    model = randomise(sx.build_model("swiftnet_mnv2", num_classes=3))
    image = np.random.RandomState(0).randint(0, 256, (32, 32, 3)).astype(np.uint8)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert np.array_equal(other.segment(image), model.segment(image))
        with torch.no_grad():
            for p in other.backbone.features.parameters():
                p.zero_()
        a = other.logits(torch.zeros(1, 3, 32, 32)), other.logits(255 * torch.ones(1, 3, 32, 32))
        assert torch.equal(*a)  # its own encoder is blind now, and the original's is not
        assert not torch.equal(model.logits(torch.zeros(1, 3, 32, 32)), model.logits(255 * torch.ones(1, 3, 32, 32)))


def test_half_precision_changes_few_labels(backend, device):
    model = randomise(sx.build_model("swiftnet_mnv2", num_classes=4)).to(device)
    try:
        model.backbone.features[0][0].half()(torch.zeros(1, 3, 4, 4, dtype=torch.float16, device=device))
    except RuntimeError:
        pytest.skip("PyTorch {} has no half-precision convolutions on a CPU".format(torch.__version__))
    model.float()
    image = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
    labels = model.segment(image)
    assert (model.half().segment(image) == labels).mean() > 0.98


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (dict(name="swiftnet"), "name: expected one of swiftnet_rn18, .*swiftnet_pyr_mnv2, got 'swiftnet'"),
        (
            dict(name="swiftnet_rn18", classes=3),
            "swiftnet_rn18 has no option classes; there are num_classes, channels, head",
        ),
        (dict(name="swiftnet_rn18", num_classes=0), "num_classes: expected a positive integer, got 0"),
        (dict(name="swiftnet_rn18", head="2x2"), "head: expected one of '1x1', '3x3'"),
        (dict(name="swiftnet_rn18", mode="bicubic"), "mode: expected one of 'bilinear', 'nearest'"),
    ],
)
def test_build_model_says_what_there_is(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        sx.build_model(**arguments)


@pytest.mark.skipif(not hasattr(torch, "compile"), reason="torch.compile came with PyTorch 2.0")
@pytest.mark.parametrize("name", ["swiftnet_rn18", "swiftnet_mnv2"])
def test_compile_takes_a_whole_network(name, backend, device):
    model = randomise(sx.build_model(name, num_classes=3)).to(device)
    images = 255 * torch.rand(1, 3, 64, 96, device=device)
    with torch.no_grad():
        one_graph = hasattr(torch.library, "register_autograd")  # before 2.4, the look at hooks breaks the graph
        compiled = torch.compile(model, fullgraph=one_graph, backend="aot_eager")(images)
        torch.testing.assert_close(compiled, model(images), rtol=1e-4, atol=1e-4)


def test_a_convolution_put_in_later_is_the_one_that_runs():
    unit = sx.nn.BNReLUConv(4, 4, 3).eval()
    unit.conv = torch.nn.Conv2d(4, 4, 3, padding=2, dilation=2)
    x = torch.randn(1, 4, 6, 7)
    assert torch.equal(unit(x), unit.conv(unit.relu(unit.norm(x))))


def test_a_pyramid_has_channels_for_each_grid():
    with pytest.raises(ValueError, match="channels: expected at least one for each of 3 grids, got 2"):
        sx.build_model("swiftnet_mnv2", channels=2)


class TestMultiScale:
    def test_is_the_mean_of_resized_probabilities(self, backend, device):
        model = randomise(sx.build_model("swiftnet_mnv2", num_classes=4)).to(device)
        images = 255 * torch.rand(1, 3, 64, 96, device=device)
        multi = sx.nn.MultiScale(model, factors=(0.5, 1.0, 1.25))
        total = 0
        with torch.no_grad():
            for size in ((32, 48), (64, 96), (80, 120)):
                scaled = torch.nn.functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
                p = torch.softmax(model.logits(scaled), 1)
                total = total + torch.nn.functional.interpolate(p, size=(64, 96), mode="bilinear", align_corners=False)
            mean, labels = multi(images), multi(images, reduce="argmax")
        torch.testing.assert_close(mean, total / 3, rtol=1e-4, atol=1e-5)
        top = mean.topk(2, dim=1).values
        clear = (top[:, 0] - top[:, 1]) > 1e-4
        assert torch.equal(labels[clear].long(), mean.argmax(1)[clear])

    def test_refuses_what_it_cannot_run(self):
        with pytest.raises(TypeError, match="expected one with a method logits"):
            sx.nn.MultiScale(torch.nn.ReLU())
        with pytest.raises(ValueError, match="factors: expected positive"):
            sx.nn.MultiScale(sx.build_model("swiftnet_mnv2"), factors=(0, 1))
        multi = sx.nn.MultiScale(sx.build_model("swiftnet_mnv2").eval())
        for wrong in (torch.zeros(3, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "scene.png"):
            with pytest.raises(ValueError, match="images: expected a floating-point tensor"):
                multi(wrong)
