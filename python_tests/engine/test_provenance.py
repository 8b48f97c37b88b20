"""Result files name the source's commit where it has one, and no other's."""

import platform
import subprocess

import pytest
import torch

import swiftnet_ext.engine.provenance as module
from swiftnet_ext.cpu import cpu_name
from swiftnet_ext.engine.provenance import commit, device_name, provenance


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_commit_is_the_packages_own(tmp_path, monkeypatch):
    package = tmp_path / "swiftnet_ext"
    (package / "engine").mkdir(parents=True)
    for file in (package / "cli.py", package / "engine" / "provenance.py"):
        file.touch()
    monkeypatch.setattr(module, "__file__", str(package / "engine" / "provenance.py"))
    assert commit() is None  # no checkout
    git(tmp_path, "init", "-q")
    (tmp_path / "other.txt").write_text("a user's own project")
    git(tmp_path, "add", "other.txt")
    git(tmp_path, "commit", "-q", "-m", "a")
    assert commit() is None  # somebody else's checkout, the package is installed into it
    git(tmp_path, "add", "swiftnet_ext")
    git(tmp_path, "commit", "-q", "-m", "b")
    assert commit() == git(tmp_path, "rev-parse", "HEAD")
    (package / "cli.py").write_text("# changed\n")
    assert commit() == git(tmp_path, "rev-parse", "HEAD") + "-dirty"


def test_what_a_result_says():
    said = provenance("swiftnet evaluate", torch.device("cpu"))
    assert set(said) == {"device", "date", "commit", "version", "python", "torch", "command"}
    assert said["command"] == "swiftnet evaluate" and said["torch"] == torch.__version__
    assert said["device"] == device_name(torch.device("cpu"))
    assert said["device"].startswith("cpu-") and said["device"].endswith("-cores")


@pytest.mark.parametrize(
    "flags, name",
    [
        ("sse2 avx", "AMD EPYC"),
        ("avx avx2 fma", "AMD EPYC, AVX2"),
        ("fma avx2 avx512f avx512bw avx512dq avx512vl", "AMD EPYC, AVX-512"),
        ("fma avx2 avx512f avx512bw avx512dq avx512vl avx512_bf16", "AMD EPYC, AVX-512 bf16"),
        ("fma avx2 avx512f avx512bw avx512dq avx512vl avx512_bf16 amx_bf16 amx_tile", "AMD EPYC, AMX"),
    ],
)
def test_machines_of_one_model_with_other_instructions_are_told_apart(tmp_path, flags, name):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert cpu_name(file) == name


def test_a_cpu_of_which_nothing_is_told_has_its_architecture_as_its_name(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nFeatures : fp asimd\n")
    assert cpu_name(tmp_path / "cpuinfo") == cpu_name(tmp_path / "none") == platform.machine()
