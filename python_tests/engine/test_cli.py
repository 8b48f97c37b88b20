"""The command line, with the shipped weights."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import swiftnet_ext as sx
from swiftnet_ext import cli
from swiftnet_ext.data.classes import CAMVID
from swiftnet_ext.data.images import read_image, read_labels, write_image
from swiftnet_ext.data.synthetic import render_scene
from swiftnet_ext.engine.confusion import ConfusionMatrix
from swiftnet_ext.engine.predict import output_stems, predict
from swiftnet_ext.models import shipped_weights

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
DATA = Path(os.environ.get("SWIFTNET_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    write_image(path, render_scene(1).image)
    return path


def test_sample_is_the_rendered_scene_and_makes_its_folder(swiftnet, tmp_path):
    for seed, options in ((1, ()), (2, ("--seed", 2))):
        path = tmp_path / "new" / "folder" / f"{seed}.png"
        assert swiftnet("sample", path, *options)[0] == 0
        assert np.array_equal(read_image(path), render_scene(seed).image)


def test_predict_does_what_it_can(scene, swiftnet_process, tmp_path):
    broken, second = tmp_path / "broken.png", tmp_path / "other" / "scene.png"
    broken.write_bytes(scene.read_bytes()[:5000])
    second.parent.mkdir()
    write_image(second, render_scene(2, 96, 128).image)
    out = tmp_path / "out"
    result = swiftnet_process("predict", scene, broken, second, "--out", out)
    assert result.returncode == 1
    assert f"left out: {broken}: damaged or cut short" in result.stderr
    assert "2 of 3 pictures segmented into" in result.stdout and "ms a frame" in result.stdout
    assert "\x1b" not in result.stdout + result.stderr  # plain text when piped
    labels = sorted(out.glob("*_labels.png"))
    assert len(labels) == 2 and len(list(out.glob("*_overlay.png"))) == 2 and (out / "legend.png").is_file()
    model = sx.load_checkpoint()
    expected = {model.segment(read_image(p)).tobytes() for p in (scene, second)}
    assert {read_labels(p).tobytes() for p in labels} == expected
    assert not list(out.glob("*.tmp"))


def test_multi_scale_and_ensembles_segment_too(swiftnet, tmp_path):
    model = sx.load_checkpoint()
    other = tmp_path / "other.safetensors"
    with torch.no_grad():
        model.logits.conv.bias[3] += 4.0  # an ensemble's other member, which sees more road
    sx.save_checkpoint(model, other)
    small = tmp_path / "small.png"
    write_image(small, render_scene(1, 96, 128).image)
    first = sx.load_checkpoint()
    expected = {
        ("--multi-scale", "--flip"): sx.nn.MultiScale(first, flip=True),
        ("--factors", "0.5,1", "--order", "resize_then_softmax"): sx.nn.MultiScale(
            first, (0.5, 1.0), "resize_then_softmax"
        ),
        ("--weights", shipped_weights(), "--weights", other): sx.nn.Ensemble([first, sx.load_checkpoint(other)]),
    }
    seen = set()
    for arguments, reference in expected.items():
        out = tmp_path / "out"
        status, _, errors = swiftnet("predict", small, "--out", out, *arguments)
        assert status == 0, errors
        labels = read_labels(out / "small_labels.png")
        assert np.array_equal(labels, reference.eval().segment(read_image(small)))
        seen.add(labels.tobytes())
    assert len(seen) == 3
    for arguments, sentence in (
        (("--factors", "1,x"), "--factors 1,x: expected numbers"),
        (("--factors", "0"), "factors: expected positive numbers"),
        (("--order", "mean"), "order: expected one of"),
    ):
        status, _, errors = swiftnet("predict", small, "--out", tmp_path / "no", *arguments)
        assert status == 2 and sentence in errors


def test_inspect_says_what_a_checkpoint_holds(swiftnet, tmp_path):
    model = sx.build_model("swiftnet_pyr_rn18", num_classes=2, levels=2, mode="nearest")
    sx.save_checkpoint(model, tmp_path / "a.safetensors", classes=["road", "rest"])
    status, said, _ = swiftnet("inspect", tmp_path / "a.safetensors")
    assert status == 0 and said.startswith("swiftnet_ext: swiftnet_pyr_rn18, 2 classes, ")
    assert "levels=2" in said and "mode='nearest'" in said and "road" in said
    assert swiftnet("inspect", tmp_path / "none.pt")[0] == 2


def test_a_picture_too_large_for_the_gpu_is_left_out(tmp_path):
    class Small:
        num_classes = 11

        def segment(self, image):
            if image.shape[1] > 50:
                raise torch.cuda.OutOfMemoryError
            return image[..., 0] % 11

    sources = [tmp_path / "large.png", tmp_path / "small.png"]
    for source, width in zip(sources, (60, 40)):
        write_image(source, render_scene(0, 32, width).image)
    large, small = predict(Small(), sources, tmp_path / "out")
    assert large.error.startswith(f"{sources[0]}: 60×32 pixels need more GPU memory") and small.error is None
    assert np.array_equal(read_labels(tmp_path / "out" / "small_labels.png"), read_image(sources[1])[..., 0] % 11)


@pytest.mark.parametrize("name", ["a_labels.png", "a_overlay.png", "legend.png"])
def test_a_result_never_overwrites_a_picture_to_segment(name, swiftnet, tmp_path):
    own, link = tmp_path / "own", tmp_path / "link"
    own.mkdir()
    link.symlink_to(own)
    for file in ("a.png", name):
        write_image(own / file, render_scene(0, 32, 48).image)
    before = (own / name).read_bytes()
    for out in (own, link):
        status, said, errors = swiftnet("predict", own, "--out", out)
        assert status == 2 and said == ""
        assert errors.startswith(f"swiftnet: {out / name}: is one of the pictures to segment") and "--out" in errors
    with pytest.raises(ValueError, match="would be overwritten"):
        list(predict(None, sorted(own.iterdir()), own))
    assert sorted(p.name for p in own.iterdir()) == sorted(["a.png", name]) and (own / name).read_bytes() == before


def test_the_shipped_weights_see_the_scene(scene, tmp_path):
    """Most of the large classes: the network and its weights fit together."""
    truth, found = render_scene(1).labels, sx.load_checkpoint().segment(read_image(scene))
    for name in ("Sky", "Road", "Building", "Tree", "Car"):
        c = [info.name for info in CAMVID].index(name)
        assert (found[truth == c] == c).mean() > 0.5, name


@pytest.mark.parametrize(
    "arguments, status, sentence",
    [
        (["predict", "no/*.png"], 2, "swiftnet: no/*.png: no picture found"),
        (["predict", "SCENE", "--weights", "SCENE"], 2, "not a complete safetensors file"),
        (["predict", "SCENE", "--weights", "none.safetensors"], 2, "none.safetensors: no such file"),
        (["predict", "SCENE", "--device", "tpu9"], 2, "--device tpu9"),
        (["predict", "SCENE", "--device", "meta"], 2, "--device meta: expected cpu, cuda or cuda:N"),
        (["predict", "SCENE", "--out", "SCENE"], 2, "can't be made a folder"),
        (["sample", "scene.jpg"], 2, "expected a name that ends in .png"),
        (["predict", "SCENE", "--backend", "fast"], 2, "expected one of auto, reference"),
        (["predict"], 2, "Missing argument"),
        (["evaluate", "--data", "nowhere", "--split", "val"], 2, "val: no such folder"),
    ],
)
def test_user_errors_are_one_line_and_status_2(arguments, status, sentence, scene, swiftnet):
    returned, _, errors = swiftnet(*[scene if a == "SCENE" else a for a in arguments])
    assert returned == status and sentence in errors and "Traceback" not in errors


def test_a_process_of_its_own_says_a_users_error(swiftnet_process, tmp_path):
    result = swiftnet_process("sample", "scene.jpg", cwd=tmp_path)
    assert result.returncode == 2 and "a name that ends in .png" in result.stderr and "Traceback" not in result.stderr


def test_version(swiftnet):
    assert swiftnet("--version")[1].strip() == sx.__version__


def test_results_of_equal_stems_are_kept_apart():
    stems = output_stems([Path("a/x.png"), Path("b/x.png"), Path("b/x.jpg"), Path("y.png")])
    assert stems == ["a_x", "b_x_png", "b_x_jpg", "y"]
    assert output_stems([Path("a/b.png"), Path("a_b.png"), Path("c/a_b.png")])[0] == "b"
    many = [Path("d/p.png"), Path("d/p.PNG"), Path("e/d_p.png")]
    assert len(set(output_stems(many))) == 3
    assert output_stems([]) == []


class TestEvaluate:
    @pytest.fixture
    def root(self, tmp_path):
        for seed in range(2):
            scene = render_scene(seed, 96, 128)
            for folder, pixels in (("val", scene.image), ("valannot", scene.labels)):
                (tmp_path / folder).mkdir(exist_ok=True)
                write_image(tmp_path / folder / f"{seed}.png", pixels)
        return tmp_path

    def test_figures_are_those_of_a_naive_count(self, root, swiftnet, tmp_path):
        status, said, errors = swiftnet("evaluate", "--data", root, "--split", "val", "--json", "figures.json")
        assert status == 0, errors
        model, hits, union = sx.load_checkpoint(), np.zeros(11), np.zeros(11)
        for path in sorted((root / "val").iterdir()):
            labels, target = model.segment(read_image(path)), read_labels(root / "valannot" / path.name)
            for c in range(11):
                hits[c] += ((labels == c) & (target == c)).sum()
                union[c] += ((labels == c) | (target == c)).sum()
        present = union > 0
        mean = 100 * (hits[present] / union[present]).mean()
        assert said.splitlines()[-1] == f"mIoU {mean:.2f}"
        figures = json.loads((tmp_path / "figures.json").read_text())
        assert figures["mIoU"] == pytest.approx(mean) and figures["pictures"] == 2
        assert figures["command"].startswith("swiftnet evaluate --data ") and figures["torch"] == torch.__version__
        assert sum(map(sum, figures["confusion"])) == 2 * 96 * 128

    def test_a_file_for_the_figures_that_can_not_be_written(self, root, swiftnet):
        for target, sentence in ((root, "is a folder; name a file"), ("/proc/figures.json", "can't be written")):
            status, said, errors = swiftnet("evaluate", "--data", root, "--split", "val", "--json", target)
            assert (status, said) == (2, "") and errors.startswith(f"swiftnet: {target}: {sentence}")

    def test_the_figure_is_said_although_the_file_fails(self, root, swiftnet, tmp_path, monkeypatch):
        def full(path):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(cli, "replacing", full)
        status, said, errors = swiftnet("evaluate", "--data", root, "--split", "val", "--json", tmp_path / "a.json")
        assert status == 2 and said.splitlines()[-1].startswith("mIoU ") and "No space left" in errors

    def test_the_commit_is_that_of_the_start(self, root, swiftnet, tmp_path, monkeypatch):
        evaluation, found = cli.run_evaluation, tmp_path / "a.json"

        def later(*arguments):
            monkeypatch.setattr("swiftnet_ext.engine.provenance.commit", lambda: "later")
            return evaluation(*arguments)

        monkeypatch.setattr("swiftnet_ext.engine.provenance.commit", lambda: "first")
        monkeypatch.setattr(cli, "run_evaluation", later)
        status, *_ = swiftnet("evaluate", "--data", root, "--split", "val", "--json", found)
        assert status == 0 and json.loads(found.read_text())["commit"] == "first"

    def test_only_labels_make_a_data_set_unlabelled(self, root, swiftnet, tmp_path):
        model = sx.load_checkpoint()
        with torch.no_grad():
            model.logits.conv.bias[0] = float("nan")
        sx.save_checkpoint(model, str(tmp_path / "nan.safetensors"))
        given = ("evaluate", "--data", root, "--split", "val", "--weights", tmp_path / "nan.safetensors")
        assert swiftnet(*given)[1].splitlines()[-1] == "mIoU 0.00"  # labelled, and all of it wrong
        for path in (root / "valannot").iterdir():
            write_image(path, np.full((96, 128), 255, np.uint8))
        status, _, errors = swiftnet(*given)
        assert status == 2 and "no labelled pixel in split 'val'" in errors

    def test_camvid_gives_the_documented_figure(self, swiftnet):
        if not (DATA / "camvid" / "val").is_dir():
            pytest.skip(f"no CamVid at {DATA}; SWIFTNET_DATA names another folder")
        _, said, _ = swiftnet("evaluate", "--data", DATA / "camvid", "--split", "val")
        name, figure = said.splitlines()[-1].split()
        recorded = json.loads((RESULTS / "cpu-amd-epyc-2-cores" / "camvid_val.json").read_text())["mIoU"]
        assert name == "mIoU" and abs(float(figure) - recorded) <= 0.1 and recorded >= 71.0


class TestConfusionMatrix:
    def test_absent_classes_are_left_out_and_named(self):
        matrix = ConfusionMatrix(4)
        matrix.update(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 255]))
        assert matrix.absent() == [2, 3]
        assert matrix.mean_iou() == pytest.approx(0.5)

    def test_a_prediction_of_no_class_is_a_miss(self):
        matrix = ConfusionMatrix(2)
        matrix.update(np.array([0, 255], np.uint8), np.array([0, 0], np.uint8))
        assert matrix.iou()[0] == pytest.approx(0.5)

    def test_misuse(self):
        with pytest.raises(ValueError, match="expected the target's shape"):
            ConfusionMatrix(2).update(np.zeros(3, int), np.zeros(4, int))
        with pytest.raises(ValueError, match="no labelled pixel"):
            ConfusionMatrix(2).mean_iou()
