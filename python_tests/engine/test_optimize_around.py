"""What is around an optimised network, and changes nothing: modes, defaults, threads, compilers; and what it refuses."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from core.published_like import PublishedSingleScale, randomise
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import swiftnet_ext as sx
from swiftnet_ext.ops import current_backend

from .test_optimize import PUBLISHED, as_floats, assert_same, network, pictures, relative


@pytest.fixture(autouse=True)
def not_measured(monkeypatch):
    monkeypatch.setenv("SWIFTNET_EXT_CHOICES", "off")


def test_inference_mode_is_left_as_it_was_entered():
    model = network("swiftnet_mnv2", channels=32)
    images = as_floats(pictures((33, 40)))
    with torch.inference_mode():
        fast = sx.optimize(model)
        first = fast(images)
    assert torch.equal(fast(images), first)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(images), first)


@pytest.mark.parametrize("case", PUBLISHED[:1] + [(network, {"name": "swiftnet_pyr_mnv2"})], ids=["published", "ours"])
def test_autocast_around_it_changes_nothing(case):
    model = randomise(case[0](**case[1]))
    with torch.autocast("cpu", torch.bfloat16):
        fast = sx.optimize(model)
    assert_same(fast, model, (33, 40))


@pytest.fixture(params=["device", "dtype"])
def other_default(request):
    if request.param == "device":
        with torch.device("meta"):
            yield
    else:
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(torch.float32)


DEFAULTS = {
    "swiftnet_mnv2": lambda: network("swiftnet_mnv2", channels=32, blend="grouped"),
    "swiftnet_pyr_rn18": lambda: network("swiftnet_pyr_rn18", channels=32, generation=1),
    "published": lambda: randomise(PublishedSingleScale(5)),
}


@pytest.fixture(params=sorted(DEFAULTS))
def ready(request):
    """(network, images, what it gives), made before the defaults are others."""
    model, images = DEFAULTS[request.param](), pictures((33, 40), batch=2)
    with torch.no_grad():
        return model, images, model(as_floats(images))


def test_other_default_devices_and_dtypes(ready, other_default):
    model, images, expected = ready
    for dtype, agreement in ((torch.float32, 0.999), (torch.bfloat16, 0.9)):
        fast = sx.optimize(model, dtype=dtype)
        given = list(fast.segment_batches(images.numpy(), batch=2))
        for i, labels in enumerate((given[0], fast.segment(images.numpy()[1]))):
            assert (torch.from_numpy(labels) == expected[i].argmax(0)).float().mean() >= agreement
        logits = fast(as_floats(images).to(torch.float32))
        assert logits.dtype == torch.float32 and relative(logits, expected) <= (1e-5 if agreement > 0.99 else 0.05)


OLD_PYTHON = """
import sys, torch
sys.version_info = (3, 6, 15, "final", 0)
import swiftnet_ext as sx
assert "swiftnet_ext.optimize" not in sys.modules
try:
    sx.optimize(torch.nn.ReLU())
except RuntimeError as error:
    print(error)
"""


def test_an_old_python_is_told():
    environment = dict(os.environ, PYTHONPATH=os.path.dirname(os.path.dirname(sx.__file__)))
    run = subprocess.run([sys.executable, "-c", OLD_PYTHON], env=environment, capture_output=True, text=True)
    assert run.stdout == "swiftnet_ext.optimize needs Python 3.9 and PyTorch 2.1, this is Python 3.6\n", run.stderr


def test_threads_take_turns():
    fast = sx.optimize(network("swiftnet_mnv2", channels=32))
    images = [pictures((30 + i, 40), seed=i)[0].numpy() for i in range(4)]
    expected = [fast.segment(image) for image in images]
    found = [None] * 8

    def work(i):
        found[i] = fast.segment(images[i % 4])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(y, expected[i % 4]) for i, y in enumerate(found))


def test_other_threads_keep_their_backend():
    """Two verifications overlap: the second begins within the first and ends after it."""
    before, seen = current_backend(), {}
    begun, ended = threading.Event(), threading.Event()

    def optimise(name, wait):
        def hook(module, args):
            if name not in seen:
                seen[name] = current_backend()
                wait()

        model = network("swiftnet_mnv2", channels=32)
        model.backbone.features[3].register_forward_pre_hook(hook)
        sx.optimize(model)

    def second():
        optimise("second", lambda: (begun.set(), ended.wait(60)))

    thread = threading.Thread(target=second)

    def within():
        thread.start()
        assert begun.wait(60)
        seen["meanwhile"] = []
        other = threading.Thread(target=lambda: seen["meanwhile"].append(current_backend()))
        other.start()
        other.join()

    optimise("first", within)
    ended.set()
    thread.join()
    assert seen["first"] == seen["second"] == ("reference", False)
    assert seen["meanwhile"] == [before] and current_backend() == before


class Around(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images + 1) * 2


def in_fake_mode(network, images):
    with FakeTensorMode() as mode:
        return network(mode.from_tensor(images))


RECORDERS = {
    "export": lambda network, images: torch.export.export(network, (images,), strict=False),
    "export, strict": lambda network, images: torch.export.export(network, (images,), strict=True),
    "make_fx": lambda network, images: make_fx(network)(images),
    "trace": lambda network, images: torch.jit.trace(network, images),
    "fake tensors": in_fake_mode,
}


@pytest.mark.filterwarnings("ignore")  # of tracing, which is at an end before it records anything
@pytest.mark.parametrize("recorder", sorted(RECORDERS))
def test_exporting_is_refused(recorder):
    fast = sx.optimize(network("swiftnet_mnv2", channels=32))
    images = as_floats(pictures((33, 40)))
    for module in (fast, Around(fast)):
        with pytest.raises(RuntimeError, match="export the original network, see docs/export.md"):
            RECORDERS[recorder](module, images)
    assert_same(fast, network("swiftnet_mnv2", channels=32), (33, 40))


def test_compiling_leaves_it_alone():
    fast = sx.optimize(network("swiftnet_mnv2", channels=32))
    model = Around(fast)
    images = as_floats(pictures((33, 40)))
    expected, graphs = model(images), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(model, backend=backend)
    for _ in range(3):
        assert torch.equal(compiled(images), expected)
    called = [node.target for graph in graphs for node in graph.graph.nodes if node.op.startswith("call")]
    assert called and not [target for target in called if "sub" in str(target)]  # the mean: its first step
    assert len(graphs) <= 4


STARTS_WITHOUT_DYNAMO = """
import sys, torch, swiftnet_ext as sx
fast = sx.optimize(sx.load_checkpoint())
fast(torch.zeros(1, 3, 8, 8))
assert "torch._dynamo" not in sys.modules
"""


def test_the_compiler_is_not_imported():
    subprocess.run([sys.executable, "-c", STARTS_WITHOUT_DYNAMO], check=True)
