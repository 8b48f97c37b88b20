"""The queue of experiments, with trainings of a second."""

import json
import subprocess

import pytest
import torch

import swiftnet_ext as sx
from swiftnet_ext.data.folder import SegmentationFolder
from swiftnet_ext.engine import experiments, on_cpu, provenance
from swiftnet_ext.engine.config import ConfigError
from swiftnet_ext.engine.evaluate import evaluate
from swiftnet_ext.engine.experiments import Derived, Queue, Table, commit_result, read_table
from swiftnet_ext.engine.train import Trainer

from .tiny_run import values, write_pictures


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    write_pictures(path)
    return path


@pytest.fixture
def table():
    base = {f"{s}.{k}": v for s, fields in values("{data}", epochs=1).items() for k, v in fields.items()}
    base.pop("model.options")
    base["model.options.channels"] = 8
    trained = {"plain": {}, "without": {"model.options.spp": False}}
    derived = {
        "both": Derived(["plain", "without"]),
        "same": Derived(["plain", "plain+"]),
        "scales": Derived(["plain"], multi_scale=True),
        "half": Derived(["plain"], dtype="bfloat16"),
    }
    return Table(base, trained, derived)


def results(folder):
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_every_row_of_the_table_is_a_valid_configuration():
    table = read_table()
    for row in table.trained:
        config = table.config(row, 3, "/camvid", "/imagenet")
        sx.build_model(config.model.name, 11, **config.model.options)
        assert config.run.seed == 3 and config.data.root == "/camvid"
    for derived in table.derived.values():
        assert all(member.rstrip("+") in table.trained for member in derived.members)
        assert isinstance(getattr(torch, derived.dtype), torch.dtype)
    with pytest.raises(ConfigError, match="row odd: run.epoch: unexpected"):
        Table(table.base, {"odd": {"run.epoch": 3}}, {}).config("odd", 0, "", "")


def test_the_queue(root, tmp_path, table):
    lines, finished = [], []
    queue = Queue(table, str(root), "", tmp_path / "work", tmp_path / "results", lines.append, finished.append)
    rows = [*table.trained, *table.derived]
    queue.run(rows, [0, 1])
    found = results(tmp_path / "results")
    assert sorted(found) == sorted(f"{row}-{seed}" for row in rows for seed in (0, 1))
    assert queue.missing(rows, [0, 1, 2]) == [f"{row}-2" for row in rows]
    assert sorted(path.stem for path in finished) == sorted(found)

    data = SegmentationFolder(str(root), "val", 11)
    plain = [sx.load_checkpoint(tmp_path / "work" / f"plain-{s}" / "weights.safetensors") for s in (0, 1)]
    without = sx.load_checkpoint(tmp_path / "work" / "without-1" / "weights.safetensors")
    assert not without.options["spp"]
    expected = {
        "plain-1": plain[1],
        "without-1": without,
        "both-1": sx.nn.Ensemble([plain[1], without]).eval(),
        "same-1": sx.nn.Ensemble([plain[1], plain[0]]).eval(),
        "scales-1": sx.nn.MultiScale(plain[1]).eval(),
        "half-1": sx.load_checkpoint(tmp_path / "work" / "plain-1" / "weights.safetensors").to(torch.bfloat16),
    }
    for name, model in expected.items():
        assert found[name]["confusion"] == evaluate(model, data).counts.tolist(), name
        assert (found[name]["row"], found[name]["seed"]) == (name[:-2], 1)
    assert found["plain-0"]["history"][0]["loss"] > 0 and found["plain-0"]["config"]["data"]["root"] == root.name
    assert found["same-0"]["members"] == ["plain-0", "plain-1"]


def test_a_result_has_the_precision_that_ran(root, tmp_path, table, monkeypatch):
    monkeypatch.setattr(on_cpu, "has_bf16_convolutions", lambda: False)
    table.base.update({"run.precision": "bf16-mixed", "run.accelerator": "cpu"})
    Queue(table, str(root), "", tmp_path / "work", tmp_path / "results", lambda line: None).run(["plain"], [0])
    assert results(tmp_path / "results")["plain-0"]["config"]["run"]["precision"] == "32-true"


def test_a_result_has_the_commit_that_ran(root, tmp_path, table, monkeypatch):
    """Another one is checked out while the queue runs."""
    monkeypatch.setattr(experiments, "commit", lambda: "first")
    monkeypatch.setattr(provenance, "commit", lambda: "later")
    queue = Queue(table, str(root), "", tmp_path / "work", tmp_path, lambda line: None)
    queue._write("plain", 0, {"mIoU": 50.0})
    assert results(tmp_path)["plain-0"]["commit"] == "first"


def test_done_rows_are_not_done_again(root, tmp_path, table, monkeypatch):
    queue = Queue(table, str(root), "", tmp_path / "work", tmp_path / "results", lambda line: None)
    queue.run(["plain"], [0])
    path = tmp_path / "results" / "plain-0.json"
    path.write_text("kept")
    monkeypatch.setattr(Trainer, "run", None)  # would fail
    queue.run(["plain"], [0])
    assert path.read_text() == "kept"


def test_a_stopped_row_goes_on(root, tmp_path, table, monkeypatch):
    """Stopped after the training and before the result: nothing is trained again."""
    queue = Queue(table, str(root), "", tmp_path / "work", tmp_path / "results", lambda line: None)
    monkeypatch.setattr(Queue, "_evaluate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        queue.run(["plain"], [0])
    monkeypatch.undo()
    monkeypatch.setattr(Trainer, "_step", None)  # would fail
    queue.run(["plain"], [0])
    assert results(tmp_path / "results")["plain-0"]["mIoU"] > 0


def test_unknown_rows(root, tmp_path, table):
    with pytest.raises(ConfigError, match="rows: no row other; there are plain, without, both"):
        Queue(table, str(root), "", tmp_path, tmp_path).run(["plain", "other"], [0])


def test_results_are_committed(tmp_path):
    for arguments in (["init", "-q"], ["config", "user.name", "n"], ["config", "user.email", "e"]):
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True)
    (tmp_path / "other.txt").write_text("not mine")
    result = tmp_path / "results" / "plain-0.json"
    result.parent.mkdir()
    result.write_text("{}")
    commit_result(result)
    shown = subprocess.run(["git", "-C", tmp_path, "show", "--stat", "--format=%s"], capture_output=True, text=True)
    assert "Result of the experiment plain-0" in shown.stdout and "1 file changed" in shown.stdout
    with pytest.raises(OSError, match="plain-0.json is written"):
        commit_result(result)  # nothing new
