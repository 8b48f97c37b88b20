"""Training, in seconds."""

import csv
import errno
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
from swiftnet_ext.engine.train import Interrupted, Progress, RunError, Trainer, make_model, parameter_groups
from swiftnet_ext.engine.training_state import StateError, newest, read_state

from .tiny_run import differing, values, without_times, write_pictures

DATA = Path(os.environ.get("SWIFTNET_DATA", Path(__file__).parents[3] / "shared" / "data"))
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    write_pictures(path)
    return path


@pytest.fixture(autouse=True)
def one_thread():
    """The order of sums in oneDNN depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(root, out, *overrides, **options):
    lines = []
    Trainer(make_config(replaced(values(root), overrides)), out, lines.append).run(**options)
    return lines


def final_state(out):
    return without_times(read_state(newest(out / "checkpoints")))


def weights(out, name="weights.safetensors"):
    return dict(sx.load_checkpoint(out / name).state_dict())


def test_a_run_writes_what_it_says(root, tmp_path):
    out = tmp_path / "run"
    lines = run(root, out, "data.validation=val", "run.epochs=4", "optimizer.lr=2e-3")
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
    for path in sorted((root / "val").iterdir()):
        matrix.update(judged.segment(read_image(path)), read_labels(root / "valannot" / path.name))
    assert 100 * matrix.mean_iou() == pytest.approx(float(best["val_mIoU"]), abs=1e-9)
    assert any(line.startswith("epoch 4/4: loss ") and "validation mIoU" in line for line in lines)
    assert lines[-1] == f"trained: {out / 'weights.safetensors'}"


def test_learns_one_picture(root, tmp_path):
    """Far better than the best constant prediction, whose loss is the labels' entropy."""
    for kind in ("train", "trainannot"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "a_001.png").write_bytes((root / kind / "a_001.png").read_bytes())
    counts = np.bincount(read_labels(root / "trainannot" / "a_001.png").ravel())[:11]
    frequencies = counts[counts > 0] / counts.sum()
    fixed = ("data.scale=[1, 1]", "data.flip=0", "data.colour=0", "data.crop=48", "run.batch=1", "run.epochs=60")
    run(tmp_path, tmp_path / "run", *fixed, "optimizer.lr=1e-2", "run.checkpoint_minutes=1")
    losses = [record["loss"] for record in final_state(tmp_path / "run")["history"]]
    assert losses[-1] < 0.6 * -(frequencies * np.log(frequencies)).sum()


def test_equal_runs_are_equal_and_seeds_differ(root, tmp_path):
    for name, overrides in (("a", ()), ("b", ("data.cache=true", "data.workers=2")), ("c", ("run.seed=1",))):
        run(root, tmp_path / name, *overrides)
    a, b, c = (final_state(tmp_path / name) for name in "abc")
    assert not differing(a["model"], b["model"]) and not differing(a["history"], b["history"])
    assert differing(a["model"], c["model"])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_interrupted_and_resumed_equals_uninterrupted(root, tmp_path, precision, monkeypatch):
    options = (
        "data.validation=val",
        f"run.precision={precision}",
        "loss.kind=boundary_focal",
        "loss.class_balance=0.5",
    )
    run(root, tmp_path / "whole", *options)
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
            run(root, out, *options, resume=True)
    monkeypatch.undo()
    assert steps == [(epoch, step) for epoch in range(3) for step in range(3)]
    run(root, out, *options, resume=True)
    assert not differing(final_state(out), final_state(tmp_path / "whole"))
    for name in ("weights.safetensors", "best.safetensors"):
        assert not differing(weights(out, name), weights(tmp_path / "whole", name))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_fast_bfloat16_it_trains_in_float32(root, tmp_path, monkeypatch):
    monkeypatch.setattr(on_cpu, "has_bf16_convolutions", lambda: False)
    said = "run.precision=bf16-mixed: this CPU has no fast bfloat16 convolutions; trains in 32-true"
    once = ("run.epochs=1", "run.accelerator=cpu")
    lines = {p: run(root, tmp_path / p, *once, f"run.precision={p}") for p in ("bf16-mixed", "32-true")}
    assert said in lines["bf16-mixed"] and not [line for line in lines["32-true"] if "run.precision" in line]
    assert not differing(final_state(tmp_path / "bf16-mixed"), final_state(tmp_path / "32-true"))
    assert yaml.safe_load((tmp_path / "bf16-mixed" / "config.yaml").read_text())["run"]["precision"] == "32-true"
    monkeypatch.setattr(on_cpu, "has_bf16_convolutions", lambda: True)
    said = "run.precision=16-mixed: a CPU has no float16; trains in bf16-mixed"
    assert said in run(root, tmp_path / "16-mixed", *once, "run.precision=16-mixed")
    with pytest.raises(RunError, match="run.precision"):  # what began in float32 does not go on in another precision
        run(root, tmp_path / "bf16-mixed", *once, "run.precision=bf16-mixed", resume=True)


def test_killed_at_random_moments(root, tmp_path):
    """The newest checkpoint always loads, and a run that was killed again and again ends as one that was not."""
    kills = int(os.environ.get("SWIFTNET_KILLS", "6"))
    command = [sys.executable, str(HERE / "tiny_run.py"), root, tmp_path, kills, 1]
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=1500)
    assert result.returncode == 0, result.stderr
    outcome = json.loads(result.stdout)
    print(outcome)
    assert outcome["kills"] == kills and outcome["loaded"] > 0  # the script fails where one can't be read
    assert outcome["finished"] > 0 and outcome["equal"] == outcome["finished"] and outcome["left over"] == 0


def test_a_folder_with_a_run_is_not_overwritten(root, tmp_path):
    run(root, tmp_path / "run", "run.epochs=1")
    before = final_state(tmp_path / "run")
    with pytest.raises(RunError, match=r"run: holds a run; go on with --resume"):
        run(root, tmp_path / "run", "run.epochs=1")
    with pytest.raises(RunError, match="another optimizer.lr, run.batch; use its"):
        run(root, tmp_path / "run", "run.epochs=1", "run.batch=2", "optimizer.lr=1e-3", resume=True)
    run(root, tmp_path / "run", "run.epochs=1", "data.cache=true", resume=True)
    assert not differing(final_state(tmp_path / "run"), dict(before, config=final_state(tmp_path / "run")["config"]))


def test_going_on_from_an_older_checkpoint(root, tmp_path):
    """Later ones neither win nor push out what is written; stopped again, it goes on from where it came."""
    out = tmp_path / "run"
    run(root, out)
    expected, older = final_state(out), min((out / "checkpoints").iterdir())
    for step in (10, 11):
        (out / "checkpoints" / f"step_{step:08d}.ckpt").write_bytes(b"of another try")
    lines = run(root, out, resume_from=older)
    assert not differing(final_state(out), expected)
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert names == [
        "step_00000008.ckpt",
        "step_00000009.ckpt",
        *(f"step_{step:08d}.ckpt.aside" for step in (9, 10, 11)),
    ]
    assert f"later than where this goes on: {out / 'checkpoints' / names[-1]}" in lines


def test_going_on_from_another_runs_checkpoint_overwrites_nothing(root, tmp_path):
    for name in ("a", "b"):
        run(root, tmp_path / name, "run.epochs=1", f"run.seed={ord(name)}")
    before = {path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="b: holds a run; go on with --resume, or name another folder by --out"):
        run(root, tmp_path / "b", "run.epochs=1", "run.seed=97", resume_from=newest(tmp_path / "a" / "checkpoints"))
    assert {path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()} == before
    run(root, tmp_path / "c", "run.epochs=1", "run.seed=97", resume_from=newest(tmp_path / "a" / "checkpoints"))
    assert not differing(weights(tmp_path / "c"), weights(tmp_path / "a"))


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["weights.safetensors", "best.safetensors", "metrics.csv"])
def test_what_a_run_left_is_not_overwritten(root, tmp_path, name, resume):
    """Its checkpoints are deleted; metrics alone are of a run whose first one could not be written."""
    (tmp_path / name).write_text("kept")
    if resume and name == "metrics.csv":
        run(root, tmp_path, "run.epochs=1", resume=resume)
        return
    with pytest.raises(RunError, match=f"holds a run's {name} and no checkpoint of it; name another folder by --out"):
        run(root, tmp_path, "run.epochs=1", resume=resume)
    assert (tmp_path / name).read_text() == "kept"


def test_what_a_killed_run_left_half_written_is_removed(root, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("weights.safetensors", "checkpoints/step_00000001.ckpt"):
        path = tmp_path / name
        path.with_name(f".{path.name}.{'0' * 32}.tmp").write_text("half")
    run(root, tmp_path, "run.epochs=1", resume=True)
    assert not list(tmp_path.rglob("*.tmp"))


def test_stopped_in_a_validation_it_goes_on_there(root, tmp_path, monkeypatch):
    """Also where the validation fails: the epoch is on the disk."""
    options, out, seen = ("data.validation=val", "run.epochs=2"), tmp_path / "parts", []
    run(root, tmp_path / "whole", *options)
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
        run(root, out, *options)
    with pytest.raises(Interrupted):
        run(root, out, *options, resume=True)
    assert seen == [0, 1]  # of three pictures
    progress = read_state(newest(out / "checkpoints"))["progress"]
    assert (progress["epoch"], progress["step"]) == (0, 3)
    monkeypatch.setattr(ConfusionMatrix, "update", update)
    run(root, out, *options, resume=True)
    assert not differing(final_state(out), final_state(tmp_path / "whole"))


def test_a_validation_without_labels_is_said_before_the_first_step(tmp_path):
    write_pictures(tmp_path, count=4)
    for path in (tmp_path / "valannot").iterdir():
        write_image(path, np.full_like(read_labels(path), 255))
    with pytest.raises(DataError, match="no labelled pixel to validate on; name another data.validation"):
        run(tmp_path, tmp_path / "run", "data.validation=val")


def test_two_processes_do_not_train_in_one_folder(root, tmp_path):
    hold = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); print(1, flush=True); input()"
    out = tmp_path / "run"
    out.mkdir()
    command = [sys.executable, "-c", hold, str(out / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        with pytest.raises(RunError, match=f"{out}: another process trains there"):
            run(root, out, resume=True)
        assert os.listdir(out) == [".lock"]
        other.communicate("\n")
    run(root, out, "run.epochs=1", resume=True)


def test_where_files_can_not_be_locked_it_trains(root, tmp_path, monkeypatch):
    def unsupported(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", unsupported)
    run(root, tmp_path / "run", "run.epochs=1")


def test_another_number_of_processes_than_was_started(root, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        RunError, match="run.devices=1 times run.machines=1 is 1, but WORLD_SIZE=2 processes were started; set"
    ):
        run(root, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_not_passed_over(root, tmp_path):
    out = tmp_path / "run"
    run(root, out)
    whole = weights(out)
    older, path = sorted((out / "checkpoints").iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StateError, match=f"{path}: is damaged.*--resume-from {older}"):
        run(root, out, resume=True)
    (out / "weights.safetensors").unlink()
    run(root, out, resume_from=older)
    assert not differing(weights(out), whole)


def test_a_loss_that_is_not_finite_stops_the_run(root, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "cross_entropy", lambda logits, labels, weights: logits.sum() * math.nan)
    with pytest.raises(RunError, match="not finite in epoch 1, step 1; lower optimizer.lr"):
        run(root, tmp_path / "run")


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


def test_weights_to_start_from(root, tmp_path):
    run(root, tmp_path / "run", "run.epochs=1")
    start = tmp_path / "run" / "weights.safetensors"
    config = make_config(replaced(values(root), [f"model.weights={start}"]))
    model, loaded = make_model(config, 11, ["c"] * 11), sx.load_checkpoint(start)
    assert not differing(dict(model.state_dict()), dict(loaded.state_dict()))
    with pytest.raises(train.ConfigError, match="model.weights: .* expected SwiftNet"):
        make_model(make_config(replaced(values(root), [f"model.weights={start}", "model.options.blend=1x1"])), 11, [])
    with pytest.raises(train.ConfigError, match="model: .*blend: expected one of"):
        make_model(make_config(replaced(values(root), ["model.options.blend=2x2"])), 11, [])


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
def config_file(root, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(values(root)))
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


def test_a_full_disk_keeps_the_run(root, config_file, swiftnet_process, tmp_path):
    """A limit on the size of files stands for it, as low as the checkpoint that is there."""

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    run(root, tmp_path / "whole", "run.epochs=1")
    out = tmp_path / "run"
    result = swiftnet_process("train", config_file, "run.epochs=1", "--out", out, preexec_fn=limited)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "step_00000001.ckpt: can't be written (File too large); there is no older checkpoint" in result.stderr
    assert not list((out / "checkpoints").iterdir())
    run(root, out, "run.epochs=1", resume=True)
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


def test_two_processes_train_as_one(root, config_file, swiftnet_process, tmp_path):
    """Two processes on gloo take what one accumulates. In fp32 sums differ in order: compare with the first step's size."""
    plain = ("run.batch=2", "run.epochs=2", "data.validation=val")
    run(root, tmp_path / "one", *plain, "run.accumulate=2")
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
def test_half_precision_on_a_gpu(root, tmp_path):
    """The scale of the gradients comes back from a checkpoint."""
    options = ("run.accelerator=cuda", "run.precision=16-mixed", "data.validation=val")
    run(root, tmp_path / "whole", *options)
    state = read_state(newest(tmp_path / "whole" / "checkpoints"))
    assert state["scaler"]["scale"] > 0 and math.isfinite(state["history"][-1]["loss"])
    older = min((tmp_path / "whole" / "checkpoints").iterdir())
    trainer = Trainer(make_config(replaced(values(root), options)), tmp_path / "parts", lambda line: None)
    trainer.run(resume_from=older)
    again = read_state(newest(tmp_path / "parts" / "checkpoints"))
    assert again["scaler"] == state["scaler"]
