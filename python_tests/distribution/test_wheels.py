"""Wheels from kernels that were compiled before, what a source distribution holds, and the matrix's own parts."""

import json
import shutil
import subprocess
import sys
import tarfile

import pytest
import yaml

from . import wheels
from .test_configure import ROOT, cmake, configure
from .wheels import MATRIX, Environment, Failure, counts, foreign, interpreter, table, without_cuda


def sources_hash(tmp_path):
    """What CMake makes of the kernels' sources."""
    script = tmp_path / "hash.cmake"
    script.write_text(
        f"set(CMAKE_CURRENT_SOURCE_DIR {ROOT})\ninclude({ROOT}/cmake/prebuilt_kernels.cmake)\n"
        "swiftnet_kernel_sources_hash(sum)\nmessage(STATUS ${sum})\n"
    )
    done = subprocess.run([cmake(), "-P", script], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


@pytest.mark.parametrize(
    "broken, sentence",
    [
        (None, "kernels: CUDA 11.8 for 61 90+PTX, prebuilt"),
        ("libswiftnet_kernels.a", "has no libswiftnet_kernels.a; make it by"),
        ("libcudart_static.a", "has no libcudart_static.a; make it by"),
        ("build_info", "has no build_info; make it by"),
        ("cuda_archs", "has no line 'cuda_archs=…'"),
        ("sources", "were made from other sources than these"),
    ],
)
def test_prebuilt_kernels_must_be_whole_and_of_these_sources(broken, sentence, tmp_path):
    folder = tmp_path / "kernels"
    folder.mkdir()
    facts = {"cuda_version": "11.8", "cuda_archs": "61 90+PTX", "sources": sources_hash(tmp_path)}
    facts["sources"] = "other" if broken == "sources" else facts["sources"]
    build_info = "".join(f"{k}={v}\n" for k, v in facts.items() if k != broken or k == "sources")
    for name, text in (("libswiftnet_kernels.a", ""), ("libcudart_static.a", ""), ("build_info", build_info)):
        if name != broken:
            (folder / name).write_text(text)
    status, output = configure(tmp_path, f"-DSWIFTNET_EXT_KERNELS={folder}")
    assert (status == 0) == (broken is None) and sentence in output


def test_prebuilt_kernels_need_a_full_path_and_no_contradiction(tmp_path):
    status, output = configure(tmp_path, "-DSWIFTNET_EXT_KERNELS=kernels")
    assert status != 0 and "expected a folder's full path, got 'kernels'" in output
    status, output = configure(tmp_path, "-DSWIFTNET_EXT_KERNELS=/kernels", "-DSWIFTNET_EXT_CUDA=off")
    assert status != 0 and "contradict each other" in output


def test_a_source_distribution_holds_what_a_build_needs(tmp_path):
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("build", ".*", "*.egg-info", "__pycache__", "_build", "*.so")
    shutil.copytree(ROOT, source, ignore=ignored)
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    tracked = {
        str(p.relative_to(ROOT))
        for folder in ("csrc", "cmake", "swiftnet_ext")
        for p in (ROOT / folder).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".so"
    }
    assert tracked <= names and {"CMakeLists.txt", "setup.py", "pyproject.toml", "LICENSE"} <= names
    assert not [n for n in names if n.endswith((".so", ".pyc", ".o")) or n.startswith(("build/", ".venv"))]


def test_the_matrix_covers_what_is_promised():
    assert {"3.6", "3.9", "3.10", "3.11", "3.12", "3.13"} == {e.python for e in MATRIX}
    assert len({e.torch for e in MATRIX}) >= 2 and Environment("3.6", "1.10.2", "numpy pytest<7.1", False) in MATRIX


def test_foreign_libraries_are_named():
    assert foreign(["libstdc++.so.6", "libc.so.6", "ld-linux-x86-64.so.2"]) == []
    for name in ("libtorch_cpu.so", "libc10.so", "libcudart.so.12", "libcuda.so.1", "libgomp.so.1"):
        assert foreign(["libc.so.6", name]) == [name]


def test_pytests_last_line_is_counted():
    assert counts("noise 9 failed\n300 passed, 2 skipped in 3.1s") == {"passed": 300, "failed": 0, "skipped": 2}
    assert counts("1 failed, 3 passed in 1s") == {"passed": 3, "failed": 1, "skipped": 0}


def test_the_path_of_the_matrix_has_a_compiler_but_no_cuda(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "OUT", tmp_path)
    monkeypatch.setenv("CUDA_HOME", "/usr/local/cuda")
    environment = without_cuda()
    assert "CUDA_HOME" not in environment
    assert shutil.which("c++", path=environment["PATH"]) and not shutil.which("nvcc", path=environment["PATH"])


def test_a_missing_python_is_named():
    with pytest.raises(Failure, match="there is no Python 2.3: install it by `pyenv install 2.3`"):
        interpreter("2.3")


def test_the_table_lines_up():
    rows = [
        {"python": "3.6", "torch": "1.10.2", "passed": 300, "wheel": "a.whl"},
        {"python": "3.11", "torch": "2.13.0"},
    ]
    lines = table(rows).splitlines()
    assert lines[0].split() == ["python", "torch", "megabytes", "passed", "failed", "skipped", "seconds", "wheel"]
    assert lines[1].index("1.10.2") == lines[2].index("2.13.0") == lines[0].index("torch")


def test_what_is_written_of_other_pythons_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "RECORD", tmp_path / "results" / "wheels.json")
    wheels.record([{"python": "3.11", "commit": "a"}, {"python": "3.6", "commit": "a"}], {"sdist": "a.tar.gz"})
    wheels.record([{"python": "3.11", "commit": "b"}])
    written = json.loads(wheels.RECORD.read_text())
    assert written["wheels"] == [{"python": "3.6", "commit": "a"}, {"python": "3.11", "commit": "b"}]
    assert written["sdist"] == {"sdist": "a.tar.gz"}


def test_the_hosts_configuration_parses():
    tomllib = pytest.importorskip("tomllib", reason="TOML came with Python 3.11")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    assert set(settings["build"].split()) == {f"cp{e.python.replace('.', '')}-*" for e in MATRIX if e.python != "3.6"}
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "wheels.yml").read_text())
    assert set(workflow["jobs"]) == {"kernels", "sdist", "wheels"}
    matrix = workflow["jobs"]["wheels"]["strategy"]["matrix"]
    assert (
        matrix["arch"] == ["x86_64", "aarch64"]
        and settings["build"] in matrix["pythons"]
        and "cp36-*" in matrix["pythons"]
    )
