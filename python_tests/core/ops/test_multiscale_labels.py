"""multiscale_mean's labels: leaving out classes that can't win over a warp's pixels changes none of them."""

import pytest
import torch
import torch.nn.functional as F

import swiftnet_ext as sx

from .operator_case import FORMATS, in_format

SIZE = (36, 52)  # several tiles, none of the last ones full


def smooth(classes, count, seed=0):
    """Maps as of a trained network: regions with one class ahead, borders where two tie, and ties to the last bit."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 6 * torch.randn(2, classes, 3, 4, generator=generator)
    sizes = [(9, 13), (7, 10), (11, 16), (5, 7)][:count]
    maps = [F.interpolate(coarse, s, mode="bilinear", align_corners=False) for s in sizes]
    for m in maps:
        m += 0.01 * torch.randn(m.shape, generator=generator)
        m[:, classes // 2] = m[:, 0]  # a tie everywhere
        m[:, classes - 1] = m[:, 1] * (1 + 2.0**-22)  # and nearly one
    return maps


def rough(classes, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, classes, *s, generator=generator) for s in [(9, 13), (36, 52), (80, 30), (5, 7)][:count]]


def regions(classes, count, seed=0):
    """Flat regions of a class each, over which maps disagree, the first ones the surest."""
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for m, (h, w) in enumerate([(9, 13), (7, 10), (11, 16), (5, 7)][:count]):
        ahead = torch.randint(classes, (2, -(-h // 3), -(-w // 3)), generator=generator)
        ahead = F.one_hot(ahead, classes).permute(0, 3, 1, 2).float() * (8.0 - 2 * m)
        maps.append(ahead.repeat_interleave(3, 2).repeat_interleave(3, 3)[:, :, :h, :w].contiguous())
    return maps


def argmax(mean):
    labels = torch.zeros(mean.shape[0], *mean.shape[2:], dtype=torch.uint8, device=mean.device)
    best = mean[:, 0].clone()
    for c in range(1, mean.shape[1]):  # torch.argmax names no class of a tie
        labels[mean[:, c] > best] = c
        best = torch.max(best, mean[:, c])
    labels[torch.isnan(mean).any(1)] = 255
    return labels


# dividing the sums by 1, 2 or 4 maps is exact, so that the largest mean is the largest sum
@pytest.mark.kernels_only
@pytest.mark.parametrize("draw", [smooth, rough, regions], ids=lambda f: f.__name__)
@pytest.mark.parametrize("classes, count", [(2, 4), (19, 4), (32, 1), (33, 2), (40, 1), (255, 1)])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_labels_are_the_argmax_of_the_mean(classes, count, draw, memory_format, backend, device):
    for order in ("softmax_then_resize", "resize_then_softmax"):
        if order == "resize_then_softmax" and count == 1:
            continue  # those of the resized logits
        maps = [in_format(m.to(device), memory_format) for m in draw(classes, count)]
        labels = sx.ops.multiscale_mean(maps, SIZE, order=order, reduce="argmax")
        assert torch.equal(labels, argmax(sx.ops.multiscale_mean(maps, SIZE, order=order)))
        halves = [m.to(torch.bfloat16 if backend == "cpu" else torch.float16) for m in maps]
        labels = sx.ops.multiscale_mean(halves, SIZE, order=order, reduce="argmax")
        mean = sx.ops.multiscale_mean([m.float() for m in halves], SIZE, order=order)
        assert torch.equal(labels, argmax(mean))


@pytest.mark.parametrize("classes", [3, 19, 40])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_labels_of_resized_logits_have_no_differing_pixel(classes, memory_format, backend, device):
    """Small integers at twice or four times the size: every product and sum is exact, and ties are many."""
    generator = torch.Generator().manual_seed(classes)
    patches = torch.randint(-4, 5, (2, classes, 3, 3), generator=generator).float()
    for logits in (patches.repeat_interleave(4, 2).repeat_interleave(5, 3), patches):
        logits = in_format(logits.to(device), memory_format)
        for factor in (1, 2, 4):
            size = (factor * logits.shape[2], factor * logits.shape[3])
            for x in (logits, logits.to(torch.bfloat16 if backend == "cpu" else torch.float16)):
                labels = sx.ops.multiscale_mean([x], size, order="resize_then_softmax", reduce="argmax")
                resized = F.interpolate(logits.double(), size, mode="bilinear", align_corners=False)
                assert torch.equal(labels, argmax(resized))


@pytest.mark.parametrize("special", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("classes", [4, 40])
@pytest.mark.parametrize("order", ["softmax_then_resize", "resize_then_softmax"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_class_far_behind_still_counts_where_it_is_not_finite(order, count, classes, special, backend, device):
    maps = []
    for h, w in [(9, 13), (18, 26)][:count]:
        x = torch.zeros(1, classes, h, w, device=device)
        x[:, 1] = 20.0
        x[:, classes - 1] = -20.0
        x[0, classes - 1, h // 3, w // 3] = special
        x[0, 0, h // 2, w // 2] = special
        maps.append(x)
    labels = sx.ops.multiscale_mean(maps, SIZE, order=order, reduce="argmax")
    with sx.use_backend("reference"):
        expected = sx.ops.multiscale_mean(maps, SIZE, order=order, reduce="argmax")
    assert torch.equal(labels, expected)
    assert bool((labels == 1).any()) and (special == special or bool((labels == 255).any()))


def test_only_minus_infinity(backend, device):
    """The lowest class, unless the softmax is of nothing."""
    x = torch.full((1, 3, 5, 7), float("-inf"), device=device)
    labels = sx.ops.multiscale_mean([x], (5, 7), order="resize_then_softmax", reduce="argmax")
    assert bool((labels == 0).all())
    labels = sx.ops.multiscale_mean([x], (5, 7), reduce="argmax")
    assert bool((labels == 255).all())
