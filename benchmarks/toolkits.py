"""CUDA toolkits on this machine, and what each makes of a kernel: the facts that benchmarks/budgets.py compares."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import compiled_code


class BudgetError(Exception):
    """Something is missing or unusable; the message names the cure."""


@dataclass(frozen=True)
class Family:
    release: str  # whose table is committed
    variable: str
    folder: str
    archs: tuple
    standard: str  # as in CMakeLists.txt, as are the flags below


FAMILIES = {
    "11": Family("11.8", "CUDA11", "/usr/lib/nvidia-cuda-toolkit", ("61", "62", "70", "75", "80", "86", "90"), "c++14"),
    "13": Family("13.0", "CUDA13", "/usr/local/cuda-13.0", ("75", "80", "86", "89", "90a", "100", "120"), "c++17"),
}
FLAGS = ("-O3", "-DNDEBUG", "-lineinfo")


@dataclass(frozen=True)
class Toolkit:
    family: Family
    release: str  # "11.8"
    version: str  # "11.8.89"
    nvcc: Path
    nvdisasm: Path
    nvdisasm_version: str

    @property
    def comparable(self):
        return self.release == self.family.release


def run(command, path=None):
    # nvcc takes ptxas and the host compiler from PATH: each toolkit has its own, as in the build
    environment = {**os.environ, "PATH": f"{path}:/usr/bin:/bin"} if path else None
    result = subprocess.run([str(c) for c in command], env=environment, capture_output=True, text=True)
    if result.returncode:
        raise BudgetError(f"{' '.join(map(str, command))} failed:\n{result.stdout}{result.stderr}")
    return result.stdout + result.stderr


def version_of(program):
    found = re.search(r"release \d+\.\d+, V([\d.]+)", run([program, "--version"]))
    if not found:
        raise BudgetError(f"{program} --version names no release; expected a CUDA program")
    return found.group(1)


def release_of(version):
    return ".".join(version.split(".")[:2])


def find_nvdisasm(bin, release):
    """The toolkit's own, PyPI's or the system's: of the same major version, and not older than the toolkit."""
    major = release.split(".")[0]
    folders = [bin, *(Path(p) / "nvidia" / f"cu{major}" / "bin" for p in sys.path), "/usr/bin"]
    tried = []
    for folder in folders:
        program = Path(folder) / "nvdisasm"
        if os.access(program, os.X_OK):
            version = version_of(program)
            if version.split(".")[0] == major and version_parts(version) >= version_parts(release):
                return program, version
            tried.append(f"{program} is {version}")
    raise BudgetError(
        f"no nvdisasm for CUDA {release} ({'; '.join(tried) or 'none found'}): pip install 'nvidia-cuda-nvdisasm=="
        f"{major}.*', or for 11.8 the system package nvidia-cuda-toolkit"
    )


def version_parts(version):
    return [int(n) for n in version.split(".")]


def open_toolkit(folder, cure):
    bin = Path(folder) / "bin"
    nvcc = bin / "nvcc"
    if not os.access(nvcc, os.X_OK):
        raise BudgetError(f"no CUDA toolkit in {folder} ({nvcc} is missing); {cure}")
    version = version_of(nvcc)
    release = release_of(version)
    family = FAMILIES.get(release.split(".")[0])
    if not family:
        raise BudgetError(f"{nvcc} is CUDA {version}; budgets are kept for {', '.join(FAMILIES)}")
    return Toolkit(family, release, version, nvcc, *find_nvdisasm(bin, release))


def find_toolkits(folders, majors):
    if folders:
        return [open_toolkit(folder, "name another folder by --cuda") for folder in folders]
    toolkits = []
    for major in majors:
        family = FAMILIES[major]
        cure = f"set {family.variable} to its folder, or leave it out by --toolkits"
        toolkits.append(open_toolkit(os.environ.get(family.variable) or family.folder, cure))
    return toolkits


def demangle(names):
    if not shutil.which("c++filt"):
        raise BudgetError("c++filt was not found; install binutils")
    return dict(zip(names, run(["c++filt", *names]).splitlines())) if names else {}


def measure(toolkit, source, arch):
    """The rows of one source for one architecture; none where it has no kernels."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        command = [
            toolkit.nvcc,
            f"-std={toolkit.family.standard}",
            *FLAGS,
            f"-I{source.parents[1]}",
            f"-arch=sm_{arch}",
        ]
        command += ["-cubin", "-Xptxas", "-v", "-keep", "-keep-dir", folder, "-o", cubin, source]
        kernels = compiled_code.parse_ptxas(run(command, path=toolkit.nvcc.parent))
        if not kernels:
            return []
        threads = compiled_code.parse_block_sizes((Path(folder) / f"{source.stem}.ptx").read_text())
        functions = compiled_code.parse_sass(run([toolkit.nvdisasm, "-c", cubin]))
    if not kernels.keys() == threads.keys() == functions.keys():
        raise BudgetError(f"{source.name}, sm_{arch}: ptxas, PTX and SASS do not hold the same kernels")
    names = demangle(sorted(kernels))
    rows = []
    for name, resources in kernels.items():
        rows.append({"source": source.name, "kernel": compiled_code.short_name(names[name]), "arch": arch})
        rows[-1].update(row_of(arch, resources, threads[name], functions[name]))
    return rows


def row_of(arch, resources, threads, function):
    row = {**resources, "threads": threads, "registers_of_block": resources["registers"] * threads}
    row.update(compiled_code.local_accesses(function))
    row["blocks"], row["warps"] = compiled_code.occupancy(arch, resources["registers"], resources["shared"], threads)
    row.update(compiled_code.hot_loop(function) or {})
    return row


def fingerprint_of(toolkit, csrc):
    """Of all that a table depends on: the kernels, their headers, the flags, the programs, and how their output is read."""
    flags = toolkit.version, toolkit.nvdisasm_version, toolkit.family.standard, *FLAGS
    digest = hashlib.sha256(" ".join(flags).encode())
    sources = sorted([*csrc.glob("*.h"), *(csrc / "kernels").rglob("*.cu*")])
    for path in [*sources, Path(__file__), Path(compiled_code.__file__)]:
        digest.update(f"\n{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()
