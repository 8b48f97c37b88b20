"""Training's checkpoints survive what happens to files."""

import io
import itertools
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from swiftnet_ext.engine import training_state
from swiftnet_ext.engine.training_state import (
    StateError,
    newest,
    random_states,
    read_state,
    restore_random_states,
    set_aside,
    states,
    write_state,
)


def state(value):
    weights = torch.full((3, 4, 2, 2), float(value)).to(memory_format=torch.channels_last)
    return {"weights": weights, "nested": {"list": [1, 2.5, "x", None], "tuple": (3, (4, 5))}, "value": value}


def test_round_trip(tmp_path):
    path = write_state(tmp_path / "new" / "folder", 7, state(1))
    assert path.name == "step_00000007.ckpt" and newest(path.parent) == path
    back = read_state(path)
    assert torch.equal(back["weights"], state(1)["weights"])
    assert back["weights"].stride() == state(1)["weights"].stride()
    assert back["nested"] == state(1)["nested"]


def test_the_last_two_are_kept(tmp_path):
    (tmp_path / "step_notes.ckpt").write_text("mine")
    for step in (5, 40, 123456789, 300):
        write_state(tmp_path, step, state(step))
    assert [p.name for p in states(tmp_path)] == ["step_00000300.ckpt", "step_123456789.ckpt"]
    assert (tmp_path / "step_notes.ckpt").read_text() == "mine"
    assert newest(tmp_path / "nowhere") is None


def test_what_was_just_written_stays(tmp_path):
    for step in (7, 8, 9, 5):
        write_state(tmp_path, step, state(step))
    assert [p.name for p in states(tmp_path)] == [f"step_0000000{step}.ckpt" for step in (5, 8, 9)]


def test_later_ones_are_set_aside(tmp_path):
    for step in (5, 123456789):
        path = write_state(tmp_path, step, state(step))
    assert set_aside(tmp_path, 123456789) == []
    (aside,) = set_aside(tmp_path, 5)
    assert newest(tmp_path) == tmp_path / "step_00000005.ckpt" and not path.exists()
    assert aside.name == "step_123456789.ckpt.aside" and aside.stat().st_size > 0


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "header"])
def test_a_damaged_file_is_named_and_the_one_before_offered(tmp_path, damage):
    first, second = write_state(tmp_path, 1, state(1)), write_state(tmp_path, 2, state(2))
    content = bytearray(second.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    elif damage == "cut":
        del content[-100:]
    elif damage == "empty":
        content.clear()
    else:
        content[:5] = b"hello"
    second.write_bytes(content)
    with pytest.raises(StateError) as error:
        read_state(second)
    assert str(error.value).startswith(f"{second}: is ")
    assert f"{first} is whole: go on from there with --resume-from {first}" in str(error.value)
    first.unlink()
    with pytest.raises(StateError, match="there is no older one: train anew"):
        read_state(second)


def test_nothing_in_a_file_is_executed(tmp_path):
    import hashlib
    import pickle

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    body = pickle.dumps(Payload())
    path = tmp_path / "step_00000001.ckpt"
    path.write_bytes(b"swiftnet_ext training 1 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    with pytest.raises(StateError, match="weights-only"):
        read_state(path)
    assert not (tmp_path / "executed").exists()


def test_no_room_keeps_what_was_there(tmp_path):
    """A limit on the size of files stands for a full disk: the write fails in the middle."""
    kept = write_state(tmp_path, 1, state(1))
    before = kept.read_bytes()

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    code = (
        "import sys, torch; from pathlib import Path; from swiftnet_ext.engine.training_state import write_state\n"
        "try: write_state(Path(sys.argv[1]), 2, {'weights': torch.zeros(10000)})\n"
        "except OSError as error: sys.exit(f'OSError {error}')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], preexec_fn=limited, capture_output=True, text=True
    )
    failed = tmp_path / "step_00000002.ckpt"
    assert f"{failed}: can't be written (File too large); {kept} is whole: mend that and go on" in run.stderr
    assert [p.name for p in tmp_path.iterdir()] == [kept.name] and kept.read_bytes() == before


def killed_while_writing(folder, step, due):
    """Whether a child that writes this state was killed: right before its due-th half of a write, fsync, replace or unlink."""
    process = os.fork()
    if process:
        return os.WIFSIGNALED(os.waitpid(process, 0)[1])
    moments = itertools.count(1)

    def before(function):
        def call(*args, **kwargs):
            if next(moments) == due:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    class Halves(io.FileIO):
        def write(self, data):
            for half in (data[: len(data) // 2], data[len(data) // 2 :]):
                before(super().write)(half)

    training_state.open = Halves
    os.fsync, os.replace, Path.unlink = before(os.fsync), before(os.replace), before(Path.unlink)
    try:
        write_state(folder, step, state(step))
    finally:
        os._exit(0)


def test_killed_at_any_moment_of_a_write(tmp_path):
    newest_steps = []
    for due in itertools.count(1):
        folder = tmp_path / str(due)
        for step in (1, 2):
            write_state(folder, step, state(step))
        killed = killed_while_writing(folder, 3, due)
        assert [p.name for p in states(folder)] == [f"step_{read_state(p)['value']:08d}.ckpt" for p in states(folder)]
        newest_steps.append(read_state(newest(folder))["value"])
        if not killed:
            break
        write_state(folder, 4, state(4))
        assert [read_state(p)["value"] for p in states(folder)] == [newest_steps[-1], 4]
    # header and body in halves, fsync, replace; fsync of the folder, unlink; none
    assert newest_steps == [2] * 6 + [3] * 2 + [3]


def test_a_folder_that_can_not_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"can't be written \(Not a directory\); there is no older checkpoint"):
        write_state(tmp_path / "file" / "checkpoints", 1, state(1))


def test_random_states_come_back(tmp_path):
    write_state(tmp_path, 1, {"random": random_states()})

    def drawn():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)]

    expected = drawn()
    drawn()
    restore_random_states(read_state(tmp_path / "step_00000001.ckpt")["random"])
    assert drawn() == expected
