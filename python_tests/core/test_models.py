"""The networks: parameters, keys, numbers, contracts."""

import copy
import os
import pickle

import numpy as np
import pytest
import torch

import swiftnet_ext as sx

from .published_like import PublishedPyramid, PublishedSingleScale, bilinear, nearest, randomise

HERE = os.path.dirname(os.path.abspath(__file__))


def count(model, *parts):
    return sum(p.numel() for name, p in model.named_parameters() if not parts or any(part in name for part in parts))


DECODER = ("spp", "upsample", "logits")


# of the supplementary's table of lighter upsampling, recomputed: 3×3 head, batch norms counted
DECODER_PARAMETERS = {
    "grouped": (252924, 180268),
    "separable": (250236, 177580),
    "inverted_residual": (404988, 332332),
    "1x1": (246780, 174124),
    "3x3": (639996, 567340),
}


@pytest.mark.parametrize("blend", sorted(DECODER_PARAMETERS))
def test_decoder_parameters_are_the_papers(blend):
    rn18, mnv2 = DECODER_PARAMETERS[blend]
    assert count(sx.build_model("swiftnet_rn18", head="3x3", blend=blend), *DECODER) == rn18
    assert count(sx.build_model("swiftnet_mnv2", num_classes=11, head="3x3", blend=blend), *DECODER) == mnv2


def test_parameters_are_the_papers():
    assert count(sx.build_model("swiftnet_rn18")) == 11797071
    assert count(sx.build_model("swiftnet_rn18", head="3x3")) == 11816508
    assert count(sx.build_model("swiftnet_mnv2", head="3x3")) == 2388268
    assert count(sx.build_model("swiftnet_pyr_rn18", levels=2)) == 11900755
    assert count(sx.build_model("swiftnet_pyr_rn18", levels=3)) == 12056275
    assert count(sx.build_model("swiftnet_pyr_rn18", levels=2, generation=1, head="3x3")) == 12897344
    assert count(sx.build_model("swiftnet_pyr_rn18", levels=3, generation=1, head="3x3")) == 13045056


# file of published keys: (our options, the independent rendering)
PUBLISHED = {
    "first_generation_single_scale": (
        dict(name="swiftnet_rn18", head="3x3"),
        lambda classes, resize: PublishedSingleScale(classes, resize, generation=1),
    ),
    "second_generation_single_scale": (
        dict(name="swiftnet_rn18"),
        lambda classes, resize: PublishedSingleScale(classes, resize),
    ),
    "first_generation_pyramid_2_levels": (
        dict(name="swiftnet_pyr_rn18", head="3x3", generation=1, levels=2),
        lambda classes, resize: PublishedPyramid(classes, 2, 1, resize),
    ),
    "first_generation_pyramid_3_levels": (
        dict(name="swiftnet_pyr_rn18", head="3x3", generation=1, levels=3),
        lambda classes, resize: PublishedPyramid(classes, 3, 1, resize),
    ),
    "second_generation_pyramid_3_levels": (
        dict(name="swiftnet_pyr_rn18"),
        lambda classes, resize: PublishedPyramid(classes, 3, 2, resize),
    ),
}
WITHOUT_KEYS = {  # no published weights, the same code
    "second generation, pyramid of 2 levels": (
        dict(name="swiftnet_pyr_rn18", levels=2),
        lambda classes, resize: PublishedPyramid(classes, 2, 2, resize),
    ),
}


def published_shapes(name):
    with open(os.path.join(HERE, "published_keys", name + ".txt")) as file:
        lines = [line.split() for line in file]
    return {key: () if shape == "scalar" else tuple(map(int, shape.split("x"))) for key, shape in lines}


def published_state(name, seed=0):
    """A state dict of exactly the published keys and shapes, of random values that keep maps near 1."""
    rendering = PUBLISHED[name][1](19, bilinear)
    state = randomise(rendering, seed).state_dict()
    shapes = published_shapes(name)
    return {key: state[key] if key in state else torch.zeros(shape) for key, shape in shapes.items()}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_every_published_key_and_shape(name):
    shapes = published_shapes(name)
    state = {k: tuple(v.shape) for k, v in sx.build_model(**PUBLISHED[name][0]).state_dict().items()}
    if "first" in name:  # its weights carry no normalisation
        state = {k: v for k, v in state.items() if "img_" not in k}
    assert state == shapes


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6),
    reason="files of torch.save are read by PyTorch 2.6 or later only",
)
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_checkpoints_load_and_compute_the_same(name, tmp_path):
    options, rendering = PUBLISHED[name]
    state = published_state(name)
    path = str(tmp_path / "published.pt")
    torch.save(state, path)
    ours = sx.load_checkpoint(path)
    assert "published names, {} generation".format(name.split("_")[0]) in ours.loaded_from
    assert (ours.name, ours.num_classes) == (options["name"], 19)
    assert all(ours.options[k] == v for k, v in options.items() if k != "name")
    published = rendering(19, bilinear)
    published.load_state_dict(dict(published.state_dict(), **state) if "first" in name else state)
    images = 255 * torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = published.eval()(images)
        assert_close(ours(images), expected)
    del state["logits.conv.weight"]
    torch.save(state, path)
    with pytest.raises(ValueError, match="logits.conv.weight"):
        sx.load_checkpoint(path)


def assert_close(y, expected):
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("name", sorted(PUBLISHED) + sorted(WITHOUT_KEYS))
def test_numbers_of_an_independent_rendering(name, mode, backend, device):
    options, rendering = dict(PUBLISHED, **WITHOUT_KEYS)[name]
    published = randomise(rendering(7, nearest if mode == "nearest" else bilinear))
    ours = sx.build_model(num_classes=7, mode=mode, **options).eval()
    state = ours.state_dict()
    state.update(published.state_dict())
    ours.load_state_dict(state)
    # divisible by all strides, odd, prime, and smaller than the coarsest stride
    sizes = [(64, 96), (33, 47), (71, 131), (5, 3)] if backend == "reference" else [(33, 47), (32, 64)]
    for size in sizes:
        images = 255 * torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = published(images)
            y = ours.to(device)(images.to(device)).cpu()
        assert y.shape == (2, 7) + size
        assert_close(y, expected)


VARIANTS = [dict(name=name) for name in sx.models.MODELS]
VARIANTS += [dict(name="swiftnet_mnv2", blend=blend) for blend in sorted(DECODER_PARAMETERS)]
VARIANTS += [dict(name="swiftnet_pyr_mnv2", blend=blend, levels=2) for blend in ("grouped", "1x1")]
VARIANTS += [
    dict(name="swiftnet_mnv2", spp=False, head="3x3"),
    dict(name="swiftnet_mnv2", half_resolution=True, mode="nearest"),
    dict(name="swiftnet_pyr_mnv2", generation=1, half_resolution=True),
]


def described(options):
    return " ".join(str(v) if k == "name" else "{}={}".format(k, v) for k, v in options.items())


@pytest.mark.parametrize("options", VARIANTS, ids=described)
def test_operators_compute_what_plain_pytorch_does(options, backend, device):
    model = randomise(sx.build_model(num_classes=3, **options)).to(device)
    images = 255 * torch.rand(1, 3, 50, 70, generator=torch.Generator().manual_seed(1)).to(device)
    with torch.no_grad():
        y = model(images)
        with sx.nn.fused.plain_pytorch():
            expected = model(images)
    assert y.shape == (1, 3, 50, 70)
    assert_close(y, expected)


@pytest.mark.parametrize("options", VARIANTS, ids=described)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (31, 33), (64, 64)])
def test_any_size_and_batch(options, size):
    model = randomise(sx.build_model(num_classes=3, **options))
    images = 255 * torch.rand(2, 3, *size)
    with torch.no_grad():
        y = model(images)
        assert y.shape == (2, 3) + size and bool(torch.isfinite(y).all())
        assert_close(y[1:], model(images[1:]))
    assert model.segment(np.zeros(size + (3,), np.uint8)).shape == size


def test_half_resolution_is_the_network_on_the_halved_image():
    full = randomise(sx.build_model("swiftnet_mnv2", num_classes=3))
    half = sx.build_model("swiftnet_mnv2", num_classes=3, half_resolution=True).eval()
    half.load_state_dict(full.state_dict())
    images = 255 * torch.rand(1, 3, 64, 96)
    halved = torch.nn.functional.avg_pool2d(images, 2)  # bilinear halving of even sizes
    with torch.no_grad():
        assert_close(half.logits(images), full.logits(halved))
        assert half(images).shape == (1, 3, 64, 96)


def test_levels_have_batch_norms_of_their_own():
    model = randomise(sx.build_model("swiftnet_pyr_rn18", num_classes=3))
    images = 255 * torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        before = model(images)
        for level in range(3):
            norm = model.backbone.layer3[1].bn2[level]
            norm.bias += 1
            assert not torch.allclose(model(images), before)
            norm.bias -= 1


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


def replica_of(network):
    """As torch.nn.parallel.replicate makes one, within a CPU."""
    modules = list(network.modules())
    replicas = {module: module._replicate_for_data_parallel() for module in modules}
    for module in modules:
        for name, child in module._modules.items():
            setattr(replicas[module], name, replicas[child])
        for name, parameter in module._parameters.items():
            setattr(replicas[module], name, None if parameter is None else parameter.detach().clone())
        for name, buffer in module._buffers.items():
            setattr(replicas[module], name, buffer.clone())
    return replicas[network]


def test_a_replica_has_a_backbone_of_its_own():
    model = randomise(sx.build_model("swiftnet_mnv2", num_classes=3))
    images = 255 * torch.rand(1, 3, 32, 32)
    keys, before = list(model.state_dict()), model.logits(images)
    replica = replica_of(model)
    assert torch.equal(replica.logits(images), before)
    with torch.no_grad():
        replica.backbone.features[0][0].weight.zero_()
    assert torch.equal(model.logits(images), before) and not torch.equal(replica.logits(images), before)
    assert list(model.state_dict()) == keys


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
    half = torch.bfloat16 if backend == "cpu" else torch.float16
    model = randomise(sx.build_model("swiftnet_mnv2", num_classes=4)).to(device)
    try:
        model.backbone.features[0][:2].to(half)(torch.zeros(1, 3, 4, 4, dtype=half, device=device))
    except RuntimeError:
        pytest.skip("PyTorch {} has no half-precision convolutions or batch norms on a CPU".format(torch.__version__))
    model.float()
    image = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
    labels = model.segment(image)
    least = 0.9 if half is torch.bfloat16 else 0.98  # bfloat16 is 8 times as coarse
    assert (model.to(half).segment(image) == labels).mean() > least


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
        (dict(name="swiftnet_rn18", levels=3), "swiftnet_rn18 has no option levels; there are .*spp"),
        (dict(name="swiftnet_pyr_rn18", levels=4), "levels: expected one of 3, 2, got 4"),
        (dict(name="swiftnet_pyr_rn18", generation=True), "generation: expected one of 2, 1, got True"),
        (dict(name="swiftnet_rn18", blend="5x5"), "blend: expected one of '3x3', 'grouped'"),
        (dict(name="swiftnet_rn18", blend="grouped", channels=12), "channels divisible by 8 for 'grouped'"),
        (dict(name="swiftnet_rn18", channels=0), "channels: expected a positive integer, got 0"),
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
