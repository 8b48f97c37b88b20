"""The GPU report, with a stand-in for the GPU: that it ends well where all is well, and says what is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from core.ops.cases import CUDA_COMBINATIONS
from core.ops.operator_case import FORMATS

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).with_name("gpu_stand_in.py")
# compute-sanitizer's own last lines, which differ between the tools
SANITIZER = """#!{python}
import subprocess, sys
tool, log, command = sys.argv[2], sys.argv[4], sys.argv[5:]
control = "sanitizer_control" in command[0]
errors = {control_errors} if control else {errors}
status = 0 if control or errors or {skip_run} else subprocess.run(command).returncode
summary = "RACECHECK SUMMARY: %d hazards displayed (%d errors, 0 warnings)" % (errors, errors)
summary = summary if tool == "racecheck" else "ERROR SUMMARY: %d errors" % errors
open(log, "w").write("========= COMPUTE-SANITIZER\\n========= " + summary + "\\n")
sys.exit(status)
"""


@pytest.fixture
def sanitizer(tmp_path):
    def write(errors=0, control_errors=1, skip_run=False):
        path = tmp_path / f"sanitizer-{errors}-{control_errors}-{skip_run}"
        path.write_text(SANITIZER.format(python=sys.executable, **locals()))
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def environment(tmp_path, sanitizer):
    return dict(os.environ, STAND_IN_SANITIZER=str(sanitizer()), OMP_NUM_THREADS="1", GPU_REPORT_SCRATCH=str(tmp_path))


@pytest.fixture
def report(tmp_path, environment):
    def run(steps, device="StandIn", limit=None):
        command = [sys.executable, ROOT / "benchmarks" / "gpu_report.py", "--quick", "--out", tmp_path / "out"]
        command += ["--device", f"{STAND_IN}:{device}", "--steps", steps] + (["--limit", str(limit)] if limit else [])
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment)
        path = tmp_path / "out" / "gpu_report.json"
        return done, json.loads(path.read_text()) if path.exists() else None

    return run


def test_all_steps_pass_and_are_written_down(report, tmp_path):
    done, written = report(
        "build,suite,emulator,sanitizer,graphs,streams,repeats,growth,benchmarks,simt,legacy", limit=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: step["status"] for name, step in written["steps"].items()} == dict.fromkeys(
        written["steps"], "passed"
    )
    assert len(written["steps"]) == 11 and written["device"]["stand_in"] is True
    steps = written["steps"]
    assert steps["suite"]["passed"] >= 10 and steps["suite"]["skipped"] == 0
    assert steps["sanitizer"]["memcheck"] == {"errors": 0, "kernels_seen": steps["sanitizer"]["kernels"]}
    assert steps["sanitizer"]["kernels"] >= len(CUDA_COMBINATIONS) * len(FORMATS)
    assert steps["emulator"]["bit_equal"] > 0 and steps["emulator"]["within_bounds"] > 0
    assert all(row["kernel_us"] > 0 and row["pytorch_us"] > 0 for row in steps["benchmarks"]["rows"])
    assert len(steps["simt"]["rows"]) >= 14 and steps["simt"]["fp32_peak_tflops"] == 40
    asked = {row["operator"] for row in steps["simt"]["rows"] if "required" in row}
    assert asked == {"conv3x3 128→128, direct", "conv3x3 64→64, direct", "block", "multiscale labels"}
    assert steps["legacy"]["passed"] >= 10 and steps["legacy"]["without_jit"] == "JIT is off"
    page = (tmp_path / "out" / "gpu_report.md").read_text()
    assert page.startswith("# STAND-IN, NO GPU: Stand-in") and "| conv3x3 | float16 | nhwc |" in page
    assert "| block | nhwc | 0.02 | 0.001 | 20.0 |" in page


@pytest.mark.parametrize(
    "device, step, reason",
    [
        ("SkippedTest", "suite", "1 passed, 0 failed, 1 skipped"),
        ("Crashing", "streams", "ended with status 139"),
    ],
)
def test_a_step_that_fails_or_crashes_fails_the_report(device, step, reason, report):
    done, written = report(step, device)
    assert done.returncode == 1
    assert written["steps"][step]["status"] == "failed" and reason in written["steps"][step]["reason"]


# in one process, and not in the tests' own: some stand-ins change the package for good, the last one for all others
STEPS = """
import json, sys
import gpu_steps
for name, step, sanitizer in zip(*[iter(sys.argv[2:])] * 3):
    device = gpu_steps.load_device(sys.argv[1] + ":" + name)
    device.name, device.sanitizer = name, sanitizer
    print(json.dumps(gpu_steps.result_of(step, device, True)))
"""
FALL_SHORT = [  # device, step, what its sanitizer does, reason
    ("FailingBuild", "build", {}, "cmake ended with status 1"),
    ("OneBit", "streams", {}, "other bits on a side stream"),
    ("NoCapture", "graphs", {}, "not permitted when stream is capturing"),
    ("StaleGraph", "graphs", {}, "replay 1 gave other bits than a plain call"),
    ("Growing", "growth", {}, "allocated grew from 512 to 1024"),
    ("NothingLaunched", "sanitizer", {}, "none of the package's kernels was launched"),
    ("StandIn", "sanitizer", dict(errors=3), "memcheck: 3 errors; see "),
    ("StandIn", "sanitizer", dict(control_errors=0), "memcheck says nothing of a program with the fault it is made for"),
    ("StandIn", "sanitizer", dict(skip_run=True), "the operators did not run to their end"),
    ("MachineCode", "legacy", {}, "the module runs without the driver's compiler too, so it is not PTX alone"),
    ("NoJit", "legacy", {}, "the driver does not compile the PTX (CUDA 11.8 for compute_61"),
    ("OtherArchitecture", "legacy", {}, "expected a module of compute_61 alone"),
    ("InstalledPackage", "legacy", {}, "expected a module of compute_61 alone"),
    ("NoLegacyKernels", "legacy", {}, "nowhere is missing; `make legacy-kernels` makes it"),
    ("Unlike", "emulator", {}, "differ"),
]  # fmt: skip


def test_what_falls_short_is_said_and_fails(environment, sanitizer):
    chosen = [word for device, step, does, _ in FALL_SHORT for word in (device, step, str(sanitizer(**does)))]
    command = [sys.executable, "-c", STEPS, str(STAND_IN), *chosen]
    paths = dict(environment, PYTHONPATH=str(ROOT / "benchmarks"))
    done = subprocess.run(command, capture_output=True, text=True, env=paths)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["status"] for result in results] == ["failed"] * len(FALL_SHORT), done.stdout + done.stderr
    assert [(case, r["reason"]) for case, r in zip(FALL_SHORT, results) if case[3] not in r["reason"]] == []


def test_what_was_measured_is_written_down_where_too_little_is_reached_too(report, tmp_path):
    done, written = report("simt", "Slow")
    step = written["steps"]["simt"]
    assert done.returncode == 1 and step["status"] == "failed"
    for text in (
        "conv3x3 128→128, direct nchw has 0.35",
        "block nhwc has 1.0 for speedup ≥ 1.2",
        "multiscale labels nchw",
    ):
        assert text in step["reason"]
    assert {row["status"] for row in step["rows"] if "required" in row} == {"failed"}
    assert "| of_peak ≥ 0.7 | failed |" in (tmp_path / "out" / "gpu_report.md").read_text()


def test_a_step_that_hangs_is_ended_and_the_rest_is_not_run(report):
    done, written = report("streams,growth", "Hanging", limit=20)
    assert done.returncode == 1
    assert "did not end within" in written["steps"]["streams"]["reason"]
    assert written["steps"]["growth"] == {"status": "not run", "reason": "the limit of 20 s was reached", "seconds": 0}


def test_a_stand_ins_report_is_no_result():
    command = [sys.executable, ROOT / "benchmarks" / "gpu_report.py", "--device", f"{STAND_IN}:StandIn"]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    assert done.returncode == 2 and "a stand-in's report is no result" in done.stderr


def test_without_a_gpu_it_says_so(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, ROOT / "benchmarks" / "gpu_report.py", "--out", tmp_path]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout.startswith("no report: ") and not list(tmp_path.iterdir())
