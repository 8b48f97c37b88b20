"""One row, in a process of its own: python -m swiftnet_ext.engine.benchmark.row JOB RESULT, both JSON files."""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from PIL import Image

from ...data.images import read_image
from ...data.synthetic import render_scene
from ...files import replacing
from ...models import SwiftNet, build_model, load_checkpoint
from .plan import DTYPES, PICTURES, Case, Effort
from .sides import MAKERS, Missing, Setup, Side, labels_of, plain_labels
from .timing import Deadline, Memory, Timed, at_most, in_turns, quartiles, reason_of

SEED = 0
# share of the pixels whose label may differ from eager fp32's, or twice as many as differ in eager of the same dtype
ALLOWED_UNEQUAL = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 2e-3}
RESERVED = 0.2  # of a row's time, for the turns: preparing a side takes no more than the rest


class Job(NamedTuple):
    """What a row's process is told."""

    case: Case
    peers: Sequence[str]
    images: Sequence[str]  # files; a scene is rendered where there are none
    threads: int
    effort: Effort
    end: Optional[float]  # by time.monotonic, which all processes share; None without a limit


def network_of(case: Case, images: List[np.ndarray]) -> Tuple[SwiftNet, str]:
    """(network, what its weights are). Random weights get the batch statistics of an image, or all maps would fade."""
    if case.weights is not None:
        model = load_checkpoint(case.weights)
        return model, f"{Path(case.weights).name}: {model.loaded_from.split(': ', 1)[1]}"
    torch.manual_seed(SEED)
    model = build_model(case.model).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # an average over all batches; here of one
    small = np.array(Image.fromarray(images[0]).resize((256, 128)))
    with torch.no_grad():
        model(torch.from_numpy(small).permute(2, 0, 1)[None].float())
    return model.eval(), f"random, seed {SEED}, batch statistics of the image"


def images_of(case: Case, files: Sequence[str], count: int) -> Tuple[List[np.ndarray], str]:
    """(uint8 RGB images scaled to the case's size, what they are)."""
    if files:
        found = [read_image(file) for file in files[:count]]
        said = ", ".join(Path(file).name for file in files[:count])
    else:
        found = [render_scene(seed).image for seed in range(1, count + 1)]
        said = f"{count} rendered scenes"
    size, by = (case.width, case.height), Image.Resampling.BILINEAR
    return [np.array(Image.fromarray(image).resize(size, by)) for image in found], said + ", scaled"


def expected_labels(setup: Setup) -> Tuple[List[np.ndarray], float]:
    """(eager fp32's labels of every batch, the share that may differ)."""
    expected = plain_labels(setup, torch.float32)
    rounded = expected if setup.dtype == torch.float32 else plain_labels(setup, setup.dtype)
    return expected, max(ALLOWED_UNEQUAL[setup.dtype], 2 * (1 - equal_share(rounded, expected)))


def _prepared(
    job: Job, setup: Setup, expected: List[np.ndarray], deadline: Deadline
) -> Tuple[Dict[str, Side], Dict[str, List[np.ndarray]], Dict[str, Dict[str, Any]], Dict[str, str]]:
    """(sides, their labels, what is known of them, why others can't be had)."""
    sides: Dict[str, Side] = {}
    labels: Dict[str, List[np.ndarray]] = {}
    known: Dict[str, Dict[str, Any]] = {}
    missing: Dict[str, str] = {}
    reserve = 0.0 if job.end is None else RESERVED * deadline.left()
    for name in ("ours", *job.peers):
        try:
            with at_most(deadline.left() - reserve):
                memory = Memory(setup.device)
                side = MAKERS[name](setup)
                found = [labels_of(side.call(i)) for i in range(len(setup.order()))]
                known[name] = {"what": side.what, "memory_mb": _short(memory.added(side.call))}
            sides[name], labels[name] = side, found
        except Missing as reason:
            missing[name] = str(reason)
        except Exception as error:
            missing[name] = reason_of(error)
    for name, found in labels.items():
        known[name]["equal_to_fp32"] = equal_share(found, expected)
    return sides, labels, known, missing


def equal_share(labels: List[np.ndarray], expected: List[np.ndarray]) -> float:
    """Of all pixels."""
    if any(a.shape != b.shape for a, b in zip(labels, expected)):
        return 0.0
    return statistics.fmean(float((a == b).mean()) for a, b in zip(labels, expected))


def take_out_wrong(
    allowed: float, sides: Dict[str, Side], known: Dict[str, Dict[str, Any]], missing: Dict[str, str]
) -> None:
    """A side whose labels are not the network's is not timed."""
    unequal = {name: 1 - known[name]["equal_to_fp32"] for name in sides}
    for name in list(sides):
        if not unequal[name] <= allowed:
            missing[name] = (
                f"wrong labels: {unequal[name]:.2%} of the pixels differ from eager fp32, allowed {allowed:.2%}"
            )
            del sides[name]


def columns_of(timed: Timed, batch: int) -> Dict[str, Any]:
    """Of an image, whatever the batch; page faults are a call's."""
    low, median, high = (1000 * seconds / batch for seconds in quartiles(timed.samples))
    figures = {"ms": median, "q1_ms": low, "q3_ms": high, "fps": 1000 / median}
    rounded: Dict[str, Any] = {name: _short(value) for name, value in figures.items()}
    return {**rounded, "samples": len(timed.samples), "page_faults": round(timed.faults / timed.calls)}


def summary(sides: Dict[str, Dict[str, Any]], missing: Dict[str, str]) -> Dict[str, Any]:
    """The best peer, and every side's time as a ratio: how many times as fast it is as that peer."""
    peers = {name: side["ms"] for name, side in sides.items() if name != "ours"}
    best = min(peers, key=lambda name: peers[name], default=None)
    for side in sides.values():
        side["ratio"] = None if best is None else _short(peers[best] / side["ms"])
    ours = sides.get("ours", {})
    wrong = missing.get("ours", "").startswith("wrong")
    return {
        "status": "failed" if wrong else "measured" if ours else "not measured",
        "best_peer": best,
        "ratio": ours.get("ratio"),
        "sides": sides,
        "missing": missing,
    }


def measure(job: Job) -> Dict[str, Any]:
    case, deadline = job.case, Deadline(job.end)
    device = torch.device(case.device)
    torch.set_num_threads(job.threads)
    images, said = images_of(case, job.images, max(job.effort.images, min(case.batch, PICTURES)))
    model, weights = network_of(case, images)
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(model, images, DTYPES[case.dtype], device, case.loop, job.threads, Path(folder), case.batch)
        expected, allowed = expected_labels(setup)
        sides, labels, known, missing = _prepared(job, setup, expected, deadline)
        take_out_wrong(allowed, sides, known, missing)
        calls = {name: side.call for name, side in sides.items()}
        times, failed = in_turns(calls, case.loop, len(setup.order()), device, job.effort, deadline)
    missing.update(failed)
    for name in times:
        known[name]["equal_to_ours"] = equal_share(labels[name], labels["ours"]) if "ours" in labels else None
    found = {name: {**columns_of(timed, case.batch), **known[name]} for name, timed in times.items()}
    about = {"weights_are": weights, "images_are": said, "classes": model.num_classes}
    return {**case._asdict(), **about, "threads": job.threads, **summary(found, missing)}


def _short(value: Optional[float]) -> Optional[float]:
    return None if value is None else float(f"{value:.4g}")


def main(job_file: str, result_file: str) -> None:
    told = json.loads(Path(job_file).read_text())
    if "kernels" in told:
        from .kernels import measure_kernels

        result: Any = measure_kernels(**told["kernels"])
    else:
        told["case"], told["effort"] = Case(*told["case"]), Effort(*told["effort"])
        result = measure(Job(**told))
    with replacing(Path(result_file)) as temporary:
        temporary.write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
