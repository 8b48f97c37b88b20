"""Which algorithm a 3×3 convolution takes, and that the choice changes roundings only."""

import pytest
import torch

import swiftnet_ext as sx
from swiftnet_ext.ops.conv3x3 import algorithm_for

pytestmark = pytest.mark.kernels_only


def convolve(device, channels, algorithm, value=None):
    generator = torch.Generator().manual_seed(channels)
    x, weight = (
        torch.randn(1, channels, 9, 17, generator=generator),
        torch.randn(5, channels, 3, 3, generator=generator),
    )
    x = x if value is None else torch.full_like(x, value)
    return sx.ops.conv3x3(x.to(device), weight.to(device), algorithm=algorithm)


@pytest.mark.parametrize("channels, algorithm", [(7, "direct"), (8, "winograd"), (20, "winograd")])
def test_auto_follows_the_rule(channels, algorithm, backend, device):
    assert algorithm_for(channels) == algorithm
    assert torch.equal(convolve(device, channels, "auto"), convolve(device, channels, algorithm))


def test_algorithms_round_differently(backend, device):
    """Otherwise the tests would compare one with itself."""
    direct, winograd = convolve(device, 20, "direct"), convolve(device, 20, "winograd")
    assert not torch.equal(direct, winograd)
    torch.testing.assert_close(direct, winograd, rtol=1e-4, atol=1e-4)


def test_what_overflows_on_the_way_is_healed(backend, device):
    """Winograd adds neighbouring inputs before it multiplies: 2e38 + 2e38 is Inf in fp32."""
    x = torch.full((1, 8, 6, 10), 2e38, device=device)
    weight = torch.full((3, 8, 3, 3), 1e-3, device=device)
    direct = sx.ops.conv3x3(x, weight, algorithm="direct")
    assert bool(torch.isfinite(direct).all())
    assert torch.equal(sx.ops.conv3x3(x, weight, algorithm="winograd"), direct)


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
