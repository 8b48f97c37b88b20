"""Backends as a parameter. A backend that a run names must work: its absence fails the run instead of skipping it."""

import collections
import itertools
import math
import os
import sys
import zlib

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
os.environ.setdefault("SWIFTNET_EXT_EMULATION", os.path.join(ROOT, "build", "emulation"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

collect_ignore = (
    [] if sys.version_info >= (3, 9) else ["emulation", "engine", "distribution", "prove"]
)  # these ask for Python 3.9
# one test of these takes as long as hundreds of others: begun last, it would leave the other workers without any
LONG = ("test_train.py", "test_gpu_report.py", "test_configure.py", "test_cli.py", "test_export.py")


def pytest_addoption(parser):
    parser.addoption(
        "--backends",
        default="reference,emulated,cpu",
        help="comma-separated backends the operator tests must cover; cuda is added where a GPU is at hand",
    )
    parser.addoption(
        "--every",
        type=int,
        default=1,
        help="of each test on each backend one case in N, and at least one; their parameters' values vary",
    )


def _backends(config):
    import torch

    named = [b for b in config.getoption("--backends").split(",") if b]
    return named + (["cuda"] if torch.cuda.is_available() and "cuda" not in named else [])


def pytest_configure(config):
    import torch

    config.addinivalue_line("markers", "kernels_only: says nothing about the reference, and is not run on it")
    config.addinivalue_line("markers", "cuda_source: is about the CUDA kernels, on a GPU or emulated")
    config.addinivalue_line("markers", "each_dtype: is run in each dtype that the backend's kernels take")

    # TF32 would make PyTorch's own error, which ours is measured against, a thousand times larger
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def pytest_report_header(config):
    return "swiftnet_ext backends under test: " + ", ".join(_backends(config))


def pytest_generate_tests(metafunc):
    if "backend" in metafunc.fixturenames:
        backends = _backends(metafunc.config)
        if metafunc.definition.get_closest_marker("kernels_only"):
            backends = [b for b in backends if b != "reference"]
        if metafunc.definition.get_closest_marker("cuda_source"):
            backends = [b for b in backends if b not in ("reference", "cpu")]
        metafunc.parametrize("backend", backends, indirect=True)


def pytest_collection_modifyitems(config, items):
    import torch

    def parameters(item):
        return item.callspec.params if hasattr(item, "callspec") else {}

    def is_taken(item):
        if not isinstance(parameters(item).get("backend", ""), str):  # pytest's mark of a parameter without values
            return False
        if item.get_closest_marker("each_dtype") is None:
            return True
        lacking = torch.float16 if parameters(item)["backend"] == "cpu" else torch.bfloat16
        return parameters(item)["dtype"] is not lacking

    groups = collections.OrderedDict()  # type: collections.OrderedDict
    for item in filter(is_taken, items):
        groups.setdefault((item.nodeid.split("[")[0], parameters(item).get("backend", "")), []).append(item)
    kept = set()
    for (name, backend), cases in groups.items():
        kept.update(_drawn(cases, config.getoption("--every"), zlib.crc32((name + backend).encode())))
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    drawn = [item for item in items if item in kept]
    items[:] = sorted(drawn, key=lambda item: os.path.basename(str(item.fspath)) not in LONG)


def _drawn(cases, every, offset):
    """One case in `every`, at a distance that has no divisor in common with a parameter's number of values."""
    step = next(step for step in itertools.count(every) if math.gcd(step, len(cases)) == 1)
    return [cases[(offset + i * step) % len(cases)] for i in range(-(-len(cases) // every))]


@pytest.fixture
def backend(request):
    """The backend's name, in force and strict: a kernel that can't run fails the test."""
    import swiftnet_ext as sx

    with sx.use_backend(request.param, strict=True):
        yield request.param


@pytest.fixture
def device(backend):
    return "cuda" if backend == "cuda" else "cpu"


def pytest_sessionfinish(session):
    """The coverage build's counts; a worker of pytest-xdist ends without the exit handlers that would write them."""
    native = sys.modules.get("swiftnet_ext._native")
    module = native._loaded.get("emulated", (None, ""))[0] if native else None
    if hasattr(getattr(module, "emulation", None), "write_coverage"):
        module.emulation.write_coverage()
