"""Which algorithm a 3×3 convolution takes, and that the choice changes roundings only."""

import sys

import pytest
import torch

import swiftnet_ext as sx
from swiftnet_ext.ops.conv3x3 import algorithm_for

conv3x3_module = sys.modules["swiftnet_ext.ops.conv3x3"]  # its name is the function's too

pytestmark = pytest.mark.kernels_only


def convolve(device, channels, algorithm, dtype=torch.float32):
    generator = torch.Generator().manual_seed(channels)
    x, weight = (torch.randn(*shape, generator=generator) for shape in ((1, channels, 9, 17), (5, channels, 3, 3)))
    return sx.ops.conv3x3(x.to(device, dtype), weight.to(device, dtype), algorithm=algorithm)


@pytest.mark.parametrize(
    "channels, dtype, capability, algorithm",
    [
        (7, torch.float32, (6, 1), "direct"),
        (8, torch.float32, (6, 1), "winograd"),
        (8, torch.float16, (6, 1), "winograd"),
        (8, torch.float16, (6, 2), "half2"),
        (4, torch.float16, (6, 2), "half2"),
        (7, torch.float16, (6, 2), "direct"),
        (9, torch.float16, (6, 2), "winograd"),
        (8, torch.float32, (6, 2), "winograd"),
        (128, torch.float16, (9, 0), "winograd"),
    ],
)
def test_the_rule(channels, dtype, capability, algorithm):
    assert algorithm_for(channels, dtype, capability) == algorithm


@pytest.mark.cuda_source
@pytest.mark.parametrize("channels", [7, 8, 20])
@pytest.mark.parametrize("capability", [(6, 1), (6, 2)])
def test_auto_follows_the_rule(channels, capability, backend, device, monkeypatch):
    monkeypatch.setattr(conv3x3_module, "capability_of", lambda kernels, device: capability)
    for dtype in (torch.float32, torch.float16):
        algorithm = algorithm_for(channels, dtype, capability)
        assert torch.equal(convolve(device, channels, "auto", dtype), convolve(device, channels, algorithm, dtype))


@pytest.mark.cuda_source
def test_algorithms_round_differently(backend, device):
    """Otherwise the tests would compare one with itself."""
    direct, winograd = convolve(device, 20, "direct"), convolve(device, 20, "winograd")
    assert not torch.equal(direct, winograd)
    torch.testing.assert_close(direct, winograd, rtol=1e-4, atol=1e-4)
    direct, half2 = (convolve(device, 20, algorithm, torch.float16) for algorithm in ("direct", "half2"))
    assert not torch.equal(direct, half2)
    torch.testing.assert_close(direct, half2, rtol=0.02, atol=0.1)


@pytest.mark.cuda_source
def test_half2_promotes_its_sums(backend, device):
    """fp16 sums alone would stop at 2048, where adding 1 rounds away; of 16 channels they stay below, at 144."""
    x, weight = (torch.ones(*shape, dtype=torch.float16, device=device) for shape in ((1, 256, 3, 3), (1, 256, 3, 3)))
    assert sx.ops.conv3x3(x, weight, algorithm="half2")[0, 0, 1, 1] == 9 * 256


def test_what_overflows_on_the_way_is_healed(backend, device):
    """Winograd adds neighbouring inputs before it multiplies: 2e38 + 2e38 is Inf in fp32."""
    x = torch.full((1, 8, 6, 10), 2e38, device=device)
    weight = torch.full((3, 8, 3, 3), 1e-3, device=device)
    direct = sx.ops.conv3x3(x, weight, algorithm="direct")
    assert bool(torch.isfinite(direct).all())
    assert torch.equal(sx.ops.conv3x3(x, weight, algorithm="winograd"), direct)


def test_a_relu_hides_no_overflow_of_winograds(backend, device):
    """One pixel's transform overflows to -Inf, of which a ReLU would make 0."""
    x = torch.zeros(1, 16, 12, 12, device=device).contiguous(memory_format=torch.channels_last)
    rows, columns = torch.tensor([-0.1, 0, -1, 0, 1]), torch.tensor([1.0, 0, -1, 0, 1])
    x[0, 0, 3:8, 3:8] = 2e37 * rows[:, None] * columns
    weight = torch.zeros(16, 16, 3, 3, device=device)
    weight[:, 0, 0, 0] = -1e-3
    head = torch.ones(4, 16, 1, 1, device=device)
    y = sx.ops.conv3x3(x, weight, relu=True, algorithm="winograd")
    with sx.use_backend("reference"):
        torch.testing.assert_close(y, sx.ops.conv3x3(x, weight, relu=True))
        logits = sx.ops.conv3x3_head(x, weight, head)
    torch.testing.assert_close(sx.ops.conv3x3_head(x, weight, head), logits)


@pytest.mark.parametrize("classes", [24, 25])
@pytest.mark.parametrize("special", [float("nan"), float("inf")])
def test_a_head_spreads_what_is_not_finite_as_two_layers_do(classes, special, backend, device):
    """Fused (up to 24 outputs) and in two launches alike, over the 3×3's neighbours and no further."""
    generator = torch.Generator().manual_seed(classes)
    x, weight, head = (
        torch.randn(*s, generator=generator) for s in ((1, 9, 8, 12), (40, 9, 3, 3), (classes, 40, 1, 1))
    )
    x[0, 1, 2, 3] = special
    x, weight, head = x.to(device), weight.to(device), head.to(device)
    y = sx.ops.conv3x3_head(x, weight, head)
    with sx.use_backend("reference"):
        expected = sx.ops.conv3x3_head(x, weight, head)
    finite = torch.isfinite(expected)
    assert torch.equal(torch.isfinite(y), finite) and int(finite.logical_not().sum()) == 9 * classes
    torch.testing.assert_close(y[finite], expected[finite], rtol=1e-4, atol=1e-3)
