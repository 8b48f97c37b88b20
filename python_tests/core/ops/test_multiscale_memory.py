"""multiscale_mean's reference works in stripes of rows: the same numbers, in bounded memory."""

import subprocess
import sys

import pytest
import torch

import swiftnet_ext as sx
from swiftnet_ext.ops import reference

FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5)


def maps(height, width, classes=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    sizes = [(max(1, int(height * f / 4)), max(1, int(width * f / 4))) for f in FACTORS] + [(height, width)]
    return [4 * torch.randn(2, classes, *s, generator=generator).to(dtype) for s in sizes]


@pytest.mark.parametrize("order", ["softmax_then_resize", "resize_then_softmax"])
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_stripes_change_no_number(rows, order, monkeypatch):
    height, width = 41, 30
    logits = maps(height, width, dtype=torch.float64)
    with sx.use_backend("reference"):
        whole = {r: sx.ops.multiscale_mean(logits, (height, width), order=order, reduce=r) for r in ("mean", "argmax")}
        monkeypatch.setattr(reference, "STRIPE", rows * 2 * 5 * width)
        for x in logits:
            x.requires_grad_()
        mean = sx.ops.multiscale_mean(logits, (height, width), order=order)
        labels = sx.ops.multiscale_mean(logits, (height, width), order=order, reduce="argmax")
    torch.testing.assert_close(mean, whole["mean"], rtol=1e-12, atol=1e-12)
    assert torch.equal(labels, whole["argmax"])
    weight = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1), dtype=mean.dtype)
    striped = torch.autograd.grad((mean * weight).sum(), logits)
    monkeypatch.setattr(reference, "STRIPE", 10**9)
    with sx.use_backend("reference"):
        again = (sx.ops.multiscale_mean(logits, (height, width), order=order) * weight).sum()
    for a, b in zip(striped, torch.autograd.grad(again, logits)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


PEAK = """
import resource, sys, torch
import swiftnet_ext as sx
order, reduce = sys.argv[1:]
torch.set_num_threads(2)
maps = [torch.randn(1, 19, int(256 * f), int(512 * f)) for f in {factors}]
sx.ops.multiscale_mean([m[:, :, :8, :8] for m in maps], (64, 64), order=order, reduce=reduce)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sx.ops.multiscale_mean(maps, (1024, 2048), order=order, reduce=reduce)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
""".format(factors=FACTORS)
OUTPUT = 19 * 1024 * 2048 * 4 / 2.0**20  # MiB


@pytest.mark.parametrize("order", ["softmax_then_resize", "resize_then_softmax"])
@pytest.mark.parametrize("reduce, limit", [("mean", 2 * OUTPUT), ("argmax", 200.0)])
def test_memory_beyond_the_maps_is_bounded(reduce, limit, order):
    """2048×1024, 19 classes, five scales: twice the output for probabilities, 200 MB for labels."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, order, reduce], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode == 0, done.stdout.decode()
    assert float(done.stdout) < limit
