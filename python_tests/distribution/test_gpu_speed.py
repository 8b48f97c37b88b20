"""gpu_speed.py with a stand-in for the GPU: what it writes, and that it says what could not be measured or is wrong."""

import csv
import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import gpu_cases, gpu_speed, readme
from benchmarks.simt import eager
from swiftnet_ext import ops

STAND_IN = Path(__file__).with_name("gpu_stand_in.py")
BLEND = "blend stride 4 128x64 batch 1 float16"


@pytest.fixture
def bench(tmp_path, monkeypatch):
    # what a run changes for its process
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    for name in ("conv3x3", "upsample_blend", "multiscale_mean"):
        monkeypatch.setattr(ops, name, getattr(ops, name))

    def run(rows, *more, device="StandIn"):
        out = tmp_path / "out"
        arguments = ["--quick", "--out", out, "--rows", rows, "--device", f"{STAND_IN}:{device}", *more]
        status = gpu_speed.main([str(a) for a in arguments])
        return status, json.loads((out / "gpu_speed.json").read_text())

    return run


def test_every_row_is_measured_and_written_down(bench, tmp_path):
    rn18, conv = "^swiftnet_rn18 64x32 batch (8 float16|1 bf)", "^conv3x3 .* (bf|fl.* nchw)"
    status, report = bench(f"128x64 batch 1 float16|{rn18}|{conv}")
    assert status == 0
    # 4 networks and 9 operators in fp16, a network in bf16 and in a batch of 8, two operators in bf16 and NCHW
    assert len(report["rows"]) == 13 + 2 + 4
    assert report["device"]["stand_in"] is True and report["peaks"]["copy_gbps"] == 500
    assert {"date", "commit", "command", "python"} <= report.keys()
    for row in report["rows"]:
        title = gpu_cases.title(row)
        assert row["status"] == "passed" and row["not_measured"] == "", title
        for side in gpu_speed.PEERS + gpu_speed.OURS:
            peer = side in gpu_speed.PEERS
            assert row[f"{side}_kernel_ms"] == (0.02 if peer else 0.001), title
            assert row[f"{side}_wall_ms"] == (0.03 if peer else 0.011), title
        assert (row["ours"], row["peer"], row["speedup"]) == ("kernels", "eager", 20), title
        network = row["name"] in gpu_cases.NETWORKS
        if network or row["name"] == "multiscale labels":
            assert 0.7 < row["equal"] <= 1 and 0.7 < row["eager_equal"] <= 1 and "error" not in row, title
        else:
            assert 0 < row["error"] < 5e-3 and row["eager_error"] < 5e-3 and "equal" not in row, title
        assert ("of_copy" in row) == (not network), title
        assert ("of_matrix" in row) == (not network and "multiscale" not in row["name"]), title
        assert ("conv3x3: tensor cores take bfloat16 from compute capability 8.0" in row["fallbacks"]) == (
            row["dtype"] == "bfloat16" and "pyr" not in row["name"]
        ), title
    with open(tmp_path / "out" / "gpu_speed.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == gpu_speed.COLUMNS
    assert [gpu_cases.title(line) for line in lines] == [gpu_cases.title(row) for row in report["rows"]]
    assert all(line["speedup"] == "20.0" for line in lines)
    assert (tmp_path / "out" / "gpu_speed.png").read_bytes().startswith(b"\x89PNG")


def test_fp32_networks_have_the_labels_of_eager(bench):
    status, report = bench("swiftnet.* 64x32 batch 1 float32 nchw")
    assert status == 0 and [row["equal"] for row in report["rows"]] == [1.0] * 4


def test_the_important_rows_come_first():
    cases = gpu_cases.cases(1)
    assert len(cases) == len(set(map(str, cases))) == 4 * (4 * 4 + 9)
    assert str(cases[0]) == "swiftnet_rn18 2048x1024 batch 1 float16 nhwc"
    first = [(case.width, case.batch, case.dtype, case.layout) for case in cases[: 4 + 9]]
    assert set(first) == {(2048, 1, torch.float16, "nhwc")}
    second = [(case.width, case.batch, case.dtype, case.layout) for case in cases[13 : 13 + 13 + 4]]
    assert set(second) == {(2048, 1, torch.float32, "nhwc"), (1024, 1, torch.float16, "nhwc")}
    assert (cases[-1].width, cases[-1].batch, cases[-1].layout) == (1024, 8, "nchw")


def test_rows_are_written_in_that_order_whatever_was_measured_first(bench):
    bench("blend stride 8 128x64 batch 1 float32")
    _, report = bench("blend stride 8 128x64 batch 1", "--resume")
    dtypes = [(row["dtype"], row["layout"]) for row in report["rows"]]
    assert dtypes == [(str(dtype)[6:], layout) for dtype, layout in gpu_cases.FORMATS]


# GB and GMAC by hand; fp16, 2048×1024: stride 4 has 131,072 pixels, 8 has 32,768, 32 has 2,048
@pytest.mark.parametrize(
    "name, megabytes, gmac",
    [
        ("conv3x3 128→128", 67.404, 19.327),  # 131072 · 256 + 147456 values
        ("conv3x3 64→64", 33.628, 4.832),
        ("blend stride 4", 59.048, 20.401),  # 131072 · (64 + 32 + 128) + 8192 + 147456
        ("blend stride 8", 19.202, 5.369),
        ("blend stride 16", 7.176, 1.476),
        ("conv3x3_head", 38.835, 19.646),
        ("spatial_pyramid_pool", 1.146, 0.0675),
        ("multiscale mean", 107.712, 0),  # 19 · (131072 · 5.625 + 2097152)
        ("multiscale labels", 30.114, 0),
    ],
)
def test_bytes_and_products(name, megabytes, gmac):
    cost = gpu_cases.Case(name, 2048, 1024, 1, torch.float16, "nhwc").cost()
    assert (cost.bytes / 1e6, cost.products / 1e9) == pytest.approx((megabytes, gmac), rel=1e-3)


def test_rates_are_shares_of_what_was_measured(bench):
    _, report = bench(f"{BLEND}|conv3x3 64.* float32 nhwc")
    for row in report["rows"]:
        matrix = report["peaks"][f"{row['dtype']}_tflops"]
        assert row["of_copy"] == pytest.approx(row["gbps"] / 500, rel=1e-3)
        assert row["of_matrix"] == pytest.approx(row["tflops"] / matrix, rel=1e-3)
    # 64·64·9 products of 16·32 pixels in a microsecond
    assert report["rows"][1]["tflops"] == pytest.approx(2 * 9 * 64**2 * 16 * 32 / 1e6, rel=1e-3)


@pytest.mark.parametrize(
    "device, left, reason",
    [
        (
            "NoCompiler",
            ("eager", "eager_graph", "kernels", "kernels_graph"),
            "compile: RuntimeError: no working C compiler",
        ),
        ("NoCapture", ("eager", "compile", "kernels"), "kernels_graph: RuntimeError: operation not permitted"),
        ("FailsWhenTimed", ("kernels", "kernels_graph"), "compile: OutOfMemoryError: CUDA out of memory"),
    ],
)
def test_a_side_that_fails_is_recorded(bench, device, left, reason):
    status, report = bench(BLEND, device=device)
    (row,) = report["rows"]
    assert status == 0 and row["status"] == "passed"
    assert tuple(side for side in gpu_speed.PEERS + gpu_speed.OURS if f"{side}_kernel_ms" in row) == left
    assert reason in row["not_measured"]
    assert ("speedup" in row) == (device != "FailsWhenTimed")


def test_what_is_not_a_number_is_wrong_and_leaves_the_file_valid(bench, monkeypatch):
    right = ops.conv3x3
    monkeypatch.setattr(ops, "conv3x3", lambda *args, **kwargs: right(*args, **kwargs) * float("nan"))
    status, report = bench("conv3x3 64.* float16")
    assert status == 1 and "kernels: wrong result: differs by nan" in report["rows"][0]["not_measured"]
    assert "NaN" not in json.dumps(report)


@pytest.mark.parametrize("rows, column", [(BLEND, "error"), ("swiftnet_rn18 64x32 batch 1 float32 nhwc", "equal")])
def test_a_wrong_result_of_ours_fails(bench, rows, column):
    status, report = bench(rows, device="WrongKernels")
    (row,) = report["rows"]
    assert status == 1 and row["status"] == "failed"
    assert "kernels: wrong result: differs by" in row["not_measured"] and "eager" not in row["not_measured"]
    assert row[column] > 0.1 if column == "error" else row[column] < 0.5
    assert "ours" not in row and row["peer"] == "eager"


def test_a_graph_that_does_not_run_again_is_wrong(bench):
    status, report = bench(BLEND, device="StaleGraph")
    (row,) = report["rows"]
    assert status == 1 and row["status"] == "failed" and "kernels_graph: wrong result" in row["not_measured"]
    assert row["ours"] == "kernels"


def test_without_a_reference_result_a_row_is_not_measured(bench, monkeypatch):
    def build(case, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu_cases.Case, "build", build)
    status, report = bench(BLEND)
    assert status == 0 and report["rows"][0]["status"] == "not measured"
    assert report["rows"][0]["reason"] == "OutOfMemoryError: CUDA out of memory"


def test_with_no_time_it_writes_a_valid_file(bench, tmp_path, capsys):
    status, report = bench(" float16", "--limit", "0")
    assert status == 0 and report["rows"] == [] and report["peaks"]["float16_tflops"] == 80
    assert (tmp_path / "out" / "gpu_speed.csv").read_text() == ",".join(gpu_speed.COLUMNS) + "\n"
    said = capsys.readouterr().out
    assert "25 rows not started: the limit of 0 s was reached" in said and "no chart: no row has both sides" in said


def test_a_stopped_run_keeps_its_rows_and_goes_on(bench, monkeypatch):
    bench("conv3x3 64.* float16")
    measured = []
    measure = gpu_speed.measure

    def second_is_stopped(device, case, *more):
        if measured:
            raise KeyboardInterrupt
        measured.append(str(case))
        return measure(device, case, *more)

    monkeypatch.setattr(gpu_speed, "measure", second_is_stopped)
    with pytest.raises(KeyboardInterrupt):
        bench("conv3x3 64", "--resume")
    assert measured == ["conv3x3 64→64 128x64 batch 1 float32 nhwc"]  # fp16 is there already
    _, report = bench("conv3x3 64", "--resume", "--limit", "0")
    assert [row["dtype"] for row in report["rows"]] == ["float16", "float32"]
    assert report["command"].count("gpu_speed.py") == 3


def test_it_does_not_go_on_from_another_commits_file(bench, monkeypatch, capsys):
    bench(BLEND, "--limit", "0")
    monkeypatch.setattr(gpu_speed, "commit", lambda: "another")
    with pytest.raises(SystemExit):
        bench(BLEND, "--resume")
    assert "--resume: expected a run like ['another'" in capsys.readouterr().err


def test_a_stand_ins_rows_are_no_result(capsys):
    with pytest.raises(SystemExit):
        gpu_speed.main(["--device", f"{STAND_IN}:StandIn"])
    assert "a stand-in's report is no result" in capsys.readouterr().err


def test_without_kernels_it_says_so(tmp_path, monkeypatch, capsys):
    from swiftnet_ext import _native

    monkeypatch.setitem(_native._loaded, "emulated", (None, "no emulated build"))
    assert gpu_speed.main(["--device", f"{STAND_IN}:StandIn", "--out", str(tmp_path / "out")]) == 1
    assert "no benchmark: " in capsys.readouterr().out and not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", [case for case in gpu_cases.cases(16)[: 4 + 9] if "mnv2" not in case.name], ids=str)
def test_the_peers_compile_in_one_graph(case):
    """By the front end of torch.compile alone: its code generation is what the GPU's run shows."""
    _, plain = case.build("cpu")
    torch._dynamo.reset()
    with eager():
        assert torch.equal(torch.compile(plain, backend="eager", fullgraph=True, dynamic=False)(), plain())


def sample(rows):
    device = {"name": "NVIDIA Sample"}
    return json.dumps({"date": "2026-01-02", "device": device, "peers": ["eager", "compile"], "rows": rows})


def test_readmes_table_of_speeds(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    assert readme.speeds() == "No GPU has run this version yet; `python benchmarks/gpu_speed.py` makes this table."
    row = dict(name="swiftnet_rn18", size="2048x1024", batch=1, dtype="float16", layout="nhwc", status="passed")
    row.update(ours="kernels_graph", ours_ms=2.0, peer="eager", peer_ms=3.0, speedup=1.5, eager_kernel_ms=3.0)
    rows = [row, dict(row, batch=8), dict(row, dtype="float32"), dict(row, layout="nchw")]
    rows += [dict(row, name="conv3x3", status="failed", compile_kernel_ms=3.5)]
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "gpu_speed.json").write_text(sample(rows))
    gpu = "[NVIDIA Sample, 2026-01-02](benchmarks/results/sample/gpu_speed.csv)"
    assert readme.speeds().splitlines()[2:] == [
        f"| {gpu} | swiftnet_rn18 | 2048x1024 | 2 | 3, eager (without compile) | 1.50 |",
        f"| {gpu} | conv3x3 | 2048x1024 | 2 | 3, eager | failed |",
    ]


def test_readme_says_what_a_record_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    checks = {"numeric": "none", "race": "race", "cpu_bounds": "cpu_sanitize", "huge": "none"}
    monkeypatch.setattr(readme, "STEPS", {name: (check, None) for name, check in checks.items()})
    assert readme.records() == []
    (tmp_path / "emulated").mkdir()
    first, second = {"date": "2026-01-02", "commit": 40 * "a"}, {"date": "2026-01-03", "commit": 40 * "b"}
    steps = [{"step": "numeric", **first}, {"step": "race", **second}, {"step": "huge", **first}]
    (tmp_path / "emulated" / "prove.json").write_text(json.dumps({"steps": steps}))
    assert readme.records()[1] == (
        "Records: `make prove`: 2026-01-02, commit aaaaaaaaa, but `race`: 2026-01-03, commit bbbbbbbbb, without `cpu_bounds`."
    )
    assert readme.emulated() == "emulated 2026-01-02"
    (tmp_path / "emulated" / "prove.json").write_text(json.dumps({"steps": steps[1:]}))
    assert readme.emulated() == ""


def test_readme_is_checked(tmp_path, monkeypatch):
    page = tmp_path / "README.md"
    page.write_text(f"a\n{readme.BEGIN}\n{readme.END}\nb\n{readme.BEGIN_SPEEDS}\nold\n{readme.END}\nc\n")
    monkeypatch.setattr(readme, "README", page)
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["readme.py", "--check"])
    with pytest.raises(SystemExit, match="differs from the results"):
        readme.main()
    monkeypatch.setattr(sys, "argv", ["readme.py"])
    readme.main()
    assert page.read_text().endswith(f"\nb\n{readme.BEGIN_SPEEDS}\n{readme.NO_SPEEDS}\n{readme.END}\nc\n")
    monkeypatch.setattr(sys, "argv", ["readme.py", "--check"])
    with pytest.raises(SystemExit) as ended:
        readme.main()
    assert not ended.value.code
    page.write_text("nothing to write between\n")
    with pytest.raises(SystemExit, match="has no lines"):
        readme.main()
