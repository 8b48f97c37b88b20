"""What an evaluation leaves to look at."""

import json
import os
import sys

import numpy as np
import pytest
import torch

import swiftnet_ext as sx
from swiftnet_ext.data.folder import SegmentationFolder
from swiftnet_ext.data.images import read_image, write_image
from swiftnet_ext.engine import charts
from swiftnet_ext.engine.confusion import ConfusionMatrix
from swiftnet_ext.engine.evaluate import evaluate
from swiftnet_ext.engine.report import RIGHT, UNKNOWN, WRONG, Report

from .tiny_run import write_pictures


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    write_pictures(path, count=6)
    write_image(path / "train" / "b_empty.png", np.zeros((48, 64, 3), np.uint8))
    write_image(path / "trainannot" / "b_empty.png", np.full((48, 64), 11, np.uint8))
    return path


@pytest.fixture(scope="module")
def model():
    return sx.load_checkpoint()


def naive(prediction, labels):
    """(mIoU over the classes in the labels, accuracy), in percent."""
    known = labels != 255
    ious = []
    for c in np.unique(labels[known]):
        both = (prediction == c) & (labels == c)
        either = ((prediction == c) & known) | (labels == c)
        ious.append(100 * both.sum() / either.sum())
    return np.mean(ious), 100 * (prediction == labels)[known].mean()


def test_the_worst_pictures(root, model, tmp_path):
    data = SegmentationFolder(str(root), "train", 11)
    report = Report(data, worst=3)
    matrix = evaluate(model, data, also=[report.update])
    figures = {"mIoU": 12.5, "IoU": {c.name: 50.0 for c in data.classes}}
    report.write(tmp_path, matrix, figures)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["mIoU"] == 12.5
    expected = {}
    for i in range(6):
        image, labels = data[i]
        expected[data.name(i)] = naive(model.segment(image), labels)
    by_picture = {record.pop("name"): record for record in written["by_picture"]}
    assert by_picture.pop("b_empty") == {"mIoU": None, "accuracy": None}
    assert {n: (r["mIoU"], r["accuracy"]) for n, r in by_picture.items()} == {
        n: pytest.approx(e) for n, e in expected.items()
    }
    worst = sorted(expected, key=lambda name: expected[name][0])[:3]
    shown = sorted(p for p in (tmp_path / "worst").iterdir() if p.name != "legend.png")
    assert [p.name for p in shown] == [f"{i:02d}_{n}_{expected[n][0]:.0f}.png" for i, n in enumerate(worst, 1)]
    picture = read_image(shown[0])
    assert picture.shape == (48, 4 * 64 + 3 * 4, 3)
    image, labels = data[[data.name(i) for i in range(6)].index(worst[0])]
    assert np.array_equal(picture[:, :64], image)
    errors, prediction = picture[:, -64:], model.segment(image)
    assert (errors[labels == 255] == UNKNOWN).all()
    assert (errors[(labels != 255) & (prediction != labels)] == WRONG).all()
    assert (errors[(labels != 255) & (prediction == labels)] == RIGHT).all()


def test_an_earlier_reports_worst_pictures_go(root, model, tmp_path):
    data = SegmentationFolder(str(root), "val", 11)
    (tmp_path / "worst").mkdir()
    (tmp_path / "worst" / "mine.png").write_text("kept")
    for worst in (3, 1):
        report = Report(data, worst)
        matrix = evaluate(model, data, also=[report.update])
        report.write(tmp_path, matrix, {"mIoU": 12.5, "IoU": {c.name: 50.0 for c in data.classes}})
    assert [p.name[:3] for p in sorted((tmp_path / "worst").iterdir())] == ["01_", "leg", "min"]


def draw(kind, path):
    if kind == "learning_curves":
        history = [
            {"epoch": i, "loss": 2 / i, "lr": 1e-3, **({"val_mIoU": 10.0 * i} if i % 2 else {})} for i in range(1, 6)
        ]
        charts.learning_curves(history, path, "run")
    elif kind == "class_bars":
        charts.class_bars({"a": {"Sky": 90.0, "Pole": None}, "b": {"Sky": 80.0, "Pole": 10.0}}, path, "IoU")
    elif kind == "ablation_bars":
        charts.ablation_bars([("base", [60.0, 61.0], 75.4), ("other", [55.0], None)], path, "ablation")
    elif kind == "speedup_bars":
        charts.speedup_bars([("faster", 1.0, 2.5), ("slower", 2.0, 1.0)] * 3, path, "speed-ups")
    else:
        charts.confusion(np.array([[9, 1, 0], [2, 8, 0], [0, 0, 0]]), ["a", "b", "c"], path, "confusion")


@pytest.mark.parametrize("kind", ["learning_curves", "class_bars", "ablation_bars", "speedup_bars", "confusion"])
def test_charts(kind, tmp_path):
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    draw(kind, a)
    draw(kind, b)
    picture = read_image(a)
    assert min(picture.shape[:2]) > 150 and np.ptp(picture) == 255
    assert a.read_bytes() == b.read_bytes()  # a committed chart changes with its figures only
    assert "matplotlib.pyplot" not in sys.modules


def test_the_command(root, swiftnet, tmp_path):
    out, figures = tmp_path / "report", tmp_path / "figures.json"
    evaluation = ("evaluate", "--data", root, "--split", "train", "--report", out, "--worst", 1, "--json", figures)
    status, said, errors = swiftnet(*evaluation)
    assert status == 0, errors
    written, alone = json.loads((out / "report.json").read_text()), json.loads(figures.read_text())
    assert len(written.pop("by_picture")) == 7 and written == alone and alone["dtype"] == "fp32"
    assert said.strip().endswith(f"mIoU {alone['mIoU']:.2f}")
    assert {p.name for p in out.iterdir()} == {"report.json", "confusion.png", "iou.png", "worst"}
    assert len(list((out / "worst").iterdir())) == 2


DTYPES = {"fp16": "float16", "bf16": "bfloat16"}


@pytest.mark.parametrize("dtype, optimised", [("fp16", False), ("bf16", False), ("bf16", True)])
def test_sixteen_bits(root, model, swiftnet, tmp_path, dtype, optimised):
    figures = tmp_path / "figures.json"
    given = ("--data", root, "--split", "val", "--dtype", dtype, "--json", figures)
    status, _, errors = swiftnet("evaluate", *given, *([] if optimised else ["--no-optimize"]))
    assert status == 0, errors
    data = SegmentationFolder(str(root), "val", 11)
    exact = evaluate(model, data).counts
    of_maps = getattr(torch, DTYPES[dtype])
    same = sx.optimize(model, dtype=of_maps, measure=False) if optimised else sx.load_checkpoint().to(of_maps)
    rounded = evaluate(same, data).counts
    counts = np.array(json.loads(figures.read_text())["confusion"])
    assert counts.sum(1).tolist() == exact.sum(1).tolist()
    assert (counts != exact).any()
    # as here, but for what another number of threads sums in another order
    assert np.abs(counts - rounded).sum() / 2 <= 0.001 * exact.sum()


def test_an_unknown_dtype(root, swiftnet):
    status, _, errors = swiftnet("evaluate", "--data", root, "--split", "val", "--dtype", "int8")
    assert status == 2 and "--dtype int8: expected one of fp32, fp16, bf16" in errors


def test_without_matplotlib_nothing_is_evaluated(root, swiftnet_process, tmp_path):
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise ModuleNotFoundError('no', name='matplotlib')")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    given = ("--data", root, "--split", "val", "--report", tmp_path / "r")
    result = swiftnet_process("evaluate", *given, env={"PYTHONPATH": paths})
    assert result.returncode == 2 and 'needs matplotlib, which is not installed: pip install "swiftnet_ext[train]"' in (
        result.stderr
    )
    assert not (tmp_path / "r").exists()


def test_an_empty_matrix_is_drawn(tmp_path):
    charts.confusion(ConfusionMatrix(3).counts, ["a", "b", "c"], tmp_path / "c.png", "nothing")
    assert read_image(tmp_path / "c.png").ndim == 3
