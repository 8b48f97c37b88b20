"""Builds the compiled module with CMake and Ninja; see docs/building.md for what can be chosen. Imports no torch."""

import importlib
import os
import re
import shutil
import subprocess
import sys

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = os.path.dirname(os.path.abspath(__file__))


def read(*parts):
    with open(os.path.join(ROOT, *parts), encoding="utf-8") as file:
        return file.read()


def program(name, folder):
    """cmake or ninja: the build requirement's package, which may be newer than what the system has, or else the system's."""
    try:
        found = shutil.which(name, path=getattr(importlib.import_module(name), folder))
    except (ImportError, AttributeError):
        found = None
    found = found or shutil.which(name)
    if not found:
        raise RuntimeError("building swiftnet_ext needs {0}; pip install {0}".format(name))
    return found


class CMakeBuild(build_ext):
    def build_extension(self, ext):
        target = os.path.dirname(os.path.abspath(self.get_ext_fullpath(ext.name)))
        build = os.path.join(os.path.abspath(self.build_temp), "cmake")
        shutil.rmtree(build, ignore_errors=True)  # another toolkit's leftovers would be taken for this one's
        os.makedirs(build)
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        if not jobs.isdigit() or int(jobs) < 1:
            raise RuntimeError("MAX_JOBS: expected a positive number, got {!r}".format(jobs))
        cmake = program("cmake", "CMAKE_BIN_DIR")
        configure = [cmake, "-S", ROOT, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]
        configure += ["-DCMAKE_MAKE_PROGRAM=" + program("ninja", "BIN_DIR"), "-DPython_EXECUTABLE=" + sys.executable]
        configure += ["-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=" + target]
        subprocess.check_call(configure)
        subprocess.check_call([cmake, "--build", build, "-j", jobs])


EXTRAS = {
    "cli": ["typer>=0.12", "rich>=13", "pillow>=10", "safetensors>=0.4"],
    "train": ["lightning-fabric>=2.2", "tensorboard>=2.14", "matplotlib>=3.7", "pydantic>=2.5", "pyyaml>=6", "scipy>=1.10"],
    "export": ["onnx>=1.14"],
    "dev": ["pytest>=7", "pytest-benchmark>=4", "pytest-xdist>=3.2", "ruff==0.17.6", "mypy>=1.10",
            "clang-format==23.1.5", "vermin>=1.6", "cmake>=3.21", "ninja", "pybind11>=2.13", "setuptools>=77",
            "onnxruntime>=1.16"],
}  # fmt: skip
EXTRAS["train"] += EXTRAS["cli"]
EXTRAS["dev"] += EXTRAS["train"] + EXTRAS["export"]

setup(
    name="swiftnet_ext",
    version=re.search(r'^__version__ = "(.+)"', read("swiftnet_ext", "__init__.py"), re.M).group(1),
    description="Fused CUDA operators, networks and tools for SwiftNet, the real-time road-segmentation network",
    long_description=read("README.md"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["swiftnet_ext", "swiftnet_ext.*"]),
    package_data={"swiftnet_ext": ["weights/*", "configs/*", "engine/*.yaml", "py.typed"]},
    ext_modules=[Extension("swiftnet_ext._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    python_requires=">=3.6",
    install_requires=["torch>=1.10", "numpy"],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["swiftnet = swiftnet_ext.cli:main"]},
    zip_safe=False,
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: C++",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
