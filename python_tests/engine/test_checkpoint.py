"""Weights in and out."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import swiftnet_ext as sx
from swiftnet_ext.models.checkpoint import CheckpointError, shipped_weights
from swiftnet_ext.models.mobilenet_v2 import conv_bn_relu6
from swiftnet_ext.models.safetensors_file import DamagedFile, read, read_plain

DATA = Path(os.environ.get("SWIFTNET_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.parametrize(
    "name, options",
    [
        ("swiftnet_rn18", dict(num_classes=5)),
        ("swiftnet_rn34", dict(num_classes=5, blend="grouped", spp=False)),
        ("swiftnet_mnv2", dict(num_classes=3, head="3x3", mode="nearest")),
        ("swiftnet_mnv2", dict(num_classes=3, blend="separable", channels=16)),
        ("swiftnet_pyr_rn18", dict(num_classes=3, generation=1, levels=2, blend="inverted_residual")),
        ("swiftnet_pyr_rn34", dict(num_classes=3, half_resolution=True)),
        ("swiftnet_pyr_mnv2", dict(num_classes=3, blend="1x1")),
    ],
)
def test_saved_is_loaded(name, options, tmp_path):
    model = sx.build_model(name, **options)
    names = [f"class {i}" for i in range(model.num_classes)]
    sx.save_checkpoint(model, tmp_path / "a.safetensors", classes=names)
    loaded = sx.load_checkpoint(tmp_path / "a.safetensors")
    assert loaded.classes == names
    assert f"swiftnet_ext: {name}, {model.num_classes} classes" in loaded.loaded_from
    with pytest.raises(ValueError, match="classes: expected"):
        sx.save_checkpoint(model, tmp_path / "a.safetensors", classes=names[1:])
    assert repr(loaded) == repr(model) and not loaded.training
    for k, v in model.state_dict().items():
        assert torch.equal(v, loaded.state_dict()[k]), k
    assert os.listdir(tmp_path) == ["a.safetensors"]
    (tmp_path / "b").touch()
    assert os.stat(tmp_path / "a.safetensors").st_mode == os.stat(tmp_path / "b").st_mode


def test_a_header_of_any_length_is_no_pickle(tmp_path):
    """The file begins with the header's length, whose lowest byte may be a pickle's first."""
    model, path = sx.build_model("swiftnet_mnv2", num_classes=1), tmp_path / "a.safetensors"
    sx.save_checkpoint(model, path, classes=[""])
    length = (0x80 - path.read_bytes()[0]) % 256  # the header's length is a multiple of 8 either way
    sx.save_checkpoint(model, path, classes=["x" * length])
    assert path.read_bytes()[0] == 0x80
    assert sx.load_checkpoint(path).classes == ["x" * length]


def test_keys_alone_tell_the_model(tmp_path):
    model = sx.build_model("swiftnet_rn18", num_classes=4, head="3x3")
    save_file(
        {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}, tmp_path / "a.safetensors"
    )
    loaded = sx.load_checkpoint(tmp_path / "a.safetensors")
    assert repr(loaded) == repr(model)
    assert all(p.dtype == torch.float32 for p in loaded.parameters())


def test_what_does_not_fit_is_listed(tmp_path):
    path = tmp_path / "a.safetensors"
    state = sx.build_model("swiftnet_mnv2", num_classes=4).state_dict()
    gone = "backbone.upsample.1.blend_conv.conv.weight"
    wrong = {k: v for k, v in state.items() if k != gone}
    wrong["extra.weight"] = torch.zeros(3)
    wrong["backbone.spp.spp.spp0.conv.weight"] = torch.zeros(41, 128, 1, 1)
    save_file(wrong, path)
    with pytest.raises(CheckpointError) as error:
        sx.load_checkpoint(path)
    message = str(error.value)
    for part in (
        str(path),
        f"missing {gone} [128, 128, 3, 3]",
        "unexpected extra.weight [3]",
        "is [41, 128, 1, 1], expected [42",
    ):
        assert part in message
    save_file({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not a SwiftNet checkpoint.*load_imagenet_encoder"):
        sx.load_checkpoint(path)


@pytest.mark.parametrize(
    "key, tensor, metadata, sentence",
    [
        (
            "logits.conv.weight",
            torch.zeros(1, 100000, 1, 1),
            {},
            "logits.conv.weight is .*expected .classes, 128, 1, 1",
        ),
        ("logits.conv.weight", torch.zeros(10**9, 128, 0, 0), {}, "logits.conv.weight is"),
        ("logits.conv.weight", torch.zeros(0, 128, 1, 1), {}, "num_classes: expected a positive integer"),
        ("logits.conv.weight", torch.zeros(4, 128, 1, 1, dtype=torch.int32), {}, "int32, expected floating point"),
        ("backbone.upsample.2.blend_conv.conv.weight", torch.zeros(100000, 1, 1, 1), {}, "fits no blend"),
        ("backbone.upsample.2.blend_conv.norm.weight", torch.zeros(100000), {}, "fits no blend"),
        ("extra", torch.zeros(1), {"options": '{"mode": "bicubic"}'}, "mode: expected one of"),
        (
            "extra",
            torch.zeros(1),
            {"options": '{"half_resolution": 1}'},
            "half_resolution: expected one of False, True",
        ),
        ("extra", torch.zeros(1), {"options": "{"}, "its metadata is damaged"),
        ("extra", torch.zeros(1), {"options": "[" * 10**5}, "its metadata is damaged"),
        ("extra", torch.zeros(1), {"classes": "[1, 2, 3, 4]"}, "metadata is damaged: expected 4 class names"),
        ("extra", torch.zeros(1), {"classes": '["road"]'}, "metadata is damaged: expected 4 class names"),
        ("extra", torch.zeros(1), {"model": "swiftnet_rn50"}, "holds a model 'swiftnet_rn50'"),
        ("extra", torch.zeros(1), {"model": "swiftnet_rn18"}, "its keys are swiftnet_mnv2's"),
    ],
)
def test_a_small_file_cannot_ask_for_what_it_does_not_hold(key, tensor, metadata, sentence, tmp_path):
    path = tmp_path / "a.safetensors"
    state = dict(sx.build_model("swiftnet_mnv2", num_classes=4).state_dict(), **{key: tensor})
    save_file(state, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=sentence) as error:
        sx.load_checkpoint(path)
    assert str(path) in str(error.value)


class TestPlainReader:
    def test_reads_what_the_library_reads(self):
        tensors, metadata = read_plain(shipped_weights())
        expected, stated = read(shipped_weights())
        assert metadata == stated and set(tensors) == set(expected)
        assert all(torch.equal(tensors[k], v) and tensors[k].dtype == v.dtype for k, v in expected.items())

    def test_damaged_files_are_refused(self, tmp_path):
        whole = tmp_path / "whole"
        save_file({"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(0, 2, dtype=torch.int64)}, whole)
        content = whole.read_bytes()
        assert torch.equal(read_plain(str(whole))[0]["a"], torch.arange(6.0).view(2, 3))
        path = tmp_path / "damaged"
        damaged = [content[:n] for n in range(len(content))] + [
            b"\xff" * 64,
            content.replace(b"F32", b"F99"),
            content.replace(b"[2,3]", b"[2,4]"),
            content.replace(b"[0,24]", b"[8,99]"),
            content.replace(b"[0,2]", b"[0,%d]" % 10**40).replace(
                content[:8], (int.from_bytes(content[:8], "little") + 40).to_bytes(8, "little")
            ),
            b"\x15" + bytes(7) + b'{"__metadata__": [3]}',
        ]
        for bad in damaged:
            assert bad != content
            path.write_bytes(bad)
            with pytest.raises(DamagedFile):
                read_plain(str(path))


def test_pickles_are_not_executed(tmp_path):
    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    for legacy in (False, True):
        torch.save({"a": Payload()}, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(CheckpointError, match="weights-only reader refuses it"):
            sx.load_checkpoint(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError, match="weights-only reader refuses it"):
        sx.load_checkpoint(tmp_path / "b.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_state_dicts_of_torch_save_load(legacy, tmp_path, monkeypatch):
    model = sx.build_model("swiftnet_mnv2", num_classes=3)
    state = {f"module.{k}": v for k, v in model.state_dict().items()}  # as DataParallel names them
    for content in (model.state_dict(), {"epoch": 3, "state_dict": state}):
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        loaded = sx.load_checkpoint(tmp_path / "a.pt")
        assert repr(loaded) == repr(model)
        assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    whole = (tmp_path / "a.pt").read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:5]):
        (tmp_path / "a.pt").write_bytes(damaged)
        with pytest.raises(CheckpointError, match="a.pt"):
            sx.load_checkpoint(tmp_path / "a.pt")
    for claimed in (
        torch.zeros(1).expand(2**20),
        torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.long), torch.ones(1), (2**20,)),
        torch.zeros(2**20, device="meta"),
    ):
        torch.save(
            dict(model.state_dict(), **{"backbone.upsample.2.blend_conv.norm.weight": claimed}), tmp_path / "a.pt"
        )
        with pytest.raises(CheckpointError, match="is not stored number by number|refuses it"):
            sx.load_checkpoint(tmp_path / "a.pt")
    torch.save([1, 2], tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="expected a state dict"):
        sx.load_checkpoint(tmp_path / "a.pt")
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    with pytest.raises(CheckpointError, match="read by PyTorch 2.6 or later only"):
        sx.load_checkpoint(tmp_path / "a.pt")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    model = sx.build_model("swiftnet_mnv2", num_classes=2)
    sx.save_checkpoint(model, path)
    before = path.read_bytes()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        sx.save_checkpoint(sx.build_model("swiftnet_mnv2", num_classes=3), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize(
    "given, name",
    [(None, "swiftnet_mnv2"), ("camvid_mnv2", "swiftnet_mnv2"), ("camvid_pyr_mnv2", "swiftnet_pyr_mnv2")],
)
def test_shipped_weights_load(given, name):
    model, info = sx.load_checkpoint(given), sx.inspect_checkpoint(given)
    assert (model.name, model.num_classes, model.options["head"]) == (name, 11, "1x1")
    assert model.classes[3] == "Road" and {"data", "recipe", "licence"} <= set(info.metadata)
    state, stored = model.state_dict(), load_file(shipped_weights(given))
    assert {v.dtype for v in stored.values()} == {torch.float16, torch.int64}
    assert all(torch.equal(state[k], v.float()) for k, v in stored.items() if v.is_floating_point())


def test_a_folder_does_not_hide_the_shipped_weights_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("camvid_mnv2")
    assert sx.inspect_checkpoint("camvid_mnv2") == sx.inspect_checkpoint(shipped_weights())


def test_a_file_goes_before_the_shipped_weights_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sx.save_checkpoint(sx.build_model("swiftnet_mnv2", num_classes=2), "camvid_mnv2")
    assert sx.load_checkpoint("camvid_mnv2").num_classes == 2


def test_notes_are_metadata(tmp_path):
    model, path = sx.build_model("swiftnet_mnv2", num_classes=2), tmp_path / "a.safetensors"
    sx.save_checkpoint(model, path, notes={"licence": "research use"})
    assert sx.inspect_checkpoint(path).metadata["licence"] == "research use"
    with pytest.raises(ValueError, match="notes: classes, model is the file's own"):
        sx.save_checkpoint(model, path, notes={"licence": "", "model": "mine", "classes": "[]"})
    assert sx.inspect_checkpoint(path).metadata["licence"] == "research use"


def torchvision_resnet18_shapes():
    """torchvision's keys and shapes: the encoder's own, with the classifier."""
    state = sx.build_model("swiftnet_rn18").backbone.state_dict()
    encoder = {
        k: torch.randn_like(v)
        for k, v in state.items()
        if v.is_floating_point() and k.startswith(("conv1", "bn1", "layer"))
    }
    return dict(encoder, **{"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)})


def test_imagenet_weights_go_into_the_encoder(tmp_path):
    weights = torchvision_resnet18_shapes()
    assert weights["layer4.1.conv2.weight"].shape == (512, 512, 3, 3) and len(weights) == 102
    save_file(weights, tmp_path / "resnet18.safetensors")
    model = sx.build_model("swiftnet_rn18", num_classes=3)
    decoder = model.backbone.spp.spp.spp0.conv.weight.clone()
    sx.load_imagenet_encoder(model, tmp_path / "resnet18.safetensors")
    state = model.backbone.state_dict()
    assert all(torch.equal(state[k], v) for k, v in weights.items() if not k.startswith("fc"))
    assert torch.equal(decoder, model.backbone.spp.spp.spp0.conv.weight)
    with pytest.raises(CheckpointError, match="missing layer3.0.conv1.weight"):
        sx.load_imagenet_encoder(model, {k: v for k, v in weights.items() if k != "layer3.0.conv1.weight"})
    with pytest.raises(CheckpointError, match="does not fit"):
        sx.load_imagenet_encoder(sx.build_model("swiftnet_mnv2"), weights)


@pytest.mark.parametrize("parts", range(6))
def test_imagenet_weights_go_into_the_first_parts(parts):
    weights = torchvision_resnet18_shapes()
    model = sx.build_model("swiftnet_rn18", num_classes=3)
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    sx.load_imagenet_encoder(model, weights, parts=parts)
    taken = ("nothing", ("conv1.", "bn1."), "layer1.", "layer2.", "layer3.", "layer4.")
    prefixes = tuple(p for part in taken[1 : parts + 1] for p in ((part,) if isinstance(part, str) else part))
    for k, v in model.backbone.state_dict().items():
        into = bool(prefixes) and k.startswith(prefixes) and k in weights
        assert torch.equal(v, weights[k] if into else before[k]), k


def test_parts_cover_every_encoder():
    for name in sx.models.MODELS:
        backbone = sx.build_model(name).backbone
        prefixes = tuple(p for part in backbone.parts for p in part)
        decoder = ("spp.", "upsample", "img_")
        for k in backbone.state_dict():
            assert k.startswith(prefixes) != k.startswith(decoder), k
    for parts in (-1, 6, True, 2.0):
        with pytest.raises(ValueError, match="parts: expected 0 to 5"):
            sx.load_imagenet_encoder(sx.build_model("swiftnet_rn18"), {}, parts=parts)


def test_every_level_starts_from_the_same_batch_norm():
    weights = torchvision_resnet18_shapes()
    model = sx.build_model("swiftnet_pyr_rn18", num_classes=3)
    sx.load_imagenet_encoder(model, weights)
    state = model.backbone.state_dict()
    for level in range(3):
        assert torch.equal(state[f"bn1.{level}.weight"], weights["bn1.weight"])
        assert torch.equal(state[f"layer3.1.bn2.{level}.running_var"], weights["layer3.1.bn2.running_var"])
    assert torch.equal(state["layer2.0.downsample.1.weight"], weights["layer2.0.downsample.1.weight"])


def test_the_mobilenet_encoder_sees_an_orange():
    """The real ImageNet weights, with their classifier on our encoder, know class 950."""
    folder = DATA / "imagenet"
    if not folder.is_dir():
        pytest.skip(f"no ImageNet weights at {folder}; SWIFTNET_DATA names another folder")
    weights = load_file(folder / "mobilenet_v2.safetensors")
    model = sx.build_model("swiftnet_mnv2").eval()
    sx.load_imagenet_encoder(model, str(folder / "mobilenet_v2.safetensors"))
    last = conv_bn_relu6(320, 1280, 1).eval()
    last.load_state_dict(
        {k[len("features.18.") :]: v.float() for k, v in weights.items() if k.startswith("features.18.")}, strict=False
    )
    image = torch.from_numpy(np.array(Image.open(folder / "orange.png").convert("RGB"))).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        normalised = (image - model.backbone.img_mean) / model.backbone.img_std
        pooled = last(model.backbone.taps(normalised)[3]).mean((2, 3))
        p = torch.softmax(
            pooled @ weights["classifier.1.weight"].float().t() + weights["classifier.1.bias"].float(), 1
        )[0]
    assert int(p.argmax()) == 950 and abs(float(p[950]) - 0.60) < 0.05
