"""What swiftnet benchmark measures: peers of the same weights, sides in turns, labels compared."""

import time

import numpy as np
import pytest
import torch

import swiftnet_ext as sx
from swiftnet_ext import ops
from swiftnet_ext.data.synthetic import render_scene
from swiftnet_ext.engine.benchmark import kernels, row, sides, timing
from swiftnet_ext.engine.benchmark.plain import PlainNetwork, PlainSegmenter
from swiftnet_ext.engine.benchmark.plan import Case, Effort
from swiftnet_ext.engine.benchmark.row import Job, equal_share, measure
from swiftnet_ext.engine.benchmark.sides import MAKERS, Setup, Side, labels_of

CPU = torch.device("cpu")
EFFORT = Effort(2, 0.01, 2, 2)
CASE = Case("swiftnet_mnv2", "camvid_mnv2", 96, 64, "fp32", "cpu", "user", "default")
NETWORKS = [
    ("swiftnet_rn18", {}),
    ("swiftnet_mnv2", dict(mode="nearest")),
    ("swiftnet_mnv2", dict(half_resolution=True)),
    ("swiftnet_mnv2", dict(head="3x3", spp=False)),
    ("swiftnet_mnv2", dict(blend="inverted_residual")),
    ("swiftnet_pyr_mnv2", dict(blend="separable")),
    ("swiftnet_pyr_rn18", dict(generation=1, levels=2)),
]


def pictures(count=2, height=64, width=96):
    return [render_scene(seed, height, width).image for seed in range(1, count + 1)]


def setup_of(model, tmp_path, dtype=torch.float32, loop="user", batch=1, count=2):
    return Setup(model, pictures(count), dtype, CPU, loop, 1, tmp_path, batch)


def job(case=CASE, peers=("eager",), seconds=None):
    return Job(case, peers, (), torch.get_num_threads(), EFFORT, seconds and time.monotonic() + seconds)


@pytest.fixture
def no_operators(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("an operator of swiftnet_ext ran")

    for name in ops.__all__:
        if callable(getattr(ops, name)) and not isinstance(getattr(ops, name), type):
            monkeypatch.setattr(ops, name, refuse)


@pytest.mark.parametrize("name, options", NETWORKS, ids=str)
def test_peers_have_the_weights_and_none_of_our_operators(name, options, no_operators):
    torch.manual_seed(0)
    model = sx.build_model(name, **options).eval()
    images = torch.from_numpy(pictures(1, 67, 101)[0]).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        with pytest.raises(AssertionError, match="an operator of swiftnet_ext ran"):
            model(images)
        with sx.nn.fused.plain_pytorch():
            expected = model(images)
        plain = PlainNetwork(model, CPU, torch.float32)
        found = plain(images)
        labels = PlainSegmenter(plain)(torch.from_numpy(pictures(1, 67, 101)[0])[None])
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert labels.dtype == torch.uint8 and (labels == expected.argmax(1)).float().mean() > 0.999
    fused = (sx.nn.BNReLUConv, sx.nn.SpatialPyramidPooling, sx.nn.UpsampleBlend)
    assert not [m for m in plain.modules() if isinstance(m, fused)]
    assert not any(p.requires_grad for p in plain.parameters())


def test_peers_are_channels_last_and_in_the_dtype():
    plain = PlainNetwork(sx.load_checkpoint(), CPU, torch.bfloat16)
    weights = [m.weight for m in plain.modules() if isinstance(m, torch.nn.Conv2d)]
    assert {w.dtype for w in weights} == {torch.bfloat16}
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    assert plain.mean.dtype == torch.float32  # 123.675 is no bf16


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("loop", ["user", "paper"])
@pytest.mark.parametrize("name", ["ours", "eager", "onnxruntime"])
def test_every_side_gives_the_networks_labels(name, loop, batch, tmp_path):
    model = sx.load_checkpoint()
    setup = setup_of(model, tmp_path, loop=loop, batch=batch)
    side = MAKERS[name](setup)
    for i, images in enumerate(setup.batches()):
        labels = labels_of(side.call(i))
        assert labels.dtype == np.uint8 and labels.shape == (batch, *images[0].shape[:2])
        assert (labels == np.stack([model.segment(image) for image in images])).mean() > 0.999
    assert side.what


@pytest.mark.parametrize(
    "batch, order",
    [(1, [[0], [1], [2]]), (2, [[0, 1], [2, 0], [1, 2]]), (3, [[0, 1, 2]]), (6, [[0, 1, 2, 0, 1, 2]])],
)
def test_batches_are_the_images_in_turn(batch, order, tmp_path):
    setup = setup_of(None, tmp_path, batch=batch, count=3)
    assert setup.order() == order
    assert all(a is setup.images[k] for a, k in zip(setup.batches()[-1], order[-1]))
    inputs = setup.floats()[-1]
    assert inputs.shape == (batch, 3, 64, 96) and inputs.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(inputs[0].permute(1, 2, 0).byte(), torch.from_numpy(setup.images[order[-1][0]]))


def test_compile_freezes_the_plain_network(tmp_path, monkeypatch):
    """What it compiles, without the compiler's half minute."""
    seen = []
    monkeypatch.setattr(torch, "compile", lambda module, **options: seen.append((module, options)) or module)
    side = MAKERS["compile"](setup_of(sx.load_checkpoint(), tmp_path, torch.bfloat16))
    side.call(0)
    ((module, options),) = seen
    assert isinstance(module, PlainSegmenter) and options == {"dynamic": False}
    assert torch._inductor.config.freezing


@pytest.mark.parametrize("name, module", [("onnxruntime", "onnxruntime"), ("openvino", "openvino")])
def test_a_peer_that_is_absent_is_said_to_be(name, module, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(sides.Missing, match="not installed"):
        MAKERS[name](setup_of(sx.load_checkpoint(), tmp_path))


def test_turns_alternate_and_a_failing_side_is_taken_out():
    order, time_of = [], {"a": 0.001, "b": 0.002}

    def call(name):
        def run(i):
            order.append(name)
            if name == "c" and len(order) > 8:
                raise RuntimeError("no more")
            time.sleep(time_of.get(name, 0))

        return run

    effort = Effort(4, 1e-9, 1, 1)  # one call a turn
    calls = {name: call(name) for name in "abc"}
    times, failed = timing.in_turns(calls, "user", 1, CPU, effort, timing.Deadline(None))
    firsts = order[::2]  # each turn is a call that warms up and one that is timed
    assert firsts[:6] == ["a", "b", "c", "c", "b", "a"]
    assert failed == {"c": "RuntimeError: no more"} and set(times) == {"a", "b"}
    assert [len(times[name].samples) for name in "ab"] == [4, 4]
    assert timing.quartiles(times["a"].samples)[1] < timing.quartiles(times["b"].samples)[1]


def test_the_papers_loop_divides():
    turn = timing.papers_turn(lambda i: time.sleep(0.01), 5, 1, CPU)
    assert len(turn) == 1 and 0.01 <= turn[0] < 0.05


def test_turns_end_at_the_deadline():
    effort = Effort(1000, 0.02, 2, 1)
    start = time.monotonic()
    times, _ = timing.in_turns(
        {"a": lambda i: time.sleep(0.01)}, "user", 1, CPU, effort, timing.Deadline(time.monotonic() + 0.2)
    )
    assert time.monotonic() - start < 0.5 and 2 <= len(times["a"].samples) < 1000


def test_a_side_that_takes_too_long_is_left(monkeypatch):
    def slow(setup):
        time.sleep(30)

    monkeypatch.setitem(MAKERS, "compile", slow)
    found = measure(job(peers=("compile", "eager"), seconds=8))
    assert found["missing"]["compile"].startswith("NoTime: took more time than was left")


def test_a_row(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    found = measure(job(peers=("eager", "openvino")))
    assert {name: found[name] for name in Case._fields} == CASE._asdict()
    assert (found["status"], found["best_peer"]) == ("measured", "eager")
    assert found["missing"] == {"openvino": "not installed"}
    assert found["weights_are"] == "camvid_mnv2: swiftnet_ext: swiftnet_mnv2, 11 classes" and found["classes"] == 11
    assert found["images_are"] == "2 rendered scenes, scaled"
    ours, eager = found["sides"]["ours"], found["sides"]["eager"]
    for side in (ours, eager):
        assert side["q1_ms"] <= side["ms"] <= side["q3_ms"] and side["samples"] >= 2
        assert side["fps"] == pytest.approx(1000 / side["ms"], rel=1e-3)
        assert side["page_faults"] >= 0 and isinstance(side["memory_mb"], float)
        assert side["equal_to_fp32"] > 0.9999 and side["equal_to_ours"] > 0.9999
    assert eager["ratio"] == 1 and found["ratio"] == pytest.approx(eager["ms"] / ours["ms"], rel=1e-3)


def test_a_row_of_batches_is_of_images():
    """Times are an image's; what a call takes is a batch."""
    found = measure(job(CASE._replace(batch=3)))
    assert (found["batch"], found["status"], found["images_are"]) == (3, "measured", "3 rendered scenes, scaled")
    assert found["sides"]["ours"]["what"] == "optimize, segment_batches"
    assert all(side["equal_to_fp32"] > 0.9999 for side in found["sides"].values())
    columns = row.columns_of(timing.Timed([0.3, 0.3], 60, 2), 3)
    assert (columns["ms"], columns["fps"], columns["page_faults"]) == (100, 10, 30)


def test_a_batch_of_one_images_labels_is_wrong(monkeypatch):
    def first_alone(setup):
        model = sx.load_checkpoint()
        return Side(lambda i: [model.segment(setup.images[0])] * setup.batch, "the first image's labels")

    monkeypatch.setitem(MAKERS, "ours", first_alone)
    found = measure(job(CASE._replace(batch=2)))
    assert found["status"] == "failed" and found["missing"]["ours"].startswith("wrong labels: ")


def test_random_weights_are_said_to_be_and_tell_classes_apart():
    case = CASE._replace(model="swiftnet_rn18", weights=None)
    images, _ = row.images_of(case, (), 1)
    model, said = row.network_of(case, images)
    assert said.startswith("random, seed 0") and not model.training
    assert len(np.unique(model.segment(images[0]))) >= 3
    again, _ = row.network_of(case, images)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))


def another(setup):
    model = sx.load_checkpoint()
    with torch.no_grad():
        model.logits.conv.bias[3] += 1.0
    return Side(lambda i: model.segment(setup.images[i])[None], "another network")


def test_a_wrong_network_fails_its_row(monkeypatch):
    monkeypatch.setitem(MAKERS, "ours", another)
    found = measure(job())
    assert found["status"] == "failed" and set(found["sides"]) == {"eager"}
    assert (
        found["missing"]["ours"].startswith("wrong labels: ") and "differ from eager fp32" in found["missing"]["ours"]
    )


def test_a_wrong_peer_is_taken_out(monkeypatch):
    monkeypatch.setitem(MAKERS, "eager", another)
    found = measure(job())
    assert found["status"] == "measured" and found["best_peer"] is None and found["ratio"] is None
    assert found["missing"]["eager"].startswith("wrong labels")


def test_labels_of_other_sizes_are_unequal():
    assert equal_share([np.zeros((2, 3), np.uint8)], [np.zeros((3, 2), np.uint8)]) == 0
    assert equal_share([np.array([[0, 1]])], [np.array([[0, 0]])]) == 0.5


def test_kernels_are_measured_as_far_as_there_are_any(monkeypatch):
    class Cpu:
        @staticmethod
        def upsample_add(x, skip, scale, shift, relu, nearest, out, threads):
            assert skip.shape == out.shape == (1, 128, 16, 24) and x.shape[2:] == (8, 12) and relu and not nearest

    module = type("Module", (), {"cpu": Cpu})
    monkeypatch.setattr(kernels._native, "native", lambda: (module, ""))
    monkeypatch.setattr(kernels, "LARGE", 2**20)
    found = kernels.measure_kernels(96, 64, "bf16", torch.get_num_threads(), list(EFFORT))
    first, *others = found["rows"]
    assert (first["kernel"], first["status"]) == ("upsample_add, stride 4", "measured")
    assert first["bytes"] == 2 * 128 * (16 * 24 * 2 + 8 * 12)
    assert first["of_floor"] == pytest.approx(first["ms"] / first["floor_ms"], rel=1e-2) and found["copy_gbps"] > 0
    assert {r["status"] for r in others} == {"not measured"} and all("has no attribute" in r["reason"] for r in others)
