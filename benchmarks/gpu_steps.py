"""The GPU report's steps. Each runs in a process of its own: `python gpu_steps.py STEP DEVICE [--quick]`.

A step returns what it measured, and raises StepFailed where something fell short. Its process ends with a line of JSON.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import traceback
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Callable, Dict, Iterator, Sequence, Tuple

import torch

ROOT = Path(__file__).parents[1]
for folder in (ROOT, ROOT / "python_tests", ROOT / "benchmarks"):
    sys.path.insert(0, str(folder))

from core.ops import test_tensor_cores as tensor_cores  # noqa: E402
from core.ops.cases import CUDA_COMBINATIONS, CUDA_DTYPES  # noqa: E402
from core.ops.operator_case import FORMATS, bound  # noqa: E402

import swiftnet_ext as sx  # noqa: E402
from benchmarks.gpu import StepFailed, fp32_without_tf32, load_device  # noqa: E402

SCRATCH = Path(os.environ.get("GPU_REPORT_SCRATCH", ROOT / "build" / "gpu_report"))  # tools' own logs
SMALL = [
    (2, 16, 24, (5, 17), (9, 33)), (1, 17, 65, (2, 16), (3, 32)), (1, 3, 4, (4, 8), (8, 16)), (1, 9, 17, (5, 17), (9, 33)),
]  # fmt: skip
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")


def combinations() -> Iterator[Tuple]:
    """(case, variant, dtype, memory format, name) of every operator."""
    for combination, memory_format in itertools.product(CUDA_COMBINATIONS, FORMATS):
        case, variant, dtype = combination.values
        yield case, variant, dtype, memory_format, f"{case.name} {variant} {str(dtype)[6:]} {memory_format}"


def call(device, case, t, variant: str) -> torch.Tensor:
    with sx.use_backend(device.backend, strict=True), torch.no_grad():
        return case.call(t, variant)


def flat(t) -> list:
    """The tensors among an operator's arguments."""
    return [x for v in t.values() for x in (v if isinstance(v, list) else [v]) if isinstance(x, torch.Tensor)]


def describe(device, quick: bool) -> Dict[str, object]:
    return device.describe()


def build(device, quick: bool) -> Dict[str, object]:
    return device.build()


def suite(device, quick: bool) -> Dict[str, object]:
    """The operators' and networks' tests on this backend."""
    return tests(device, device.suite, ROOT)


def tests(device, chosen: Sequence[str], package: Path) -> Dict[str, object]:
    """Tests on this backend, with the package in this folder. A skipped test was meant to run."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    report = SCRATCH / "suite.xml"
    report.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--junitxml={report}",
        "--backends",
        device.backend,
    ]
    environment = dict(os.environ, PYTHONPATH=str(package))
    done = subprocess.run(
        [*command, *chosen], cwd=ROOT / "python_tests", env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if not report.exists():
        raise StepFailed(f"pytest ended with status {done.returncode} and no report:\n{done.stdout[-2000:]}")
    counts = ElementTree.parse(report).getroot().find("testsuite").attrib
    failed, skipped = int(counts["failures"]) + int(counts["errors"]), int(counts["skipped"])
    passed = int(counts["tests"]) - failed - skipped
    if done.returncode or failed or skipped or not passed:
        raise StepFailed(f"{passed} passed, {failed} failed, {skipped} skipped:\n{done.stdout[-3000:]}")
    return {"passed": passed, "failed": failed, "skipped": skipped}


def small(quick: bool) -> Sequence[Tuple]:
    return SMALL[2:3] if quick else SMALL  # the one of whole numbers


def every_operator(device, quick: bool) -> int:
    """Each operator, mode, dtype and layout on small awkward shapes; the number of calls."""
    calls = 0
    for case, variant, dtype, memory_format, _ in combinations():
        for shape in small(quick):
            call(device, case, case.make(shape, variant, dtype, memory_format, device.device), variant)
            calls += 1
    of_matrix = tensor_cores.SMALL[:1] if quick else tensor_cores.SMALL
    for case, dtype, shape in itertools.product(tensor_cores.CASES, device.matrix_dtypes(), of_matrix):
        with sx.use_backend(device.backend, strict=True), torch.no_grad():
            case.call(tensor_cores.arguments(case.names, shape, dtype, device.device))
        calls += 1
    device.synchronize()
    return calls


def sanitizer(device, quick: bool) -> Dict[str, object]:
    """compute-sanitizer's tools over every operator, each after a program with a fault that it must find."""
    control, tools = device.control_program(), TOOLS[:1] if quick else TOOLS
    for tool in tools:
        if _errors(device, tool, [control, tool]) == 0:
            raise StepFailed(f"{tool} says nothing of a program with the fault it is made for; it is not at work here")
    kernels = device.launches(lambda: every_operator(device, quick))
    if not kernels:
        raise StepFailed("none of the package's kernels was launched, so the tools would have seen none")
    found: Dict[str, object] = {"kernels": kernels}
    target = [sys.executable, __file__, "every_operator", device.name] + ["--quick"] * quick
    for tool in tools:
        errors = _errors(device, tool, target)
        if errors:
            raise StepFailed(f"{tool}: {errors} errors; see {SCRATCH / tool}.log")
        found[tool] = {"errors": errors, "kernels_seen": kernels}
    return found


def _errors(device, tool: str, command: list) -> int:
    """How many errors a tool's summary counts; its log goes to build/."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    log = SCRATCH / f"{tool}.log"
    log.unlink(missing_ok=True)
    done = subprocess.run(
        [device.sanitizer, "--tool", tool, "--log-file", str(log), *map(str, command)], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    text = log.read_text() if log.exists() else ""
    summary = re.findall(r"SUMMARY: (\d+) (?:error|hazard)", text)
    if not summary:
        raise StepFailed(f"{tool} ended with status {done.returncode} and no summary:\n{(done.stdout + text)[-2000:]}")
    errors = int(summary[-1])
    ran = "calls" in done.stdout or "every_operator" not in map(str, command)
    if not errors and not ran:
        raise StepFailed(f"{tool}: the operators did not run to their end:\n{(done.stdout + text)[-2000:]}")
    return errors


def repeats(device, quick: bool) -> Dict[str, object]:
    """1000 bit-equal calls of every operator while memory is short and the allocator is kept busy."""
    held, count, shape = device.pressure(), 10 if quick else 1000, small(quick)[0]
    for case, variant, dtype, memory_format, name in _one_layout_each():
        t = case.make(shape, variant, dtype, memory_format, device.device)
        first = call(device, case, t, variant)
        for i in range(count - 1):
            if i % 10 == 0:
                torch.full((1 + 977 * i,), float("nan"), device=device.device)  # other contents for the next output
            if not torch.equal(call(device, case, t, variant), first):
                raise StepFailed(f"{name}: call {i + 2} gave other bits than the first")
    return {"calls_each": count, "held_gib": round(sum(h.numel() for h in held) / 2**30, 1)}


def _one_layout_each() -> Iterator[Tuple]:
    """Every operator and mode in fp32 NCHW and fp16 channels_last."""
    return (c for c in combinations() if (c[2] == torch.float32) == (c[3] == "contiguous"))


def streams(device, quick: bool) -> Dict[str, object]:
    """The same bits on a side stream beside a busy default stream."""
    checked = 0
    for case, variant, dtype, memory_format, name in combinations():
        t = case.make(SMALL[1], variant, dtype, memory_format, device.device)
        expected = call(device, case, t, variant)
        if not torch.equal(device.on_side_stream(lambda c=case, t=t, v=variant: call(device, c, t, v)), expected):
            raise StepFailed(f"{name}: other bits on a side stream")
        checked += 1
    return {"checked": checked}


def graphs(device, quick: bool) -> Dict[str, object]:
    """Capture, then 100 replays over new inputs with the bits of plain calls."""
    replays, shape = 2 if quick else 100, small(quick)[0]
    for case, variant, dtype, memory_format, name in _one_layout_each():
        t = case.make(shape, variant, dtype, memory_format, device.device)
        replay, y = device.capture(lambda c=case, t=t, v=variant: call(device, c, t, v))
        for seed in range(1, replays + 1):
            for old, new in zip(flat(t), flat(case.make(shape, variant, dtype, memory_format, device.device, seed))):
                old.copy_(new)
            replay()
            if not torch.equal(y, call(device, case, t, variant)):
                raise StepFailed(f"{name}: replay {seed} gave other bits than a plain call")
    return {"replays_each": replays}


def growth(device, quick: bool) -> Dict[str, object]:
    """1000 calls of every operator take no more memory than the first 50 did; 8 MB of the process are
    the interpreter's own, less than half a kilobyte a call."""

    def all_operators(count: int) -> None:
        for case, variant, dtype, memory_format, _ in _one_layout_each():
            t = case.make(SMALL[2], variant, dtype, memory_format, device.device)
            for _ in range(count):
                call(device, case, t, variant)
        device.synchronize()

    warm_up, count = (2, 10) if quick else (50, 1000)
    all_operators(warm_up)
    before = device.memory()
    all_operators(count)
    after = device.memory()
    for name, slack in (("allocated", 0), ("reserved", 0), ("process_kb", 8192)):
        if after[name] > before[name] + slack:
            raise StepFailed(f"{name} grew from {before[name]} to {after[name]} in {count} calls of each operator")
    return {"calls_each": count, "before": before, "after": after}


def emulator(device, quick: bool) -> Dict[str, object]:
    """The emulated kernels on the same inputs: whole numbers bit by bit, others within both sides' derived bounds."""

    def whole(*size):
        return torch.randint(-2, 3, size, generator=torch.Generator().manual_seed(sum(size))).float()

    equal = within = 0
    for case, variant, dtype, memory_format, name in combinations():
        for shape in small(quick):
            for rand in (None, whole):
                # softmax and unequal windows are no exact arithmetic; a resize by powers of two is
                exact = (
                    rand is whole and case.name not in ("multiscale_mean", "spatial_pyramid_pool") and shape == SMALL[2]
                )
                t = case.make(shape, variant, dtype, memory_format, rand=rand)
                with sx.use_backend("emulated", strict=True):
                    expected = case.call(t, variant)
                given = case.make(shape, variant, dtype, memory_format, device.device, rand=rand)
                y = call(device, case, given, variant).cpu()
                if exact and not torch.equal(y, expected):
                    raise StepFailed(f"{name} {shape}: whole numbers differ from the emulation's")
                *_, allowed = bound(case, shape, t, variant, dtype)
                if not bool(((y.double() - expected.double()).abs() <= 2 * allowed).all()):
                    raise StepFailed(f"{name} {shape}: differs from the emulation by more than both may err")
                equal, within = equal + exact, within + (not exact)
    return {"bit_equal": equal, "within_bounds": within}


def benchmarks(device, quick: bool) -> Dict[str, object]:
    """Each operator at SwiftNet's sizes against plain PyTorch: medians by events, fp32 without TF32 and fp16."""
    from benchmarks.bench_operators import ROWS, drawer

    fp32_without_tf32()
    rows = []
    for name, dtype, memory_format in itertools.product(
        ROWS, CUDA_DTYPES, (torch.contiguous_format, torch.channels_last)
    ):
        function = ROWS[name](drawer(device.device, dtype, memory_format))
        times = {}
        with torch.inference_mode():
            for backend in ("reference", device.backend):
                with sx.use_backend(backend, strict=True):
                    times[backend] = device.microseconds(function, 3 if quick else 50)
        layout = "nhwc" if memory_format is torch.channels_last else "nchw"
        rows.append({
            "operator": name, "dtype": str(dtype)[6:], "layout": layout, "pytorch_us": round(times["reference"], 1),
            "kernel_us": round(times[device.backend], 1),
            "speedup": round(times["reference"] / times[device.backend], 2),
        })  # fmt: skip
    return {"rows": rows}


def simt(device, quick: bool) -> Dict[str, object]:
    """The fp32 kernels on SwiftNet-RN18's largest maps against eager PyTorch, and what is asked of them."""
    from benchmarks.simt import measure

    return measure(device, quick)


def legacy(device, quick: bool) -> Dict[str, object]:
    """The operators' tests with PTX of sm_61 by CUDA 11.8, which this GPU's driver compiles."""
    package = device.legacy()
    # for the whole suite, forcing would bar PyTorch's own machine code too
    forced = device.module_facts(package, CUDA_FORCE_PTX_JIT="1")
    barred = device.module_facts(package, CUDA_DISABLE_PTX_JIT="1")
    built = f"CUDA {forced.get('cuda_version')} for {forced.get('cuda_archs')}, {forced.get('file')}"
    if package not in Path(forced.get("file", "/")).parents or forced["cuda_archs"] != "compute_61":
        raise StepFailed(f"expected a module of compute_61 alone in {package}: {built} {forced['why_not']}")
    if forced["why_not"]:
        raise StepFailed(f"the driver does not compile the PTX ({built}): {forced['why_not']}")
    if not barred["why_not"]:
        raise StepFailed(f"the module runs without the driver's compiler too, so it is not PTX alone ({built})")
    return {
        "cuda": forced["cuda_version"],
        "architectures": forced["cuda_archs"],
        "without_jit": barred["why_not"],
        **tests(device, device.legacy_suite, package),
    }


STEPS: Dict[str, Callable[[object, bool], Dict[str, object]]] = {
    "device": describe,
    "build": build,
    "suite": suite,
    "sanitizer": sanitizer,
    "repeats": repeats,
    "streams": streams,
    "graphs": graphs,
    "growth": growth,
    "emulator": emulator,
    "benchmarks": benchmarks,
    "simt": simt,
    "legacy": legacy,
}


def result_of(step: str, device, quick: bool) -> Dict[str, object]:
    """What a step measured, or its failure and the reason."""
    try:
        return {"status": "passed", **STEPS[step](device, quick)}
    except StepFailed as failure:
        return {"status": "failed", "reason": str(failure), **failure.measured}
    except Exception:
        return {"status": "failed", "reason": traceback.format_exc()[-3000:]}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=[*STEPS, "every_operator"])
    parser.add_argument("device")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    device = load_device(options.device)
    device.name = options.device
    if options.step == "every_operator":
        print(f"{every_operator(device, options.quick)} calls")
        return 0
    result = result_of(options.step, device, options.quick)
    print(json.dumps(result))
    return int(result["status"] != "passed")


if __name__ == "__main__":
    sys.exit(main())
