"""How a build is configured, with stand-ins for nvcc: quick, and the same on every machine."""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKE_NVCC = """#!/bin/sh
case "$*" in
  *--dryrun*) echo '#$ _HERE_={bin}' >&2 ;;
  *--version*) echo 'Cuda compilation tools, release {version}, V{version}.1' ;;
  *--list-gpu-arch*) printf 'compute_%s\\n' {archs} ;;
esac
"""
# the choice ends before a compiler is asked for: enable_language would want a real one
SCRIPT = """
include({root}/cmake/cuda_toolkit.cmake)
set(CMAKE_BINARY_DIR {build})
swiftnet_setting(TORCH_CUDA_ARCH_LIST "")
swiftnet_setting(SWIFTNET_EXT_CUDA_ARCHS "${{TORCH_CUDA_ARCH_LIST}}")
swiftnet_find_nvcc(nvcc version bin reason)
if(nvcc)
  swiftnet_choose_architectures("${{nvcc}}" "${{version}}" "${{SWIFTNET_EXT_CUDA_ARCHS}}" archs text)
  swiftnet_wrap_nvcc("${{nvcc}}" "${{bin}}" wrapper)
endif()
message(STATUS "nvcc=${{nvcc}} version=${{version}} archs=${{archs}} text=${{text}} reason=${{reason}}")
"""
ARCHS = {
    "11.8": "50 52 53 60 61 62 70 72 75 80 86 87 89 90",
    "13.0": "75 80 86 87 88 89 90 100 103 110 120 121",
    "10.2": "",
}


@pytest.fixture
def toolkit(tmp_path):
    def make(version, name=None):
        bin = tmp_path / (name or f"cuda-{version}") / "bin"
        bin.mkdir(parents=True)
        nvcc = bin / "nvcc"
        nvcc.write_text(FAKE_NVCC.format(bin=bin, version=version, archs=ARCHS[version] or "''"))
        nvcc.chmod(0o755)
        return nvcc

    return make


def choose(tmp_path, **variables):
    """What the build would choose: (status, output)."""
    script = tmp_path / "choose.cmake"
    script.write_text(SCRIPT.format(root=ROOT, build=tmp_path / "build"))
    environment = {"PATH": "/usr/bin:/bin", **{k: str(v) for k, v in variables.items()}}
    result = subprocess.run([cmake(), "-P", script], env=environment, capture_output=True, text=True)
    return result.returncode, " ".join((result.stdout + result.stderr).split())


def cmake():
    return shutil.which("cmake", path=os.path.dirname(sys.executable)) or shutil.which("cmake")


DEFAULTS = {
    "10.2": "61 70 75+PTX",
    "11.8": "61 70 75 80 86 90+PTX",
    "13.0": "75 80 86 89 90a 100 120+PTX",
}


@pytest.mark.parametrize("version", DEFAULTS)
def test_default_architectures_of_a_toolkit(version, toolkit, tmp_path):
    status, output = choose(tmp_path, CUDACXX=toolkit(version))
    assert status == 0 and f"text={DEFAULTS[version]} reason" in output
    last = DEFAULTS[version].split()[-1].replace("+PTX", "")
    assert f"{last}-real;{last}-virtual" in output


@pytest.mark.parametrize("asked", ["61;7.5;90+PTX", "6.1 75 9.0+PTX", "61,75,90+PTX", " 61; 75, 90 90+PTX; "])
@pytest.mark.parametrize("variable", ["SWIFTNET_EXT_CUDA_ARCHS", "TORCH_CUDA_ARCH_LIST"])
def test_architectures_are_taken_in_any_spelling(asked, variable, toolkit, tmp_path):
    status, output = choose(tmp_path, CUDACXX=toolkit("11.8"), **{variable: asked})
    assert status == 0 and "archs=61-real;75-real;90-real;90-virtual" in output


def test_ptx_alone_can_be_asked_for(toolkit, tmp_path):
    status, output = choose(tmp_path, CUDACXX=toolkit("11.8"), SWIFTNET_EXT_CUDA_ARCHS="compute_61 75")
    assert status == 0 and "archs=61-virtual;75-real text=compute_61 75 reason" in output


def test_ours_goes_before_pytorchs(toolkit, tmp_path):
    _, output = choose(tmp_path, CUDACXX=toolkit("11.8"), SWIFTNET_EXT_CUDA_ARCHS="62", TORCH_CUDA_ARCH_LIST="8.0")
    assert "text=62 reason" in output


@pytest.mark.parametrize(
    "version, asked, sentence",
    [
        ("13.0", "61", "CUDA 13.0 ({nvcc}) has no code for sm_61"),
        ("13.0", "compute_61", "CUDA 13.0 ({nvcc}) has no code for sm_61"),
        ("11.8", "90a", "CUDA 11.8 ({nvcc}) has no code for sm_90a"),
        ("10.2", "80", "CUDA 10.2 ({nvcc}) has no code for sm_80"),
        ("11.8", "Pascal", "'Pascal' is no CUDA architecture"),
    ],
)
def test_an_unknown_architecture_is_refused_with_the_cure(version, asked, sentence, toolkit, tmp_path):
    nvcc = toolkit(version)
    status, output = choose(tmp_path, CUDACXX=nvcc, SWIFTNET_EXT_CUDA_ARCHS=asked)
    assert status != 0 and sentence.format(nvcc=nvcc) in output and "SWIFTNET_EXT_CUDA_ARCHS" in output


def test_architectures_without_half_arithmetic_are_passed_over_in_pytorchs_list_alone(toolkit, tmp_path):
    nvcc, listed = toolkit("11.8"), "5.0 5.2 5.3 6.1 9.0+PTX"
    status, output = choose(tmp_path, CUDACXX=nvcc, TORCH_CUDA_ARCH_LIST=listed)
    assert status == 0 and "archs=53-real;61-real;90-real;90-virtual text=53 61 90+PTX reason" in output
    assert "TORCH_CUDA_ARCH_LIST: 5.2 is passed over, the kernels need sm_53 or later" in output
    status, output = choose(tmp_path, CUDACXX=nvcc, TORCH_CUDA_ARCH_LIST="3.7;5.2+PTX")
    assert status != 0 and 'TORCH_CUDA_ARCH_LIST="3.7;5.2+PTX" leaves no architecture' in output
    for asked in ("52;61", "compute_52", "61 3.5"):
        status, output = choose(tmp_path, CUDACXX=nvcc, SWIFTNET_EXT_CUDA_ARCHS=asked, TORCH_CUDA_ARCH_LIST=listed)
        assert status != 0 and "the kernels need sm_53 or later; leave" in output


def test_the_toolkit_is_cudacxxs_then_cuda_homes_then_paths(toolkit, tmp_path):
    cxx, home, path = toolkit("13.0", "a"), toolkit("11.8", "b"), toolkit("10.2", "c")
    variables = {"CUDACXX": cxx, "CUDA_HOME": home.parents[1], "PATH": f"{path.parent}:/usr/bin:/bin"}
    for chosen, name in ((cxx, "CUDACXX"), (home, "CUDA_HOME"), (path, "PATH")):
        status, output = choose(tmp_path, **variables)
        assert status == 0 and f"nvcc={chosen} " in output
        variables.pop(name)


@pytest.mark.parametrize("variable", ["CUDACXX", "CUDA_HOME"])
def test_a_broken_setting_is_an_error_not_another_toolkit(variable, toolkit, tmp_path):
    path = toolkit("11.8").parent
    status, output = choose(tmp_path, PATH=f"{path}:/usr/bin:/bin", **{variable: "/nowhere"})
    assert status != 0 and f"{variable}=/nowhere names no nvcc" in output


def test_an_nvcc_on_path_that_does_not_run_is_named(tmp_path):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\nexit 3\n")
    nvcc.chmod(0o755)
    status, output = choose(tmp_path, PATH=f"{tmp_path}:/usr/bin:/bin")
    assert status != 0 and f"{nvcc} (found on PATH) does not run as nvcc" in output


def test_a_build_tree_keeps_its_toolkit(toolkit, tmp_path):
    made_for, other = toolkit("13.0"), toolkit("11.8")
    project = tmp_path / "project"
    project.mkdir()
    (project / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.21)\nproject(tree LANGUAGES NONE)\n"
        f"include({ROOT}/cmake/cuda_toolkit.cmake)\nswiftnet_find_nvcc(nvcc version bin reason)\n"
        'swiftnet_keep_toolkit("CUDA ${version} (${nvcc})")\n'
    )

    def configured_with(nvcc):
        command = [cmake(), "-S", project, "-B", tmp_path / "tree", "-G", "Ninja"]
        command.append("-DCMAKE_MAKE_PROGRAM=" + (shutil.which("ninja", path=os.path.dirname(cmake())) or "ninja"))
        environment = {"PATH": "/usr/bin:/bin", "CUDACXX": str(nvcc)}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        return result.returncode, " ".join(result.stderr.split())

    assert configured_with(made_for) == (0, "")
    assert configured_with(made_for) == (0, "")
    status, output = configured_with(other)
    assert status != 0 and f"was made for CUDA 13.0 ({made_for}) and can't change to CUDA 11.8 ({other})" in output
    assert "remove that folder" in output


def test_wrapper_scripts_are_followed_and_the_toolkit_has_its_own_path(toolkit, tmp_path):
    nvcc = toolkit("11.8")
    wrapper = tmp_path / "nvcc"
    wrapper.write_text(f'#!/bin/sh\nexec {nvcc} "$@"\n')
    wrapper.chmod(0o755)
    status, output = choose(tmp_path, CUDACXX=wrapper)
    assert status == 0 and f"nvcc={nvcc} " in output
    (nvcc.parent / "nvcc").write_text("#!/bin/sh\necho $PATH\n")
    result = subprocess.run(
        [tmp_path / "build" / "toolkit" / "nvcc"], capture_output=True, text=True, env={"PATH": "/other"}
    )
    assert result.stdout.strip() == f"{nvcc.parent}:/usr/bin:/bin"


def configure(tmp_path, *options, **variables):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", **variables}
    for name in ("CUDACXX", "CUDA_HOME", "SWIFTNET_EXT_CUDA", "PYTHONPATH"):
        environment.pop(name, None) if name not in variables else None
    command = [
        cmake(),
        "-S",
        ROOT,
        "-B",
        tmp_path / "build",
        "-G",
        "Ninja",
        f"-DPython_EXECUTABLE={sys.executable}",
        *options,
    ]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    return result.returncode, " ".join((result.stdout + result.stderr).split())


def test_on_without_a_toolkit_is_an_error(tmp_path, toolkit):
    if shutil.which("nvcc", path="/usr/bin:/bin"):
        environment = {"CUDA_HOME": str(tmp_path)}
        status, output = configure(tmp_path, "-DSWIFTNET_EXT_CUDA=on", **environment)
        assert status != 0 and "names no nvcc" in output
    else:
        status, output = configure(tmp_path, "-DSWIFTNET_EXT_CUDA=on")
        assert status != 0 and "SWIFTNET_EXT_CUDA=on, but no CUDA toolkit was found" in output


def test_settings_are_checked(tmp_path):
    status, output = configure(tmp_path, SWIFTNET_EXT_CUDA="yes")
    assert status != 0 and "SWIFTNET_EXT_CUDA: expected auto, on or off, got 'yes'" in output
    status, output = configure(tmp_path, "-DSWIFTNET_EMULATION=ON", "-DSWIFTNET_EMULATION_CHECK=tsan")
    assert status != 0 and "SWIFTNET_EMULATION_CHECK: expected none, race, sanitize or coverage, got 'tsan'" in output


@pytest.mark.parametrize(
    "compiler, version, refused", [("GNU", "8.5.0", True), ("GNU", "9.1.0", False), ("Clang", "8", False)]
)
def test_an_old_gcc_is_refused_with_the_cure(compiler, version, refused, tmp_path):
    script = tmp_path / "compiler.cmake"
    facts = {
        "CMAKE_CXX_COMPILER": "/usr/bin/c++",
        "CMAKE_CXX_COMPILER_ID": compiler,
        "CMAKE_CXX_COMPILER_VERSION": version,
    }
    script.write_text(
        "".join(f"set({name} {value})\n" for name, value in facts.items())
        + f"set(SWIFTNET_EXT_CPU_LEVELS portable)\ninclude({ROOT}/cmake/cuda_toolkit.cmake)\n"
        + f"include({ROOT}/cmake/cpu_kernels.cmake)\nmessage(STATUS levels=${{cpu_levels}})\n"
    )
    result = subprocess.run([cmake(), "-P", script], capture_output=True, text=True)
    said = " ".join((result.stdout + result.stderr).split())
    sentence = (
        f"the CPU's kernels need GCC 9 or later (__builtin_convertvector), or Clang; /usr/bin/c++ is GCC {version}."
    )
    assert (sentence in said and "CXX=g++-9" in said) == refused == (result.returncode != 0)
    assert refused or "levels=portable" in said


def test_the_installed_package_holds_what_it_should():
    """pip built it from this tree, in an environment of its own that has no torch."""
    assert "torch" not in (ROOT / "pyproject.toml").read_text().split("build-backend")[0]
    # not the egg-info that a build leaves in the tree
    (package,) = metadata.distributions(name="swiftnet_ext", path=[sysconfig.get_path("platlib")])
    files = {str(f): Path(f.locate()) for f in package.files if "__pycache__" not in f.parts}
    assert {name.split("/")[0] for name in files if not name.endswith("bin/swiftnet")} == {
        "swiftnet_ext",
        f"swiftnet_ext-{package.version}.dist-info",
    }
    installed = {name: path for name, path in files.items() if name.startswith("swiftnet_ext/")}
    tree = {str(p.relative_to(ROOT)): p for p in (ROOT / "swiftnet_ext").rglob("*") if p.is_file()}
    tree = {name: p for name, p in tree.items() if p.suffix not in (".so", ".pyc")}
    (compiled,) = [name for name in installed if name.endswith(".so")]
    assert compiled.startswith("swiftnet_ext/_C.")
    module = installed.pop(compiled)
    differing = [n for n in {*installed, *tree} if not (n in installed and n in tree and same(installed[n], tree[n]))]
    assert differing == [], "what is installed is not this tree's package; make .venv/.dev installs it"
    needed = subprocess.run(["readelf", "-d", module], capture_output=True, text=True, check=True).stdout
    assert not [name for name in ("libtorch", "libc10", "libcudart", "libcuda.") if name in needed]


def same(a, b):
    return a.read_bytes() == b.read_bytes()
