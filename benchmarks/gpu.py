"""The GPU as the report's steps and gpu_speed.py see it. Tests put a stand-in with the same methods in its place."""

import gc
import importlib.util
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import torch

ROOT = Path(__file__).parents[1]
LEGACY_KERNELS = ROOT / "build" / "legacy-kernels"
MODULE_FACTS = """import json
from swiftnet_ext import _native
module, _ = _native.native()
facts = dict(module.build_info(), file=module.__file__) if module else {}
print(json.dumps({**facts, "why_not": _native.cuda(0)[1]}))"""


class StepFailed(Exception):
    """A step fell short; the message says of what. `measured` is what it found nevertheless."""

    def __init__(self, reason: str, **measured: object) -> None:
        super().__init__(reason)
        self.measured = measured


def run(command: List[object], **kwargs) -> str:
    done = subprocess.run(
        [str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs
    )
    if done.returncode:
        raise StepFailed(f"{' '.join(map(str, command))} ended with status {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout


def load_device(name: str):
    """The class FILE:CLASS."""
    path, _, cls = name.rpartition(":")
    spec = importlib.util.spec_from_file_location("report_device", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, cls)()


def fp32_without_tf32() -> None:
    """From here on cuDNN chooses its algorithms by timing them, and fp32 is fp32."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


class CudaDevice:
    """The first CUDA device."""

    stand_in = False
    backend = device = "cuda"
    suite = (
        "core/ops",
        "core/test_backend.py",
        "core/test_models.py",
        "core/test_multi_scale.py",
        "core/test_replace.py",
    )
    legacy_suite = ("core/ops",)
    sanitizer = "compute-sanitizer"
    shrink = 1  # what simt and gpu_speed divide their maps' sides by

    def describe(self) -> Dict[str, object]:
        properties = torch.cuda.get_device_properties(0)
        fields = "driver_version,clocks.sm,clocks.max.sm,clocks.max.mem,power.limit"
        smi = run(["nvidia-smi", "--id=0", f"--query-gpu={fields}", "--format=csv,noheader"]).strip().split(", ")
        return {
            "name": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            **dict(zip(fields.split(","), smi)),
            "torch": torch.__version__,
            "torch_cuda": torch.version.cuda,
        }

    def build(self) -> Dict[str, object]:
        """The module for this GPU's architecture, beside the package's source, and the emulated one."""
        major, minor = torch.cuda.get_device_capability(0)
        architecture = f"{major}{minor}" + ("a" if major == 9 else "")
        folder = ROOT / "build" / "gpu"
        cmake_build(folder, f"-DSWIFTNET_EXT_CUDA=on -DSWIFTNET_EXT_CUDA_ARCHS={architecture}", ROOT / "swiftnet_ext")
        cmake_build(ROOT / "build" / "emulation", "-DSWIFTNET_EMULATION=ON")
        return {"architecture": architecture}

    def matrix_dtypes(self) -> List[torch.dtype]:
        """What its tensor cores take."""
        from swiftnet_ext.ops.backend import tensor_cores_take

        capability = torch.cuda.get_device_capability(0)
        return [dtype for dtype in (torch.float16, torch.bfloat16) if tensor_cores_take(dtype, capability)]

    def control_program(self) -> Path:
        """A program that does wrong what its argument names; a sanitizer that says nothing of it is not at work."""
        return nvcc_build("sanitizer_control")

    def fp32_peak(self) -> float:
        """TFLOP/s of a program that does nothing but multiply-adds in fp32."""
        return float(run([nvcc_build("fp32_peak")]))

    def legacy(self) -> Path:
        """A folder with a copy of the package whose module has the kernels that `make legacy-kernels` made."""
        if not LEGACY_KERNELS.is_dir():
            raise StepFailed(
                f"{LEGACY_KERNELS} is missing; `make legacy-kernels` makes it where CUDA 11.8 is installed"
            )
        folder = ROOT / "build" / "legacy"
        package = folder / "package" / "swiftnet_ext"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(ROOT / "swiftnet_ext", package, ignore=shutil.ignore_patterns("_C*", "__pycache__"))
        cmake_build(folder / "tree", f"-DSWIFTNET_EXT_KERNELS={LEGACY_KERNELS}", package)
        return package.parent

    def module_facts(self, package: Path, **environment: str) -> Dict[str, str]:
        """What a package's module says of itself, and why it does not run on this GPU, in a process of its own."""
        variables = dict(os.environ, PYTHONPATH=str(package), CUDA_CACHE_DISABLE="1", **environment)
        output = run([sys.executable, "-c", MODULE_FACTS], cwd=ROOT / "python_tests", env=variables)
        return json.loads(output.splitlines()[-1])

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def memory(self) -> Dict[str, int]:
        """Bytes of PyTorch's allocator, kilobytes of the process."""
        return {
            "allocated": torch.cuda.memory_allocated(),
            "reserved": torch.cuda.memory_reserved(),
            "process_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }

    def pressure(self) -> List[torch.Tensor]:
        """Tensors that hold all but 2 GB of the free memory, so that the allocator reuses what it has."""
        free = torch.cuda.mem_get_info()[0] - 2 * 10**9
        return [torch.empty(max(free, 0), dtype=torch.uint8, device="cuda")]

    def on_side_stream(self, function: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The result of a call on a stream of its own, while the default stream is busy."""
        torch.cuda.synchronize()
        busy = torch.randn(4096, 4096, device="cuda")
        side = torch.cuda.Stream()
        for _ in range(4):
            busy = busy @ busy / 64
        with torch.cuda.stream(side):
            y = function()
        torch.cuda.current_stream().wait_stream(side)
        y.record_stream(torch.cuda.current_stream())
        return y

    def capture(self, function: Callable[[], torch.Tensor]) -> Tuple[Callable[[], None], torch.Tensor]:
        """(replay, output) of a CUDA graph of one call."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            function()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = function()
        return graph.replay, y

    def launches(self, function: Callable[[], object]) -> int:
        """How many of this package's kernels a function launches."""
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            function()
            torch.cuda.synchronize()
        return sum(e.count for e in profile.key_averages() if "swiftnet::" in e.key)

    def microseconds(self, function: Callable[[], object], repeats: int, warm_up: int = 5) -> float:
        """The median time of a call, by events."""
        for _ in range(warm_up):
            function()
        times = []
        for _ in range(repeats):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            function()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) * 1000)
        return statistics.median(times)

    def wall_microseconds(self, function: Callable[[], object], repeats: int) -> float:
        """The median time of a call with the wait for its end, by the host's clock."""
        times = []
        for _ in range(repeats):
            torch.cuda.synchronize()
            start = time.perf_counter()
            function()
            torch.cuda.synchronize()
            times.append((time.perf_counter() - start) * 1e6)
        return statistics.median(times)

    def compile(self, function: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        torch._dynamo.reset()  # its limit of recompilations would leave later functions as they are
        return torch.compile(function, mode="max-autotune-no-cudagraphs", fullgraph=True, dynamic=False)

    def release(self) -> None:
        """Gives back what calls have left behind: compiled code, graphs' memory, the allocator's own."""
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()

    def copy_rate(self) -> float:
        """GB/s, read and written, of a copy of 1 GiB."""
        source = torch.zeros(2**30, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        return 2 * source.numel() / self.microseconds(lambda: target.copy_(source), 20) / 1e3

    def matrix_rate(self, dtype: torch.dtype) -> float:
        """TFLOP/s of PyTorch's product of two matrices of 8192 × 8192."""
        a, b = torch.randn(2, 8192, 8192, device="cuda").to(dtype)
        return 2 * 8192**3 / self.microseconds(lambda: a @ b, 10) / 1e6


def nvcc_build(name: str) -> Path:
    """The program benchmarks/NAME.cu, compiled for this GPU."""
    program = ROOT / "build" / "gpu" / name
    program.parent.mkdir(parents=True, exist_ok=True)
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    run([nvcc, "-arch=native", "-lineinfo", "-o", program, ROOT / "benchmarks" / f"{name}.cu"])
    return program


def cmake_build(folder: Path, options: str, output: Path = None) -> None:
    configure = [
        "cmake",
        "-S",
        ROOT,
        "-B",
        folder,
        "-G",
        "Ninja",
        f"-DPython_EXECUTABLE={sys.executable}",
        *options.split(),
    ]
    configure += [f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output}"] if output else []
    # nvcc is often installed and not on the path
    environment = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/local/cuda/bin")
    run(configure, env=environment)
    run(["cmake", "--build", folder], env=environment)
