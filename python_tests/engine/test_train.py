"""Training, in seconds."""

import csv
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import swiftnet_ext as sx
from swiftnet_ext.data.images import read_image, read_labels, write_image
from swiftnet_ext.data.labelled import DataError
from swiftnet_ext.engine import on_cpu, train
from swiftnet_ext.engine.config import make_config, replaced
from swiftnet_ext.engine.confusion import ConfusionMatrix
from swiftnet_ext.engine.run_folder import RunError
from swiftnet_ext.engine.stop import Interrupted
from swiftnet_ext.engine.train import Progress, Trainer, make_model, parameter_groups
from swiftnet_ext.engine.training_state import newest, read_state

from .tiny_run import differing, final_state, run, values, weights, write_pictures

DATA = Path(os.environ.get("SWIFTNET_DATA", Path(__file__).parents[3] / "shared" / "data"))
HERE = Path(__file__).parent
pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_run_writes_what_it_says(pictures, tmp_path):
    out = tmp_path / "run"
    lines = run(pictures, out, "data.validation=val", "run.epochs=4", "optimizer.lr=2e-3")
    assert yaml.safe_load((out / "config.yaml").read_text())["run"]["epochs"] == 4
    with open(out / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert read_image(out / "samples.png").shape == (64, 8 * 32, 3)
    assert (out / "curves.png").stat().st_size > 0 and list((out / "tensorboard").iterdir())
    assert len(list((out / "checkpoints").iterdir())) == 2
    model = sx.load_checkpoint(out / "weights.safetensors")
    assert (model.name, model.num_classes, model.options["channels"]) == ("swiftnet_mnv2", 11, 8)
    assert model.classes[2] == "Pole"
    best = max(rows, key=lambda row: float(row["val_mIoU"]))
    matrix = ConfusionMatrix(11)
    judged = sx.load_checkpoint(out / "best.safetensors")
    for path in sorted((pictures / "val").iterdir()):
        matrix.update(judged.segment(read_image(path)), read_labels(pictures / "valannot" / path.name))
    assert 100 * matrix.mean_iou() == pytest.approx(float(best["val_mIoU"]), abs=1e-9)
    assert any(line.startswith("epoch 4/4: loss ") and "validation mIoU" in line for line in lines)
    assert lines[-1] == f"trained: {out / 'weights.safetensors'}"


def test_learns_one_picture(pictures, tmp_path):
    """Far better than the best constant prediction, whose loss is the labels' entropy."""
    for kind in ("train", "trainannot"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "a_001.png").write_bytes((pictures / kind / "a_001.png").read_bytes())
    counts = np.bincount(read_labels(pictures / "trainannot" / "a_001.png").ravel())[:11]
    frequencies = counts[counts > 0] / counts.sum()
    fixed = ("data.scale=[1, 1]", "data.flip=0", "data.colour=0", "data.crop=48", "run.batch=1", "run.epochs=60")
    run(tmp_path, tmp_path / "run", *fixed, "optimizer.lr=1e-2", "run.checkpoint_minutes=1")
    losses = [record["loss"] for record in final_state(tmp_path / "run")["history"]]
    assert losses[-1] < 0.6 * -(frequencies * np.log(frequencies)).sum()


def test_equal_runs_are_equal_and_seeds_differ(pictures, tmp_path):
    for name, overrides in (("a", ()), ("b", ("data.cache=true", "data.workers=2")), ("c", ("run.seed=1",))):
        run(pictures, tmp_path / name, *overrides)
    a, b, c = (final_state(tmp_path / name) for name in "abc")
    assert not differing(a["model"], b["model"]) and not differing(a["history"], b["history"])
    assert differing(a["model"], c["model"])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_interrupted_and_resumed_equals_uninterrupted(pictures, tmp_path, precision, monkeypatch):
    options = (
        "data.validation=val",
        f"run.precision={precision}",
        "loss.kind=boundary_focal",
        "loss.class_balance=0.5",
    )
    run(pictures, tmp_path / "whole", *options)
    out, steps = tmp_path / "parts", []
    step = Trainer._step

    def stopping(self, batches):
        loss = step(self, batches)
        steps.append((self.progress.epoch, self.progress.step))
        os.kill(os.getpid(), signal.SIGINT)
        return loss

    monkeypatch.setattr(Trainer, "_step", stopping)
    for _ in range(9):
        with pytest.raises(Interrupted):
            run(pictures, out, *options, resume=True)
    monkeypatch.undo()
    assert steps == [(epoch, step) for epoch in range(3) for step in range(3)]
    run(pictures, out, *options, resume=True)
    assert not differing(final_state(out), final_state(tmp_path / "whole"))
    for name in ("weights.safetensors", "best.safetensors"):
        assert not differing(weights(out, name), weights(tmp_path / "whole", name))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_fast_bfloat16_it_trains_in_float32(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(on_cpu, "has_bf16_convolutions", lambda: False)
    said = "run.precision=bf16-mixed: this CPU has no fast bfloat16 convolutions; trains in 32-true"
    once = ("run.epochs=1", "run.accelerator=cpu")
    lines = {p: run(pictures, tmp_path / p, *once, f"run.precision={p}") for p in ("bf16-mixed", "32-true")}
    assert said in lines["bf16-mixed"] and not [line for line in lines["32-true"] if "run.precision" in line]
    assert not differing(final_state(tmp_path / "bf16-mixed"), final_state(tmp_path / "32-true"))
    assert yaml.safe_load((tmp_path / "bf16-mixed" / "config.yaml").read_text())["run"]["precision"] == "32-true"
    monkeypatch.setattr(on_cpu, "has_bf16_convolutions", lambda: True)
    said = "run.precision=16-mixed: a CPU has no float16; trains in bf16-mixed"
    assert said in run(pictures, tmp_path / "16-mixed", *once, "run.precision=16-mixed")
    with pytest.raises(RunError, match="run.precision"):  # what began in float32 does not go on in another precision
        run(pictures, tmp_path / "bf16-mixed", *once, "run.precision=bf16-mixed", resume=True)


def test_killed_at_random_moments(pictures, tmp_path):
    """The newest checkpoint always loads, and a run that was killed again and again ends as one that was not."""
    kills = int(os.environ.get("SWIFTNET_KILLS", "6"))
    command = [sys.executable, str(HERE / "tiny_run.py"), pictures, tmp_path, kills, 1]
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=1500)
    assert result.returncode == 0, result.stderr
    outcome = json.loads(result.stdout)
    print(outcome)
    assert outcome["kills"] == kills and outcome["loaded"] > 0  # the script fails where one can't be read
    assert outcome["finished"] > 0 and outcome["equal"] == outcome["finished"] and outcome["left over"] == 0


def test_stopped_in_a_validation_it_goes_on_there(pictures, tmp_path, monkeypatch):
    """Also where the validation fails: the epoch is on the disk."""
    options, out, seen = ("data.validation=val", "run.epochs=2"), tmp_path / "parts", []
    run(pictures, tmp_path / "whole", *options)
    update = ConfusionMatrix.update

    def ended(self, prediction, target):
        seen.append(len(seen))
        if seen == [0]:
            raise RuntimeError("no memory")
        update(self, prediction, target)
        if seen == [0, 1]:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ConfusionMatrix, "update", ended)
    with pytest.raises(RuntimeError, match="no memory"):
        run(pictures, out, *options)
    with pytest.raises(Interrupted):
        run(pictures, out, *options, resume=True)
    assert seen == [0, 1]  # of three pictures
    progress = read_state(newest(out / "checkpoints"))["progress"]
    assert (progress["epoch"], progress["step"]) == (0, 3)
    monkeypatch.setattr(ConfusionMatrix, "update", update)
    run(pictures, out, *options, resume=True)
    assert not differing(final_state(out), final_state(tmp_path / "whole"))


def test_a_validation_without_labels_is_said_before_the_first_step(tmp_path):
    write_pictures(tmp_path, count=4)
    for path in (tmp_path / "valannot").iterdir():
        write_image(path, np.full_like(read_labels(path), 255))
    with pytest.raises(DataError, match="no labelled pixel to validate on; name another data.validation"):
        run(tmp_path, tmp_path / "run", "data.validation=val")


def test_another_number_of_processes_than_was_started(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        RunError, match="run.devices=1 times run.machines=1 is 1, but WORLD_SIZE=2 processes were started; set"
    ):
        run(pictures, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "cross_entropy", lambda logits, labels, weights: logits.sum() * math.nan)
    with pytest.raises(RunError, match="not finite in epoch 1, step 1; lower optimizer.lr"):
        run(pictures, tmp_path / "run")


def test_rates_follow_the_cosine():
    config = make_config({"optimizer": {"lr": 1e-3, "last_lr": 1e-5}, "run": {"epochs": 10}})
    by_step = make_config({"optimizer": {"lr": 1e-3, "last_lr": 1e-5, "decay": "step"}, "run": {"epochs": 10}})

    def cosine(share):
        return 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * share)) / 2

    for epoch, step in ((0, 0), (3, 2), (9, 3)):
        progress = Progress(epoch, step)
        assert progress.learning_rate(config, 4) == pytest.approx(cosine(epoch / 10))
        assert progress.learning_rate(by_step, 4) == pytest.approx(cosine((epoch + step / 4) / 10))


def test_pretrained_parameters_go_slower():
    """The stem and two stages at a quarter of rate and decay; every parameter in one group."""
    config = make_config({"model": {"name": "swiftnet_rn18", "imagenet": "x", "imagenet_parts": 3}})
    model = sx.build_model("swiftnet_rn18", 5)
    fresh, pretrained = parameter_groups(model, config)
    slow = {id(p) for p in pretrained["params"]}
    expected = {
        id(p)
        for name, p in model.named_parameters()
        if name.startswith(("backbone.conv1.", "backbone.bn1.", "backbone.layer1.", "backbone.layer2."))
    }
    assert slow == expected and not slow & {id(p) for p in fresh["params"]}
    assert len(fresh["params"]) + len(pretrained["params"]) == len(list(model.parameters()))
    assert (fresh["divisor"], pretrained["divisor"], pretrained["weight_decay"]) == (1, 4, 2.5e-5)
    scratch = make_config({"model": {"name": "swiftnet_rn18"}})
    assert [group["divisor"] for group in parameter_groups(model, scratch)] == [1]


def test_weights_to_start_from(pictures, tmp_path):
    run(pictures, tmp_path / "run", "run.epochs=1")
    start = tmp_path / "run" / "weights.safetensors"
    config = make_config(replaced(values(pictures), [f"model.weights={start}"]))
    model, loaded = make_model(config, 11, ["c"] * 11), sx.load_checkpoint(start)
    assert not differing(dict(model.state_dict()), dict(loaded.state_dict()))
    with pytest.raises(train.ConfigError, match="model.weights: .* expected SwiftNet"):
        make_model(
            make_config(replaced(values(pictures), [f"model.weights={start}", "model.options.blend=1x1"])), 11, []
        )
    with pytest.raises(train.ConfigError, match="model: .*blend: expected one of"):
        make_model(make_config(replaced(values(pictures), ["model.options.blend=2x2"])), 11, [])


def test_imagenet_weights_are_the_encoders():
    weights = DATA / "imagenet" / "mobilenet_v2.safetensors"
    if not weights.is_file():
        pytest.skip(f"no ImageNet weights in {DATA}")
    config = make_config({"model": {"name": "swiftnet_mnv2", "imagenet": str(weights), "imagenet_parts": 2}})
    model = make_model(config, 11, [])
    scratch = make_model(make_config({"model": {"name": "swiftnet_mnv2"}}), 11, [])
    same = [n for n, p in model.named_parameters() if torch.equal(p, dict(scratch.named_parameters())[n])]
    stages = {int(n.split(".")[2]) for n in same if n.startswith("backbone.features.") and n.endswith("0.weight")}
    assert min(stages) == 4  # features 0 to 3 are the stem and RB1


@pytest.fixture(scope="module")
def config_file(pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(values(pictures)))
    return path


def test_the_command(config_file, swiftnet, tmp_path):
    out = tmp_path / "run"
    status, said, errors = swiftnet("train", config_file, "run.epochs=1", "--out", out)
    assert status == 0 and "epoch 1/1: loss" in said and "\x1b" not in said + errors
    status, _, errors = swiftnet("train", config_file, "run.epochs=1", "--out", out)
    assert status == 2 and "holds a run" in errors
    status, _, errors = swiftnet("train", config_file, "run.epochs=many", "--out", tmp_path / "other")
    assert status == 2 and "run.epochs: input should be a valid integer" in errors
    assert not (tmp_path / "other").exists()


def test_a_full_disk_keeps_the_run(pictures, config_file, swiftnet_process, tmp_path):
    """A limit on the size of files stands for it, as low as the checkpoint that is there."""

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    run(pictures, tmp_path / "whole", "run.epochs=1")
    out = tmp_path / "run"
    result = swiftnet_process("train", config_file, "run.epochs=1", "--out", out, preexec_fn=limited)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "step_00000001.ckpt: can't be written (File too large); there is no older checkpoint" in result.stderr
    assert not list((out / "checkpoints").iterdir())
    run(pictures, out, "run.epochs=1", resume=True)
    assert not differing(final_state(out), final_state(tmp_path / "whole"))


def test_ctrl_c_says_how_to_go_on(config_file, tmp_path):
    command = [sys.executable, "-m", "swiftnet_ext.cli", "train", config_file, "run.epochs=100000", "--out", tmp_path]
    env = dict(os.environ, OMP_NUM_THREADS="1")
    process = subprocess.Popen([str(c) for c in command], cwd=HERE, stderr=subprocess.PIPE, text=True, env=env)
    while not newest(tmp_path / "checkpoints"):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"stopped; everything is in {tmp_path}, go on with --resume" in errors and "Traceback" not in errors
    assert read_state(newest(tmp_path / "checkpoints"))["progress"]["step"] >= 0


def test_two_processes_train_as_one(pictures, config_file, swiftnet_process, tmp_path):
    """Two processes on gloo take what one accumulates. In fp32 sums differ in order: compare with the first step's size."""
    plain = ("run.batch=2", "run.epochs=2", "data.validation=val")
    run(pictures, tmp_path / "one", *plain, "run.accumulate=2")
    two = swiftnet_process("train", config_file, *plain, "run.devices=2", "--out", tmp_path / "two")
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("epoch 2/2") == 1  # one process speaks
    a, b = final_state(tmp_path / "one"), final_state(tmp_path / "two")
    assert b["processes"] == 2
    assert [r["loss"] for r in b["history"]] == pytest.approx([r["loss"] for r in a["history"]], rel=1e-3)
    start = make_model(make_config(values("")), 11, []).state_dict()
    learnt = [name for name, p in sx.build_model("swiftnet_mnv2", 11, channels=8).named_parameters()]
    moved = torch.cat([(a["model"][n] - start[n]).flatten() for n in learnt]).norm()
    apart = torch.cat([(a["model"][n] - b["model"][n]).flatten() for n in learnt]).norm()
    assert apart < 0.05 * moved


# the second process's clock stands still, and on request it goes on in another folder
APART = """
import os, sys, time, types
from pathlib import Path
from swiftnet_ext.engine import train
from swiftnet_ext.engine.config import read_config
second = os.environ.get("LOCAL_RANK") == "1"
if second:
    train.time = types.SimpleNamespace(monotonic=lambda: 0.0, perf_counter=time.perf_counter)
config, out, other = sys.argv[1:]
config = read_config(config, ["run.devices=2", "run.batch=2", "run.epochs=1"])
train.Trainer(config, Path(other if second else out)).run(resume=True)
"""


def test_processes_agree_when_to_save_and_where_to_go_on(config_file, tmp_path):
    script, out = tmp_path / "apart.py", tmp_path / "run"
    script.write_text(APART)

    def train_to(other):
        command = [sys.executable, str(script), str(config_file), str(out), str(other)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    done = train_to(out)
    assert done.returncode == 0, done.stderr
    done = train_to(tmp_path / "another")
    assert done.returncode != 0 and "the processes go on from different steps; name a folder" in done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_half_precision_on_a_gpu(pictures, tmp_path):
    """The scale of the gradients comes back from a checkpoint."""
    options = ("run.accelerator=cuda", "run.precision=16-mixed", "data.validation=val")
    run(pictures, tmp_path / "whole", *options)
    state = read_state(newest(tmp_path / "whole" / "checkpoints"))
    assert state["scaler"]["scale"] > 0 and math.isfinite(state["history"][-1]["loss"])
    older = min((tmp_path / "whole" / "checkpoints").iterdir())
    trainer = Trainer(make_config(replaced(values(pictures), options)), tmp_path / "parts", lambda line: None)
    trainer.run(resume_from=older)
    again = read_state(newest(tmp_path / "parts" / "checkpoints"))
    assert again["scaler"] == state["scaler"]
