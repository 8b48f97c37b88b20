"""That `make prove` would notice: faults that stay where they are, tests that did not run."""

import json

import pytest

from . import __main__ as prove
from . import coverage
from .builds import ROOT, Failure, all_pass
from .mutants import MUTANTS, Mutant, numeric
from .mutation import kill, mutate


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.fault)
def test_every_fault_still_fits_its_kernel(mutant):
    text = (ROOT / "csrc" / "kernels" / mutant.file).read_text()
    assert mutate(mutant, text) != text


def test_faults_have_names_of_their_own():
    assert len({m.fault for m in MUTANTS}) == len(MUTANTS) >= 25
    assert {m.check for m in MUTANTS} == {"none", "race", "sanitize"}


def test_a_fault_that_changes_nothing_survives(tmp_path):
    harmless = Mutant("nothing", "conv3x3_winograd.cuh", "  float sums[8][8];", "  float sums[8 + 0][8];",
                      numeric("conv3x3", "winograd"))  # fmt: skip
    with pytest.raises(Failure, match="mutant 'nothing' survived"):
        kill(harmless, tmp_path / "mutant")


def test_a_fault_that_does_not_compile_is_no_kill(tmp_path):
    broken = Mutant(
        "broken", "conv3x3_winograd.cuh", "  float sums[8][8];", "  float sums[;", numeric("conv3x3", "winograd")
    )
    with pytest.raises(Failure, match="'broken' does not compile"):
        kill(broken, tmp_path / "mutant")
    with pytest.raises(Failure, match="its text occurs 0 times"):
        mutate(broken, "another text")


@pytest.mark.parametrize(
    "code, counts",
    [
        ("def test_a(): assert False", "0 passed, 1 failed, 0 skipped"),
        ("import pytest\ndef test_a(): pass\ndef test_b(): pytest.skip()", "1 passed, 0 failed, 1 skipped"),
        ("", "0 passed, 0 failed, 0 skipped"),
        ("import os; os._exit(0)", "0 passed, 0 failed, 0 skipped"),
        (
            "import atexit\natexit.register(print, 'gemm.h:9: runtime error: load of')\ndef test_a(): pass",
            "1 passed, 0 failed, 0 skipped(.*\n)*.*gemm.h:9: runtime error",
        ),
    ],
)
def test_a_step_needs_tests_that_ran_and_passed(code, counts, tmp_path):
    file = tmp_path / "test_it.py"
    file.write_text(code)
    with pytest.raises(Failure, match=counts):
        all_pass("none", [str(file)], 1, tmp_path / "report.xml")


def test_coverage_needs_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(coverage, "folder", lambda check: tmp_path)
    with pytest.raises(Failure, match="wrote no counts"):
        coverage.measure()


def test_device_functions_are_found(tmp_path):
    source = tmp_path / "a.cuh"
    source.write_text(
        "// a __device__ comment\n"
        "template <class T>\n__device__ T declared(float);\n"
        "template <class T>\n__device__ inline T defined(T v) {\n  return v;\n}\n"
        "__global__ void kernel() {}\n"
        "#define __device__\n"
        "#ifdef SWIFTNET_EMULATED\n__device__ int twin() {\n#else\n#if A\n__device__ int real() {\n#endif\n#endif\n"
        "__device__ int last() {\n"
    )
    assert coverage._device_functions(source) == {5, 8, 11, 17}


def test_a_step_is_recorded_beside_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(prove, "RECORD", tmp_path / "emulated" / "prove.json")
    monkeypatch.setattr(prove, "git", lambda *arguments: "" if arguments[0] == "status" else "abc")
    for name, result in (("race", "1 test"), ("numeric", "2 tests"), ("race", "3 tests")):
        prove.record({"step": name, "status": "proven", "result": result, "seconds": 1})
    steps = json.loads(prove.RECORD.read_text())["steps"]
    assert [(step["step"], step["result"], step["commit"]) for step in steps] == [
        ("numeric", "2 tests", "abc"),
        ("race", "3 tests", "abc"),
    ]
    before = prove.RECORD.read_text()
    monkeypatch.setattr(prove, "git", lambda *arguments: " M csrc/tensor.h")
    with pytest.raises(SystemExit, match="commit first"):
        prove.record({"step": "race", "status": "proven", "result": "4 tests", "seconds": 1})
    assert prove.RECORD.read_text() == before
