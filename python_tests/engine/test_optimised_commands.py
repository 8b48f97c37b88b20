"""`swiftnet predict` and `evaluate` run networks optimised, and say so; the labels stay what they were."""

import json
import sys
import threading

import numpy as np
import pytest
import torch

import swiftnet_ext as sx
from swiftnet_ext import cli_options
from swiftnet_ext.data.datasets import open_dataset
from swiftnet_ext.data.images import read_image, read_labels, write_image
from swiftnet_ext.data.synthetic import render_scene
from swiftnet_ext.engine import predict as prediction
from swiftnet_ext.engine.evaluate import evaluate
from swiftnet_ext.engine.predict import predict
from swiftnet_ext.optimize import OptimizedNetwork
from swiftnet_ext.optimize.run_cpu import SIZES, why_not

assert not why_not(torch.float32), why_not(torch.float32)  # that the kernels are not there is an error, not a skip
LOAD = {"weights": None, "device": "cpu", "backend": "auto", "optimise": True, "factors": (1.0,), "flip": False}
LOAD["order"] = "softmax_then_resize"


@pytest.fixture(autouse=True)
def backend_as_before():
    """The commands set it for good."""
    name, strict = sx.ops.backend.current_backend()
    yield
    sx.use_backend(name, strict)


@pytest.fixture
def choices(monkeypatch, tmp_path):
    path = tmp_path / "choices.json"
    monkeypatch.setenv("SWIFTNET_EXT_CHOICES", str(path))
    return path


@pytest.fixture
def folder(tmp_path):
    """More sizes than are kept, and the first of them again."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i, width in enumerate([*range(64, 64 + SIZES + 2), 64]):
        write_image(pictures / f"{i}.png", render_scene(i, 48 + i % 3, width).image)
    return pictures


def labels_of(folder, out):
    return {p.name: read_labels(out / f"{p.stem}_labels.png") for p in folder.iterdir()}


def check_same(found, expected):
    """In at least 99.99 % of the pixels: where two classes tie, rounding decides."""
    assert found.keys() == expected.keys()
    differing = sum((found[name] != expected[name]).sum() for name in found)
    assert differing <= 1e-4 * sum(labels.size for labels in found.values())


def test_labels_are_the_networks(swiftnet, folder, choices, tmp_path):
    model = sx.load_checkpoint()
    expected = {p.name: model.segment(read_image(p)) for p in folder.iterdir()}
    status, said, how = swiftnet("predict", folder, "--out", tmp_path / "fast", "--device", "cpu")
    assert (
        status == 0
        and f"{len(expected)} of {len(expected)} pictures segmented" in said
        and how == "optimised: float32 on cpu, by native kernels\n"
    )
    check_same(labels_of(folder, tmp_path / "fast"), expected)
    assert not choices.exists()  # nothing was measured
    status, said, how = swiftnet("predict", folder, "--out", tmp_path / "plain", "--no-optimize", "--device", "cpu")
    assert status == 0 and how == "not optimised: --no-optimize\n"
    found = labels_of(folder, tmp_path / "plain")
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_choices_measured_before_are_taken(folder, choices):
    image = read_image(folder / "0.png")
    measured = sx.optimize(sx.load_checkpoint())
    measured.segment(image)
    runs = cli_options.load(**LOAD).runs
    runs.segment(image)
    assert " ms" in repr(runs) and runs._run.latest == measured._run.latest


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_a_backend_of_the_users_runs_the_network_as_it_is(swiftnet, folder, tmp_path, name):
    arguments = "predict", folder / "0.png", "--out", tmp_path / "out", "--backend", name, "--device", "cpu"
    status, _, how = swiftnet(*arguments)
    assert status == 0 and how == f"not optimised: --backend {name}\n"


def test_several_scales_and_members_are_averaged_of_optimised_networks(folder, choices):
    image = read_image(folder / "0.png")
    first, pyramid = sx.load_checkpoint(), sx.load_checkpoint("camvid_pyr_mnv2")
    cases = [
        ({"factors": (0.5, 0.75, 1.0, 1.25, 1.5)}, sx.nn.MultiScale(first)),
        ({"flip": True, "order": "resize_then_softmax"}, sx.nn.Ensemble([first], (1.0,), "resize_then_softmax", True)),
        ({"weights": ["camvid_mnv2", "camvid_pyr_mnv2"]}, sx.nn.Ensemble([first, pyramid])),
    ]
    for options, expected in cases:
        model, runs, how = cli_options.load(**{**LOAD, **options})
        assert isinstance(runs, sx.nn.Ensemble) and how.startswith("optimised")
        assert all(isinstance(member, OptimizedNetwork) for member in runs.models)
        assert repr(model).startswith("Ensemble") and not isinstance(model.models[0], OptimizedNetwork)
        check_same({"": runs.segment(image)}, {"": expected.eval().segment(image)})
        plain = cli_options.load(**{**LOAD, **options, "optimise": False})
        assert plain.runs is plain.model and plain.how == "not optimised: --no-optimize"


def test_what_cant_be_optimised_runs_as_it_is(folder, tmp_path):
    model = sx.load_checkpoint()
    with torch.no_grad():
        model.logits.conv.bias[0] = float("nan")
    sx.save_checkpoint(model, str(tmp_path / "nan.safetensors"))
    loaded = cli_options.load(**{**LOAD, "weights": [tmp_path / "nan.safetensors"]})
    assert loaded.runs is loaded.model and "not optimised: optimize: model (SwiftNet): it" in loaded.how
    assert "NaN or Inf" in loaded.how
    sixteen = cli_options.load(**LOAD, dtype="fp16")
    assert sixteen.runs is sixteen.model and sixteen.how.startswith("not optimised: optimize: dtype: a CPU has no fast")
    assert next(sixteen.model.parameters()).dtype == torch.float16


@pytest.mark.parametrize("version, runs", [("2.0.1+cpu", False), ("2.1.0", True), ("2.10.0", True)])
def test_an_older_pytorch_runs_the_network_as_it_is(monkeypatch, version, runs):
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(version))
    loaded = cli_options.load(**LOAD)
    assert isinstance(loaded.runs, OptimizedNetwork) == runs
    assert loaded.how.startswith("optimised:") == runs
    assert runs or f"not optimised: swiftnet_ext.optimize needs PyTorch 2.1 or later, this is {version}" in loaded.how


def test_without_the_kernels_it_says_so(monkeypatch):
    module = sys.modules["swiftnet_ext.optimize.network"]  # swiftnet_ext.optimize is the function
    monkeypatch.setattr(module, "why_not", lambda dtype: "there are none in this test")
    how = cli_options.load(**LOAD).how
    assert how == "optimised: float32 on cpu, by PyTorch, without the native kernels: there are none in this test"


def test_a_gpu_gets_the_same(monkeypatch):
    """By a stand-in of `optimize`: no GPU is at hand."""
    asked = []

    def optimize(model, **options):
        asked.append((model, options))
        return type("Fast", (), {"why_not_native": ""})()

    monkeypatch.setattr(cli_options, "optimize", optimize)
    gpu = torch.device("cuda", 1)
    fast, how = cli_options._optimised(["a", "b"], gpu, torch.float16, "", "auto")
    assert len(fast) == 2 and how == "optimised: float16 on cuda:1, by PyTorch and this package's operators"
    assert asked == [(name, {"device": gpu, "dtype": torch.float16, "measure": False}) for name in "ab"]


def test_what_is_finished_is_so_either_way(swiftnet, folder, tmp_path):
    arguments = "predict", folder, "--out", tmp_path / "out", "--resume", "--device", "cpu"
    count = len(list(folder.iterdir()))
    assert f"{count} of {count} pictures" in swiftnet(*arguments)[1]
    assert f"0 of 0 pictures segmented into {tmp_path / 'out'}, {count} finished" in swiftnet(*arguments)[1]
    assert f", {count} finished before" in swiftnet(*arguments, "--no-optimize")[1]
    assert f"{count} of {count} pictures" in swiftnet(*arguments, "--weights", "camvid_pyr_mnv2")[1]


@pytest.fixture
def labelled(tmp_path):
    for seed in range(3):
        scene = render_scene(seed, 96, 128)
        for name, pixels in (("val", scene.image), ("valannot", scene.labels)):
            (tmp_path / name).mkdir(exist_ok=True)
            write_image(tmp_path / name / f"{seed}.png", pixels)
    return tmp_path


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_evaluate_counts_the_optimised_networks_labels(swiftnet, labelled, dtype):
    """How near these labels are to the network's own is test_optimize_cpu.py's."""
    arguments = "--data", labelled, "--split", "val", "--dtype", dtype, "--device", "cpu"
    figures = {}
    for option in ("--optimize", "--no-optimize"):
        file = labelled / "figures.json"
        assert swiftnet("evaluate", *arguments, option, "--json", file)[0] == 0
        figures[option] = json.loads(file.read_text())
    fast, plain = figures["--optimize"], figures["--no-optimize"]
    assert fast["how"].startswith("optimised") and plain["how"] == "not optimised: --no-optimize"
    assert fast["model"] == plain["model"]
    storage = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    network = sx.optimize(sx.load_checkpoint(), dtype=storage, measure=False)
    own = evaluate(network, open_dataset("folder", str(labelled), "val")).mean_iou()
    assert fast["mIoU"] == pytest.approx(100 * own, abs=1e-9)
    if dtype == "fp32":
        assert fast["mIoU"] == pytest.approx(plain["mIoU"], abs=0.01)
    else:  # rounded in other places, so the figures above are not the plain network's
        assert fast["mIoU"] != plain["mIoU"]


class Thresholds:
    num_classes = 11

    def segment(self, image):
        if image.shape[1] == 66:
            raise torch.cuda.OutOfMemoryError
        if image.shape[1] == 68:
            raise OSError(12, "Cannot allocate memory")
        return image[..., 0] % 11


@pytest.mark.parametrize("spare", [False, True])
def test_outcomes_come_in_order_also_where_a_thread_writes(monkeypatch, folder, tmp_path, spare):
    monkeypatch.setattr(prediction, "has_spare_core", lambda model: spare)
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:100])
    sources = sorted(folder.iterdir(), key=lambda p: int(p.stem))
    (tmp_path / "out" / "6_overlay.png").mkdir(parents=True)  # can't be written
    outcomes = list(predict(Thresholds(), sources, tmp_path / "out"))
    assert [o.source for o in outcomes] == sources
    errors = {int(o.source.stem): o.error for o in outcomes if o.error is not None}
    assert set(errors) == {1, 2, 4, 6} and "damaged or cut short" in errors[1]
    assert errors[2].endswith("2.png: 66×50 pixels need more GPU memory than is free; scale it down or use the CPU")
    assert errors[4].endswith("4.png: 68×49 pixels need more memory than is free; scale it down")
    done = [o for o in outcomes if o.error is None]
    assert all(o.seconds > 0 for o in done)
    for outcome in done:
        expected = read_image(outcome.source)[..., 0] % 11
        assert np.array_equal(read_labels(tmp_path / "out" / f"{outcome.source.stem}_labels.png"), expected)


def test_the_next_picture_is_read_while_one_is_segmented(monkeypatch, folder, tmp_path):
    sources = sorted(folder.iterdir())[:3]
    read = {source: threading.Event() for source in sources}

    def told(path):
        read[path].set()
        return read_image(path)

    class Waits:
        num_classes = 11
        seen = 0

        def segment(self, image):
            following = sources[min(max(self.seen - prediction.WARM_UP_CALLS, 0) + 1, 2)]
            self.seen += 1
            assert read[following].wait(10)
            return image[..., 0] % 11

    monkeypatch.setattr(prediction, "read_image", told)
    assert [o.error for o in predict(Waits(), sources, tmp_path / "out")] == [None] * 3
