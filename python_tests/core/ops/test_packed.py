"""Packed weights: made once, made anew when the parameter changes, gone with it."""

import copy
import gc

import pytest
import torch

import swiftnet_ext as sx
from swiftnet_ext.ops import packed

pytestmark = pytest.mark.kernels_only


@pytest.fixture
def layer(device):
    torch.manual_seed(0)
    return torch.nn.Conv2d(5, 7, 3, padding=1, bias=False).to(device)


@pytest.fixture
def x(device):
    return torch.randn(1, 5, 6, 9, generator=torch.Generator().manual_seed(1)).to(device)


@pytest.fixture
def packings(monkeypatch):
    """What was packed and kept, in order."""
    kept = []
    keep = packed.keep
    monkeypatch.setattr(packed, "keep", lambda weight, algorithm, p: (kept.append(p), keep(weight, algorithm, p)))
    return kept


def assert_right(layer, x):
    y = sx.ops.conv3x3(x, layer.weight)
    torch.testing.assert_close(y, torch.nn.functional.conv2d(x, layer.weight, padding=1), rtol=1e-4, atol=1e-4)


def test_a_weight_is_packed_once(layer, x, packings, backend):
    for _ in range(3):
        assert_right(layer, x)
    with torch.no_grad():
        assert_right(layer, x)
    assert len(packings) == 1


def test_a_changed_weight_is_packed_again(layer, x, packings, backend):
    assert_right(layer, x)
    with torch.no_grad():
        layer.weight.mul_(2)
    assert_right(layer, x)
    torch.optim.SGD(layer.parameters(), 0.1).zero_grad()
    sx.ops.conv3x3(x, layer.weight).sum().backward()
    torch.optim.SGD(layer.parameters(), 0.1).step()
    assert_right(layer, x)
    layer.load_state_dict({"weight": torch.ones_like(layer.weight)})
    assert_right(layer, x)
    assert len(packings) == 4


def test_new_memory_behind_a_parameter_is_seen(layer, x, packings, backend):
    assert_right(layer, x)
    layer.weight.data = layer.weight.data * 3
    assert_right(layer, x)
    layer.half().float()  # rounded, perhaps at the old address
    assert_right(layer, x)
    assert len(packings) == 3


def test_copies_pack_their_own_and_leave_the_rest_alone(layer, x, packings, backend):
    assert_right(layer, x)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight.add_(1)
    assert_right(other, x)
    assert_right(layer, x)
    assert len(packings) == 2


def test_each_algorithm_has_its_own(layer, x, packings, backend):
    assert_right(layer, x)
    for _ in range(2):
        y = sx.ops.conv3x3(x, layer.weight, algorithm="winograd")
        torch.testing.assert_close(y, sx.ops.conv3x3(x, layer.weight, algorithm="direct"), rtol=1e-4, atol=1e-4)
    assert len(packings) == 2


def test_what_was_packed_before_a_change_is_let_go(layer, x, backend):
    sx.ops.conv3x3(x, layer.weight, algorithm="direct")
    with torch.no_grad():
        layer.weight.mul_(2)
    sx.ops.conv3x3(x, layer.weight, algorithm="winograd")
    assert len(packed._entries[layer.weight._cdata]) == 1


def test_packed_weights_go_with_their_parameter(layer, x, backend):
    for _ in range(3):
        assert_right(torch.nn.Conv2d(5, 7, 3, bias=False).to(x.device), x)
    gc.collect()
    assert_right(layer, x)  # with PyTorch 2.0 to 2.2 what is left is let go here
    assert layer.weight._cdata in packed._entries
    assert all(entry.is_alive() for entries in packed._entries.values() for entry in entries.values())


def test_a_weight_without_a_version_is_not_kept(x, backend):
    with torch.inference_mode():
        layer = torch.nn.Conv2d(5, 7, 3, bias=False).to(x.device)
        before = len(packed._entries)
        assert_right(layer, x)
        layer.weight.mul_(2)
        assert_right(layer, x)
    assert len(packed._entries) == before
