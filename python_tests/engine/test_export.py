"""ONNX files against PyTorch, run by ONNX Runtime."""

import collections
import json
import os
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from core.published_like import randomise

import swiftnet_ext as sx
from swiftnet_ext.data.synthetic import render_scene
from swiftnet_ext.engine.export import ExportError, export_onnx
from swiftnet_ext.nn.layers import BLENDS

from .test_cli import swiftnet


def network(name="swiftnet_mnv2", **options):
    """Random weights; no class is the largest everywhere."""
    model = randomise(sx.build_model(name, num_classes=5, **options))
    if model.logits.conv.bias is not None:
        with torch.no_grad():
            model.logits.conv.bias -= model(torch.from_numpy(picture(101, 135)[1])).mean((0, 2, 3))
    return model


def picture(height, width, seed=3):
    """uint8 [H, W, 3], and as the file's input."""
    image = render_scene(seed, height, width).image
    return image, np.ascontiguousarray(image.transpose(2, 0, 1)[None].astype(np.float32))


def run(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"images": images})
    return output


def agreement(path, model, height, width):
    """The share of pixels whose label is ours; more than one class must occur."""
    image, images = picture(height, width)
    labels = run(path, images)
    ours = model.segment(image)
    assert labels.dtype == np.int32 and labels.shape == (1, height, width)
    assert len(np.unique(ours)) > 1
    return float((labels[0] == ours).mean())


VARIANTS = [dict(name=name) for name in sx.models.MODELS]
VARIANTS += [dict(name="swiftnet_mnv2", blend=blend, mode="nearest") for blend in BLENDS]
VARIANTS += [dict(name="swiftnet_pyr_mnv2", blend=blend, levels=2, generation=1, head="3x3") for blend in BLENDS]
VARIANTS += [
    dict(name="swiftnet_rn18", spp=False, head="3x3"),
    dict(name="swiftnet_mnv2", half_resolution=True),
    dict(name="swiftnet_pyr_mnv2", half_resolution=True, mode="nearest"),
    dict(name="swiftnet_pyr_rn18", generation=1),
]


@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: " ".join(str(v) for v in o.values()))
def test_labels_are_ours(options, tmp_path):
    """At a size that nothing divides: pooling windows overlap, halves are rounded up, resizing factors are not 2."""
    model = network(**options)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    path = tmp_path / "a.onnx"
    export_onnx(model, path, (101, 135))
    assert agreement(path, model, 101, 135) >= 0.9999
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert os.listdir(tmp_path) == ["a.onnx"]
    graph = onnx.load(path)
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 13)]
    assert all(node.domain == "" for node in graph.graph.node)
    modes = {a.s for n in graph.graph.node if n.op_type == "Resize" for a in n.attribute if a.name == "mode"}
    assert modes <= {b"linear", b"nearest"}  # TensorRT 8.0's


@pytest.mark.parametrize("size", [(360, 480), (256, 512)])  # overlapping cells, and equal ones
def test_the_shipped_network(size, tmp_path):
    model = sx.load_checkpoint()
    export_onnx(model, tmp_path / "a.onnx", size)
    assert agreement(tmp_path / "a.onnx", model, *size) >= 0.9999
    operators = collections.Counter(node.op_type for node in onnx.load(tmp_path / "a.onnx").graph.node)
    assert operators["AveragePool"] == (1 if size == (360, 480) else 3) and operators["ArgMax"] == 1
    assert operators["BatchNormalization"] <= 12  # the decoder's; the encoder's are folded into its convolutions


@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_other_outputs(output, tmp_path):
    model = network()
    export_onnx(model, tmp_path / "a.onnx", (64, 96), output, batch=2)
    images = np.concatenate([picture(64, 96, seed)[1] for seed in (0, 1)])
    with torch.no_grad():
        expected = model(torch.from_numpy(images))
    expected = torch.softmax(expected, 1) if output == "probabilities" else expected
    np.testing.assert_allclose(run(tmp_path / "a.onnx", images), expected.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("output", ["labels", "logits"])
@pytest.mark.parametrize(
    "options",
    [
        dict(name="swiftnet_mnv2", spp=False),
        dict(name="swiftnet_mnv2", spp=False, half_resolution=True, mode="nearest"),
        dict(name="swiftnet_pyr_mnv2"),
    ],
    ids=lambda o: " ".join(str(v) for v in o.values()),
)
def test_one_file_for_any_size(options, output, tmp_path):
    model = network(**options)
    export_onnx(model, tmp_path / "a.onnx", None, output)
    for height, width, count in ((101, 67, 1), (192, 256, 2), (33, 40, 1)):
        image, images = picture(height, width)
        images = np.repeat(images, count, 0)
        y = run(tmp_path / "a.onnx", images)
        if output == "labels":
            assert y.shape == (count, height, width)
            assert (y == model.segment(image)).mean() >= 0.9999
        else:
            with torch.no_grad():
                np.testing.assert_allclose(y, model(torch.from_numpy(images)).numpy(), rtol=1e-3, atol=1e-3)


def test_what_has_no_free_size_says_so(tmp_path):
    with pytest.raises(ExportError, match="pooling's grids follow from the image's size.*spp=False"):
        export_onnx(network(), tmp_path / "a.onnx")
    with pytest.raises(ExportError, match="first generation's image pyramid is made for one size"):
        export_onnx(network("swiftnet_pyr_mnv2", generation=1), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="output: expected one of 'labels', 'probabilities', 'logits', got 'classes'"):
        export_onnx(network(), tmp_path / "a.onnx", (64, 64), "classes")
    with pytest.raises(ValueError, match="size: expected .height, width."):
        export_onnx(network(), tmp_path / "a.onnx", (0, 64))
    assert not os.listdir(tmp_path)


def test_a_failed_export_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"old")

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(onnx, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        export_onnx(network(), path, (64, 64))
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.onnx"]
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'pip install "swiftnet_ext\[export\]"'):
        export_onnx(network(), path, (64, 64))


def test_the_file_says_what_it_is(tmp_path):
    model = network()
    model.classes = list("abcde")
    export_onnx(model, tmp_path / "a.onnx", (64, 64))
    said = {p.key: p.value for p in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert said["model"] == repr(model) and json.loads(said["classes"]) == model.classes
    assert "RGB 0..255" in said["preprocessing"] and said["swiftnet_ext"] == sx.__version__


def test_the_command(tmp_path):
    path = tmp_path / "a.onnx"
    result = swiftnet("export", "--out", path, "--size", "96x64")
    assert result.returncode == 0, result.stderr
    assert f"labels [1, 64, 96]: {path}" in result.stdout and not result.stderr
    assert agreement(path, sx.load_checkpoint(), 64, 96) >= 0.9999
    for arguments, sentence in (
        (("--size", "96"), "--size 96: expected WIDTHxHEIGHT, e.g. 2048x1024"),
        ((), "spatial pyramid pooling's grids follow from the image's size"),
        (("--size", "96x64", "--output", "classes"), "output: expected one of"),
        (("--size", "96x64", "--weights", tmp_path / "none.pt"), "no such file"),
    ):
        result = swiftnet("export", "--out", tmp_path / "b.onnx", *arguments)
        assert result.returncode == 2 and sentence in result.stderr, result.stderr
    assert os.listdir(tmp_path) == ["a.onnx"]
