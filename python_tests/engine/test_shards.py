"""Several processes over one folder of pictures: the same labels, none lost, none twice, also when a process dies."""

import os
import subprocess
import sys

import numpy as np
import pytest

from swiftnet_ext.data.images import read_image, read_labels, write_image
from swiftnet_ext.data.synthetic import render_scene
from swiftnet_ext.engine.predict import predict
from swiftnet_ext.engine.shards import Finished, Worker

# Segments by thresholds, dies at a picture's first attempt where told to, and writes down every picture it segments.
WORKER = """
import os, sys
from pathlib import Path
from swiftnet_ext.data.images import find_images
from swiftnet_ext.engine.predict import predict
from swiftnet_ext.engine.shards import Finished, Worker

class Model:
    num_classes = 11
    def segment(self, image):
        return image[..., 0] % 11

worker = Worker.of_environment()
folder, out, dies_after = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
outcomes = predict(Model(), find_images([str(folder)]), out, worker, Finished(out, "key"), worker.restarted)
for i, outcome in enumerate(outcomes):
    with open(out / f"attempts-{worker.rank}.txt", "a") as file:
        file.write(outcome.source.name + chr(10))
    if not worker.restarted and worker.rank == 1 and i + 1 == dies_after:
        os._exit(9)
"""


@pytest.fixture
def folder(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(11):
        write_image(pictures / f"frame{i}.png", render_scene(i, 32, 48).image)
    return pictures


def check_labels(folder, out):
    for source in folder.iterdir():
        assert np.array_equal(read_labels(out / f"{source.stem}_labels.png"), read_image(source)[..., 0] % 11)
    assert len(list(out.glob("*_labels.png"))) == len(list(out.glob("*_overlay.png"))) == 11
    assert not list(out.glob(".*.tmp"))


def test_torchrun_restarts_a_worker_that_died(folder, tmp_path):
    out, script = tmp_path / "out", tmp_path / "worker.py"
    script.write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    command += ["--max-restarts", "2", str(script), str(folder), str(out), "2"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    check_labels(folder, out)
    attempts = {r: (out / f"attempts-{r}.txt").read_text().split() for r in range(3)}
    assert attempts[1][:2] == ["frame1.png", "frame4.png"] and "frame7.png" in attempts[1][2:]
    # the others may be stopped between a picture's end and its being written down here, but not do one again
    everything = [name for names in attempts.values() for name in names]
    assert len(everything) == len(set(everything)) and len(everything) >= 9


class Counting:
    num_classes = 11

    def __init__(self):
        self.seen = 0

    def segment(self, image):
        self.seen += 1
        return image[..., 0] % 11


def run(folder, out, resume, key="key", rank=0, world=1):
    model = Counting()
    sources = sorted(folder.iterdir())
    outcomes = list(predict(model, sources, out, Worker(rank, world, 0, False), Finished(out, key), resume))
    return len(outcomes), model


def test_shares_are_disjoint_and_cover_all(folder, tmp_path):
    counts = [run(folder, tmp_path / "out", False, rank=r, world=4)[0] for r in range(4)]
    assert counts == [3, 3, 3, 2]
    check_labels(folder, tmp_path / "out")


def test_resume_leaves_what_is_finished_and_whole(folder, tmp_path):
    out = tmp_path / "out"
    assert run(folder, out, False)[0] == 11
    assert run(folder, out, True)[0] == 0
    (out / "frame3_overlay.png").unlink()
    write_image(folder / "frame5.png", render_scene(50, 32, 40).image)  # another picture under the same name
    assert run(folder, out, True)[0] == 2
    check_labels(folder, out)
    assert run(folder, out, True, key="other weights")[0] == 11
    assert run(folder, out, False)[0] == 11


def test_a_line_cut_short_does_not_count(folder, tmp_path):
    out = tmp_path / "out"
    run(folder, out, False)
    file = next((out / ".swiftnet").iterdir())
    file.write_text(file.read_text()[:-5])
    assert run(folder, out, True)[0] == 1


def test_contradicting_environment(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="RANK=3: expected 0 to WORLD_SIZE - 1 = 1; start the processes by torchrun"):
        Worker.of_environment()


def test_results_that_another_run_wrote_over_are_not_finished(folder, tmp_path):
    """Two folders with a picture of one name, one folder of results."""
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    for source in folder.iterdir():
        write_image(other / source.name, 255 - read_image(source))
    assert [run(which, out, False)[0] for which in (folder, other)] == [11, 11]
    assert run(other, out, True)[0] == 0
    assert run(folder, out, True)[0] == 11
    check_labels(folder, out)
