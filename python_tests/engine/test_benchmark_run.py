"""A benchmark's run: processes, the file, --resume, charts, errors."""

import json
import os
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from PIL import Image

import swiftnet_ext as sx
from swiftnet_ext.engine.benchmark import figures
from swiftnet_ext.engine.benchmark import plan as plans
from swiftnet_ext.engine.benchmark import run as running
from swiftnet_ext.engine.benchmark.figures import draw
from swiftnet_ext.engine.benchmark.plan import QUICK, TUNABLES, BenchmarkError, Effort, case_of, cases
from swiftnet_ext.engine.benchmark.run import Kernels, Plan, environment, in_process, resumed, run

EFFORT = Effort(2, 0.01, 2, 1)
CASES = list(
    cases(
        [("swiftnet_mnv2", "camvid_mnv2"), ("swiftnet_rn18", None)],
        [(96, 64), (128, 64)],
        ["fp32", "bf16"],
        ["cpu"],
        ["user"],
        ["tuned"],
    )
)


def plan(wanted=CASES, kernels=(), seconds=None, quick=False, peers=("eager",)):
    return Plan(wanted, kernels, peers, (), 1, EFFORT, seconds, quick, "swiftnet benchmark")


def side(ms, ratio):
    figures = {"ms": ms, "q1_ms": ms, "q3_ms": ms, "fps": 1000 / ms, "samples": 3, "page_faults": 0, "memory_mb": 1.0}
    return {**figures, "what": "x", "equal_to_fp32": 1.0, "equal_to_ours": 1.0, "ratio": ratio}


def pretended(job, allocator="tuned", seconds=None):
    """What a row's process would give."""
    if "kernels" in job:
        where = {name: job["kernels"][name] for name in ("width", "height", "dtype")}
        row = {"kernel": "labels", **where, "ms": 2.0, "bytes": 1, "floor_ms": 1.0, "of_floor": 2.0, "copy_ms": 1.0}
        return {"copy_gbps": 10.0, "rows": [{**row, "status": "measured"}]}
    case, ms = job["case"], job["case"].width / 10 / job["case"].batch ** 0.1
    found = {"ours": side(ms, 2.0), "eager": side(2 * ms, 1.0)}
    about = {"weights_are": "w", "images_are": "i", "classes": 11, "threads": 1, "missing": {}, "status": "measured"}
    return {**case._asdict(), **about, "best_peer": "eager", "ratio": 2.0, "sides": found}


def test_cases_are_every_combination_the_best_worth_first():
    assert len(CASES) == len(set(CASES)) == 8
    assert [c.dtype for c in CASES] == ["bf16"] * 4 + ["fp32"] * 4
    assert [c.model for c in CASES[:2]] == ["swiftnet_mnv2", "swiftnet_rn18"]


def test_cases_of_several_batches():
    several = list(cases([("a", None)], [(96, 64)], ["fp32", "bf16"], ["cpu"], ["user"], ["tuned"], [1, 4]))
    assert [(c.batch, c.dtype) for c in several] == [(1, "bf16"), (1, "fp32"), (4, "bf16"), (4, "fp32")]
    assert [c.title() for c in several[::2]] == [
        "a 96x64 bf16 cpu, user's loop, tuned allocator",
        "a 96x64 bf16 cpu, batch 4, user's loop, tuned allocator",
    ]


def test_each_allocator_has_an_environment_of_its_own(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.mmap_max=7")
    assert environment("tuned")["GLIBC_TUNABLES"] == TUNABLES
    assert "GLIBC_TUNABLES" not in environment("default")
    assert environment("default")["PATH"] == os.environ["PATH"]


def test_a_row_in_a_process_of_its_own(tmp_path):
    path, said = tmp_path / "a.json", []
    report = run(plan(CASES[:1]), path, False, said.append)
    assert json.loads(path.read_text()) == json.loads(json.dumps(report))
    assert {"device", "date", "commit", "torch", "command", "threads", "tunables", "rows", "kernels"} <= set(report)
    (row,) = report["rows"]
    assert row["status"] == "measured" and set(row["sides"]) == {"ours", "eager"}
    assert len(said) == 1 and said[0].startswith(
        "[1/1] swiftnet_mnv2 96x64 bf16 cpu, user's loop, tuned allocator: ours "
    )


def test_a_process_that_fails_or_hangs_is_a_reason(monkeypatch):
    found = in_process({"case": []}, "default", None)
    assert found["reason"].startswith("exit status 1: TypeError")
    monkeypatch.setattr(running, "GRACE", 0.0)
    monkeypatch.setattr(sys, "executable", "/bin/sleep")
    monkeypatch.setattr(running.subprocess, "Popen", lambda command, **options: START(["/bin/sleep", "60"], **options))
    start = time.monotonic()
    assert in_process({}, "default", 0.2) == {"reason": "stopped: it took more time than was left"}
    assert time.monotonic() - start < 5


START = subprocess.Popen


ENDED = """
import subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import engine.test_benchmark_run as tests
from swiftnet_ext.engine.benchmark import run as running

start = subprocess.Popen

def sleeping(command, *arguments, **options):
    if command[0] != sys.executable:  # git
        return start(command, *arguments, **options)
    process = start(["/bin/sleep", "60"], *arguments, **options)
    print(process.pid, flush=True)
    return process

running.subprocess.Popen = sleeping
tests.run(tests.plan(tests.CASES[:1]), Path(sys.argv[2]), False, print)
"""


def test_a_run_that_is_ended_leaves_no_process(tmp_path):
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    command = [sys.executable, "-c", ENDED, tests, str(tmp_path / "a.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        process.terminate()
        assert process.wait(30) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert json.loads((tmp_path / "a.json").read_text())["rows"] == []


def test_an_interrupted_run_keeps_its_rows_and_goes_on(tmp_path, monkeypatch):
    path, ran = tmp_path / "a.json", []

    def until_third(job, *rest):
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append(job)
        return pretended(job)

    monkeypatch.setattr(running, "in_process", until_third)
    with pytest.raises(KeyboardInterrupt):
        run(plan(kernels=[Kernels(96, 64, "bf16")]), path, False, lambda line: None)
    kept = json.loads(path.read_text())
    assert len(kept["rows"]) == 2 and len(kept["kernels"]) == 1

    rest = []
    monkeypatch.setattr(running, "in_process", lambda job, *_: rest.append(job["case"]) or pretended(job))
    report = run(plan(kernels=[Kernels(96, 64, "bf16")]), path, True, lambda line: None)
    assert rest == CASES[2:] and len(report["rows"]) == 8
    assert report["rows"][:2] == kept["rows"] and len(report["kernels"]) == 1


def test_rows_without_time_are_said_and_measured_on_resume(tmp_path, monkeypatch):
    path, said = tmp_path / "a.json", []
    monkeypatch.setattr(running, "in_process", lambda job, *_: pretended(job))
    report = run(plan(seconds=1), path, False, said.append)
    assert {row["status"] for row in report["rows"]} == {"not measured"}
    assert said[0].endswith("not measured, no time left; --resume goes on")
    report["rows"][0] = {
        **pretended({"case": CASES[0]}),
        "missing": {"compile": "NoTime: took more time than was left"},
    }
    running.write(path, report)
    again = run(plan(seconds=1000), path, True, said.append)
    assert not any(row["missing"] for row in again["rows"])
    assert {row["status"] for row in again["rows"]} == {"measured"} and len(again["rows"]) == 8


def test_quick_gives_each_row_a_part_of_the_time_and_compiles_at_the_largest_size(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(running, "in_process", lambda job, _, seconds: given.append((job, seconds)) or pretended(job))
    quick = plan(CASES[:4], seconds=105, quick=True, peers=("eager", "compile"))
    report = run(quick, tmp_path / "a.json", False, lambda line: None)
    assert [seconds for _, seconds in given] == pytest.approx([200 / 14, 200 / 12, 50, 100], rel=0.05)
    assert [list(job["peers"]) for job, _ in given] == [["eager"]] * 2 + [["eager", "compile"]] * 2
    reason = "left out by --quick at this size and batch"
    assert [row["missing"] for row in report["rows"]] == [{"compile": reason}] * 2 + [{}] * 2
    best = figures.points(report["rows"], "best peer")
    assert [point[:2] for point in best] == [(128, 64)] * 2 and len(figures.points(report["rows"], "ours")) == 4


def test_resume_refuses_another_files_rows(tmp_path):
    path = tmp_path / "a.json"
    assert resumed(path, plan())["rows"] == []
    path.write_text("{}")
    with pytest.raises(BenchmarkError, match="a.json: is no file of swiftnet benchmark"):
        resumed(path, plan())
    path.write_text(json.dumps(running.new_file(plan()._replace(threads=7))))
    with pytest.raises(BenchmarkError, match="--resume needs the same threads, expected 1, got 7; name another folder"):
        resumed(path, plan())


def test_measured_rows_are_not_written_over(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    monkeypatch.setattr(running, "in_process", lambda job, *_: pretended(job))
    run(plan(CASES[:1], seconds=1), path, False, lambda line: None)  # none was measured
    run(plan(CASES[:1]), path, False, lambda line: None)
    before = path.read_bytes()
    with pytest.raises(BenchmarkError, match="a.json: holds measured rows; go on with --resume, or name another"):
        run(plan(CASES[:2]), path, False, lambda line: None)
    assert path.read_bytes() == before
    path.write_text('{"machine_info": {}}')
    with pytest.raises(BenchmarkError, match="is no file of swiftnet benchmark"):
        run(plan(CASES[:2]), path, False, lambda line: None)


def test_rows_with_other_peers_are_measured_again(tmp_path, monkeypatch):
    path, rest = tmp_path / "a.json", []
    monkeypatch.setattr(running, "in_process", lambda job, *_: rest.append(job["case"]) or pretended(job))
    report = run(plan(CASES[:4]), path, False, lambda line: None)
    report["date"] = "2026-01-01"
    report["rows"][0]["missing"] = {"openvino": "is not installed"}
    report["rows"][1]["sides"]["openvino"] = side(3.0, 0.5)
    report["rows"][2]["missing"] = {"openvino": "left out by --quick at this size and batch"}
    running.write(path, report)
    rest.clear()
    wanted = plan(CASES[:3], peers=("eager", "openvino"))._replace(command="swiftnet benchmark --resume")
    again = run(wanted, path, True, lambda line: None)
    assert rest == [CASES[2]] and [case_of(row) for row in again["rows"]] == [*CASES[:2], CASES[3], CASES[2]]
    assert again["command"] == "swiftnet benchmark; swiftnet benchmark --resume"
    dates = again["date"].split(", ")
    assert dates[0] == "2026-01-01" and len(dates) == 2
    assert (resumed(path, wanted)["command"], resumed(path, wanted)["date"]) == (again["command"], again["date"])


def test_rows_that_name_no_batch_are_of_single_images(tmp_path, monkeypatch):
    path, rest = tmp_path / "a.json", []
    monkeypatch.setattr(running, "in_process", lambda job, *_: rest.append(job["case"]) or pretended(job))
    report = run(plan(CASES[:2]), path, False, lambda line: None)
    for row in report["rows"]:
        del row["batch"]
    running.write(path, report)
    rest.clear()
    wanted = [*CASES[:2], CASES[0]._replace(batch=4)]
    again = run(plan(wanted), path, True, lambda line: None)
    assert rest == wanted[2:] and [row["batch"] for row in again["rows"]] == [1, 1, 4]


def test_quick_compiles_the_largest_batch_alone():
    several = [CASES[0], CASES[0]._replace(batch=4)]
    quick = plan(several, quick=True, peers=("eager", "compile"))
    assert [quick.peers_of(case) for case in several] == [["eager"], ["eager", "compile"]]


@pytest.fixture
def report():
    networks = [("swiftnet_mnv2", None), ("swiftnet_pyr_mnv2", None), ("swiftnet_rn18", None)]
    wanted = cases(networks, [(96, 64), (192, 128)], ["fp32", "bf16"], ["cpu"], ["user", "paper"], ["tuned", "default"])
    rows = [pretended({"case": case}) for case in wanted]
    return {"device": "cpu-x", "date": "2026-01-01", "rows": rows, "kernels": []}


def test_charts_are_written_and_equal_for_equal_figures(report, tmp_path):
    files = draw(report, tmp_path)
    assert [f.name for f in files] == [f"benchmark_{n}.png" for n in ("resolution", "precision", "pyramid", "peers")]
    first = [f.read_bytes() for f in files]
    with Image.open(files[0]) as image:
        assert image.format == "PNG" and image.width > 600
    assert [f.read_bytes() for f in draw(report, tmp_path)] == first
    assert not list(tmp_path.glob("*.tmp"))


def test_charts_are_of_what_there_is(report, tmp_path):
    report["rows"] = [r for r in report["rows"] if (r["dtype"], r["model"]) == ("fp32", "swiftnet_rn18")]
    assert [f.name for f in draw(report, tmp_path)] == ["benchmark_resolution.png", "benchmark_peers.png"]
    report["rows"] = []
    assert draw(report, tmp_path) == []


def test_batches_have_a_chart_of_their_own(report, tmp_path):
    kinds = [f.name for f in draw(report, tmp_path)]
    others = [f.read_bytes() for f in sorted(tmp_path.iterdir())]
    singles = list(report["rows"])
    for batch in (2, 8):
        report["rows"] += [pretended({"case": case_of(row)._replace(batch=batch)}) for row in singles]
    assert [f.name for f in draw(report, tmp_path)] == [*kinds, "benchmark_batch.png"]
    with Image.open(tmp_path / "benchmark_batch.png") as image:
        assert image.format == "PNG" and image.width > 1000
    (tmp_path / "benchmark_batch.png").unlink()
    assert [f.read_bytes() for f in sorted(tmp_path.iterdir())] == others  # of batch 1 as before
    report["rows"] = [row for row in report["rows"] if row["batch"] == 8]
    assert [f.name for f in draw(report, tmp_path)] == kinds
    report["rows"] = [{**row, "batch": batch} for row in singles[:1] for batch in (1, 2)]
    for row in report["rows"]:
        row["sides"]["ours"]["memory_mb"] = None  # the system does not tell
    assert "benchmark_batch.png" in [f.name for f in draw(report, tmp_path)]


def test_lines_over_the_batch_are_of_each_resolution(report):
    rows = [r for r in report["rows"] if (r["model"], r["dtype"], r["loop"]) == ("swiftnet_rn18", "bf16", "user")]
    rows = [{**r, "batch": batch} for batch in (8, 1) for r in rows if r["allocator"] == "tuned"]
    lines = figures._over_batch(rows)
    assert [(name, style, series) for name, style, series, _ in lines] == [("96×64", "-", 0), ("192×128", "-", 1)]
    assert [[point[0] for point in points] for *_, points in lines] == [[1, 8], [1, 8]]
    assert figures._over_batch(rows[:2]) == []


class TestCommand:
    @pytest.fixture
    def command(self, swiftnet, monkeypatch):
        """Runs the command with pretended rows."""
        monkeypatch.setattr(running, "in_process", pretended)
        return partial(swiftnet, "benchmark")

    @pytest.mark.parametrize("half", ["bf16", "fp32"])
    def test_quick(self, command, tmp_path, monkeypatch, half):
        monkeypatch.setattr(plans, "has_bf16_convolutions", lambda: half == "bf16")
        status, said, errors = command("--quick", "--device", "cpu")
        assert (status, errors) == (0, "")
        report = json.loads((tmp_path / "swiftnet_out" / "benchmark.json").read_text())
        assert len(report["rows"]) == 4 and report["effort"] == list(QUICK)
        assert report["command"].endswith("--quick --device cpu")
        assert {(r["dtype"], r["loop"], r["allocator"]) for r in report["rows"]} == {(half, "user", "tuned")}
        assert {r["weights"] for r in report["rows"]} == {"camvid_mnv2", None}
        assert (tmp_path / "swiftnet_out" / "benchmark_resolution.png").is_file()
        assert "ours 2.00 times as fast as eager" in said and "4 of 4 rows" in said
        assert f"kernels 1024x512 {half}: labels 2.00 times their floor (a copy of 10.0 GB/s)" in said

    def test_everything_can_be_chosen(self, command, tmp_path):
        weights = tmp_path / "a.safetensors"
        sx.save_checkpoint(sx.build_model("swiftnet_pyr_rn18", num_classes=5), weights)
        options = ["--size", "96x64", "--dtype", "fp32", "--loop", "paper", "--allocator", "default", "--threads", 1]
        status, _, errors = command(
            "--weights", weights, "--model", "swiftnet_rn34", "--out", "b", "--device", "cpu", *options
        )
        assert (status, errors) == (0, "")
        rows = json.loads((tmp_path / "b" / "benchmark.json").read_text())["rows"]
        assert [(r["model"], r["weights"]) for r in rows] == [
            ("swiftnet_rn34", None),
            ("swiftnet_pyr_rn18", str(weights)),
        ]
        assert {(r["width"], r["height"], r["dtype"], r["loop"], r["allocator"]) for r in rows} == {
            (96, 64, "fp32", "paper", "default")
        }

    def test_batches(self, command, tmp_path):
        status, said, errors = command("--quick", "--device", "cpu", "--size", "96x64", "--batch", 1, "--batch", 4)
        assert (status, errors) == (0, "") and "cpu, batch 4, user's loop" in said
        rows = json.loads((tmp_path / "swiftnet_out" / "benchmark.json").read_text())["rows"]
        assert [r["batch"] for r in rows] == [1, 1, 4, 4]
        assert (tmp_path / "swiftnet_out" / "benchmark_batch.png").is_file()

    def test_a_wrong_row_is_the_exit_status(self, command, monkeypatch):
        wrong = lambda job, *_: {**pretended(job), **({} if "kernels" in job else {"status": "failed"})}  # noqa: E731
        monkeypatch.setattr(running, "in_process", wrong)
        assert command("--quick", "--device", "cpu")[0] == 1

    def test_an_interrupt_says_where_the_rows_are(self, command, monkeypatch):
        def interrupted(job, *_):
            raise KeyboardInterrupt

        monkeypatch.setattr(running, "in_process", interrupted)
        status, _, errors = command("--quick", "--device", "cpu")
        assert status == 130 and "finished rows are in swiftnet_out/benchmark.json, --resume goes on" in errors

    def test_without_matplotlib_there_are_no_charts(self, command, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        monkeypatch.delitem(sys.modules, "swiftnet_ext.engine.charts", raising=False)
        status, _, errors = command("--quick", "--device", "cpu")
        assert status == 0 and "no charts: matplotlib" in errors
        assert not list((tmp_path / "swiftnet_out").glob("*.png"))

    @pytest.mark.parametrize(
        "arguments, sentence",
        [
            (["--model", "swiftnet_rn50"], "--model swiftnet_rn50: expected one of swiftnet_rn18, "),
            (["--size", "2048"], "--size 2048: expected WIDTHxHEIGHT in pixels, e.g. 2048x1024"),
            (["--size", "0x512"], "--size 0x512: expected WIDTHxHEIGHT"),
            (["--batch", "0"], "--batch: expected a positive integer, got '0'; pass e.g. 4, or leave it out for 1"),
            (["--batch", "two"], "--batch: expected a positive integer, got 'two'; pass e.g. 4"),
            (["--dtype", "int8"], "--dtype int8: expected one of fp32, bf16, fp16"),
            (["--dtype", "fp16", "--device", "cpu"], "--dtype fp16: is measured on CUDA alone, got cpu; choose bf16"),
            (["--device", "tpu"], "--device tpu: "),
            (["--device", "meta"], "--device meta: expected cpu, cuda or cuda:N"),
            (["--loop", "mine"], "--loop mine: expected one of user, paper"),
            (["--peer", "tensorrt"], "--peer tensorrt: expected one of eager, compile, onnxruntime, openvino"),
            (["--allocator", "jemalloc"], "--allocator jemalloc: expected one of tuned, default, both"),
            (["--weights", "none.pt"], "none.pt: no such file"),
            (["--images", "none"], "none: "),
        ],
    )
    def test_user_errors(self, command, arguments, sentence, tmp_path):
        if sentence == "none: ":
            (tmp_path / "none").mkdir()
        status, said, errors = command(*arguments)
        assert status == 2 and sentence in errors and said == ""
        assert not (tmp_path / "swiftnet_out").exists()

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_no_gpu(self, command):
        status, _, errors = command("--device", "cuda")
        assert status == 2 and errors.startswith("swiftnet: --device cuda: ")
