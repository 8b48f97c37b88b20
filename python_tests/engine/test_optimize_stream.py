"""Many images through an optimised network, and CUDA graphs by a stand-in of torch.cuda."""

import contextlib
import threading
import time

import numpy as np
import pytest
import torch
from core.published_like import randomise

import swiftnet_ext as sx
from swiftnet_ext.optimize import OptimizedNetwork, graphs, stream


@pytest.fixture(scope="module")
def fast():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWIFTNET_EXT_CHOICES", "off")
        yield sx.optimize(randomise(sx.build_model("swiftnet_mnv2", 7, channels=16)))


def image(seed, size=(24, 32)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_labels_come_in_order(fast, batch):
    sizes = [(24, 32)] * 4 + [(20, 30)] * 3 + [(24, 32)]
    images = [image(i, size) for i, size in enumerate(sizes)]
    images[2] = torch.from_numpy(images[2])
    found = list(fast.segment_batches(iter(images), batch=batch))
    assert [type(y) for y in found] == [type(x) for x in images]
    for x, y in zip(images, found):
        assert y.dtype == x.dtype and tuple(y.shape) == tuple(x.shape[:2])
        assert (np.asarray(y) == np.asarray(fast.segment(x))).mean() >= 0.999


def test_images_may_come_in_the_same_memory(fast):
    expected = [fast.segment(image(i)) for i in range(6)]
    memory = np.empty((24, 32, 3), np.uint8)

    def refilled():
        for i in range(6):
            memory[:] = image(i)
            yield memory

    for batch in (1, 4):
        found = list(fast.segment_batches(refilled(), batch=batch))
        assert all(np.array_equal(y, x) for x, y in zip(expected, found))


def test_nothing_is_taken_before_it_is_asked_for(fast):
    taken = []
    results = fast.segment_batches(taken.append(i) or image(i) for i in range(3))
    time.sleep(0.05)
    assert taken == []
    assert len(list(results)) == 3 and taken == [0, 1, 2]
    assert list(fast.segment_batches([])) == []


class HostBatch(stream._Batch):
    def __init__(self, images, device, *streams):
        super().__init__(images, torch.device("cpu"), *[None for _ in streams])


class OnGpu:
    """Stands for a network on a GPU, whose results are on their way while it runs the next images."""

    device, segment_batches = torch.device("cuda", 0), OptimizedNetwork.segment_batches

    def labels_of_bytes(self, images):
        return images[..., 0]

    def segment(self, image):
        return image[..., 0]


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.setattr(stream.torch, "cuda", Recorder())
    monkeypatch.setattr(stream, "_Batch", HostBatch)
    monkeypatch.setattr(stream, "_copied_back", lambda labels, batch, copies: (labels, None))
    return OnGpu()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("where", ["fast", "on_gpu"])
def test_a_full_batch_does_not_wait_for_the_next_image(where, batch, request):
    """The images wait for the results of those before them, as a source in a control loop does."""
    network, given = request.getfixturevalue(where), threading.Semaphore(0)

    def images():
        for i in range(3 * batch):
            if i and i % batch == 0:
                assert given.acquire(timeout=10), "no result without another image"
            yield image(i)

    results = network.segment_batches(images(), batch=batch)
    for i in range(3 * batch):
        assert np.array_equal(next(results), network.segment(image(i)))
        if i % batch == batch - 1:
            given.release()
    assert list(results) == []


def test_an_error_of_the_images_comes_in_its_turn(fast):
    def images():
        yield image(0)
        yield image(1)
        raise OSError("the disk is gone")

    results = fast.segment_batches(images(), batch=2)
    assert next(results).shape == (24, 32) and next(results).shape == (24, 32)
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)
    results = fast.segment_batches([image(0), np.zeros((4, 4))])
    next(results)
    with pytest.raises(ValueError, match=r"image: expected uint8 RGB \[H, W, 3\]"):
        next(results)


def test_an_abandoned_run_ends_its_thread(fast):
    def endless():
        while True:
            yield image(0)

    results = fast.segment_batches(endless())
    next(results)
    results.close()
    deadline = time.monotonic() + 10
    while any(t.name == "segment_batches" for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("batch", [1, 50])
def test_nothing_is_inside_the_images_after_closing(fast, batch):
    inside, read = threading.Lock(), []

    def images():
        yield image(0, (20, 30))
        while True:
            with inside:
                time.sleep(0.2)
                read.append(1)
            yield image(0)

    source = images()
    results = fast.segment_batches(source, batch=batch)
    next(results)
    results.close()
    assert len(read) < 10 and inside.acquire(blocking=False)
    inside.release()
    assert next(source).shape == (24, 32, 3)  # it is the caller's again


def test_closing_does_not_wait_for_ever(fast, monkeypatch):
    monkeypatch.setattr(stream, "PATIENCE", 0.1)
    stuck = threading.Event()

    def images():
        yield image(0)
        stuck.wait(20)

    results = fast.segment_batches(images())
    next(results)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 10
    stuck.set()


@pytest.mark.parametrize("batch", [0, True, "2"])
def test_batch(fast, batch):
    with pytest.raises(ValueError, match="batch: expected a positive integer"):
        fast.segment_batches([], batch=batch)


class Recorder:
    """Stands for torch.cuda: a graph replays what was computed while it captured."""

    def __init__(self):
        self.capturing, self.captures = None, 0

    def CUDAGraph(self):
        graph = type("Graph", (), {})()
        graph.recorded = []
        graph.replay = lambda: [step() for step in graph.recorded]
        return graph

    @contextlib.contextmanager
    def graph(self, graph, stream, capture_error_mode):
        assert capture_error_mode == "thread_local"  # another thread reads the next images meanwhile
        self.capturing, self.captures = graph, self.captures + 1
        yield
        self.capturing = None

    def Stream(self, device):
        return type("Stream", (), {"wait_stream": lambda self, other: None, "wait_event": lambda self, event: None})()

    def Event(self):
        return type("Event", (), {"record": lambda self, stream: None})()

    def device(self, device):
        return contextlib.nullcontext()

    current_stream = Stream

    def stream(self, stream):
        return contextlib.nullcontext()

    def synchronize(self, device):
        pass

    def is_current_stream_capturing(self):
        return False


class NamedStream:
    def __init__(self, name, log):
        self.name, self.log, self.device = name, log, torch.device("cuda", 0)

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")


class Streams(Recorder):
    """Stands for torch.cuda, and writes down what is put on which stream; threads begin on `default`."""

    def __init__(self):
        self.log = []
        self.now = self.default = NamedStream("default", self.log)

    def current_stream(self, device):
        return self.now

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.now = self.now, stream
        yield
        self.now = before

    def Event(self):
        return type("Event", (), {"record": lambda event, stream: self.log.append(f"ready on {stream.name}")})()


class GpuImage:
    is_cuda, device = True, torch.device("cuda", 0)

    def __init__(self, cuda):
        self.cuda = cuda

    def clone(self):
        self.cuda.log.append(f"cloned on {self.cuda.now.name}")
        return self

    def record_stream(self, stream):
        self.cuda.log.append(f"kept for {stream.name}")

    def __getitem__(self, index):
        return self

    def to(self, device, non_blocking):
        return self


def test_images_on_a_gpu_are_copied_when_they_are_there(monkeypatch):
    cuda = Streams()
    monkeypatch.setattr(stream.torch, "cuda", cuda)
    copies, caller = NamedStream("copies", cuda.log), NamedStream("caller", cuda.log)
    kept = stream._kept(GpuImage(cuda), stream._Streams(copies, caller))
    batch = stream._Batch([kept], torch.device("cuda", 0), copies)
    assert batch.tensor is kept and batch.ready is not None
    assert cuda.log == [
        "copies waits for caller", "copies waits for default", "cloned on copies",
        "caller waits for copies", "default waits for copies", "kept for copies", "ready on copies",
    ]  # fmt: skip


class Halves:
    """Stands for a run: its logits are half of its images."""

    def __init__(self, cuda):
        self.cuda, self.calls = cuda, 0

    def logits(self, images):
        self.calls += 1
        result = images / 2
        if self.cuda.capturing is not None:
            self.cuda.capturing.recorded.append(lambda: result.copy_(images / 2))
        return result

    labels = logits

    def summary(self):
        return "halves"


def test_graphs(monkeypatch):
    cuda = Recorder()
    monkeypatch.setattr(graphs.torch, "cuda", cuda)
    run = Halves(cuda)
    captured = graphs.Graphs(run, torch.device("cpu"), limit=2)
    first = captured.logits(torch.full((1, 3, 4, 4), 2.0))
    calls = run.calls
    second = captured.logits(torch.full((1, 3, 4, 4), 6.0))
    assert run.calls == calls and cuda.captures == 1
    assert float(first.max()) == 1 and float(second.max()) == 3  # the first result is a copy
    captured.labels(torch.zeros(1, 3, 4, 4))
    captured.logits(torch.zeros(1, 3, 4, 4))
    captured.logits(torch.zeros(2, 3, 4, 4))  # drops the labels' graph, used longest ago
    assert cuda.captures == 3 and len(captured.captured) == 2
    captured.logits(torch.zeros(1, 3, 4, 4))
    assert cuda.captures == 3
    captured.labels(torch.zeros(1, 3, 4, 4))
    assert cuda.captures == 4
    assert captured.summary() == "halves, in CUDA graphs (2 of at most 2 kept)"
