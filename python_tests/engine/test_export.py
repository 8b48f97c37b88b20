"""ONNX files against our own networks, by ONNX Runtime."""

import copy
import json
import os
import subprocess
import sys
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from core.published_like import randomise

import swiftnet_ext as sx
from swiftnet_ext.data.synthetic import render_scene
from swiftnet_ext.engine.export import export_onnx
from swiftnet_ext.models import shipped_weights

# operators that TensorRT 8.0's parser has; with fixed sizes there is nothing else
PLAIN = {
    "Conv",
    "Relu",
    "Clip",
    "Add",
    "Sub",
    "Div",
    "BatchNormalization",
    "Resize",
    "MatMul",
    "AveragePool",
    "MaxPool",
}
PLAIN |= {"Concat", "Cast", "Gather", "ArgMax", "Softmax"}


def pictures(size, batch=1):
    scenes = [render_scene(seed, *size).image for seed in range(1, 1 + batch)]
    return torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2).float()


def build(name, **options):
    return copy.deepcopy(_build(name, tuple(options.items())))


@lru_cache(maxsize=4)
def _build(name, options):
    """Random weights whose batch norms have seen scenes, so that deep maps vary over the image as a trained network's do;
    the head's bias is such that no class wins everywhere."""
    model = randomise(sx.build_model(name, num_classes=11, **dict(options))).train()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    scenes = pictures((128, 192), batch=3)
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        model(scenes)
        for norm in norms:
            norm.running_var.clamp_(min=0.1)  # a nearly constant map would be amplified with its rounding errors
        if model.eval().logits.conv.bias is not None:
            model.logits.conv.bias -= model(scenes).mean((0, 2, 3))
    return model


def run(graph, images):
    """Outputs by name; the labels' logits are given as well."""
    for node in graph.graph.node:
        if node.op_type == "ArgMax":
            graph.graph.output.append(onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return session.run(names, {"images": images.numpy()})


def assert_equal_labels(model, graph, images):
    labels, logits = run(graph, images)
    with torch.no_grad():
        expected, expected_logits = model.labels(images).numpy(), model(images).numpy()
    assert labels.dtype == np.int32 and labels.shape == expected.shape
    assert len(np.unique(expected)) > 1
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-4 * np.abs(expected_logits).max())
    differing = labels != expected
    second, first = np.sort(expected_logits, 1)[:, -2:].swapaxes(0, 1)
    assert not (differing & (first - second > 1e-4 * np.abs(expected_logits).max())).any()
    assert differing.sum() <= 1e-4 * expected.size, f"{differing.sum()} of {expected.size} labels differ"


VARIANTS = [
    ("swiftnet_rn18", dict(), (203, 135)),
    ("swiftnet_rn34", dict(), (64, 96)),
    ("swiftnet_mnv2", dict(), (203, 135)),
    ("swiftnet_pyr_rn18", dict(), (203, 135)),
    ("swiftnet_pyr_rn34", dict(levels=2), (64, 96)),
    ("swiftnet_pyr_mnv2", dict(), (203, 135)),
    ("swiftnet_rn18", dict(head="3x3"), (128, 192)),
    ("swiftnet_rn18", dict(spp=False), (203, 135)),
    ("swiftnet_mnv2", dict(spp=False, mode="nearest", half_resolution=True), (203, 135)),
    ("swiftnet_mnv2", dict(half_resolution=True), (101, 67)),
    ("swiftnet_mnv2", dict(blend="grouped"), (203, 135)),
    ("swiftnet_mnv2", dict(blend="separable"), (203, 135)),
    ("swiftnet_mnv2", dict(blend="inverted_residual"), (203, 135)),
    ("swiftnet_mnv2", dict(blend="1x1"), (203, 135)),
    ("swiftnet_mnv2", dict(mode="nearest"), (288, 512)),  # its 14 columns of cells become 16, where Resize would be off
    ("swiftnet_pyr_mnv2", dict(levels=2, mode="nearest"), (203, 135)),
    ("swiftnet_pyr_mnv2", dict(generation=1, head="3x3"), (203, 135)),
    ("swiftnet_pyr_mnv2", dict(generation=1, levels=2, half_resolution=True), (203, 135)),
    ("swiftnet_pyr_rn18", dict(generation=1, levels=2, blend="grouped"), (128, 192)),
]


@pytest.mark.parametrize("name, options, size", VARIANTS, ids=lambda value: str(value).replace(" ", ""))
def test_labels_are_ours(name, options, size, tmp_path):
    model, path = build(name, **options), tmp_path / "a.onnx"
    export_onnx(model, path, size)
    graph = onnx.load(path)
    assert {node.domain for node in graph.graph.node} == {""}
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 13)]
    assert {node.op_type for node in graph.graph.node} <= PLAIN
    for node in graph.graph.node:
        if node.op_type == "Resize":
            mode = {a.name: a.s for a in node.attribute}["mode"]
            assert mode in (b"linear", b"nearest")
    assert_equal_labels(model, graph, pictures(size))


def test_one_pixel(tmp_path):
    model, images = build("swiftnet_mnv2"), torch.tensor([[[[10.0]], [[250.0]], [[90.0]]]])
    export_onnx(model, tmp_path / "a.onnx", (1, 1))
    labels, logits = run(onnx.load(tmp_path / "a.onnx"), images)
    with torch.no_grad():
        assert np.array_equal(labels, model.labels(images).numpy())
        np.testing.assert_allclose(logits, model(images), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def camvid(tmp_path_factory):
    """The shipped weights' file and what its export printed and warned of."""
    path = tmp_path_factory.mktemp("onnx") / "camvid.onnx"
    command = "import sys, swiftnet_ext as sx; from swiftnet_ext.engine.export import export_onnx\n"
    command += "export_onnx(sx.load_checkpoint(), sys.argv[1], (360, 480))"
    done = subprocess.run([sys.executable, "-Wall", "-c", command, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "onnx" in line.lower() or "swiftnet" in line]
    return path, ours


def test_shipped_weights_at_480x360(camvid):
    model = sx.load_checkpoint()
    for seed in (1, 2, 3):
        images = torch.from_numpy(render_scene(seed).image).permute(2, 0, 1)[None].float()
        assert images.shape[2:] == (360, 480)
        assert_equal_labels(model, onnx.load(camvid[0]), images)


def test_nothing_is_printed_or_warned_of(camvid):
    assert camvid[1] == []


def test_metadata_says_what_is_in_the_file(camvid):
    graph, model = onnx.load(camvid[0]), sx.load_checkpoint()
    said = {p.key: p.value for p in graph.metadata_props}
    assert said["model"] == repr(model) and said["swiftnet_ext"] == sx.__version__
    assert "0..255" in said["preprocessing"] and json.loads(said["classes"]) == model.classes
    (images,), (labels,) = graph.graph.input, graph.graph.output
    assert (images.name, [d.dim_value for d in images.type.tensor_type.shape.dim]) == ("images", [1, 3, 360, 480])
    assert (labels.name, [d.dim_value for d in labels.type.tensor_type.shape.dim]) == ("labels", [1, 360, 480])
    assert labels.type.tensor_type.elem_type == onnx.TensorProto.INT32
    assert b"site-packages" not in camvid[0].read_bytes()


def test_the_graph_is_small(camvid):
    """Batch norms are folded into the convolutions before them, and nothing computes a size."""
    nodes = onnx.load(camvid[0]).graph.node
    assert not {"Shape", "Constant", "Identity"} & {node.op_type for node in nodes}
    made_by = {node.output[0]: node.op_type for node in nodes}
    reads = [source for node in nodes for source in node.input]
    norms = [node.input[0] for node in nodes if node.op_type == "BatchNormalization"]
    assert norms and not [x for x in norms if made_by[x] == "Conv" and reads.count(x) == 1]


def test_classes_are_named_where_they_are_known(tmp_path):
    model = sx.build_model("swiftnet_mnv2", num_classes=2, spp=False)
    model.classes = ["road", "rest"]
    export_onnx(model, tmp_path / "a.onnx", (33, 33))
    said = {p.key: p.value for p in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert json.loads(said["classes"]) == ["road", "rest"]


@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_probabilities_and_logits(output, tmp_path):
    model, images = build("swiftnet_mnv2"), pictures((101, 67), batch=2)
    export_onnx(model, tmp_path / "a.onnx", (101, 67), output, batch=2, opset=17)
    graph = onnx.load(tmp_path / "a.onnx")
    assert [o.version for o in graph.opset_import] == [17] and graph.graph.output[0].name == output
    (found,) = run(graph, images)
    with torch.no_grad():
        expected = model(images)
    if output == "probabilities":
        expected = torch.softmax(expected, 1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name, options",
    [
        ("swiftnet_rn18", dict(spp=False)),
        ("swiftnet_mnv2", dict(half_resolution=True)),
        ("swiftnet_mnv2", dict(mode="nearest")),
    ],
    ids=str,
)
def test_any_size_and_batch_by_one_file(name, options, tmp_path):
    model = build(name, **options)
    export_onnx(model, tmp_path / "a.onnx", None, batch=None)
    for size, batch in (((203, 135), 1), ((96, 160), 2), ((288, 512), 1)):
        graph = onnx.load(tmp_path / "a.onnx")
        assert {node.domain for node in graph.graph.node} == {""}
        assert_equal_labels(model, graph, pictures(size, batch))


def test_a_file_for_any_batch_of_one_size(tmp_path):
    model = build("swiftnet_pyr_mnv2")
    export_onnx(model, tmp_path / "a.onnx", (64, 96), batch=None)
    for batch in (1, 3):
        assert_equal_labels(model, onnx.load(tmp_path / "a.onnx"), pictures((64, 96), batch))


def test_ties_go_to_the_lower_class(tmp_path):
    model = build("swiftnet_mnv2")
    with torch.no_grad():
        model.logits.conv.weight.zero_()
        model.logits.conv.bias.copy_(torch.tensor([0.0] * 3 + [1.0] + [0.0] * 3 + [1.0] + [0.0] * 3))
    export_onnx(model, tmp_path / "a.onnx", (33, 40))
    assert set(run(onnx.load(tmp_path / "a.onnx"), pictures((33, 40)))[0].ravel()) == {3}


def test_the_model_stays_as_it_is(tmp_path):
    model = build("swiftnet_mnv2").train()
    pyramid = build("swiftnet_pyr_mnv2").double()
    for given in (model, pyramid):
        state = {k: v.clone() for k, v in given.state_dict().items()}
        types, halve = [type(m) for m in given.modules()], getattr(given.backbone, "halve", None)
        export_onnx(given, tmp_path / "a.onnx", (64, 96))
        assert all(torch.equal(v, state[k]) and v.dtype == state[k].dtype for k, v in given.state_dict().items())
        assert [type(m) for m in given.modules()] == types and getattr(given.backbone, "halve", None) is halve
    assert model.training and not pyramid.training


MNV2 = sx.build_model("swiftnet_mnv2")
BAD = [
    (dict(size=(480,)), ValueError, r"size: expected \(height, width\) in pixels, or None for any, got \(480,\); pass"),
    (dict(size=(0, 64)), ValueError, "size: expected"),
    (dict(size="480x360"), ValueError, "size: expected"),
    (dict(batch=0), ValueError, "batch: expected a positive integer, or None for any, got 0"),
    (dict(output="mask"), ValueError, "output: expected one of labels, probabilities, logits, got 'mask'"),
    (dict(opset=9), ValueError, "opset: expected 13 to 17, got 9; 13 is what TensorRT 8.0 takes"),
    (dict(opset=18), ValueError, "opset: expected 13 to 17, got 18"),
    (dict(model=torch.nn.ReLU()), TypeError, "model: expected one of build_model or load_checkpoint, got ReLU"),
    (dict(model=sx.nn.MultiScale(MNV2)), TypeError, "got MultiScale; export each alone"),
    (dict(model="pyramid", size=None), ValueError, "size: .* swiftnet_pyr_mnv2, whose levels are .* got None; pass a"),
]


@pytest.mark.parametrize("changed, error, message", BAD, ids=lambda value: str(value)[:30])
def test_misuse(changed, error, message, tmp_path):
    arguments = dict(dict(model=MNV2, path=tmp_path / "a.onnx", size=(64, 96)), **changed)
    if arguments["model"] == "pyramid":
        arguments["model"] = sx.build_model("swiftnet_pyr_mnv2")
    with pytest.raises(error, match=message):
        export_onnx(**arguments)
    assert os.listdir(tmp_path) == []


def test_a_path_that_cant_be_written_leaves_nothing(tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    for path in (tmp_path / "none" / "a.onnx", tmp_path / "folder.onnx"):
        with pytest.raises(OSError, match="expected a file's name in a folder that exists"):
            export_onnx(MNV2, path, (33, 33))
    assert os.listdir(tmp_path) == ["folder.onnx"] and os.listdir(tmp_path / "folder.onnx") == []


def test_a_failed_write_keeps_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"before")

    def half(model, name):
        Path(name).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(onnx, "save", half)
    with pytest.raises(OSError, match="no space left"):
        export_onnx(MNV2, path, (33, 33))
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["a.onnx"]


def test_without_onnx_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'export_onnx needs onnx: pip install "swiftnet_ext\[export\]"'):
        export_onnx(MNV2, tmp_path / "a.onnx", (33, 33))
    assert os.listdir(tmp_path) == []


class TestCommand:
    @pytest.fixture
    def export(self, swiftnet):
        return partial(swiftnet, "export")

    def test_width_comes_first(self, export, tmp_path):
        out = tmp_path / "new" / "a.onnx"
        status, said, errors = export("--out", out, "--size", "96x64", "--weights", shipped_weights())
        assert (status, errors) == (0, "")
        assert said.startswith(f"{out}: swiftnet_mnv2, images 96x64 (width x height), labels, opset 13, ")
        assert len(said.splitlines()) == 1
        assert_equal_labels(sx.load_checkpoint(), onnx.load(out), pictures((64, 96)))

    def test_any_size_and_batch(self, export):
        options = ["--batch", "0", "--output", "logits", "--opset", "17"]
        assert export("--out", "a.onnx", "--size", "dynamic", *options)[0] == 0
        graph, images = onnx.load("a.onnx"), pictures((40, 72), batch=2)
        assert graph.opset_import[0].version == 17 and graph.graph.output[0].name == "logits"
        with torch.no_grad():
            np.testing.assert_allclose(run(graph, images)[0], sx.load_checkpoint()(images), rtol=1e-4, atol=1e-4)

    def test_a_missing_onnx_is_named(self, export, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "onnx", None)
        status, _, errors = export("--out", "a.onnx", "--size", "48x36")
        assert status == 2 and errors == 'swiftnet: export_onnx needs onnx: pip install "swiftnet_ext[export]"\n'
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize(
        "arguments, sentence",
        [
            (
                ["--out", "a.onnx", "--size", "480"],
                "--size 480: expected WIDTHxHEIGHT in pixels, e.g. 480x360, or dynamic",
            ),
            (["--out", "a.onnx", "--size", "0x360"], "--size 0x360: expected WIDTHxHEIGHT"),
            (["--out", "a.pt", "--size", "48x36"], "a.pt: expected a name that ends in .onnx"),
            (["--out", "a.onnx", "--size", "48x36", "--output", "mask"], "output: expected one of labels"),
            (["--out", "a.onnx", "--size", "48x36", "--weights", "none.pt"], "none.pt: no such file"),
            (["--out", "a.onnx"], "Missing option '--size'"),
        ],
    )
    def test_user_errors(self, export, arguments, sentence, tmp_path):
        status, said, errors = export(*arguments)
        assert status == 2 and sentence in errors and said == ""
        assert os.listdir(tmp_path) == []
