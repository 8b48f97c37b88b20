"""The executor of the native CPU kernels: every way of a step, one block of memory, no page faults."""

import os
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import swiftnet_ext as sx
from swiftnet_ext.optimize import onednn
from swiftnet_ext.optimize.arena import ALIGNMENT, Lifetime, allocate, arrange, total_bytes
from swiftnet_ext.optimize.fold import fold
from swiftnet_ext.optimize.plan import LOGITS, MaxPool, Tap
from swiftnet_ext.optimize.run_cpu import SIZES, CpuRun, why_not
from swiftnet_ext.optimize.run_torch import TorchRun
from swiftnet_ext.optimize.ways import winograd_tile

from .test_optimize import NETWORKS, as_floats, network, pictures, relative, titled

assert not why_not(torch.float32), why_not(torch.float32)  # that the kernels are not there is an error, not a skip
VARIED = [case for case in NETWORKS if "channels" in case[1]]


@pytest.fixture(autouse=True)
def not_measured(monkeypatch):
    monkeypatch.setenv("SWIFTNET_EXT_CHOICES", "off")


@pytest.mark.parametrize("way", ["winograd", "direct", "oneDNN", "fused"])
@pytest.mark.parametrize("case", VARIED, ids=titled)
def test_every_way_gives_the_networks_logits(case, way):
    model = network(case[0], **case[1])
    run = CpuRun(fold(model), torch.float32)
    run.forced = way
    for size in ((75, 107), (33, 40)):
        images = as_floats(pictures(size, batch=2))
        with torch.no_grad(), sx.use_backend("reference"):
            assert relative(run.logits(images), model.logits(images)) <= 1e-5
    may_lack = {"winograd": True, "fused": "mnv2" not in case[0]}.get(way, False)
    assert way in {choice.name for choice in run.latest} or may_lack


@pytest.mark.parametrize("way", ["winograd", "direct", "oneDNN", "fused"])
@pytest.mark.parametrize("case", VARIED, ids=titled)
def test_every_way_in_bfloat16(case, way):
    """As near to the float32 network as PyTorch's bfloat16 with the same folded weights."""
    model = network(case[0], **case[1])
    plan = fold(model)
    images = as_floats(pictures((75, 107)))
    run = CpuRun(plan, torch.bfloat16)
    run.forced = way
    plain = TorchRun(plan, torch.device("cpu"), torch.bfloat16, kernels=False, onednn=False)
    with torch.no_grad(), sx.use_backend("reference"):
        expected = model.logits(images)
        error, of_pytorch = (relative(r.logits(images), expected) for r in (run, plain))
    assert error <= max(0.02, 2 * of_pytorch)


def test_without_bfloat16_of_onednn(monkeypatch):
    """As on a CPU with AVX2 alone, where PyTorch packs no such weights for it."""
    monkeypatch.setattr(onednn, "has_bf16_convolutions", lambda: False)
    plan, images = fold(network("swiftnet_mnv2", channels=32)), as_floats(pictures((75, 107)))
    for dtype, there in ((torch.bfloat16, False), (torch.float32, True)):
        run = CpuRun(plan, dtype)
        run.forced = "oneDNN"
        assert run.logits(images).isfinite().all()
        assert ("oneDNN" in {choice.name for choice in run.latest}) == there
        assert TorchRun(plan, torch.device("cpu"), dtype).onednn == there


def test_what_is_an_inverted_residual():
    """Only where nothing else reads the maps in between, and the convolutions are of its kinds."""
    plan = fold(network("swiftnet_mnv2", channels=32))
    blocks = plan.inverted_residuals()
    assert [len(block.steps) for block in blocks] == [2] + 16 * [3]
    block, others = blocks[2], {*blocks[:2], *blocks[3:]}
    for i, change in (
        (block.expand, {"activation": "relu"}),
        (block.expand, {"residual": "image"}),
        (block.depthwise, {"tap": Tap("another")}),
        (block.depthwise, {"padding": 0}),
        (block.project, {"up": "image"}),
        (block.project, {"stride": 2}),
    ):
        steps = list(plan.steps)
        steps[i] = replace(steps[i], **change)
        found = replace(plan, steps=steps).inverted_residuals()
        assert block not in found and others <= set(found)
    for i in (block.expand, block.depthwise):  # read again at the end
        steps = [*plan.steps, MaxPool("", "another", plan.steps[i].output)]
        assert block not in replace(plan, steps=steps).inverted_residuals()


@pytest.mark.parametrize(
    "dtype, shape, tile",
    [
        (torch.bfloat16, (64, 128, 256), 6),
        (torch.bfloat16, (128, 16, 32), 6),  # 18 tiles of 64 products for 32 of 36
        (torch.bfloat16, (128, 8, 8), 4),  # 4 of 64 for 4 of 36
        (torch.bfloat16, (256, 128, 256), 4),
        (torch.float32, (64, 128, 256), 4),
    ],
)
def test_winograds_tile(dtype, shape, tile):
    assert winograd_tile(dtype, *shape) == tile


def test_bytes_and_floats_give_the_same():
    fast = sx.optimize(network("swiftnet_mnv2", channels=32))
    images = pictures((50, 71), batch=2)
    assert torch.equal(fast.labels(as_floats(images)), fast.labels_of_bytes(images))


def test_sizes_share_a_block_and_the_last_are_kept():
    model = network("swiftnet_mnv2", channels=32)
    fast = sx.optimize(model)
    run = fast._run
    large = as_floats(pictures((96, 128)))
    expected = fast.logits(large)
    block = run.block
    for width in range(32, 32 + 2 * SIZES):
        fast.logits(as_floats(pictures((64, width))))
    assert len(run.layouts) == SIZES and run.block is block
    assert torch.equal(fast.logits(large), expected)
    result = fast.logits(large)
    fast.logits(torch.zeros_like(large))
    assert torch.equal(result, expected)  # what was returned is not the block's


def test_the_result_does_not_depend_on_the_threads():
    fast = sx.optimize(network("swiftnet_rn18", channels=32))
    images = as_floats(pictures((96, 128)))
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(fast.logits(images))
    finally:
        torch.set_num_threads(threads)
    assert all(relative(y, results[0]) <= 1e-5 for y in results)


def test_an_empty_batch():
    fast = sx.optimize(network("swiftnet_mnv2", channels=32))
    assert fast(torch.zeros(0, 3, 32, 40)).shape == (0, 11, 32, 40)


def test_without_the_kernels_pytorch_runs_and_it_says_so(monkeypatch):
    module = sys.modules["swiftnet_ext.optimize.network"]  # swiftnet_ext.optimize is the function
    monkeypatch.setattr(module, "why_not", lambda dtype: "there are none in this test")
    fast = sx.optimize(network("swiftnet_mnv2", channels=32))
    assert isinstance(fast._run, TorchRun)
    assert "not by the native CPU kernels: there are none in this test" in repr(fast)


def test_steps_are_measured_once(monkeypatch, tmp_path):
    monkeypatch.setenv("SWIFTNET_EXT_CHOICES", str(tmp_path / "choices.json"))
    model = network("swiftnet_mnv2", channels=32)
    images = as_floats(pictures((48, 64)))
    fast = sx.optimize(model)
    with torch.no_grad(), sx.use_backend("reference"):
        assert relative(fast.logits(images), model.logits(images)) <= 1e-5
    text = repr(fast)
    assert " ms" in text and "only one" in text
    written = (tmp_path / "choices.json").stat().st_mtime_ns
    other = sx.optimize(model)
    other.logits(images)
    assert (tmp_path / "choices.json").stat().st_mtime_ns == written
    assert other._run.latest == fast._run.latest


def test_weights_of_ways_that_lost_are_dropped(monkeypatch, tmp_path):
    monkeypatch.setenv("SWIFTNET_EXT_CHOICES", str(tmp_path / "choices.json"))
    run = CpuRun(fold(network("swiftnet_rn18", channels=32)), torch.float32)
    run.logits(as_floats(pictures((32, 48))))
    chosen = {(i, choice.name) for i, choice in enumerate(run.latest)}
    assert {key[:2] for key in run.ways.packed} <= chosen


PROGRAM = """
import resource, sys, torch
import swiftnet_ext as sx
fast = sx.optimize(sx.build_model(sys.argv[1], 19).eval(), dtype=getattr(torch, sys.argv[2]))
if sys.argv[3]:
    fast._run.forced = sys.argv[3]
image = torch.randint(0, 256, (256, 320, 3), dtype=torch.uint8).numpy()
for _ in range(3):
    fast.segment(image)
usage = lambda: resource.getrusage(resource.RUSAGE_SELF)
before = usage()
for _ in range(10):
    fast.segment(image)
after = usage()
print((after.ru_minflt - before.ru_minflt) / 10, after.ru_maxrss - before.ru_maxrss)
"""


@pytest.mark.parametrize("way", ["", "oneDNN"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_page_faults_and_memory(dtype, way):
    """At most 2000 page faults an inference in steady state, and no growth, at 256 × 320 pixels."""
    environment = dict(os.environ, PYTHONPATH=os.path.dirname(os.path.dirname(sx.__file__)), OMP_NUM_THREADS="1")
    arguments = [sys.executable, "-c", PROGRAM, "swiftnet_mnv2", dtype, way]
    output = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True).stdout
    faults, growth = map(float, output.split())
    assert faults <= 2000 and growth <= 4096


@pytest.mark.parametrize("seed", range(30))
def test_values_that_live_together_share_no_bytes(seed):
    draw = random.Random(seed)
    values = []
    for _ in range(draw.randrange(25)):
        first = draw.randrange(12)
        values.append(Lifetime(draw.randrange(1, 300), first, first + draw.randrange(6)))
    lifetimes = {str(i): value for i, value in enumerate(values)}
    offsets = arrange(lifetimes)
    for a, one in lifetimes.items():
        assert offsets[a] % ALIGNMENT == 0
        for b, other in lifetimes.items():
            if a < b and one.first <= other.last and other.first <= one.last:
                assert offsets[a] + one.bytes <= offsets[b] or offsets[b] + other.bytes <= offsets[a]
    assert total_bytes(lifetimes, offsets) <= sum(-(-value.bytes // ALIGNMENT) * ALIGNMENT for value in values)


def test_a_block_is_aligned():
    for count in (0, 1, 100, 3 * 2**20):
        block = allocate(count)
        assert block.numel() == count and block.data_ptr() % 64 == 0


def test_the_maps_need_little_more_than_the_largest():
    """What lives together, not all maps of the network."""
    run = CpuRun(fold(network("swiftnet_rn18")), torch.float32)
    run.logits(as_floats(pictures((128, 256))))
    shapes = run.plan.shapes((1, 3, 128, 256))
    everything = sum(4 * torch.Size(shape).numel() for shape in shapes.values())
    assert LOGITS in shapes and run.block.numel() < everything / 3


def test_forked_processes_have_memory_of_their_own():
    """Children that run at the same time would write into each other's maps."""
    block = allocate(1 << 16)
    block.fill_(1)
    child = os.fork()
    if child == 0:
        block.fill_(2)
        os._exit(0)
    os.waitpid(child, 0)
    assert (block == 1).all()
