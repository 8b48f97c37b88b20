"""A data set and a configuration that train in a second; as a script, kills such a run again and again."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

import swiftnet_ext as sx
from swiftnet_ext.data.images import write_image
from swiftnet_ext.data.synthetic import render_scene


def write_pictures(root, count=13, height=48, width=64):
    """Rendered scenes as train/ and val/, with label maps."""
    for split, seeds in (("train", range(count)), ("val", range(100, 103))):
        for kind in ("", "annot"):
            (root / f"{split}{kind}").mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            scene = render_scene(seed, height, width)
            write_image(root / split / f"a_{seed:03d}.png", scene.image)
            write_image(root / f"{split}annot" / f"a_{seed:03d}.png", scene.labels)


def values(root, **run):
    """Of a configuration, 3 epochs of 3 steps."""
    return {
        "model": {"name": "swiftnet_mnv2", "options": {"channels": 8}},
        "data": {"root": str(root), "kind": "folder", "crop": 32, "workers": 0, "colour": 0.2},
        "optimizer": {"decay": "step"},
        "run": {"epochs": 3, "batch": 4, "accelerator": "cpu", "checkpoint_minutes": 0, **run},
    }


def differing(a, b):
    """The keys whose values differ in a bit, of nested dictionaries and lists."""
    if isinstance(a, dict):
        return [f"{k}.{d}" for k in set(a) | set(b) for d in differing(a.get(k), b.get(k))]
    if isinstance(a, (list, tuple)):
        same = isinstance(b, type(a)) and len(a) == len(b)
        return [f"{i}.{d}" for i, (x, y) in enumerate(zip(a, b)) for d in differing(x, y)] if same else [""]
    if isinstance(a, torch.Tensor):
        same = isinstance(b, torch.Tensor) and torch.equal(a, b) and a.stride() == b.stride()
        return [] if same else [""]
    return [] if a == b else [""]


def without_times(state):
    return dict(state, history=[{k: v for k, v in record.items() if k != "seconds"} for record in state["history"]])


def run(root, out, *overrides, **options):
    """Trains; gives the lines that it says."""
    from swiftnet_ext.engine.config import make_config, replaced
    from swiftnet_ext.engine.train import Trainer

    lines = []
    Trainer(make_config(replaced(values(root), overrides)), out, lines.append).run(**options)
    return lines


def final_state(out):
    from swiftnet_ext.engine.training_state import newest, read_state

    return without_times(read_state(newest(out / "checkpoints")))


def weights(out, name="weights.safetensors"):
    return dict(sx.load_checkpoint(out / name).state_dict())


def _child(root, out):
    """Trains in a forked process, which begins with everything imported."""
    process = os.fork()
    if process == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        status = 1
        try:
            run(root, out, resume=True)
            status = 0
        finally:
            os._exit(status)
    return process


def _ended(process):
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def kill_at_random(root, work, kills, seed):
    """Kills runs at random moments; after each kill the newest checkpoint must load. Every finished run must equal the
    uninterrupted one. Prints a JSON line of what happened."""
    import swiftnet_ext.engine.train  # noqa: F401 - for the children: importing it takes longer than the run
    from swiftnet_ext.engine.training_state import newest, read_state

    rng = random.Random(seed)
    reference = work / "reference"
    began = time.monotonic()
    _, status = os.waitpid(_child(root, reference), 0)
    assert status == 0, "the uninterrupted run failed"
    whole = time.monotonic() - began
    expected = final_state(reference)
    outcome = {"kills": 0, "loaded": 0, "finished": 0, "equal": 0, "left over": 0}
    while outcome["kills"] < kills:
        out = work / f"run{outcome['finished']}"
        before = newest(out / "checkpoints")
        process = _child(root, out)
        if outcome["kills"] % 2:  # soon after it got on, however slow the machine is by now
            while newest(out / "checkpoints") == before and not _ended(process):
                time.sleep(1e-3)
            time.sleep(rng.uniform(0, whole / 9))
        else:
            time.sleep(rng.uniform(0, whole))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        path = newest(out / "checkpoints")
        state = None if path is None else read_state(path)
        if os.WIFSIGNALED(status):
            outcome["kills"] += 1
            outcome["loaded"] += state is not None
        else:
            assert status == 0, "a run failed by itself"
        done = state is not None and state["progress"]["epoch"] == 3  # or killed while finishing
        if done or outcome["kills"] == kills:  # the last is let go on, so that one ends however slow the machine is
            _, status = os.waitpid(_child(root, out), 0)
            assert status == 0
            outcome["finished"] += 1
            outcome["equal"] += not differing(final_state(out), expected)
            outcome["left over"] += len([p for p in out.rglob("*") if p.suffix == ".ckpt"]) - 2
    print(json.dumps(outcome))


if __name__ == "__main__":
    torch.set_num_threads(1)
    kill_at_random(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
