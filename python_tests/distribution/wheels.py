"""`make wheels`: the kernels once, an sdist, a wheel for each Python from it, and each wheel in a clean environment.

    python wheels.py [--pythons 3.6,3.11] [--record]

Everything is made in build/wheels. The matrix's environments see no nvcc, no driver and no source tree.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build" / "wheels"
RECORD = ROOT / "benchmarks" / "results" / "wheels" / "wheels.json"
CUDA = Path(os.environ.get("CUDA11", "/usr/lib/nvidia-cuda-toolkit"))
FORBIDDEN = re.compile(r"lib(torch|c10|cudart|cuda|nv)[^ ]*\.so")
ON_EVERY_LINUX = (
    "libstdc++.so.6", "libgcc_s.so.1", "libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0",
    "ld-linux-x86-64.so.2",
)  # fmt: skip


class Environment(NamedTuple):
    """A Python and the packages beside which its wheel is tried: the TX2's own pair, old, mid and new PyTorch."""

    python: str
    torch: str
    also: str = "numpy pytest"
    command_line: bool = True


MATRIX = [
    Environment("3.6", "1.10.2", "numpy pytest<7.1", command_line=False),
    Environment("3.9", "1.12.1", "numpy<2 pytest"),
    Environment("3.10", "2.0.1", "numpy<2 pytest"),  # registers operators by another branch than later versions
    Environment("3.11", "2.13.0"),
    Environment("3.12", "2.14.1"),
    Environment("3.13", "2.14.1"),
]
# runs in the environment: what a user's first minute touches
FIRST_MINUTE = """
import json, torch, swiftnet_ext as sx
from swiftnet_ext import _native
assert not torch.cuda.is_initialized()
assert sx.ops.conv3x3(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))[0, 0, 1, 1] == 9
assert sx.load_checkpoint().segment(torch.zeros(64, 96, 3, dtype=torch.uint8)).shape == (64, 96)
try:
    with sx.use_backend("cuda", strict=True):
        sx.ops.conv3x3(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))
    raise SystemExit("strict mode ran without the kernel that was asked for")
except sx.BackendError:
    pass
module, why_not = _native.cuda(0)
assert module is None and "cudaError" in why_not, why_not
print(json.dumps({"file": _native.native()[0].__file__, "torch": torch.__version__, "why_not": why_not}))
"""


class Failure(Exception):
    pass


def run(command: List[object], **kwargs) -> str:
    """What it prints, without its warnings."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **kwargs)
    if done.returncode:
        said = (done.stdout + done.stderr)[-3000:]
        raise Failure(f"{' '.join(map(str, command))} failed with status {done.returncode}:\n{said}")
    return done.stdout


def interpreter(version: str) -> Path:
    """The newest Python of this version that pyenv has, or the one on PATH."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}")) or [shutil.which(f"python{version}")]
    if not found[-1]:
        raise Failure(
            f"there is no Python {version}: install it by `pyenv install {version}`, or leave it out by --pythons"
        )
    return Path(found[-1])


def without_cuda() -> Dict[str, str]:
    """An environment whose PATH has everything of this machine's but CUDA."""
    folder = OUT / "path"
    folder.mkdir(parents=True, exist_ok=True)
    for program in Path("/usr/bin").iterdir():
        link = folder / program.name
        if not link.is_symlink() and not re.match("nv|cuda|ptxas|fatbin", program.name):
            link.symlink_to(program)
    keep = {k: v for k, v in os.environ.items() if not re.match("CUDA|SWIFTNET|PYTHON|TORCH|LD_|VIRTUAL_ENV", k)}
    return dict(keep, PATH=str(folder))


def virtual_environment(python: str, name: str) -> Path:
    """A new virtual environment's Python."""
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    run([interpreter(python), "-m", "venv", folder])
    if python == "3.6":  # the last pip for it; the one that comes with it does not know current wheels
        run([folder / "bin" / "python", "-m", "pip", "install", "-q", "pip==21.3.1"])
    return folder / "bin" / "python"


def make_kernels() -> Path:
    """The folder of the kernels for all architectures of a released wheel."""
    build, prefix = OUT / "kernels-build", OUT / "kernels"
    tools = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", CUDA_HOME=str(CUDA))
    configure = [
        "cmake",
        "-S",
        ROOT,
        "-B",
        build,
        "-G",
        "Ninja",
        "-DSWIFTNET_EXT_CUDA=on",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    run(configure, env=tools)
    run(["cmake", "--build", build, "--target", "swiftnet_kernels"], env=tools)
    run(["cmake", "--install", build, "--component", "kernels", "--prefix", prefix], env=tools)
    return prefix


def make_sdist() -> Path:
    shutil.rmtree(OUT / "sdist", ignore_errors=True)
    run([sys.executable, "-m", "build", "--sdist", "--outdir", OUT / "sdist", ROOT])
    (sdist,) = (OUT / "sdist").glob("*.tar.gz")
    return sdist


def make_wheel(python: str, sdist: Path, kernels: Path) -> Path:
    """A wheel from the sdist, repaired to the manylinux tag that it fits."""
    raw = OUT / "raw" / python
    shutil.rmtree(raw, ignore_errors=True)
    builder = virtual_environment(python, f"builder-{python}")
    environment = dict(without_cuda(), SWIFTNET_EXT_KERNELS=str(kernels))
    run([builder, "-m", "pip", "wheel", "-q", "--no-deps", "-w", raw, sdist], env=environment)
    (wheel,) = raw.glob("*.whl")
    repaired = OUT / "repaired" / python
    shutil.rmtree(repaired, ignore_errors=True)
    tools = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    run([sys.executable, "-m", "auditwheel", "repair", "-w", repaired, wheel], env=tools)
    (wheel,) = repaired.glob("*.whl")
    if "manylinux" not in wheel.name:
        raise Failure(f"{wheel.name}: auditwheel gave it no manylinux tag")
    return wheel


def needed_libraries(wheel: Path) -> List[str]:
    """What the wheel's module links."""
    folder = OUT / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    (module,) = folder.glob("swiftnet_ext/_C*.so")
    return re.findall(r"NEEDED.*\[(.+)\]", run(["readelf", "-d", module]))


def foreign(libraries: List[str]) -> List[str]:
    """Those that a manylinux wheel can't count on."""
    return [name for name in libraries if name not in ON_EVERY_LINUX or FORBIDDEN.search(name)]


def counts(output: str) -> Dict[str, int]:
    """Of pytest's last line."""
    last = output.strip().splitlines()[-1]
    return {k: int((re.search(rf"(\d+) {k}", last) or [0, 0])[1]) for k in ("passed", "failed", "skipped")}


def try_wheel(environment: Environment, wheel: Path) -> Dict[str, object]:
    """One row of the matrix."""
    libraries = foreign(needed_libraries(wheel))
    if libraries:
        raise Failure(f"{wheel.name} links {', '.join(libraries)}")
    python = virtual_environment(environment.python, f"try-{environment.python}")
    clean = dict(without_cuda(), OMP_NUM_THREADS="1")
    clean["PATH"] = str(python.parent)
    extras = "[cli]" if environment.command_line else ""
    packages = [f"torch=={environment.torch}", *environment.also.split(), f"{wheel}{extras}"]
    run([python, "-m", "pip", "install", "-q", *packages], env=clean)

    elsewhere = OUT / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    first = json.loads(
        run(
            [python, "-W", "error::RuntimeWarning:swiftnet_ext", "-c", FIRST_MINUTE], cwd=elsewhere, env=clean
        ).splitlines()[-1]
    )
    info = json.loads(run([python, "-m", "swiftnet_ext.info", "--json"], cwd=elsewhere, env=clean))
    if not info["cpu_kernels"]["level"]:
        raise Failure(f"{wheel.name} has no kernels for this CPU: {info['cpu_kernels']['reason']}")
    if environment.command_line:
        swiftnet = python.parent / "swiftnet"
        run([swiftnet, "--version"], cwd=elsewhere, env=clean)
        run([swiftnet, "sample", "scene.png"], cwd=elsewhere, env=clean)
        run([swiftnet, "predict", "scene.png", "--out", "predicted"], cwd=elsewhere, env=clean)
    tests = OUT / "python_tests"
    shutil.rmtree(tests, ignore_errors=True)
    shutil.copytree(ROOT / "python_tests", tests, ignore=shutil.ignore_patterns("__pycache__"))
    # every fifth case: the kernels' numbers are the source's, which make test tests whole
    options = ["-q", "-p", "no:cacheprovider", "--backends", "reference,cpu", "--every", "5"]
    output = run([python, "-m", "pytest", *options, "core"], cwd=tests, env=clean)
    return {
        "python": environment.python,
        **commit_and_date(),
        "torch": first["torch"],
        "wheel": wheel.name,
        "megabytes": round(wheel.stat().st_size / 1e6, 1),
        "architectures": info["built_for_architectures"],
        "cpu_levels": info["cpu_kernels"]["levels"],
        "without a driver": first["why_not"],
        "command line": "works" if environment.command_line else "asks for Python 3.9",
        **counts(output),
    }


def try_sdist(sdist: Path) -> Dict[str, object]:
    """Installed from source on a machine without CUDA: plain PyTorch, and info says why."""
    python = virtual_environment("3.11", "try-sdist")
    clean = without_cuda()
    run([python, "-m", "pip", "install", "-q", "torch==2.13.0", "numpy", sdist], env=clean)
    info = json.loads(run([python, "-m", "swiftnet_ext.info", "--json"], cwd=OUT / "path", env=clean))
    if info["built_for_architectures"] or "no CUDA toolkit was found" not in info["no_kernels_reason"]:
        raise Failure(
            f"the sdist built without CUDA says {info['built_for_architectures']}: {info['no_kernels_reason']}"
        )
    megabytes = round(sdist.stat().st_size / 1e6, 1)
    return {"sdist": sdist.name, **commit_and_date(), "megabytes": megabytes, "says": info["no_kernels_reason"]}


def table(rows: List[Dict[str, object]]) -> str:
    columns = ("python", "torch", "megabytes", "passed", "failed", "skipped", "seconds", "wheel")
    cells = [columns] + [tuple(str(row.get(c, "")) for c in columns) for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells)


def commit_and_date() -> Dict[str, str]:
    return {"commit": run(["git", "-C", ROOT, "rev-parse", "HEAD"]).strip(), "date": datetime.date.today().isoformat()}


def record(rows: List[Dict[str, object]], source: Optional[Dict[str, object]] = None) -> None:
    """Writes these down; what is written of other Pythons stays, each row with its commit."""
    written = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    of = {row["python"]: row for row in [*written.get("wheels", []), *rows]}
    content = {
        "command": "make wheels RECORD=1 (PYTHONS= for some at a time)",
        "device": "a machine without GPU, driver and, in the environments, nvcc",
        "wheels": [of[e.python] for e in MATRIX if e.python in of],
        "sdist": source or written.get("sdist"),
    }
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(content, indent=2) + "\n")


def main(arguments: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--pythons", default=",".join(e.python for e in MATRIX), help="of the matrix, separated by commas"
    )
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    chosen = [e for e in MATRIX if e.python in options.pythons.split(",")]
    if not chosen:
        parser.error(f"--pythons: expected some of {', '.join(e.python for e in MATRIX)}")

    rows = []
    try:
        kernels, sdist = make_kernels(), make_sdist()
        for environment in chosen:
            start = time.monotonic()
            row = try_wheel(environment, make_wheel(environment.python, sdist, kernels))
            rows.append({**row, "seconds": round(time.monotonic() - start)})
            if options.record:
                record(rows)
            print(f"Python {environment.python}, PyTorch {row['torch']}: {row['passed']} tests passed", flush=True)
            shutil.rmtree(OUT / f"try-{environment.python}")  # a PyTorch with CUDA takes gigabytes
        source = try_sdist(sdist)
    except Failure as failure:
        print(f"{table(rows)}\n\n{failure}")
        return 1
    print(f"\n{table(rows)}\nsdist without CUDA: {source['sdist']}, {source['says']}")
    if options.record:
        record(rows, source)
    return 0


if __name__ == "__main__":
    sys.exit(main())
