"""A run's folder: what goes on there, and what is never written over."""

import errno
import os
import subprocess
import sys

import pytest

from swiftnet_ext.engine.run_folder import RunError
from swiftnet_ext.engine.training_state import StateError, newest

from .tiny_run import differing, final_state, run, weights

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_folder_with_a_run_is_not_overwritten(pictures, tmp_path):
    run(pictures, tmp_path / "run", "run.epochs=1")
    before = final_state(tmp_path / "run")
    with pytest.raises(RunError, match=r"run: holds a run; go on with --resume"):
        run(pictures, tmp_path / "run", "run.epochs=1")
    with pytest.raises(RunError, match="another optimizer.lr, run.batch; use its"):
        run(pictures, tmp_path / "run", "run.epochs=1", "run.batch=2", "optimizer.lr=1e-3", resume=True)
    run(pictures, tmp_path / "run", "run.epochs=1", "data.cache=true", resume=True)
    assert not differing(final_state(tmp_path / "run"), dict(before, config=final_state(tmp_path / "run")["config"]))


def test_going_on_from_an_older_checkpoint(pictures, tmp_path):
    """Later ones neither win nor push out what is written; stopped again, it goes on from where it came."""
    out = tmp_path / "run"
    run(pictures, out)
    expected, older = final_state(out), min((out / "checkpoints").iterdir())
    for step in (10, 11):
        (out / "checkpoints" / f"step_{step:08d}.ckpt").write_bytes(b"of another try")
    lines = run(pictures, out, resume_from=older)
    assert not differing(final_state(out), expected)
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert names == [
        "step_00000008.ckpt",
        "step_00000009.ckpt",
        *(f"step_{step:08d}.ckpt.aside" for step in (9, 10, 11)),
    ]
    assert f"later than where this goes on: {out / 'checkpoints' / names[-1]}" in lines


def test_going_on_from_another_runs_checkpoint_overwrites_nothing(pictures, tmp_path):
    for name in ("a", "b"):
        run(pictures, tmp_path / name, "run.epochs=1", f"run.seed={ord(name)}")
    before = {path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="b: holds a run; go on with --resume, or name another folder by --out"):
        run(pictures, tmp_path / "b", "run.epochs=1", "run.seed=97", resume_from=newest(tmp_path / "a" / "checkpoints"))
    assert {path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()} == before
    run(pictures, tmp_path / "c", "run.epochs=1", "run.seed=97", resume_from=newest(tmp_path / "a" / "checkpoints"))
    assert not differing(weights(tmp_path / "c"), weights(tmp_path / "a"))


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["weights.safetensors", "best.safetensors", "metrics.csv"])
def test_what_a_run_left_is_not_overwritten(pictures, tmp_path, name, resume):
    """Its checkpoints are deleted; metrics alone are of a run whose first one could not be written."""
    (tmp_path / name).write_text("kept")
    if resume and name == "metrics.csv":
        run(pictures, tmp_path, "run.epochs=1", resume=resume)
        return
    with pytest.raises(RunError, match=f"holds a run's {name} and no checkpoint of it; name another folder by --out"):
        run(pictures, tmp_path, "run.epochs=1", resume=resume)
    assert (tmp_path / name).read_text() == "kept"


def test_what_a_killed_run_left_half_written_is_removed(pictures, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("weights.safetensors", "checkpoints/step_00000001.ckpt"):
        path = tmp_path / name
        path.with_name(f".{path.name}.{'0' * 32}.tmp").write_text("half")
    run(pictures, tmp_path, "run.epochs=1", resume=True)
    assert not list(tmp_path.rglob("*.tmp"))


def test_two_processes_do_not_train_in_one_folder(pictures, tmp_path):
    hold = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); print(1, flush=True); input()"
    out = tmp_path / "run"
    out.mkdir()
    command = [sys.executable, "-c", hold, str(out / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        with pytest.raises(RunError, match=f"{out}: another process trains there"):
            run(pictures, out, resume=True)
        assert os.listdir(out) == [".lock"]
        other.communicate("\n")
    run(pictures, out, "run.epochs=1", resume=True)


def test_where_files_can_not_be_locked_it_trains(pictures, tmp_path, monkeypatch):
    def unsupported(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", unsupported)
    run(pictures, tmp_path / "run", "run.epochs=1")


def test_a_damaged_checkpoint_is_not_passed_over(pictures, tmp_path):
    out = tmp_path / "run"
    run(pictures, out)
    whole = weights(out)
    older, path = sorted((out / "checkpoints").iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StateError, match=f"{path}: is damaged.*--resume-from {older}"):
        run(pictures, out, resume=True)
    (out / "weights.safetensors").unlink()
    run(pictures, out, resume_from=older)
    assert not differing(weights(out), whole)
