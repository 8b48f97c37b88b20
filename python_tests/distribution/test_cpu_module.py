"""The native CPU kernels as compiled: nothing is shared between instruction sets, and no thread pool is linked."""

import importlib
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "csrc/cpu/kernels").glob("*.cpp"))
LEVELS = {"portable": []}
if platform.machine() == "x86_64":
    avx512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"]
    LEVELS["amx"] = avx512 + ["-mavx512bf16", "-mamx-tile", "-mamx-bf16"]
    LEVELS["avx2"] = ["-mavx2", "-mfma"]
FORBIDDEN = "libtorch|libc10|libcudart|libcuda|libgomp|libomp|libiomp"
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def shared_symbols(source, level, flags, folder):
    """What an object defines for other objects outside its level's namespace: the linker keeps one for all levels. Not
    optimised, so that nothing is hidden by being inlined."""
    compiled = folder / (source.stem + ".o")
    defines = ["-DSWIFTNET_CPU_LEVEL=" + level, '-DSWIFTNET_CPU_LEVEL_NAME="{}"'.format(level)]
    command = ["g++", "-std=c++14", "-O0", "-fPIC", "-Wno-psabi", "-I", ROOT / "csrc", *defines, *flags, "-c", source]
    subprocess.run([*command, "-o", compiled], check=True)
    listed = subprocess.run(["nm", "-C", "--defined-only", "-g", compiled], check=True, capture_output=True, text=True)
    symbols = [line.split(maxsplit=2)[1:] for line in listed.stdout.splitlines()]
    symbols = [(kind, name) for kind, name in symbols if not name.startswith("DW.ref.")]  # where a function is
    own = "swiftnet::cpu::{}::".format(level)
    return [name for kind, name in symbols if kind not in "TDBR" or not name.startswith(own)]


@needs_compiler
@pytest.mark.parametrize("level", sorted(LEVELS))
@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.stem)
def test_instruction_sets_share_no_code(source, level, tmp_path):
    """A function compiled for AVX-512 must never run on an older CPU."""
    assert shared_symbols(source, level, LEVELS[level], tmp_path) == []


@needs_compiler
def test_what_would_be_shared_is_found(tmp_path):
    source = tmp_path / "seeded.cpp"
    source.write_text(
        "#include <algorithm>\n"
        "namespace swiftnet { namespace cpu { namespace SWIFTNET_CPU_LEVEL {\n"
        "inline int twice(int a) { return 2 * a; }\n"
        "int largest(int a, int b) { return std::max(twice(a), b); }\n"
        "}}}\n"
        "int outside() { return 1; }\n"
    )
    found = shared_symbols(source, "portable", [], tmp_path)
    assert len(found) == 3 and all(
        any(name in symbol for symbol in found) for name in ("std::max", "twice(int)", "outside()")
    )


def test_the_module_links_neither_pytorch_nor_cuda_nor_a_thread_pool():
    module = importlib.import_module("swiftnet_ext._C").__file__
    dynamic = subprocess.run(["readelf", "-d", module], check=True, capture_output=True, text=True).stdout
    needed = re.findall(r"NEEDED.*\[(.+)\]", dynamic)
    assert needed and not [library for library in needed if re.match(FORBIDDEN, library)]
