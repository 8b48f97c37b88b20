"""Which implementation runs, what is said about it, and what an import does."""

import json
import os
import subprocess
import sys
import warnings

import pytest
import torch

import swiftnet_ext as sx
from swiftnet_ext import _native, info
from swiftnet_ext.ops import backend as backend_module
from swiftnet_ext.ops import current_backend
from swiftnet_ext.ops.backend import no_tensor_cores


def run(x=None):
    x = torch.zeros(1, 2, 4, 4) if x is None else x
    return sx.ops.conv3x3(x, torch.zeros(2, 2, 3, 3, dtype=x.dtype))


@pytest.fixture
def nothing_said_yet(monkeypatch):
    monkeypatch.setattr(backend_module, "_warned", set())


@pytest.fixture
def no_native_module(monkeypatch):
    monkeypatch.setattr(_native, "_loaded", {"native": (None, "it is gone"), "emulated": (None, "it is not built")})


def test_a_setting_holds_for_a_block_or_for_good():
    before = current_backend()
    with sx.use_backend("reference", strict=True):
        assert current_backend() == ("reference", True)
        with sx.use_backend("auto"):
            assert current_backend() == ("auto", False)
        assert current_backend() == ("reference", True)
    assert current_backend() == before
    handle = sx.use_backend("reference")
    assert current_backend() == ("reference", False)
    handle.__exit__()
    with pytest.raises(ValueError, match="expected one of auto, reference, cpu, emulated, cuda, got 'gpu'"):
        sx.use_backend("gpu")


def test_a_cpu_tensor_runs_the_reference_without_a_word(nothing_said_yet):
    with warnings.catch_warnings(), sx.use_backend("auto", strict=True):
        warnings.simplefilter("error")
        run()


def test_what_the_native_cpu_kernels_run(nothing_said_yet, monkeypatch):
    """Under "auto" channels_last maps of their dtypes, under "cpu" any layout; nothing is said of what "auto" leaves."""
    ran = []
    native = _native.cpu()[0]
    monkeypatch.setattr(_native, "cpu", lambda: (ran.append(1), (native, ""))[1])
    contiguous = torch.zeros(1, 2, 4, 4)
    last = contiguous.contiguous(memory_format=torch.channels_last)
    with sx.use_backend("auto", strict=True):
        for x, times in ((contiguous, 0), (last, 1), (last.bfloat16(), 1), (last.half(), 0), (last.double(), 0)):
            del ran[:]
            run(x)
            assert len(ran) == times
        del ran[:]
        sx.ops.multiscale_mean([contiguous], (8, 8))
        assert ran
    with sx.use_backend("cpu", strict=True):
        del ran[:]
        run(contiguous)
        run(last.double())
        assert len(ran) == 1
        with pytest.raises(sx.BackendError, match="the native CPU kernels take float32 and bfloat16, not float16"):
            run(last.half())
        with pytest.raises(sx.BackendError, match="4096 pooling cells in all, at most 1024"):
            x, weight = torch.zeros(1, 2, 64, 64), torch.zeros(1, 2, 2)
            sx.ops.spatial_pyramid_pool(x, weight, torch.zeros(2, 4), grids=[(64, 64)])


@pytest.mark.parametrize(
    "name, reason",
    [
        ("cpu", "it is gone"),
        ("cuda", "the CUDA kernels take CUDA tensors, not cpu"),
        ("emulated", "it is not built"),
    ],
)
def test_a_fallback_warns_once_and_strict_raises(name, reason, nothing_said_yet, no_native_module):
    with sx.use_backend(name):
        with pytest.warns(RuntimeWarning, match="conv3x3: the kernel can't run here: " + reason):
            run()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run()
    with sx.use_backend(name, strict=True), pytest.raises(sx.BackendError, match=reason):
        run()


class StandIn:
    """A compiled module as it is where something is missing, and a tensor of a GPU that is not there."""

    def __init__(self, cuda_version="11.8", archs="61 75", no_cuda_reason="", why_not=""):
        self.info = {"cuda_version": cuda_version, "cuda_archs": archs, "no_cuda_reason": no_cuda_reason}
        self.why_not = why_not
        self.asked = 0

    def build_info(self):
        return self.info

    def why_not_on_device(self, index):
        self.asked += 1
        return self.why_not

    class CudaTensor:
        device, dtype = torch.device("cuda", 0), torch.float32


FAULTS = {
    "binary": ((None, "the compiled module swiftnet_ext._C could not be imported (gone)"), "could not be imported"),
    "kernels": (
        (StandIn("", "", "no CUDA toolkit was found"), ""),
        "built without CUDA kernels: no CUDA toolkit was found",
    ),
    "architecture": (
        (StandIn(why_not="the binary has no code for this GPU of compute capability 5.2"), ""),
        r"no code for this GPU of compute capability 5.2 \(built with CUDA 11.8 for 61 75\)",
    ),
    "driver": (
        (StandIn(why_not="cudaErrorInsufficientDriver: CUDA driver version is insufficient"), ""),
        r"cudaErrorInsufficientDriver: .* \(built with CUDA 11.8 for 61 75\)",
    ),
}


@pytest.mark.parametrize("missing", sorted(FAULTS))
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_what_is_missing_is_said_once_and_raises_when_strict(missing, name, nothing_said_yet, monkeypatch):
    loaded, reason = FAULTS[missing]
    monkeypatch.setattr(_native, "_loaded", {"native": loaded})
    monkeypatch.setattr(_native, "_device_reasons", {})
    with sx.use_backend(name):
        with pytest.warns(RuntimeWarning, match=reason) as warned:
            for _ in range(3):
                assert backend_module.kernels_for("conv3x3", StandIn.CudaTensor()) is None
        assert len(warned) == 1
        with pytest.warns(RuntimeWarning, match="swiftnet_ext.lateral_add: .*" + reason):
            backend_module.kernels_for("lateral_add", StandIn.CudaTensor())
    with sx.use_backend(name, strict=True), pytest.raises(sx.BackendError, match=reason):
        backend_module.kernels_for("conv3x3", StandIn.CudaTensor())


def test_a_device_is_asked_once(monkeypatch):
    module = StandIn()
    monkeypatch.setattr(_native, "_loaded", {"native": (module, "")})
    monkeypatch.setattr(_native, "_device_reasons", {})
    for _ in range(3):
        assert _native.cuda(0) == (module, "")
    assert module.asked == 1


@pytest.mark.kernels_only
def test_no_memory_for_a_workspace_is_a_clear_error(backend, device):
    """Maps of one stored image repeated, so that the workspace alone is too large."""
    pooled = torch.zeros(1, 10**6, 1, 1, device=device).expand(10**6, 10**6, 1, 1)
    weight = torch.zeros(1, 1, 1, device=device).expand(1, 1, 10**6)
    fuse = torch.zeros(1, 1, device=device).expand(1, 10**6 + 1)
    message = r"spatial_pyramid_pool: no memory for its workspace of \d+\.\d MiB on " + device
    with pytest.raises(RuntimeError, match=message):
        sx.ops.spatial_pyramid_pool(pooled, weight, fuse, grids=[(1, 1)])
    one = torch.ones(1, 1, 1, 1, device=device)  # and the process goes on
    y = sx.ops.spatial_pyramid_pool(one, one[0], torch.ones(1, 2, device=device), grids=[(1, 1)])
    assert y.tolist() == [[[[2.0]]]]


@pytest.mark.cuda_source
def test_dtypes_that_kernels_lack(nothing_said_yet, backend):
    with pytest.raises(sx.BackendError, match="the kernels take float32 and float16, not bfloat16"):
        run(torch.zeros(1, 2, 4, 4, dtype=torch.bfloat16, device="cuda" if backend == "cuda" else "cpu"))
    run(torch.zeros(1, 2, 4, 4, dtype=torch.float64))  # the reference by definition: neither a word nor an error


@pytest.mark.cuda_source
def test_what_a_kernel_cannot_do_is_its_reason(nothing_said_yet, backend, device):
    x = torch.zeros(1, 2, 64, 64, device=device)
    with pytest.raises(sx.BackendError, match="4096 pooling cells in all, at most 1024"):
        sx.ops.spatial_pyramid_pool(
            x, torch.zeros(1, 2, 2, device=device), torch.zeros(2, 4, device=device), grids=[(64, 64)]
        )
    with pytest.raises(sx.BackendError, match="33 maps, at most 32"):
        sx.ops.multiscale_mean([x] * 33, (4, 4))
    wide = torch.zeros(1, 500, 4, 8, device=device)
    reason = "500 classes and maps of these sizes need 68192 bytes of shared memory for 4 × 8 pixels, at most 49152"
    with pytest.raises(sx.BackendError, match=reason):
        sx.ops.multiscale_mean([wide], (4, 8))
    with sx.use_backend(backend), pytest.warns(RuntimeWarning, match=reason):
        assert float(sx.ops.multiscale_mean([wide], (4, 8)).sum()) == pytest.approx(32)


def fresh(*arguments, **variables):
    """The output of a new interpreter, started where the source tree does not hide the installed package."""
    environment = dict(os.environ, **variables)
    here = os.path.dirname(os.path.abspath(__file__))
    return subprocess.check_output([sys.executable] + list(arguments), env=environment, cwd=here).decode()


def test_importing_touches_no_gpu_and_survives_a_fork():
    code = (
        "import os, torch, swiftnet_ext as sx\n"
        "assert not torch.cuda.is_initialized()\n"
        "pid = os.fork()\n"
        "y = sx.ops.conv3x3(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))\n"
        "assert y[0, 0, 1, 1] == 9\n"
        "os._exit(0) if pid == 0 else print('status', os.waitpid(pid, 0)[1])"
    )
    assert fresh("-c", code, OMP_NUM_THREADS="1").strip() == "status 0"


def test_environment_variables_set_it():
    code = "from swiftnet_ext.ops import current_backend; print(current_backend())"
    assert fresh("-c", code, SWIFTNET_EXT_BACKEND="reference", SWIFTNET_EXT_STRICT="1").strip() == "('reference', True)"
    with pytest.raises(subprocess.CalledProcessError):
        fresh("-c", code, SWIFTNET_EXT_BACKEND="fastest")


@pytest.mark.parametrize(
    "op, capability, run",
    [
        ("conv3x3", (8, 0), ("emulated kernel", "for channels_last maps with channels in eights, else plain PyTorch")),
        ("upsample_blend", (7, 5), ("reference", no_tensor_cores(torch.bfloat16, (7, 5)))),
        ("lateral_add", (8, 0), ("reference", "the kernels take float32 and float16, not bfloat16")),
    ],
)
@pytest.mark.cuda_source
def test_info_of_bfloat16(op, capability, run, backend, monkeypatch):
    monkeypatch.setattr(info, "capability_of", lambda kernels, device: capability)
    device = torch.device("cuda", 0) if backend == "cuda" else torch.device("cpu")
    said = info._would_run(op, device, torch.bfloat16)
    assert (said["runs"].replace("CUDA", "emulated"), said["reason"]) == run


def test_info_says_what_would_run_and_why():
    said = json.loads(fresh("-m", "swiftnet_ext.info", "--json"))
    assert said["swiftnet_ext"] == sx.__version__ and said["torch"] == torch.__version__
    (cpu,) = [d for d in said["devices"] if d["device"] == "cpu"]
    assert set(cpu["operators"]) == set(sx.ops.OPERATORS)
    natively = {"runs": "native CPU kernel", "reason": "for channels_last maps, else plain PyTorch"}
    lacking = "the native CPU kernels take float32 and bfloat16, not float16"
    for op, runs in cpu["operators"].items():
        native = dict(natively, reason="") if op == "multiscale_mean" else natively
        reference = {"runs": "reference", "reason": lacking}
        assert runs == {"float32": native, "float16": reference, "bfloat16": native}, op
    assert said["cpu_kernels"]["level"] == said["cpu_kernels"]["levels"][0]
    assert said["built_for_architectures"] or said["no_kernels_reason"] or said["native_module_reason"]
    assert said["modules"]["upsampling, 3x3"] == "upsample_blend"
    assert said["modules"]["upsampling, grouped"].startswith(
        "lateral_add; the rest in plain PyTorch: blend_conv.conv has"
    )
    text = fresh("-m", "swiftnet_ext.info")
    assert "upsample_add_conv3x3" in text and "CUDA kernels" in text and said["cpu_kernels"]["level"] in text
