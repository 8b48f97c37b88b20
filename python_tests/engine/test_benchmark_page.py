"""docs/benchmarks.md says what the result files say."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import benchmarks_page as page

SIDE = {"q1_ms": 9.0, "q3_ms": 11.0, "fps": 100.0, "samples": 3, "page_faults": 7, "memory_mb": 12.3}


def side(ms, ratio):
    return {**SIDE, "ms": ms, "what": "x", "equal_to_fp32": 0.99995, "equal_to_ours": 1.0, "ratio": ratio}


def row(**changed):
    case = {"model": "swiftnet_rn18", "weights": None, "width": 1024, "height": 512, "dtype": "bf16", "device": "cpu"}
    sides = {"ours": side(10.0, 2.0), "eager": side(30.0, 0.67), "compile": side(20.0, 1.0)}
    found = {"status": "measured", "best_peer": "compile", "ratio": 2.0, "sides": sides}
    missing = {"openvino": "not installed"}
    return {**case, "loop": "user", "allocator": "tuned", **found, "missing": missing, **changed}


@pytest.fixture
def results(tmp_path):
    head = {"device": "cpu-x", "date": "2026-01-02", "commit": "0123456789abc", "torch": "2.13.0", "threads": 2}
    kernel = {"kernel": "labels", "width": 1024, "height": 512, "dtype": "bf16", "ms": 1.5, "bytes": 2e6}
    kernel.update(floor_ms=1.0, of_floor=1.5, copy_ms=0.9, status="measured")
    rows = [
        row(),
        row(batch=4),
        row(loop="paper", best_peer=None, ratio=None),
        row(status="not measured", sides={}, ratio=None),
    ]
    report = {**head, "command": "swiftnet benchmark", "rows": rows, "kernels": [kernel]}
    folder = tmp_path / "cpu-x"
    folder.mkdir()
    (folder / "benchmark.json").write_text(json.dumps(report))
    return tmp_path


def test_every_figure_is_the_files(results):
    lines = page.tables(results).splitlines()
    assert "cpu-x, 2026-01-02, commit 012345678, PyTorch 2.13.0, 2 threads: `swiftnet benchmark`" in lines
    networks = [line for line in lines if line.startswith("| rn18")]
    assert networks == [
        "| rn18, random weights | 1024×512 | bf16 | 10 (9 to 11) | 30 | **20** | - | - | 2.00 | 99.995 | 7 | 12 |",
        "| rn18, random weights | 1024×512, batch 4 | bf16 | 10 (9 to 11) | 30 | **20** | - | - | 2.00 | 99.995 | 7 | 12 |",
        "| rn18, random weights | 1024×512 | bf16 | 10 (9 to 11) | 30 | 20 | - | - | - | 99.995 | 7 | 12 |",
    ]
    assert "Left out: openvino: not installed." in lines
    assert "| labels | 1024×512 | bf16 | 2 | 2 | 1.5 | 1 | 1.5 |" in lines  # 2 MB, by a copy of 2 GB/s


def test_pytest_benchmarks_file_is_condensed(tmp_path):
    def benchmark(name, median, ratio):
        stats = {"median": median, "iqr": 0.001, "rounds": 5, "data": [1.0] * 100}
        return {"name": name, "group": "rn18 bf16", "stats": stats, "extra_info": {"times_as_fast_as_eager": ratio}}

    made = [benchmark("bench_network[eager-rn18]", 0.03, 1.0), benchmark("bench_network[ours-rn18]", 0.01, 3.0)]
    file = tmp_path / "raw.json"
    file.write_text(json.dumps({"benchmarks": made}))
    path = page.take(file, tmp_path / "results")
    taken = json.loads(path.read_text())
    assert taken["device"] == path.parent.name and taken["torch"] and "data" not in str(taken["rows"])
    lines = page.tables(tmp_path / "results").splitlines()
    assert "| rn18 bf16 | eager | 30 | 1 | 1.00 |" in lines and "| rn18 bf16 | ours | 10 | 1 | 3.00 |" in lines


def test_without_results_the_page_says_so(tmp_path):
    assert page.tables(tmp_path) == page.NOTHING


def test_check_fails_where_the_page_differs(results, tmp_path, monkeypatch):
    path = tmp_path / "benchmarks.md"
    path.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    for name, value in (("PAGE", path), ("RESULTS", results), ("CHARTS", tmp_path / "charts")):
        monkeypatch.setattr(page, name, value)
    monkeypatch.setattr(sys, "argv", ["benchmarks_page.py", "--check"])
    with pytest.raises(SystemExit, match="differs from the results; run python benchmarks/benchmarks_page.py"):
        page.main()
    monkeypatch.setattr(sys, "argv", ["benchmarks_page.py"])
    page.main()
    monkeypatch.setattr(sys, "argv", ["benchmarks_page.py", "--check"])
    page.main()
    text = path.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "**20**" in text
    assert (tmp_path / "charts" / "cpu-x_resolution.png").is_file()


def test_a_page_without_a_place_is_refused():
    with pytest.raises(SystemExit, match="has no lines"):
        page.rewritten("nothing", "tables")


def test_the_committed_page_is_what_the_committed_results_say():
    text = page.PAGE.read_text()
    assert page.rewritten(text, page.tables(page.RESULTS)) == text
