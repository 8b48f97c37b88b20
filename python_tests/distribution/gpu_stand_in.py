"""A GPU for the report's own tests: the emulated kernels on a CPU, and one class for each way to fall short."""

import os
import time

import torch

from benchmarks import gpu
from benchmarks.gpu import ROOT, StepFailed
from swiftnet_ext import ops
from swiftnet_ext.ops import current_backend


class StandIn:
    stand_in = True
    backend, device = "emulated", "cpu"
    suite = ("core/ops/test_contract.py", "-k", "empty_batch")
    sanitizer = os.environ.get("STAND_IN_SANITIZER", "")
    shrink = 16
    legacy_suite = suite
    legacy_archs = "compute_61"

    def describe(self):
        return {"name": "Stand-in", "compute_capability": "0.0", "stand_in": True}

    def build(self):
        return {"architecture": "none"}

    def matrix_dtypes(self):
        return [torch.bfloat16]

    def control_program(self):
        return "sanitizer_control"

    def fp32_peak(self):
        return 40.0

    def legacy(self):
        return ROOT

    def module_facts(self, package, **environment):
        reason = "JIT is off" if "CUDA_DISABLE_PTX_JIT" in environment else ""
        return {"cuda_version": "11.8", "cuda_archs": self.legacy_archs, "file": f"{ROOT}/_C.so", "why_not": reason}

    def synchronize(self):
        pass

    def memory(self):
        return {"allocated": 0, "reserved": 0, "process_kb": 0}

    def pressure(self):
        return []

    def on_side_stream(self, function):
        return function()

    def capture(self, function):
        y = function()
        return lambda: y.copy_(function()), y

    def launches(self, function):
        from swiftnet_ext import _native

        emulation = _native.emulated()[0].emulation
        emulation.take_launches()
        function()
        return len(emulation.take_launches())

    def microseconds(self, function, repeats, warm_up=5):
        return 20.0 if current_backend()[0] == "reference" else 1.0  # the real sizes take minutes here

    def wall_microseconds(self, function, repeats):
        return self.microseconds(function, repeats) + 10.0

    def compile(self, function):
        return function

    def release(self):
        pass

    def copy_rate(self):
        return 500.0

    def matrix_rate(self, dtype):
        return 10.0 if dtype == torch.float32 else 80.0


class FailingBuild(StandIn):
    def build(self):
        raise StepFailed("cmake ended with status 1")


class SkippedTest(StandIn):
    suite = ("distribution/skipped.py",)


class OneBit(StandIn):
    """Another result now and then, as a race would give it."""

    def on_side_stream(self, function):
        y = function()
        y.view(-1)[-1:].add_(1)
        return y


class NoCapture(StandIn):
    def capture(self, function):
        raise RuntimeError("operation not permitted when stream is capturing")


class StaleGraph(StandIn):
    def capture(self, function):
        return (lambda: None), function()


class NoCompiler(StandIn):
    def compile(self, function):
        raise RuntimeError("no working C compiler\nwas found")


class FailsWhenTimed(StandIn):
    """A side that gives its result, and then has no memory left."""

    def wall_microseconds(self, function, repeats):
        if current_backend()[0] == "reference":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().wall_microseconds(function, repeats)


class WrongKernels(StandIn):
    """The emulated 3×3s and labels are off."""

    def __init__(self):
        for name in ("conv3x3", "upsample_blend", "multiscale_mean"):
            setattr(ops, name, self.one_more(getattr(ops, name)))

    def one_more(self, right):
        return lambda *args, **kwargs: right(*args, **kwargs) + (current_backend()[0] != "reference")


class Growing(StandIn):
    calls = 0

    def memory(self):
        Growing.calls += 1
        return {"allocated": 512 * Growing.calls, "reserved": 0, "process_kb": 0}


class NothingLaunched(StandIn):
    def launches(self, function):
        return 0


class Hanging(StandIn):
    def on_side_stream(self, function):
        time.sleep(1000)


class Crashing(StandIn):
    def on_side_stream(self, function):
        os._exit(139)


class Unlike(StandIn):
    """Answers that the emulation does not give."""

    backend = "reference"

    def __init__(self):
        from core.ops import cases

        right = cases.Conv3x3.call
        cases.Conv3x3.call = lambda case, t, variant: right(case, t, variant) + (current_backend()[0] == "reference")


class Slow(StandIn):
    """Half of what is asked of the convolutions, and all else as fast as PyTorch."""

    def fp32_peak(self):
        return 431.0

    def microseconds(self, function, repeats, warm_up=5):
        return 1.0


class MachineCode(StandIn):
    """A module that is not PTX alone: it needs no compiler in the driver."""

    def module_facts(self, package, **environment):
        return dict(super().module_facts(package), why_not="")


class NoJit(StandIn):
    def module_facts(self, package, **environment):
        return dict(super().module_facts(package), why_not="the PTX is too new")


class OtherArchitecture(StandIn):
    legacy_archs = "61 90+PTX"


class NoLegacyKernels(StandIn):
    def legacy(self):
        gpu.LEGACY_KERNELS = ROOT / "nowhere"
        return gpu.CudaDevice().legacy()


class InstalledPackage(StandIn):
    """A folder without the package, so that another one is imported."""

    def legacy(self):
        return ROOT / "nowhere"

    def module_facts(self, package, **environment):
        return gpu.CudaDevice().module_facts(package, **environment)
