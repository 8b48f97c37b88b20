"""The emulated builds and the CPU kernels' own, and running tests in them."""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Dict, List, NamedTuple

ROOT = Path(__file__).parents[2]
PRESETS = {
    "none": "emulation",
    "race": "emulation-race",
    "sanitize": "emulation-sanitize",
    "coverage": "emulation-coverage",
    "cpu_sanitize": "cpu-sanitize",
}
REPORT = re.compile(r"^.*(ERROR: AddressSanitizer|: runtime error): .*(\n.*){0,15}", re.MULTILINE)


class Failure(Exception):
    """A step fell short; the message says of what."""


def folder(check: str) -> Path:
    return ROOT / "build" / PRESETS[check]


def with_tools() -> Dict[str, str]:
    """The environment with this Python's own cmake and ninja first."""
    return dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def run(command: List[str], **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs
    )


def build(check: str) -> None:
    environment = with_tools()
    configure = ["cmake", "--preset", PRESETS[check], f"-DPython_EXECUTABLE={sys.executable}"]
    for command in (configure, ["cmake", "--build", folder(check)]):
        done = run(command, cwd=ROOT, env=environment)
        if done.returncode:
            raise Failure(f"{' '.join(map(str, command))} failed:\n{done.stdout[-3000:]}")
    if check == "cpu_sanitize":  # the package with this module
        package = folder(check) / "swiftnet_ext"
        shutil.rmtree(package, ignore_errors=True)
        shutil.copytree(ROOT / "swiftnet_ext", package, ignore=shutil.ignore_patterns("_C*", "__pycache__"))
        (module,) = folder(check).glob("_C.*.so")
        shutil.copy(module, package)


def library(name: str) -> str:
    return run(["g++", f"-print-file-name={name}"]).stdout.strip()


def environment_for(check: str, module_folder: Path) -> Dict[str, str]:
    """What Python needs to load the emulated module in this folder, or the package with the CPU kernels."""
    environment = dict(os.environ, SWIFTNET_EXT_EMULATION=str(module_folder), OMP_NUM_THREADS="1")
    if check in ("sanitize", "cpu_sanitize"):
        # libstdc++ too, for AddressSanitizer to find the exceptions' functions before anything else is loaded
        environment["LD_PRELOAD"] = f"{library('libasan.so')} {library('libstdc++.so')}"
        environment["ASAN_OPTIONS"] = "detect_leaks=0"  # Python leaks by design
    if check == "sanitize":  # reports become exceptions, each of them
        environment["ASAN_OPTIONS"] += ":halt_on_error=0:suppress_equal_pcs=0:abort_on_error=1"
    if check == "cpu_sanitize":  # a report ends the process, and with it the test
        environment.update(PYTHONPATH=str(module_folder), UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1")
    return environment


class Tests(NamedTuple):
    passed: int
    failed: int
    skipped: int
    status: int  # pytest's: 1 where tests failed
    output: str


def pytest(check: str, arguments: List[str], jobs: int, report: Path, module_folder: Path = None) -> Tests:
    """Tests of python_tests in this build; fails unless some ran and all passed without a skip, unless told otherwise."""
    report.parent.mkdir(parents=True, exist_ok=True)
    if report.exists():
        report.unlink()
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *arguments]
    command += ["-n", str(jobs), "--dist", "worksteal"] if jobs > 1 else ["-p", "no:xdist"]
    if check == "cpu_sanitize":
        command.append("--capture=sys")  # what was captured of the process's own output would end with it
    done = run(command, cwd=ROOT / "python_tests", env=environment_for(check, module_folder or folder(check)))
    if not report.exists():
        return Tests(0, 0, 0, done.returncode, done.stdout)
    suite = ElementTree.parse(report).getroot().find("testsuite")
    total, skipped = int(suite.get("tests")), int(suite.get("skipped"))
    failed = int(suite.get("failures")) + int(suite.get("errors"))
    return Tests(total - failed - skipped, failed, skipped, done.returncode, done.stdout)


def all_pass(check: str, arguments: List[str], jobs: int, report: Path) -> int:
    """How many tests passed; raises Failure where one failed, was skipped or none ran."""
    tests = pytest(check, arguments, jobs, report)
    reported = REPORT.search(tests.output)
    if tests.status or tests.failed or tests.skipped or not tests.passed or reported:
        raise Failure(
            f"{tests.passed} passed, {tests.failed} failed, {tests.skipped} skipped of `pytest {' '.join(arguments)}` "
            f"in build/{PRESETS[check]}:\n{tests.output[-4000:]}{reported.group() if reported else ''}"
        )
    return tests.passed
